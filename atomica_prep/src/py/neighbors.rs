//! Neighbours of points in arrays.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::pools::pool;

type Pair<'py> = (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<i32>>);

/// Exact nearest neighbours within and between the segments of each complex.
#[pyfunction]
pub(super) fn nearest<'py>(
    py: Python<'py>,
    positions: PyReadonlyArray2<'py, f32>,
    complexes: PyReadonlyArray1<'py, i64>,
    segments: PyReadonlyArray1<'py, u8>,
    eligible: PyReadonlyArray1<'py, bool>,
    k: usize,
) -> PyResult<Pair<'py>> {
    // Copies, because other threads may write to the arrays while the lock is released.
    let positions = points(&positions)?;
    if positions.iter().flatten().any(|c| !c.is_finite()) {
        return Err(PyValueError::new_err("positions holds a value that is not finite"));
    }
    let complexes: Vec<i64> = complexes.as_array().iter().copied().collect();
    let segments: Vec<u8> = segments.as_array().iter().copied().collect();
    let eligible: Vec<bool> = eligible.as_array().iter().copied().collect();
    let rows = positions.len();
    let pool = pool(0)?;
    let (intra, inter) = py
        .detach(|| pool.install(|| crate::neighbors::nearest(&positions, &complexes, &segments, &eligible, k)))
        .map_err(PyValueError::new_err)?;
    let shaped =
        |list: Vec<i32>| Array2::from_shape_vec((rows, k), list).map_err(|e| PyValueError::new_err(e.to_string()));
    Ok((shaped(intra)?.into_pyarray(py), shaped(inter)?.into_pyarray(py)))
}

type Rows<'py> = Bound<'py, PyArray1<i32>>;

/// All pairs of points closer than a cutoff, each once: two arrays of rows, the lower row in the first.
///
/// The order of the pairs is the same for the same points, and no other. An exact distance of `cutoff` is outside.
#[pyfunction]
pub(super) fn pairs_within<'py>(
    py: Python<'py>,
    positions: PyReadonlyArray2<'py, f32>,
    cutoff: f64,
) -> PyResult<(Rows<'py>, Rows<'py>)> {
    let positions = points(&positions)?;
    let (first, second) =
        py.detach(|| crate::neighbors::pairs_within(&positions, cutoff)).map_err(PyValueError::new_err)?;
    Ok((first.into_pyarray(py), second.into_pyarray(py)))
}

/// Rows of three numbers.
pub(super) fn points(positions: &PyReadonlyArray2<'_, f32>) -> PyResult<Vec<[f32; 3]>> {
    if positions.shape().get(1) != Some(&3) {
        return Err(PyValueError::new_err(format!("positions has shape {:?}; expected [N, 3]", positions.shape())));
    }
    if let Ok(flat) = positions.as_slice() {
        return Ok(flat.as_chunks::<3>().0.to_vec());
    }
    let rows = positions.as_array();
    Ok(rows.rows().into_iter().filter_map(|row| Some([*row.first()?, *row.get(1)?, *row.get(2)?])).collect())
}

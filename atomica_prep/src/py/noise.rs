//! Noise on batches of records.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::neighbors::points;
use super::pools::pool;
use crate::perturb::{Batch, Complex, Draws, Noise, Options, RotationTable};
use crate::torsion::Torsions;

/// What `perturb` reads of a `records.Record`.
#[derive(FromPyObject)]
pub(super) struct RecordColumns<'py> {
    block_types: PyReadonlyArray1<'py, u16>,
    block_lengths: PyReadonlyArray1<'py, u32>,
    segment_ids: PyReadonlyArray1<'py, u8>,
    atom_types: PyReadonlyArray1<'py, u8>,
    positions: PyReadonlyArray2<'py, f32>,
    torsion_fixed: PyReadonlyArray1<'py, i32>,
    torsion_moving: PyReadonlyArray1<'py, i32>,
    torsion_sizes: PyReadonlyArray1<'py, u32>,
    torsion_atoms: PyReadonlyArray1<'py, i32>,
}

impl RecordColumns<'_> {
    /// Copies, because other threads may write to the arrays while the lock is released.
    fn owned(&self) -> PyResult<Complex> {
        Ok(Complex {
            block_types: self.block_types.as_array().to_vec(),
            block_lengths: self.block_lengths.as_array().to_vec(),
            segments: self.segment_ids.as_array().to_vec(),
            atom_types: self.atom_types.as_array().to_vec(),
            positions: points(&self.positions)?,
            torsions: Torsions {
                fixed: self.torsion_fixed.as_array().to_vec(),
                moving: self.torsion_moving.as_array().to_vec(),
                sizes: self.torsion_sizes.as_array().to_vec(),
                atoms: self.torsion_atoms.as_array().to_vec(),
            },
        })
    }
}

/// The numbers of a `noise.NoiseConfig`.
#[derive(FromPyObject)]
pub(super) struct NoiseNumbers {
    rotation_sigma: f64,
    rotation_max: f64,
    translation_sigma: f64,
    torsion_sigma: f64,
    gaussian_sigma: f64,
    mask_proportion: f64,
    lone_proportion: f64,
}

/// What chance would decide, given by a test.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(super) struct GivenDraws {
    pair: usize,
    lone: Option<u8>,
    segment: Option<u8>,
    rotation: Option<(usize, [f64; 3])>,
    translation: Option<(f64, [f64; 3])>,
    torsions: Vec<f64>,
    gaussian: Option<(f64, Vec<[f64; 3]>)>,
    masked: Vec<usize>,
}

/// Crops, perturbs and masks a batch, and finds the neighbours of what results; see `noise.perturb`.
///
/// Raises ValueError with the number of the complex and the reason.
#[pyfunction]
#[pyo3(signature = (records, config, seeds, neighbors, max_blocks, unknown_is_global, draws=None))]
#[allow(clippy::too_many_arguments, reason = "one call for the whole work")]
pub(super) fn perturb<'py>(
    py: Python<'py>,
    records: Vec<RecordColumns<'py>>,
    config: NoiseNumbers,
    seeds: PyReadonlyArray1<'py, u64>,
    neighbors: usize,
    max_blocks: Option<usize>,
    unknown_is_global: bool,
    draws: Option<Vec<GivenDraws>>,
) -> PyResult<Bound<'py, PyDict>> {
    let seeds = seeds.as_array().to_vec();
    if seeds.len() != records.len() || draws.as_ref().is_some_and(|d| d.len() != records.len()) {
        return Err(PyValueError::new_err(format!("{} records, but {} seeds", records.len(), seeds.len())));
    }
    let complexes = records.iter().map(RecordColumns::owned).collect::<PyResult<Vec<Complex>>>()?;
    drop(records);
    let draws: Option<Vec<Draws>> = draws.map(|all| {
        let of = |d: GivenDraws| Draws {
            pair: d.pair,
            lone: d.lone,
            segment: d.segment,
            rotation: d.rotation,
            translation: d.translation,
            torsions: d.torsions,
            gaussian: d.gaussian,
            masked: d.masked,
        };
        all.into_iter().map(of).collect()
    });
    let options = Options {
        noise: Noise {
            rotation_sigma: config.rotation_sigma,
            rotation_max: config.rotation_max,
            translation_sigma: config.translation_sigma,
            torsion_sigma: config.torsion_sigma,
            gaussian_sigma: config.gaussian_sigma,
            mask_proportion: config.mask_proportion,
            lone_proportion: config.lone_proportion,
        },
        neighbors,
        max_blocks,
        unknown_is_global,
    };
    let pool = pool(0)?;
    let batch = py
        .detach(|| pool.install(|| crate::perturb::perturb(complexes, &seeds, draws.as_deref(), &options)))
        .map_err(|refused| PyValueError::new_err((refused.complex, refused.reason)))?;
    columns_of(py, batch, neighbors)
}

/// The columns of a perturbed batch, each handed over as it is.
fn columns_of(py: Python<'_>, batch: Batch, neighbors: usize) -> PyResult<Bound<'_, PyDict>> {
    fn shaped<T: numpy::Element>(
        py: Python<'_>,
        values: Vec<T>,
        shape: (usize, usize),
    ) -> PyResult<Bound<'_, PyArray2<T>>> {
        let array = Array2::from_shape_vec(shape, values);
        Ok(array.map_err(|e| PyValueError::new_err(e.to_string()))?.into_pyarray(py))
    }
    let rows = PyDict::new(py);
    let (atoms, blocks) = (batch.atom_types.len(), batch.block_types.len());
    macro_rules! set {
        ($($name:ident),*) => { $(rows.set_item(stringify!($name), batch.$name.into_pyarray(py))?;)* };
    }
    macro_rules! set_points {
        ($($name:ident),*) => {
            $(
                let shape = (batch.$name.len(), 3);
                rows.set_item(stringify!($name), shaped(py, batch.$name.into_flattened(), shape)?)?;
            )*
        };
    }
    macro_rules! set_lists {
        ($($name:ident of $rows:ident),*) => {
            $(rows.set_item(stringify!($name), shaped(py, batch.$name, ($rows, neighbors))?)?;)*
        };
    }
    set!(atom_types, block_types, block_lengths, segments, block_counts, kept_blocks, cropped, masked, mask_labels);
    set!(lone, absent_types, absent_counts, touching);
    set!(segment, translation_eps, torsion_fixed, torsion_moving, torsion_angles, torsion_score, atom_eps);
    set_points!(positions, rotation, rotation_score, translation_score, atom_score);
    set_lists!(atom_intra of atoms, atom_inter of atoms, block_intra of blocks, block_inter of blocks);
    Ok(rows)
}

/// Derivative of the log-density of the wrapped normal distribution of width `sigma` at each angle, per rad.
#[pyfunction]
pub(super) fn torsion_score<'py>(
    py: Python<'py>,
    angles: PyReadonlyArray1<'py, f64>,
    sigma: f64,
) -> Bound<'py, PyArray1<f64>> {
    let scores: Vec<f64> = angles.as_array().iter().map(|a| crate::perturb::torsion_score(*a, sigma)).collect();
    scores.into_pyarray(py)
}

type Columns<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>);

/// Angles of random rotations, their probabilities, and the derivative of the log-density there, per rad.
#[pyfunction]
pub(super) fn rotation_table(py: Python<'_>, sigma: f64, largest: f64) -> Columns<'_> {
    let RotationTable { angles, probabilities, scores, .. } = RotationTable::new(sigma, largest);
    (angles.into_pyarray(py), probabilities.into_pyarray(py), scores.into_pyarray(py))
}

//! The convolution on arrays.

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::pools::pool;

type CouplingTable = ((usize, usize), Vec<(usize, usize, usize, f32)>);
type PathTable = (usize, usize, usize, usize, usize);
type TargetTable = (usize, usize, usize, usize, usize, f32, Vec<PathTable>);

/// What a convolution reads, under these names in a dictionary; shapes as in `crate::convolution::Arguments`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct ConvolutionArguments<'py> {
    x: PyReadonlyArray2<'py, f32>,
    y: PyReadonlyArray2<'py, f32>,
    hidden: PyReadonlyArray2<'py, f32>,
    sender: PyReadonlyArray1<'py, i64>,
    first_edge: Vec<usize>,
    weights: Vec<PyReadonlyArray3<'py, f32>>,
}

impl ConvolutionArguments<'_> {
    fn weights(&self) -> PyResult<Vec<&[f32]>> {
        Ok(self.weights.iter().map(|w| w.as_slice()).collect::<Result<Vec<_>, _>>()?)
    }

    fn borrow<'a>(&'a self, weights: &'a [&'a [f32]]) -> PyResult<crate::convolution::Arguments<'a>> {
        Ok(crate::convolution::Arguments {
            x: self.x.as_slice()?,
            y: self.y.as_slice()?,
            hidden: self.hidden.as_slice()?,
            sender: self.sender.as_slice()?,
            first_edge: &self.first_edge,
            weights,
        })
    }
}

/// A convolution on CPU in float32: see `atomica.nn.convolution`, which makes and calls it.
#[pyclass(frozen, module = "atomica._prep")]
pub(super) struct Convolution {
    inner: crate::convolution::Convolution,
}

#[pymethods]
impl Convolution {
    /// sizes: columns of features, output, harmonics and hidden features; then the tables of couplings and irreps.
    #[new]
    fn new(sizes: [usize; 4], couplings: Vec<CouplingTable>, targets: Vec<TargetTable>) -> PyResult<Self> {
        use crate::convolution::{Coupling, Path, Target};
        let couplings = couplings.into_iter().map(|(components, terms)| Coupling { components, terms }).collect();
        let targets = targets
            .into_iter()
            .map(|(components, coupled, channels, column, stride, scale, paths)| Target {
                components,
                coupled,
                channels,
                column,
                stride,
                scale,
                paths: paths
                    .into_iter()
                    .map(|(coupling, column, stride, channels, first)| Path {
                        coupling,
                        column,
                        stride,
                        channels,
                        first,
                    })
                    .collect(),
            })
            .collect();
        let inner = crate::convolution::Convolution::new(sizes, couplings, targets).map_err(PyValueError::new_err)?;
        Ok(Self { inner })
    }

    /// Output rows [M, D_out].
    fn forward<'py>(
        &self,
        py: Python<'py>,
        given: ConvolutionArguments<'py>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let weights = given.weights()?;
        let borrowed = given.borrow(&weights)?;
        let pool = pool(threads)?;
        let out = py.detach(|| pool.install(|| self.inner.forward(&borrowed))).map_err(PyValueError::new_err)?;
        matrix(py, out, (given.first_edge.len().saturating_sub(1), self.inner.outputs()))
    }

    /// Gradients of features, harmonics (None unless wanted), hidden features, and the weights (flat).
    #[allow(clippy::type_complexity, reason = "one part for each of the operator's arguments")]
    fn backward<'py>(
        &self,
        py: Python<'py>,
        given: ConvolutionArguments<'py>,
        out_grad: PyReadonlyArray2<'py, f32>,
        want_y: bool,
        threads: usize,
    ) -> PyResult<(
        Bound<'py, PyArray2<f32>>,
        Option<Bound<'py, PyArray2<f32>>>,
        Bound<'py, PyArray2<f32>>,
        Vec<Bound<'py, PyArray1<f32>>>,
    )> {
        let weights = given.weights()?;
        let borrowed = given.borrow(&weights)?;
        let (pool, out_grad) = (pool(threads)?, out_grad.as_slice()?);
        let found = py
            .detach(|| pool.install(|| self.inner.backward(&borrowed, out_grad, want_y)))
            .map_err(PyValueError::new_err)?;
        Ok((
            matrix(py, found.x, given.x.as_array().dim())?,
            found.y.map(|of_y| matrix(py, of_y, given.y.as_array().dim())).transpose()?,
            matrix(py, found.hidden, given.hidden.as_array().dim())?,
            found.weights.into_iter().map(|w| w.into_pyarray(py)).collect(),
        ))
    }
}

/// A matrix out of its values.
fn matrix(py: Python<'_>, values: Vec<f32>, shape: (usize, usize)) -> PyResult<Bound<'_, PyArray2<f32>>> {
    Array2::from_shape_vec(shape, values)
        .map(|array| array.into_pyarray(py))
        .map_err(|error| PyValueError::new_err(error.to_string()))
}

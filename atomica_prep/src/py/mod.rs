//! The module `atomica._prep`: the only folder that knows Python.

mod command;
mod convolution;
mod error;
mod index;
mod neighbors;
mod noise;
mod pools;
mod structure;

use pyo3::prelude::*;

use command::{BuildOptions, Summary};
use convolution::Convolution;
use error::{AtomicaError, IndexFileError, ShardError, StructureError};
use structure::{Sites, Structure};

use crate::dataset::{SCHEMA_VERSION, VERSION};

/// Block vocabulary in index order (150 entries).
#[pyfunction]
fn block_symbols() -> Vec<&'static str> {
    crate::vocab::block_symbols()
}

/// Atom vocabulary in index order (121 entries).
#[pyfunction]
fn atom_symbols() -> Vec<&'static str> {
    crate::vocab::atom_symbols()
}

/// The Rust part of atomica: reading structures, cutting interfaces, nearest neighbours, noise.
#[pymodule]
fn _prep(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(command::run, module)?)?;
    module.add_function(wrap_pyfunction!(command::build, module)?)?;
    module.add_function(wrap_pyfunction!(index::read_index, module)?)?;
    module.add_function(wrap_pyfunction!(neighbors::nearest, module)?)?;
    module.add_function(wrap_pyfunction!(neighbors::pairs_within, module)?)?;
    module.add_function(wrap_pyfunction!(noise::perturb, module)?)?;
    module.add_function(wrap_pyfunction!(noise::torsion_score, module)?)?;
    module.add_function(wrap_pyfunction!(noise::rotation_table, module)?)?;
    module.add_function(wrap_pyfunction!(structure::read_structure, module)?)?;
    module.add_function(wrap_pyfunction!(structure::read_sites, module)?)?;
    module.add_class::<Convolution>()?;
    module.add_function(wrap_pyfunction!(block_symbols, module)?)?;
    module.add_function(wrap_pyfunction!(atom_symbols, module)?)?;
    module.add_class::<Structure>()?;
    module.add_class::<Sites>()?;
    module.add_class::<BuildOptions>()?;
    module.add_class::<Summary>()?;
    module.add("SCHEMA_VERSION", SCHEMA_VERSION)?;
    module.add("VERSION", VERSION)?;
    module.add("AtomicaError", py.get_type::<AtomicaError>())?;
    module.add("StructureError", py.get_type::<StructureError>())?;
    module.add("IndexFileError", py.get_type::<IndexFileError>())?;
    module.add("ShardError", py.get_type::<ShardError>())
}

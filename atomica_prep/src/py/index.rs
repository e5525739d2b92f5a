//! The texts of an index, for the commands of Python that share out or learn from its rows.

use std::path::PathBuf;

use pyo3::prelude::*;

use super::error::to_python;
use crate::index::Index;

/// An index as `atomica-prep build-graphs` reads it: names of its columns, and a text of each for every row.
///
/// Fields may be parted by commas, semicolons or tabs. Raises `IndexFileError` for a file that is no index.
#[pyfunction]
pub(super) fn read_index(py: Python<'_>, path: PathBuf) -> PyResult<(Vec<String>, Vec<Vec<String>>)> {
    let index = Index::open(&path).map_err(|error| to_python(py, &error))?;
    Ok((index.header().to_vec(), index.texts()))
}

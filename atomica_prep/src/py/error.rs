//! Errors as Python raises them.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use crate::error::{Error, Stage};

create_exception!(atomica._prep, AtomicaError, PyException, "Any error of the package.");
create_exception!(atomica._prep, StructureError, AtomicaError, "A structure file, or the interface asked of it.");
create_exception!(atomica._prep, IndexFileError, AtomicaError, "An index file or one of its rows.");
create_exception!(atomica._prep, ShardError, AtomicaError, "Writing or reading a folder of graphs.");

/// The one conversion of errors. Fields: `code`, `stage`, `file`, `line`, `column`.
pub(super) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let message = error.to_string();
    let raised = match error.stage() {
        Stage::Usage => AtomicaError::new_err(message),
        Stage::Index => IndexFileError::new_err(message),
        Stage::Read | Stage::Interface => StructureError::new_err(message),
        Stage::Shard => ShardError::new_err(message),
    };
    let value = raised.value(py);
    let set = || -> PyResult<()> {
        value.setattr("code", error.code())?;
        value.setattr("stage", <&str>::from(error.stage()))?;
        value.setattr("file", error.file())?;
        value.setattr("line", error.line())?;
        value.setattr("column", error.column())
    };
    match set() {
        Ok(()) => raised,
        Err(other) => other,
    }
}

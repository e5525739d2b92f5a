//! The module `atomica._prep`: the only file that knows Python.

use std::path::Path;
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::Duration;

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Error, Stage};
use crate::pipeline::Stop;

create_exception!(atomica._prep, AtomicaError, PyException, "Any error of the package.");
create_exception!(atomica._prep, StructureError, AtomicaError, "A structure file, or the interface asked of it.");
create_exception!(atomica._prep, IndexFileError, AtomicaError, "An index file or one of its rows.");
create_exception!(atomica._prep, ShardError, AtomicaError, "Writing or reading a folder of graphs.");

/// The one conversion of errors. Fields: `code`, `stage`, `file`, `line`, `column`.
fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let message = error.to_string();
    let (raised, stage) = match error.stage() {
        Stage::Usage => (AtomicaError::new_err(message), "usage"),
        Stage::Index => (IndexFileError::new_err(message), "index"),
        Stage::Read => (StructureError::new_err(message), "read"),
        Stage::Interface => (StructureError::new_err(message), "interface"),
        Stage::Shard => (ShardError::new_err(message), "shard"),
    };
    let value = raised.value(py);
    let set = || -> PyResult<()> {
        value.setattr("code", error.code())?;
        value.setattr("stage", stage)?;
        value.setattr("file", error.file())?;
        value.setattr("line", error.line())?;
        value.setattr("column", error.column())
    };
    match set() {
        Ok(()) => raised,
        Err(other) => other,
    }
}

/// Run the command line `atomica-prep` and give its exit code.
///
/// Ctrl-C ends the work cleanly; then the code is 130.
#[pyfunction]
fn run(py: Python<'_>, argv: Vec<String>) -> PyResult<u8> {
    let stop = Stop::default();
    let (send, receive) = channel();
    let worker_stop = stop.clone();
    // Another thread, so that this one can hear of signals, which Python gives to its main thread only.
    let worker = std::thread::spawn(move || {
        let _ = send.send(crate::cli::run(&argv, &worker_stop));
    });
    let receive = std::sync::Mutex::new(receive);
    let code = loop {
        let heard = py.detach(|| match receive.lock() {
            Ok(receive) => receive.recv_timeout(Duration::from_millis(50)),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match heard {
            Ok(code) => break Some(code),
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = py.check_signals() {
                    stop.request();
                    if !error.is_instance_of::<PyKeyboardInterrupt>(py) {
                        let _ = py.detach(|| worker.join());
                        return Err(error);
                    }
                }
            }
        }
    };
    let joined = py.detach(|| worker.join());
    match (code, joined) {
        (Some(code), Ok(())) => Ok(code),
        _ => Err(AtomicaError::new_err("atomica-prep ended without a result; this is a fault of the program")),
    }
}

type Pair<'py> = (Bound<'py, PyArray2<i32>>, Bound<'py, PyArray2<i32>>);

/// Exact nearest neighbours within and between the segments of each complex.
#[pyfunction]
fn nearest<'py>(
    py: Python<'py>,
    positions: PyReadonlyArray2<'py, f32>,
    complexes: PyReadonlyArray1<'py, i64>,
    segments: PyReadonlyArray1<'py, u8>,
    eligible: PyReadonlyArray1<'py, bool>,
    k: usize,
) -> PyResult<Pair<'py>> {
    if positions.shape().get(1) != Some(&3) {
        return Err(PyValueError::new_err(format!("positions has shape {:?}; expected [N, 3]", positions.shape())));
    }
    // Copies, because other threads may write to the arrays while the lock is released.
    let positions: Vec<[f32; 3]> = positions
        .as_array()
        .rows()
        .into_iter()
        .filter_map(|row| Some([*row.first()?, *row.get(1)?, *row.get(2)?]))
        .collect();
    if positions.iter().flatten().any(|c| !c.is_finite()) {
        return Err(PyValueError::new_err("positions holds a value that is not finite"));
    }
    let complexes: Vec<i64> = complexes.as_array().iter().copied().collect();
    let segments: Vec<u8> = segments.as_array().iter().copied().collect();
    let eligible: Vec<bool> = eligible.as_array().iter().copied().collect();
    let rows = positions.len();
    let (intra, inter) = py
        .detach(|| crate::neighbors::nearest(&positions, &complexes, &segments, &eligible, k))
        .map_err(PyValueError::new_err)?;
    let shaped =
        |list: Vec<i32>| Array2::from_shape_vec((rows, k), list).map_err(|e| PyValueError::new_err(e.to_string()));
    Ok((shaped(intra)?.into_pyarray(py), shaped(inter)?.into_pyarray(py)))
}

/// Atoms of the first model after the choice of alternate locations, one entry per atom in each column.
#[pyfunction]
fn read_structure<'py>(py: Python<'py>, path: &str) -> PyResult<Bound<'py, PyDict>> {
    let source = py.detach(|| crate::read::read_file(Path::new(path), path)).map_err(|error| to_python(py, &error))?;
    let s = &source.structure;
    let atoms = s.positions.len();
    let mut chain = Vec::with_capacity(atoms);
    let mut resname = Vec::with_capacity(atoms);
    let mut resnum: Vec<i32> = Vec::with_capacity(atoms);
    let mut icode = Vec::with_capacity(atoms);
    let mut hetero: Vec<bool> = Vec::with_capacity(atoms);
    for residue in &s.residues {
        for _ in residue.start..residue.end {
            chain.push(s.chains.get(residue.chain).map_or("", String::as_str));
            resname.push(residue.name.as_str());
            resnum.push(residue.resnum);
            icode.push(residue.icode.as_str());
            hetero.push(residue.hetero);
        }
    }
    let names: Vec<&str> = s.atom_names.iter().map(crate::read::Name::as_str).collect();
    let x = Array2::from_shape_vec((atoms, 3), s.positions.as_flattened().to_vec())
        .map_err(|e| PyValueError::new_err(e.to_string()))?;
    let columns = PyDict::new(py);
    columns.set_item("chain", chain)?;
    columns.set_item("resname", resname)?;
    columns.set_item("resnum", resnum.into_pyarray(py))?;
    columns.set_item("icode", icode)?;
    columns.set_item("atom_name", names)?;
    columns.set_item("element", s.elements.clone().into_pyarray(py))?;
    columns.set_item("x", x.into_pyarray(py))?;
    columns.set_item("hetero", hetero.into_pyarray(py))?;
    columns.set_item("sha256", &source.sha256)?;
    Ok(columns)
}

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

/// The Rust part of atomica: reading structures, cutting interfaces, nearest neighbours.
#[pymodule]
fn _prep(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(run, module)?)?;
    module.add_function(wrap_pyfunction!(nearest, module)?)?;
    module.add_function(wrap_pyfunction!(read_structure, module)?)?;
    module.add_function(wrap_pyfunction!(block_symbols, module)?)?;
    module.add_function(wrap_pyfunction!(atom_symbols, module)?)?;
    module.add("SCHEMA_VERSION", crate::SCHEMA_VERSION)?;
    module.add("VERSION", crate::VERSION)?;
    module.add("AtomicaError", py.get_type::<AtomicaError>())?;
    module.add("StructureError", py.get_type::<StructureError>())?;
    module.add("IndexFileError", py.get_type::<IndexFileError>())?;
    module.add("ShardError", py.get_type::<ShardError>())
}

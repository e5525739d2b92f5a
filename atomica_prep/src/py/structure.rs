//! Structures as columns.

use std::collections::HashMap;
use std::path::PathBuf;

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, ToPyArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};

use super::error::to_python;
use crate::interface::{Role, Subject};
use crate::read::{self, Ids, Strictness};
use crate::structure::{self, Name, Repaired, Residue, Source};
use crate::vocab;

/// What a structure is read from.
#[derive(FromPyObject)]
pub(super) enum Input {
    Bytes(PyBackedBytes),
    Path(PathBuf),
}

/// The first model of a structure file after the choice of alternate locations. Made by `read_structure`; the one of
/// `Sites` has all models and all alternate locations.
///
/// `len()` is the number of atoms. The properties are columns with one entry per atom; each is made anew when it is
/// asked for, so keep what is used twice.
#[pyclass(frozen, module = "atomica._prep")]
pub(super) struct Structure {
    structure: structure::Structure,
    /// SHA-256 of the file as it is on disk, hex; None for a structure that was read from bytes.
    #[pyo3(get)]
    sha256: Option<String>,
}

type Column<'py, T> = Bound<'py, PyArray1<T>>;
type TextColumn<'py> = PyResult<Bound<'py, PyAny>>;

impl Structure {
    /// What the residues are, as interfaces take them.
    fn roles(&self) -> Vec<Role> {
        Subject::new(Source { structure: self.structure.clone(), sha256: String::new() }).roles().to_vec()
    }

    /// A value of every residue, repeated for its atoms.
    fn spread<T: Copy>(&self, mut value: impl FnMut(&Residue) -> T) -> Vec<T> {
        let mut column = Vec::with_capacity(self.structure.positions.len());
        for residue in &self.structure.residues {
            column.resize(residue.end, value(residue));
        }
        column
    }
}

/// An array of texts by their places in a list: few are distinct, and a Python string costs more than an index.
fn texts<'py>(py: Python<'py>, distinct: Vec<&str>, places: Vec<usize>) -> TextColumn<'py> {
    let numpy = py.import("numpy")?;
    let distinct = numpy.call_method1("array", (distinct, numpy.getattr("str_")?))?;
    distinct.get_item(places.into_pyarray(py))
}

fn names<'py>(py: Python<'py>, names: &[Name]) -> TextColumn<'py> {
    let mut known: HashMap<&Name, usize> = HashMap::new();
    let mut distinct: Vec<&str> = Vec::new();
    let mut places = Vec::with_capacity(names.len());
    for name in names {
        places.push(*known.entry(name).or_insert_with(|| {
            distinct.push(name.as_str());
            distinct.len() - 1
        }));
    }
    texts(py, distinct, places)
}

#[pymethods]
impl Structure {
    fn __len__(&self) -> usize {
        self.structure.positions.len()
    }

    fn __repr__(&self) -> String {
        let s = &self.structure;
        let (atoms, residues, chains) = (s.positions.len(), s.residues.len(), s.chains.len());
        format!("Structure({atoms} atoms, {residues} residues, {chains} chains)")
    }

    /// Coordinates, `[N, 3]` float64, Å.
    #[getter]
    fn x<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let x = Array2::from_shape_vec((self.__len__(), 3), self.structure.positions.as_flattened().to_vec())
            .map_err(|e| PyValueError::new_err(e.to_string()))?;
        Ok(x.into_pyarray(py))
    }

    /// Atomic numbers, `[N]` uint8; 0 where the element is not known.
    #[getter]
    fn element<'py>(&self, py: Python<'py>) -> Column<'py, u8> {
        self.structure.elements.to_pyarray(py)
    }

    /// Atom names, `[N]` str.
    #[getter]
    fn atom_name<'py>(&self, py: Python<'py>) -> TextColumn<'py> {
        names(py, &self.structure.atom_names)
    }

    /// Author's chain ids, `[N]` str.
    #[getter]
    fn chain<'py>(&self, py: Python<'py>) -> TextColumn<'py> {
        let chains = self.structure.chains.iter().map(String::as_str).collect();
        texts(py, chains, self.spread(|residue| residue.chain))
    }

    /// Component ids, `[N]` str.
    #[getter]
    fn resname<'py>(&self, py: Python<'py>) -> TextColumn<'py> {
        names(py, &self.spread(|residue| residue.name))
    }

    /// Author's residue numbers, `[N]` int32.
    #[getter]
    fn resnum<'py>(&self, py: Python<'py>) -> Column<'py, i32> {
        self.spread(|residue| residue.resnum).into_pyarray(py)
    }

    /// Insertion codes, `[N]` str, mostly empty.
    #[getter]
    fn icode<'py>(&self, py: Python<'py>) -> TextColumn<'py> {
        names(py, &self.spread(|residue| residue.icode))
    }

    /// Whether the residue is written as a hetero group, `[N]` bool.
    #[getter]
    fn hetero<'py>(&self, py: Python<'py>) -> Column<'py, bool> {
        self.spread(|residue| residue.hetero).into_pyarray(py)
    }

    /// Whether the residue is an amino acid or a nucleotide of a polymer, as interfaces take it, `[N]` bool.
    #[getter]
    fn polymer<'py>(&self, py: Python<'py>) -> Column<'py, bool> {
        let mut roles = self.roles().into_iter();
        self.spread(|_| roles.next().is_some_and(Role::in_polymer)).into_pyarray(py)
    }

    /// What interfaces take the residue for, `[N]` str: the symbol of its block (`block_symbols()`), `UNK` where nothing
    /// tells; empty for what is no part of a polymer.
    #[getter]
    fn block<'py>(&self, py: Python<'py>) -> TextColumn<'py> {
        let mut symbols = vocab::block_symbols();
        symbols.push("");
        let none = symbols.len() - 1;
        let mut roles = self.roles().into_iter();
        let places = self.spread(|_| roles.next().and_then(Role::block).map_or(none, usize::from));
        texts(py, symbols, places)
    }

    /// What was mended to read it: a dict for each kind, with `kind`, `count`, and of the first one `line`, `column`
    /// (None where there is none) and `message`.
    #[getter]
    fn repairs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let entry = |repaired: &Repaired| {
            let entry = PyDict::new(py);
            entry.set_item("kind", repaired.kind.code())?;
            entry.set_item("count", repaired.count)?;
            entry.set_item("line", Some(repaired.first.line).filter(|l| *l > 0))?;
            entry.set_item("column", Some(repaired.first.column).filter(|c| *c > 0))?;
            entry.set_item("message", &repaired.first.what)?;
            Ok(entry)
        };
        self.structure.repairs.iter().map(entry).collect()
    }

    /// What became of the file's coordinate records: `records`, all of them; `atoms`, those that are here; `copies`,
    /// how many of these an assembly adds; and by reason the records that are no atoms, as `other-location` or
    /// `other-model`. The parts add up.
    #[getter]
    fn accounts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let accounts = PyDict::new(py);
        accounts.set_item("records", self.structure.accounts.records)?;
        accounts.set_item("atoms", self.__len__())?;
        accounts.set_item("copies", self.structure.accounts.copies)?;
        for why in structure::Unread::ALL {
            accounts.set_item(why.code(), self.structure.accounts.left(why))?;
        }
        Ok(accounts)
    }

    /// All columns by name.
    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        columns.set_item("chain", self.chain(py)?)?;
        columns.set_item("resname", self.resname(py)?)?;
        columns.set_item("resnum", self.resnum(py))?;
        columns.set_item("icode", self.icode(py)?)?;
        columns.set_item("atom_name", self.atom_name(py)?)?;
        columns.set_item("element", self.element(py))?;
        columns.set_item("x", self.x(py)?)?;
        columns.set_item("hetero", self.hetero(py))?;
        Ok(columns)
    }
}

/// Read the atoms of a structure file, or of the bytes of one.
///
/// `format` is an extension as a file's name has it: "pdb", "cif.gz", "bcif", … Without it the file's own decides;
/// for bytes it must be given. With `strict` nothing is mended; `label_ids` takes the archive's chain ids and residue
/// numbers instead of the author's (mmCIF and BinaryCIF); `assembly`, "1" or another number, makes that biological
/// assembly, "models" the one that the models of a PDB file are. Raises `StructureError`.
#[pyfunction]
#[pyo3(signature = (source, format=None, *, strict=false, max_decompressed=None, label_ids=false, assembly=None))]
pub(super) fn read_structure(
    py: Python<'_>,
    source: Input,
    format: Option<&str>,
    strict: bool,
    max_decompressed: Option<u64>,
    label_ids: bool,
    assembly: Option<&str>,
) -> PyResult<Structure> {
    let options = options(strict, max_decompressed, label_ids, assembly)?;
    let (structure, sha256) = match source {
        Input::Path(path) => {
            let shown = path.to_string_lossy();
            let read = py.detach(|| match format {
                None => read::read_file(&path, &shown, options),
                Some(extension) => read::read_file_as(&path, extension, &shown, options),
            });
            read.map(|source| (source.structure, Some(source.sha256)))
        }
        Input::Bytes(bytes) => {
            let format = format.ok_or_else(|| {
                PyValueError::new_err("bytes do not say their format; give format=\"pdb\", \"cif\", \"bcif.gz\", …")
            })?;
            py.detach(|| read::read_bytes(&bytes, format, "<bytes>", options)).map(|structure| (structure, None))
        }
    }
    .map_err(|error| to_python(py, &error))?;
    Ok(Structure { structure, sha256 })
}

fn options(
    strict: bool,
    max_decompressed: Option<u64>,
    label_ids: bool,
    assembly: Option<&str>,
) -> PyResult<read::Options> {
    let usual = read::Options::default();
    let wrong = |reason: String| PyValueError::new_err(format!("assembly {reason}"));
    Ok(read::Options {
        strictness: if strict { Strictness::Strict } else { Strictness::Lenient },
        max_decompressed: max_decompressed.unwrap_or(usual.max_decompressed),
        ids: if label_ids { Ids::Label } else { Ids::Author },
        assembly: assembly.map_or(Ok(usual.assembly), |text| text.parse().map_err(wrong))?,
    })
}

/// Every record of an atom in a structure file, in file order: all models, all alternate locations. Made by
/// `read_sites`; `len()` is the number of records.
#[pyclass(frozen, module = "atomica._prep")]
pub(super) struct Sites {
    sites: read::Sites,
}

#[pymethods]
impl Sites {
    fn __len__(&self) -> usize {
        self.sites.b_factors.len()
    }

    /// The records as the atoms of a `Structure`, each under the names that `read_structure` gives its residue.
    #[getter]
    fn atoms(&self) -> Structure {
        Structure { structure: self.sites.structure.clone(), sha256: None }
    }

    /// Whether a record is of the first model, `[N]` bool.
    #[getter]
    fn first_model<'py>(&self, py: Python<'py>) -> Column<'py, bool> {
        self.sites.first_model.to_pyarray(py)
    }

    /// Whether a record is an alternate location, `[N]` bool.
    #[getter]
    fn alternate<'py>(&self, py: Python<'py>) -> Column<'py, bool> {
        self.sites.alternate.to_pyarray(py)
    }

    /// B-factors, `[N]` float64, Å²; NaN where the file says none.
    #[getter]
    fn b_factor<'py>(&self, py: Python<'py>) -> Column<'py, f64> {
        self.sites.b_factors.to_pyarray(py)
    }

    /// The bytes of the file, unpacked, with other B-factors, `[N]` float64 from -99.99 to 999.99; all else stays as it
    /// is, byte for byte. Raises `AtomicaError` for values that do not fit.
    fn with_b_factors<'py>(
        &self,
        py: Python<'py>,
        values: PyReadonlyArray1<'py, f64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = self.sites.with_b_factors(&values.as_array().to_vec());
        made.map(|bytes| PyBytes::new(py, &bytes)).map_err(|error| to_python(py, &error))
    }
}

/// Read every record of an atom in a structure file, with its B-factor; see `read_structure`. Raises `StructureError`.
#[pyfunction]
#[pyo3(signature = (path, *, label_ids=false, max_decompressed=None))]
pub(super) fn read_sites(
    py: Python<'_>,
    path: PathBuf,
    label_ids: bool,
    max_decompressed: Option<u64>,
) -> PyResult<Sites> {
    let (shown, options) = (path.to_string_lossy(), options(false, max_decompressed, label_ids, None)?);
    let read = py.detach(|| read::read_sites(&path, &shown, options));
    read.map(|sites| Sites { sites }).map_err(|error| to_python(py, &error))
}

//! The module `atomica._prep`: the only file that knows Python.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use numpy::ndarray::Array2;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods,
    ToPyArray,
};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyDict;

use crate::error::{Error, Stage};
use crate::fragments::{Chemistry, Cut, Cutter, FragmentVocabulary, Fragments, Sketch};
use crate::perturb::{Batch, Complex, Draws, Noise, Options, RotationTable};
use crate::pipeline::Stop;
use crate::read::{self, Ids, Strictness};
use crate::torsion::Torsions;

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

/// What the thread that called from Python hears from the threads at work.
enum Message {
    Done(u8),
    Cut(Sketch, Sender<Result<Cut, String>>),
}

/// Hands molecules to the thread that called from Python, so that none of ours ever waits for its lock.
struct AskCaller(Sender<Message>);

impl Cutter for AskCaller {
    fn cut(&self, sketch: &Sketch) -> Result<Cut, String> {
        let (send, receive) = channel();
        let gone = || "the run is being ended".to_owned();
        self.0.send(Message::Cut(sketch.clone(), send)).map_err(|_| gone())?;
        receive.recv().map_err(|_| gone())?
    }
}

/// The Python object's `cut`, called with the lock held.
fn cut(fragments: &Bound<'_, PyAny>, s: &Sketch) -> PyResult<Cut> {
    let arguments = (&s.component, &s.names, s.elements.iter().map(|e| u32::from(*e)).collect::<Vec<u32>>(), &s.bonds);
    let optional = PyDict::new(fragments.py());
    optional.set_item("hydrogens", s.hydrogens.iter().map(|h| u32::from(*h)).collect::<Vec<u32>>())?;
    optional.set_item("near", &s.near)?;
    optional.set_item("smiles", &s.smiles)?;
    let (name, pieces): (String, Vec<(u16, Vec<u32>)>) =
        fragments.call_method("cut", arguments, Some(&optional))?.extract()?;
    let chemistry =
        Chemistry::of(&name).ok_or_else(|| PyValueError::new_err(format!("{name:?} is no kind of chemistry")))?;
    Ok(Cut { chemistry, pieces })
}

fn vocabulary(fragments: &Bound<'_, PyAny>) -> PyResult<FragmentVocabulary> {
    Ok(FragmentVocabulary {
        name: fragments.getattr("name")?.extract()?,
        sha256: fragments.getattr("sha256")?.extract()?,
        entries: fragments.getattr("entries")?.extract()?,
        block_types: fragments.getattr("block_types")?.extract()?,
    })
}

/// Run the command line `atomica-prep` and give its exit code.
///
/// `fragments` cuts the ligands where the arguments ask for it (`atomica.fragments.Cutter`); it is called in the
/// thread that called this. Ctrl-C ends the work cleanly; then the code is 130.
#[pyfunction]
#[pyo3(signature = (argv, fragments=None))]
fn run(py: Python<'_>, argv: Vec<String>, fragments: Option<Bound<'_, PyAny>>) -> PyResult<u8> {
    let stop = Stop::default();
    let (send, receive) = channel();
    let worker_stop = stop.clone();
    let cutter = Arc::new(AskCaller(send.clone()));
    let asked = match &fragments {
        Some(object) => Some(Fragments::new(vocabulary(object)?, cutter)),
        None => None,
    };
    // Another thread, so that this one can hear of signals, which Python gives to its main thread only.
    let worker = std::thread::spawn(move || {
        let code = crate::cli::run_with(&argv, &worker_stop, asked.as_ref());
        let _ = send.send(Message::Done(code));
    });
    let receive = std::sync::Mutex::new(receive);
    // What Python raised; the threads at work are told to stop, and are still answered until they have.
    let mut raised: Option<PyErr> = None;
    let mut interrupted = |error: PyErr| {
        stop.request();
        if !error.is_instance_of::<PyKeyboardInterrupt>(py) {
            raised.get_or_insert(error);
        }
    };
    let code = loop {
        let heard = py.detach(|| match receive.lock() {
            Ok(receive) => receive.recv_timeout(Duration::from_millis(50)),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match heard {
            Ok(Message::Done(code)) => break Some(code),
            Ok(Message::Cut(sketch, answer)) => {
                let made = match &fragments {
                    Some(object) if !stop.requested() => cut(object, &sketch).map_err(|error| {
                        // What the cutter says of its input goes to the ledger, anything else ends the run.
                        let said = error.value(py).to_string();
                        if !error.is_instance_of::<PyValueError>(py) {
                            interrupted(error);
                        }
                        said
                    }),
                    _ => Err("the run is being ended".to_owned()),
                };
                let _ = answer.send(made);
            }
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = py.check_signals() {
                    interrupted(error);
                }
            }
        }
    };
    let joined = py.detach(|| worker.join());
    if let Some(error) = raised {
        return Err(error);
    }
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
    // Copies, because other threads may write to the arrays while the lock is released.
    let positions = points(&positions)?;
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

type Rows<'py> = Bound<'py, PyArray1<i32>>;

/// All pairs of points closer than a cutoff, each once: two arrays of rows, the lower row in the first.
///
/// The order of the pairs is the same for the same points, and no other. An exact distance of `cutoff` is outside.
#[pyfunction]
fn pairs_within<'py>(
    py: Python<'py>,
    positions: PyReadonlyArray2<'py, f32>,
    cutoff: f64,
) -> PyResult<(Rows<'py>, Rows<'py>)> {
    let positions = points(&positions)?;
    let (first, second) =
        py.detach(|| crate::neighbors::pairs_within(&positions, cutoff)).map_err(PyValueError::new_err)?;
    Ok((first.into_pyarray(py), second.into_pyarray(py)))
}

/// What a structure is read from.
#[derive(FromPyObject)]
enum Input {
    Bytes(PyBackedBytes),
    Path(PathBuf),
}

/// The first model of a structure file after the choice of alternate locations. Made by `read_structure`.
///
/// `len()` is the number of atoms. The properties are columns with one entry per atom; each is made anew when it is
/// asked for, so keep what is used twice.
#[pyclass(frozen, module = "atomica._prep")]
struct Structure {
    structure: read::Structure,
    /// SHA-256 of the file as it is on disk, hex; None for a structure that was read from bytes.
    #[pyo3(get)]
    sha256: Option<String>,
}

type Column<'py, T> = Bound<'py, PyArray1<T>>;
type TextColumn<'py> = PyResult<Bound<'py, PyAny>>;

impl Structure {
    /// A value of every residue, repeated for its atoms.
    fn spread<T: Copy>(&self, value: impl Fn(&read::Residue) -> T) -> Vec<T> {
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

fn names<'py>(py: Python<'py>, names: &[read::Name]) -> TextColumn<'py> {
    let mut known: HashMap<&read::Name, usize> = HashMap::new();
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

    /// What was mended to read it: a dict for each kind, with `kind`, `count`, and of the first one `line`, `column`
    /// (None where there is none) and `message`.
    #[getter]
    fn repairs<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let entry = |repaired: &read::Repaired| {
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
/// numbers instead of the author's (mmCIF and BinaryCIF). Raises `StructureError`.
#[pyfunction]
#[pyo3(signature = (source, format=None, *, strict=false, max_decompressed=None, label_ids=false))]
fn read_structure(
    py: Python<'_>,
    source: Input,
    format: Option<&str>,
    strict: bool,
    max_decompressed: Option<u64>,
    label_ids: bool,
) -> PyResult<Structure> {
    let usual = read::Options::default();
    let options = read::Options {
        strictness: if strict { Strictness::Strict } else { Strictness::Lenient },
        max_decompressed: max_decompressed.unwrap_or(usual.max_decompressed),
        ids: if label_ids { Ids::Label } else { Ids::Author },
    };
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

/// What `perturb` reads of a `records.Record`.
#[derive(FromPyObject)]
struct RecordColumns<'py> {
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

/// Rows of three numbers.
fn points(positions: &PyReadonlyArray2<'_, f32>) -> PyResult<Vec<[f32; 3]>> {
    if positions.shape().get(1) != Some(&3) {
        return Err(PyValueError::new_err(format!("positions has shape {:?}; expected [N, 3]", positions.shape())));
    }
    if let Ok(flat) = positions.as_slice() {
        return Ok(flat.as_chunks::<3>().0.to_vec());
    }
    let rows = positions.as_array();
    Ok(rows.rows().into_iter().filter_map(|row| Some([*row.first()?, *row.get(1)?, *row.get(2)?])).collect())
}

/// The numbers of a `noise.NoiseConfig`.
#[derive(FromPyObject)]
struct NoiseNumbers {
    rotation_sigma: f64,
    rotation_max: f64,
    translation_sigma: f64,
    torsion_sigma: f64,
    gaussian_sigma: f64,
    mask_proportion: f64,
}

/// What chance would decide, given by a test.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct GivenDraws {
    pair: usize,
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
fn perturb<'py>(
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
        },
        neighbors,
        max_blocks,
        unknown_is_global,
    };
    let batch = py
        .detach(|| crate::perturb::perturb(complexes, &seeds, draws.as_deref(), &options))
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
    set!(segment, translation_eps, torsion_fixed, torsion_moving, torsion_angles, torsion_score, atom_eps);
    set_points!(positions, rotation, rotation_score, translation_score, atom_score);
    set_lists!(atom_intra of atoms, atom_inter of atoms, block_intra of blocks, block_inter of blocks);
    Ok(rows)
}

/// Derivative of the log-density of the wrapped normal distribution of width `sigma` at each angle, per rad.
#[pyfunction]
fn torsion_score<'py>(py: Python<'py>, angles: PyReadonlyArray1<'py, f64>, sigma: f64) -> Bound<'py, PyArray1<f64>> {
    let scores: Vec<f64> = angles.as_array().iter().map(|a| crate::perturb::torsion_score(*a, sigma)).collect();
    scores.into_pyarray(py)
}

type Columns<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>);

/// Angles of random rotations, their probabilities, and the derivative of the log-density there, per rad.
#[pyfunction]
fn rotation_table(py: Python<'_>, sigma: f64, largest: f64) -> Columns<'_> {
    let RotationTable { angles, probabilities, scores, .. } = RotationTable::new(sigma, largest);
    (angles.into_pyarray(py), probabilities.into_pyarray(py), scores.into_pyarray(py))
}

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

/// A convolution on CPU in float32: see `atomica.conv`, which makes and calls it.
#[pyclass(frozen, module = "atomica._prep")]
struct Convolution {
    inner: crate::convolution::Convolution,
}

/// Threads for the convolution, a pool for each number that was asked for.
fn pool(threads: usize) -> PyResult<Arc<rayon::ThreadPool>> {
    static POOLS: Mutex<BTreeMap<usize, Arc<rayon::ThreadPool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().map_err(|_| PyRuntimeError::new_err("an earlier convolution failed"))?;
    if let Some(pool) = pools.get(&threads) {
        return Ok(Arc::clone(pool));
    }
    let made = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let made = Arc::new(made.map_err(|error| PyRuntimeError::new_err(format!("cannot start threads: {error}")))?);
    pools.insert(threads, Arc::clone(&made));
    Ok(made)
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
    module.add_function(wrap_pyfunction!(run, module)?)?;
    module.add_function(wrap_pyfunction!(nearest, module)?)?;
    module.add_function(wrap_pyfunction!(pairs_within, module)?)?;
    module.add_function(wrap_pyfunction!(perturb, module)?)?;
    module.add_function(wrap_pyfunction!(torsion_score, module)?)?;
    module.add_function(wrap_pyfunction!(rotation_table, module)?)?;
    module.add_function(wrap_pyfunction!(read_structure, module)?)?;
    module.add_class::<Convolution>()?;
    module.add_function(wrap_pyfunction!(block_symbols, module)?)?;
    module.add_function(wrap_pyfunction!(atom_symbols, module)?)?;
    module.add_class::<Structure>()?;
    module.add("SCHEMA_VERSION", crate::SCHEMA_VERSION)?;
    module.add("VERSION", crate::VERSION)?;
    module.add("AtomicaError", py.get_type::<AtomicaError>())?;
    module.add("StructureError", py.get_type::<StructureError>())?;
    module.add("IndexFileError", py.get_type::<IndexFileError>())?;
    module.add("ShardError", py.get_type::<ShardError>())
}

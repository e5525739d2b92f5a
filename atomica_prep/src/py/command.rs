//! Builds and the command line, called from Python: signals, and molecules that Python cuts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::{to_python, AtomicaError};
use crate::build::Stop;
use crate::cli::{code_of, BuildGraphs, Engine};
use crate::dataset::Part;
use crate::error::Error;
use crate::fragments::{Chemistry, Cut, Cutter, FragmentVocabulary, Fragments, Sketch};

/// What the thread that called from Python hears from the threads at work.
enum Message<T> {
    Done(T),
    Cut(Sketch, Sender<Result<Cut, String>>),
}

/// Hands molecules to the thread that called from Python, so that none of ours ever waits for its lock.
struct AskCaller<T>(Sender<Message<T>>);

impl<T: Send> Cutter for AskCaller<T> {
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
    optional.set_item("perceive", s.perceive)?;
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

/// Do `work` in another thread, so that this one can hear of signals, which Python gives to its main thread only.
///
/// `fragments` cuts the ligands; it is called in the thread that called this. Gives the result, and whether Ctrl-C was
/// pressed; then the work has been told to stop. Raises what the signals or the cutter raise but that.
fn with_signals<T: Send + 'static>(
    py: Python<'_>,
    fragments: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Stop, Option<&Fragments>) -> T + Send + 'static,
) -> PyResult<(T, Option<PyErr>)> {
    let stop = Stop::default();
    let (send, receive) = channel();
    let worker_stop = stop.clone();
    let cutter = Arc::new(AskCaller(send.clone()));
    let asked = match fragments {
        Some(object) => Some(Fragments::new(vocabulary(object)?, cutter)),
        None => None,
    };
    let worker = std::thread::spawn(move || {
        let made = work(&worker_stop, asked.as_ref());
        let _ = send.send(Message::Done(made));
    });
    let receive = std::sync::Mutex::new(receive);
    // What Python raised; the threads at work are told to stop, and are still answered until they have.
    let mut raised: Option<PyErr> = None;
    let mut ended: Option<PyErr> = None;
    let mut interrupted = |error: PyErr| {
        stop.request();
        if error.is_instance_of::<PyKeyboardInterrupt>(py) {
            ended.get_or_insert(error);
        } else {
            raised.get_or_insert(error);
        }
    };
    let made = loop {
        let heard = py.detach(|| match receive.lock() {
            Ok(receive) => receive.recv_timeout(Duration::from_millis(50)),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        });
        match heard {
            Ok(Message::Done(made)) => break Some(made),
            Ok(Message::Cut(sketch, answer)) => {
                let made = match fragments {
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
    match (made, joined) {
        (Some(made), Ok(())) => Ok((made, ended)),
        _ => Err(AtomicaError::new_err("atomica-prep ended without a result; this is a fault of the program")),
    }
}

/// Run the command line `atomica-prep` and give its exit code.
///
/// `fragments` cuts the ligands where the arguments ask for it (`atomica.prep.fragments.Cutter`); it is called in the
/// thread that called this. Ctrl-C ends the work cleanly; then the code is 130.
#[pyfunction]
#[pyo3(signature = (argv, fragments=None))]
pub(super) fn run(py: Python<'_>, argv: Vec<String>, fragments: Option<Bound<'_, PyAny>>) -> PyResult<u8> {
    let work = move |stop: &Stop, fragments: Option<&Fragments>| crate::cli::run_with(&argv, stop, fragments);
    with_signals(py, fragments.as_ref(), work).map(|(code, _)| code)
}

/// What to build, from what and how: the options of `atomica-prep build-graphs`, with its defaults.
///
/// `inputs` are index files, with `discover` structure files and folders; none with `receptor`, into which the molecules
/// of the files `ligands` are docked. `shard` is which part of how many, from 1.
/// Raises `AtomicaError` for a name that an option does not know; limits are checked by `build`.
#[pyclass(frozen, module = "atomica._prep")]
pub(super) struct BuildOptions(BuildGraphs);

#[pymethods]
impl BuildOptions {
    #[new]
    #[pyo3(signature = (inputs, out, *, receptor=None, ligands=Vec::new(), discover=false, keep_additives=false, cutoff=8.0, neighbors=8,
        interface_rule="all-pairs", strictness="lenient", ids="author", assembly="none", max_decompressed=None, compression="none",
        shard_rows=1024, threads=0, shard=(1, 1), resume=false, overwrite=false))]
    #[allow(clippy::too_many_arguments, reason = "each has its name where it is called")]
    fn new(
        py: Python<'_>,
        inputs: Vec<PathBuf>,
        out: PathBuf,
        receptor: Option<PathBuf>,
        ligands: Vec<PathBuf>,
        discover: bool,
        keep_additives: bool,
        cutoff: f64,
        neighbors: usize,
        interface_rule: &str,
        strictness: &str,
        ids: &str,
        assembly: &str,
        max_decompressed: Option<u64>,
        compression: &str,
        shard_rows: usize,
        threads: usize,
        shard: (u64, u64),
        resume: bool,
        overwrite: bool,
    ) -> PyResult<Self> {
        let usage = |message: &str| to_python(py, &Error::Usage { message: message.to_owned() });
        let (number, of) = shard;
        for (wrong, message) in [
            (inputs.is_empty() == receptor.is_none(), "inputs: expected at least one, or a receptor in their place"),
            (ligands.is_empty() == receptor.is_some(), "a receptor and ligands: expected both or none"),
            (!(1..=of).contains(&number), "shard: expected which part and of how many, counted from 1"),
            (resume && overwrite, "resume and overwrite exclude each other"),
            (keep_additives && !discover, "keep_additives has no effect without discover"),
        ] {
            if wrong {
                return Err(usage(message));
            }
        }
        Ok(Self(BuildGraphs {
            inputs,
            receptor,
            ligands,
            out,
            discover,
            keep_additives,
            cutoff,
            neighbors,
            interface_rule: named(py, "interface_rule", interface_rule)?,
            fragments: "none".to_owned(),
            strictness: named(py, "strictness", strictness)?,
            ids: named(py, "ids", ids)?,
            assembly: assembly.parse().map_err(|reason: String| usage(&format!("assembly = {reason}")))?,
            max_decompressed: max_decompressed.unwrap_or(crate::read::Options::default().max_decompressed),
            compression: named(py, "compression", compression)?,
            shard_rows,
            threads,
            shard: Part { number, of },
            engine: Engine::Local,
            parts: 0,
            resume,
            overwrite,
        }))
    }
}

/// The value of an option that the command line gives a name.
fn named<T: ValueEnum>(py: Python<'_>, option: &str, name: &str) -> PyResult<T> {
    T::from_str(name, false).map_err(|_| {
        let known: Vec<String> =
            T::value_variants().iter().filter_map(T::to_possible_value).map(|v| v.get_name().to_owned()).collect();
        let message = format!("{option} = {name:?}: expected {}", known.join(" or "));
        to_python(py, &Error::Usage { message })
    })
}

/// What a build came to. `code` is the exit code of `atomica-prep`: 0, or 3 if some inputs failed.
#[pyclass(frozen, get_all, module = "atomica._prep")]
pub(super) struct Summary {
    /// The folder of the data set.
    folder: PathBuf,
    /// Complexes in it.
    complexes: u64,
    /// Inputs that failed, listed in `failures.jsonl`.
    failures: u64,
    /// How many of them failed of what, by code.
    failures_by_code: BTreeMap<String, u64>,
    /// Whether the folder held the whole build already.
    already_complete: bool,
    code: u8,
}

/// Build a data set, as `atomica-prep build-graphs` does, with its bar on the terminal and, unless it is to be `quiet`,
/// what it came to.
///
/// `fragments` cuts the ligands (`atomica.prep.fragments.Cutter`); without it each heavy atom is a block. Raises
/// `IndexFileError`, `ShardError` or another `AtomicaError` if it cannot be done, and `KeyboardInterrupt`; then `resume`
/// continues it.
#[pyfunction]
#[pyo3(signature = (options, fragments=None, *, quiet=false))]
pub(super) fn build(
    py: Python<'_>,
    options: &BuildOptions,
    fragments: Option<Bound<'_, PyAny>>,
    quiet: bool,
) -> PyResult<Summary> {
    let mut given = options.0.clone();
    if fragments.is_some() {
        given.fragments = "those of the cutter".to_owned();
    }
    let work =
        move |stop: &Stop, fragments: Option<&Fragments>| crate::cli::build_graphs(&given, stop, fragments, quiet);
    let (made, interrupted) = with_signals(py, fragments.as_ref(), work)?;
    if let Some(error) = interrupted {
        return Err(error);
    }
    let summary = made.map_err(|error| to_python(py, &error))?;
    Ok(Summary {
        folder: options.0.out.clone(),
        complexes: summary.counts.complexes,
        failures: summary.counts.failures,
        code: code_of(&summary),
        already_complete: summary.already_complete,
        failures_by_code: summary.failures.into_iter().collect(),
    })
}

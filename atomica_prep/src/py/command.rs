//! The command line, called from Python: signals, and molecules that Python cuts.

use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::AtomicaError;
use crate::build::Stop;
use crate::fragments::{Chemistry, Cut, Cutter, FragmentVocabulary, Fragments, Sketch};

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
pub(super) fn run(py: Python<'_>, argv: Vec<String>, fragments: Option<Bound<'_, PyAny>>) -> PyResult<u8> {
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

//! Ledgers: files beside the shards that are appended to, line by line in the order of the inputs.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::discover::{FOUND, LEFT_OUT};
use crate::error::{Error, Result};
use crate::structure::Repaired;

/// Name of the ledger.
pub const FAILURES: &str = "failures.jsonl";

/// Name of the list of repairs.
pub const REPAIRS: &str = "repairs.jsonl";

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Line of the row in its CSV; none for a file that was given without an index and cannot be read.
    pub row: Option<u64>,
    /// Id of the complex, as far as known.
    pub id: String,
    /// The file to blame.
    pub file: String,
    /// Line in it.
    pub line: Option<u64>,
    /// Column in that line.
    pub column: Option<u64>,
    /// Part of the work.
    pub stage: String,
    /// Kind of error.
    pub code: String,
    /// In words.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(row: Option<u64>, id: String, error: &Error) -> Box<Self> {
        Box::new(Self {
            row,
            id,
            file: error.file().unwrap_or_default().to_owned(),
            line: error.line(),
            column: error.column(),
            stage: <&str>::from(error.stage()).to_owned(),
            code: error.code().to_owned(),
            message: error.to_string(),
        })
    }
}

/// One line of the list of repairs: what was mended of one kind in the structure of one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairLine {
    /// Line of the row in its CSV; none for a file that was given without an index.
    pub row: Option<u64>,
    /// Id of the row, or what the ids of the file begin with.
    pub id: String,
    /// The structure file.
    pub file: String,
    /// Kind of repair.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Line of the first one.
    pub line: Option<u64>,
    /// Column in that line.
    pub column: Option<u64>,
    /// What was found there and what was made of it.
    pub message: String,
}

impl RepairLine {
    pub(crate) fn new(row: Option<u64>, id: &str, file: &str, repaired: &Repaired) -> Self {
        let first = &repaired.first;
        Self {
            row,
            id: id.to_owned(),
            file: file.to_owned(),
            kind: repaired.kind.code().to_owned(),
            count: repaired.count,
            line: Some(first.line).filter(|l| *l > 0),
            column: Some(first.column).filter(|c| *c > 0),
            message: first.what.clone(),
        }
    }
}

/// Files that a build appends to, line by line in the order of its inputs.
pub(crate) const LEDGERS: [&str; 4] = [FAILURES, REPAIRS, FOUND, LEFT_OUT];

/// An append-only file beside the shards, of which the first `bytes` are certain.
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    pub(crate) bytes: u64,
}

impl Ledger {
    /// Opens the file and drops what came after `bytes`: it is made again.
    pub(crate) fn open(path: PathBuf, bytes: u64) -> Result<Self> {
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            file.set_len(bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(|e| Error::Write { path: path.display().to_string(), reason: e.to_string() })?;
        Ok(Self { path, file, bytes })
    }

    fn wrong(&self, reason: impl ToString) -> Error {
        Error::Write { path: self.path.display().to_string(), reason: reason.to_string() }
    }

    pub(crate) fn append(&mut self, text: &[u8]) -> Result<()> {
        self.file.write_all(text).map_err(|e| self.wrong(e))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Appends a value as one line of JSON.
    pub(crate) fn append_json(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).map_err(|e| self.wrong(e))?;
        line.push(b'\n');
        self.append(&line)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.wrong(e))
    }
}

/// Counts one more of a kind.
pub(crate) fn count(counts: &mut Vec<(String, u64)>, kind: &str) {
    match counts.iter_mut().find(|(known, _)| known == kind) {
        Some((_, count)) => *count += 1,
        None => counts.push((kind.to_owned(), 1)),
    }
}

pub(crate) fn by_frequency(mut counts: Vec<(String, u64)>) -> Vec<(String, u64)> {
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts
}

/// Failures of a data set by code, the most frequent first, read line by line.
///
/// # Errors
/// The ledger is missing or holds something else.
pub fn failures_by_code(folder: &Path) -> Result<Vec<(String, u64)>> {
    #[derive(Deserialize)]
    struct Line {
        code: String,
    }
    let path = folder.join(FAILURES);
    let wrong = |reason: String| Error::NotADataset { path: path.display().to_string(), reason };
    let file = File::open(&path).map_err(|e| wrong(e.to_string()))?;
    let mut counts = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|e| wrong(format!("line {number}: {e}")))?;
        let line: Line = serde_json::from_str(&line).map_err(|e| wrong(format!("line {number}: {e}")))?;
        count(&mut counts, &line.code);
    }
    Ok(by_frequency(counts))
}

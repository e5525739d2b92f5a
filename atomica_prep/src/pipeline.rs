//! A build: rows in, shards and ledgers out, in input order, with flat memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::discover::{self, Files, Found, StructureFile, FOUND, LEFT_OUT};
use crate::error::{Error, Result, Stage};
use crate::index::{BadRow, Ids, Index, Row};
use crate::interface::{self, Record, Rule, Subject};
use crate::read::ligand::LigandFile;
use crate::read::{self, Repaired};
use crate::shard::{
    sha256_hex, to_json, write_atomically, BuildOptions, Compression, Counts, Manifest, ShardBuilder, ShardEntry,
    Vocabulary, FAILURES, MANIFEST, REPAIRS,
};
use crate::vocab;

/// A request to stop, shared between threads.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the end; the work in hand is finished first.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Has anyone asked?
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What to do with a folder that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone.
    Refuse,
    /// Continue an interrupted build.
    Resume,
    /// Replace the data set in it.
    Overwrite,
}

/// One of several parts of the inputs, for jobs that share a build: all inputs in order, cut into equal stretches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Which, from 1.
    pub number: u64,
    /// Of how many.
    pub of: u64,
}

impl Part {
    /// Everything.
    pub const WHOLE: Self = Self { number: 1, of: 1 };

    /// The inputs of this part, of `total` ones.
    ///
    /// ```
    /// use atomica_prep::pipeline::Part;
    /// let parts: Vec<_> = (1..=3).map(|number| Part { number, of: 3 }.range(10)).collect();
    /// assert_eq!(parts, [0..3, 3..6, 6..10]);
    /// ```
    pub fn range(self, total: u64) -> Range<u64> {
        let cut = |number: u64| {
            let place = u128::from(total) * u128::from(number) / u128::from(self.of.max(1));
            u64::try_from(place).unwrap_or(total).min(total)
        };
        cut(self.number.saturating_sub(1))..cut(self.number)
    }
}

/// What a build starts from.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Index files, whose rows say what to build.
    Indexes(Vec<PathBuf>),
    /// Structure files and folders of them, in which interfaces are looked for.
    Structures {
        /// Files and folders.
        paths: Vec<PathBuf>,
        /// Take additives of crystallisation for ligands as well.
        keep_additives: bool,
    },
}

/// A build to do.
#[derive(Debug, Clone)]
pub struct Build {
    /// What to build from.
    pub inputs: Inputs,
    /// Output folder.
    pub out: PathBuf,
    /// How structures are read.
    pub reading: read::Options,
    /// How interfaces are cut.
    pub interface: interface::Options,
    /// Packing of the shards.
    pub compression: Compression,
    /// Complexes of a full shard.
    pub shard_rows: usize,
    /// What to do with a folder that holds something.
    pub existing: Existing,
    /// Which part of the inputs.
    pub part: Part,
}

/// What a build came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sums over the whole data set.
    pub counts: Counts,
    /// Failures by code, most frequent first.
    pub failures: Vec<(String, u64)>,
    /// Repairs by kind, in the order in which they were met.
    pub repairs: Vec<RepairCount>,
    /// Rows taken in this run, without those of an earlier one.
    pub rows_now: u64,
    /// Complexes made in this run.
    pub complexes_now: u64,
    /// Stopped on request, before the end.
    pub interrupted: bool,
    /// The folder held the whole build already; nothing was done.
    pub already_complete: bool,
    /// What came of looking for interfaces, where that was asked for.
    pub discovered: Option<Discovered>,
}

/// Sums over what was found without an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// Interfaces.
    pub interfaces: u64,
    /// Small molecules and ions left out.
    pub left_out: u64,
    /// Files without any interface.
    pub without: u64,
    /// Files of other kinds in the folders.
    pub others: u64,
}

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
    fn new(row: Option<u64>, id: String, error: &Error) -> Box<Self> {
        let stage = match error.stage() {
            Stage::Usage => "usage",
            Stage::Index => "index",
            Stage::Read => "read",
            Stage::Interface => "interface",
            Stage::Shard => "shard",
        };
        Box::new(Self {
            row,
            id,
            file: error.file().unwrap_or_default().to_owned(),
            line: error.line(),
            column: error.column(),
            stage: stage.to_owned(),
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
    fn new(row: Option<u64>, id: &str, file: &str, repaired: &Repaired) -> Self {
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

/// Repairs of one kind over a whole build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairCount {
    /// Kind of repair.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Rows of the index whose structure needed it.
    pub inputs: u64,
}

/// Where a build stands after its last complete shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Checksum over options and inputs; a build of other ones cannot go on from here.
    fingerprint: String,
    part: Part,
    /// Rows that are done, counted over all inputs.
    rows: u64,
    /// Outcomes of the next row that are done.
    outcomes: u64,
    /// Bytes of each ledger that belong to them.
    ledgers: BTreeMap<String, u64>,
    counts: Counts,
    discovered: Discovered,
    failures: Vec<(String, u64)>,
    repairs: Vec<RepairCount>,
    shards: Vec<ShardEntry>,
}

const PROGRESS: &str = "progress.json";

/// Files that a build appends to, line by line in the order of its inputs.
pub(crate) const LEDGERS: [&str; 4] = [FAILURES, REPAIRS, FOUND, LEFT_OUT];

/// What became of one complex.
type Outcome = std::result::Result<Box<Record>, Box<Failure>>;

/// Inputs that are worked on together.
enum Job {
    /// Rows that follow one another and share a structure file.
    Rows(Vec<Row>),
    Bad(Box<BadRow>),
    /// A file in which to look for interfaces, additives included or not.
    File(StructureFile, bool),
}

impl Job {
    /// How much work and memory its results may need, in rows of an index.
    fn weight(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.len(),
            Self::Bad(_) => 1,
            Self::File(..) => 8,
        }
    }
}

/// What became of one input: a row of an index or a file.
struct InputOutcomes {
    complexes: Vec<Outcome>,
    repairs: Vec<RepairLine>,
    /// What was found, in a file that came without an index.
    found: Option<Found>,
}

impl InputOutcomes {
    fn failed(row: Option<u64>, id: String, error: &Error) -> Self {
        Self { complexes: vec![Err(Failure::new(row, id, error))], repairs: Vec::new(), found: None }
    }
}

fn run_job(job: &Job, build: &Build, stop: &Stop) -> Vec<InputOutcomes> {
    if stop.requested() {
        return Vec::new();
    }
    match job {
        Job::Bad(bad) => vec![InputOutcomes::failed(Some(bad.line), bad.id.clone(), &bad.error())],
        Job::File(file, keep_additives) => vec![search(file, *keep_additives, build)],
        Job::Rows(rows) => {
            let Some(first) = rows.first() else { return Vec::new() };
            match read::read_file(&first.file, &first.path, build.reading) {
                Err(error) => {
                    rows.iter().map(|row| InputOutcomes::failed(Some(row.line), row.id.clone(), &error)).collect()
                }
                Ok(source) => {
                    let subject = Subject::new(source);
                    let repairs = |row: &Row| {
                        let of = |r| RepairLine::new(Some(row.line), &row.id, &row.path, r);
                        subject.structure().repairs.iter().map(of).collect()
                    };
                    // Rows of one series share their ligand file as well.
                    let mut ligands = None;
                    rows.iter()
                        .map(|row| InputOutcomes {
                            complexes: build_row(&subject, row, &mut ligands, build),
                            repairs: repairs(row),
                            found: None,
                        })
                        .collect()
                }
            }
        }
    }
}

/// The interfaces of a file that comes without an index.
fn search(file: &StructureFile, keep_additives: bool, build: &Build) -> InputOutcomes {
    let subject = match read::read_file(Path::new(&file.path), &file.path, build.reading) {
        Ok(source) => Subject::new(source),
        Err(error) => return InputOutcomes::failed(None, file.stem.clone(), &error),
    };
    let found = discover::find(&subject, file, keep_additives);
    match found.rows() {
        Ok(rows) => {
            let repairs = &subject.structure().repairs;
            InputOutcomes {
                complexes: rows.iter().flat_map(|r| build_row(&subject, r, &mut None, build)).collect(),
                repairs: repairs.iter().map(|r| RepairLine::new(None, &file.stem, &file.path, r)).collect(),
                found: Some(found),
            }
        }
        Err(error) => InputOutcomes::failed(None, file.stem.clone(), &error),
    }
}

/// The complexes of a row. `ligands` keeps the ligand file that was opened last.
fn build_row(
    subject: &Subject,
    row: &Row,
    ligands: &mut Option<(PathBuf, Result<LigandFile>)>,
    build: &Build,
) -> Vec<Outcome> {
    let options = &build.interface;
    let made = match &row.ligand_file {
        None => interface::complexes(subject, row, options),
        Some(wanted) => {
            if ligands.as_ref().is_none_or(|(file, _)| *file != wanted.file) {
                *ligands = Some((wanted.file.clone(), LigandFile::open(&wanted.file, &wanted.path, build.reading)));
            }
            vec![(row.id.clone(), with_pose(subject, row, wanted.index, ligands.as_ref(), options))]
        }
    };
    let outcome =
        |(id, made): (String, Result<Record>)| made.map(Box::new).map_err(|e| Failure::new(Some(row.line), id, &e));
    made.into_iter().map(outcome).collect()
}

fn with_pose(
    subject: &Subject,
    row: &Row,
    index: usize,
    ligands: Option<&(PathBuf, Result<LigandFile>)>,
    options: &interface::Options,
) -> Result<Record> {
    let Some((_, ligands)) = ligands else {
        return Err(Error::MissingMolecule { path: row.path.clone(), index: index as u64, count: 0 });
    };
    let ligands = ligands.as_ref().map_err(Clone::clone)?;
    let molecule = ligands.molecule(index)?;
    let pose = interface::Pose { molecule: &molecule, sha256: &ligands.sha256 };
    interface::complex_with_pose(subject, row, pose, options)
}

impl Build {
    fn options(&self) -> BuildOptions {
        BuildOptions {
            cutoff: self.interface.cutoff,
            interface_rule: match self.interface.rule {
                Rule::AllPairs => "all-pairs".to_owned(),
                Rule::Reference => "reference".to_owned(),
            },
            neighbors: self.interface.neighbors as u64,
            compression: self.compression,
            shard_rows: self.shard_rows as u64,
            fragments: self.vocabulary().fragments,
            strictness: self.reading.strictness,
            ids: self.reading.ids,
        }
    }

    /// Does this build keep the ledger of that name?
    fn writes(&self, ledger: &str) -> bool {
        ![FOUND, LEFT_OUT].contains(&ledger) || matches!(self.inputs, Inputs::Structures { .. })
    }

    fn vocabulary(&self) -> Vocabulary {
        match &self.interface.fragments {
            None => Vocabulary {
                blocks: vocab::BLOCKS as u64,
                atoms: vocab::ATOMS as u64,
                fragments: "none".to_owned(),
                fragments_sha256: None,
                fragment_entries: 0,
            },
            Some(table) => Vocabulary {
                blocks: table.vocabulary.block_types,
                atoms: vocab::ATOMS as u64,
                fragments: table.vocabulary.name.clone(),
                fragments_sha256: Some(table.vocabulary.sha256.clone()),
                fragment_entries: table.vocabulary.entries,
            },
        }
    }

    /// Checksum over what decides the result: options, vocabulary and inputs, whichever part of them is built.
    fn fingerprint(&self, sources: &Sources) -> Result<String> {
        let inputs: Vec<&str> = match sources {
            Sources::Indexes(indexes) => indexes.iter().map(|i| i.sha256.as_str()).collect(),
            Sources::Files(files, keep_additives) => {
                let way = if *keep_additives { "discover, additives kept" } else { "discover" };
                std::iter::once(way).chain(files.files.iter().map(|f| f.path.as_str())).collect()
            }
        };
        // The manifest need not know the limit, but a build in two halves has to have one.
        let limit = self.reading.max_decompressed;
        let parts = (crate::VERSION, self.options(), self.vocabulary(), limit, inputs);
        let text = to_json(&parts, &self.out.join(PROGRESS))?;
        Ok(sha256_hex(&text))
    }

    /// Runs the build. `tick` hears of every finished input: how many are done and how many there are.
    ///
    /// # Errors
    /// The inputs are not usable as a whole, or the output cannot be written. What is wrong with single rows goes to
    /// the ledger instead.
    pub fn run(&self, stop: &Stop, tick: &(dyn Fn(u64, u64) + Sync)) -> Result<Summary> {
        let sources = Sources::open(&self.inputs)?;
        let wanted = self.part.range(sources.len());
        let total = wanted.end - wanted.start;
        let progress = match self.prepare_folder(&self.fingerprint(&sources)?)? {
            Start::Finished(done) => return Ok(done),
            Start::From(progress) => progress,
        };
        tick(progress.rows, total);
        let (begin, mut skip) = (wanted.start + progress.rows, progress.outcomes);
        let mut writer = Writer::open(self, progress, total)?;
        let work = |job: &Job| run_job(job, self, stop);
        let mut sink = |inputs: Vec<InputOutcomes>| -> Result<()> {
            for input in inputs {
                writer.input(input, std::mem::take(&mut skip))?;
                tick(writer.rows_seen, total);
            }
            Ok(())
        };
        let mut ordered = Ordered::new(&work, &mut sink, stop);
        let complete = sources.each_job(begin..wanted.end, |job| {
            let weight = job.weight();
            ordered.push(job, weight)
        })?;
        let complete = complete && ordered.finish()?;
        let mut summary = if complete { writer.finish()? } else { writer.interrupted()? };
        if let (Some(discovered), Sources::Files(files, _)) = (&mut summary.discovered, &sources) {
            discovered.others = files.others;
        }
        Ok(summary)
    }

    fn prepare_folder(&self, fingerprint: &str) -> Result<Start> {
        let shown = self.out.display().to_string();
        let wrong = |e: std::io::Error| Error::Write { path: shown.clone(), reason: e.to_string() };
        let mut names: Vec<String> = Vec::new();
        if self.out.exists() {
            for entry in std::fs::read_dir(&self.out).map_err(wrong)? {
                names.push(entry.map_err(wrong)?.file_name().to_string_lossy().into_owned());
            }
        }
        let fresh = || {
            Start::From(Progress {
                fingerprint: fingerprint.to_owned(),
                part: self.part,
                rows: 0,
                outcomes: 0,
                ledgers: BTreeMap::new(),
                counts: Counts::default(),
                discovered: Discovered::default(),
                failures: Vec::new(),
                repairs: Vec::new(),
                shards: Vec::new(),
            })
        };
        if names.is_empty() {
            std::fs::create_dir_all(&self.out).map_err(wrong)?;
            return Ok(fresh());
        }
        match self.existing {
            Existing::Refuse | Existing::Overwrite => {
                clear_folder(&self.out, self.existing == Existing::Overwrite)?;
                Ok(fresh())
            }
            // Killed before it had noted anything.
            Existing::Resume
                if names.iter().all(|n| LEDGERS.contains(&n.as_str()) || *n == format!("{PROGRESS}.tmp")) =>
            {
                Ok(fresh())
            }
            Existing::Resume => self.resume(&names, fingerprint, &shown),
        }
    }

    fn resume(&self, names: &[String], fingerprint: &str, shown: &str) -> Result<Start> {
        let mismatch = |reason: &str| Error::ResumeMismatch { path: shown.to_owned(), reason: reason.to_owned() };
        if names.iter().any(|n| n == MANIFEST) {
            let manifest = read_manifest(&self.out)?;
            if manifest.fingerprint != fingerprint || manifest.part.unwrap_or(Part::WHOLE) != self.part {
                return Err(mismatch("the build in it is complete and had other options, inputs or another version"));
            }
            // Killed between the manifest and the removal of the progress file, perhaps.
            let _ = std::fs::remove_file(self.out.join(PROGRESS));
            let failures = failures_by_code(&self.out)?;
            let done = Summary { counts: manifest.counts, failures, already_complete: true, ..Summary::default() };
            return Ok(Start::Finished(done));
        }
        let Ok(text) = std::fs::read(self.out.join(PROGRESS)) else {
            return Err(mismatch("it holds no progress.json of an interrupted build"));
        };
        let progress: Progress = serde_json::from_slice(&text)
            .map_err(|e| Error::ResumeMismatch { path: shown.to_owned(), reason: format!("progress.json: {e}") })?;
        if progress.fingerprint != fingerprint || progress.part != self.part {
            return Err(mismatch("the interrupted build had other options, inputs or another version"));
        }
        for shard in &progress.shards {
            let size = std::fs::metadata(self.out.join(&shard.file)).map(|m| m.len()).ok();
            if size != Some(shard.bytes) {
                return Err(mismatch(&format!("{} is missing or changed", shard.file)));
            }
        }
        for (name, bytes) in &progress.ledgers {
            let size = std::fs::metadata(self.out.join(name)).map(|m| m.len()).ok();
            if size.is_none_or(|size| size < *bytes) {
                return Err(mismatch(&format!("{name} is missing or cut short")));
            }
        }
        Ok(Start::From(progress))
    }
}

/// Makes the folder, or empties it of an earlier data set if that is wanted.
///
/// # Errors
/// It holds something and that is not wanted, or it cannot be written.
pub(crate) fn clear_folder(folder: &Path, overwrite: bool) -> Result<()> {
    let shown = folder.display().to_string();
    let wrong = |e: std::io::Error| Error::Write { path: shown.clone(), reason: e.to_string() };
    std::fs::create_dir_all(folder).map_err(wrong)?;
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(wrong)?;
    let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    if !names.is_empty() && !overwrite {
        return Err(Error::OutputExists { path: shown });
    }
    // Only what a build makes is removed; the manifest first, so that no half-removed set looks whole.
    names.sort_by_key(|n| n != MANIFEST);
    for name in names.iter().filter(|n| is_ours(n)) {
        std::fs::remove_file(folder.join(name)).map_err(wrong)?;
    }
    Ok(())
}

/// Files that a build makes, finished or not. Others in its folder are left alone.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    [MANIFEST, PROGRESS].contains(&name)
        || LEDGERS.contains(&name)
        || (name.starts_with("shard-") && name.ends_with(".arrow"))
}

enum Start {
    From(Progress),
    Finished(Summary),
}

/// The inputs of a build, opened.
enum Sources {
    Indexes(Vec<Index>),
    Files(Files, bool),
}

impl Sources {
    fn open(inputs: &Inputs) -> Result<Self> {
        match inputs {
            Inputs::Indexes(paths) => Ok(Self::Indexes(paths.iter().map(|p| Index::open(p)).collect::<Result<_>>()?)),
            Inputs::Structures { paths, keep_additives } => Ok(Self::Files(discover::list(paths)?, *keep_additives)),
        }
    }

    /// Rows of all indexes, or files.
    fn len(&self) -> u64 {
        match self {
            Self::Indexes(indexes) => indexes.iter().map(Index::len).sum(),
            Self::Files(files, _) => files.files.len() as u64,
        }
    }

    /// Hands on jobs with the inputs that have the numbers `wanted`, from 0. Gives whether it came to the end.
    fn each_job(&self, wanted: Range<u64>, mut give: impl FnMut(Job) -> Result<bool>) -> Result<bool> {
        match self {
            Self::Indexes(indexes) => each_group(indexes, wanted, |group| {
                give(match group {
                    Ok(rows) => Job::Rows(rows),
                    Err(bad) => Job::Bad(bad),
                })
            }),
            Self::Files(files, keep_additives) => {
                for (number, file) in (0..).zip(&files.files) {
                    if wanted.contains(&number) && !give(Job::File(file.clone(), *keep_additives))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

/// Rows that follow one another and share a structure file, or one that cannot be used.
pub(crate) type Group = std::result::Result<Vec<Row>, Box<BadRow>>;

/// Hands on the rows with the numbers `wanted` (from 0, over all indexes), those of one structure file together.
/// Gives whether it came to the end.
pub(crate) fn each_group(
    indexes: &[Index],
    wanted: Range<u64>,
    mut give: impl FnMut(Group) -> Result<bool>,
) -> Result<bool> {
    /// So that one file with a long series does not keep a single thread busy.
    const TOGETHER: usize = 64;
    // Ids are unique over all parts of the inputs.
    let mut ids = Ids::default();
    let mut number = 0;
    let mut group: Vec<Row> = Vec::new();
    for index in indexes {
        for row in index.rows(&mut ids) {
            number += 1;
            if !wanted.contains(&(number - 1)) {
                continue;
            }
            let fits = |row: &Row| group.len() < TOGETHER && group.first().is_none_or(|first| first.file == row.file);
            if !row.as_ref().is_ok_and(fits) && !group.is_empty() && !give(Ok(std::mem::take(&mut group)))? {
                return Ok(false);
            }
            match row {
                Ok(row) => group.push(row),
                Err(bad) => {
                    if !give(Err(bad))? {
                        return Ok(false);
                    }
                }
            }
        }
    }
    Ok(group.is_empty() || give(Ok(group))?)
}

/// Works on jobs in parallel and hands their results on in order: those of one batch while the next is worked on.
pub(crate) struct Ordered<'a, J, R> {
    work: &'a (dyn Fn(&J) -> R + Sync),
    sink: &'a mut (dyn FnMut(R) -> Result<()> + Send),
    stop: &'a Stop,
    batch: Vec<J>,
    weight: usize,
    limit: usize,
    pending: Vec<R>,
}

impl<'a, J: Send + Sync, R: Send> Ordered<'a, J, R> {
    /// `work` may give anything once a stop is requested; such results are not handed on.
    pub(crate) fn new(
        work: &'a (dyn Fn(&J) -> R + Sync),
        sink: &'a mut (dyn FnMut(R) -> Result<()> + Send),
        stop: &'a Stop,
    ) -> Self {
        // Enough to keep all threads busy, little enough to hold the results.
        let limit = 32 * rayon::current_num_threads();
        Self { work, sink, stop, batch: Vec::new(), weight: 0, limit, pending: Vec::new() }
    }

    /// Takes the next job, worth `weight` rows of an index. Gives false once a stop is requested.
    pub(crate) fn push(&mut self, job: J, weight: usize) -> Result<bool> {
        self.batch.push(job);
        self.weight += weight;
        if self.weight < self.limit {
            return Ok(true);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<bool> {
        self.weight = 0;
        let jobs = std::mem::take(&mut self.batch);
        let before = std::mem::take(&mut self.pending);
        let (work, sink) = (self.work, &mut self.sink);
        let compute = || jobs.par_iter().with_max_len(1).map(work).collect::<Vec<R>>();
        let (made, written) = rayon::join(compute, || before.into_iter().try_for_each(sink));
        written?;
        // Results of a batch that was cut short are not complete.
        if self.stop.requested() {
            return Ok(false);
        }
        self.pending = made;
        Ok(true)
    }

    /// Works on what is left and hands all results on. Gives false if a stop was requested before.
    pub(crate) fn finish(mut self) -> Result<bool> {
        Ok(self.flush()? && self.flush()?)
    }
}

/// An append-only file beside the shards, of which the first `bytes` are certain.
pub(crate) struct Ledger {
    path: PathBuf,
    file: File,
    bytes: u64,
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

/// Takes outcomes in order and writes shards and ledger.
struct Writer<'a> {
    build: &'a Build,
    /// As of the last complete shard.
    progress: Progress,
    /// As of now.
    counts: Counts,
    discovered: Discovered,
    failures: Vec<(String, u64)>,
    repairs: Vec<RepairCount>,
    shard: ShardBuilder,
    ledgers: BTreeMap<&'static str, Ledger>,
    rows_seen: u64,
    total: u64,
    rows_before: u64,
    complexes_before: u64,
    /// The first note on its way to the disk; nothing that it could lose has been done yet.
    noting: Option<JoinHandle<Result<()>>>,
}

impl<'a> Writer<'a> {
    fn open(build: &'a Build, progress: Progress, total: u64) -> Result<Self> {
        let open = |name: &'static str| -> Result<(&'static str, Ledger)> {
            let bytes = progress.ledgers.get(name).copied().unwrap_or(0);
            Ok((name, Ledger::open(build.out.join(name), bytes)?))
        };
        let path = build.out.join(PROGRESS);
        let text = to_json(&progress, &path)?;
        let mut writer = Self {
            build,
            counts: progress.counts,
            discovered: progress.discovered,
            failures: progress.failures.clone(),
            repairs: progress.repairs.clone(),
            shard: ShardBuilder::default(),
            ledgers: LEDGERS.into_iter().filter(|name| build.writes(name)).map(open).collect::<Result<_>>()?,
            rows_seen: progress.rows,
            total,
            rows_before: progress.rows,
            complexes_before: progress.counts.complexes,
            progress,
            noting: Some(std::thread::spawn(move || write_atomically(&path, &text))),
        };
        for (name, line) in [(FOUND, discover::header()), (LEFT_OUT, discover::left_out_header())] {
            if let Some(ledger) = writer.ledgers.get_mut(name).filter(|ledger| ledger.bytes == 0) {
                ledger.append(&line)?;
            }
        }
        Ok(writer)
    }

    fn ended_early(&self, path: &Path) -> Error {
        Error::Write { path: path.display().to_string(), reason: "the thread that wrote it ended early".to_owned() }
    }

    /// Waits for the first note.
    fn settle(&mut self) -> Result<()> {
        match self.noting.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(_)) => Err(self.ended_early(&self.build.out.join(PROGRESS))),
        }
    }

    fn save_progress(&mut self) -> Result<()> {
        self.settle()?;
        let path = self.build.out.join(PROGRESS);
        write_atomically(&path, &to_json(&self.progress, &path)?)
    }

    /// Takes the outcomes of the next input; the first `skip` of them were written by an earlier run, and with the
    /// first one what was mended and found.
    fn input(&mut self, input: InputOutcomes, skip: u64) -> Result<()> {
        let mut before = self.discovered.interfaces;
        if skip == 0 {
            self.mended(&input.repairs)?;
        }
        if let Some(found) = &input.found {
            if skip > 0 {
                before = before.saturating_sub(found.lines);
            } else {
                self.note_found(found)?;
            }
        }
        let count = input.complexes.len() as u64;
        for (i, outcome) in (0u64..).zip(input.complexes) {
            if i < skip {
                continue;
            }
            match outcome {
                Ok(record) => {
                    self.counts.complexes += 1;
                    self.counts.blocks += record.block_types.len() as u64;
                    self.counts.atoms += record.atom_types.len() as u64;
                    self.shard.push(&record);
                    if self.shard.is_full(self.build.shard_rows) {
                        let done = i + 1 == count;
                        self.close_shard(self.rows_seen + u64::from(done), if done { 0 } else { i + 1 })?;
                    }
                }
                Err(mut failure) => {
                    failure.row = failure.row.map(|row| row + before);
                    self.fail(&failure)?;
                }
            }
        }
        self.rows_seen += 1;
        Ok(())
    }

    fn note_found(&mut self, found: &Found) -> Result<()> {
        for (name, text) in [(FOUND, &found.text), (LEFT_OUT, &found.left_out)] {
            if let Some(ledger) = self.ledgers.get_mut(name) {
                ledger.append(text)?;
            }
        }
        self.discovered.interfaces += found.lines;
        self.discovered.left_out += found.molecules_left_out;
        self.discovered.without += u64::from(found.lines == 0);
        Ok(())
    }

    fn fail(&mut self, failure: &Failure) -> Result<()> {
        if let Some(ledger) = self.ledgers.get_mut(FAILURES) {
            ledger.append_json(failure)?;
        }
        self.counts.failures += 1;
        count(&mut self.failures, &failure.code);
        Ok(())
    }

    fn mended(&mut self, lines: &[RepairLine]) -> Result<()> {
        for line in lines {
            if let Some(ledger) = self.ledgers.get_mut(REPAIRS) {
                ledger.append_json(line)?;
            }
            match self.repairs.iter_mut().find(|r| r.kind == line.kind) {
                Some(known) => {
                    known.count += line.count;
                    known.inputs += 1;
                }
                None => self.repairs.push(RepairCount { kind: line.kind.clone(), count: line.count, inputs: 1 }),
            }
        }
        Ok(())
    }

    /// Writes the records so far as a shard, while the ledgers go to the disk as well.
    fn write_shard(&mut self) -> Result<()> {
        let (shard, number) = (std::mem::take(&mut self.shard), self.progress.shards.len());
        let (ledgers, build) = (&self.ledgers, self.build);
        let (written, synced) = std::thread::scope(|scope| {
            let syncing = scope.spawn(|| ledgers.values().try_for_each(Ledger::sync));
            (shard.write(&build.out, number, build.compression), syncing.join())
        });
        synced.map_err(|_| self.ended_early(&self.build.out))??;
        self.progress.shards.push(written?);
        Ok(())
    }

    /// Closes the shard and notes that everything up to here is on the disk.
    fn close_shard(&mut self, rows: u64, outcomes: u64) -> Result<()> {
        self.write_shard()?;
        let bytes = self.ledgers.iter().map(|(name, ledger)| ((*name).to_owned(), ledger.bytes));
        self.progress.ledgers.extend(bytes);
        self.progress.rows = rows;
        self.progress.outcomes = outcomes;
        self.progress.counts = self.counts;
        self.progress.discovered = self.discovered;
        self.progress.failures.clone_from(&self.failures);
        self.progress.repairs.clone_from(&self.repairs);
        self.save_progress()
    }

    fn summary(&self) -> Summary {
        Summary {
            counts: self.counts,
            failures: by_frequency(self.failures.clone()),
            repairs: self.repairs.clone(),
            rows_now: self.rows_seen - self.rows_before,
            complexes_now: self.counts.complexes - self.complexes_before,
            interrupted: false,
            already_complete: false,
            discovered: self.build.writes(FOUND).then_some(self.discovered),
        }
    }

    fn interrupted(mut self) -> Result<Summary> {
        self.settle()?;
        Ok(Summary { interrupted: true, ..self.summary() })
    }

    fn finish(mut self) -> Result<Summary> {
        self.counts.inputs = self.total;
        // The manifest is the note that all is done; whatever comes between, the last shard is made again.
        self.settle()?;
        if self.shard.rows() > 0 || self.progress.shards.is_empty() {
            self.write_shard()?;
        } else {
            self.ledgers.values().try_for_each(Ledger::sync)?;
        }
        let options = self.build.options();
        let manifest = Manifest {
            schema_version: crate::SCHEMA_VERSION,
            atomica_prep_version: crate::VERSION.to_owned(),
            cutoff: options.cutoff,
            neighbors: options.neighbors,
            options,
            vocabulary: self.build.vocabulary(),
            fingerprint: self.progress.fingerprint.clone(),
            part: (self.build.part != Part::WHOLE).then_some(self.build.part),
            counts: self.counts,
            shards: self.progress.shards.clone(),
        };
        let path = self.build.out.join(MANIFEST);
        write_atomically(&path, &to_json(&manifest, &path)?)?;
        let progress = self.build.out.join(PROGRESS);
        std::fs::remove_file(&progress)
            .map_err(|e| Error::Write { path: progress.display().to_string(), reason: e.to_string() })?;
        Ok(self.summary())
    }
}

/// Counts one more of a kind.
fn count(counts: &mut Vec<(String, u64)>, kind: &str) {
    match counts.iter_mut().find(|(known, _)| known == kind) {
        Some((_, count)) => *count += 1,
        None => counts.push((kind.to_owned(), 1)),
    }
}

fn by_frequency(mut counts: Vec<(String, u64)>) -> Vec<(String, u64)> {
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

/// Reads the manifest of a data set.
///
/// # Errors
/// There is none, or it is of another version.
pub fn read_manifest(folder: &Path) -> Result<Manifest> {
    let wrong = |reason: String| Error::NotADataset { path: folder.display().to_string(), reason };
    let mut text = Vec::new();
    File::open(folder.join(MANIFEST))
        .and_then(|mut f| f.read_to_end(&mut text))
        .map_err(|e| wrong(format!("{MANIFEST}: {e}")))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| wrong(format!("{MANIFEST}: {e}")))?;
    if manifest.schema_version != crate::SCHEMA_VERSION {
        return Err(wrong(format!(
            "its schema has version {}, this program reads version {}",
            manifest.schema_version,
            crate::SCHEMA_VERSION
        )));
    }
    // A manifest from elsewhere must not make this program read files from elsewhere.
    let plain = |file: &str| Path::new(file).file_name().is_some_and(|name| name == file);
    if let Some(entry) = manifest.shards.iter().find(|entry| !plain(&entry.file)) {
        return Err(wrong(format!("{MANIFEST}: {:?} is not the name of a file in the folder", entry.file)));
    }
    Ok(manifest)
}

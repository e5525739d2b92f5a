//! A build: rows in, shards and ledger out, in input order, with flat memory.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Stage};
use crate::index::{BadRow, Ids, Index, Row};
use crate::interface::{self, Record, Rule, Subject};
use crate::read;
use crate::read::ligand::LigandFile;
use crate::shard::{
    sha256_hex, to_json, write_atomically, BuildOptions, Compression, Counts, Manifest, ShardBuilder, ShardEntry,
    Vocabulary, FAILURES, MANIFEST,
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

/// A build to do.
#[derive(Debug, Clone)]
pub struct Build {
    /// Index files.
    pub inputs: Vec<PathBuf>,
    /// Output folder.
    pub out: PathBuf,
    /// How interfaces are cut.
    pub interface: interface::Options,
    /// Packing of the shards.
    pub compression: Compression,
    /// Complexes of a full shard.
    pub shard_rows: usize,
    /// What to do with a folder that holds something.
    pub existing: Existing,
}

/// What a build came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Sums over the whole data set.
    pub counts: Counts,
    /// Failures by code, most frequent first.
    pub failures: Vec<(String, u64)>,
    /// Rows taken in this run, without those of an earlier one.
    pub rows_now: u64,
    /// Complexes made in this run.
    pub complexes_now: u64,
    /// Stopped on request, before the end.
    pub interrupted: bool,
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Line of the row in its CSV.
    pub row: u64,
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
    fn new(row: u64, id: String, error: &Error) -> Box<Self> {
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

/// Where a build stands after its last complete shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Checksum over options and inputs; a build of other ones cannot go on from here.
    fingerprint: String,
    /// Rows that are done, counted over all inputs.
    rows: u64,
    /// Outcomes of the next row that are done.
    outcomes: u64,
    /// Bytes of the ledger that belong to them.
    ledger_bytes: u64,
    counts: Counts,
    failures: Vec<(String, u64)>,
    shards: Vec<ShardEntry>,
}

const PROGRESS: &str = "progress.json";

/// What became of one complex.
type Outcome = std::result::Result<Box<Record>, Box<Failure>>;

/// Rows that follow one another and share a structure file.
enum Job {
    Rows(Vec<Row>),
    Bad(Box<BadRow>),
}

/// Outcomes of one row.
type RowOutcomes = Vec<Outcome>;

fn run_job(job: &Job, options: &interface::Options, stop: &Stop) -> Vec<RowOutcomes> {
    let rows = match job {
        Job::Bad(bad) => return vec![vec![Err(Failure::new(bad.line, bad.id.clone(), &bad.error))]],
        Job::Rows(rows) => rows,
    };
    let Some(first) = rows.first() else { return Vec::new() };
    if stop.requested() {
        return Vec::new();
    }
    match read::read_file(&first.file, &first.path) {
        Err(error) => rows.iter().map(|row| vec![Err(Failure::new(row.line, row.id.clone(), &error))]).collect(),
        Ok(source) => {
            let subject = Subject::new(source);
            // Rows of one series share their ligand file as well.
            let mut ligands: Option<(PathBuf, Result<LigandFile>)> = None;
            rows.iter()
                .map(|row| {
                    let made = match &row.ligand_file {
                        None => interface::complexes(&subject, row, options),
                        Some(wanted) => {
                            if ligands.as_ref().is_none_or(|(file, _)| *file != wanted.file) {
                                ligands = Some((wanted.file.clone(), LigandFile::open(&wanted.file, &wanted.path)));
                            }
                            vec![(row.id.clone(), with_pose(&subject, row, wanted.index, ligands.as_ref(), options))]
                        }
                    };
                    made.into_iter()
                        .map(|(id, made)| made.map(Box::new).map_err(|e| Failure::new(row.line, id, &e)))
                        .collect()
                })
                .collect()
        }
    }
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
        }
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

    fn fingerprint(&self, indexes: &[Index]) -> Result<String> {
        let parts: Vec<(&str, &str)> = indexes.iter().map(|i| (i.path(), i.sha256.as_str())).collect();
        let text = to_json(&(crate::VERSION, self.options(), self.vocabulary(), parts), &self.out.join(PROGRESS))?;
        Ok(sha256_hex(&text))
    }

    /// Runs the build. `tick` hears of every finished group of rows: rows in it and rows in all.
    ///
    /// # Errors
    /// The inputs are not usable as a whole, or the output cannot be written. What is wrong with single rows goes to
    /// the ledger instead.
    pub fn run(&self, stop: &Stop, tick: &(dyn Fn(u64, u64) + Sync)) -> Result<Summary> {
        let indexes: Vec<Index> = self.inputs.iter().map(|p| Index::open(p)).collect::<Result<_>>()?;
        let fingerprint = self.fingerprint(&indexes)?;
        let start = self.prepare_folder(&fingerprint)?;
        if let Some(done) = start.finished {
            return Ok(done);
        }
        let total: u64 = indexes.iter().map(Index::len).sum();
        let mut writer = Writer::open(self, start.progress, total)?;
        tick(writer.progress.rows, total);
        let skip_rows = writer.progress.rows;
        let skip_outcomes = writer.progress.outcomes;
        let mut ids = Ids::default();
        let mut skipped = 0;
        let mut batch: Vec<Job> = Vec::new();
        let mut batch_rows = 0;
        let mut first_row = true;
        let mut pending: Option<Vec<Vec<RowOutcomes>>> = None;
        // Enough rows to keep all threads busy, few enough to hold their results.
        let limit = 32 * rayon::current_num_threads();
        let mut flush = |batch: &mut Vec<Job>, writer: &mut Writer<'_>, last: bool| -> Result<()> {
            let jobs = std::mem::take(batch);
            let compute = || -> Vec<Vec<RowOutcomes>> {
                jobs.par_iter().with_max_len(1).map(|job| run_job(job, &self.interface, stop)).collect()
            };
            // The results of one batch are written while the next one is worked on.
            let before = pending.take();
            let mut write = |results: Vec<Vec<RowOutcomes>>| -> Result<()> {
                for outcomes in results.into_iter().flatten() {
                    let skip = if std::mem::take(&mut first_row) { skip_outcomes } else { 0 };
                    writer.row(outcomes, skip)?;
                    tick(writer.rows_seen, total);
                }
                Ok(())
            };
            if let Some(results) = before {
                let (made, written) = rayon::join(compute, || write(results));
                written?;
                pending = Some(made);
            } else {
                pending = Some(compute());
            }
            // Results of a batch that was cut short are not complete.
            if last && !stop.requested() {
                if let Some(results) = pending.take() {
                    write(results)?;
                }
            }
            Ok(())
        };
        for index in &indexes {
            for row in index.rows(&mut ids) {
                if skipped < skip_rows {
                    skipped += 1;
                    continue;
                }
                batch_rows += 1;
                match row {
                    Err(bad) => batch.push(Job::Bad(bad)),
                    Ok(row) => match batch.last_mut() {
                        Some(Job::Rows(rows))
                            if rows.len() < 64 && rows.first().is_some_and(|r| r.file == row.file) =>
                        {
                            rows.push(row);
                        }
                        _ => batch.push(Job::Rows(vec![row])),
                    },
                }
                if batch_rows >= limit {
                    batch_rows = 0;
                    flush(&mut batch, &mut writer, false)?;
                    if stop.requested() {
                        return Ok(writer.interrupted());
                    }
                }
            }
        }
        flush(&mut batch, &mut writer, true)?;
        if stop.requested() {
            return Ok(writer.interrupted());
        }
        writer.finish()
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
        let fresh = || Progress {
            fingerprint: fingerprint.to_owned(),
            rows: 0,
            outcomes: 0,
            ledger_bytes: 0,
            counts: Counts::default(),
            failures: Vec::new(),
            shards: Vec::new(),
        };
        if names.is_empty() {
            std::fs::create_dir_all(&self.out).map_err(wrong)?;
            return Ok(Start { progress: fresh(), finished: None });
        }
        match self.existing {
            Existing::Refuse => Err(Error::OutputExists { path: shown }),
            Existing::Overwrite => {
                // Only what a build makes is removed; the manifest first, so that no half-removed set looks whole.
                let ours = |name: &str| {
                    let name = name.strip_suffix(".tmp").unwrap_or(name);
                    [MANIFEST, FAILURES, PROGRESS].contains(&name)
                        || (name.starts_with("shard-") && name.ends_with(".arrow"))
                };
                names.sort_by_key(|n| n != MANIFEST);
                for name in names.iter().filter(|n| ours(n)) {
                    std::fs::remove_file(self.out.join(name)).map_err(wrong)?;
                }
                Ok(Start { progress: fresh(), finished: None })
            }
            Existing::Resume => self.resume(&names, fingerprint, &shown),
        }
    }

    fn resume(&self, names: &[String], fingerprint: &str, shown: &str) -> Result<Start> {
        let mismatch = |reason: &str| Error::ResumeMismatch { path: shown.to_owned(), reason: reason.to_owned() };
        let Ok(text) = std::fs::read(self.out.join(PROGRESS)) else {
            if names.iter().any(|n| n == MANIFEST) {
                return Err(mismatch("the build in it is complete; give --overwrite to make it again"));
            }
            return Err(mismatch("it holds no progress.json of an interrupted build"));
        };
        let progress: Progress = serde_json::from_slice(&text)
            .map_err(|e| Error::ResumeMismatch { path: shown.to_owned(), reason: format!("progress.json: {e}") })?;
        if progress.fingerprint != fingerprint {
            return Err(mismatch("the interrupted build had other options, inputs or another version"));
        }
        for shard in &progress.shards {
            let size = std::fs::metadata(self.out.join(&shard.file)).map(|m| m.len()).ok();
            if size != Some(shard.bytes) {
                return Err(mismatch(&format!("{} is missing or changed", shard.file)));
            }
        }
        // Killed between the manifest and the removal of the progress file: all is written.
        let finished = names.iter().any(|n| n == MANIFEST).then(|| Summary {
            counts: progress.counts,
            failures: progress.failures.clone(),
            ..Summary::default()
        });
        if finished.is_some() {
            let _ = std::fs::remove_file(self.out.join(PROGRESS));
        }
        Ok(Start { progress, finished })
    }
}

struct Start {
    progress: Progress,
    finished: Option<Summary>,
}

/// Takes outcomes in order and writes shards and ledger.
struct Writer<'a> {
    build: &'a Build,
    /// As of the last complete shard.
    progress: Progress,
    /// As of now.
    counts: Counts,
    failures: Vec<(String, u64)>,
    shard: ShardBuilder,
    ledger: File,
    ledger_bytes: u64,
    rows_seen: u64,
    total: u64,
    rows_before: u64,
    complexes_before: u64,
}

impl<'a> Writer<'a> {
    fn open(build: &'a Build, progress: Progress, total: u64) -> Result<Self> {
        let path = build.out.join(FAILURES);
        let wrong = |e: std::io::Error| Error::Write { path: path.display().to_string(), reason: e.to_string() };
        let mut ledger =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path).map_err(wrong)?;
        // What came after the last complete shard is made again.
        ledger.set_len(progress.ledger_bytes).map_err(wrong)?;
        ledger.seek(SeekFrom::End(0)).map_err(wrong)?;
        let writer = Self {
            build,
            counts: progress.counts,
            failures: progress.failures.clone(),
            shard: ShardBuilder::default(),
            ledger,
            ledger_bytes: progress.ledger_bytes,
            rows_seen: progress.rows,
            total,
            rows_before: progress.rows,
            complexes_before: progress.counts.complexes,
            progress,
        };
        writer.save_progress()?;
        Ok(writer)
    }

    fn save_progress(&self) -> Result<()> {
        let path = self.build.out.join(PROGRESS);
        write_atomically(&path, &to_json(&self.progress, &path)?)
    }

    /// Takes the outcomes of the next row; the first `skip` of them were written by an earlier run.
    fn row(&mut self, outcomes: RowOutcomes, skip: u64) -> Result<()> {
        let count = outcomes.len() as u64;
        for (i, outcome) in (0u64..).zip(outcomes) {
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
                Err(failure) => self.fail(&failure)?,
            }
        }
        self.rows_seen += 1;
        Ok(())
    }

    fn fail(&mut self, failure: &Failure) -> Result<()> {
        let path = self.build.out.join(FAILURES);
        let wrong = |reason: String| Error::Write { path: path.display().to_string(), reason };
        let mut line = serde_json::to_vec(failure).map_err(|e| wrong(e.to_string()))?;
        line.push(b'\n');
        self.ledger.write_all(&line).map_err(|e| wrong(e.to_string()))?;
        self.ledger_bytes += line.len() as u64;
        self.counts.failures += 1;
        match self.failures.iter_mut().find(|(code, _)| *code == failure.code) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((failure.code.clone(), 1)),
        }
        Ok(())
    }

    fn close_shard(&mut self, rows: u64, outcomes: u64) -> Result<()> {
        let shard = std::mem::take(&mut self.shard);
        let entry = shard.write(&self.build.out, self.progress.shards.len(), self.build.compression)?;
        let path = self.build.out.join(FAILURES);
        self.ledger.sync_all().map_err(|e| Error::Write { path: path.display().to_string(), reason: e.to_string() })?;
        self.progress.shards.push(entry);
        self.progress.rows = rows;
        self.progress.outcomes = outcomes;
        self.progress.ledger_bytes = self.ledger_bytes;
        self.progress.counts = self.counts;
        self.progress.failures.clone_from(&self.failures);
        self.save_progress()
    }

    fn summary(&self) -> Summary {
        let mut failures = self.failures.clone();
        failures.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Summary {
            counts: self.counts,
            failures,
            rows_now: self.rows_seen - self.rows_before,
            complexes_now: self.counts.complexes - self.complexes_before,
            interrupted: false,
        }
    }

    fn interrupted(&self) -> Summary {
        Summary { interrupted: true, ..self.summary() }
    }

    fn finish(mut self) -> Result<Summary> {
        self.counts.inputs = self.total;
        if self.shard.rows() > 0 || self.progress.shards.is_empty() {
            self.close_shard(self.total, 0)?;
        }
        self.progress.counts = self.counts;
        self.progress.ledger_bytes = self.ledger_bytes;
        self.progress.rows = self.total;
        self.progress.outcomes = 0;
        self.save_progress()?;
        let path = self.build.out.join(FAILURES);
        self.ledger.sync_all().map_err(|e| Error::Write { path: path.display().to_string(), reason: e.to_string() })?;
        let options = self.build.options();
        let manifest = Manifest {
            schema_version: crate::SCHEMA_VERSION,
            atomica_prep_version: crate::VERSION.to_owned(),
            cutoff: options.cutoff,
            neighbors: options.neighbors,
            options,
            vocabulary: self.build.vocabulary(),
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
    Ok(manifest)
}

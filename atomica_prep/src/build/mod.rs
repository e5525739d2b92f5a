//! A build: rows in, shards and ledgers out, in input order, with flat memory.

mod ordered;
mod plan;
mod poses;
mod writer;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use ordered::Ordered;
pub use ordered::Stop;
pub use plan::{Build, Existing, Inputs};
pub use writer::{Discovered, RepairCount, Summary};
use writer::{InputOutcomes, Outcome, Progress, Writer};

use crate::dataset::{
    clear_folder, failures_by_code, read_manifest, Counts, Failure, Part, RepairLine, LEDGERS, MANIFEST, PROGRESS,
    VERSION,
};
use crate::discover::{self, Files, StructureFile};
use crate::error::{Error, Problem, Result};
use crate::files::{sha256_hex, to_json};
use crate::fragments::{infers_hydrogens, Chemistry};
use crate::index::{BadRow, Ids, Index, Row};
use crate::interface::{self, Subject};
use crate::read;
use crate::read::ligand::LigandFile;
use crate::record::Record;
use crate::structure::{Repair, Repaired};

/// Inputs that are worked on together.
enum Job {
    /// Rows that follow one another and share a structure file.
    Rows(Vec<Row>),
    /// Molecules of one file and their receptor, both read already.
    Poses(poses::Group),
    Bad(Box<BadRow>),
    /// A file in which to look for interfaces, additives included or not.
    File(StructureFile, bool),
}

impl Job {
    /// How much work and memory its results may need, in rows of an index.
    fn weight(&self) -> usize {
        match self {
            Self::Rows(rows) | Self::Poses((rows, ..)) => rows.len(),
            Self::Bad(_) => 1,
            Self::File(..) => 8,
        }
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
            let reading = build.reading.with(first.assembly);
            match read::read_file(&first.file, &first.path, reading).map(Subject::new) {
                Err(error) => {
                    rows.iter().map(|row| InputOutcomes::failed(Some(row.line), row.id.clone(), &error)).collect()
                }
                Ok(subject) => build_rows(&subject, rows, None, build),
            }
        }
        Job::Poses((rows, subject, file)) => {
            let known = rows.first().and_then(|row| row.ligand_file.as_ref()).map(|l| (l.file.clone(), file.clone()));
            build_rows(subject, rows, known, build)
        }
    }
}

/// A ligand file that is open, or why it cannot be.
type OpenLigands = (PathBuf, Result<Arc<LigandFile>>);

/// The complexes of rows of one structure, which may share their ligand file as well.
fn build_rows(subject: &Subject, rows: &[Row], mut ligands: Option<OpenLigands>, build: &Build) -> Vec<InputOutcomes> {
    // Poses come with their file.
    let poses = ligands.is_some();
    let mut work = |row: &Row| {
        let noted = subject.structure().repairs.iter();
        let mut repairs: Vec<RepairLine> =
            noted.map(|r| RepairLine::new(Some(row.line), &row.id, &row.path, r)).collect();
        let mut complexes = build_row(subject, row, &mut ligands, build, &mut repairs);
        if poses {
            complexes.retain(|outcome| !is_receptor(outcome, row, &mut repairs));
        }
        repairs.extend(other_molecules(row, ligands.as_ref()));
        InputOutcomes { complexes, repairs, found: None }
    };
    rows.iter().map(&mut work).collect()
}

/// Is it the receptor, before its poses? That is noted.
fn is_receptor(outcome: &Outcome, row: &Row, repairs: &mut Vec<RepairLine>) -> bool {
    let Some(failure) = outcome.as_ref().err().filter(|failure| failure.code == "ReceptorLigand") else { return false };
    let first = Problem { line: 0, column: 0, column_end: 0, what: failure.message.clone() };
    let noted = Repaired { kind: Repair::OutsideLigand, count: 1, first };
    repairs.push(RepairLine::new(Some(row.line), &row.id, &row.path, &noted));
    true
}

/// A note of the molecules of a ligand file that are not used, where the index does not say which one is.
fn other_molecules(row: &Row, ligands: Option<&OpenLigands>) -> Option<RepairLine> {
    let wanted = row.ligand_file.as_ref().filter(|wanted| !wanted.chosen)?;
    let (_, Ok(file)) = ligands? else { return None };
    let count = (file.len() as u64).checked_sub(1).filter(|others| *others > 0)?;
    let what = format!("{count} molecules after the first are not used; ligand_index says which one is");
    let first = Problem { line: 0, column: 0, column_end: 0, what };
    let noted = Repaired { kind: Repair::MoleculesUnread, count, first };
    Some(RepairLine::new(Some(row.line), &row.id, &wanted.path, &noted))
}

/// The interfaces of a file that comes without an index.
fn search(file: &StructureFile, keep_additives: bool, build: &Build) -> InputOutcomes {
    let subject = match read::read_file(Path::new(&file.path), &file.path, build.reading) {
        Ok(source) => Subject::new(source),
        Err(error) => return InputOutcomes::failed(None, file.stem.clone(), &error),
    };
    let found = discover::find(&subject, file, keep_additives, build.reading);
    match found.rows() {
        Ok(rows) => {
            let repairs = &subject.structure().repairs;
            let mut repairs = repairs.iter().map(|r| RepairLine::new(None, &file.stem, &file.path, r)).collect();
            let mut ligands = None;
            let complexes =
                rows.iter().flat_map(|r| build_row(&subject, r, &mut ligands, build, &mut repairs)).collect();
            InputOutcomes { complexes, repairs, found: Some(found) }
        }
        Err(error) => InputOutcomes::failed(None, file.stem.clone(), &error),
    }
}

/// The complexes of a row. `ligands` keeps the ligand file that was opened last; `repairs` gets what was mended in it.
fn build_row(
    subject: &Subject,
    row: &Row,
    ligands: &mut Option<OpenLigands>,
    build: &Build,
    repairs: &mut Vec<RepairLine>,
) -> Vec<Outcome> {
    let options = &build.interface;
    let made = match &row.ligand_file {
        None => interface::complexes(subject, row, options),
        Some(wanted) => {
            if ligands.as_ref().is_none_or(|(file, _)| *file != wanted.file) {
                let file = LigandFile::open(&wanted.file, &wanted.path, build.reading).map(Arc::new);
                *ligands = Some((wanted.file.clone(), file));
            }
            vec![(row.id.clone(), with_pose(subject, row, wanted.index, ligands.as_ref(), options, repairs))]
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
    ligands: Option<&OpenLigands>,
    options: &interface::Options,
    repairs: &mut Vec<RepairLine>,
) -> Result<Record> {
    let Some((_, ligands)) = ligands else {
        return Err(Error::MissingMolecule { path: row.path.clone(), index: index as u64, count: 0 });
    };
    let ligands = ligands.as_ref().map_err(Clone::clone)?;
    let molecule = ligands.molecule(index)?;
    let shown = row.ligand_file.as_ref().map_or(row.path.as_str(), |file| file.path.as_str());
    let mended = molecule.structure.repairs.iter();
    repairs.extend(mended.map(|r| RepairLine::new(Some(row.line), &row.id, shown, r)));
    let pose = interface::Pose { molecule: &molecule, sha256: &ligands.sha256 };
    let record = interface::complex_with_pose(subject, row, pose, options)?;
    let mut note = |kind, what: &str| {
        let first = Problem { line: 0, column: 0, column_end: 0, what: what.to_owned() };
        repairs.push(RepairLine::new(Some(row.line), &row.id, shown, &Repaired { kind, count: 1, first }));
    };
    let cut = options.fragments.is_none() || record.ligand_chemistry != Chemistry::Atoms.name();
    if !cut && molecule.bonds.iter().any(|bond| bond.order == 0) {
        note(
            Repair::OrdersUnknown,
            "the file says no bond orders, and they cannot be perceived; a block for each atom",
        );
    } else if record.ligand_chemistry == Chemistry::Perceived.name() && infers_hydrogens(&molecule.structure) {
        note(Repair::HydrogensInferred, "hydrogens of carbon are not in the file; inferred from lengths and angles");
    }
    Ok(record)
}

impl Build {
    /// Checksum over what decides the result: options, vocabulary and inputs, whichever part of them is built.
    fn fingerprint(&self, sources: &Sources) -> Result<String> {
        let inputs: Vec<&str> = match sources {
            Sources::Indexes(indexes) => indexes.iter().map(|i| i.sha256.as_str()).collect(),
            Sources::Poses(poses) => vec!["poses", poses.sha256.as_str()],
            Sources::Files(files, keep_additives) => {
                let way = if *keep_additives { "discover, additives kept" } else { "discover" };
                std::iter::once(way)
                    .chain(files.files.iter().flat_map(|f| [Some(f.path.as_str()), f.ligand.as_deref()]).flatten())
                    .collect()
            }
        };
        // The manifest need not know the limit, but a build in two halves has to have one.
        let limit = (self.reading.max_decompressed, self.reading.assembly);
        let decisive = (VERSION, self.options(), self.vocabulary(), limit, inputs);
        let text = to_json(&decisive, &self.out.join(PROGRESS))?;
        Ok(sha256_hex(&text))
    }

    /// Runs the build. `tick` hears of every finished input: how many are done and how many there are.
    ///
    /// # Errors
    /// The inputs are not usable as a whole, or the output cannot be written. What is wrong with single rows goes to
    /// the ledger instead.
    pub fn run(&self, stop: &Stop, tick: &(dyn Fn(u64, u64) + Sync)) -> Result<Summary> {
        let sources = Sources::open(&self.inputs, self.reading)?;
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

enum Start {
    From(Progress),
    Finished(Summary),
}

/// The inputs of a build, opened.
enum Sources {
    Indexes(Vec<Index>),
    Poses(poses::Poses),
    Files(Files, bool),
}

impl Sources {
    fn open(inputs: &Inputs, reading: read::Options) -> Result<Self> {
        match inputs {
            Inputs::Poses { receptor, ligands } => Ok(Self::Poses(poses::Poses::open(receptor, ligands, reading)?)),
            Inputs::Indexes(paths) => Ok(Self::Indexes(paths.iter().map(|p| Index::open(p)).collect::<Result<_>>()?)),
            Inputs::Structures { paths, keep_additives } => Ok(Self::Files(discover::list(paths)?, *keep_additives)),
        }
    }

    /// Rows of all indexes, molecules, or files.
    fn len(&self) -> u64 {
        match self {
            Self::Indexes(indexes) => indexes.iter().map(Index::len).sum(),
            Self::Poses(poses) => poses.len(),
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
            Self::Poses(poses) => poses.each_group(wanted, |group| give(Job::Poses(group))),
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
            let fits = |row: &Row| {
                group.len() < TOGETHER
                    && group.first().is_none_or(|first| first.file == row.file && first.assembly == row.assembly)
            };
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

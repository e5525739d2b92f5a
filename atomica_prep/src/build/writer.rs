//! What became of the inputs, in order, on its way into shards and ledgers.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::plan::Build;
use crate::dataset::{
    by_frequency, count, Counts, Failure, Ledger, Manifest, Part, RepairLine, ShardBuilder, ShardEntry, FAILURES,
    LEDGERS, MANIFEST, PROGRESS, REPAIRS, SCHEMA_VERSION, VERSION,
};
use crate::discover::{self, Found, FOUND, LEFT_OUT};
use crate::error::{Error, Result};
use crate::files::{to_json, write_atomically};
use crate::record::Record;

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
pub(super) struct Progress {
    /// Checksum over options and inputs; a build of other ones cannot go on from here.
    pub(super) fingerprint: String,
    pub(super) part: Part,
    /// Rows that are done, counted over all inputs.
    pub(super) rows: u64,
    /// Outcomes of the next row that are done.
    pub(super) outcomes: u64,
    /// Bytes of each ledger that belong to them.
    pub(super) ledgers: BTreeMap<String, u64>,
    pub(super) counts: Counts,
    pub(super) discovered: Discovered,
    pub(super) failures: Vec<(String, u64)>,
    pub(super) repairs: Vec<RepairCount>,
    pub(super) shards: Vec<ShardEntry>,
}

/// What became of one complex.
pub(super) type Outcome = std::result::Result<Box<Record>, Box<Failure>>;

/// What became of one input: a row of an index or a file.
pub(super) struct InputOutcomes {
    pub(super) complexes: Vec<Outcome>,
    pub(super) repairs: Vec<RepairLine>,
    /// What was found, in a file that came without an index.
    pub(super) found: Option<Found>,
}

impl InputOutcomes {
    pub(super) fn failed(row: Option<u64>, id: String, error: &Error) -> Self {
        Self { complexes: vec![Err(Failure::new(row, id, error))], repairs: Vec::new(), found: None }
    }
}

/// Takes outcomes in order and writes shards and ledger.
pub(super) struct Writer<'a> {
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
    pub(super) rows_seen: u64,
    total: u64,
    rows_before: u64,
    complexes_before: u64,
    /// The first note on its way to the disk; nothing that it could lose has been done yet.
    noting: Option<JoinHandle<Result<()>>>,
}

impl<'a> Writer<'a> {
    pub(super) fn open(build: &'a Build, progress: Progress, total: u64) -> Result<Self> {
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
    pub(super) fn input(&mut self, input: InputOutcomes, skip: u64) -> Result<()> {
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

    pub(super) fn interrupted(mut self) -> Result<Summary> {
        self.settle()?;
        Ok(Summary { interrupted: true, ..self.summary() })
    }

    pub(super) fn finish(mut self) -> Result<Summary> {
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
            schema_version: SCHEMA_VERSION,
            atomica_prep_version: VERSION.to_owned(),
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

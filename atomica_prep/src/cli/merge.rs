//! Joining the parts of one build into what a single build would have written, byte for byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray as _;
use arrow_array::RecordBatch;

use crate::build::Stop;
use crate::dataset::{
    clear_folder, open_shard, read_manifest, write_batch, Counts, Failure, Ledger, Manifest, Part, ShardBuilder,
    ShardEntry, FAILURES, LEDGERS, MANIFEST, MAX_VALUES,
};
use crate::discover::{FOUND, LEFT_OUT};
use crate::error::{Error, Result};
use crate::files::{to_json, write_atomically};

/// Joins `parts`, given in any order, in the folder `out`. `tick` hears of every shard read. Gives the sums, or
/// nothing if a stop was requested; then there is no manifest.
///
/// # Errors
/// The folders are not exactly the parts of one build, one cannot be read, or `out` cannot be written.
pub fn merge(
    parts: &[PathBuf],
    out: &Path,
    overwrite: bool,
    stop: &Stop,
    tick: &dyn Fn(u64, u64),
) -> Result<Option<Counts>> {
    let parts = in_order(parts)?;
    let Some((_, first)) = parts.first() else {
        return Err(Error::Usage { message: "no parts to merge".to_owned() });
    };
    if parts.iter().any(|(folder, _)| same_folder(folder, out)) {
        return Err(Error::Usage { message: format!("--out {}: is one of the parts", out.display()) });
    }
    clear_folder(out, overwrite)?;
    let total = parts.iter().map(|(_, manifest)| manifest.shards.len() as u64).sum();
    let mut shards = Shards { out, manifest: first, pending: Vec::new(), rows: 0, sums: [0; 3], written: Vec::new() };
    let mut counts = Counts::default();
    let mut done = 0;
    for (folder, manifest) in &parts {
        for shard in &manifest.shards {
            if stop.requested() {
                return Ok(None);
            }
            shards.read(&folder.join(&shard.file))?;
            done += 1;
            tick(done, total);
        }
        counts.inputs += manifest.counts.inputs;
        counts.complexes += manifest.counts.complexes;
        counts.failures += manifest.counts.failures;
        counts.blocks += manifest.counts.blocks;
        counts.atoms += manifest.counts.atoms;
    }
    let shards = shards.finish()?;
    join_ledgers(&parts, out)?;
    let manifest = Manifest { part: None, counts, shards, ..first.clone() };
    let path = out.join(MANIFEST);
    write_atomically(&path, &to_json(&manifest, &path)?)?;
    Ok(Some(counts))
}

fn same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The parts by their number, if they are all parts of one build.
fn in_order(folders: &[PathBuf]) -> Result<Vec<(PathBuf, Manifest)>> {
    let usage = |message: String| Err(Error::Usage { message });
    let mut parts: BTreeMap<u64, (PathBuf, Manifest)> = BTreeMap::new();
    let mut of = None;
    for folder in folders {
        let shown = folder.display();
        let manifest = read_manifest(folder)?;
        let part = manifest.part.unwrap_or(Part::WHOLE);
        let (known, fingerprint) = of.get_or_insert_with(|| (part.of, manifest.fingerprint.clone()));
        if *known != part.of || *fingerprint != manifest.fingerprint {
            let first = folders.first().map(|f| f.display().to_string()).unwrap_or_default();
            return usage(format!(
                "{shown}: is part {} of {} of a build with other options, inputs or version than {first}",
                part.number, part.of
            ));
        }
        if let Some((other, _)) = parts.insert(part.number, (folder.clone(), manifest)) {
            let number = part.number;
            return usage(format!("{shown}: is part {number} of the build, and {} is that as well", other.display()));
        }
    }
    let missing: Vec<String> = match &of {
        Some((of, _)) => (1..=*of).filter(|n| !parts.contains_key(n)).map(|n| n.to_string()).collect(),
        None => Vec::new(),
    };
    match missing.as_slice() {
        [] => Ok(parts.into_values().collect()),
        _ => usage(format!("parts {} of {} are missing", missing.join(", "), parts.len() + missing.len())),
    }
}

/// Cuts records into shards where a single build would have.
struct Shards<'a> {
    out: &'a Path,
    manifest: &'a Manifest,
    pending: Vec<RecordBatch>,
    rows: u64,
    /// Values of the columns that can end a shard early.
    sums: [usize; 3],
    written: Vec<ShardEntry>,
}

impl Shards<'_> {
    fn read(&mut self, path: &Path) -> Result<()> {
        let wrong = |reason: String| Error::NotADataset { path: path.display().to_string(), reason };
        for batch in open_shard(path, None)? {
            let batch = batch?;
            let lengths = lengths(&batch).ok_or_else(|| wrong("columns are missing or of another type".to_owned()))?;
            self.take(&batch, &lengths)?;
        }
        Ok(())
    }

    fn take(&mut self, batch: &RecordBatch, lengths: &[[usize; 3]]) -> Result<()> {
        let mut begin = 0;
        for (row, lengths) in lengths.iter().enumerate() {
            self.rows += 1;
            for (sum, length) in self.sums.iter_mut().zip(lengths) {
                *sum += length;
            }
            if self.rows >= self.manifest.options.shard_rows || self.sums.iter().any(|sum| *sum >= MAX_VALUES) {
                self.pending.push(batch.slice(begin, row + 1 - begin));
                begin = row + 1;
                self.close()?;
            }
        }
        if begin < batch.num_rows() {
            self.pending.push(batch.slice(begin, batch.num_rows() - begin));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let compression = self.manifest.options.compression;
        let number = self.written.len();
        let batches = std::mem::take(&mut self.pending);
        let entry = match batches.first() {
            None => ShardBuilder::default().write(self.out, number, compression)?,
            Some(first) => {
                let joined = arrow_select::concat::concat_batches(&first.schema(), &batches);
                let path = self.out.display().to_string();
                let joined = joined.map_err(|e| Error::Write { path, reason: e.to_string() })?;
                write_batch(&joined, self.out, number, compression)?
            }
        };
        self.written.push(entry);
        (self.rows, self.sums) = (0, [0; 3]);
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<ShardEntry>> {
        if !self.pending.is_empty() || self.written.is_empty() {
            self.close()?;
        }
        Ok(self.written)
    }
}

/// What each row adds to the columns that bound a shard.
fn lengths(batch: &RecordBatch) -> Option<Vec<[usize; 3]>> {
    let list = |name: &str| batch.column_by_name(name)?.as_list_opt::<i32>();
    let (intra, positions, torsions) = (list("atom_intra")?, list("positions")?, list("torsion_atoms")?);
    let rows = intra.offsets().lengths().zip(positions.offsets().lengths()).zip(torsions.offsets().lengths());
    Some(rows.map(|((a, b), c)| [a, 3 * b, c]).collect())
}

/// Appends the ledgers of the parts to one another.
fn join_ledgers(parts: &[(PathBuf, Manifest)], out: &Path) -> Result<()> {
    for name in LEDGERS {
        if !parts.iter().all(|(folder, _)| folder.join(name).is_file()) {
            continue;
        }
        let mut joined = Ledger::open(out.join(name), 0)?;
        // Lines of the index of what was found that earlier parts have.
        let mut before = 0;
        for (number, (folder, _)) in parts.iter().enumerate() {
            let path = folder.join(name);
            let wrong = |e: String| Error::NotADataset { path: path.display().to_string(), reason: e };
            let lines = BufReader::new(File::open(&path).map_err(|e| wrong(e.to_string()))?).lines();
            let table = [FOUND, LEFT_OUT].contains(&name);
            for line in lines.skip(usize::from(table && number > 0)) {
                let line = line.map_err(|e| wrong(e.to_string()))?;
                if name == FAILURES && before > 0 {
                    let mut failure: Failure = serde_json::from_str(&line).map_err(|e| wrong(e.to_string()))?;
                    failure.row = failure.row.map(|row| row + before);
                    joined.append_json(&failure)?;
                } else {
                    joined.append(line.as_bytes())?;
                    joined.append(b"\n")?;
                }
            }
            if name == FAILURES {
                before += found_in(folder)?;
            }
        }
        joined.sync()?;
    }
    Ok(())
}

/// Interfaces that a part found, if it looked for them.
fn found_in(folder: &Path) -> Result<u64> {
    let path = folder.join(FOUND);
    if !path.is_file() {
        return Ok(0);
    }
    let wrong = |e: std::io::Error| Error::NotADataset { path: path.display().to_string(), reason: e.to_string() };
    let mut lines = 0u64;
    for line in BufReader::new(File::open(&path).map_err(wrong)?).lines() {
        line.map_err(wrong)?;
        lines += 1;
    }
    Ok(lines.saturating_sub(1))
}

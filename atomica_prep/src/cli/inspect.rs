//! `atomica-prep inspect`: a data set in numbers, or one complex as a table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int8Type, UInt16Type, UInt32Type, UInt8Type};
use arrow_array::{Array, RecordBatch};

use crate::dataset::{failures_by_code, open_shard, read_manifest, Manifest, FAILURES, REPAIRS};
use crate::error::{Error, Result};
use crate::interface::COVALENT;
use crate::vocab;

/// What a data set holds, or with an id that complex, as text.
pub fn inspect(folder: &Path, id: Option<&str>) -> Result<String> {
    let manifest = read_manifest(folder)?;
    match id {
        None => overview(folder, &manifest),
        Some(id) => complex(folder, &manifest, id),
    }
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::NotADataset { path: path.display().to_string(), reason: reason.to_string() }
}

/// The record batches of all shards with the named columns (all of them if none is named), one at a time.
fn batches<'a>(
    folder: &'a Path,
    manifest: &'a Manifest,
    columns: &'a [&'a str],
) -> impl Iterator<Item = Result<RecordBatch>> + 'a {
    manifest.shards.iter().flat_map(move |entry| {
        let (opened, failed) = match open_shard(&folder.join(&entry.file), Some(columns).filter(|c| !c.is_empty())) {
            Ok(batches) => (Some(batches), None),
            Err(error) => (None, Some(Err(error))),
        };
        opened.into_iter().flatten().chain(failed)
    })
}

/// `write!` into a string cannot fail.
macro_rules! line {
    ($text:expr, $($part:tt)*) => {
        let _ = writeln!($text, $($part)*);
    };
}

fn overview(folder: &Path, manifest: &Manifest) -> Result<String> {
    let counts = &manifest.counts;
    let mut text = String::new();
    line!(text, "{}", folder.display());
    line!(text, "  complexes      {}", counts.complexes);
    line!(text, "  failures       {} of {} inputs", counts.failures, counts.inputs);
    line!(text, "  blocks, atoms  {}, {}", counts.blocks, counts.atoms);
    line!(text, "  shards         {}", manifest.shards.len());
    line!(text, "  cutoff         {} Å, {}", manifest.cutoff, manifest.options.interface_rule);
    line!(text, "  neighbours     {}", manifest.neighbors);
    line!(text, "  fragments      {}", manifest.vocabulary.fragments);
    let mut sums = Sums::default();
    for batch in batches(folder, manifest, &["modality", "split", "block_types", "atom_types"]) {
        sums.add(&batch?).ok_or_else(|| wrong(folder, "columns are missing or of another type"))?;
    }
    for (name, count) in std::iter::once("other").chain(vocab::MODALITIES).zip(sums.kinds).filter(|(_, c)| *c > 0) {
        line!(text, "  {name:<14} {count}");
    }
    for (split, count) in &sums.splits {
        line!(text, "  {:<14} {count}", if split.is_empty() { "without split" } else { split });
    }
    histogram(&mut text, "blocks", &sums.blocks);
    histogram(&mut text, "atoms", &sums.atoms);
    if counts.failures > 0 {
        line!(text, "  failures by code ({FAILURES})");
        for (code, count) in failures_by_code(folder)? {
            line!(text, "    {code:<16} {count}");
        }
    }
    for (kind, count, inputs) in repairs_by_kind(folder)? {
        line!(text, "  mended         {count} {kind} in {inputs} inputs");
    }
    Ok(text)
}

/// Counts over the complexes of a data set.
#[derive(Default)]
struct Sums {
    kinds: [u64; 9],
    splits: BTreeMap<String, u64>,
    /// Complexes by the binary logarithm of their size.
    blocks: BTreeMap<u32, u64>,
    atoms: BTreeMap<u32, u64>,
}

impl Sums {
    /// `None` if a column is not what it should be.
    fn add(&mut self, batch: &RecordBatch) -> Option<()> {
        for value in batch.column_by_name("modality")?.as_primitive_opt::<Int8Type>()?.values() {
            *usize::try_from(i64::from(*value) + 1).ok().and_then(|i| self.kinds.get_mut(i))? += 1;
        }
        for split in batch.column_by_name("split")?.as_string_opt::<i32>()? {
            *self.splits.entry(split.unwrap_or_default().to_owned()).or_default() += 1;
        }
        for (name, sizes) in [("block_types", &mut self.blocks), ("atom_types", &mut self.atoms)] {
            for length in batch.column_by_name(name)?.as_list_opt::<i32>()?.offsets().lengths() {
                *sizes.entry(length.checked_ilog2().unwrap_or(0)).or_default() += 1;
            }
        }
        Some(())
    }
}

/// Sizes by powers of two, as bars.
fn histogram(text: &mut String, what: &str, sizes: &BTreeMap<u32, u64>) {
    const WIDTH: u64 = 40;
    let most = sizes.values().copied().max().unwrap_or(1).max(1);
    line!(text, "  {what} per complex");
    for (power, count) in sizes {
        let (low, high) = (1u64 << power, (1u64 << (power + 1)) - 1);
        let bar = "#".repeat(usize::try_from((count * WIDTH).div_ceil(most)).unwrap_or(0));
        line!(text, "    {:>15} {count:>9} {bar}", format!("{low}-{high}"));
    }
}

/// Kind of repair, how many, and in how many inputs. Data sets of old have no list of them.
fn repairs_by_kind(folder: &Path) -> Result<Vec<(String, u64, u64)>> {
    #[derive(serde::Deserialize)]
    struct Line {
        kind: String,
        count: u64,
    }
    let path = folder.join(REPAIRS);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let mut kinds: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in BufReader::new(File::open(&path).map_err(|e| wrong(&path, e))?).lines() {
        let line = line.map_err(|e| wrong(&path, e))?;
        let line: Line = serde_json::from_str(&line).map_err(|e| wrong(&path, e))?;
        let sums = kinds.entry(line.kind).or_default();
        sums.0 += line.count;
        sums.1 += 1;
    }
    Ok(kinds.into_iter().map(|(kind, (count, inputs))| (kind, count, inputs)).collect())
}

fn complex(folder: &Path, manifest: &Manifest, id: &str) -> Result<String> {
    for batch in batches(folder, manifest, &[]) {
        let batch = batch?;
        let ids = batch.column_by_name("id").and_then(|c| c.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| wrong(folder, "no text column id"))?;
        if let Some(row) = ids.iter().position(|i| i == Some(id)) {
            let neighbors = usize::try_from(manifest.neighbors).unwrap_or(0);
            let table = table(&batch, row, id, neighbors);
            return table.ok_or_else(|| wrong(folder, "columns are missing or of another type"));
        }
    }
    Err(Error::Usage { message: format!("{}: no complex {id:?}", folder.display()) })
}

/// An entry of a record's metadata.
fn noted(batch: &RecordBatch, row: usize, key: &str) -> Option<String> {
    let entries = batch.column_by_name("metadata")?.as_map_opt()?.value(row);
    let keys = entries.column(0).as_string_opt::<i32>()?;
    let at = keys.iter().position(|known| known == Some(key))?;
    Some(entries.column(1).as_string_opt::<i32>()?.value(at).to_owned())
}

fn table(batch: &RecordBatch, row: usize, id: &str, neighbors: usize) -> Option<String> {
    let text_of = |name: &str| -> Option<String> {
        Some(batch.column_by_name(name)?.as_string_opt::<i32>()?.value(row).to_owned())
    };
    let list = |name: &str| Some(batch.column_by_name(name)?.as_list_opt::<i32>()?.value(row));
    let types = list("block_types")?;
    let types = types.as_primitive_opt::<UInt16Type>()?.values();
    let lengths = list("block_lengths")?;
    let lengths = lengths.as_primitive_opt::<UInt32Type>()?.values();
    let segments = list("segment_ids")?;
    let segments = segments.as_primitive_opt::<UInt8Type>()?.values();
    let resnums = list("block_resnums")?;
    let resnums = resnums.as_primitive_opt::<Int32Type>()?.values();
    let chains = list("block_chains")?;
    let chains = chains.as_string_opt::<i32>()?;
    let icodes = list("block_icodes")?;
    let icodes = icodes.as_string_opt::<i32>()?;
    let components = list("block_components")?;
    let components = components.as_string_opt::<i32>()?;
    let names = list("atom_names")?;
    let names = names.as_string_opt::<i32>()?;
    let (near_intra, near_inter) = (list("block_intra")?, list("block_inter")?);
    let near_intra = near_intra.as_primitive_opt::<Int32Type>()?.values();
    let near_inter = near_inter.as_primitive_opt::<Int32Type>()?.values();
    let symbols = vocab::block_symbols();
    let mut text = String::new();
    line!(text, "{id}  {}  ligand cut by: {}", text_of("source_path")?, text_of("ligand_chemistry")?);
    if let Some(atoms) = noted(batch, row, COVALENT) {
        line!(text, "ligand covalently attached to: {atoms}");
    }
    line!(
        text,
        "{:>5} {:>3} {:<6} {:<5} {:>6} {:<9} {:>5} {:>5} atoms",
        "block",
        "seg",
        "type",
        "chain",
        "number",
        "component",
        "intra",
        "inter"
    );
    let mut atom = 0usize;
    let blocks = types.iter().zip(lengths).zip(segments).zip(resnums).enumerate();
    for (i, (((kind, length), segment), resnum)) in blocks {
        let end = atom.checked_add(*length as usize)?.min(names.len());
        let atoms: Vec<&str> = (atom..end).map(|a| names.value(a)).collect();
        atom = end;
        let symbol = symbols.get(usize::from(*kind)).map_or_else(|| kind.to_string(), |s| (*s).to_owned());
        if i >= chains.len() || i >= icodes.len() || i >= components.len() {
            return None;
        }
        let number = format!("{resnum}{}", icodes.value(i));
        // Stored neighbours in its own partner and in the other; unused places hold -1.
        let count = |list: &[i32]| {
            let own = list.get(i * neighbors..(i + 1) * neighbors).unwrap_or_default();
            own.iter().filter(|j| **j >= 0).count()
        };
        let (intra, inter) = (count(near_intra), count(near_inter));
        line!(
            text,
            "{i:>5} {segment:>3} {symbol:<6} {:<5} {number:>6} {:<9} {intra:>5} {inter:>5} {}",
            chains.value(i),
            components.value(i),
            atoms.join(" ")
        );
    }
    Some(text)
}

//! `atomica-prep inspect`: a data set in numbers, or one complex as a table.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int8Type, UInt16Type, UInt32Type, UInt8Type};
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::FileReader;

use crate::cli::DONE;
use crate::error::{Error, Result};
use crate::pipeline::read_manifest;
use crate::shard::Manifest;
use crate::vocab;

/// Prints to standard output and gives the exit code.
pub fn run(folder: &Path, id: Option<&str>) -> Result<u8> {
    let manifest = read_manifest(folder)?;
    let text = match id {
        None => overview(folder, &manifest)?,
        Some(id) => complex(folder, &manifest, id)?,
    };
    print!("{text}");
    Ok(DONE)
}

fn wrong(path: &Path, reason: impl ToString) -> Error {
    Error::NotADataset { path: path.display().to_string(), reason: reason.to_string() }
}

fn batches(folder: &Path, manifest: &Manifest) -> impl Iterator<Item = Result<RecordBatch>> {
    let paths: Vec<_> = manifest.shards.iter().map(|s| folder.join(&s.file)).collect();
    paths.into_iter().flat_map(|path| {
        let opened = File::open(&path)
            .map_err(|e| wrong(&path, e))
            .and_then(|f| FileReader::try_new(f, None).map_err(|e| wrong(&path, e)));
        let list: Vec<Result<RecordBatch>> = match opened {
            Ok(reader) => reader.map(|b| b.map_err(|e| wrong(&path, e))).collect(),
            Err(error) => vec![Err(error)],
        };
        list
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
    let mut kinds = [0u64; 9];
    for batch in batches(folder, manifest) {
        let batch = batch?;
        let column = batch.column_by_name("modality").ok_or_else(|| wrong(folder, "no column modality"))?;
        let modality = column.as_primitive_opt::<Int8Type>().ok_or_else(|| wrong(folder, "modality is no int8"))?;
        for value in modality.values() {
            if let Some(count) = usize::try_from(i64::from(*value) + 1).ok().and_then(|i| kinds.get_mut(i)) {
                *count += 1;
            }
        }
    }
    for (name, count) in std::iter::once("other").chain(vocab::MODALITIES).zip(kinds).filter(|(_, c)| *c > 0) {
        line!(text, "  {name:<14} {count}");
    }
    Ok(text)
}

fn complex(folder: &Path, manifest: &Manifest, id: &str) -> Result<String> {
    for batch in batches(folder, manifest) {
        let batch = batch?;
        let ids = batch.column_by_name("id").and_then(|c| c.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| wrong(folder, "no text column id"))?;
        if let Some(row) = ids.iter().position(|i| i == Some(id)) {
            return table(&batch, row, id).ok_or_else(|| wrong(folder, "columns are missing or of another type"));
        }
    }
    Err(Error::Usage { message: format!("{}: no complex {id:?}", folder.display()) })
}

fn table(batch: &RecordBatch, row: usize, id: &str) -> Option<String> {
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
    let symbols = vocab::block_symbols();
    let mut text = String::new();
    line!(text, "{id}  {}  ligand cut by: {}", text_of("source_path")?, text_of("ligand_chemistry")?);
    line!(text, "{:>5} {:>3} {:<6} {:<5} {:>6} {:<9} atoms", "block", "seg", "type", "chain", "number", "component");
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
        line!(
            text,
            "{i:>5} {segment:>3} {symbol:<6} {:<5} {number:>6} {:<9} {}",
            chains.value(i),
            components.value(i),
            atoms.join(" ")
        );
    }
    Some(text)
}

//! Many molecules against one receptor: the index that nobody has to write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::index::{chain_text, Index};
use crate::interface::{polymer_side, Rule, Subject};
use crate::read::ligand::LigandFile;
use crate::read::{self, stem_of};

/// The receptor, read, and an index with a row for each molecule of the ligand files.
///
/// Ids are the titles of the molecules, or the names of their files; those that are there more than once are numbered.
///
/// # Errors
/// A file cannot be read, or the receptor has no polymer.
pub(super) fn open(receptor: &Path, ligands: &[PathBuf], reading: read::Options) -> Result<(Subject, Index)> {
    let shown = absolute(receptor)?;
    let subject = Subject::new(read::read_file(receptor, &shown, reading)?);
    let chains = &subject.structure().chains;
    let polymers: Vec<&str> = chains
        .iter()
        .enumerate()
        .filter(|(chain, _)| !polymer_side(&subject, &[*chain], Rule::AllPairs, &[]).blocks.is_empty())
        .map(|(_, id)| id.as_str())
        .collect();
    if polymers.is_empty() {
        return Err(Error::EmptyPartner { path: shown, chains: chains.join("_") });
    }
    let chain1 = polymers.iter().map(|id| chain_text(id)).collect::<Vec<_>>().join("_");
    let mut rows: Vec<(String, String, usize)> = Vec::new();
    for path in ligands {
        let shown = absolute(path)?;
        let file = LigandFile::open(path, &shown, reading)?;
        for index in 0..file.len() {
            // A molecule that cannot be read is a failure of its row.
            let title = file.molecule(index).map(|m| m.title).unwrap_or_default();
            let title: String = title.chars().filter(|c| !c.is_control()).collect();
            let title = Some(title.trim()).filter(|t| !t.is_empty()).unwrap_or_else(|| stem_of(&shown)).to_owned();
            rows.push((title, shown.clone(), index));
        }
    }
    let mut times: HashMap<&str, usize> = HashMap::new();
    for (title, ..) in &rows {
        *times.entry(title).or_default() += 1;
    }
    let mut given: HashMap<&str, usize> = HashMap::new();
    let mut text = csv::Writer::from_writer(Vec::new());
    // Writing to memory does not fail.
    let _ = text.write_record(["id", "path", "chain1", "ligand_path", "ligand_index"]);
    for (title, path, index) in &rows {
        let id = match times.get(title.as_str()) {
            Some(1) => title.clone(),
            _ => {
                let number = given.entry(title).or_default();
                *number += 1;
                format!("{title}_{}", *number - 1)
            }
        };
        let _ = text.write_record([&id, &shown, &chain1, path, &index.to_string()]);
    }
    let text = text.into_inner().unwrap_or_default();
    Ok((subject, Index::parse(text, "--ligands".to_owned(), PathBuf::new())?))
}

/// The whole path, which a record keeps.
fn absolute(path: &Path) -> Result<String> {
    let wrong = |reason: &str| Error::Usage { message: format!("{}: {reason}", path.display()) };
    let whole = std::path::absolute(path).map_err(|e| wrong(&e.to_string()))?;
    whole.to_str().map(str::to_owned).ok_or_else(|| wrong("its name is not UTF-8 text; rename it"))
}

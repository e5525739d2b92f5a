//! The folder of a data set: what in it is ours, and emptying it.

use std::path::Path;

use super::ledger::LEDGERS;
use super::manifest::MANIFEST;
use crate::error::{Error, Result};

pub(crate) const PROGRESS: &str = "progress.json";

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

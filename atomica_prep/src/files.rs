//! Files that are written whole or not at all, and their checksums.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 as hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// SHA-256 of a file, which is not held in memory, as hex digits.
///
/// # Errors
/// What the system says if it cannot be read.
pub fn sha256_of(path: &Path) -> std::io::Result<String> {
    let (mut file, mut digest) = (File::open(path)?, Sha256::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(digest.finalize().as_slice())),
            count => digest.update(piece.get(..count).unwrap_or_default()),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut hex = String::with_capacity(64);
    for byte in digest {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Writes a file under a temporary name, flushes it to the disk and renames it.
///
/// # Errors
/// The folder cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let wrong = |e: std::io::Error| Error::Write { path: path.display().to_string(), reason: e.to_string() };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary).map_err(wrong)?;
    file.write_all(bytes).map_err(wrong)?;
    file.sync_all().map_err(wrong)?;
    drop(file);
    std::fs::rename(&temporary, path).map_err(wrong)?;
    // The new name is safe only once the folder is; not every system lets one open folders.
    if let Some(folder) = path.parent().and_then(|p| File::open(p).ok()) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// JSON with a line end.
///
/// # Errors
/// Never for the types of this module; kept so that no caller has to promise it.
pub fn to_json(value: &impl Serialize, path: &Path) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::Write { path: path.display().to_string(), reason: e.to_string() })?;
    text.push(b'\n');
    Ok(text)
}

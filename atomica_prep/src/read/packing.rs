//! Files as they are on disk, and without their packing.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use super::gunzip;
use crate::error::{Error, Result};
use crate::files::sha256_hex;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// The extension of a file's name in lower case, without that of its packing.
    pub(super) fn of(path: &Path) -> Option<(String, Self)> {
        let mut name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let mut packing = Self::Plain;
        for (suffix, kind) in [(".gz", Self::Gzip), (".zst", Self::Zstd)] {
            if let Some(stem) = name.strip_suffix(suffix) {
                name = stem.to_owned();
                packing = kind;
            }
        }
        Some((name.rsplit_once('.')?.1.to_owned(), packing))
    }
}

/// A file's bytes and their checksum.
pub(super) fn load(path: &Path, shown: &str) -> Result<(Vec<u8>, String)> {
    let raw = std::fs::read(path).map_err(|e| Error::Io { path: shown.to_owned(), reason: e.to_string() })?;
    let sha256 = sha256_hex(&raw);
    Ok((raw, sha256))
}

/// The bytes of a file without its packing.
pub(super) fn unpacked<'a>(raw: &'a [u8], packing: Packing, limit: u64, shown: &str) -> Result<Cow<'a, [u8]>> {
    let empty = |bytes: &[u8]| match bytes {
        [] => Err(Error::EmptyFile { path: shown.to_owned() }),
        _ => Ok(()),
    };
    empty(raw)?;
    let text = match packing {
        Packing::Plain => return Ok(Cow::Borrowed(raw)),
        Packing::Gzip => match gunzip::gunzip(raw, limit) {
            Some(text) => text,
            None => unpack(flate2::read::MultiGzDecoder::new(raw), raw.len(), limit, shown)?,
        },
        Packing::Zstd => {
            let decoder = zstd::stream::read::Decoder::new(raw)
                .map_err(|e| Error::Decompress { path: shown.to_owned(), reason: e.to_string() })?;
            unpack(decoder, raw.len(), limit, shown)?
        }
    };
    empty(&text)?;
    Ok(Cow::Owned(text))
}

fn unpack(decoder: impl Read, packed: usize, limit: u64, shown: &str) -> Result<Vec<u8>> {
    let guess = packed.saturating_mul(6).min(1 << 28);
    let mut out = Vec::with_capacity(usize::try_from(limit).map_or(guess, |limit| guess.min(limit)));
    // One byte more than the limit tells a file that reaches it from one that goes beyond.
    let read = decoder.take(limit.saturating_add(1)).read_to_end(&mut out);
    read.map_err(|e| Error::Decompress { path: shown.to_owned(), reason: e.to_string() })?;
    if out.len() as u64 > limit {
        return Err(Error::Oversized { path: shown.to_owned(), what: "unpacks to".to_owned(), limit });
    }
    Ok(out)
}

//! Files as they are on disk, and without their packing.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;

use memchr::{memchr, memchr_iter, memrchr};

use super::gunzip;
use crate::error::{Error, Problem, Problems, Result};
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

const UNPACK: &str = "unpack it, or pack it with gzip or zstd";

/// Text without a byte order mark, its lines ended by line feeds. Text with a NUL is damaged, and refused.
pub(super) fn text<'a>(bytes: Cow<'a, [u8]>, shown: &str) -> Result<Cow<'a, [u8]>> {
    let refused = |encoding| {
        let remedy = "save it as UTF-8 or ASCII, as with iconv -f UTF-16 -t UTF-8";
        Err(Error::Encoding { path: shown.to_owned(), encoding, remedy })
    };
    let head = bytes.get(..64).unwrap_or(&bytes);
    let zeros = |first: usize| head.len() >= 4 && head.iter().skip(first).step_by(2).all(|c| *c == 0);
    match head {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return refused("UTF-32 text"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return refused("UTF-16 text"),
        _ if zeros(0) != zeros(1) => return refused("UTF-16 text without a byte order mark"),
        _ => {}
    }
    let bytes = match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.strip_prefix(MARK).unwrap_or(bytes)),
        Cow::Owned(mut bytes) => {
            if bytes.starts_with(MARK) {
                bytes.drain(..MARK.len());
            }
            Cow::Owned(bytes)
        }
    };
    if let Some(at) = memchr(0, &bytes) {
        let before = bytes.get(..at).unwrap_or_default();
        let line = 1 + memchr_iter(b'\n', before).count() as u64;
        let column = (before.len() - memrchr(b'\n', before).map_or(0, |end| end + 1)) as u64 + 1;
        let what = "a NUL byte: the file is damaged from here on".to_owned();
        let mut problems = Problems::default();
        problems.push(Problem { line, column, column_end: column, what });
        return Err(Error::BadRecords { path: shown.to_owned(), problems });
    }
    // Files with such lines have them from the first one on; only the odd ones are looked through to the end.
    let head = bytes.get(..1 << 12).unwrap_or(&bytes);
    let alone =
        |text: &[u8]| memchr_iter(b'\r', text).any(|at| text.get(at + 1).is_none_or(|c| !matches!(c, b'\n' | b'\r')));
    match alone(head.strip_suffix(b"\r").unwrap_or(head)) {
        true => Ok(Cow::Owned(with_line_feeds(&bytes))),
        false => Ok(bytes),
    }
}

/// Byte order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Every carriage return that no line feed follows becomes one.
pub(super) fn with_line_feeds(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    for at in memchr_iter(b'\r', text) {
        if text.get(at + 1) != Some(&b'\n') {
            if let Some(slot) = out.get_mut(at) {
                *slot = b'\n';
            }
        }
    }
    out
}

/// A file's bytes and their checksum.
pub(super) fn load(path: &Path, shown: &str) -> Result<(Vec<u8>, String)> {
    let raw = std::fs::read(path).map_err(|e| Error::Io { path: shown.to_owned(), reason: e.to_string() })?;
    let sha256 = sha256_hex(&raw);
    Ok((raw, sha256))
}

/// Is nothing but ASCII at the beginning?
fn is_text(raw: &[u8]) -> bool {
    // All of them are looked at, many at a time.
    let odd = |c: &u8| matches!(c, 0..=8 | 14..=31 | 127..);
    !raw.iter().take(512).fold(false, |found, c| found | odd(c))
}

/// How a file is packed: what its first bytes say counts, whatever its name does.
fn packing_of(head: &[u8], named: Packing, shown: &str) -> Result<Packing> {
    let refused = |encoding, remedy| Err(Error::Encoding { path: shown.to_owned(), encoding, remedy });
    match head {
        [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Packing::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => refused("packed with bzip2", UNPACK),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => refused("packed with xz", UNPACK),
        [b'P', b'K', 3, 4, ..] => refused("a zip archive", UNPACK),
        [0x1f, 0x9d, ..] => refused("packed with compress", UNPACK),
        _ if is_tar(head) => refused("a tar archive", UNPACK),
        _ if is_text(head.strip_prefix(MARK).unwrap_or(head)) => Ok(Packing::Plain),
        _ => Ok(named),
    }
}

/// Does a tar archive begin so?
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// What was unpacked must not be packed once more, or an archive.
fn check_inner(head: &[u8], shown: &str) -> Result<()> {
    match packing_of(head, Packing::Plain, shown)? {
        Packing::Plain => Ok(()),
        _ => Err(Error::Encoding { path: shown.to_owned(), encoding: "packed twice", remedy: "unpack it once" }),
    }
}

/// A file without its packing, to be read from its beginning on. What goes wrong on the way has no path yet.
pub(super) fn stream(path: &Path, named: Packing, shown: &str) -> Result<Box<dyn Read>> {
    let unreadable = |e: std::io::Error| Error::Io { path: shown.to_owned(), reason: e.to_string() };
    let mut file = std::io::BufReader::with_capacity(1 << 16, File::open(path).map_err(unreadable)?);
    let packing = packing_of(file.fill_buf().map_err(unreadable)?, named, shown)?;
    let damaged = |e: std::io::Error| Error::Decompress { path: shown.to_owned(), reason: e.to_string() };
    Ok(match packing {
        Packing::Plain => Box::new(file),
        Packing::Gzip => checked(flate2::bufread::MultiGzDecoder::new(file), shown)?,
        Packing::Zstd => checked(zstd::stream::read::Decoder::with_buffer(file).map_err(damaged)?, shown)?,
    })
}

/// What a decoder gives, its beginning looked at.
fn checked<'a>(decoder: impl Read + 'a, shown: &str) -> Result<Box<dyn Read + 'a>> {
    let mut inner = std::io::BufReader::with_capacity(1 << 16, decoder);
    // What is wrong with the packing is told by whoever reads it.
    check_inner(inner.fill_buf().unwrap_or_default(), shown)?;
    Ok(Box::new(inner))
}

/// The bytes of a file without its packing.
pub(super) fn unpacked<'a>(raw: &'a [u8], packing: Packing, limit: u64, shown: &str) -> Result<Cow<'a, [u8]>> {
    let empty = |bytes: &[u8]| match bytes {
        [] => Err(Error::EmptyFile { path: shown.to_owned() }),
        _ => Ok(()),
    };
    empty(raw)?;
    let packing = packing_of(raw, packing, shown)?;
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
    check_inner(text.get(..1 << 9).unwrap_or(&text), shown)?;
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

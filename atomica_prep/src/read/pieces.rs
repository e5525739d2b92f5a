//! Ligand files a piece at a time, so that one of a million molecules is never in memory as a whole.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use memchr::{memchr, memchr_iter, memmem};

use super::ligand::{Kind, LigandFile};
use super::options::Options;
use super::packing::stream;
use crate::error::{Error, Result};
use crate::files::sha256_of;

/// Bytes of a piece, about. Smaller files are read at once.
const PIECE: usize = 1 << 23;

const MOL2: &[u8] = b"@<TRIPOS>MOLECULE";

/// Hands on the molecules of a file, piece by piece, in order; `shown` is its name in messages. Files of PDB and PDBQT
/// are one piece: their bonds may stand behind all poses. Gives whether it came to the end.
///
/// # Errors
/// As those of [`LigandFile::open`], and what `give` says.
pub fn each(
    path: &Path,
    shown: &str,
    options: Options,
    mut give: impl FnMut(LigandFile) -> Result<bool>,
) -> Result<bool> {
    let (kind, packing) = LigandFile::kind_of(path, shown)?;
    let unreadable = |e: std::io::Error| Error::Io { path: shown.to_owned(), reason: e.to_string() };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size <= PIECE as u64 || matches!(kind, Kind::Pdb | Kind::Pdbqt) {
        return give(LigandFile::open(path, shown, options)?);
    }
    let sha256 = sha256_of(path).map_err(unreadable)?;
    let mut source = stream(path, packing, shown)?;
    let (mut text, mut taken, mut first, mut lines) = (Vec::new(), 0, 0, 0);
    let mut kind = kind;
    loop {
        let had = text.len();
        // A molecule that is larger than a piece makes a larger one.
        let wanted = PIECE.max(had) as u64;
        let read = source.by_ref().take(wanted).read_to_end(&mut text);
        read.map_err(|e| Error::Decompress { path: shown.to_owned(), reason: e.to_string() })?;
        let ended = ((text.len() - had) as u64) < wanted;
        taken += (text.len() - had) as u64;
        if taken > options.max_decompressed.max(size) {
            let limit = options.max_decompressed;
            return Err(Error::Oversized { path: shown.to_owned(), what: "unpacks to".to_owned(), limit });
        }
        let Some(end) = (if ended { Some(text.len()) } else { whole_molecules(&text, kind) }) else { continue };
        let rest = text.split_off(end);
        if ended && first > 0 && text.trim_ascii().is_empty() {
            return Ok(true);
        }
        let breaks = memchr_iter(b'\n', &text).count() as u64;
        let piece = LigandFile::piece(Cow::Owned(text), kind, &sha256, shown, (first, lines), options)?;
        (kind, first, lines, text) = (piece.kind(), first + piece.len(), lines + breaks, rest);
        if !give(piece)? {
            return Ok(false);
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Where the last whole molecule ends, if there is one.
fn whole_molecules(text: &[u8], named: Kind) -> Option<usize> {
    let has = |word: &[u8]| memmem::find(text, word).is_some();
    if has(MOL2) && !(named == Kind::Sdf && (has(b"V2000") || has(b"V3000"))) {
        let end = memmem::rfind(text, &[b"\n", MOL2].concat())? + 1;
        return memmem::find(text.get(..end)?, MOL2).map(|_| end);
    }
    let mut before = text;
    loop {
        let last = memmem::rfind(before, b"\n$$$$")? + 1;
        match memchr(b'\n', text.get(last..)?) {
            Some(length) => return Some(last + length + 1),
            None => before = text.get(..last - 1)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_with_molecules() {
        let end = |text: &str, kind| whole_molecules(text.as_bytes(), kind).map(|end| text[..end].to_owned());
        assert_eq!(end("a\nV2000\n$$$$\nb\nV2000\n", Kind::Sdf).as_deref(), Some("a\nV2000\n$$$$\n"));
        assert_eq!(end("a\nV2000\n$$$$\nb\nV2000\n$$$$", Kind::Sdf).as_deref(), Some("a\nV2000\n$$$$\n"));
        assert_eq!(end("a\nV2000\n$$$", Kind::Sdf), None);
        let one = "@<TRIPOS>MOLECULE\na\n";
        assert_eq!(end(one, Kind::Mol2), None);
        assert_eq!(end(&format!("# by hand\n{one}"), Kind::Mol2), None);
        assert_eq!(end(&one.repeat(3), Kind::Mol2), Some(one.repeat(2)));
    }

    #[test]
    fn pieces_are_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let atom = "    1.0000    2.0000    3.0000 C   0  0  0  0  0  0  0  0  0  0  0  0\n";
        let data = format!("> <remark>\n{}\n\n", "x".repeat(2000));
        let molecule = |n: usize| {
            let counts = if n == 4998 { "  x  0" } else { "  1  0" };
            format!("mol{n}\n\n\n{counts}  0  0  0  0  0  0  0  0999 V2000\n{atom}M  END\n{data}$$$$\n")
        };
        let text: String = (0..5000).map(molecule).collect();
        let plain = folder.path().join("plain.sdf");
        std::fs::write(&plain, &text).unwrap();
        let zstd = folder.path().join("packed.sdf.zst");
        // Stored as it is, so that the packed file is larger than a piece as well.
        let noise: String = (0..5000).map(|n| molecule(n).replace('x', &format!("{:x}", n * n))).collect();
        std::fs::write(&zstd, zstd::encode_all(noise.as_bytes(), -50).unwrap()).unwrap();
        for path in [plain, zstd] {
            let whole = LigandFile::open(&path, "f", Options::default()).unwrap();
            let (mut pieces, mut seen) = (0, 0);
            let complete = each(&path, "f", Options::default(), |piece| {
                assert_eq!((piece.first(), &piece.sha256), (seen, &whole.sha256));
                for index in piece.first()..piece.first() + piece.len() {
                    assert_eq!(piece.title(index), format!("mol{index}"));
                    let [one, other] = [&piece, &whole].map(|file| file.molecule(index));
                    assert_eq!(one.is_ok(), index != 4998);
                    assert_eq!(
                        one.map(|m| (m.title, m.structure.positions)),
                        other.map(|m| (m.title, m.structure.positions))
                    );
                }
                (pieces, seen) = (pieces + 1, seen + piece.len());
                Ok(true)
            });
            assert_eq!((complete, seen), (Ok(true), 5000));
            let large = std::fs::metadata(&path).unwrap().len() > PIECE as u64;
            assert_eq!(pieces > 1, large, "{pieces} pieces");
        }
        let mut told = 0;
        let path = folder.path().join("plain.sdf");
        let stopped = each(&path, "f", Options::default(), |piece| Ok(std::mem::replace(&mut told, piece.len()) > 0));
        assert_eq!(stopped, Ok(false));
    }
}

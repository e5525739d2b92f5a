//! Structure files: bytes → [`Structure`], flat columns without an allocation per atom.
//!
//! # How to add a structure format
//!
//! 1. One new file here, `read/mine.rs`, with `pub(super) fn parse(text: &[u8], shown: &str, options: Options) ->
//!    Result<Structure>`. It gives its residues and atoms in file order to a `Builder` (`builder.rs`), which joins what
//!    is split and settles alternate locations; what it mends it counts with `builder.notes.repair`, what it cannot
//!    read goes to `builder.notes.problems`, with line and columns. `pdb.rs` shows all of it.
//!    A second function, `sites`, reads every record of all models into the same `Builder` and says where its B-factor
//!    is written (`sites.rs`).
//! 2. One row in `FORMATS`, and `mod mine;`. The index, `--discover`, `check`, Python and the packings `.gz` and
//!    `.zst` follow from the row.
//! 3. One writer in `tests/written/mod.rs`, and one line in the test `one_entry_in_all_formats` of
//!    `tests/round_trips.rs`, which compares the formats with one another. For the fuzzer, a function and a line in
//!    `TARGETS` of `fuzz/src/lib.rs`.
//!
//! Formats of ligands are those of `ligand.rs`.

mod atom_site;
mod bcif;
mod builder;
mod gunzip;
pub mod ligand;
mod mmcif;
mod notes;
mod number;
mod options;
mod packing;
mod pdb;
mod sites;
mod words;

use std::borrow::Cow;
use std::path::Path;

pub use options::{Ids, Options, Strictness};
use packing::{load, unpacked, Packing};
pub use sites::Sites;

use crate::error::{Error, Result};
use crate::structure::{Source, Structure};

/// A format of structures.
struct Format {
    /// Of its files, in lower case.
    extensions: &'static [&'static str],
    /// Lines of text: white space alone makes an empty file.
    text: bool,
    /// Has the archive's ids besides the author's.
    label_ids: bool,
    parse: fn(&[u8], &str, Options) -> Result<Structure>,
    /// Every record, and the places of their B-factors.
    sites: fn(&[u8], &str, Options) -> Result<Sites>,
}

const FORMATS: &[Format] = &[
    Format { extensions: &["pdb", "ent"], text: true, label_ids: false, parse: pdb::parse, sites: pdb::sites },
    Format { extensions: &["cif", "mmcif"], text: true, label_ids: true, parse: mmcif::parse, sites: mmcif::sites },
    Format { extensions: &["bcif"], text: false, label_ids: true, parse: bcif::parse, sites: bcif::sites },
];

fn kind_of(path: &Path) -> Option<(&'static Format, Packing)> {
    let (extension, packing) = Packing::of(path)?;
    Some((FORMATS.iter().find(|f| f.extensions.contains(&extension.as_str()))?, packing))
}

/// Does the file's name say a known format?
pub fn is_structure(path: &Path) -> bool {
    kind_of(path).is_some()
}

/// Reads a structure file; `shown` is its name in messages.
///
/// # Errors
/// The file is missing, damaged, of an unknown format, or holds no readable atoms; or `options` ask for strictness and
/// it needs mending.
pub fn read_file(path: &Path, shown: &str, options: Options) -> Result<Source> {
    read_kind(path, kind_of(path).ok_or_else(|| unknown_format(shown))?, shown, options)
}

/// [`read_file`] for a file whose name does not say what it is: `extension` is what it should end with.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_as(path: &Path, extension: &str, shown: &str, options: Options) -> Result<Source> {
    read_kind(path, kind_of_extension(extension, shown)?, shown, options)
}

fn read_kind(path: &Path, kind: (&Format, Packing), shown: &str, options: Options) -> Result<Source> {
    let (raw, sha256) = load(path, shown)?;
    Ok(Source { structure: read_as(&raw, kind, shown, options)?, sha256 })
}

/// Reads the bytes of a structure file that would end with `extension`; `shown` is its name in messages.
///
/// ```
/// let line = b"ATOM      1  CA  ALA A   1      11.104   6.134  -6.504  1.00  0.00           C";
/// let structure = atomica_prep::read::read_bytes(line, "pdb", "a line", Default::default())?;
/// assert_eq!(structure.positions, [[11.104, 6.134, -6.504]]);
/// # Ok::<(), atomica_prep::error::Error>(())
/// ```
///
/// # Errors
/// The bytes are damaged, of an unknown format, or hold no readable atoms.
pub fn read_bytes(raw: &[u8], extension: &str, shown: &str, options: Options) -> Result<Structure> {
    read_as(raw, kind_of_extension(extension, shown)?, shown, options)
}

/// Reads every record of an atom in a structure file; `shown` is its name in messages.
///
/// # Errors
/// As [`read_file`].
pub fn read_sites(path: &Path, shown: &str, options: Options) -> Result<Sites> {
    let kind = kind_of(path).ok_or_else(|| unknown_format(shown))?;
    let (raw, _) = load(path, shown)?;
    (kind.0.sites)(&text_of(&raw, kind, shown, options)?, shown, options)
}

/// [`read_sites`] for the bytes of a file that would end with `extension`.
///
/// # Errors
/// As [`read_bytes`].
pub fn read_sites_bytes(raw: &[u8], extension: &str, shown: &str, options: Options) -> Result<Sites> {
    let kind = kind_of_extension(extension, shown)?;
    (kind.0.sites)(&text_of(raw, kind, shown, options)?, shown, options)
}

fn read_as(raw: &[u8], kind: (&Format, Packing), shown: &str, options: Options) -> Result<Structure> {
    (kind.0.parse)(&text_of(raw, kind, shown, options)?, shown, options)
}

/// What is to be parsed.
fn text_of<'a>(
    raw: &'a [u8],
    (format, packing): (&Format, Packing),
    shown: &str,
    options: Options,
) -> Result<Cow<'a, [u8]>> {
    let text = unpacked(raw, packing, options.max_decompressed, shown)?;
    if format.text && text.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::EmptyFile { path: shown.to_owned() });
    }
    if !format.label_ids && !options.ids.usual() {
        return Err(Error::NoLabelIds { path: shown.to_owned() });
    }
    Ok(text)
}

fn kind_of_extension(extension: &str, shown: &str) -> Result<(&'static Format, Packing)> {
    let name = format!("{shown}.{}", extension.trim_start_matches('.'));
    kind_of(Path::new(&name)).ok_or_else(|| unknown_format(&name))
}

fn unknown_format(shown: &str) -> Error {
    let known: Vec<String> = FORMATS.iter().flat_map(|f| f.extensions).map(|e| format!(".{e}")).collect();
    let (last, others) =
        known.split_last().map_or(Default::default(), |(last, others)| (last.as_str(), others.join(", ")));
    let expected = format!("{others} or {last}, plain or with .gz or .zst");
    Error::UnknownFormat { path: shown.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_file_name() {
        let kind = |p: &str| kind_of(Path::new(p)).map(|(format, packing)| (format.extensions[0], packing));
        assert_eq!(kind("x.PDB"), Some(("pdb", Packing::Plain)));
        assert_eq!(kind("a/x.ent.gz"), Some(("pdb", Packing::Gzip)));
        assert_eq!(kind("x.mmcif.zst"), Some(("cif", Packing::Zstd)));
        assert_eq!(kind("x.bcif.gz"), Some(("bcif", Packing::Gzip)));
        assert_eq!(kind("x.sdf").map(|k| k.0), None);
        assert_eq!(kind("pdb").map(|k| k.0), None);
        assert!(unknown_format("x")
            .to_string()
            .ends_with("expected .pdb, .ent, .cif, .mmcif or .bcif, plain or with .gz or .zst"));
    }

    #[test]
    fn nothing_to_read() {
        for (text, extension) in [("", "pdb"), (" \n ", "pdb"), ("", "cif"), ("\n", "cif"), ("", "bcif")] {
            let error = read_bytes(text.as_bytes(), extension, "x", Options::default()).unwrap_err();
            assert_eq!(error.code(), "EmptyFile", "{text:?} {extension}");
        }
    }
}

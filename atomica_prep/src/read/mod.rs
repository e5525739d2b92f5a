//! Structure files: bytes → [`Structure`], flat columns without an allocation per atom.

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
mod words;

use std::path::Path;

pub use options::{Ids, Options, Strictness};
use packing::{load, unpacked, Packing};

use crate::error::{Error, Result};
use crate::structure::{Source, Structure};

/// Formats of structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns of the Protein Data Bank.
    Pdb,
    /// Macromolecular CIF.
    Mmcif,
    /// Its binary form.
    BinaryCif,
}

fn kind_of(path: &Path) -> Option<(Format, Packing)> {
    let (extension, packing) = Packing::of(path)?;
    let format = match extension.as_str() {
        "pdb" | "ent" => Format::Pdb,
        "cif" | "mmcif" => Format::Mmcif,
        "bcif" => Format::BinaryCif,
        _ => return None,
    };
    Some((format, packing))
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

fn read_kind(path: &Path, kind: (Format, Packing), shown: &str, options: Options) -> Result<Source> {
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

fn read_as(raw: &[u8], (format, packing): (Format, Packing), shown: &str, options: Options) -> Result<Structure> {
    parse(&unpacked(raw, packing, options.max_decompressed, shown)?, format, shown, options)
}

fn kind_of_extension(extension: &str, shown: &str) -> Result<(Format, Packing)> {
    let name = format!("{shown}.{}", extension.trim_start_matches('.'));
    kind_of(Path::new(&name)).ok_or_else(|| unknown_format(&name))
}

fn unknown_format(shown: &str) -> Error {
    Error::UnknownFormat {
        path: shown.to_owned(),
        expected: ".pdb, .ent, .cif, .mmcif or .bcif, plain or with .gz or .zst",
    }
}

/// Reads a structure from bytes; `shown` is its name in messages.
///
/// # Errors
/// Nothing but white space, no atoms, or records that cannot be read or, under strict reading, are not as they should be.
pub fn parse(text: &[u8], format: Format, shown: &str, options: Options) -> Result<Structure> {
    if format != Format::BinaryCif && text.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::EmptyFile { path: shown.to_owned() });
    }
    match format {
        Format::Pdb if !options.ids.usual() => Err(Error::NoLabelIds { path: shown.to_owned() }),
        Format::Pdb => pdb::parse(text, shown, options),
        Format::Mmcif => mmcif::parse(text, shown, options),
        Format::BinaryCif => bcif::parse(text, shown, options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_by_file_name() {
        let kind = |p: &str| kind_of(Path::new(p));
        assert_eq!(kind("x.PDB"), Some((Format::Pdb, Packing::Plain)));
        assert_eq!(kind("a/x.ent.gz"), Some((Format::Pdb, Packing::Gzip)));
        assert_eq!(kind("x.mmcif.zst"), Some((Format::Mmcif, Packing::Zstd)));
        assert_eq!(kind("x.bcif.gz"), Some((Format::BinaryCif, Packing::Gzip)));
        assert_eq!(kind("x.sdf"), None);
        assert_eq!(kind("pdb"), None);
    }
}

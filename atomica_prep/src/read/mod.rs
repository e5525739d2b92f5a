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

mod assembly;
mod atom_site;
mod bcif;
mod builder;
mod chains;
mod docked;
mod elements;
mod gunzip;
pub mod ligand;
mod links;
mod mmcif;
mod models;
mod mol2;
mod molecule;
mod no_atom;
mod notes;
mod number;
mod options;
mod packing;
mod pdb;
pub mod pieces;
mod sites;
mod words;

use std::borrow::Cow;
use std::path::Path;

pub use crate::structure::Assembly;
use assembly::Described;
pub use options::{Ids, Options, Strictness};
use packing::{load, text, unpacked, Packing};
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
    /// The biological assemblies that a file describes.
    assemblies: fn(&[u8], &str) -> Result<Described>,
}

/// Format and packing of a file.
type Kind = (&'static Format, Packing);

const FORMATS: &[Format] = &[
    Format {
        extensions: &["pdb", "ent", "pdbqt"],
        text: true,
        label_ids: false,
        parse: pdb::parse,
        sites: pdb::sites,
        assemblies: |text, _| Ok(assembly::of_pdb(text)),
    },
    Format {
        extensions: &["cif", "mmcif"],
        text: true,
        label_ids: true,
        parse: mmcif::parse,
        sites: mmcif::sites,
        assemblies: mmcif::assemblies,
    },
    Format {
        extensions: &["bcif"],
        text: false,
        label_ids: true,
        parse: bcif::parse,
        sites: bcif::sites,
        assemblies: bcif::assemblies,
    },
    Format {
        extensions: &["mol2"],
        text: true,
        label_ids: false,
        parse: mol2::parse,
        sites: mol2::sites,
        assemblies: |_, _| Ok(Described::default()),
    },
];

fn kind_of(path: &Path) -> Option<Kind> {
    let (extension, packing) = Packing::of(path)?;
    // A biological assembly of the archive: .pdb1, .pdb2.
    let extension = if is_assembly(&extension) { "pdb" } else { extension.as_str() };
    Some((FORMATS.iter().find(|f| f.extensions.contains(&extension))?, packing))
}

/// File name without folder, packing and format.
pub(crate) fn stem_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let lower = name.to_ascii_lowercase();
    let packed = [".gz", ".zst"].iter().find(|suffix| lower.ends_with(**suffix)).map_or(0, |suffix| suffix.len());
    let plain = name.get(..name.len() - packed).unwrap_or(name);
    plain.rsplit_once('.').map_or(plain, |(stem, _)| stem)
}

fn is_assembly(extension: &str) -> bool {
    extension.strip_prefix("pdb").is_some_and(|n| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()))
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
    let assembly = match Packing::of(path) {
        Some((extension, _)) if is_assembly(&extension) && options.assembly == Assembly::None => Assembly::Models,
        _ => options.assembly,
    };
    read_kind(path, kind_of(path).ok_or_else(|| unknown_format(shown))?, shown, Options { assembly, ..options })
}

/// [`read_file`] for a file whose name does not say what it is: `extension` is what it should end with.
///
/// # Errors
/// As [`read_file`].
pub fn read_file_as(path: &Path, extension: &str, shown: &str, options: Options) -> Result<Source> {
    read_kind(path, kind_of_extension(extension, shown)?, shown, options)
}

fn read_kind(path: &Path, kind: Kind, shown: &str, options: Options) -> Result<Source> {
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
    let (format, text) = text_of(&raw, kind, shown, options)?;
    (format.sites)(&text, shown, options)
}

/// [`read_sites`] for the bytes of a file that would end with `extension`.
///
/// # Errors
/// As [`read_bytes`].
pub fn read_sites_bytes(raw: &[u8], extension: &str, shown: &str, options: Options) -> Result<Sites> {
    let (format, text) = text_of(raw, kind_of_extension(extension, shown)?, shown, options)?;
    (format.sites)(&text, shown, options)
}

fn read_as(raw: &[u8], kind: Kind, shown: &str, options: Options) -> Result<Structure> {
    let (format, text) = text_of(raw, kind, shown, options)?;
    match options.assembly {
        Assembly::None => (format.parse)(&text, shown, options),
        Assembly::Models if !format.extensions.contains(&"pdb") => (format.parse)(&text, shown, options),
        Assembly::Models => models(&text, shown, options),
        Assembly::Number(number) => {
            let described = (format.assemblies)(&text, shown)?;
            let structure = (format.parse)(&text, shown, options)?;
            let labels = match described.label_ids && options.ids == Ids::Author {
                true => {
                    Some(labels(&structure, &(format.parse)(&text, shown, Options { ids: Ids::Label, ..options })?))
                }
                false => None,
            };
            assembly::build(&structure, &described, number, labels.as_deref(), shown)
        }
    }
}

/// A PDB file with its models as copies; the first model, where they are conformers.
fn models(text: &[u8], shown: &str, options: Options) -> Result<Structure> {
    let parts = docked::cut(text);
    let model = |(_, part): &(u64, std::ops::Range<usize>)| {
        // LINK, MODRES or CONECT before and after all models hold for each of them.
        pdb::parse(&docked::alone(text, &parts, part), shown, options)
    };
    let mut read: Vec<Structure> = Vec::with_capacity(parts.len());
    for part in &parts {
        read.push(model(part)?);
        // Conformers are told by two of them.
        if read.len() == 2 && assembly::join(&read).is_none() {
            break;
        }
    }
    // Where atoms stand outside of the models, the usual reading tells what becomes of them.
    match assembly::join(&read).filter(|_| read.len() > 1) {
        Some(joined) => Ok(joined),
        None => pdb::parse(text, shown, options),
    }
}

/// The archive's chain id of every residue of a structure, from the same file read with the archive's ids.
fn labels(structure: &Structure, labelled: &Structure) -> Vec<String> {
    let key = |p: &[f64; 3]| p.map(f64::to_bits);
    let mut known = std::collections::HashMap::with_capacity(labelled.residues.len());
    for residue in &labelled.residues {
        let chain = labelled.chains.get(residue.chain).map_or("", String::as_str);
        known.extend(labelled.positions_of(residue).iter().map(|p| (key(p), chain)));
    }
    let chain = |residue: &crate::structure::Residue| {
        structure.positions_of(residue).first().and_then(|p| known.get(&key(p))).copied().unwrap_or_default().to_owned()
    };
    structure.residues.iter().map(chain).collect()
}

/// The format that the first bytes tell, where they gainsay the name.
fn told(named: &'static Format, bytes: &[u8]) -> &'static Format {
    /// Of PDB files.
    const RECORDS: [&[u8]; 12] = [
        b"HEADER", b"OBSLTE", b"TITLE ", b"COMPND", b"REMARK", b"EXPDTA", b"SEQRES", b"CRYST1", b"MODEL ", b"ATOM  ",
        b"HETATM", b"AUTHOR",
    ];
    let comment = |line: &&[u8]| line.is_empty() || line.starts_with(b"#");
    let head = bytes.get(..1 << 12).unwrap_or(bytes);
    let line = head.split(|c| *c == b'\n').map(<[u8]>::trim_ascii).find(|line| !comment(line)).unwrap_or_default();
    let starts = |word: &[u8]| line.get(..word.len()).is_some_and(|l| l.eq_ignore_ascii_case(word));
    let extension = match head {
        // A map of MessagePack.
        [0x80..=0x8f | 0xde | 0xdf, ..] => "bcif",
        _ if starts(b"data_") => "cif",
        _ if starts(b"@<TRIPOS>") => "mol2",
        _ if RECORDS.iter().any(|record| starts(record)) => "pdb",
        _ => return named,
    };
    FORMATS.iter().find(|format| format.extensions.contains(&extension)).unwrap_or(named)
}

/// What is to be parsed, and as what.
fn text_of<'a>(
    raw: &'a [u8],
    (named, packing): Kind,
    shown: &str,
    options: Options,
) -> Result<(&'static Format, Cow<'a, [u8]>)> {
    let bytes = unpacked(raw, packing, options.max_decompressed, shown)?;
    let format = told(named, &bytes);
    let text = if format.text { text(bytes, shown)? } else { bytes };
    let text = if format.extensions.contains(&"pdbqt") { docked::as_pdb(text) } else { text };
    if format.text && text.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::EmptyFile { path: shown.to_owned() });
    }
    if !format.label_ids && !options.ids.usual() {
        return Err(Error::NoLabelIds { path: shown.to_owned() });
    }
    Ok((format, text))
}

fn kind_of_extension(extension: &str, shown: &str) -> Result<Kind> {
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
            .ends_with("expected .pdb, .ent, .pdbqt, .cif, .mmcif, .bcif or .mol2, plain or with .gz or .zst"));
    }

    #[test]
    fn nothing_to_read() {
        for (text, extension) in [("", "pdb"), (" \n ", "pdb"), ("", "cif"), ("\n", "cif"), ("", "bcif")] {
            let error = read_bytes(text.as_bytes(), extension, "x", Options::default()).unwrap_err();
            assert_eq!(error.code(), "EmptyFile", "{text:?} {extension}");
        }
    }
}

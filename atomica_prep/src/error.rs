//! Everything that can go wrong, as one enum: what, in which file, at which line and columns.

use std::fmt;

use strum::{IntoStaticStr, VariantNames};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// How many problems of one file are spelled out before the rest is only counted.
pub const PROBLEMS_SHOWN: usize = 10;

/// One unreadable place in a file. Lines and columns start at 1; column 0 means the whole line, and line 0 a file
/// without lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line number.
    pub line: u64,
    /// First column.
    pub column: u64,
    /// Last column.
    pub column_end: u64,
    /// What is wrong there, with the text that was found.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.column, self.column_end) {
            _ if self.line == 0 => f.write_str(&self.what),
            (0, _) => write!(f, "line {}: {}", self.line, self.what),
            (a, b) if a == b => write!(f, "line {}, column {a}: {}", self.line, self.what),
            (a, b) => write!(f, "line {}, columns {a}-{b}: {}", self.line, self.what),
        }
    }
}

/// The problems of one file: the first few in full, all of them counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    shown: Vec<Problem>,
    total: usize,
}

impl Problems {
    /// Adds one; beyond `PROBLEMS_SHOWN` only the count grows.
    pub fn push(&mut self, problem: Problem) {
        self.total += 1;
        if self.shown.len() < PROBLEMS_SHOWN {
            self.shown.push(problem);
        }
    }

    /// Counts one that has been said.
    pub fn again(&mut self) {
        self.total += 1;
    }

    /// None so far?
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The first one, if any.
    pub fn first(&self) -> Option<&Problem> {
        self.shown.first()
    }

    /// All of them, those not kept included.
    pub fn total(&self) -> usize {
        self.total
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.shown.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        if self.total > self.shown.len() {
            write!(f, "; and {} more", self.total - self.shown.len())?;
        }
        Ok(())
    }
}

/// A number of bytes as people write it.
///
/// ```
/// use atomica_prep::error::size_text;
/// assert_eq!((size_text(2 << 30), size_text(1536 << 10), size_text(1001)), ("2 GiB".into(), "1536 KiB".into(), "1001 bytes".into()));
/// ```
pub fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >> shift > 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// The part of the work in which an error arose; it decides the Python exception and the ledger's `stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Stage {
    /// Arguments, before anything is read.
    Usage,
    /// The index file.
    Index,
    /// A structure file.
    Read,
    /// Cutting the interface out of a structure.
    Interface,
    /// Writing the output.
    Shard,
}

/// Any error of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, IntoStaticStr, VariantNames)]
pub enum Error {
    /// An option or argument that cannot be used.
    #[error("{message}")]
    Usage {
        /// What and what to do about it.
        message: String,
    },
    /// The output folder holds something already.
    #[error("{path}: is not empty; give --resume to continue an interrupted build, --overwrite to replace it, or another --out")]
    OutputExists {
        /// The folder.
        path: String,
    },
    /// `--resume` on a folder that another build made.
    #[error("{path}: cannot be resumed: {reason}; name another folder, or remove this one")]
    ResumeMismatch {
        /// The folder.
        path: String,
        /// What differs or is missing.
        reason: String,
    },

    /// The index cannot be read as CSV at all.
    #[error("{path}: cannot be read as an index: {reason}")]
    IndexUnreadable {
        /// The index.
        path: String,
        /// Line, if known.
        line: Option<u64>,
        /// What the reader says.
        reason: String,
    },
    /// The header lacks columns.
    #[error("{path}: the header lacks {missing}; it has: {present}")]
    IndexColumns {
        /// The index.
        path: String,
        /// Missing columns.
        missing: String,
        /// Columns that are there.
        present: String,
    },
    /// One row is not usable.
    #[error("{path}: line {line}: {reason}")]
    IndexRow {
        /// The index.
        path: String,
        /// Line of the row.
        line: u64,
        /// Column of the CSV (1-based), where one is to blame.
        column: Option<u64>,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// Two rows (or a row and a repeated ligand of another) make the same id.
    #[error("{path}: line {line}: id {id:?} is taken by line {other}; ids must be unique")]
    DuplicateId {
        /// The index.
        path: String,
        /// Line of the second row.
        line: u64,
        /// Column of the ids.
        column: u64,
        /// Line of the first row.
        other: u64,
        /// The id.
        id: String,
    },
    /// A structure file cannot be opened or read.
    #[error("{path}: cannot be read: {reason}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// A compressed file is damaged.
    #[error("{path}: cannot be decompressed: {reason}")]
    Decompress {
        /// The file.
        path: String,
        /// What the decoder says.
        reason: String,
    },
    /// A file that grows beyond the limit when it is unpacked.
    #[error("{path}: {what} more than the limit of {}; if the file can be trusted, give a larger --max-decompressed", size_text(*limit))]
    Oversized {
        /// The file.
        path: String,
        /// What grows: `unpacks to`.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file's name does not say a known format.
    #[error("{path}: unknown format; expected {expected}")]
    UnknownFormat {
        /// The file.
        path: String,
        /// What could be read there.
        expected: String,
    },
    /// No bytes.
    #[error("{path}: is empty")]
    EmptyFile {
        /// The file.
        path: String,
    },
    /// Readable, but without atoms.
    #[error("{path}: holds no atoms ({expected})")]
    NoAtoms {
        /// The file.
        path: String,
        /// What was looked for.
        expected: String,
    },
    /// Atom records that cannot be read.
    #[error("{path}: {problems}")]
    BadRecords {
        /// The file.
        path: String,
        /// Each of them.
        problems: Problems,
    },
    /// Records that only lenient reading mends, under strict reading.
    #[error("{path}: refused by strict reading: {problems}")]
    NeedsRepair {
        /// The file.
        path: String,
        /// Each of them.
        problems: Problems,
    },
    /// Coordinate records that became neither atoms nor anything that is counted.
    #[error("{path}: {records} coordinate records, of which {explained} are accounted for; this is a fault of the program, please report it with the file")]
    Unaccounted {
        /// The file.
        path: String,
        /// Records met.
        records: u64,
        /// Atoms, and records left out for a reason.
        explained: u64,
    },
    /// Text in an encoding that is not read.
    #[error("{path}: is {encoding}; {remedy}")]
    Encoding {
        /// The file.
        path: String,
        /// Which one.
        encoding: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Label ids asked of a PDB file.
    #[error(
        "{path}: PDB files have the author's ids only; give --ids author, or the same entry as mmCIF or BinaryCIF"
    )]
    NoLabelIds {
        /// The file.
        path: String,
    },
    /// The atom table lacks columns.
    #[error("{path}: {}_atom_site lacks {missing}", line.map(|l| format!("line {l}: ")).unwrap_or_default())]
    MissingColumns {
        /// The file.
        path: String,
        /// Where the table begins, in a text file.
        line: Option<u64>,
        /// Missing items.
        missing: String,
    },
    /// The file's structure is broken: an unclosed quote or text field, an incomplete row.
    #[error("{path}: line {line}: {reason}")]
    Syntax {
        /// The file.
        path: String,
        /// Line.
        line: u64,
        /// Column, where one is to blame.
        column: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A BinaryCIF file that does not hold what it says.
    #[error("{path}: {place}: {reason}")]
    BinaryCif {
        /// The file.
        path: String,
        /// Category and column, as far as known.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A biological assembly that the file does not describe.
    #[error("{path}: no biological assembly {assembly}; the file describes: {present}")]
    MissingAssembly {
        /// The file.
        path: String,
        /// The number that was asked for.
        assembly: String,
        /// Those that it describes.
        present: String,
    },
    /// A ligand file has fewer molecules than the index counts.
    #[error("{path}: no molecule {index}; the file has {count}, counted from 0")]
    MissingMolecule {
        /// The ligand file.
        path: String,
        /// The number in the index.
        index: u64,
        /// Molecules in the file.
        count: u64,
    },

    /// A chain that the index names is not in the file.
    #[error("{path}: no chain {chain:?}; the file has: {present}")]
    MissingChain {
        /// The structure file.
        path: String,
        /// The chain.
        chain: String,
        /// The chains that are there.
        present: String,
    },
    /// A partner without any residue that takes part.
    #[error("{path}: chains {chains:?} hold no amino acid or nucleotide; for a small molecule or an ion name its component id in lig_code")]
    EmptyPartner {
        /// The structure file.
        path: String,
        /// The chains.
        chains: String,
    },
    /// A ligand that the index names is not in the chain.
    #[error("{path}: no ligand {ligand} in chain {chain:?}; it has: {present}")]
    MissingLigand {
        /// The structure file.
        path: String,
        /// Component id, with residue number and insertion code where given.
        ligand: String,
        /// The chain.
        chain: String,
        /// Other groups in that chain.
        present: String,
    },
    /// Residues of a pocket that are not there.
    #[error("{path}: no amino acid or nucleotide {residues}; chains {chains:?} hold: {present}")]
    MissingResidues {
        /// The structure file.
        path: String,
        /// The residues, as the index names them.
        residues: String,
        /// The chains.
        chains: String,
        /// The residues of these chains.
        present: String,
    },
    /// The ligand has no atom but hydrogens.
    #[error("{path}: ligand {ligand} has no atom heavier than hydrogen")]
    HydrogenLigand {
        /// The structure file.
        path: String,
        /// Component id and residue number.
        ligand: String,
    },
    /// The ligand is the receptor itself, as some docking programs write it before their poses.
    #[error("{path}: molecule {ligand} is the receptor: its atoms stand in the places of the structure's own; ligand_index names another")]
    ReceptorLigand {
        /// The ligand's file.
        path: String,
        /// Its number in the file.
        ligand: String,
    },
    /// The ligand cannot be cut into fragments as asked.
    #[error("{path}: ligand {ligand} cannot be cut into fragments: {reason}")]
    LigandChemistry {
        /// The ligand's file, or the structure file.
        path: String,
        /// Component id, or number in its file.
        ligand: String,
        /// What is wrong.
        reason: String,
    },
    /// The partners do not meet.
    #[error("{path}: no interface: no heavy atoms of the two partners closer than {cutoff} Å")]
    NoInterface {
        /// The structure file.
        path: String,
        /// The cutoff, in Å.
        cutoff: String,
    },
    /// More blocks or atoms than a record can hold.
    #[error("{path}: the complex has {atoms} atoms, more than the {limit} that a record can hold")]
    TooLarge {
        /// The structure file.
        path: String,
        /// Its atoms.
        atoms: u64,
        /// The limit.
        limit: u64,
    },

    /// The output cannot be written.
    #[error("{path}: cannot be written: {reason}")]
    Write {
        /// File or folder.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// A shard or manifest cannot be read back.
    #[error("{path}: not a data set of atomica-prep: {reason}")]
    NotADataset {
        /// File or folder.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// Every code, in the order of the enum. Each has a case in `tests/errors.rs`.
    pub const CODES: &'static [&'static str] = Self::VARIANTS;

    /// Name of the variant: the ledger's `code`.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// The part of the work that failed.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Usage { .. } | Self::OutputExists { .. } | Self::ResumeMismatch { .. } => Stage::Usage,
            Self::IndexUnreadable { .. }
            | Self::IndexColumns { .. }
            | Self::IndexRow { .. }
            | Self::DuplicateId { .. } => Stage::Index,
            Self::Io { .. }
            | Self::Decompress { .. }
            | Self::Oversized { .. }
            | Self::UnknownFormat { .. }
            | Self::EmptyFile { .. }
            | Self::NoAtoms { .. }
            | Self::BadRecords { .. }
            | Self::NeedsRepair { .. }
            | Self::Unaccounted { .. }
            | Self::Encoding { .. }
            | Self::NoLabelIds { .. }
            | Self::MissingColumns { .. }
            | Self::Syntax { .. }
            | Self::BinaryCif { .. }
            | Self::MissingAssembly { .. }
            | Self::MissingMolecule { .. } => Stage::Read,
            Self::MissingChain { .. }
            | Self::EmptyPartner { .. }
            | Self::MissingLigand { .. }
            | Self::MissingResidues { .. }
            | Self::HydrogenLigand { .. }
            | Self::ReceptorLigand { .. }
            | Self::LigandChemistry { .. }
            | Self::NoInterface { .. }
            | Self::TooLarge { .. } => Stage::Interface,
            Self::Write { .. } | Self::NotADataset { .. } => Stage::Shard,
        }
    }

    /// The file to blame, as it was named; `None` for arguments.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Usage { .. } => None,
            Self::OutputExists { path }
            | Self::ResumeMismatch { path, .. }
            | Self::IndexUnreadable { path, .. }
            | Self::IndexColumns { path, .. }
            | Self::IndexRow { path, .. }
            | Self::DuplicateId { path, .. }
            | Self::Io { path, .. }
            | Self::Decompress { path, .. }
            | Self::Oversized { path, .. }
            | Self::UnknownFormat { path, .. }
            | Self::EmptyFile { path }
            | Self::NoAtoms { path, .. }
            | Self::BadRecords { path, .. }
            | Self::NeedsRepair { path, .. }
            | Self::Unaccounted { path, .. }
            | Self::Encoding { path, .. }
            | Self::NoLabelIds { path, .. }
            | Self::MissingColumns { path, .. }
            | Self::Syntax { path, .. }
            | Self::BinaryCif { path, .. }
            | Self::MissingAssembly { path, .. }
            | Self::MissingMolecule { path, .. }
            | Self::MissingChain { path, .. }
            | Self::EmptyPartner { path, .. }
            | Self::MissingLigand { path, .. }
            | Self::MissingResidues { path, .. }
            | Self::HydrogenLigand { path, .. }
            | Self::ReceptorLigand { path, .. }
            | Self::LigandChemistry { path, .. }
            | Self::NoInterface { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Write { path, .. }
            | Self::NotADataset { path, .. } => Some(path),
        }
    }

    /// Line in that file, from 1, where known.
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::IndexUnreadable { line, .. } | Self::MissingColumns { line, .. } => *line,
            Self::IndexRow { line, .. } | Self::DuplicateId { line, .. } | Self::Syntax { line, .. } => Some(*line),
            Self::BadRecords { problems, .. } | Self::NeedsRepair { problems, .. } => {
                problems.first().map(|p| p.line).filter(|l| *l > 0)
            }
            _ => None,
        }
    }

    /// Column in that line, from 1, where known.
    pub fn column(&self) -> Option<u64> {
        match self {
            Self::IndexRow { column, .. } | Self::Syntax { column, .. } => *column,
            Self::DuplicateId { column, .. } => Some(*column),
            Self::BadRecords { problems, .. } | Self::NeedsRepair { problems, .. } => {
                problems.first().map(|p| p.column).filter(|c| *c > 0)
            }
            _ => None,
        }
    }
}

/// The text of an unreadable field for a message: quoted, shortened, without control characters.
pub fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut short: String = text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > 40 {
        short.push('…');
    }
    format!("{short:?}")
}

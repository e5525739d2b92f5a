//! What the readers mend and how much of it, so that no file passes as better than it is.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem, Problems, Result};

/// What to do about text that is wrong but leaves no doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strictness {
    /// Mend it, and count it.
    #[default]
    Lenient,
    /// Refuse the file.
    Strict,
}

/// Whose chain ids and residue numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The author's, as in the literature and in PDB files.
    #[default]
    Author,
    /// The archive's: a chain id for each molecule, residues counted along the sequence. What has no number in a
    /// sequence, as ligands and water, keeps the author's.
    Label,
}

impl Ids {
    /// For [`Options`] and serde: is it the usual choice?
    #[must_use]
    pub fn usual(&self) -> bool {
        *self == Self::Author
    }

    /// A pair of the author's and the archive's, the wanted one first.
    pub(super) fn order<T>(self, [author, label]: [T; 2]) -> [T; 2] {
        match self {
            Self::Author => [author, label],
            Self::Label => [label, author],
        }
    }
}

/// How to read a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// What to do about text that is wrong but leaves no doubt.
    pub strictness: Strictness,
    /// Bytes that a packed file may unpack to. Rows that a BinaryCIF file claims count as 64 bytes each.
    pub max_decompressed: u64,
    /// Whose ids the structure gets. PDB files have the author's only.
    pub ids: Ids,
}

impl Default for Options {
    /// Lenient, 2 GiB (some 20 million atoms as mmCIF), the author's ids.
    fn default() -> Self {
        Self { strictness: Strictness::default(), max_decompressed: 2 << 30, ids: Ids::default() }
    }
}

/// One kind of repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// No element, or none that can be believed: guessed from the atom's name.
    ElementGuessed,
    /// No occupancy, or none that is a number: taken to be 1.
    OccupancyAssumed,
    /// Text where the charge belongs that is none: not used.
    ChargeIgnored,
    /// A serial number that is not decimal (hybrid-36, hexadecimal, asterisks): not used, nor is any other.
    SerialIgnored,
    /// A residue number in hybrid-36: A000 is 10000.
    NumberHybrid36,
    /// A residue number in hexadecimal, as some programs go on after 9999.
    NumberHexadecimal,
    /// No residue number: taken to be 0.
    NumberMissing,
    /// No id by the author: the label is used.
    LabelForAuthor,
    /// A line that ends within its last coordinate.
    ShortLine,
    /// A record whose name is not in capitals.
    RecordCase,
    /// A model that ends without having begun.
    ModelNotBegun,
    /// A model that does not end before the next one begins.
    ModelNotEnded,
    /// Atoms after the record that ends the file.
    AtomsAfterEnd,
    /// A residue that goes on after others: its parts are joined.
    ResidueSplit,
}

impl Repair {
    /// All kinds, in the order in which they are listed.
    pub const ALL: &'static [Self] = &[
        Self::ElementGuessed,
        Self::OccupancyAssumed,
        Self::ChargeIgnored,
        Self::SerialIgnored,
        Self::NumberHybrid36,
        Self::NumberHexadecimal,
        Self::NumberMissing,
        Self::LabelForAuthor,
        Self::ShortLine,
        Self::RecordCase,
        Self::ModelNotBegun,
        Self::ModelNotEnded,
        Self::AtomsAfterEnd,
        Self::ResidueSplit,
    ];

    /// Its name in lists.
    pub fn code(self) -> &'static str {
        match self {
            Self::ElementGuessed => "element-guessed",
            Self::OccupancyAssumed => "occupancy-assumed",
            Self::ChargeIgnored => "charge-ignored",
            Self::SerialIgnored => "serial-ignored",
            Self::NumberHybrid36 => "number-hybrid36",
            Self::NumberHexadecimal => "number-hexadecimal",
            Self::NumberMissing => "number-missing",
            Self::LabelForAuthor => "label-for-author",
            Self::ShortLine => "short-line",
            Self::RecordCase => "record-case",
            Self::ModelNotBegun => "model-not-begun",
            Self::ModelNotEnded => "model-not-ended",
            Self::AtomsAfterEnd => "atoms-after-end",
            Self::ResidueSplit => "residue-split",
        }
    }
}

/// The repairs of one kind in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Which kind.
    pub kind: Repair,
    /// How many.
    pub count: u64,
    /// The first one: its place, what was found there and what was made of it.
    pub first: Problem,
}

/// What was mended in one file, kinds in the order of [`Repair::ALL`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs(Vec<Repaired>);

impl Repairs {
    /// The kinds that were met.
    pub fn iter(&self) -> impl Iterator<Item = &Repaired> {
        self.0.iter()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a reader has to say about a file besides its atoms.
#[derive(Debug, Default)]
pub(super) struct Notes {
    strict: bool,
    /// What cannot be read at all.
    pub problems: Problems,
    /// Under [`Strictness::Strict`]: each repair, refused.
    refused: Problems,
    repairs: Repairs,
}

impl Notes {
    pub(super) fn new(options: Options) -> Self {
        Self { strict: options.strictness == Strictness::Strict, ..Self::default() }
    }

    /// Counts a repair; `place` says where and what, and is asked only if it is needed.
    #[cold]
    pub(super) fn repair(&mut self, kind: Repair, place: impl FnOnce() -> Problem) {
        if self.strict {
            return self.refused.push(place());
        }
        match self.repairs.0.iter_mut().find(|r| r.kind == kind) {
            Some(known) => known.count += 1,
            None => self.repairs.0.push(Repaired { kind, count: 1, first: place() }),
        }
    }

    /// The repairs, unless there is something that keeps the file from being used.
    pub(super) fn finish(self, shown: &str) -> Result<Repairs> {
        if !self.problems.is_empty() {
            return Err(Error::BadRecords { path: shown.to_owned(), problems: self.problems });
        }
        if !self.refused.is_empty() {
            return Err(Error::NeedsRepair { path: shown.to_owned(), problems: self.refused });
        }
        let mut repairs = self.repairs;
        repairs.0.sort_by_key(|r| Repair::ALL.iter().position(|kind| *kind == r.kind));
        Ok(repairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u64) -> Problem {
        Problem { line, column: 1, column_end: 2, what: format!("found in {line}") }
    }

    #[test]
    fn kinds_are_counted_with_their_first_place() {
        let mut notes = Notes::default();
        for (kind, line) in [(Repair::OccupancyAssumed, 3), (Repair::ElementGuessed, 4), (Repair::OccupancyAssumed, 5)]
        {
            notes.repair(kind, || place(line));
        }
        let found = notes.finish("x").unwrap();
        let told: Vec<_> = found.iter().map(|r| (r.kind.code(), r.count, r.first.line)).collect();
        assert_eq!(told, [("element-guessed", 1, 4), ("occupancy-assumed", 2, 3)]);
    }

    #[test]
    fn strict_reading_refuses_every_repair() {
        let mut notes = Notes::new(Options { strictness: Strictness::Strict, ..Options::default() });
        notes.repair(Repair::ElementGuessed, || place(7));
        notes.repair(Repair::ElementGuessed, || place(9));
        let error = notes.finish("x").unwrap_err();
        assert_eq!((error.code(), error.line(), error.column()), ("NeedsRepair", Some(7), Some(1)));
        assert!(error.to_string().contains("line 9"), "{error}");
    }

    #[test]
    fn unreadable_text_comes_first() {
        let mut notes = Notes::new(Options { strictness: Strictness::Strict, ..Options::default() });
        notes.repair(Repair::ElementGuessed, || place(7));
        notes.problems.push(place(8));
        assert_eq!(notes.finish("x").unwrap_err().code(), "BadRecords");
    }
}

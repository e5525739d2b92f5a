//! How a structure is to be read.

use crate::structure::Assembly;
use serde::{Deserialize, Serialize};

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
    /// Which copies of its chains the structure gets.
    pub assembly: Assembly,
}

impl Options {
    /// The same, for a structure of which an index says which copies of its chains it is to have.
    pub fn with(self, assembly: Option<Assembly>) -> Self {
        Self { assembly: assembly.unwrap_or(self.assembly), ..self }
    }
}

impl Default for Options {
    /// Lenient, 2 GiB (some 20 million atoms as mmCIF), the author's ids.
    fn default() -> Self {
        Self {
            strictness: Strictness::default(),
            max_decompressed: 2 << 30,
            ids: Ids::default(),
            assembly: Assembly::None,
        }
    }
}

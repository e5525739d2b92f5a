//! What became of every coordinate record, so that none goes missing without a word.

use crate::error::{Error, Result};

/// Why a coordinate record (a line ATOM or HETATM, a row of `_atom_site`, a line of an atom block) is not among the
/// atoms of its structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Unread {
    /// An alternate location that was not chosen.
    OtherLocation,
    /// Of a model after the first, or after its end.
    OtherModel,
    /// Of a frame after the first, where END parts frames.
    OtherFrame,
    /// Of a data block after the first one with atoms.
    OtherBlock,
    /// Of a chain that the assembly leaves out.
    OutsideAssembly,
    /// No atom: a lone pair, a dummy, a virtual site.
    NoAtom,
    /// Of water or of the receptor, in the file of a ligand.
    OutsideLigand,
    /// An atom whose place is not known.
    NoPlace,
}

impl Unread {
    /// All of them, in the order of the enum.
    pub const ALL: [Self; 8] = [
        Self::OtherLocation,
        Self::OtherModel,
        Self::OtherFrame,
        Self::OtherBlock,
        Self::OutsideAssembly,
        Self::NoAtom,
        Self::OutsideLigand,
        Self::NoPlace,
    ];

    /// Its name in lists.
    pub fn code(self) -> &'static str {
        self.into()
    }
}

/// Coordinate records of one file: all, those that became atoms, and those that did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Records met, each counted where it is met.
    pub records: u64,
    /// Atoms that no record stands for: further copies in an assembly.
    pub copies: u64,
    /// Those that did not become atoms, by reason.
    left: [u64; Unread::ALL.len()],
}

impl Accounts {
    /// Counts records that did not become atoms.
    #[inline]
    pub(crate) fn leave(&mut self, why: Unread, count: u64) {
        if let Some(slot) = self.left.get_mut(why as usize) {
            *slot += count;
        }
    }

    /// Counts records that are met and do not become atoms.
    #[inline]
    pub(crate) fn unread(&mut self, why: Unread, count: u64) {
        self.records += count;
        self.leave(why, count);
    }

    /// Adds the account of another part of the file.
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.copies += other.copies;
        self.left.iter_mut().zip(other.left).for_each(|(slot, count)| *slot += count);
    }

    /// Records that did not become atoms for this reason.
    pub fn left(&self, why: Unread) -> u64 {
        self.left.get(why as usize).copied().unwrap_or(0)
    }

    /// Holds the account against the atoms of the structure.
    ///
    /// # Errors
    /// A record was met and is neither an atom nor among those left out: a fault of this program.
    pub(crate) fn settle(&self, atoms: usize, shown: &str) -> Result<()> {
        let explained = self.left.iter().sum::<u64>() + atoms as u64;
        if explained == self.records + self.copies {
            return Ok(());
        }
        let explained = explained.saturating_sub(self.copies);
        Err(Error::Unaccounted { path: shown.to_owned(), records: self.records, explained })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_must_add_up() {
        let mut accounts = Accounts { records: 5, ..Accounts::default() };
        accounts.leave(Unread::OtherLocation, 2);
        accounts.unread(Unread::OtherModel, 7);
        assert_eq!(accounts.settle(3, "x.pdb"), Ok(()));
        assert_eq!(accounts.left(Unread::OtherModel), 7);
        let error = accounts.settle(2, "x.pdb").unwrap_err();
        assert_eq!(error, Error::Unaccounted { path: "x.pdb".to_owned(), records: 12, explained: 11 });
        assert!(error.to_string().contains("12 coordinate records"), "{error}");
    }

    #[test]
    fn reasons_are_indices() {
        for (at, why) in Unread::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
        assert_eq!(Unread::OtherFrame.code(), "other-frame");
    }
}

//! Models after the first are not read; whether their atoms are those of the first is told.

use super::notes::Notes;
use crate::error::Problem;
use crate::structure::Repair;

/// The atoms of a model or frame, in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Atoms {
    pub(super) count: u64,
    sum: u64,
}

impl Atoms {
    /// Adds an atom by its key.
    #[inline]
    pub(super) fn add(&mut self, key: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(key);
    }
}

/// A key that goes on with a word. All words that tell an atom from others, whatever its number and place, make its key.
#[inline]
pub(super) fn mix(key: u64, word: u64) -> u64 {
    (key.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Notes those of the models that have other atoms than the first; each comes with the line where it begins.
pub(super) fn note(notes: &mut Notes, first: Atoms, others: impl Iterator<Item = (Atoms, u64)>) {
    let mut differing = others.filter(|(atoms, _)| *atoms != first).map(|(_, line)| line);
    if let Some(line) = differing.next() {
        let what = "this model has other atoms than the first, and is not read".to_owned();
        let place = || Problem { line, column: 0, column_end: 0, what };
        notes.repairs(Repair::ModelsDiffer, 1 + differing.count() as u64, place);
    }
}

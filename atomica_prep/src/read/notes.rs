//! What the readers mend and how much of it, so that no file passes as better than it is.

use super::options::{Options, Strictness};
use crate::error::{Error, Problem, Problems, Result};
use crate::structure::{Repair, Repaired, Repairs};

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
        self.repairs(kind, 1, place);
    }

    /// Counts several repairs of one kind, of which `place` is the first.
    #[cold]
    pub(super) fn repairs(&mut self, kind: Repair, count: u64, place: impl FnOnce() -> Problem) {
        if self.strict && !kind.is_note() {
            return self.refused.push(place());
        }
        match self.repairs.0.iter_mut().find(|r| r.kind == kind) {
            Some(known) => known.count += count,
            None => self.repairs.0.push(Repaired { kind, count, first: place() }),
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
        repairs.0.sort_by_key(|r| r.kind);
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

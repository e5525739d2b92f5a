//! Atoms in file order → a [`Structure`]: residues that are split are joined, alternate locations settled, elements
//! guessed.

use std::collections::HashMap;

use super::notes::Notes;
use super::options::{Ids, Options};
use crate::error::{Error, Problem, Result};
use crate::structure::{Name, Repair, Residue, Structure};

/// Å; a coordinate beyond is no coordinate, and would not survive single precision.
pub(super) const LARGEST: f64 = 1e7;

/// Who a residue is, as a parser sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResidueKey<'a> {
    pub(super) name: Name,
    pub(super) chain: &'a str,
    pub(super) resnum: i32,
    pub(super) icode: Name,
    pub(super) hetero: bool,
    pub(super) polymer: Option<bool>,
    pub(super) after_ter: bool,
    /// Where its first atom is; 0 in a file without lines.
    pub(super) line: u64,
}

/// Collects atoms in file order and settles alternate locations at the end.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub(super) notes: Notes,
    /// Whose chain ids and residue numbers are wanted.
    pub(super) ids: Ids,
    structure: Structure,
    /// Where each residue begins.
    lines: Vec<u64>,
    /// Highest residue number of each chain so far.
    highest: Vec<i32>,
    /// Some number was not higher than all before in its chain, so residues may be split.
    unordered: bool,
    /// Alternate locations of the atoms, 0 for none; empty as long as no atom has one.
    altlocs: Vec<u8>,
    /// Occupancies in units of 1e-4, so that sums are exact and ties are ties; as many as there are `altlocs`.
    occupancies: Vec<i64>,
    /// Where each chain is in the structure.
    chain_places: HashMap<String, usize>,
}

impl Builder {
    pub(super) fn new(atoms: usize, options: Options) -> Self {
        let mut builder = Self { notes: Notes::new(options), ids: options.ids, ..Self::default() };
        builder.structure.positions.reserve(atoms);
        builder.structure.elements.reserve(atoms);
        builder.structure.atom_names.reserve(atoms);
        builder
    }

    /// Begins a residue, or goes on with the last one if it is the same.
    pub(super) fn residue(&mut self, key: ResidueKey<'_>) {
        let chain = match self.structure.residues.last() {
            Some(last) if self.structure.chains.get(last.chain).is_some_and(|c| c == key.chain) => last.chain,
            _ => match self.chain_places.get(key.chain) {
                Some(place) => *place,
                None => {
                    let place = self.structure.chains.len();
                    self.structure.chains.push(key.chain.to_owned());
                    self.chain_places.insert(key.chain.to_owned(), place);
                    place
                }
            },
        };
        let start = self.structure.positions.len();
        if let Some(last) = self.structure.residues.last() {
            if last.chain == chain
                && last.resnum == key.resnum
                && last.icode == key.icode
                && last.name == key.name
                && last.after_ter == key.after_ter
            {
                return;
            }
        }
        match self.highest.get_mut(chain) {
            Some(highest) if *highest < key.resnum => *highest = key.resnum,
            Some(_) => self.unordered = true,
            None => self.highest.push(key.resnum),
        }
        self.lines.push(key.line);
        self.structure.residues.push(Residue {
            start,
            end: start,
            name: key.name,
            chain,
            resnum: key.resnum,
            icode: key.icode,
            hetero: key.hetero,
            polymer: key.polymer,
            after_ter: key.after_ter,
        });
    }

    /// Adds an atom to the last residue. `altloc` is 0 without one.
    #[inline]
    pub(super) fn atom(&mut self, name: Name, element: u8, position: [f64; 3], occupancy: f64, altloc: u8) {
        self.structure.atom_names.push(name);
        self.structure.elements.push(element);
        self.structure.positions.push(position);
        if altloc != 0 || !self.altlocs.is_empty() {
            self.alternate(occupancy, altloc);
        }
        if let Some(last) = self.structure.residues.last_mut() {
            last.end = self.structure.positions.len();
        }
    }

    /// Notes the last atom's alternate location, and that the atoms before it had none.
    #[cold]
    fn alternate(&mut self, occupancy: f64, altloc: u8) {
        let before = self.structure.positions.len().saturating_sub(1);
        self.altlocs.resize(before, 0);
        self.occupancies.resize(before, 0);
        self.altlocs.push(altloc);
        // Saturating cast: absurd occupancies stay absurd, but finite.
        self.occupancies.push((occupancy.clamp(-1e6, 1e6) * 1e4).round() as i64);
    }

    /// The structure; `expected` are the records that hold its atoms.
    pub(super) fn finish(mut self, shown: &str, expected: &str) -> Result<Structure> {
        if self.unordered {
            self.join_split();
        }
        let repairs = std::mem::take(&mut self.notes).finish(shown)?;
        let structure = self.settle();
        if structure.positions.is_empty() {
            return Err(Error::NoAtoms { path: shown.to_owned(), expected: expected.to_owned() });
        }
        Ok(Structure { repairs, ..structure })
    }

    /// Atoms so far.
    pub(super) fn atoms(&self) -> usize {
        self.structure.positions.len()
    }

    /// All atoms as they were given, nothing joined and nothing chosen, and which of them are alternate locations.
    pub(super) fn records(mut self, shown: &str, expected: &str) -> Result<(Structure, Vec<bool>)> {
        let repairs = std::mem::take(&mut self.notes).finish(shown)?;
        if self.atoms() == 0 {
            return Err(Error::NoAtoms { path: shown.to_owned(), expected: expected.to_owned() });
        }
        let alternate = (0..self.atoms()).map(|atom| self.altlocs.get(atom).is_some_and(|a| *a != 0)).collect();
        Ok((Structure { repairs, ..self.structure }, alternate))
    }

    fn settle(self) -> Structure {
        if !self.altlocs.is_empty() {
            self.choose_altlocs()
        } else {
            let mut structure = self.structure;
            structure.residues.retain(|r| r.end > r.start);
            structure
        }
    }

    /// Joins the runs of residues that other residues separate, as hydrogens at the end of a chain. Equal atom names
    /// tell another residue of the same number, alternate locations are left to [`Self::places`].
    fn join_split(&mut self) {
        let residues = &self.structure.residues;
        let names = |r: &Residue| self.structure.atom_names.get(r.start..r.end).unwrap_or_default();
        let mut joined: Vec<Vec<usize>> = Vec::with_capacity(residues.len());
        let mut known: HashMap<(usize, i32, Name, Name, bool, bool), usize> = HashMap::new();
        for (i, residue) in residues.iter().enumerate() {
            let key = (residue.chain, residue.resnum, residue.icode, residue.name, residue.hetero, residue.after_ter);
            let whole = self.altlocs.get(residue.start..residue.end).unwrap_or_default().iter().all(|a| *a == 0);
            let first = known.get(&key).copied().filter(|_| whole);
            let before = first.and_then(|at| joined.get_mut(at)).filter(|before| {
                before
                    .iter()
                    .filter_map(|at| residues.get(*at))
                    .all(|r| names(r).iter().all(|n| !names(residue).contains(n)))
            });
            match before {
                Some(before) => {
                    let chain = self.structure.chains.get(residue.chain).map_or("", String::as_str);
                    let what = format!(
                        "residue {} {}{} of chain {chain:?} goes on after others; joined",
                        residue.name.as_str(),
                        residue.resnum,
                        residue.icode.as_str()
                    );
                    let line = self.lines.get(i).copied().unwrap_or(0);
                    let place = || Problem { line, column: 0, column_end: 0, what };
                    self.notes.repair(Repair::ResidueSplit, place);
                    before.push(i);
                }
                None => {
                    known.insert(key, joined.len());
                    joined.push(vec![i]);
                }
            }
        }
        if joined.len() < residues.len() {
            self.arrange(&joined);
        }
    }

    /// Puts the residues, and the atoms with them, into the order of `joined`; each of these becomes one residue.
    fn arrange(&mut self, joined: &[Vec<usize>]) {
        let mut order: Vec<usize> = Vec::with_capacity(self.structure.positions.len());
        let mut residues = Vec::with_capacity(joined.len());
        for members in joined {
            let start = order.len();
            let runs = members.iter().filter_map(|at| self.structure.residues.get(*at));
            order.extend(runs.clone().flat_map(|r| r.start..r.end));
            residues.extend(runs.take(1).map(|first| Residue { start, end: order.len(), ..*first }));
        }
        fn pick<T: Copy>(values: &mut Vec<T>, order: &[usize]) {
            *values = order.iter().filter_map(|at| values.get(*at).copied()).collect();
        }
        pick(&mut self.structure.positions, &order);
        pick(&mut self.structure.elements, &order);
        pick(&mut self.structure.atom_names, &order);
        pick(&mut self.altlocs, &order);
        pick(&mut self.occupancies, &order);
        self.structure.residues = residues;
    }

    /// Runs of residues that share one place: alternate locations of one residue, possibly of different
    /// components, possibly written apart.
    fn places(&self) -> Vec<Vec<usize>> {
        let mut places: Vec<Vec<usize>> = Vec::with_capacity(self.structure.residues.len());
        let mut known: HashMap<(usize, i32, Name), usize> = HashMap::new();
        for (i, residue) in self.structure.residues.iter().enumerate() {
            let altlocs = self.altlocs.get(residue.start..residue.end).unwrap_or_default();
            let any = altlocs.iter().any(|a| *a != 0);
            let key = (residue.chain, residue.resnum, residue.icode);
            if any {
                if let Some(place) = known.get(&key).and_then(|p| places.get_mut(*p)) {
                    let adjacent = place.last().is_some_and(|last| last + 1 == i);
                    if adjacent || altlocs.iter().all(|a| *a != 0) {
                        place.push(i);
                        continue;
                    }
                }
                known.insert(key, places.len());
            }
            places.push(vec![i]);
        }
        places
    }

    fn choose_altlocs(self) -> Structure {
        let mut out = Structure { chains: self.structure.chains.clone(), ..Structure::default() };
        for place in self.places() {
            let runs: Vec<&Residue> = place.iter().filter_map(|i| self.structure.residues.get(*i)).collect();
            let Some(first) = runs.first() else { continue };
            let mixed = runs.iter().any(|r| r.name != first.name);
            // Per alternate location: letter, atoms, summed occupancy.
            let mut tally: Vec<(u8, i64, i64)> = Vec::new();
            for atom in runs.iter().flat_map(|r| r.start..r.end) {
                let (Some(&altloc), Some(&occupancy)) = (self.altlocs.get(atom), self.occupancies.get(atom)) else {
                    continue;
                };
                if altloc == 0 {
                    continue;
                }
                match tally.iter_mut().find(|t| t.0 == altloc) {
                    Some(t) => {
                        t.1 += 1;
                        t.2 += occupancy;
                    }
                    None => tally.push((altloc, 1, occupancy)),
                }
            }
            // Within one component the sum decides, so that a location with a single stray atom does not win.
            // Between components the mean does, or the larger residue would.
            let mut chosen: Option<(u8, i64, i64)> = None;
            for candidate in tally {
                let better = match chosen {
                    None => true,
                    Some(best) if mixed => candidate.2 * best.1 > best.2 * candidate.1,
                    Some(best) => candidate.2 > best.2,
                };
                if better {
                    chosen = Some(candidate);
                }
            }
            let letter = chosen.map_or(0, |c| c.0);
            let component = runs
                .iter()
                .find(|r| self.altlocs.get(r.start..r.end).unwrap_or_default().contains(&letter))
                .map_or(first.name, |r| r.name);
            let start = out.positions.len();
            for run in runs.iter().filter(|r| r.name == component) {
                for atom in run.start..run.end {
                    let (Some(&altloc), Some(&position), Some(&element), Some(&name)) = (
                        self.altlocs.get(atom),
                        self.structure.positions.get(atom),
                        self.structure.elements.get(atom),
                        self.structure.atom_names.get(atom),
                    ) else {
                        continue;
                    };
                    if altloc == 0 || altloc == letter {
                        out.positions.push(position);
                        out.elements.push(element);
                        out.atom_names.push(name);
                    }
                }
            }
            let end = out.positions.len();
            if end > start {
                let kept = runs.iter().find(|r| r.name == component).copied().unwrap_or(first);
                out.residues.push(Residue { start, end, ..*kept });
            }
        }
        out
    }
}

/// Element of an atom whose file does not say it. `padded` is the four-column name of a PDB file (blanks
/// included), or the bare name from elsewhere; `component` is its residue.
///
/// In the PDB's columns a two-letter symbol begins in the first, a one-letter symbol in the second.
pub(super) fn infer_element(padded: &[u8], columns: bool, component: Name) -> u8 {
    use crate::vocab::{element, name, Name as Known};

    let bare = padded.trim_ascii();
    let letters = bare.iter().position(u8::is_ascii_alphabetic).and_then(|i| bare.get(i..)).unwrap_or_default();
    let Some(&first) = letters.first() else { return 0 };
    let single = element(&[first]);
    if matches!(name(component.as_bytes()), Known::Water) {
        return if first.eq_ignore_ascii_case(&b'H') || first.eq_ignore_ascii_case(&b'D') { 1 } else { 8 };
    }
    if !matches!(name(component.as_bytes()), Known::Other) {
        // Amino acids and nucleotides hold no two-letter elements but selenium.
        let selenium = component.as_bytes().eq_ignore_ascii_case(b"MSE") && bare.eq_ignore_ascii_case(b"SE");
        return if selenium { 34 } else { single };
    }
    let two = letters.get(..2).map_or(0, element);
    if two == 0 {
        return single;
    }
    if single == 0 || bare.eq_ignore_ascii_case(component.as_bytes()) {
        return two; // an ion bears the name of its element
    }
    let begins_in_first_column = if columns { padded.first().is_some_and(u8::is_ascii_alphabetic) } else { true };
    if !begins_in_first_column {
        return single;
    }
    let rest = letters.get(2..).unwrap_or_default();
    let halogen = letters.get(..2).is_some_and(|l| l.eq_ignore_ascii_case(b"CL") || l.eq_ignore_ascii_case(b"BR"));
    // Names that fill all columns (HG11, CAA1) or come without columns say little: halogens, and metals that no
    // letter of organic chemistry begins.
    let organic = matches!(single, 1 | 6 | 7 | 8 | 15 | 16);
    let certain =
        halogen || !organic || (columns && single != 1 && bare.len() < 4 && rest.iter().all(u8::is_ascii_digit));
    if certain {
        two
    } else {
        single
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn elements_from_names() {
        for (padded, component, expected) in [
            (" CA ", "ALA", 6),
            ("CA  ", "ALA", 6),
            ("CA  ", " CA", 20),
            ("CA  ", "CA", 20),
            ("HG11", "VAL", 1),
            ("1HG1", "VAL", 1),
            ("SE  ", "MSE", 34),
            (" SD ", "MET", 16),
            ("FE  ", "HEM", 26),
            (" CHA", "HEM", 6),
            ("CL1 ", "LIG", 17),
            ("BR12", "LIG", 35),
            ("CAA1", "LIG", 6),
            ("ZN  ", "ZN", 30),
            (" O5'", "DA", 8),
            ("HO5'", "DA", 1),
            ("HG  ", "HG", 80),
            ("HG  ", "LIG", 1),
            (" OH2", "TIP3", 8),
            ("    ", "LIG", 0),
            ("1234", "LIG", 0),
        ] {
            assert_eq!(
                infer_element(padded.as_bytes(), true, name(component.trim())),
                expected,
                "{padded:?} {component}"
            );
        }
        assert_eq!(infer_element(b"CA", false, name("ALA")), 6);
        assert_eq!(infer_element(b"CD", false, name("LIG")), 6);
        assert_eq!(infer_element(b"CL3", false, name("LIG")), 17);
        assert_eq!(infer_element(b"ZN", false, name("ZN")), 30);
    }

    fn with_altlocs(atoms: &[(&str, i32, &str, u8, f64)]) -> Structure {
        let mut builder = Builder::default();
        for (i, (component, resnum, atom, altloc, occupancy)) in atoms.iter().enumerate() {
            builder.residue(ResidueKey {
                name: name(component),
                chain: "A",
                resnum: *resnum,
                icode: Name::default(),
                hetero: false,
                polymer: None,
                after_ter: false,
                line: i as u64 + 1,
            });
            builder.atom(name(atom), 6, [i as f64, 0.0, 0.0], *occupancy, *altloc);
        }
        builder.finish("x", "atoms").unwrap()
    }

    fn kept(structure: &Structure) -> Vec<i64> {
        structure.positions.iter().map(|p| p[0] as i64).collect()
    }

    #[test]
    fn highest_occupancy_wins_and_ties_go_to_the_first() {
        let s = with_altlocs(&[
            ("SER", 1, "N", 0, 1.0),
            ("SER", 1, "CB", b'A', 0.4),
            ("SER", 1, "CB", b'B', 0.6),
            ("SER", 1, "OG", b'A', 0.4),
            ("SER", 1, "OG", b'B', 0.6),
            ("SER", 2, "CB", b'A', 0.5),
            ("SER", 2, "CB", b'B', 0.5),
        ]);
        assert_eq!(kept(&s), [0, 2, 4, 5]);
        assert_eq!(s.residues.len(), 2);
    }

    #[test]
    fn a_residue_is_chosen_as_a_whole() {
        // Atom by atom, CB would come from B and OG from A.
        let s = with_altlocs(&[
            ("SER", 1, "CB", b'A', 0.4),
            ("SER", 1, "CB", b'B', 0.6),
            ("SER", 1, "OG", b'A', 0.9),
            ("SER", 1, "OG", b'B', 0.1),
        ]);
        assert_eq!(kept(&s), [0, 2]);
    }

    #[test]
    fn two_components_at_one_place() {
        let s = with_altlocs(&[
            ("SER", 1, "CB", b'A', 0.6),
            ("SER", 1, "OG", b'A', 0.6),
            ("THR", 1, "CB", b'B', 0.4),
            ("THR", 1, "OG1", b'B', 0.4),
            ("THR", 1, "CG2", b'B', 0.4),
            ("THR", 1, "X", b'B', 0.4),
            ("GLY", 2, "N", 0, 1.0),
        ]);
        assert_eq!(kept(&s), [0, 1, 6]);
        assert_eq!(s.residues[0].name.as_str(), "SER");
    }

    #[test]
    fn alternate_locations_written_apart() {
        let s = with_altlocs(&[("SER", 1, "CB", b'A', 0.4), ("GLY", 2, "N", 0, 1.0), ("SER", 1, "CB", b'B', 0.6)]);
        assert_eq!(kept(&s), [2, 1]);
    }

    #[test]
    fn parts_of_a_residue_are_joined() {
        let s = with_altlocs(&[
            ("SER", 1, "N", 0, 1.0),
            ("SER", 1, "CA", 0, 1.0),
            ("GLY", 2, "N", 0, 1.0),
            ("SER", 1, "CB", 0, 1.0),
            ("GLY", 2, "CA", 0, 1.0),
            // The same name again: another residue of that number.
            ("SER", 1, "N", 0, 1.0),
        ]);
        assert_eq!(kept(&s), [0, 1, 3, 2, 4, 5]);
        assert_eq!(s.residues.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), [(0, 3), (3, 5), (5, 6)]);
        let told: Vec<_> = s.repairs.iter().map(|r| (r.kind, r.count, r.first.line)).collect();
        assert_eq!(told, [(Repair::ResidueSplit, 2, 4)]);
    }

    #[test]
    fn one_number_twice_without_alternate_locations_is_two_residues() {
        let s = with_altlocs(&[("SER", 1, "CB", 0, 1.0), ("THR", 1, "CB", 0, 1.0)]);
        assert_eq!(s.residues.len(), 2);
    }
}

//! Atoms in file order → a [`Structure`]: residues that are split are joined, alternate locations settled, elements
//! guessed.

use std::collections::{BTreeSet, HashMap, HashSet};

use memchr::memchr;

use super::chains;
use super::links::Stated;
use super::no_atom;
use super::notes::Notes;
use super::options::{Ids, Options};
use crate::accounts::{Accounts, Unread};
use crate::error::{Error, Problem, Result};
use crate::structure::{Name, Repair, Residue, Structure};
use crate::torsion::{radius, Bonds};
use crate::vocab;

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
    /// Coordinate records that parsers meet; those of the atoms they hand on are counted at the end.
    pub(super) accounts: Accounts,
    /// Whose chain ids and residue numbers are wanted.
    pub(super) ids: Ids,
    /// Bonds between residues, as the records say.
    pub(super) stated: Stated,
    structure: Structure,
    /// Where each residue begins.
    lines: Vec<u64>,
    /// Highest residue number of each chain so far.
    highest: Vec<i32>,
    /// Some number was not higher than all before in its chain, so residues may be split.
    unordered: bool,
    /// Highest number of each chain's residues that are no hetero groups.
    highest_member: Vec<i32>,
    /// One of these was lower than one before, or the same, so that a chain may be there twice.
    pub(super) steps_back: bool,
    /// Alternate locations of the atoms, 0 for none; empty as long as no atom has one.
    altlocs: Vec<u8>,
    /// Occupancies in units of 1e-4, so that sums are exact and ties are ties; as many as there are `altlocs`.
    occupancies: Vec<i64>,
    /// Atoms of the last residue with another one than 1, as long as no atom has an alternate location.
    recent: Vec<(usize, f64)>,
    /// Where each chain is in the structure.
    chain_places: HashMap<String, usize>,
    /// Atoms of copies that stand where others do.
    dropped: usize,
    /// Where each atom was when it was given; empty as long as all are there still, or where no bond is stated.
    origins: Vec<usize>,
    bonded: bool,
    /// Atoms whose element was told from the columns of their name.
    pub(super) guessed: Vec<usize>,
    /// The atoms are from columns, those of PDB files, whose parser has parted chains that are there twice.
    pub(super) columns: bool,
    /// Atoms that are none by what stands in the place of their element.
    pub(super) no_atoms: Vec<usize>,
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
    pub(super) fn residue(&mut self, mut key: ResidueKey<'_>) {
        if key.name.is_empty() {
            key.name = self.nameless(&key);
        }
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
        if !key.hetero {
            if self.highest_member.len() <= chain {
                self.highest_member.resize(chain + 1, i32::MIN);
            }
            match self.highest_member.get_mut(chain) {
                Some(highest) if *highest < key.resnum => *highest = key.resnum,
                // Letters of insertions follow one another under one number.
                Some(highest) => self.steps_back |= *highest > key.resnum || key.icode.is_empty() || key.after_ter,
                None => {}
            }
        }
        self.lines.push(key.line);
        self.recent.clear();
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

    /// The name for a residue that has none.
    #[cold]
    fn nameless(&mut self, key: &ResidueKey<'_>) -> Name {
        let what =
            format!("residue {}{} of chain {:?} has no name; called UNL", key.resnum, key.icode.as_str(), key.chain);
        self.notes.repair(Repair::NameMissing, || Problem { line: key.line, column: 0, column_end: 0, what });
        Name::new(b"UNL").unwrap_or_default()
    }

    /// Adds an atom to the last residue. `altloc` is 0 without one.
    #[inline]
    pub(super) fn atom(&mut self, name: Name, element: u8, position: [f64; 3], occupancy: f64, altloc: u8) {
        self.structure.atom_names.push(name);
        self.structure.elements.push(element);
        self.structure.positions.push(position);
        if altloc != 0 || !self.altlocs.is_empty() {
            self.alternate(occupancy, altloc);
        } else if occupancy != 1.0 {
            self.recent.push((self.structure.positions.len() - 1, occupancy));
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
        // Saturating cast: absurd occupancies stay absurd, but finite.
        let whole = |occupancy: f64| (occupancy.clamp(-1e6, 1e6) * 1e4).round() as i64;
        if self.occupancies.len() < before {
            // Where the last residue had atoms without one before, they may be one of its locations.
            let residue = self.structure.residues.last().map_or(before, |r| r.start.min(before));
            self.occupancies.resize(residue, 0);
            self.occupancies.resize(before, whole(1.0));
            for (atom, occupancy) in self.recent.drain(..) {
                if let Some(slot) = self.occupancies.get_mut(atom).filter(|_| atom < before) {
                    *slot = whole(occupancy);
                }
            }
        }
        self.altlocs.push(altloc);
        self.occupancies.push(whole(occupancy));
    }

    /// Notes what a modified residue is derived from.
    pub(super) fn parent(&mut self, component: &[u8], parent: &[u8]) {
        add_parent(&mut self.structure, component, parent);
    }

    /// The structure so far, as the file has it.
    pub(super) fn structure(&self) -> &Structure {
        &self.structure
    }

    /// The structure; `expected` are the records that hold its atoms.
    pub(super) fn finish(mut self, shown: &str, expected: &str) -> Result<Structure> {
        self.doubt_metals();
        self.doubt_names();
        let stated = std::mem::take(&mut self.stated);
        let mut bonds = None;
        if !stated.is_empty() {
            bonds = Some(stated.resolve(&self.structure, &self.altlocs, &mut self.notes));
            self.bonded = true;
        }
        let no_atoms = self.leave_no_atoms();
        self.part_chains();
        if self.columns && !self.altlocs.is_empty() {
            self.lengthen_names();
        }
        if self.unordered {
            self.join_split();
        }
        let mut accounts = self.accounts;
        let given = self.structure.positions.len() + self.dropped;
        self.part_copies();
        self.one_of_two();
        let unplaced = self.leave_unplaced();
        self.mend_ions();
        let (mut structure, mut notes, origins) = self.settle();
        if let Some(bonds) = bonds {
            bonds.place(&mut structure, &origins, &mut notes);
        }
        let repairs = notes.finish(shown)?;
        accounts.leave(Unread::NoPlace, unplaced as u64);
        accounts.leave(Unread::NoAtom, no_atoms as u64);
        accounts.leave(Unread::OtherLocation, (given - unplaced - structure.positions.len()) as u64);
        accounts.settle(structure.positions.len(), shown)?;
        if structure.positions.is_empty() {
            return Err(Error::NoAtoms { path: shown.to_owned(), expected: expected.to_owned() });
        }
        Ok(Structure { repairs, accounts, ..structure })
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

    /// The structure with one of the alternate locations, and where its atoms were before.
    fn settle(mut self) -> (Structure, Notes, Vec<usize>) {
        if !self.altlocs.is_empty() {
            self.mark_blank();
            let structure = self.choose_altlocs();
            (structure, self.notes, self.origins)
        } else {
            let mut structure = self.structure;
            structure.residues.retain(|r| r.end > r.start);
            (structure, self.notes, self.origins)
        }
    }

    /// Who a residue is, for messages.
    fn who(&self, residue: &Residue) -> String {
        let chain = self.structure.chains.get(residue.chain).map_or("", String::as_str);
        format!("residue {} {}{} of chain {chain:?}", residue.name.as_str(), residue.resnum, residue.icode.as_str())
    }

    /// Names the copies of chains that are there more than once: A, A-2, A-3.
    pub(super) fn part_chains(&mut self) {
        if !self.steps_back || self.columns {
            return;
        }
        let copies = chains::copies(&self.structure, &self.altlocs);
        let mut names: HashMap<(usize, usize), usize> = HashMap::new();
        for (at, copy) in copies.into_iter().enumerate().filter(|(_, copy)| *copy > 0) {
            let Some(own) = self.structure.residues.get(at).map(|r| r.chain) else { continue };
            let base = self.structure.chains.get(own).cloned().unwrap_or_default();
            if let std::collections::hash_map::Entry::Vacant(entry) = names.entry((own, copy)) {
                let Some(name) = chains::copy_name(&base, copy as u64 + 1, |name| self.chain_places.contains_key(name))
                else {
                    continue;
                };
                let line = self.lines.get(at).copied().unwrap_or(0);
                let what = format!("chain {base:?} again, from residues that it has on; called {name:?}");
                self.notes.repair(Repair::ChainByBreak, || Problem { line, column: 0, column_end: 0, what });
                entry.insert(self.structure.chains.len());
                self.chain_places.insert(name.clone(), self.structure.chains.len());
                self.structure.chains.push(name);
            }
            if let (Some(residue), Some(place)) = (self.structure.residues.get_mut(at), names.get(&(own, copy))) {
                residue.chain = *place;
            }
        }
    }

    /// Atom names of five letters, of which the last stands in the column of alternate locations: what looks like
    /// locations of one atom is bonded to one another.
    fn lengthen_names(&mut self) {
        for at in 0..self.structure.residues.len() {
            let Some(residue) = self.structure.residues.get(at).copied() else { continue };
            if !self.has_long_names(&residue) {
                continue;
            }
            let mut count = 0;
            for atom in residue.start..residue.end {
                let (Some(name), Some(letter)) = (self.structure.atom_names.get_mut(atom), self.altlocs.get_mut(atom))
                else {
                    continue;
                };
                if let Some(long) =
                    Some(*letter).filter(|l| *l != 0).and_then(|l| Name::new(&[name.as_bytes(), &[l]].concat()))
                {
                    (*name, *letter) = (long, 0);
                    count += 1;
                }
            }
            let what = format!("{} has {count} atom names of five letters, in columns 13 to 17", self.who(&residue));
            let line = self.lines.get(at).copied().unwrap_or(0);
            self.notes.repair(Repair::NameFiveLetters, || Problem { line, column: 0, column_end: 0, what });
        }
    }

    /// Do letters of alternate locations belong to the names of a residue's atoms? Atoms of different letters are then bonded
    /// to one another more often than those of one letter, and none is in the place of another.
    fn has_long_names(&self, residue: &Residue) -> bool {
        /// Bonds of heavy atoms that make it certain.
        const BONDS: usize = 4;
        let letters = self.altlocs.get(residue.start..residue.end).unwrap_or_default();
        let names = self.structure.names_of(residue);
        let lettered: Vec<usize> = (0..letters.len()).filter(|i| letters.get(*i) != Some(&0)).collect();
        let full = |i: &usize| names.get(*i).is_some_and(|name| name.as_bytes().len() == 4);
        if lettered.len() <= BONDS || letters.len() > Copies::MOST || !lettered.iter().all(full) {
            return false;
        }
        let mut known = HashSet::with_capacity(lettered.len());
        if !lettered.iter().all(|i| known.insert((names.get(*i), letters.get(*i)))) {
            return false;
        }
        let positions = self.structure.positions_of(residue);
        let places: Vec<[f32; 3]> = positions.iter().map(|p| p.map(|c| c as f32)).collect();
        let bonds = Bonds::new(&places, self.structure.elements_of(residue));
        let letter = |i: usize| letters.get(i).copied().unwrap_or(0);
        let heavy = |i: usize| self.structure.elements_of(residue).get(i).is_some_and(|e| *e > 1);
        let (mut same, mut other) = (0, 0);
        for (n, a) in lettered.iter().enumerate() {
            let clash = |b: &usize| squared(positions, *a, *b) < Copies::CLASH * Copies::CLASH;
            if lettered.iter().skip(n + 1).any(clash) {
                return false;
            }
            let partners = bonds.of(*a).iter().map(|b| *b as usize).filter(|b| b > a && letter(*b) != 0);
            for b in partners.filter(|b| heavy(*a) && heavy(*b)) {
                *(if letter(*a) == letter(b) { &mut same } else { &mut other }) += 1;
            }
        }
        other >= BONDS && other > 2 * same
    }

    /// Parts residues that hold an atom name twice without alternate locations: copies of a molecule under one number
    /// become residues of their own, and of copies that stand in one place the first is kept.
    fn part_copies(&mut self) {
        let residues = std::mem::take(&mut self.structure.residues);
        let mut parted: Vec<(usize, Copies)> = Vec::new();
        // The last residue of each component whose names do not repeat: most others have the same names.
        let mut plain = [usize::MAX; 1 << 6];
        for (i, residue) in residues.iter().enumerate() {
            let names = self.structure.names_of(residue);
            let slot = residue.name.word().wrapping_mul(SPREAD) >> (u64::BITS - 6);
            let Some(plain) = plain.get_mut(slot as usize) else { continue };
            let altlocs = || self.altlocs.get(residue.start..residue.end).unwrap_or_default();
            if names.len() < 2 || residues.get(*plain).is_some_and(|same| alike(self.structure.names_of(same), names)) {
                continue;
            }
            if !repeats(names) {
                *plain = i;
                continue;
            }
            if altlocs().iter().any(|a| *a != 0) {
                continue;
            }
            let (positions, elements) = (self.structure.positions_of(residue), self.structure.elements_of(residue));
            if let Some(copies) = Copies::of(names, positions, elements) {
                parted.push((i, copies));
            }
        }
        if parted.is_empty() {
            self.structure.residues = residues;
            return;
        }
        let mut order = Vec::with_capacity(self.structure.positions.len());
        let lines = std::mem::take(&mut self.lines);
        let mut parted = parted.into_iter().peekable();
        for (i, residue) in residues.iter().enumerate() {
            let start = order.len();
            let line = lines.get(i).copied().unwrap_or(0);
            match parted.next_if(|(at, _)| *at == i) {
                None => {
                    self.lines.push(line);
                    order.extend(residue.start..residue.end);
                    self.structure.residues.push(Residue { start, end: order.len(), ..*residue });
                }
                Some((_, copies)) => {
                    let count = copies.kept.len();
                    let place = |what: String| Problem { line, column: 0, column_end: 0, what };
                    if count > 1 {
                        let what =
                            format!("{} holds its atom names {count} times; taken for copies", self.who(residue));
                        self.notes.repair(Repair::CopiesParted, || place(what));
                    }
                    for _ in 0..copies.dropped {
                        let what = "holds atoms twice in one place without alternate locations; the first are kept";
                        let what = format!("{} {what}", self.who(residue));
                        self.notes.repair(Repair::CopiesOverlap, || place(what));
                    }
                    for copy in copies.kept {
                        let start = order.len();
                        self.lines.push(line);
                        order.extend(copy.into_iter().map(|atom| residue.start + atom));
                        self.structure.residues.push(Residue { start, end: order.len(), ..*residue });
                    }
                }
            }
        }
        self.pick(&order);
    }

    /// Of two components that stand in one place under one number, without letters of alternate locations, the first is
    /// kept.
    fn one_of_two(&mut self) {
        let key = |r: &Residue| (r.chain, r.resnum, r.icode);
        let lettered =
            |r: &Residue| self.altlocs.get(r.start..r.end).unwrap_or_default().iter().any(|letter| *letter != 0);
        let mut gone = Vec::new();
        let pairs = self.structure.residues.iter().zip(self.structure.residues.iter().skip(1));
        for (at, (one, other)) in (1..).zip(pairs) {
            if key(one) == key(other) && one.name != other.name && !lettered(one) && !lettered(other) {
                gone.extend(self.overlap(one, other).then_some(at));
            }
        }
        for &at in &gone {
            let Some(residue) = self.structure.residues.get(at) else { continue };
            let what = format!("{} stands in the place of the residue before it, which is kept", self.who(residue));
            let line = self.lines.get(at).copied().unwrap_or(0);
            self.notes.repair(Repair::CopiesOverlap, || Problem { line, column: 0, column_end: 0, what });
        }
        if !gone.is_empty() {
            self.keep(|at, _| gone.binary_search(&at).is_err());
        }
    }

    /// Leaves out atoms without a place, which programs put at the origin, several of a residue at once, or at 9999. Gives
    /// how many.
    fn leave_unplaced(&mut self) -> usize {
        /// Å; what programs write for want of a place.
        const NOWHERE: std::ops::RangeInclusive<f64> = 9999.0..=10000.0;
        let nowhere = |p: &[f64; 3]| p.iter().all(|c| NOWHERE.contains(&c.abs()));
        let origin = |p: &[f64; 3]| p.iter().all(|c| *c == 0.0);
        let positions = &self.structure.positions;
        // All of them are looked at, many at a time.
        if !positions.iter().fold(false, |found, p| found | (p[0] == 0.0) | (p[0].abs() >= *NOWHERE.start())) {
            return 0;
        }
        let mut gone = Vec::new();
        for (at, residue) in self.structure.residues.iter().enumerate() {
            let atoms = self.structure.positions_of(residue);
            let letters = self.altlocs.get(residue.start..residue.end).unwrap_or_default();
            let several = atoms.iter().filter(|p| origin(p)).count() > 1 && letters.iter().all(|letter| *letter == 0);
            let without = (residue.start..residue.end).zip(atoms).filter(|(_, p)| nowhere(p) || several && origin(p));
            gone.extend(without.map(|(atom, _)| (atom, at)));
        }
        if let Some((_, at)) = gone.first() {
            let who = self.structure.residues.get(*at).map(|r| self.who(r)).unwrap_or_default();
            let what = format!("{who} has atoms without a place (at the origin, or at 9999); left out");
            let line = self.lines.get(*at).copied().unwrap_or(0);
            let place = || Problem { line, column: 0, column_end: 0, what };
            self.notes.repairs(Repair::NoPlace, gone.len() as u64, place);
            self.keep(|_, atom| gone.binary_search_by_key(&atom, |(atom, _)| *atom).is_err());
        }
        gone.len()
    }

    /// Leaves out what is no atom: lone pairs, virtual sites, dummies. Gives how many.
    fn leave_no_atoms(&mut self) -> usize {
        let told: HashSet<usize> = std::mem::take(&mut self.no_atoms).into_iter().collect();
        let unknown = memchr(0, &self.structure.elements).is_some();
        let element = |atom: usize| self.structure.elements.get(atom).copied().unwrap_or(0);
        let mut gone = Vec::new();
        for residue in &self.structure.residues {
            let names = self.structure.names_of(residue);
            if no_atom::is_dummy(residue.name, names) {
                gone.extend(residue.start..residue.end);
            } else if unknown {
                let is_none = |(atom, name): &(usize, &Name)| {
                    element(*atom) == 0 && (told.contains(atom) || no_atom::is_site(residue.name, **name))
                };
                gone.extend((residue.start..residue.end).zip(names).filter(is_none).map(|(atom, _)| atom));
            }
        }
        let Some(first) = gone.first() else { return 0 };
        let at = self.structure.residue_of(*first);
        let who = self.structure.residues.get(at).map(|r| self.who(r)).unwrap_or_default();
        let name = self.structure.atom_names.get(*first).copied().unwrap_or_default();
        let line = self.lines.get(at).copied().unwrap_or(0);
        let what =
            format!("{} of {who} is a lone pair, a virtual site or a dummy, and no atom; left out", name.as_str());
        self.notes.repairs(Repair::NoAtom, gone.len() as u64, || Problem { line, column: 0, column_end: 0, what });
        self.keep(|_, atom| gone.binary_search(&atom).is_err());
        gone.len()
    }

    /// Keeps the atoms that are wanted, asked for by residue and atom, and the residues that have any.
    fn keep(&mut self, wanted: impl Fn(usize, usize) -> bool) {
        let mut order = Vec::with_capacity(self.structure.positions.len());
        let lines = std::mem::take(&mut self.lines);
        for (at, residue) in std::mem::take(&mut self.structure.residues).into_iter().enumerate() {
            let start = order.len();
            order.extend((residue.start..residue.end).filter(|atom| wanted(at, *atom)));
            if order.len() > start {
                self.lines.push(lines.get(at).copied().unwrap_or(0));
                self.structure.residues.push(Residue { start, end: order.len(), ..residue });
            }
        }
        self.pick(&order);
    }

    /// Names that stand one column too far left look like metals (`CD1 `, `NE2 `): an atom as near to another one of its
    /// residue as the element of its first letter would be is of that element.
    fn doubt_metals(&mut self) {
        /// Å; beyond the sum of the radii. Metals are farther away.
        const SLACK: f64 = 0.15;
        for atom in std::mem::take(&mut self.guessed) {
            let Some((element, name)) = self.structure.elements.get(atom).zip(self.structure.atom_names.get(atom))
            else {
                continue;
            };
            if let Some(halogen) = self.halogen(atom, *element, name.as_bytes()) {
                if let Some(slot) = self.structure.elements.get_mut(atom) {
                    *slot = halogen;
                }
                continue;
            }
            // Chlorine, bromine, silicon and selenium have bonds like those of organic chemistry.
            if matches!(element, 0..=9 | 14..=17 | 34 | 35 | 53) {
                continue;
            }
            let single = name.as_bytes().get(..1).map_or(0, vocab::element);
            let residue = self.structure.residues.get(self.structure.residue_of(atom));
            let Some(residue) = residue.filter(|_| matches!(single, 6..=8 | 15 | 16)) else { continue };
            let bonded = |other: usize| {
                let heavy = self.structure.elements.get(other).copied().filter(|e| *e > 1);
                let reach = radius(single) + radius(heavy.unwrap_or(6)) + SLACK;
                other != atom && heavy.is_some() && squared(&self.structure.positions, atom, other) < reach * reach
            };
            if (residue.start..residue.end).any(bonded) {
                if let Some(slot) = self.structure.elements.get_mut(atom) {
                    *slot = single;
                }
            }
        }
    }

    /// Elements that are the first two letters of the atom's name, as some programs write them (calcium for CA): not those
    /// of atoms of amino acids and nucleotides, nor of any as near to another of their residue as the element of the first
    /// letter would be, and no metal is.
    fn doubt_names(&mut self) {
        // No name of a standard residue begins with those of chlorine, selenium and bromine.
        let odd = |element: u8| !matches!(element, 0 | 1 | 3..=9 | 14..=17 | 34 | 35 | 53);
        if !self.structure.elements.iter().any(|element| odd(*element)) {
            return;
        }
        let mut doubted = Vec::new();
        for (at, residue) in self.structure.residues.iter().enumerate() {
            for atom in residue.start..residue.end {
                let Some((stated, name)) = self.structure.elements.get(atom).zip(self.structure.atom_names.get(atom))
                else {
                    continue;
                };
                if odd(*stated) {
                    let single = initial(name.as_bytes(), *stated);
                    let organic = single.filter(|single| self.is_organic(residue, atom, [*stated, *single]));
                    doubted.extend(organic.map(|single| (at, atom, *stated, single)));
                }
            }
        }
        for (at, atom, stated, single) in doubted {
            let Some((residue, name)) = self.structure.residues.get(at).zip(self.structure.atom_names.get(atom)) else {
                continue;
            };
            let [stated, known] = [stated, single].map(vocab::symbol);
            let what = format!("{} of {}: not believed to be {stated}; {known}", name.as_str(), self.who(residue));
            let line = self.lines.get(at).copied().unwrap_or(0);
            self.notes.repair(Repair::ElementGuessed, || Problem { line, column: 0, column_end: 0, what });
            if let Some(slot) = self.structure.elements.get_mut(atom) {
                *slot = single;
            }
        }
    }

    /// Is an atom of the element `single`, by its residue, or by neighbours as near as only that is bonded?
    fn is_organic(&self, residue: &Residue, atom: usize, [stated, single]: [u8; 2]) -> bool {
        /// Å; beyond the sum of the radii.
        const SLACK: f64 = 0.1;
        /// Of these no ligand is made, but SG and OG are names of atoms.
        const HEAVIEST: u8 = 103;
        let component = residue.name.as_bytes();
        let name = self.structure.atom_names.get(atom).map_or("", Name::as_str);
        let standard = [vocab::name(component), vocab::force_field_name(component)];
        if stated > HEAVIEST || standard.iter().any(|known| vocab::is_atom_of(*known, name)) {
            return true;
        }
        let letter = |atom: usize| self.altlocs.get(atom).copied().unwrap_or(0);
        let bonded = |other: &usize| {
            let element = self.structure.elements.get(*other).copied().unwrap_or(0);
            let known = if matches!(element, 5..=9 | 14..=17) { element } else { 6 };
            let reach = radius(single) + radius(known) + SLACK;
            let one_location = letter(atom) == letter(*other) || letter(atom) == 0 || letter(*other) == 0;
            let kind = if single == 15 { element == 8 } else { element > 1 };
            let own = self.structure.atom_names.get(*other).is_some_and(|other| other.as_str() != name);
            own && kind && one_location && squared(&self.structure.positions, atom, *other) < reach * reach
        };
        let neighbours = (residue.start..residue.end).filter(bonded).count();
        match single {
            // Antimony and palladium stand as near to carbon as sulphur and phosphorus, in models that are not good. Only
            // phosphates are without doubt.
            16 => false,
            15 => neighbours > 2,
            _ => neighbours > 0,
        }
    }

    /// Halogens one column too far right look like carbon and boron (` CL1`, ` BR1`, as CHARMM writes them): they have one
    /// bond, to a carbon, and no carbon has one that is as long.
    fn halogen(&self, atom: usize, element: u8, name: &[u8]) -> Option<u8> {
        /// Å; longer than any bond of a halogen to carbon but that of iodine.
        const BONDED: f64 = 2.1;
        let two = name.get(..2)?;
        let (halogen, shortest) = match element {
            6 if two.eq_ignore_ascii_case(b"CL") => (17, 1.65),
            5 if two.eq_ignore_ascii_case(b"BR") => (35, 1.8),
            _ => return None,
        };
        let residue = self.structure.residues.get(self.structure.residue_of(atom))?;
        let distance = |other: usize| squared(&self.structure.positions, atom, other).sqrt();
        let kind = |other: usize| self.structure.elements.get(other).copied();
        let mut bonded = (residue.start..residue.end)
            .filter(|other| *other != atom && kind(*other) != Some(0) && distance(*other) < BONDED);
        let only = bonded.next().filter(|_| bonded.next().is_none())?;
        (kind(only) == Some(6) && distance(only) > shortest).then_some(halogen)
    }

    /// Do two residues stand in one place?
    fn overlap(&self, one: &Residue, other: &Residue) -> bool {
        /// Å; bonds to hydrogens are about as long.
        const NEAR: f64 = 0.9;
        (one.start..one.end)
            .any(|a| (other.start..other.end).any(|b| squared(&self.structure.positions, a, b) < NEAR * NEAR))
    }

    /// Elements of lone ions that their names gainsay: a program that guessed sulphur for SOD.
    fn mend_ions(&mut self) {
        /// No ion of a simulation is heavier.
        const HEAVIEST: u8 = 83;
        for (i, residue) in self.structure.residues.iter().enumerate() {
            if residue.end != residue.start + 1 {
                continue;
            }
            let Some(stated) = self.structure.elements.get(residue.start).copied().filter(|e| *e != 8) else {
                continue;
            };
            let Some(atom) = self.structure.atom_names.get(residue.start) else { continue };
            let ion = vocab::ion_of(residue.name.as_bytes(), atom.as_bytes());
            let Some(ion) = ion.filter(|ion| (1..=HEAVIEST).contains(ion) && *ion != stated) else { continue };
            let who = self.who(residue);
            let what = || {
                format!(
                    "{who} is an ion of {}; its element {} is not believed",
                    vocab::symbol(ion),
                    vocab::symbol(stated)
                )
            };
            let line = self.lines.get(i).copied().unwrap_or(0);
            let place = || Problem { line, column: 0, column_end: 0, what: what() };
            self.notes.repair(Repair::ElementGuessed, place);
            if let Some(slot) = self.structure.elements.get_mut(residue.start) {
                *slot = ion;
            }
        }
    }

    /// Keeps the atoms of `order`, in that order.
    fn pick(&mut self, order: &[usize]) {
        fn pick<T: Copy>(values: &mut Vec<T>, order: &[usize]) {
            *values = order.iter().filter_map(|at| values.get(*at).copied()).collect();
        }
        pick(&mut self.structure.positions, order);
        pick(&mut self.structure.elements, order);
        pick(&mut self.structure.atom_names, order);
        pick(&mut self.altlocs, order);
        pick(&mut self.occupancies, order);
        match self.origins.as_slice() {
            [] if self.bonded => self.origins = order.to_vec(),
            _ => pick(&mut self.origins, order),
        }
    }

    /// Gives atoms without a letter one, where the same atom, or another component at the place, has one: they are one of
    /// the alternate locations.
    fn mark_blank(&mut self) {
        let mut marked: Vec<(usize, u8)> = Vec::new();
        let mut told: Vec<Problem> = Vec::new();
        for place in self.places().chunk_by(|one, other| one.0 == other.0) {
            let members = || place.iter().filter_map(|(_, i)| self.structure.residues.get(*i));
            let letter = |atom: usize| self.altlocs.get(atom).copied().unwrap_or(0);
            let lettered = |run: &Residue| (run.start..run.end).any(|atom| letter(atom) != 0);
            if !members().any(lettered) {
                continue;
            }
            let runs: Vec<&Residue> = members().collect();
            let before = marked.len();
            for run in &runs {
                if !lettered(run) {
                    // Another component without letters beside one that has them.
                    if runs.iter().any(|other| other.name != run.name) {
                        marked.extend((run.start..run.end).map(|atom| (atom, b' ')));
                    }
                    continue;
                }
                let names = self.structure.names_of(run);
                for (atom, name) in (run.start..run.end).zip(names).filter(|(atom, _)| letter(*atom) == 0) {
                    let letters = |same: bool| {
                        let of = |(other, n): (usize, &Name)| {
                            Some(letter(other)).filter(|l| *l != 0 && (!same || n == name))
                        };
                        (run.start..run.end).zip(names).filter_map(of).collect::<BTreeSet<u8>>()
                    };
                    let own = letters(true);
                    if !own.is_empty() {
                        // It goes with the one location that the residue has and this atom lacks.
                        let mut lacking = letters(false).into_iter().filter(|l| !own.contains(l));
                        let first = lacking.next().filter(|_| lacking.next().is_none());
                        marked.push((atom, first.unwrap_or(b' ')));
                    }
                }
            }
            if marked.len() > before {
                if let (Some(first), Some((_, i))) = (runs.first(), place.first()) {
                    let what = "has alternate locations with and without a letter; those without are one of them";
                    let line = self.lines.get(*i).copied().unwrap_or(0);
                    told.push(Problem { line, column: 0, column_end: 0, what: format!("{} {what}", self.who(first)) });
                }
            }
        }
        for (atom, letter) in marked {
            if let Some(place) = self.altlocs.get_mut(atom) {
                *place = letter;
            }
        }
        for place in told {
            self.notes.repair(Repair::AltlocBlank, || place);
        }
    }

    /// Joins the runs of residues that other residues separate, as hydrogens at the end of a chain. Equal atom names
    /// tell another residue of the same number, alternate locations are left to [`Self::places`].
    fn join_split(&mut self) {
        let residues = &self.structure.residues;
        let names = |r: &Residue| self.structure.atom_names.get(r.start..r.end).unwrap_or_default();
        let mut joined: Vec<Vec<usize>> = Vec::with_capacity(residues.len());
        let mut known: HashMap<(usize, i32, Name, Name, bool, bool), usize, ahash::RandomState> =
            HashMap::with_capacity_and_hasher(residues.len(), ahash::RandomState::new());
        for (i, residue) in residues.iter().enumerate() {
            let key = (residue.chain, residue.resnum, residue.icode, residue.name, residue.hetero, residue.after_ter);
            let whole = self.altlocs.get(residue.start..residue.end).unwrap_or_default().iter().all(|a| *a == 0);
            let first = known.get(&key).copied().filter(|_| whole);
            let mut before = first.and_then(|at| joined.get_mut(at));
            let parts = before.iter().flat_map(|before| before.iter()).filter_map(|at| residues.get(*at));
            if parts.clone().any(|r| names(r).iter().any(|n| names(residue).contains(n))) {
                // The same atoms again: copies, or the same in one place.
                let overlap = parts.clone().any(|r| self.overlap(r, residue));
                before = None;
                let told = self.who(residue);
                let place = |what: String| {
                    let line = self.lines.get(i).copied().unwrap_or(0);
                    Problem { line, column: 0, column_end: 0, what }
                };
                if overlap {
                    let what = format!("{told} is there again in one place; the first is kept");
                    self.notes.repair(Repair::CopiesOverlap, || place(what));
                    self.dropped += residue.end - residue.start;
                    continue;
                }
                if residue.end - residue.start > 1 && vocab::name(residue.name.as_bytes()) != vocab::Name::Water {
                    let what = format!("{told} is there again in another place; taken for a copy");
                    self.notes.repair(Repair::CopiesParted, || place(what));
                }
            }
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
        self.pick(&order);
        self.lines = joined.iter().map(|m| m.first().and_then(|i| self.lines.get(*i)).copied().unwrap_or(0)).collect();
        self.structure.residues = residues;
    }

    /// Which place each residue stands in, with the residue's number, by place: alternate locations of one residue,
    /// possibly of different components, possibly written apart, share one.
    fn places(&self) -> Vec<(usize, usize)> {
        let mut placed: Vec<(usize, usize)> = Vec::with_capacity(self.structure.residues.len());
        // The last residue of each place.
        let mut last: Vec<usize> = Vec::with_capacity(self.structure.residues.len());
        let mut known: HashMap<(usize, i32, Name), usize, ahash::RandomState> = HashMap::default();
        for (i, residue) in self.structure.residues.iter().enumerate() {
            let altlocs = self.altlocs.get(residue.start..residue.end).unwrap_or_default();
            if altlocs.iter().any(|a| *a != 0) {
                let key = (residue.chain, residue.resnum, residue.icode);
                // Another component at this place, right before it and without letters.
                let blank = |at: usize| {
                    let before = self.structure.residues.get(at).filter(|before| {
                        (before.chain, before.resnum, before.icode) == key && before.name != residue.name
                    });
                    before.is_some_and(|before| last.last() == Some(&at) && self.overlap(before, residue))
                };
                if !known.contains_key(&key) && i.checked_sub(1).is_some_and(blank) {
                    known.insert(key, last.len() - 1);
                }
                if let Some((place, before)) = known.get(&key).and_then(|p| Some((*p, last.get_mut(*p)?))) {
                    if *before + 1 == i || altlocs.iter().all(|a| *a != 0) {
                        placed.push((place, i));
                        *before = i;
                        continue;
                    }
                }
                known.insert(key, last.len());
            }
            placed.push((last.len(), i));
            last.push(i);
        }
        placed.sort_by_key(|(place, _)| *place);
        placed
    }

    fn choose_altlocs(&mut self) -> Structure {
        /// Occupancies have two digits in PDB files, and in the same entry's mmCIF more.
        const DIGIT: i64 = 100;
        let mut out = Structure {
            chains: self.structure.chains.clone(),
            parents: self.structure.parents.clone(),
            ..Structure::default()
        };
        let mut ties: Vec<Problem> = Vec::new();
        let mut origins = Vec::new();
        for place in self.places().chunk_by(|one, other| one.0 == other.0) {
            let runs: Vec<&Residue> = place.iter().filter_map(|(_, i)| self.structure.residues.get(*i)).collect();
            let Some(first) = runs.first() else { continue };
            let letters = self.altlocs.get(first.start..first.end).unwrap_or_default();
            if runs.len() == 1 && letters.iter().all(|letter| *letter == 0) {
                let start = out.positions.len();
                out.positions.extend_from_slice(self.structure.positions_of(first));
                out.elements.extend_from_slice(self.structure.elements_of(first));
                out.atom_names.extend_from_slice(self.structure.names_of(first));
                if self.bonded {
                    origins
                        .extend((first.start..first.end).map(|atom| self.origins.get(atom).copied().unwrap_or(atom)));
                }
                if out.positions.len() > start {
                    out.residues.push(Residue { start, end: out.positions.len(), ..**first });
                }
                continue;
            }
            let mixed = runs.iter().any(|r| r.name != first.name);
            // Per alternate location: letter, atoms, summed occupancy to two digits, and to all.
            let mut tally: Vec<(u8, i64, i64, i64)> = Vec::new();
            for atom in runs.iter().flat_map(|r| r.start..r.end) {
                let (Some(&altloc), Some(&occupancy)) = (self.altlocs.get(atom), self.occupancies.get(atom)) else {
                    continue;
                };
                if altloc == 0 {
                    continue;
                }
                let rounded = (occupancy + DIGIT / 2).div_euclid(DIGIT) * DIGIT;
                match tally.iter_mut().find(|t| t.0 == altloc) {
                    Some(t) => {
                        t.1 += 1;
                        t.2 += rounded;
                        t.3 += occupancy;
                    }
                    None => tally.push((altloc, 1, rounded, occupancy)),
                }
            }
            // Within one component the sum decides, so that a location with a single stray atom does not win.
            // Between components the mean does, or the larger residue would.
            let mut chosen: Option<(u8, i64, i64, i64)> = None;
            let mut tie = false;
            for candidate in tally {
                let Some(best) = chosen else {
                    chosen = Some(candidate);
                    continue;
                };
                let (weight, against) = if mixed { (best.1, candidate.1) } else { (1, 1) };
                if candidate.2 * weight > best.2 * against {
                    chosen = Some(candidate);
                    tie = false;
                } else {
                    tie |= candidate.2 * weight == best.2 * against && candidate.3 * weight > best.3 * against;
                }
            }
            if tie {
                let what = "has alternate locations as good as each other to two digits; the first is taken";
                let line = place.first().and_then(|(_, i)| self.lines.get(*i)).copied().unwrap_or(0);
                ties.push(Problem { line, column: 0, column_end: 0, what: format!("{} {what}", self.who(first)) });
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
                        if self.bonded {
                            origins.push(self.origins.get(atom).copied().unwrap_or(atom));
                        }
                    }
                }
            }
            let end = out.positions.len();
            if end > start {
                let kept = runs.iter().find(|r| r.name == component).copied().unwrap_or(first);
                out.residues.push(Residue { start, end, ..*kept });
            }
        }
        for place in ties {
            self.notes.repair(Repair::AltlocTie, || place);
        }
        self.origins = origins;
        out
    }
}

/// Notes what a modified residue is derived from.
pub(super) fn add_parent(structure: &mut Structure, component: &[u8], parent: &[u8]) {
    let (component, parent) = (component.trim_ascii(), parent.trim_ascii());
    let told = !matches!(parent, b"" | b"." | b"?") && component != parent;
    if let (true, Some(component), Some(parent)) = (told, Name::new(component), Name::new(parent)) {
        if !structure.parents.iter().any(|(known, _)| *known == component) {
            structure.parents.push((component, parent));
        }
    }
}

/// Are these the same names in the same order?
#[inline]
fn alike(names: &[Name], others: &[Name]) -> bool {
    // Names that are no longer than a word are compared as one.
    let same = |(one, other): (&Name, &Name)| match (one.short(), other.short()) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    };
    names.len() == others.len() && names.iter().zip(others).all(same)
}

/// Spreads words over all bits, of which the highest are a hash.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Does a name occur twice?
#[inline]
fn repeats(names: &[Name]) -> bool {
    /// Names that are compared one by one.
    const FEW: usize = 64;
    // A bit for each name; few names meet in one, and only then they are compared.
    let mut seen = [0u64; 8];
    for (at, name) in names.iter().enumerate() {
        let hash = name.word().wrapping_mul(SPREAD) >> 55;
        let Some(word) = seen.get_mut(hash as usize / 64) else { continue };
        let bit = 1u64 << (hash % 64);
        if *word & bit != 0 {
            if at > FEW {
                let mut known = HashSet::with_capacity_and_hasher(names.len(), ahash::RandomState::new());
                return !names.iter().all(|name| known.insert(name));
            }
            if names.iter().take(at).any(|before| before == name) {
                return true;
            }
        }
        *word |= bit;
    }
    false
}

/// A residue that holds atom names more than once, parted.
struct Copies {
    /// Atoms of each copy, counted within the residue.
    kept: Vec<Vec<usize>>,
    /// Copies that stand where others do.
    dropped: usize,
}

impl Copies {
    /// Å; atoms of one molecule are farther apart.
    const CLASH: f64 = 0.9;
    /// Atoms of a residue whose bonds are looked for.
    const MOST: usize = 2048;

    /// `None` for a molecule whose atoms just bear no names of their own.
    fn of(names: &[Name], positions: &[[f64; 3]], elements: &[u8]) -> Option<Self> {
        let copies = Self::following(names, positions, elements)
            .or_else(|| Self::apart(names, positions, elements))
            .or_else(|| Self::again(names, positions, elements))?;
        let mut kept: Vec<Vec<usize>> = Vec::with_capacity(copies.len());
        let mut dropped = 0;
        let heavy = |atom: &usize| elements.get(*atom).is_some_and(|e| *e > 1);
        for copy in copies {
            // Copies in one place are frames, poses or alternate locations.
            let clashes = kept.iter().take(64).any(|other| {
                copy.iter().filter(|a| heavy(a)).any(|a| {
                    other.iter().filter(|b| heavy(b)).any(|b| squared(positions, *a, *b) < Self::CLASH * Self::CLASH)
                })
            });
            if clashes {
                dropped += 1;
            } else {
                kept.push(copy);
            }
        }
        Some(Self { kept, dropped })
    }

    /// The same names in the same order, again and again.
    fn following(names: &[Name], positions: &[[f64; 3]], elements: &[u8]) -> Option<Vec<Vec<usize>>> {
        /// Å; bonds are shorter.
        const BOND: f64 = 2.3;
        let first = names.first()?;
        let period = names.iter().skip(1).position(|name| name == first)? + 1;
        let one = names.get(..period)?;
        if !names.len().is_multiple_of(period) || repeats(one) || !names.chunks(period).all(|copy| copy == one) {
            return None;
        }
        // Atoms that are all of one name are copies where nothing bonds them.
        if period == 1 && (1..names.len()).any(|at| squared(positions, at - 1, at) < BOND * BOND) {
            return None;
        }
        // So are those that bear the names of their elements: N C N C N C is a ring, or three molecules.
        let bare = |name: &Name| name.as_bytes().iter().all(u8::is_ascii_alphabetic);
        if period > 1 && names.len() <= Self::MOST && one.iter().all(bare) {
            let bonds = bonds(positions, elements);
            if (0..names.len()).any(|atom| bonds.of(atom).iter().any(|other| *other as usize / period != atom / period))
            {
                return None;
            }
        }
        Some((0..names.len() / period).map(|copy| (copy * period..(copy + 1) * period).collect()).collect())
    }

    /// Molecules that are not bonded to one another, with atoms of the same names.
    fn apart(names: &[Name], positions: &[[f64; 3]], elements: &[u8]) -> Option<Vec<Vec<usize>>> {
        if names.len() > Self::MOST {
            return None;
        }
        let bonds = bonds(positions, elements);
        let mut molecule = vec![usize::MAX; names.len()];
        let mut molecules: Vec<Vec<usize>> = Vec::new();
        for seed in 0..names.len() {
            if molecule.get(seed) != Some(&usize::MAX) {
                continue;
            }
            let mut members = Vec::new();
            let mut waiting = vec![seed];
            while let Some(atom) = waiting.pop() {
                match molecule.get_mut(atom) {
                    Some(place) if *place == usize::MAX => *place = molecules.len(),
                    _ => continue,
                }
                members.push(atom);
                waiting.extend(bonds.of(atom).iter().map(|b| *b as usize));
            }
            members.sort_unstable();
            molecules.push(members);
        }
        let name = |atom: &usize| names.get(*atom).copied().unwrap_or_default();
        let within = |members: &[usize]| repeats(&members.iter().map(name).collect::<Vec<_>>());
        if molecules.len() < 2 || molecules.iter().any(|members| within(members)) {
            // Molecules whose atoms bear no names of their own, but the same ones in the same order.
            let of = |members: &[usize]| members.iter().map(name).collect::<Vec<_>>();
            let first = molecules.first().filter(|_| molecules.len() > 1).map(|members| of(members));
            if first.is_some_and(|first| molecules.iter().all(|members| of(members) == first)) {
                return Some(molecules);
            }
            return Self::twice(names, positions);
        }
        // What shares no name with a copy may be a part of it.
        let mut copies: Vec<Vec<usize>> = Vec::new();
        for members in molecules {
            let free = copies.iter_mut().find(|copy| !copy.iter().any(|a| members.iter().any(|b| name(a) == name(b))));
            match free {
                Some(copy) => copy.extend(members),
                None => copies.push(members),
            }
        }
        for copy in &mut copies {
            copy.sort_unstable();
        }
        Some(copies)
    }

    /// The same names again, though not names of their own, in the place of the first.
    fn again(names: &[Name], positions: &[[f64; 3]], elements: &[u8]) -> Option<Vec<Vec<usize>>> {
        let count = names.len();
        if count > Self::MOST {
            return None;
        }
        let heavy = |atom: &usize| elements.get(*atom).is_some_and(|e| *e > 1);
        let near = |a: usize, b: usize| squared(positions, a, b) < Self::CLASH * Self::CLASH;
        let clashes = |length: usize, start: usize| {
            let mut own = (start..start + length).filter(heavy);
            own.any(|a| (0..length).filter(heavy).any(|b| near(a, b)))
        };
        let starts = |length: usize| (0..count).step_by(length);
        let length = (2..=count / 2).rev().find(|&length| {
            count.is_multiple_of(length)
                && names.iter().zip(names.iter().skip(length)).all(|(one, other)| one == other)
                && starts(length).skip(1).all(|start| clashes(length, start))
        })?;
        Some(starts(length).map(|start| (start..start + length).collect()).collect())
    }

    /// Atoms of one name in one place: the first of each are one copy, the others another.
    fn twice(names: &[Name], positions: &[[f64; 3]]) -> Option<Vec<Vec<usize>>> {
        let mut first: HashMap<Name, usize> = HashMap::new();
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for (atom, name) in names.iter().enumerate() {
            match first.get(name) {
                None => {
                    first.insert(*name, atom);
                    one.push(atom);
                }
                Some(before) if squared(positions, *before, atom) < Self::CLASH * Self::CLASH => other.push(atom),
                // A molecule whose atoms bear no names of their own.
                Some(_) => return None,
            }
        }
        (!other.is_empty()).then(|| vec![one, other])
    }
}

fn bonds(positions: &[[f64; 3]], elements: &[u8]) -> Bonds {
    let places: Vec<[f32; 3]> = positions.iter().map(|p| p.map(|c| c as f32)).collect();
    Bonds::new(&places, elements)
}

/// The element of the first letter of an atom's name, if the first two are the symbol of another one, `stated`.
fn initial(name: &[u8], stated: u8) -> Option<u8> {
    let letters = name.iter().position(u8::is_ascii_alphabetic).and_then(|i| name.get(i..))?;
    let two = letters.get(..2).is_some_and(|two| vocab::element(two) == stated);
    let single = vocab::element(letters.get(..1)?);
    (two && matches!(single, 1 | 6..=8 | 15 | 16)).then_some(single)
}

fn squared(positions: &[[f64; 3]], a: usize, b: usize) -> f64 {
    match (positions.get(a), positions.get(b)) {
        (Some(a), Some(b)) => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum(),
        _ => f64::INFINITY,
    }
}

/// Element of an atom whose file does not say it. `padded` is the four-column name of a PDB file (blanks
/// included), or the bare name from elsewhere; `component` is its residue.
///
/// In the PDB's columns a two-letter symbol begins in the first, a one-letter symbol in the second.
pub(super) fn infer_element(padded: &[u8], columns: bool, component: Name) -> u8 {
    use crate::vocab::{element, force_field_name, name, Name as Known};

    let bare = padded.trim_ascii();
    let letters = bare.iter().position(u8::is_ascii_alphabetic).and_then(|i| bare.get(i..)).unwrap_or_default();
    let Some(&first) = letters.first() else { return 0 };
    let single = element(&[first]);
    if matches!(name(component.as_bytes()), Known::Water) {
        return if first.eq_ignore_ascii_case(&b'H') || first.eq_ignore_ascii_case(&b'D') { 1 } else { 8 };
    }
    let standard = |known| !matches!(known, Known::Other);
    if standard(name(component.as_bytes())) || standard(force_field_name(component.as_bytes())) {
        if Name::new(bare).is_some_and(|bare| no_atom::is_site(component, bare)) {
            return 0;
        }
        // Amino acids and nucleotides hold no two-letter elements but selenium.
        let selenium = component.as_bytes().eq_ignore_ascii_case(b"MSE") && bare.eq_ignore_ascii_case(b"SE");
        return if selenium { 34 } else { single };
    }
    if let Some(ion) = crate::vocab::ion_of(component.as_bytes(), bare) {
        return ion;
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
            builder.accounts.records += 1;
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
    fn blank_and_lettered_locations() {
        let s = with_altlocs(&[
            ("LIG", 1, "C1", 0, 0.6),
            ("LIG", 1, "C1", b'B', 0.4),
            ("LIG", 1, "C2", 0, 0.6),
            ("LIG", 1, "C2", b'B', 0.4),
            ("LIG", 1, "C3", 0, 1.0),
        ]);
        assert_eq!(kept(&s), [0, 2, 4]);
        assert_eq!(s.repairs.iter().map(|r| r.kind).collect::<Vec<_>>(), [Repair::AltlocBlank]);
        // The letter that the atom lacks is its own.
        let s = with_altlocs(&[
            ("ARG", 1, "CZ", 0, 0.5),
            ("ARG", 1, "CZ", b'B', 0.5),
            ("ARG", 1, "NH1", b'A', 0.5),
            ("ARG", 1, "NH1", b'B', 0.5),
        ]);
        assert_eq!(kept(&s), [0, 2]);
    }

    #[test]
    fn the_third_digit_decides_nothing() {
        let s = with_altlocs(&[("SER", 1, "CB", b'A', 0.498), ("SER", 1, "CB", b'B', 0.502)]);
        assert_eq!(kept(&s), [0]);
        assert_eq!(s.repairs.iter().map(|r| r.kind).collect::<Vec<_>>(), [Repair::AltlocTie]);
        let s = with_altlocs(&[("SER", 1, "CB", b'A', 0.49), ("SER", 1, "CB", b'B', 0.51)]);
        assert_eq!(kept(&s), [1]);
    }

    #[test]
    fn names_twice_are_copies() {
        // Two copies of two atoms; atoms of this test are 1 Å apart, so that only the order of the names tells.
        let copies = [("LIG", 1, "C1", 0, 1.0), ("LIG", 1, "C2", 0, 1.0)].repeat(2);
        let s = with_altlocs(&copies);
        assert_eq!(s.residues.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), [(0, 2), (2, 4)]);
        assert_eq!(s.repairs.iter().map(|r| r.kind).collect::<Vec<_>>(), [Repair::CopiesParted]);
        // A molecule whose atoms bear no names of their own.
        let s = with_altlocs(&[("LIG", 1, "C", 0, 1.0), ("LIG", 1, "C", 0, 1.0), ("LIG", 1, "O", 0, 1.0)]);
        assert_eq!((s.residues.len(), s.repairs.is_empty()), (1, true));
    }

    #[test]
    fn one_number_twice_without_alternate_locations_is_two_residues() {
        let s = with_altlocs(&[("SER", 1, "CB", 0, 1.0), ("THR", 1, "CB", 0, 1.0)]);
        assert_eq!(s.residues.len(), 2);
    }
}

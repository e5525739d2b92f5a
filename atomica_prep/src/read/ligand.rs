//! Ligands in files of their own: SDF (V2000 and V3000), MOL2, PDB and PDBQT, one or many molecules each.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use memchr::{memchr_iter, memmem};

use super::builder::LARGEST;
use super::docked;
use super::elements::{of_mol2, of_sdf, Said};
pub use super::molecule::{Bond, BondsFrom, Molecule, AROMATIC};
use super::notes::Notes;
use super::options::Options;
use super::packing::{load, text, unpacked, with_line_feeds, Packing};
use crate::accounts::Unread;
use crate::error::{quote, Error, Problem, Result};
use crate::files::sha256_hex;
use crate::structure::{Name, Repair, Residue};
use crate::vocab;

/// A format of ligands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sdf,
    Mol2,
    Pdb,
    Pdbqt,
}

/// A ligand file in memory, or a piece of one, cut into its molecules.
#[derive(Debug)]
pub struct LigandFile {
    shown: String,
    kind: Kind,
    text: Vec<u8>,
    /// Line (from 1) and bytes of each molecule.
    molecules: Vec<(u64, Range<usize>)>,
    /// The number of the first of them in the file.
    first: usize,
    options: Options,
    /// SHA-256 of the file as it is on disk, hex.
    pub sha256: String,
}

impl LigandFile {
    /// Reads a file; `shown` is its name in messages.
    ///
    /// # Errors
    /// The file is missing, damaged, of an unknown format, or holds no molecule.
    pub fn open(path: &Path, shown: &str, options: Options) -> Result<Self> {
        let kind = Self::kind_of(path, shown)?;
        let (raw, sha256) = load(path, shown)?;
        Ok(Self { options, ..Self::unpack(&raw, kind, options.max_decompressed, sha256, shown)? })
    }

    /// Reads the bytes of a file; `name` is its name, which says its format.
    ///
    /// # Errors
    /// As those of [`LigandFile::open`].
    pub fn from_bytes(raw: &[u8], name: &str, options: Options) -> Result<Self> {
        let (kind, sha256) = (Self::kind_of(Path::new(name), name)?, sha256_hex(raw));
        Ok(Self { options, ..Self::unpack(raw, kind, options.max_decompressed, sha256, name)? })
    }

    /// Does the file's name say a format of ligands?
    pub fn is_one(path: &Path) -> bool {
        Self::kind_of(path, "").is_ok()
    }

    pub(super) fn kind_of(path: &Path, shown: &str) -> Result<(Kind, Packing)> {
        let unknown = || Error::UnknownFormat {
            path: shown.to_owned(),
            expected: ".sdf, .mol, .mol2, .pdb or .pdbqt, plain or with .gz or .zst".to_owned(),
        };
        let (extension, packing) = Packing::of(path).ok_or_else(unknown)?;
        match extension.as_str() {
            "sdf" | "sd" | "mol" => Ok((Kind::Sdf, packing)),
            "mol2" => Ok((Kind::Mol2, packing)),
            "pdb" | "ent" => Ok((Kind::Pdb, packing)),
            "pdbqt" => Ok((Kind::Pdbqt, packing)),
            _ => Err(unknown()),
        }
    }

    fn unpack(raw: &[u8], (kind, packing): (Kind, Packing), limit: u64, sha256: String, shown: &str) -> Result<Self> {
        Self::cut(unpacked(raw, packing, limit, shown)?, kind, sha256, shown, 0)
    }

    /// A piece of a file, before which there are so many molecules and lines.
    pub(super) fn piece(
        bytes: Cow<'_, [u8]>,
        kind: Kind,
        sha256: &str,
        shown: &str,
        (first, lines): (usize, u64),
        options: Options,
    ) -> Result<Self> {
        Ok(Self { first, options, ..Self::cut(bytes, kind, sha256.to_owned(), shown, lines)? })
    }

    /// What its text is.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Cuts text, before which the file has so many lines, into molecules.
    fn cut(bytes: Cow<'_, [u8]>, named: Kind, sha256: String, shown: &str, before: u64) -> Result<Self> {
        let text = with_line_feeds(&text(bytes, shown)?);
        // Text of one format comes under the name of another.
        let has = |word: &[u8]| memmem::find(&text, word).is_some();
        let (sdf, mol2) = (has(b"V2000") || has(b"V3000"), has(b"@<TRIPOS>MOLECULE"));
        let begins = |word: &[u8]| text.starts_with(word) || has(&[b"\n", word].concat());
        let pdb = || begins(b"ATOM  ") || begins(b"HETATM");
        let docked = || if docked::is_pdbqt(&text) { Kind::Pdbqt } else { Kind::Pdb };
        let kind = match named {
            Kind::Sdf if sdf => Kind::Sdf,
            Kind::Pdb | Kind::Pdbqt if pdb() => docked(),
            _ if mol2 => Kind::Mol2,
            _ if sdf => Kind::Sdf,
            Kind::Sdf | Kind::Mol2 if pdb() => docked(),
            named => named,
        };
        let mut molecules = match kind {
            Kind::Pdb | Kind::Pdbqt => docked::cut(&text),
            _ => Vec::new(),
        };
        let mut begin = None;
        let mut at = 0;
        let mut number = before;
        for end in memchr_iter(b'\n', &text).chain(std::iter::once(text.len())) {
            number += 1;
            let line = text.get(at..end).unwrap_or_default();
            let start = at;
            at = end + 1;
            match kind {
                Kind::Sdf if line.starts_with(b"$$$$") && line.trim_ascii_end().iter().all(|c| *c == b'$') => {
                    let (first, range) = begin.take().unwrap_or((number, start));
                    molecules.push((first, range..start));
                }
                Kind::Sdf => begin = begin.or(Some((number, start))),
                Kind::Mol2 if line.trim_ascii().eq_ignore_ascii_case(b"@<TRIPOS>MOLECULE") => {
                    if let Some((first, range)) = begin.replace((number, start)) {
                        molecules.push((first, range..start));
                    }
                }
                Kind::Mol2 | Kind::Pdb | Kind::Pdbqt => {}
            }
        }
        if let Some((first, range)) = begin {
            let rest = range..text.len();
            // Blank lines behind the last delimiter are no molecule.
            if text.get(rest.clone()).is_some_and(|t| !t.trim_ascii().is_empty()) {
                molecules.push((first, rest));
            }
        }
        if molecules.is_empty() {
            let expected = match kind {
                Kind::Sdf => "molecules ended by $$$$",
                Kind::Mol2 => "@<TRIPOS>MOLECULE",
                Kind::Pdb | Kind::Pdbqt => "lines ATOM or HETATM",
            };
            return Err(Error::NoAtoms { path: shown.to_owned(), expected: expected.to_owned() });
        }
        Ok(Self { shown: shown.to_owned(), kind, text, molecules, first: 0, options: Options::default(), sha256 })
    }

    /// The number of its first molecule in the file: 0 unless this is a later piece of it.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Molecules in it.
    pub fn len(&self) -> usize {
        self.molecules.len()
    }

    /// Never, for a file that was opened.
    pub fn is_empty(&self) -> bool {
        self.molecules.is_empty()
    }

    /// The title of a molecule, by its number in the file; empty without one.
    pub fn title(&self, index: usize) -> String {
        let Some((_, range)) = index.checked_sub(self.first).and_then(|at| self.molecules.get(at)) else {
            return String::new();
        };
        let own = self.text.get(range.clone()).unwrap_or_default();
        let mut lines = own.split(|c| *c == b'\n').map(<[u8]>::trim_ascii);
        let line = match self.kind {
            Kind::Sdf => lines.next(),
            Kind::Mol2 => lines.find(|l| l.eq_ignore_ascii_case(b"@<TRIPOS>MOLECULE")).and_then(|_| lines.next()),
            Kind::Pdb | Kind::Pdbqt => return docked::title(own),
        };
        String::from_utf8_lossy(line.unwrap_or_default()).into_owned()
    }

    /// One molecule, by its number in the file, from 0.
    ///
    /// # Errors
    /// There is none of that number, or it cannot be read, or it has no atoms.
    pub fn molecule(&self, index: usize) -> Result<Molecule> {
        let Some((line, range)) = index.checked_sub(self.first).and_then(|at| self.molecules.get(at)) else {
            return Err(Error::MissingMolecule {
                path: self.shown.clone(),
                index: index as u64,
                count: (self.first + self.len()) as u64,
            });
        };
        if matches!(self.kind, Kind::Pdb | Kind::Pdbqt) {
            let (pdbqt, part) = (self.kind == Kind::Pdbqt, (*line, range.clone()));
            return docked::molecule(&self.text, part, pdbqt, &self.shown, self.options);
        }
        let mut reader = Reader {
            shown: &self.shown,
            lines: Lines { text: self.text.get(range.clone()).unwrap_or_default(), at: 0, number: line - 1 },
            molecule: Molecule::default(),
            notes: Notes::new(self.options),
            atoms: Vec::new(),
            rows: Vec::new(),
            places: HashMap::new(),
            placed: 0,
            component: Name::default(),
            begin: *line,
            drawn: None,
        };
        match self.kind {
            Kind::Mol2 => reader.mol2()?,
            _ => reader.sdf()?,
        }
        reader.settle_elements(self.kind);
        reader.finish(index)
    }
}

/// Lines with their numbers.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    number: u64,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.at..).filter(|r| !r.is_empty())?;
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        self.at += end + 1;
        self.number += 1;
        let line = rest.get(..end).unwrap_or_default();
        Some((self.number, line.strip_suffix(b"\r").unwrap_or(line)))
    }
}

struct Reader<'a> {
    shown: &'a str,
    lines: Lines<'a>,
    molecule: Molecule,
    notes: Notes,
    /// Of each atom, its line, and its symbol or type.
    atoms: Vec<(u64, Name)>,
    /// The file's number of each atom.
    rows: Vec<u64>,
    /// Where each number is, of the first `placed` atoms: for files that do not count from 1.
    places: HashMap<u64, usize>,
    placed: usize,
    component: Name,
    /// Its first line.
    begin: u64,
    /// Line of an SDF that calls its molecule a drawing: `2D`.
    drawn: Option<u64>,
}

fn whole(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field.trim_ascii()).ok()?.parse().ok()
}

fn coordinate(field: &[u8]) -> Option<f64> {
    fast_float2::parse::<f64, _>(field.trim_ascii()).ok().filter(|v| v.abs() < LARGEST)
}

pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty())
}

impl<'a> Reader<'a> {
    fn syntax(&self, line: u64, reason: impl Into<String>) -> Error {
        Error::Syntax { path: self.shown.to_owned(), line, column: None, reason: reason.into() }
    }

    fn need(&mut self, what: &str) -> Result<(u64, &'a [u8])> {
        let last = self.lines.number;
        self.lines.next().ok_or_else(|| self.syntax(last, format!("the molecule ends before {what}")))
    }

    fn problem(&mut self, line: u64, what: String) {
        self.notes.problems.push(Problem { line, column: 0, column_end: 0, what });
    }

    fn atom(&mut self, line: u64, number: u64, name: Option<Name>, symbol: &[u8], position: [f64; 3]) {
        let element = vocab::element(symbol);
        let name = name
            .unwrap_or_else(|| Name::new(format!("{}{number}", vocab::symbol(element)).as_bytes()).unwrap_or_default());
        let Some(symbol) = Name::new(symbol) else {
            return self.problem(line, format!("atom {number}: {} is no symbol of an element", quote(symbol)));
        };
        self.atoms.push((line, symbol));
        self.rows.push(number);
        self.molecule.structure.atom_names.push(name);
        self.molecule.structure.elements.push(element);
        self.molecule.structure.positions.push(position);
    }

    /// Settles the elements, now that the bonds are known; takes out what is no atom.
    fn settle_elements(&mut self, kind: Kind) {
        let mut bonds = vec![0usize; self.atoms.len()];
        for end in self.molecule.bonds.iter().flat_map(|bond| [bond.a, bond.b]) {
            if let Some(count) = bonds.get_mut(end as usize) {
                *count += 1;
            }
        }
        let mut kept: Vec<usize> = Vec::with_capacity(self.atoms.len());
        for (at, ((line, symbol), bonds)) in std::mem::take(&mut self.atoms).into_iter().zip(bonds).enumerate() {
            let name = self.molecule.structure.atom_names.get(at).copied().unwrap_or_default();
            let said = match kind {
                Kind::Sdf => of_sdf(symbol.as_bytes()),
                _ => of_mol2(name.as_bytes(), symbol.as_bytes(), bonds),
            };
            let shown = quote(symbol.as_bytes());
            let place = |what: String| Problem { line, column: 0, column_end: 0, what };
            let element = match said {
                Said::Element(element) => element,
                Said::ForceField(element) => {
                    let what =
                        || format!("type {shown} of a force field; {} by the atom's name", vocab::symbol(element));
                    self.notes.repair(Repair::ElementGuessed, || place(what()));
                    element
                }
                Said::Query => {
                    self.notes.repair(Repair::QueryAtom, || place(format!("{shown} is of no one element; unknown")));
                    0
                }
                Said::NoAtom => {
                    self.notes.repair(Repair::NoAtom, || place(format!("{shown} is no atom; left out")));
                    self.molecule.structure.accounts.leave(Unread::NoAtom, 1);
                    continue;
                }
                Said::Doubt => {
                    let name = quote(name.as_bytes());
                    let what = match kind {
                        Kind::Sdf => format!("{shown} is no symbol of an element"),
                        _ => format!("atom {name} of type {shown}: they agree on no element"),
                    };
                    self.notes.problems.push(place(what));
                    0
                }
            };
            if let Some(slot) = self.molecule.structure.elements.get_mut(at) {
                *slot = element;
            }
            kept.push(at);
        }
        let structure = &mut self.molecule.structure;
        if kept.len() == structure.elements.len() {
            return;
        }
        fn pick<T: Copy>(values: &mut Vec<T>, kept: &[usize]) {
            *values = kept.iter().filter_map(|at| values.get(*at).copied()).collect();
        }
        pick(&mut structure.atom_names, &kept);
        pick(&mut structure.elements, &kept);
        pick(&mut structure.positions, &kept);
        let places: HashMap<u32, u32> = kept.iter().zip(0..).map(|(at, new)| (*at as u32, new)).collect();
        let moved = |bond: Bond| Some(Bond { a: *places.get(&bond.a)?, b: *places.get(&bond.b)?, ..bond });
        self.molecule.bonds = std::mem::take(&mut self.molecule.bonds).into_iter().filter_map(moved).collect();
    }

    /// Adds a bond between the file's numbers of two atoms.
    fn bond(&mut self, line: u64, ends: [Option<u64>; 2], order: u8) {
        // Numbers mostly count from 1 in order; a search is for the files where they do not.
        let mut find = |number: u64| -> Option<u32> {
            let guess = usize::try_from(number).ok()?.checked_sub(1)?;
            if self.rows.get(guess) == Some(&number) {
                return u32::try_from(guess).ok();
            }
            for (at, row) in self.rows.iter().enumerate().skip(self.placed) {
                // Of atoms with one number the first counts.
                self.places.entry(*row).or_insert(at);
            }
            self.placed = self.rows.len();
            self.places.get(&number).and_then(|at| u32::try_from(*at).ok())
        };
        match ends.map(|end| end.and_then(&mut find)) {
            [Some(a), Some(b)] if a != b => self.molecule.bonds.push(Bond { a, b, order }),
            _ => self.problem(line, "the bond is not between two atoms of the molecule".to_owned()),
        }
    }

    fn sdf(&mut self) -> Result<()> {
        let (_, title) = self.need("its counts")?;
        self.molecule.title = String::from_utf8_lossy(title).trim().to_owned();
        let (line, program) = self.need("its counts")?;
        self.drawn = (program.get(20..22) == Some(b"2D")).then_some(line);
        self.need("its counts")?;
        let (line, counts) = self.need("its counts")?;
        let version = counts.get(33..).unwrap_or_default().trim_ascii();
        self.component = Name::new(b"UNL").unwrap_or_default();
        if version.starts_with(b"V3000") {
            return self.v3000();
        }
        let [Some(atoms), Some(bonds)] = [counts.get(..3), counts.get(3..6)].map(|f| f.and_then(whole)) else {
            return Err(self.syntax(line, format!("{} is no line of counts", quote(counts))));
        };
        for number in 1..=atoms {
            let (line, text) = self.need("all of its atoms")?;
            self.molecule.structure.accounts.records += 1;
            let fields = [text.get(..10), text.get(10..20), text.get(20..30)].map(|f| f.and_then(coordinate));
            let symbol = text.get(31..).map(|rest| rest.get(..3).unwrap_or(rest).trim_ascii());
            match (fields, symbol) {
                ([Some(x), Some(y), Some(z)], Some(symbol)) => self.atom(line, number, None, symbol, [x, y, z]),
                _ => self.problem(line, format!("atom {number}: {} is no atom", quote(text))),
            }
        }
        for _ in 0..bonds {
            let (line, text) = self.need("all of its bonds")?;
            let ends = [text.get(..3), text.get(3..6)].map(|f| f.and_then(whole));
            let order = text.get(6..).map(|rest| rest.get(..3).unwrap_or(rest)).and_then(whole);
            self.bond(line, ends, sdf_order(order));
        }
        Ok(())
    }

    /// A line `M  V30 …`, with those that a `-` continues.
    fn v30(&mut self) -> Result<(u64, Vec<u8>)> {
        let mut whole: Vec<u8> = Vec::new();
        let mut first = 0;
        loop {
            let (line, text) = self.need("M  V30 END CTAB")?;
            let Some(part) = text.strip_prefix(b"M  V30 ") else {
                return Err(self.syntax(line, format!("expected M  V30, found {}", quote(text))));
            };
            if first == 0 {
                first = line;
            }
            match part.trim_ascii_end().strip_suffix(b"-") {
                Some(part) => whole.extend_from_slice(part),
                None => {
                    whole.extend_from_slice(part);
                    return Ok((first, whole));
                }
            }
        }
    }

    fn v3000(&mut self) -> Result<()> {
        let mut section: Vec<u8> = Vec::new();
        loop {
            let (line, text) = self.v30()?;
            let mut fields = words(&text);
            let first = fields.next().unwrap_or_default();
            if first == b"BEGIN" {
                section = fields.next().unwrap_or_default().to_vec();
            } else if first == b"END" {
                if fields.next() == Some(b"CTAB") {
                    return Ok(());
                }
                section.clear();
            } else if section == b"ATOM" {
                self.molecule.structure.accounts.records += 1;
                let number = whole(first);
                let symbol = fields.next();
                let position = [fields.next(), fields.next(), fields.next()].map(|f| f.and_then(coordinate));
                match (number, symbol, position) {
                    (Some(number), Some(symbol), [Some(x), Some(y), Some(z)]) => {
                        self.atom(line, number, None, symbol, [x, y, z]);
                    }
                    _ => self.problem(line, format!("{} is no atom", quote(&text))),
                }
            } else if section == b"BOND" {
                let order = fields.next().and_then(whole);
                let ends = [fields.next(), fields.next()].map(|f| f.and_then(whole));
                self.bond(line, ends, sdf_order(order));
            }
        }
    }

    fn mol2(&mut self) -> Result<()> {
        let mut section: Vec<u8> = Vec::new();
        let mut has_title = false;
        let mut counted: Option<(u64, u64)> = None;
        while let Some((line, text)) = self.lines.next() {
            let trimmed = text.trim_ascii();
            if let Some(name) = trimmed.strip_prefix(b"@<TRIPOS>") {
                section = name.to_ascii_uppercase();
                continue;
            }
            match section.as_slice() {
                b"MOLECULE" if !has_title => {
                    self.molecule.title = String::from_utf8_lossy(trimmed).into_owned();
                    has_title = true;
                }
                b"MOLECULE" if counted.is_none() => counted = words(text).next().and_then(whole).map(|n| (line, n)),
                b"ATOM" if !trimmed.is_empty() && !trimmed.starts_with(b"#") => self.mol2_atom(line, text),
                b"BOND" if !trimmed.is_empty() && !trimmed.starts_with(b"#") => {
                    let mut fields = words(text).skip(1);
                    let ends = [fields.next(), fields.next()].map(|f| f.and_then(whole));
                    let order = match fields.next().unwrap_or_default() {
                        b"1" | b"am" => 1,
                        b"2" => 2,
                        b"3" => 3,
                        b"ar" => AROMATIC,
                        b"nc" => continue, // not connected
                        _ => 0,
                    };
                    self.bond(line, ends, order);
                }
                _ => {}
            }
        }
        // Some programs count nothing, and what is counted anew after atoms were taken is seldom written.
        let records = self.molecule.structure.accounts.records;
        if let Some((line, count)) = counted.filter(|(_, count)| *count > records) {
            self.problem(line, format!("{count} atoms are announced, and {records} are there; the file is cut off"));
        }
        Ok(())
    }

    fn mol2_atom(&mut self, line: u64, text: &[u8]) {
        self.molecule.structure.accounts.records += 1;
        let mut fields = words(text);
        let number = fields.next().and_then(whole);
        let name = fields.next().and_then(Name::new);
        let position = [fields.next(), fields.next(), fields.next()].map(|f| f.and_then(coordinate));
        let kind = fields.next();
        let substructure = fields.nth(1).and_then(Name::new);
        match (number, name, position, kind) {
            (Some(number), Some(name), [Some(x), Some(y), Some(z)], Some(kind)) => {
                if self.component.is_empty() {
                    self.component = substructure.unwrap_or_default();
                }
                self.atom(line, number, Some(name), kind, [x, y, z]);
            }
            _ => self.problem(line, format!("{} is no atom", quote(text))),
        }
    }

    /// Atoms that are all in one place, or in the plane of a drawing, have no coordinates that say anything.
    fn refuse_flat(&mut self) {
        let positions = &self.molecule.structure.positions;
        let Some((first, others)) = positions.split_first().filter(|(_, others)| !others.is_empty()) else { return };
        let (line, what) = match self.drawn {
            _ if others.iter().all(|p| p == first) => {
                (self.drawn.unwrap_or(self.lines.number), "all atoms are in one place; the molecule has no coordinates")
            }
            Some(line) if positions.len() > 3 && positions.iter().all(|p| p[2] == 0.0) => {
                (line, "the molecule is a drawing (2D, z is 0 throughout), not a structure")
            }
            _ => return,
        };
        self.problem(line, what.to_owned());
    }

    fn finish(mut self, index: usize) -> Result<Molecule> {
        self.refuse_flat();
        let structure = &mut self.molecule.structure;
        structure.repairs = std::mem::take(&mut self.notes).finish(self.shown)?;
        let end = structure.positions.len();
        if end == 0 {
            let expected = format!("atoms of molecule {index}");
            return Err(Error::NoAtoms { path: self.shown.to_owned(), expected });
        }
        structure.accounts.settle(end, self.shown)?;
        if self.component.is_empty() {
            self.component = Name::new(b"UNL").unwrap_or_default();
        }
        structure.chains.push(String::new());
        structure.residues.push(Residue {
            start: 0,
            end,
            name: self.component,
            chain: 0,
            resnum: 1,
            icode: Name::default(),
            hetero: true,
            polymer: Some(false),
            after_ter: false,
        });
        self.molecule.look_over(self.begin);
        Ok(self.molecule)
    }
}

/// Types 5 and above are queries or special bonds.
fn sdf_order(order: Option<u64>) -> u8 {
    match order {
        Some(1) => 1,
        Some(2) => 2,
        Some(3) => 3,
        Some(4) => AROMATIC,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2000: &str = "ethanol-like\n  made\n\n  3  2  0  0  0  0            999 V2000\n\
        \x20   1.0000    2.0000   -3.0000 C   0  0\n    2.5000    2.0000   -3.0000 Cl  0  0\n\
        \x20   0.0000    0.5000    0.0000 H   0  0\n  1  2  1  0\n  1  3  4\nM  END\n> <x>\n1\n\n$$$$\n";

    const V3000: &str = "t\n\n\n  0  0  0     0  0            999 V3000\nM  V30 BEGIN CTAB\nM  V30 COUNTS 2 1 0 0 0\n\
        M  V30 BEGIN ATOM\nM  V30 7 N 1.5 0 -\nM  V30 0.25 0 CHG=1\nM  V30 9 O 0 0 0 0\nM  V30 END ATOM\n\
        M  V30 BEGIN BOND\nM  V30 1 2 7 9\nM  V30 END BOND\nM  V30 END CTAB\nM  END\n";

    const MOL2: &str = "# made\n@<TRIPOS>MOLECULE\none\n 3 2 1\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n\
        \x20 1 CA 1.0 2.0 3.0 C.ar 1 LIG1 0.1\n  2 N1 2.0 2.0 3.0 N.4 1 LIG1\n  3 BR 3.0 2.0 3.0 Br\n\
        @<TRIPOS>BOND\n 1 1 2 ar\n 2 2 3 am\n 3 1 3 nc\n@<TRIPOS>MOLECULE\ntwo\n@<TRIPOS>ATOM\n1 X 0 0 0 Du 1 DUM\n";

    fn file(text: &str, kind: Kind) -> Result<LigandFile> {
        LigandFile::cut(Cow::Borrowed(text.as_bytes()), kind, String::new(), "x.sdf", 0)
    }

    fn sdf(text: &str) -> Result<Molecule> {
        file(text, Kind::Sdf)?.molecule(0)
    }

    #[test]
    fn columns_of_v2000() {
        for text in [V2000.to_owned(), V2000.replace('\n', "\r\n")] {
            let molecule = sdf(&text).unwrap();
            assert_eq!(molecule.title, "ethanol-like");
            assert_eq!(molecule.structure.elements, [6, 17, 1]);
            assert_eq!(molecule.structure.positions[0], [1.0, 2.0, -3.0]);
            let names: Vec<&str> = molecule.structure.atom_names.iter().map(Name::as_str).collect();
            assert_eq!(names, ["C1", "Cl2", "H3"]);
            assert_eq!(molecule.bonds, [Bond { a: 0, b: 1, order: 1 }, Bond { a: 0, b: 2, order: AROMATIC }]);
        }
    }

    #[test]
    fn v3000_with_continued_lines_and_own_numbers() {
        let molecule = sdf(V3000).unwrap();
        assert_eq!(molecule.structure.elements, [7, 8]);
        assert_eq!(molecule.structure.positions[0], [1.5, 0.0, 0.25]);
        assert_eq!(molecule.bonds, [Bond { a: 0, b: 1, order: 2 }]);
    }

    #[test]
    fn many_molecules_and_what_follows_the_last() {
        let many = file(&format!("{V2000}{V3000}$$$$\n\n  \n"), Kind::Sdf).unwrap();
        assert_eq!(many.len(), 2);
        assert_eq!(many.molecule(1).unwrap().structure.elements, [7, 8]);
        let error = many.molecule(2).unwrap_err();
        assert_eq!(error.code(), "MissingMolecule");
        assert!(error.to_string().contains("has 2"), "{error}");
        assert!(!many.is_empty());
    }

    #[test]
    fn mol2_types_names_and_bonds() {
        let two = file(MOL2, Kind::Mol2).unwrap();
        assert_eq!(two.len(), 2);
        let one = two.molecule(0).unwrap();
        assert_eq!((one.title.as_str(), one.structure.elements.as_slice()), ("one", &[6, 7, 35][..]));
        assert_eq!(one.structure.residues[0].name.as_str(), "LIG1");
        assert_eq!(one.structure.atom_names[0].as_str(), "CA");
        assert_eq!(one.bonds, [Bond { a: 0, b: 1, order: AROMATIC }, Bond { a: 1, b: 2, order: 1 }]);
        assert_eq!(two.molecule(1).unwrap_err().code(), "NoAtoms");
    }

    #[test]
    fn broken_molecules_say_where() {
        for (text, line, part) in [
            (V2000.replacen("  3  2", "  x  2", 1), 4, "no line of counts"),
            (V2000.replacen("1.0000", "1.0x00", 1), 5, "is no atom"),
            (V2000.replacen("  1  2  1", "  1  9  1", 1), 8, "not between two atoms"),
            (V2000.replacen("  3  2", "  3 99", 1), 14, "ends before all of its bonds"),
            (V3000.replacen("M  V30 END CTAB", "M  END", 1), 15, "expected M  V30"),
            (V3000.replacen("N 1.5", "N one", 1), 8, "is no atom"),
        ] {
            let error = sdf(&text).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            if line < 14 {
                assert_eq!(error.line(), Some(line), "{error}");
            }
        }
        assert_eq!(file("", Kind::Mol2).unwrap_err().code(), "NoAtoms");
        assert_eq!(sdf(&V2000.replacen("  3  2", "  0  0", 1)).unwrap_err().code(), "NoAtoms");
    }

    #[test]
    fn a_cut_off_file_never_panics() {
        for (text, kind) in [(V2000, Kind::Sdf), (V3000, Kind::Sdf), (MOL2, Kind::Mol2)] {
            for end in 0..text.len() {
                if let Ok(file) = file(&text[..end], kind) {
                    for index in 0..file.len() {
                        let _ = file.molecule(index);
                    }
                }
            }
        }
    }
}

//! Small molecules in PDB and PDBQT files, as docking programs write them: a pose for each MODEL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use memchr::{memchr_iter, memmem};

use super::molecule::{Bond, BondsFrom, Molecule};
use super::no_atom;
use super::number::decimal;
use super::options::Options;
use super::pdb;
use crate::accounts::Unread;
use crate::error::{Error, Problem, Result};
use crate::neighbors::Cells;
use crate::structure::{Name, Repair, Residue, Structure};
use crate::torsion::Bonds;
use crate::vocab;

/// A line and where it begins and ends.
fn lines(text: &[u8]) -> impl Iterator<Item = (Range<usize>, &[u8])> {
    text.split_inclusive(|c| *c == b'\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start..*at, line.trim_ascii_end()))
    })
}

fn record(line: &[u8]) -> Vec<u8> {
    line.get(..6).unwrap_or(line).to_ascii_uppercase().trim_ascii_end().to_vec()
}

fn is_atom(line: &[u8]) -> bool {
    matches!(record(line).as_slice(), b"ATOM" | b"HETATM" | [b'A', b'T', b'O', b'M', b' ' | b'\t', _])
}

/// Line (from 1) and bytes of each molecule: what MODEL and ENDMDL, or else END, enclose.
pub(super) fn cut(text: &[u8]) -> Vec<(u64, Range<usize>)> {
    let mut molecules = Vec::new();
    let mut begin: Option<(u64, usize)> = None;
    let mut atoms = false;
    for (number, (range, line)) in (1..).zip(lines(text)) {
        let record = record(line);
        let (opens, closes) = (record == b"MODEL", record == b"ENDMDL" || record == b"END");
        if (opens || closes) && atoms {
            if let Some((first, start)) = begin.take() {
                molecules.push((first, start..range.start));
            }
            atoms = false;
        }
        if opens {
            begin = Some((number, range.start));
        } else if !closes {
            begin = begin.or(Some((number, range.start)));
            atoms |= is_atom(line);
        }
    }
    if let Some((first, start)) = begin.filter(|_| atoms) {
        molecules.push((first, start..text.len()));
    }
    molecules
}

/// The text with one only of the molecules that it was cut into: what stands before and after all of them stays, of the
/// others their line ends, so that messages count the lines.
pub(super) fn alone(text: &[u8], parts: &[(u64, Range<usize>)], own: &Range<usize>) -> Vec<u8> {
    let before = text.get(..own.start).unwrap_or_default();
    let first = lines(before).find(|(_, line)| is_atom(line) || record(line) == b"MODEL");
    let head = first.map_or(own.start, |(range, _)| range.start);
    let tail = parts.last().map_or(own.end, |(_, last)| last.end);
    let ends = |range: Range<usize>| memchr_iter(b'\n', text.get(range).unwrap_or_default()).map(|_| b'\n');
    let kept = |range: Range<usize>| text.get(range).unwrap_or_default().iter().copied();
    let own_and_before = kept(0..head).chain(ends(head..own.start)).chain(kept(own.clone()));
    own_and_before.chain(ends(own.end..tail)).chain(kept(tail..text.len())).collect()
}

/// Is it PDBQT: in its first atom line a charge before a type, where PDB has a segment and an element?
pub(super) fn is_pdbqt(text: &[u8]) -> bool {
    // Long headers are passed over as a whole.
    let first = |text: &[u8], word: &[u8]| match text.starts_with(word) {
        true => Some(0),
        false => memmem::find(text, &[b"\n", word].concat()).map(|at| at + 1),
    };
    let atom = first(text, b"ATOM  ");
    let hetero = first(text.get(..atom.unwrap_or(text.len())).unwrap_or_default(), b"HETATM");
    let line = hetero.or(atom).and_then(|at| text.get(at..)).unwrap_or_default();
    match line.split(|c| *c == b'\n').next().unwrap_or_default().get(72..78) {
        Some([b'.', digits @ .., b' ', kind]) => digits.iter().all(u8::is_ascii_digit) && kind.is_ascii_alphabetic(),
        _ => false,
    }
}

/// PDBQT as PDB: elements instead of charges and types. Other text stays as it is.
pub(super) fn as_pdb(text: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if !is_pdbqt(&text) {
        return text;
    }
    let mut text = text.into_owned();
    let atoms: Vec<Range<usize>> = lines(&text).filter(|(_, line)| is_atom(line)).map(|(range, _)| range).collect();
    for range in atoms {
        let line = text.get_mut(range).unwrap_or_default();
        let element = autodock_element(autodock_type(line));
        let fields = line.get_mut(66..).unwrap_or_default();
        fields.iter_mut().filter(|c| !matches!(c, b'\r' | b'\n')).for_each(|c| *c = b' ');
        let symbol = element.map_or("", vocab::symbol).bytes().rev();
        fields.iter_mut().take(12).rev().zip(symbol).for_each(|(column, letter)| *column = letter);
    }
    Cow::Owned(text)
}

/// Reads one molecule: `part` of a text from line `line` on.
pub(super) fn molecule(
    text: &[u8],
    (line, part): (u64, Range<usize>),
    pdbqt: bool,
    shown: &str,
    options: Options,
) -> Result<Molecule> {
    let (own, aside) = without_others(text.get(part).unwrap_or_default(), pdbqt);
    let own = own.as_ref();
    // Lines before it are left blank, so that messages count them.
    let before = usize::try_from(line.saturating_sub(1)).unwrap_or(0);
    let mut padded = vec![b'\n'; before.min(text.len())];
    padded.extend_from_slice(own);
    let strictness = if pdbqt { Default::default() } else { options.strictness };
    let mut structure = pdb::parse(&padded, shown, Options { strictness, ..options })?;
    // A molecule has bonds of its own, and is one residue.
    structure.bonds = Vec::new();
    let atoms: Vec<&[u8]> = lines(own).map(|(_, line)| line).filter(|line| is_atom(line)).collect();
    let serial = |field: &[u8]| std::str::from_utf8(field.trim_ascii()).ok()?.parse::<u64>().ok();
    // Where atoms were left out or put into another order, lines and atoms cannot be told to be one.
    let in_order = atoms.len() == structure.positions.len()
        && !structure.repairs.iter().any(|r| matches!(r.kind, Repair::ResidueSplit | Repair::CopiesParted));
    let mut places: HashMap<u64, u32> = HashMap::new();
    if in_order {
        for (at, line) in (0u32..).zip(&atoms) {
            if let Some(number) = line.get(6..11).and_then(serial) {
                places.entry(number).or_insert(at);
            }
        }
    }
    if pdbqt {
        let mut told = in_order;
        if in_order {
            for (line, slot) in atoms.iter().zip(&mut structure.elements) {
                match autodock_element(autodock_type(line)) {
                    Some(element) => *slot = element,
                    None => told = false,
                }
            }
        }
        // Types of AutoDock stand in the columns of charge and element, which is as it should be there.
        let usual = |kind| told && kind == Repair::ElementGuessed || kind == Repair::ChargeIgnored;
        structure.repairs.0.retain(|repaired| !usual(repaired.kind));
    }
    let mut molecule = Molecule { title: title(own), smiles: smiles(own), ..Molecule::default() };
    // Bonds may stand after all models.
    for (_, line) in lines(text).filter(|(_, line)| line.get(..6).is_some_and(|r| r.eq_ignore_ascii_case(b"CONECT"))) {
        let field = |first: usize| line.get(first..(first + 5).min(line.len())).and_then(serial);
        let Some(a) = field(6).and_then(|n| places.get(&n)) else { continue };
        for b in [11, 16, 21, 26].into_iter().filter_map(|at| places.get(&field(at)?)) {
            // Each bond stands twice, once for either end, and a double bond twice as often.
            if a < b {
                match molecule.bonds.iter_mut().find(|bond| (bond.a, bond.b) == (*a, *b)) {
                    Some(bond) => bond.order = if bond.order == 0 { 2 } else { 3 },
                    None => molecule.bonds.push(Bond { a: *a, b: *b, order: 0 }),
                }
            }
        }
    }
    // Where any bond is said to be double, the others are single.
    if molecule.bonds.iter().any(|bond| bond.order > 1) {
        molecule.bonds.iter_mut().filter(|bond| bond.order == 0).for_each(|bond| bond.order = 1);
    }
    molecule.bonds_from = Some(if molecule.bonds.is_empty() { BondsFrom::Distances } else { BondsFrom::Conect });
    if molecule.bonds.is_empty() {
        let places: Vec<[f32; 3]> = structure.positions.iter().map(|p| p.map(|c| c as f32)).collect();
        let near = Bonds::new(&places, &structure.elements);
        let of = |(a, at): (u32, usize)| {
            near.of(at).iter().filter(move |b| a < **b).map(move |b| Bond { a, b: *b, order: 0 })
        };
        molecule.bonds = (0u32..).zip(0..places.len()).flat_map(of).collect();
    }
    for (no_atom, why, kind, what) in [
        (
            false,
            Unread::OutsideLigand,
            Repair::OutsideLigand,
            "water, or the receptor, in the file of a ligand; left out",
        ),
        (true, Unread::NoAtom, Repair::NoAtom, "a lone pair, or a pseudo-atom of AutoDock, which is no atom; left out"),
    ] {
        let lines = || aside.iter().filter(|(_, pseudo)| *pseudo == no_atom);
        let count = lines().count() as u64;
        if let Some((first, _)) = lines().next() {
            structure.accounts.unread(why, count);
            let place = || Problem { line: line + first, column: 0, column_end: 0, what: what.to_owned() };
            structure.repairs.add(kind, count, place);
        }
    }
    molecule.structure = one_residue(structure, shown)?;
    molecule.look_over(line);
    Ok(molecule)
}

fn component(line: &[u8]) -> vocab::Name {
    vocab::name(line.get(17..21).unwrap_or_default().trim_ascii())
}

/// Does a file hold a receptor besides its ligand: amino acids or nucleotides that no bond joins to the others?
fn with_receptor(own: &[u8]) -> bool {
    /// Å; bonds are shorter.
    const BONDED: f64 = 2.0;
    let mut sides: [Vec<[f64; 3]>; 2] = Default::default();
    for (_, line) in lines(own).filter(|(_, line)| is_atom(line)) {
        let place = [30, 38, 46].map(|at| line.get(at..at + 8).and_then(decimal));
        if let (Some(side), [Some(x), Some(y), Some(z)]) = (side(line).and_then(|s| sides.get_mut(s)), place) {
            side.push([x, y, z]);
        }
    }
    let [ligand, receptor] = sides;
    let cells = Cells::new(&receptor, BONDED);
    let joined = |place: &[f64; 3]| {
        let mut near = false;
        cells.near(*place, BONDED, |at| near |= receptor.get(at).is_some_and(|p| distance(p, place) < BONDED));
        near
    };
    ligand.len() > 1 && !receptor.is_empty() && !ligand.iter().any(joined)
}

fn distance(p: &[f64; 3], q: &[f64; 3]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q) * (p - q)).sum::<f64>().sqrt()
}

/// 0 for an atom of a ligand, 1 for one of an amino acid or nucleotide, if it is neither water nor alone in its residue.
fn side(line: &[u8]) -> Option<usize> {
    match component(line) {
        vocab::Name::Water => None,
        vocab::Name::AminoAcid(_) | vocab::Name::Dna(_) | vocab::Name::Rna(_) => Some(1),
        vocab::Name::Base { .. } | vocab::Name::Other => Some(0),
    }
}

/// A molecule without what is no part of it: flexible residues of the receptor (BEGIN_RES), the whole of it, water beside
/// other atoms, and pseudo-atoms of AutoDock. The second value are the lines, from 0, of the atoms that are blank now, and
/// whether they are pseudo-atoms.
fn without_others(own: &[u8], pdbqt: bool) -> (Cow<'_, [u8]>, Vec<(u64, bool)>) {
    let receptor = with_receptor(own);
    let lone_pair = |line: &[u8]| {
        let [name, symbol] = [12..16, 76..78].map(|columns| line.get(columns).unwrap_or_default().trim_ascii());
        no_atom::is_symbol(symbol) || no_atom::is_lone_pair(name) && vocab::element(symbol) == 0
    };
    let pseudo = |line: &[u8]| if pdbqt { is_pseudo(autodock_type(line)) } else { lone_pair(line) };
    let mut flexible = false;
    let mut other = |line: &[u8]| {
        let word = line.get(..9).unwrap_or_default();
        flexible = (flexible || word.eq_ignore_ascii_case(b"BEGIN_RES")) && !word.starts_with(b"END_RES");
        let outside = flexible || component(line) == vocab::Name::Water || receptor && side(line) == Some(1);
        is_atom(line) && (outside || pseudo(line))
    };
    let others: Vec<bool> = lines(own).map(|(_, line)| other(line)).collect();
    let atoms = lines(own).filter(|(_, line)| is_atom(line)).count();
    let count = others.iter().filter(|other| **other).count();
    if count == 0 || count == atoms {
        return (Cow::Borrowed(own), Vec::new());
    }
    let mut kept = Vec::with_capacity(own.len());
    let mut aside = Vec::with_capacity(count);
    for ((number, (range, line)), other) in (0..).zip(lines(own)).zip(others) {
        if other {
            aside.push((number, pseudo(line)));
            kept.push(b'\n');
        } else {
            kept.extend_from_slice(own.get(range).unwrap_or_default());
        }
    }
    (Cow::Owned(kept), aside)
}

/// All atoms as one residue of a chain without a name.
fn one_residue(mut structure: Structure, shown: &str) -> Result<Structure> {
    let Some(first) = structure.residues.first().copied() else {
        return Err(Error::NoAtoms { path: shown.to_owned(), expected: "lines ATOM or HETATM".to_owned() });
    };
    let end = structure.positions.len();
    structure.residues = vec![Residue { start: 0, end, chain: 0, hetero: true, polymer: Some(false), ..first }];
    structure.chains = vec![String::new()];
    if first.name.is_empty() {
        if let Some(residue) = structure.residues.first_mut() {
            residue.name = Name::new(b"UNL").unwrap_or_default();
        }
    }
    Ok(structure)
}

/// The type of an atom of AutoDock.
fn autodock_type(line: &[u8]) -> &[u8] {
    line.get(77..).unwrap_or_default().trim_ascii()
}

/// Is it the type of a place without an atom: glue of rings, water of hydrated docking, the field of a zinc?
fn is_pseudo(kind: &[u8]) -> bool {
    matches!(kind, b"G" | b"GA" | b"G0" | b"G1" | b"G2" | b"G3" | b"J" | b"Q" | b"Z" | b"W" | b"TZ")
}

/// Element of a type of AutoDock.
fn autodock_element(kind: &[u8]) -> Option<u8> {
    Some(match kind {
        b"A" | b"C" | b"CG0" | b"CG1" | b"CG2" | b"CG3" => 6,
        b"OA" | b"OS" | b"O" => 8,
        b"NA" | b"NS" | b"N" => 7,
        b"SA" | b"S" => 16,
        b"H" | b"HD" | b"HS" => 1,
        _ => match vocab::element(kind) {
            0 => return None,
            element => element,
        },
    })
}

fn remark<'a>(text: &'a [u8], word: &str) -> Option<&'a str> {
    lines(text).find_map(|(_, line)| {
        let rest = std::str::from_utf8(line.get(..6).filter(|r| r.eq_ignore_ascii_case(b"REMARK")).and(line.get(6..))?);
        Some(rest.ok()?.trim_start().strip_prefix(word)?.trim_start())
    })
}

/// Its name: `REMARK  Name = x` of AutoDock, else COMPND.
pub(super) fn title(text: &[u8]) -> String {
    let named = remark(text, "Name").and_then(|rest| rest.strip_prefix('='));
    let compound = || {
        let (_, line) = lines(text).find(|(_, line)| line.starts_with(b"COMPND"))?;
        let text = std::str::from_utf8(line.get(10..)?).ok()?.trim();
        Some(text.strip_prefix("UNNAMED").unwrap_or(text))
    };
    named.or_else(compound).unwrap_or_default().trim().to_owned()
}

/// `REMARK SMILES` of Meeko; other words follow SMILES in lines that say which atom is which.
fn smiles(text: &[u8]) -> Option<String> {
    let rest = remark(text, "SMILES")?;
    (!rest.is_empty() && !rest.starts_with("IDX")).then(|| rest.split_whitespace().next().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atom(serial: usize, name: &str, x: f64, kind: &str) -> String {
        format!("HETATM{serial:5} {name:<4} LIG A   1    {x:8.3}{:8.3}{:8.3}  1.00  0.00    +0.000 {kind}\n", 0.0, 0.0)
    }

    #[test]
    fn poses_of_a_pdbqt() {
        let pose = |x: f64| atom(1, " C1", x, "A ") + &atom(2, " O1", x + 1.2, "OA") + &atom(3, "CL1", x + 3.0, "Cl");
        let head = "REMARK  Name = mine\nREMARK SMILES C(O)Cl\nREMARK SMILES IDX 1 1 2 2 3 3\nROOT\n";
        let text = format!("MODEL 1\n{head}{}ENDMDL\nMODEL 2\n{head}{}ENDMDL\n", pose(0.0), pose(1.0));
        let parts = cut(text.as_bytes());
        assert_eq!(parts.len(), 2);
        let second = molecule(text.as_bytes(), parts[1].clone(), true, "x.pdbqt", Options::default()).unwrap();
        assert_eq!((second.title.as_str(), second.smiles.as_deref()), ("mine", Some("C(O)Cl")));
        assert_eq!(second.structure.elements, [6, 8, 17]);
        assert_eq!(second.structure.positions[0], [1.0, 0.0, 0.0]);
        assert!(second.structure.repairs.is_empty());
    }

    #[test]
    fn bonds_of_conect() {
        let text = atom(5, " C1", 0.0, "  ") + &atom(6, " C2", 1.3, "  ") + &atom(7, " C3", 2.8, "  ");
        let text = text + "CONECT    5    6    6\nCONECT    6    5    5    7\nCONECT    7    6\nEND\n";
        let parts = cut(text.as_bytes());
        let one = molecule(text.as_bytes(), parts[0].clone(), false, "x.pdb", Options::default()).unwrap();
        assert_eq!(one.bonds, [Bond { a: 0, b: 1, order: 2 }, Bond { a: 1, b: 2, order: 1 }]);
        assert_eq!(one.structure.residues.len(), 1);
    }

    #[test]
    fn messages_count_the_lines_of_the_file() {
        let broken = atom(1, " C1", 0.0, "  ").replace("   0.000   0.000", "   0.x00   0.000");
        let text = format!("MODEL 1\n{}ENDMDL\nMODEL 2\n{broken}ENDMDL\n", atom(1, " C1", 0.0, "  "));
        let parts = cut(text.as_bytes());
        let error = molecule(text.as_bytes(), parts[1].clone(), false, "x.pdb", Options::default()).unwrap_err();
        assert_eq!(error.line(), Some(5), "{error}");
    }
}

//! MOL2: structures of many residues, as proteins prepared for docking. Ligand files are read by `ligand.rs`.

use std::collections::HashMap;

use super::builder::{Builder, ResidueKey, LARGEST};
use super::chains;
use super::elements::{of_mol2, Said};
use super::ligand::words;
use super::options::Options;
use super::sites::Sites;
use crate::accounts::Unread;
use crate::error::{quote, Error, Problem, Result};
use crate::structure::{Name, Repair, Structure};
use crate::vocab;

/// What holds atoms.
const EXPECTED: &str = "@<TRIPOS>ATOM";

/// A line of the atoms.
struct Atom<'a> {
    line: u64,
    number: &'a [u8],
    name: Name,
    kind: &'a [u8],
    position: [f64; 3],
    /// Number and name of its substructure.
    residue: [&'a [u8]; 2],
}

/// What is said of a substructure: its chain and its component.
type Substructure<'a> = (&'a [u8], &'a [u8]);

pub(super) fn parse(text: &[u8], shown: &str, options: Options) -> Result<Structure> {
    let mut builder = Builder::new(text.len() / 80, options);
    let mut atoms: Vec<Atom<'_>> = Vec::new();
    let mut bonds: HashMap<&[u8], usize> = HashMap::new();
    let mut ends: Vec<(u64, [&[u8]; 2])> = Vec::new();
    let mut substructures: HashMap<&[u8], Substructure<'_>> = HashMap::new();
    let (mut section, mut molecules) = (Vec::new(), 0u64);
    let mut unread = (0u64, 0u64);
    for (line, whole) in (1u64..).zip(text.split(|c| *c == b'\n')) {
        let trimmed = whole.trim_ascii();
        if let Some(name) = trimmed.strip_prefix(b"@<TRIPOS>") {
            section = name.to_ascii_uppercase();
            molecules += u64::from(section == b"MOLECULE");
            continue;
        }
        if trimmed.is_empty() || trimmed.starts_with(b"#") {
            continue;
        }
        let mut fields = words(trimmed);
        match section.as_slice() {
            b"ATOM" if molecules > 1 => {
                unread = (if unread.0 == 0 { line } else { unread.0 }, unread.1 + 1);
            }
            b"ATOM" => {
                builder.accounts.records += 1;
                match atom(line, &mut fields) {
                    Some(atom) => atoms.push(atom),
                    None => problem(&mut builder, line, format!("{} is no atom", quote(trimmed))),
                }
            }
            b"BOND" if molecules < 2 => {
                let fields: Vec<&[u8]> = fields.skip(1).take(3).collect();
                for end in fields.iter().take(2) {
                    *bonds.entry(end).or_default() += 1;
                }
                // What is not connected (nc), or a dummy is part of (du), is no bond.
                match fields.as_slice() {
                    [_, _, b"nc" | b"du", ..] => {}
                    [a, b, ..] => ends.push((line, [a, b])),
                    _ => {}
                }
            }
            b"SUBSTRUCTURE" if molecules < 2 => {
                let fields: Vec<&[u8]> = fields.collect();
                let stated = |at: usize| fields.get(at).copied().filter(|f| *f != b"****").unwrap_or_default();
                substructures.insert(stated(0), (stated(5), stated(6)));
            }
            _ => {}
        }
    }
    if unread.1 > 0 {
        builder.accounts.unread(Unread::OtherModel, unread.1);
        let what = format!("{} atoms of {} more molecules from here on are not read", unread.1, molecules - 1);
        let place = || Problem { line: unread.0, column: 0, column_end: 0, what };
        builder.notes.repairs(Repair::ModelsUnread, unread.1, place);
    }
    let chains = chains_by_bonds(&atoms, &substructures, &ends);
    if let Some((line, count)) = chains.begins {
        let what = "no chain ids; bonds, and steps back in numbers, part the chains".to_owned();
        let place = || Problem { line, column: 0, column_end: 0, what };
        builder.notes.repairs(Repair::ChainByBreak, count, place);
    }
    // Each atom's place in the structure, and its residue.
    let mut places: HashMap<&[u8], (usize, [&[u8]; 2])> = HashMap::with_capacity(atoms.len());
    for (at, atom) in atoms.iter().enumerate() {
        let element = match of_mol2(atom.name.as_bytes(), atom.kind, bonds.get(atom.number).copied().unwrap_or(0)) {
            Said::Element(element) => element,
            Said::ForceField(element) => {
                let what = format!("type {} of a force field; {}", quote(atom.kind), vocab::symbol(element));
                note(&mut builder, Repair::ElementGuessed, atom.line, what);
                element
            }
            Said::Query => {
                let what = format!("{} is of no one element; unknown", quote(atom.kind));
                note(&mut builder, Repair::QueryAtom, atom.line, what);
                0
            }
            Said::NoAtom => {
                let what = format!("{} is no atom; left out", quote(atom.kind));
                note(&mut builder, Repair::NoAtom, atom.line, what);
                builder.accounts.leave(Unread::NoAtom, 1);
                continue;
            }
            Said::Doubt => {
                let name = quote(atom.name.as_bytes());
                let what = format!("atom {name} of type {}: they agree on no element", quote(atom.kind));
                problem(&mut builder, atom.line, what);
                continue;
            }
        };
        let [number, name] = atom.residue;
        let (chain, component) = substructures.get(number).copied().unwrap_or_default();
        let (component, resnum, icode) = residue(name, component, number);
        let (Some(component), Ok(chain)) = (Name::new(component), std::str::from_utf8(chain)) else {
            problem(&mut builder, atom.line, format!("{} is no name of a residue", quote(name)));
            continue;
        };
        let chain = chains.of.get(at).map_or(chain, |named| named);
        let hetero = matches!(vocab::name(component.as_bytes()), vocab::Name::Other | vocab::Name::Water);
        builder.residue(ResidueKey {
            name: component,
            chain,
            resnum,
            icode: Name::new(icode).unwrap_or_default(),
            hetero,
            polymer: None,
            after_ter: false,
            line: atom.line,
        });
        places.insert(atom.number, (builder.atoms(), atom.residue));
        builder.atom(atom.name, element, atom.position, 1.0, 0);
    }
    let between = |(line, [a, b]): &(u64, [&[u8]; 2])| {
        let [(a, one), (b, other)] = [*places.get(a)?, *places.get(b)?];
        (one != other).then_some((*line, [a, b]))
    };
    builder.stated.placed = ends.iter().filter_map(between).collect();
    builder.finish(shown, EXPECTED)
}

/// Names of chains for a file that has none.
#[derive(Default)]
struct Chains {
    /// Of each atom; empty where the file is left as it is.
    of: Vec<String>,
    /// The line at which the second one begins, and how many there are.
    begins: Option<(u64, u64)>,
}

/// Atoms of a polymer that follow one another in one residue.
struct Member<'a> {
    atoms: std::ops::Range<usize>,
    number: i32,
    nucleotide: bool,
    names: Vec<&'a [u8]>,
}

impl Member<'_> {
    fn has(&self, is: impl Fn(&[u8]) -> bool) -> bool {
        self.names.iter().any(|name| is(name))
    }
}

/// The member that stands for those that are joined to one; the way there is made shorter.
fn root(joined: &mut [usize], mut at: usize) -> usize {
    while let Some(next) = joined.get(at).copied().filter(|next| *next != at) {
        let after = joined.get(next).copied().unwrap_or(next);
        if let Some(slot) = joined.get_mut(at) {
            *slot = after;
        }
        at = after;
    }
    at
}

/// Parts a file without chain ids where bonds do: what is bonded is one chain, and so is what goes on after it in number,
/// as behind a gap, unless the chain has come to its end.
fn chains_by_bonds<'a>(
    atoms: &'a [Atom<'a>],
    substructures: &HashMap<&[u8], Substructure<'_>>,
    bonds: &[(u64, [&[u8]; 2])],
) -> Chains {
    let mut members: Vec<Member<'_>> = Vec::new();
    let mut member_of: HashMap<&[u8], (usize, bool)> = HashMap::new();
    let (mut before, mut start) = (None, 0);
    for (at, atom) in atoms.iter().enumerate() {
        let [number, name] = atom.residue;
        let (chain, component) = substructures.get(number).copied().unwrap_or_default();
        let (component, number, _) = residue(name, component, number);
        let nucleotide = match vocab::name(component) {
            vocab::Name::Other | vocab::Name::Water => {
                before = None;
                continue;
            }
            vocab::Name::AminoAcid(_) => false,
            _ => true,
        };
        if !chain.is_empty() {
            return Chains::default();
        }
        if before.replace(atom.residue) != Some(atom.residue) {
            start = at;
            members.push(Member { atoms: at..at, number, nucleotide, names: Vec::new() });
        }
        if let Some(member) = members.last_mut() {
            member.atoms = start..at + 1;
            member.names.push(atom.name.as_bytes());
        }
        member_of.insert(atom.number, (members.len() - 1, atom.kind.starts_with(b"S.")));
    }
    // Members that bonds join lead to the same one; a bridge of two sulphurs joins no chains.
    let mut joined: Vec<usize> = (0..members.len()).collect();
    for (_, ends) in bonds {
        let [Some((a, sulphur)), Some((b, other))] = ends.map(|end| member_of.get(end).copied()) else { continue };
        let (a, b) = (root(&mut joined, a), root(&mut joined, b));
        if !(sulphur && other) {
            if let Some(slot) = joined.get_mut(a.max(b)) {
                *slot = a.min(b);
            }
        }
    }
    let mut chain_of: HashMap<usize, usize> = HashMap::new();
    let (mut names, mut letters) = (Vec::new(), chains::letters());
    let mut chains = Chains { of: vec![String::new(); atoms.len()], begins: None };
    let mut before: Option<(&Member<'_>, usize)> = None;
    for (at, member) in members.iter().enumerate() {
        let own = *chain_of.entry(root(&mut joined, at)).or_insert_with(|| {
            let goes_on = before.filter(|(last, _)| {
                last.number < member.number
                    && last.nucleotide == member.nucleotide
                    && !last.has(chains::is_end)
                    && (!member.nucleotide || member.has(|name| name == b"P"))
            });
            goes_on.map_or_else(
                || {
                    names.extend(letters.next());
                    names.len() - 1
                },
                |(_, chain)| chain,
            )
        });
        if own == 1 && chains.begins.is_none() {
            chains.begins = atoms.get(member.atoms.start).map(|atom| (atom.line, 0));
        }
        for slot in chains.of.get_mut(member.atoms.clone()).into_iter().flatten() {
            slot.clone_from(names.get(own).unwrap_or(&String::new()));
        }
        before = Some((member, own));
    }
    match chains.begins {
        Some((line, _)) => Chains { begins: Some((line, names.len() as u64)), ..chains },
        None => Chains::default(),
    }
}

fn note(builder: &mut Builder, kind: Repair, line: u64, what: String) {
    builder.notes.repair(kind, || Problem { line, column: 0, column_end: 0, what });
}

fn problem(builder: &mut Builder, line: u64, what: String) {
    builder.notes.problems.push(Problem { line, column: 0, column_end: 0, what });
}

fn atom<'a>(line: u64, fields: &mut impl Iterator<Item = &'a [u8]>) -> Option<Atom<'a>> {
    let (number, name) = (fields.next()?, Name::new(fields.next()?)?);
    let mut position = [0.0; 3];
    for slot in &mut position {
        *slot = fast_float2::parse::<f64, _>(fields.next()?).ok().filter(|v| v.abs() < LARGEST)?;
    }
    let kind = fields.next()?;
    let residue = [fields.next().unwrap_or_default(), fields.next().unwrap_or_default()];
    Some(Atom { line, number, name, kind, position, residue })
}

/// Component, number and insertion code of a residue: `ALA12`, `HOH301A`; what has no number in its name has that of its
/// substructure.
fn residue<'a>(name: &'a [u8], component: &'a [u8], number: &[u8]) -> (&'a [u8], i32, &'a [u8]) {
    let whole = |text: &[u8]| std::str::from_utf8(text).ok().and_then(|t| t.parse::<i32>().ok());
    let own = whole(number).unwrap_or(0);
    let stated =
        name.get(..component.len()).is_some_and(|n| n.eq_ignore_ascii_case(component)) && !component.is_empty();
    let cut = |name: &'a [u8]| {
        let end = name.len() - name.iter().rev().take_while(|c| c.is_ascii_digit()).count();
        let minus = usize::from(end > 1 && name.get(end - 1) == Some(&b'-'));
        if stated {
            component.len()
        } else {
            end - minus
        }
    };
    for icode in 0..=usize::from(name.last().is_some_and(u8::is_ascii_alphabetic)) {
        let (text, icode) = name.split_at(name.len() - icode);
        let (head, rest) = text.split_at(cut(text).min(text.len()));
        if let (false, Some(resnum)) = (head.is_empty(), whole(rest)) {
            return (head, resnum, icode);
        }
    }
    (if stated { component } else { name }, own, b"")
}

/// MOL2 has no B-factors.
pub(super) fn sites(_: &[u8], shown: &str, _: Options) -> Result<Sites> {
    let expected = "a format with B-factors: .pdb, .ent, .cif, .mmcif or .bcif".to_owned();
    Err(Error::UnknownFormat { path: shown.to_owned(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_residues() {
        for (name, component, expected) in [
            ("ALA12", "", ("ALA", 12, "")),
            ("ALA12", "ALA", ("ALA", 12, "")),
            ("2PE301", "2PE", ("2PE", 301, "")),
            ("ALA-3", "", ("ALA", -3, "")),
            ("SER52A", "", ("SER", 52, "A")),
            ("A1201", "A1", ("A1", 201, "")),
            ("LIG", "", ("LIG", 7, "")),
            ("12", "", ("12", 7, "")),
        ] {
            let (head, number, icode) = residue(name.as_bytes(), component.as_bytes(), b"7");
            assert_eq!((head, number, icode), (expected.0.as_bytes(), expected.1, expected.2.as_bytes()), "{name}");
        }
    }

    #[test]
    fn residues_and_chains() {
        let text = "@<TRIPOS>MOLECULE\nx\n3 1 2\nPROTEIN\nNO_CHARGES\n@<TRIPOS>ATOM\n1 N 0 0 0 N.am 1 GLY5 0.0\n\
            2 CA 1.4 0 0 C.3 1 GLY5\n3 ZN 9 9 9 Zn 2 ZN90\n@<TRIPOS>BOND\n1 1 2 1\n@<TRIPOS>SUBSTRUCTURE\n\
            1 GLY5 1 RESIDUE 4 B GLY 1 ROOT\n2 ZN90 3 RESIDUE 4 **** ZN\n@<TRIPOS>MOLECULE\ny\n@<TRIPOS>ATOM\n1 C 0 0 0 C.3\n";
        let s = parse(text.as_bytes(), "x.mol2", Options::default()).unwrap();
        assert_eq!(s.elements, [7, 6, 30]);
        assert_eq!((s.chains.as_slice(), s.residues[0].resnum), (&["B".to_owned(), String::new()][..], 5));
        assert_eq!((s.accounts.records, s.accounts.left(Unread::OtherModel)), (4, 1));
        let broken = text.replace("1.4 0 0", "1.4 x 0");
        assert_eq!(parse(broken.as_bytes(), "x.mol2", Options::default()).unwrap_err().line(), Some(8));
    }
}

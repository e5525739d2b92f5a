//! Covalent bonds between residues, by distance.

use super::roles::{distance_squared, Subject};
use crate::structure::Structure;
use crate::torsion::radius;

/// Å; bonds are longer than the sum of the radii by less than this.
const SLACK: f64 = 0.25;
/// Å; nearer atoms stand for one another.
const OVERLAP: f64 = 0.9;

/// Elements that form covalent bonds; metals are coordinated.
fn covalent(element: u8) -> bool {
    matches!(element, 5..=9 | 14..=17 | 33..=35 | 52 | 53)
}

/// The bond between two runs of atoms, if there is one: an atom of each. Runs that stand for one another, as the
/// alternate locations of a molecule, have none.
pub(crate) fn bond(
    structure: &Structure,
    one: impl Iterator<Item = usize>,
    other: impl Iterator<Item = usize> + Clone,
) -> Option<(usize, usize)> {
    /// Bonds between two residues; more come of atoms in one place.
    const MOST: usize = 2;
    let atom =
        |at: usize| Some((*structure.positions.get(at)?, *structure.elements.get(at).filter(|e| covalent(**e))?));
    let mut found = None;
    let mut count = 0;
    for a in one {
        let Some((place, element)) = atom(a) else { continue };
        for b in other.clone() {
            let Some((there, kind)) = atom(b) else { continue };
            let longest = radius(element) + radius(kind) + SLACK;
            let squared = distance_squared(place, there);
            if squared < OVERLAP * OVERLAP {
                return None;
            }
            if squared < longest * longest {
                found = found.or(Some((a, b)));
                count += 1;
            }
        }
    }
    found.filter(|_| count <= MOST)
}

/// An atom as a record and `discovered.csv` name it: `A:145 CYS SG`.
pub(crate) fn atom_name(structure: &Structure, residue: usize, atom: usize) -> String {
    let Some(of) = structure.residues.get(residue) else { return String::new() };
    let chain = structure.chains.get(of.chain).map_or("", String::as_str);
    let name = structure.atom_names.get(atom).copied().unwrap_or_default();
    format!("{chain}:{}{} {} {}", of.resnum, of.icode.as_str(), of.name.as_str(), name.as_str())
}

/// What a small molecule of some residues is covalently attached to: atoms of the polymers around it.
pub(super) fn attachments(subject: &Subject, members: &[usize]) -> Vec<String> {
    /// Å; longer than any bond.
    const REACH: f64 = 3.0;
    let structure = subject.structure();
    let atoms: Vec<usize> =
        members.iter().filter_map(|at| structure.residues.get(*at)).flat_map(|r| r.start..r.end).collect();
    if atoms.len() < 2 {
        return Vec::new();
    }
    let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
    for place in atoms.iter().filter_map(|atom| structure.positions.get(*atom)) {
        for ((low, high), c) in low.iter_mut().zip(&mut high).zip(place) {
            *low = low.min(c - REACH);
            *high = high.max(c + REACH);
        }
    }
    let inside = |atom: usize| {
        structure.positions.get(atom).is_some_and(|p| p.iter().zip(&low).zip(&high).all(|((c, l), h)| l < c && c < h))
    };
    let residues = structure.residues.iter().zip(subject.roles()).enumerate();
    let polymers = residues.filter(|(at, (_, role))| role.in_polymer() && !members.contains(at));
    polymers
        .filter_map(|(at, (residue, _))| {
            let near = (residue.start..residue.end).filter(|atom| inside(*atom));
            let (atom, _) = bond(structure, near, atoms.iter().copied())?;
            Some(atom_name(structure, at, atom))
        })
        .collect()
}

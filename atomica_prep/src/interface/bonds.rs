//! Covalent bonds between residues: those that the file states, and others by distance.

use std::collections::HashMap;

use super::roles::{distance_squared, Subject};
use crate::structure::{Residue, Structure};
use crate::torsion::{covalent, radius};

/// Å; bonds are longer than the sum of the radii by less than this.
const SLACK: f64 = 0.25;
/// Å; nearer atoms stand for one another.
const OVERLAP: f64 = 0.9;

/// The bond between two residues, if there is one: an atom of each.
pub(crate) fn bond(structure: &Structure, one: &Residue, other: &Residue) -> Option<(usize, usize)> {
    let stated = structure.bonds_of(one).iter().find(|(_, atom)| (other.start..other.end).contains(atom)).copied();
    stated.or_else(|| near(structure, one.start..one.end, other.start..other.end))
}

/// The bond between two runs of atoms by distance. Runs that stand for one another, as the alternate locations of a
/// molecule, have none.
fn near(
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

/// What a small molecule of some residues is covalently attached to: atoms of the polymers around it.
pub(super) fn attachments(subject: &Subject, members: &[usize]) -> Vec<String> {
    /// Å; longer than any bond.
    const REACH: f64 = 3.0;
    let structure = subject.structure();
    let own = || members.iter().filter_map(|at| structure.residues.get(*at));
    let atoms: Vec<usize> = own().flat_map(|r| r.start..r.end).collect();
    if atoms.len() < 2 {
        return Vec::new();
    }
    let bonds = own().flat_map(|member| structure.bonds_of(member));
    let stated: HashMap<usize, usize> = bonds.map(|(_, other)| (structure.residue_of(*other), *other)).collect();
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
            let around = (residue.start..residue.end).filter(|atom| inside(*atom));
            let by_distance = || near(structure, around, atoms.iter().copied()).map(|(atom, _)| atom);
            Some(structure.who(stated.get(&at).copied().or_else(by_distance)?))
        })
        .collect()
}

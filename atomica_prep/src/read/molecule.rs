//! A molecule of a file of ligands, of whatever format.

use std::collections::{BTreeMap, HashSet};

use crate::error::Problem;
use crate::structure::{Repair, Structure};
use crate::torsion::{covalent, Bonds};

/// Order of an aromatic bond.
pub const AROMATIC: u8 = 4;

/// A bond between two atoms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bond {
    /// First atom, from 0.
    pub a: u32,
    /// Second atom, from 0.
    pub b: u32,
    /// 1, 2, 3, [`AROMATIC`], or 0 where the file does not say.
    pub order: u8,
}

/// A molecule of a ligand file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Molecule {
    /// Its title.
    pub title: String,
    /// Its atoms, as one residue of a chain without a name. SDF has no names of atoms: they are made of the element
    /// and the place in the record (C12).
    pub structure: Structure,
    /// Its bonds, as the file has them.
    pub bonds: Vec<Bond>,
    /// The SMILES that the file gives, as remarks of a PDBQT do.
    pub smiles: Option<String>,
    /// Where the bonds are from, without a table of them in the file.
    pub bonds_from: Option<BondsFrom>,
}

impl Molecule {
    /// Å; nothing that is a part of a ligand stands farther from all others of its parts.
    const APART: f64 = 6.0;
    /// Atoms of a molecule that is looked over.
    const MOST: usize = 2048;

    /// Bonds that the file leaves out are those by distance, and parts that stand apart are told of. The molecule begins
    /// in line `line`.
    pub(super) fn look_over(&mut self, line: u64) {
        let atoms = self.structure.positions.len();
        if atoms > Self::MOST {
            return;
        }
        let mut parts = self.parts();
        if parts.iter().all(|part| *part == 0) {
            return;
        }
        let place = |what: String| Problem { line, column: 0, column_end: 0, what };
        let found = self.lacking(&parts);
        if !found.is_empty() {
            let (stated, count) = (self.bonds.len(), found.len() as u64);
            if stated == 0 {
                self.bonds_from = Some(BondsFrom::Distances);
            }
            self.bonds.extend(found);
            let what = format!("{stated} bonds leave atoms apart that are as near as bonded; {count} more by distance");
            self.structure.repairs.add(Repair::BondsMissing, count, || place(what));
            parts = self.parts();
        }
        if let Some((part, distance)) = self.farthest(&parts).filter(|(_, distance)| *distance > Self::APART) {
            let own = parts.iter().filter(|own| **own == part).count();
            let what =
                format!("{own} of {atoms} atoms stand {distance:.0} Å from all others, and no bond joins them; kept");
            self.structure.repairs.add(Repair::PartsApart, 1, || place(what));
        }
    }

    /// Which of the parts that bonds join each atom is in, from 0.
    fn parts(&self) -> Vec<usize> {
        let mut parts: Vec<usize> = (0..self.structure.positions.len()).collect();
        // Each atom points to one before it, the first of a part to itself.
        let root = |parts: &[usize], mut atom: usize| {
            while let Some(before) = parts.get(atom).filter(|before| **before != atom) {
                atom = *before;
            }
            atom
        };
        for bond in &self.bonds {
            let ends = [bond.a, bond.b].map(|end| root(&parts, end as usize));
            let [low, high] = [ends[0].min(ends[1]), ends[0].max(ends[1])];
            if let Some(slot) = parts.get_mut(high) {
                *slot = low;
            }
        }
        (0..parts.len()).map(|atom| root(&parts, atom)).collect()
    }

    /// Bonds by distance that are not stated, if any of them joins parts. Metals are coordinated, and files often leave
    /// them apart.
    fn lacking(&self, parts: &[usize]) -> Vec<Bond> {
        let places: Vec<[f32; 3]> = self.structure.positions.iter().map(|p| p.map(|c| c as f32)).collect();
        let near = Bonds::new(&places, &self.structure.elements);
        let usual = |atom: usize| self.structure.elements.get(atom).is_some_and(|e| *e == 1 || covalent(*e));
        let stated: HashSet<[u32; 2]> =
            self.bonds.iter().map(|bond| [bond.a.min(bond.b), bond.a.max(bond.b)]).collect();
        let mut found = Vec::new();
        let mut joins = false;
        for (a, at) in (0u32..).zip(0..places.len()).filter(|(_, at)| usual(*at)) {
            for b in near.of(at).iter().copied().filter(|b| a < *b && usual(*b as usize) && !stated.contains(&[a, *b]))
            {
                joins |= parts.get(at) != parts.get(b as usize);
                found.push(Bond { a, b, order: 0 });
            }
        }
        found.retain(|_| joins);
        found
    }

    /// The part that stands farthest from all others, and how far that is.
    fn farthest(&self, parts: &[usize]) -> Option<(usize, f64)> {
        let atoms = || self.structure.positions.iter().zip(parts);
        let mut nearest: BTreeMap<usize, f64> = BTreeMap::new();
        for (p, own) in atoms() {
            for (q, _) in atoms().filter(|(_, other)| *other != own) {
                let distance = p.iter().zip(q).map(|(p, q)| (p - q) * (p - q)).sum::<f64>().sqrt();
                let known = nearest.entry(*own).or_insert(f64::INFINITY);
                *known = known.min(distance);
            }
        }
        // Of two parts both are as far: the later one is told of, mostly an ion.
        nearest.into_iter().max_by(|one, other| one.1.total_cmp(&other.1))
    }
}

/// Where the bonds of a molecule are from, if not from a table of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum BondsFrom {
    /// CONECT records.
    Conect,
    /// Distances; their orders are not known.
    Distances,
}

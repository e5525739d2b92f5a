//! What noise is made, and the columns of a record that it changes.

use super::geometry::{add, apply, dot, mean, rotation, sub, wide, Point};
use crate::torsion::Torsions;
use crate::vocab::{ATOMS, GLOBAL_BLOCK, RESIDUE_BLOCKS};

/// What noise to make; 0 switches a kind off.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    /// Width of the distribution of angles, rad.
    pub rotation_sigma: f64,
    /// Largest angle, rad.
    pub rotation_max: f64,
    /// Largest scale of a shift, Å.
    pub translation_sigma: f64,
    /// Standard deviation of torsion angles, rad.
    pub torsion_sigma: f64,
    /// Largest scale of the noise on single atoms, Å; instead of torsions.
    pub gaussian_sigma: f64,
    /// Share of blocks whose type is hidden.
    pub mask_proportion: f64,
    /// Share of complexes of which one partner is left alone, which is not moved.
    pub lone_proportion: f64,
}

impl Noise {
    /// Is any atom moved?
    pub fn moves(&self) -> bool {
        self.rotation_sigma > 0.0
            || self.translation_sigma > 0.0
            || self.torsion_sigma > 0.0
            || self.gaussian_sigma > 0.0
    }
}

/// The columns of a record that matter here.
#[derive(Debug, Clone, Default)]
pub struct Complex {
    /// Type of each block.
    pub block_types: Vec<u16>,
    /// Atoms of each block.
    pub block_lengths: Vec<u32>,
    /// 0 or 1 for each block; does not decrease.
    pub segments: Vec<u8>,
    /// Type of each atom.
    pub atom_types: Vec<u8>,
    /// Å.
    pub positions: Vec<[f32; 3]>,
    /// Rotatable bonds.
    pub torsions: Torsions,
}

impl Complex {
    /// Does everything fit together?
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let (blocks, atoms) = (self.block_types.len(), self.positions.len());
        if self.block_lengths.len() != blocks || self.segments.len() != blocks {
            return Err(format!(
                "{blocks} block_types, but {} block_lengths and {} segment_ids",
                self.block_lengths.len(),
                self.segments.len()
            ));
        }
        let total: u64 = self.block_lengths.iter().map(|l| u64::from(*l)).sum();
        if total != atoms as u64 || self.atom_types.len() != atoms || self.block_lengths.contains(&0) {
            return Err(format!(
                "block_lengths must be positive and add up to the {atoms} positions and {} atom_types; the sum is {total}",
                self.atom_types.len()
            ));
        }
        if self.segments.iter().any(|s| *s > 1) || self.segments.windows(2).any(|w| w[0] > w[1]) {
            return Err("segment_ids must be 0 for the first blocks and 1 for the others".to_owned());
        }
        if let Some(kind) = self.atom_types.iter().find(|kind| usize::from(**kind) >= ATOMS) {
            return Err(format!("atom_types: {kind} is no index into the {ATOMS} types"));
        }
        if let Some(atom) = self.positions.iter().position(|p| p.iter().any(|c| !c.is_finite())) {
            return Err(format!("positions: that of atom {atom} is not finite"));
        }
        self.check_torsions()
    }

    fn check_torsions(&self) -> Result<(), String> {
        let Torsions { fixed, moving, sizes, atoms } = &self.torsions;
        let total: u64 = sizes.iter().map(|s| u64::from(*s)).sum();
        if fixed.len() != sizes.len() || moving.len() != sizes.len() || total != atoms.len() as u64 {
            let [fixed, moving, sizes, atoms] = [fixed.len(), moving.len(), sizes.len(), atoms.len()];
            return Err(format!(
                "torsion_sizes: the lists of rotatable bonds do not belong together: {sizes} torsion_sizes, of \
                 {total} atoms in all, {fixed} torsion_fixed, {moving} torsion_moving, {atoms} torsion_atoms"
            ));
        }
        let segment_of = self.segment_of_atoms();
        let segment = |atom: i32| usize::try_from(atom).ok().and_then(|a| segment_of.get(a)).copied();
        let mut rest = atoms.as_slice();
        for (t, size) in sizes.iter().enumerate() {
            let (moved, others) = rest.split_at(*size as usize);
            rest = others;
            let own = segment(fixed[t]);
            for (name, wrong) in [
                ("torsion_fixed", own.is_none()),
                ("torsion_moving", segment(moving[t]) != own),
                ("torsion_atoms", moved.iter().any(|a| segment(*a) != own)),
            ] {
                if wrong {
                    return Err(format!("{name}: rotatable bond {t} has atoms that are not there or of both segments"));
                }
            }
        }
        Ok(())
    }

    fn segment_of_atoms(&self) -> Vec<u8> {
        let mut found = Vec::with_capacity(self.positions.len());
        for (segment, length) in self.segments.iter().zip(&self.block_lengths) {
            found.resize(found.len() + *length as usize, *segment);
        }
        found
    }

    /// Blocks with the range of their atoms.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        let mut end = 0;
        self.block_lengths.iter().enumerate().map(move |(block, length)| {
            let start = end;
            end += *length as usize;
            (block, start..end)
        })
    }

    /// Atoms of a segment, its global atom not counted.
    pub(super) fn ordinary_atoms(&self, segment: u8) -> Vec<usize> {
        self.atoms(segment, |kind| kind != GLOBAL_BLOCK)
    }

    /// Atoms of the blocks of a segment whose types are asked for.
    pub(super) fn atoms(&self, segment: u8, wanted: impl Fn(u16) -> bool) -> Vec<usize> {
        let mut found = Vec::with_capacity(self.positions.len());
        for (block, atoms) in self.blocks() {
            if self.segments[block] == segment && wanted(self.block_types[block]) {
                found.extend(atoms);
            }
        }
        found
    }

    /// Its rotatable bonds are those of side chains, and not of the segment as one molecule.
    pub(super) fn has_residues(&self, segment: u8) -> bool {
        self.block_types.iter().zip(&self.segments).any(|(kind, s)| *s == segment && RESIDUE_BLOCKS.contains(kind))
    }

    /// Mean of the positions of a block's atoms.
    pub(super) fn centers(&self) -> Vec<Point> {
        self.blocks().map(|(_, atoms)| mean(self.positions[atoms].iter().map(wide))).collect()
    }

    /// Rotatable bonds of a segment, with the atoms that each moves.
    pub(super) fn bonds(&self, segment: u8) -> Vec<Bond<'_>> {
        let Torsions { fixed, moving, sizes, atoms } = &self.torsions;
        let first = self.first_atom_of(1);
        let mut rest = atoms.as_slice();
        let mut found = Vec::new();
        for ((&fixed, &moving), &size) in fixed.iter().zip(moving).zip(sizes) {
            let (moved, others) = rest.split_at(size as usize);
            rest = others;
            if (fixed as usize >= first) == (segment == 1) {
                found.push(Bond { fixed, moving, moved });
            }
        }
        found
    }

    fn first_atom_of(&self, segment: u8) -> usize {
        let before = self.segments.iter().zip(&self.block_lengths).filter(|(s, _)| **s < segment);
        before.map(|(_, length)| *length as usize).sum()
    }
}

/// A rotatable bond.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bond<'a> {
    pub(super) fixed: i32,
    pub(super) moving: i32,
    pub(super) moved: &'a [i32],
}

/// Turns the moving side of a bond; a bond without length has no axis, and nothing moves.
pub(super) fn twist(positions: &mut [Point], bond: &Bond<'_>, angle: f64) {
    let (fixed, moving) = (positions[bond.fixed as usize], positions[bond.moving as usize]);
    let axis = sub(fixed, moving);
    if dot(axis, axis) == 0.0 {
        return;
    }
    let matrix = rotation(axis, angle);
    for &atom in bond.moved {
        let p = &mut positions[atom as usize];
        *p = add(apply(&matrix, sub(*p, fixed)), fixed);
    }
}

//! The blocks of a partner, and which of them meet the other.

use super::roles::{distance_squared, Role, Subject};
use crate::error::{Error, Result};
use crate::fragments::{Chemistry, Fragments, Sketch};
use crate::index::Row;
use crate::neighbors::Cells;
use crate::read::ligand::Bond;
use crate::structure::{Residue, Structure};
use crate::vocab;

/// Which pairs of atoms decide whether two blocks meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Any heavy atom of one with any of the other; small molecules are kept whole.
    AllPairs,
    /// Atom number k of one with atom number k of the other only, and ligands are cut as well: the rule under
    /// which the released weights were trained.
    Reference,
}

/// How to cut an interface.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blocks meet when heavy atoms are closer than this, in Å.
    pub cutoff: f64,
    /// Which atoms are compared.
    pub rule: Rule,
    /// Stored nearest neighbours of each atom and block; may be 0.
    pub neighbors: usize,
    /// Ligands cut into fragments, if any.
    pub fragments: Option<Fragments>,
}

/// A block before it is decided whether it is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(super) kind: u16,
    pub(crate) residue: usize,
    /// Its atoms, as a range of [`Side::atoms`].
    pub(super) start: usize,
    pub(super) end: usize,
}

/// One partner: blocks, and the structure's indices of their atoms.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) blocks: Vec<Block>,
    pub(super) atoms: Vec<usize>,
    pub(super) positions: Vec<[f64; 3]>,
}

impl Side {
    pub(crate) fn push(
        &mut self,
        structure: &Structure,
        kind: u16,
        residue: usize,
        atoms: impl Iterator<Item = usize>,
    ) {
        let start = self.atoms.len();
        for atom in atoms {
            if let Some(&position) = structure.positions.get(atom) {
                self.atoms.push(atom);
                self.positions.push(position);
            }
        }
        let end = self.atoms.len();
        if end > start {
            self.blocks.push(Block { kind, residue, start, end });
        }
    }

    /// Adds the blocks of another side behind its own.
    pub(super) fn append(&mut self, other: Self) {
        let before = self.atoms.len();
        let moved = |b: Block| Block { start: b.start + before, end: b.end + before, ..b };
        self.blocks.extend(other.blocks.into_iter().map(moved));
        self.atoms.extend(other.atoms);
        self.positions.extend(other.positions);
    }

    pub(crate) fn positions_of(&self, block: &Block) -> &[[f64; 3]] {
        self.positions.get(block.start..block.end).unwrap_or_default()
    }
}

pub(crate) fn heavy(structure: &Structure, atom: usize) -> bool {
    structure.elements.get(atom).is_some_and(|e| *e != 1)
}

/// Blocks of the polymers of some chains, without some residues (the ligand, where it is part of the chain).
pub(crate) fn polymer_side(subject: &Subject, chains: &[usize], rule: Rule, without: &[usize]) -> Side {
    let structure = subject.structure();
    let mut side = Side::default();
    for &chain in chains {
        let member = |i: &usize| Some((*i, (structure.residues.get(*i)?, subject.roles.get(*i)?)));
        let members = subject.members(chain).iter().filter_map(member);
        // The original keeps everything before the last residue that it knows, hetero groups included.
        let last = match rule {
            Rule::AllPairs => None,
            Rule::Reference => {
                let known = |(_, (residue, role)): &(usize, (&Residue, &Role))| {
                    role.recognised() || (**role == Role::Small && by_name(residue) != vocab::UNKNOWN_BLOCK)
                };
                members.clone().filter(known).map(|(i, _)| i).next_back()
            }
        };
        for (i, (residue, role)) in members {
            let kind = match (rule, role) {
                (_, Role::Water | Role::Bead) => continue,
                _ if without.contains(&i) => continue,
                (Rule::AllPairs, Role::Small) => continue,
                (Rule::Reference, _) if last.is_none_or(|last| i > last) => continue,
                (_, Role::Polymer(kind)) | (Rule::AllPairs, Role::Modified(kind)) => *kind,
                (Rule::Reference, Role::Modified(_)) => vocab::UNKNOWN_BLOCK,
                (Rule::Reference, Role::Small) => by_name(residue),
            };
            let mut atoms = (residue.start..residue.end).filter(|a| heavy(structure, *a));
            let kind = match (kind, atoms.clone().count()) {
                (vocab::UNKNOWN_BLOCK, 1) => atoms
                    .clone()
                    .next()
                    .and_then(|a| structure.elements.get(a))
                    .map_or(kind, |e| vocab::element_block(*e)),
                _ => kind,
            };
            side.push(structure, kind, i, &mut atoms);
        }
    }
    side
}

/// Block type of a free amino acid that stands in its chain, which the original takes for a part of it.
fn by_name(residue: &Residue) -> u16 {
    match vocab::name(residue.name.as_bytes()) {
        vocab::Name::AminoAcid(block) if !(residue.hetero && (residue.after_ter || residue.polymer == Some(false))) => {
            block
        }
        _ => vocab::UNKNOWN_BLOCK,
    }
}

/// A small molecule, and what is known of its chemistry.
pub(super) struct SmallMolecule<'a> {
    pub(super) structure: &'a Structure,
    /// Its residue in that structure.
    pub(super) at: usize,
    /// Bonds that its file gives, or that distances do, without orders.
    pub(super) bonds: &'a [Bond],
    /// SMILES that its file gives.
    pub(super) smiles: Option<&'a str>,
    pub(super) row: &'a Row,
}

impl SmallMolecule<'_> {
    /// Its blocks: fragments where there is a vocabulary and the bonds are known, else one block per atom. The second
    /// value says which.
    pub(super) fn side(&self, options: &Options) -> Result<(Side, &'static str)> {
        let mut side = Side::default();
        let structure = self.structure;
        let Some(residue) = structure.residues.get(self.at) else { return Ok((side, "none")) };
        let atoms: Vec<usize> = (residue.start..residue.end).filter(|a| heavy(structure, *a)).collect();
        if let Some(fragments) = &options.fragments {
            let stated = self.row.metadata.iter().find(|(k, _)| k == "lig_smiles").map(|(_, v)| v.as_str());
            let smiles = stated.or(self.smiles);
            let mut sketch = Sketch::new(structure, residue.name.as_str(), &atoms, self.bonds, smiles);
            if options.rule == Rule::Reference && smiles.is_none() {
                // The original cuts no component of which an atom is missing; without distances ours is not cut either.
                sketch.near.clear();
            }
            let cut = fragments.cut(sketch).map_err(|reason| self.not_cut(residue, reason))?;
            if cut.chemistry != Chemistry::Atoms {
                for (kind, members) in &cut.pieces {
                    let members = members.iter().filter_map(|m| atoms.get(*m as usize).copied());
                    side.push(structure, *kind, self.at, members);
                }
                return Ok((side, cut.chemistry.name()));
            }
        }
        for atom in atoms {
            let kind = structure.elements.get(atom).map_or(vocab::UNKNOWN_BLOCK, |e| vocab::element_block(*e));
            side.push(structure, kind, self.at, std::iter::once(atom));
        }
        Ok((side, Chemistry::Atoms.name()))
    }

    fn not_cut(&self, residue: &Residue, reason: String) -> Error {
        let (path, ligand) = match &self.row.ligand_file {
            Some(file) => (file.path.clone(), file.index.to_string()),
            None => (self.row.path.clone(), residue.name.as_str().to_owned()),
        };
        Error::LigandChemistry { path, ligand, reason }
    }
}

/// Å; so that rounding of a sphere never hides a pair that the exact test would keep.
const SLACK: f64 = 1e-9;

/// Which blocks of either side meet the other.
pub(super) fn contacts(a: &Side, b: &Side, cutoff: f64, rule: Rule) -> (Vec<bool>, Vec<bool>) {
    /// Å; about the size of a residue, so that a cell holds few of them.
    const CELL: f64 = 8.0;
    let (spheres_a, spheres_b) = (spheres(a), spheres(b));
    let widest = spheres_b.iter().map(|s| s.1).fold(0.0, f64::max);
    let centers: Vec<[f64; 3]> = spheres_b.iter().map(|s| s.0).collect();
    let cells = Cells::new(&centers, CELL);
    let mut kept_a = vec![false; a.blocks.len()];
    let mut kept_b = vec![false; b.blocks.len()];
    for ((block_a, (center, radius)), keep_a) in a.blocks.iter().zip(&spheres_a).zip(&mut kept_a) {
        let reach = cutoff + radius + SLACK;
        cells.near(*center, reach + widest, |j| {
            let (Some(block_b), Some((other, r)), Some(keep_b)) =
                (b.blocks.get(j), spheres_b.get(j), kept_b.get_mut(j))
            else {
                return;
            };
            let limit = reach + r;
            if (*keep_a && *keep_b) || distance_squared(*center, *other) > limit * limit {
                return;
            }
            if meet(a.positions_of(block_a), b.positions_of(block_b), (*other, *r), cutoff, rule) {
                *keep_a = true;
                *keep_b = true;
            }
        });
    }
    (kept_a, kept_b)
}

/// Middle and radius of each block.
pub(crate) fn spheres(side: &Side) -> Vec<([f64; 3], f64)> {
    side.blocks
        .iter()
        .map(|block| {
            let positions = side.positions_of(block);
            let center = mean(positions);
            let radius = positions.iter().map(|p| distance_squared(*p, center)).fold(0.0, f64::max).sqrt();
            (center, radius)
        })
        .collect()
}

/// `sphere` holds all of `b`.
pub(crate) fn meet(a: &[[f64; 3]], b: &[[f64; 3]], sphere: ([f64; 3], f64), cutoff: f64, rule: Rule) -> bool {
    let squared = cutoff * cutoff;
    let reach = cutoff + sphere.1 + SLACK;
    match rule {
        // Most atoms are too far from the whole of the other block.
        Rule::AllPairs => a
            .iter()
            .filter(|p| distance_squared(**p, sphere.0) <= reach * reach)
            .any(|p| b.iter().any(|q| distance_squared(*p, *q) < squared)),
        Rule::Reference => a.iter().zip(b).any(|(p, q)| distance_squared(*p, *q) < squared),
    }
}

pub(super) fn mean(positions: &[[f64; 3]]) -> [f64; 3] {
    let count = positions.len().max(1) as f64;
    let sum = positions.iter().fold([0.0; 3], |[x, y, z], [a, b, c]| [x + a, y + b, z + c]);
    sum.map(|s| s / count)
}

/// Which blocks are kept where the second partner is a small molecule.
pub(super) fn ligand_contacts(a: &Side, b: &Side, options: &Options) -> (Vec<bool>, Vec<bool>) {
    let (keep_a, mut keep_b) = contacts(a, b, options.cutoff, options.rule);
    if options.rule == Rule::AllPairs && keep_b.contains(&true) {
        keep_b.fill(true);
    }
    (keep_a, keep_b)
}

pub(crate) fn ligand_modality(a: &Side, atoms: usize) -> i8 {
    match (Polymer::of(a), atoms) {
        (Polymer::Protein, 1) => 2,
        (Polymer::Protein, _) => 1,
        // DNA with a small molecule has no modality of its own; that of RNA is the nearest.
        (Polymer::Rna | Polymer::Dna, _) => 6,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polymer {
    Protein,
    Dna,
    Rna,
}

impl Polymer {
    pub(crate) fn of(side: &Side) -> Self {
        let count =
            |range: std::ops::RangeInclusive<u16>| side.blocks.iter().filter(|b| range.contains(&b.kind)).count();
        let (protein, dna, rna) = (count(4..=23), count(24..=27), count(28..=31));
        if protein >= dna + rna {
            Self::Protein
        } else if dna >= rna {
            Self::Dna
        } else {
            Self::Rna
        }
    }
}

/// Index into [`vocab::MODALITIES`], or -1 for pairs that it does not have.
pub(crate) fn polymer_modality(a: &Side, b: &Side) -> i8 {
    /// Residues of a partner, up to which it is called a peptide.
    const PEPTIDE: usize = 30;
    match (Polymer::of(a), Polymer::of(b)) {
        (Polymer::Protein, Polymer::Protein) if a.blocks.len().min(b.blocks.len()) <= PEPTIDE => 3,
        (Polymer::Protein, Polymer::Protein) => 0,
        (Polymer::Protein, Polymer::Rna) | (Polymer::Rna, Polymer::Protein) => 4,
        (Polymer::Protein, Polymer::Dna) | (Polymer::Dna, Polymer::Protein) => 5,
        _ => -1,
    }
}

//! A molecule of a file of ligands, of whatever format.

use crate::structure::Structure;

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
    /// Where the bonds of a format without a table of them are from.
    pub bonds_from: Option<BondsFrom>,
}

/// Where the bonds of a molecule in a PDB or PDBQT file are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum BondsFrom {
    /// CONECT records.
    Conect,
    /// Distances; their orders are not known.
    Distances,
}

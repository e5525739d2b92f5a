//! From a structure to the interface of two partners: who belongs to them, which blocks meet, and the record.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::fragments::{Chemistry, Fragments, Sketch};
use crate::index::{Kind, Ligand, Place, Row};
use crate::neighbors::{nearest_in_complex, Cells};
use crate::read::ligand::{Bond, Molecule};
use crate::read::{Name, Residue, Source, Structure};
use crate::torsion::{is_backbone, Torsions, MAX_WHOLE};
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

/// What a residue is, once its atoms have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Left out everywhere.
    Water,
    /// Part of a polymer, with its block type; `UNKNOWN_BLOCK` for a modified residue.
    Polymer(u16),
    /// A ligand, a cofactor, an ion, a sugar.
    Small,
}

impl Role {
    fn recognised(self) -> bool {
        matches!(self, Self::Polymer(block) if block != vocab::UNKNOWN_BLOCK)
    }
}

/// A structure with the roles of its residues. Made once per file, used by all of its rows.
#[derive(Debug)]
pub struct Subject {
    source: Source,
    roles: Vec<Role>,
}

/// What the atoms of a residue say.
#[derive(Debug, Clone, Copy, Default)]
struct Backbone {
    n: Option<[f64; 3]>,
    c: Option<[f64; 3]>,
    ca: Option<[f64; 3]>,
    p: Option<[f64; 3]>,
    o3: Option<[f64; 3]>,
    ribose: bool,
    sugar: bool,
}

impl Backbone {
    /// Å; peptide and phosphodiester bonds are 1.3 to 1.6.
    const BOND: f64 = 2.0;
    /// Å; neighbouring alpha carbons are 3.8 apart, 2.9 in cis.
    const STEP: f64 = 4.3;

    fn of(structure: &Structure, residue: &Residue) -> Self {
        let mut backbone = Self::default();
        let atoms =
            structure.names_of(residue).iter().zip(structure.elements_of(residue)).zip(structure.positions_of(residue));
        for ((name, &element), &position) in atoms {
            match (name.as_bytes(), element) {
                (b"N", 7) => backbone.n = Some(position),
                (b"C", 6) => backbone.c = Some(position),
                (b"CA", 6) => backbone.ca = Some(position),
                (b"P", 15) => backbone.p = Some(position),
                (b"O3'" | b"O3*", 8) => backbone.o3 = Some(position),
                (b"O2'" | b"O2*", 8) => backbone.ribose = true,
                (b"C1'" | b"C2'" | b"C3'" | b"C4'" | b"C1*" | b"C2*" | b"C3*" | b"C4*", 6) => backbone.sugar = true,
                _ => {}
            }
        }
        backbone
    }

    /// Bonded to another residue as the members of a polymer are.
    fn linked(&self, other: &Self) -> bool {
        let bonded = |a: Option<[f64; 3]>, b: Option<[f64; 3]>| match (a, b) {
            (Some(a), Some(b)) => distance_squared(a, b) < Self::BOND * Self::BOND,
            _ => false,
        };
        bonded(self.n, other.c) || bonded(self.c, other.n) || bonded(self.p, other.o3) || bonded(self.o3, other.p)
    }

    /// Nothing but the trace of a chain was written, so bonds cannot show.
    fn trace_linked(&self, other: &Self) -> bool {
        match (self.ca, other.ca) {
            (Some(a), Some(b)) => {
                self.n.is_none() && self.c.is_none() && distance_squared(a, b) < Self::STEP * Self::STEP
            }
            _ => false,
        }
    }
}

#[inline]
pub(crate) fn distance_squared(a: [f64; 3], b: [f64; 3]) -> f64 {
    let [x, y, z] = [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
    x * x + y * y + z * z
}

impl Subject {
    /// Finds the role of every residue.
    pub fn new(source: Source) -> Self {
        let roles = roles(&source.structure);
        Self { source, roles }
    }

    /// The structure.
    pub fn structure(&self) -> &Structure {
        &self.source.structure
    }

    /// Roles, one per residue.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }
}

fn roles(structure: &Structure) -> Vec<Role> {
    // Some programs number ligands and water along the sequence, too; then the number says nothing.
    let numbers_mean_polymer = !structure.residues.iter().any(|r| {
        r.polymer == Some(true)
            && (vocab::name(r.name.as_bytes()) == vocab::Name::Water || (r.hetero && r.end - r.start == 1))
    });
    // Old files give a bound amino acid a chain of its own, without an end record before it.
    let mut has_atoms = vec![false; structure.chains.len()];
    for residue in structure.residues.iter().filter(|r| !r.hetero) {
        if let Some(slot) = has_atoms.get_mut(residue.chain) {
            *slot = true;
        }
    }
    let all_hetero = |chain: usize| has_atoms.get(chain) == Some(&false);
    // An undecided base: block types as DNA and as RNA.
    let mut open: Vec<(usize, u16, u16)> = Vec::new();
    let mut out: Vec<Role> = Vec::with_capacity(structure.residues.len());
    // Bonds are looked for only around residues whose name does not settle the matter.
    let mut backbones: Option<Backbones> = None;
    for (i, residue) in structure.residues.iter().enumerate() {
        let name = vocab::name(residue.name.as_bytes());
        if name == vocab::Name::Water {
            out.push(Role::Water);
            continue;
        }
        let elements = structure.elements_of(residue);
        let lone = elements.len() == 1
            && elements.first().is_some_and(|e| *e != 0 && *e == vocab::element(residue.name.as_bytes()));
        let stated = residue.polymer.filter(|_| numbers_mean_polymer);
        let block = match name {
            _ if lone => None,
            vocab::Name::AminoAcid(block) => Some(block),
            vocab::Name::Dna(_) | vocab::Name::Rna(_) | vocab::Name::Base { .. } => {
                nucleotide(name, &Backbone::of(structure, residue), i, &mut open)
            }
            vocab::Name::Water | vocab::Name::Other => None,
        };
        let role = match (block, stated) {
            // A free amino acid or nucleotide is a ligand.
            (Some(_), Some(false)) if residue.hetero => Role::Small,
            (Some(block), None) if residue.hetero && (residue.after_ter || all_hetero(residue.chain)) => {
                if in_polymer(structure, &mut backbones, i) {
                    Role::Polymer(block)
                } else {
                    Role::Small
                }
            }
            (Some(block), _) => Role::Polymer(block),
            (None, Some(true)) => Role::Polymer(vocab::UNKNOWN_BLOCK),
            (None, _) if lone => Role::Small,
            (None, _) => {
                if in_polymer(structure, &mut backbones, i) {
                    Role::Polymer(vocab::UNKNOWN_BLOCK)
                } else {
                    Role::Small
                }
            }
        };
        out.push(role);
    }
    settle_open_bases(structure, &open, &mut out);
    out
}

/// Block type of a nucleotide by name and sugar. `None` if it is none; undecided ones are noted in `open`.
fn nucleotide(name: vocab::Name, backbone: &Backbone, at: usize, open: &mut Vec<(usize, u16, u16)>) -> Option<u16> {
    match name {
        // A ribose is positive evidence; a missing oxygen is not.
        vocab::Name::Dna(27) if backbone.ribose => Some(vocab::UNKNOWN_BLOCK),
        vocab::Name::Dna(block) if backbone.ribose => Some(block + 4),
        vocab::Name::Dna(block) | vocab::Name::Rna(block) => Some(block),
        vocab::Name::Base { rna, .. } if backbone.ribose => Some(rna),
        vocab::Name::Base { dna, .. } if backbone.sugar => Some(dna),
        vocab::Name::Base { dna, rna } if backbone.p.is_some() => {
            open.push((at, dna, rna));
            Some(if dna == vocab::UNKNOWN_BLOCK { rna } else { dna })
        }
        _ => None,
    }
}

/// Bases without a sugar follow the other nucleotides of their chain; without any, T tells DNA and else it is RNA.
fn settle_open_bases(structure: &Structure, open: &[(usize, u16, u16)], roles: &mut [Role]) {
    if open.is_empty() {
        return;
    }
    // Votes of each chain for DNA and for RNA.
    let mut votes = vec![(0usize, 0usize); structure.chains.len()];
    let undecided: HashSet<usize> = open.iter().map(|(at, ..)| *at).collect();
    for (i, (residue, role)) in structure.residues.iter().zip(roles.iter()).enumerate() {
        let Some((dna, rna)) = votes.get_mut(residue.chain) else { continue };
        match role {
            _ if undecided.contains(&i) => match vocab::name(residue.name.as_bytes()) {
                vocab::Name::Base { dna: vocab::UNKNOWN_BLOCK, .. } => *rna += 1,
                vocab::Name::Base { rna: vocab::UNKNOWN_BLOCK, .. } => *dna += 1,
                _ => {}
            },
            Role::Polymer(24..=27) => *dna += 1,
            Role::Polymer(28..=31) => *rna += 1,
            _ => {}
        }
    }
    for &(at, dna, rna) in open {
        let chain = structure.residues.get(at).map(|r| r.chain);
        let (votes_dna, votes_rna) = chain.and_then(|c| votes.get(c)).copied().unwrap_or_default();
        let block = match (dna, rna) {
            (dna, vocab::UNKNOWN_BLOCK) => dna,
            (vocab::UNKNOWN_BLOCK, rna) => rna,
            _ if votes_dna > votes_rna => dna,
            _ => rna,
        };
        if let Some(role) = roles.get_mut(at) {
            *role = Role::Polymer(block);
        }
    }
}

/// The backbones of a structure and where they are, to find those that are bonded.
struct Backbones {
    /// One per residue; water has none.
    all: Vec<Backbone>,
    cells: Cells,
    /// The residue of each point in the cells.
    owners: Vec<usize>,
}

impl Backbones {
    fn new(structure: &Structure) -> Self {
        let water = |r: &Residue| vocab::name(r.name.as_bytes()) == vocab::Name::Water;
        let of = |r: &Residue| if water(r) { Backbone::default() } else { Backbone::of(structure, r) };
        let all: Vec<Backbone> = structure.residues.iter().map(of).collect();
        let ends = |b: &Backbone| [b.n, b.c, b.p, b.o3, b.ca].into_iter().flatten().collect::<Vec<_>>();
        let (owners, points): (Vec<usize>, Vec<[f64; 3]>) =
            all.iter().enumerate().flat_map(|(i, b)| ends(b).into_iter().map(move |point| (i, point))).unzip();
        Self { cells: Cells::new(&points, Backbone::STEP), all, owners }
    }
}

/// Bonded, as a member of a polymer is, to another residue of its chain.
fn in_polymer(structure: &Structure, cache: &mut Option<Backbones>, at: usize) -> bool {
    let backbones = cache.get_or_insert_with(|| Backbones::new(structure));
    let (Some(residue), Some(own)) = (structure.residues.get(at), backbones.all.get(at)) else { return false };
    let bonding = [own.n, own.c, own.p, own.o3].map(|end| (end, Backbone::BOND));
    let ends = bonding.into_iter().chain([(own.ca.filter(|_| !residue.hetero), Backbone::STEP)]);
    let mut found = false;
    for (end, radius) in ends.filter_map(|(end, radius)| Some((end?, radius))) {
        backbones.cells.near(end, radius, |point| {
            let Some((i, other)) = backbones.owners.get(point).and_then(|i| Some((*i, backbones.all.get(*i)?))) else {
                return;
            };
            let same_chain = || structure.residues.get(i).is_some_and(|r| r.chain == residue.chain);
            found = found
                || (i != at && same_chain() && (own.linked(other) || (!residue.hetero && own.trace_linked(other))));
        });
    }
    found
}

/// A block before it is decided whether it is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    kind: u16,
    pub(crate) residue: usize,
    /// Its atoms, as a range of [`Side::atoms`].
    start: usize,
    end: usize,
}

/// One partner: blocks, and the structure's indices of their atoms.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) blocks: Vec<Block>,
    atoms: Vec<usize>,
    positions: Vec<[f64; 3]>,
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

    pub(crate) fn positions_of(&self, block: &Block) -> &[[f64; 3]] {
        self.positions.get(block.start..block.end).unwrap_or_default()
    }
}

pub(crate) fn heavy(structure: &Structure, atom: usize) -> bool {
    structure.elements.get(atom).is_some_and(|e| *e != 1)
}

/// Blocks of the polymers of some chains, without one residue (the ligand, where it is part of the chain).
pub(crate) fn polymer_side(subject: &Subject, chains: &[usize], rule: Rule, without: Option<usize>) -> Side {
    let structure = subject.structure();
    let mut side = Side::default();
    for &chain in chains {
        let members = structure.residues.iter().zip(&subject.roles).enumerate().filter(|(_, (r, _))| r.chain == chain);
        // The original keeps everything before the last residue that it knows, hetero groups included.
        let last = match rule {
            Rule::AllPairs => None,
            Rule::Reference => members.clone().filter(|(_, (_, role))| role.recognised()).map(|(i, _)| i).next_back(),
        };
        for (i, (residue, role)) in members {
            let kind = match (rule, role) {
                (_, Role::Water) => continue,
                _ if without == Some(i) => continue,
                (Rule::AllPairs, Role::Small) => continue,
                (Rule::Reference, _) if last.is_none_or(|last| i > last) => continue,
                (_, Role::Polymer(kind)) => *kind,
                (Rule::Reference, Role::Small) => vocab::UNKNOWN_BLOCK,
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

/// A small molecule, and what is known of its chemistry.
struct SmallMolecule<'a> {
    structure: &'a Structure,
    /// Its residue in that structure.
    at: usize,
    /// Bonds that its file gives.
    bonds: &'a [Bond],
    row: &'a Row,
}

impl SmallMolecule<'_> {
    /// Its blocks: fragments where there is a vocabulary and the bonds are known, else one block per atom. The second
    /// value says which.
    fn side(&self, options: &Options) -> Result<(Side, &'static str)> {
        let mut side = Side::default();
        let structure = self.structure;
        let Some(residue) = structure.residues.get(self.at) else { return Ok((side, "none")) };
        let atoms: Vec<usize> = (residue.start..residue.end).filter(|a| heavy(structure, *a)).collect();
        if let Some(fragments) = &options.fragments {
            let smiles = self.row.metadata.iter().find(|(k, _)| k == "lig_smiles").map(|(_, v)| v.as_str());
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
fn contacts(a: &Side, b: &Side, cutoff: f64, rule: Rule) -> (Vec<bool>, Vec<bool>) {
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

fn mean(positions: &[[f64; 3]]) -> [f64; 3] {
    let count = positions.len().max(1) as f64;
    let sum = positions.iter().fold([0.0; 3], |[x, y, z], [a, b, c]| [x + a, y + b, z + c]);
    sum.map(|s| s / count)
}

/// One complex, ready to be written. Fields as in the schema.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "named and explained by the schema")]
pub struct Record {
    pub id: String,
    pub modality: i8,
    pub split: Option<String>,
    pub labels: Vec<(String, String)>,
    pub metadata: Vec<(String, String)>,
    pub block_types: Vec<u16>,
    pub block_lengths: Vec<u32>,
    pub segment_ids: Vec<u8>,
    pub atom_types: Vec<u8>,
    pub positions: Vec<[f32; 3]>,
    pub atom_intra: Vec<i32>,
    pub atom_inter: Vec<i32>,
    pub block_intra: Vec<i32>,
    pub block_inter: Vec<i32>,
    pub block_chains: Vec<String>,
    pub block_resnums: Vec<i32>,
    pub block_icodes: Vec<Name>,
    pub block_components: Vec<Name>,
    pub atom_names: Vec<Name>,
    pub source_path: String,
    pub source_sha256: String,
    pub ligand_chemistry: &'static str,
    pub torsions: Torsions,
    pub bond_first: Vec<i32>,
    pub bond_second: Vec<i32>,
    pub bond_orders: Vec<u8>,
}

/// Most atoms of one complex, so that neither a neighbour list nor a shard outgrows its indices.
pub const MAX_ATOMS: usize = 1 << 22;

/// A ligand in a file of its own, and the checksum of that file.
#[derive(Debug, Clone, Copy)]
pub struct Pose<'a> {
    /// The molecule, in the frame of the structure.
    pub molecule: &'a Molecule,
    /// SHA-256 of its file, hex.
    pub sha256: &'a str,
}

/// Makes the complex of a row whose ligand has a file of its own.
///
/// # Errors
/// The partners are not there or do not meet.
pub fn complex_with_pose(subject: &Subject, row: &Row, pose: Pose<'_>, options: &Options) -> Result<Record> {
    let first: Vec<usize> =
        row.chain1.iter().map(|name| chain_of(subject.structure(), name, &row.path)).collect::<Result<_>>()?;
    let a = polymer_side(subject, &first, options.rule, None);
    if a.blocks.is_empty() {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    }
    let structure = &pose.molecule.structure;
    let ligand = SmallMolecule { structure, at: 0, bonds: &pose.molecule.bonds, row };
    let (b, chemistry) = ligand.side(options)?;
    if b.blocks.is_empty() {
        let (path, ligand) = match &row.ligand_file {
            Some(file) => (file.path.clone(), file.index.to_string()),
            None => (row.path.clone(), pose.molecule.title.clone()),
        };
        return Err(Error::HydrogenLigand { path, ligand });
    }
    let (keep_a, keep_b) = ligand_contacts(&a, &b, options);
    let modality = row.modality.unwrap_or_else(|| ligand_modality(&a, b.atoms.len()));
    let mut metadata = row.metadata.clone();
    metadata.retain(|(k, _)| k != "ligand_sha256");
    metadata.push(("ligand_sha256".to_owned(), pose.sha256.to_owned()));
    let first = Partner { structure: subject.structure(), side: &a, keep: keep_a, chain: None };
    let chain = row.chain2.first().map_or("", String::as_str);
    let second = Partner { structure, side: &b, keep: keep_b.clone(), chain: Some(chain) };
    let mut record = assemble(subject, row, row.id.clone(), &[first, second], modality, chemistry, metadata, options)?;
    // The last atoms of the record are those of the ligand.
    let heavy: usize =
        b.blocks.iter().zip(&keep_b).filter(|(_, k)| **k).map(|(block, _)| block.end - block.start).sum();
    let begin = record.positions.len() - heavy;
    for (first, second, order) in kept_bonds(pose.molecule, &b, &keep_b, begin) {
        record.bond_first.push(first);
        record.bond_second.push(second);
        record.bond_orders.push(order);
    }
    Ok(record)
}

/// The bonds of a molecule between atoms that are kept, of which the first has the index `begin`.
fn kept_bonds(molecule: &Molecule, side: &Side, keep: &[bool], begin: usize) -> Vec<(i32, i32, u8)> {
    let kept = side.blocks.iter().zip(keep).filter(|(_, k)| **k);
    let atoms = kept.flat_map(|(block, _)| side.atoms.get(block.start..block.end).unwrap_or_default());
    let place: HashMap<usize, i32> =
        atoms.zip(begin..).filter_map(|(atom, at)| Some((*atom, i32::try_from(at).ok()?))).collect();
    let ends = |bond: &Bond| Some((*place.get(&(bond.a as usize))?, *place.get(&(bond.b as usize))?, bond.order));
    molecule.bonds.iter().filter_map(ends).collect()
}

/// Which blocks are kept where the second partner is a small molecule.
fn ligand_contacts(a: &Side, b: &Side, options: &Options) -> (Vec<bool>, Vec<bool>) {
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
        (Polymer::Rna, _) => 6,
        (Polymer::Dna, _) => -1,
    }
}

/// Makes the complexes of one row: one, or one for every copy of its ligand that matches.
pub fn complexes(subject: &Subject, row: &Row, options: &Options) -> Vec<(String, Result<Record>)> {
    let one = |error: Error| vec![(row.id.clone(), Err(error))];
    let chains = |names: &[String]| -> Result<Vec<usize>> {
        names.iter().map(|name| chain_of(subject.structure(), name, &row.path)).collect()
    };
    let first = match chains(&row.chain1) {
        Ok(first) => first,
        Err(error) => return one(error),
    };
    if row.kind() == Kind::Pocket {
        return vec![(row.id.clone(), pocket(subject, row, &first, options))];
    }
    let second = match chains(&row.chain2) {
        Ok(second) => second,
        Err(error) => return one(error),
    };
    let Some(ligand) = &row.ligand else {
        let record = two_polymers(subject, row, &first, &second, options);
        return vec![(row.id.clone(), record)];
    };
    let mut found = copies(subject, ligand, &second);
    let first_ligand = match &row.ligand1 {
        None => None,
        Some(ligand1) => match copies(subject, ligand1, &first).first() {
            Some(at) => Some(*at),
            None => return one(missing_ligand(subject, row, ligand1, &row.chain1)),
        },
    };
    found.retain(|copy| Some(*copy) != first_ligand);
    let make = |id: String, copy: usize| match first_ligand {
        None => with_ligand(subject, row, id, &first, copy, options),
        Some(at) => two_ligands(subject, row, id, [at, copy], options),
    };
    match found.as_slice() {
        [] => one(missing_ligand(subject, row, ligand, &row.chain2)),
        [only] => vec![(row.id.clone(), make(row.id.clone(), *only))],
        several => several
            .iter()
            .enumerate()
            .map(|(i, copy)| {
                let id = format!("{}_{i}", row.id);
                (id.clone(), make(id, *copy))
            })
            .collect(),
    }
}

/// Residues of some chains that are a ligand of the index.
fn copies(subject: &Subject, ligand: &Ligand, chains: &[usize]) -> Vec<usize> {
    let residues = subject.structure().residues.iter().enumerate();
    residues.filter(|(_, r)| chains.contains(&r.chain) && matches(r, ligand)).map(|(i, _)| i).collect()
}

/// What a structure lacks of a row's partners: each error with the column of the index that asks for it. Whether the
/// partners meet is not looked at.
pub fn lacking(subject: &Subject, row: &Row) -> Vec<(&'static str, Error)> {
    let mut problems = Vec::new();
    let sides = [("chain1", &row.chain1, "lig_code1", &row.ligand1), ("chain2", &row.chain2, "lig_code", &row.ligand)];
    for (column, names, code, ligand) in sides {
        // Beside a ligand file it is a name for the ligand; a pocket has no second partner.
        if column == "chain2" && matches!(row.kind(), Kind::LigandFile | Kind::Pocket) {
            continue;
        }
        let mut chains = Vec::new();
        for name in names {
            match chain_of(subject.structure(), name, &row.path) {
                Ok(chain) => chains.push(chain),
                Err(error) => problems.push((column, error)),
            }
        }
        if chains.len() < names.len() {
            continue;
        }
        match ligand {
            None if polymer_side(subject, &chains, Rule::AllPairs, None).blocks.is_empty() => {
                problems.push((column, Error::EmptyPartner { path: row.path.clone(), chains: names.join("_") }));
            }
            Some(ligand) if copies(subject, ligand, &chains).is_empty() => {
                problems.push((code, missing_ligand(subject, row, ligand, names)));
            }
            None if row.kind() == Kind::Pocket => {
                let side = polymer_side(subject, &chains, Rule::AllPairs, None);
                problems.extend(members(subject, row, &side).err().map(|error| ("residues", error)));
            }
            _ => {}
        }
    }
    problems
}

fn chain_of(structure: &Structure, name: &str, path: &str) -> Result<usize> {
    structure.chains.iter().position(|c| c == name).ok_or_else(|| Error::MissingChain {
        path: path.to_owned(),
        chain: name.to_owned(),
        present: listed(structure.chains.iter().map(|c| if c.is_empty() { "(blank)" } else { c.as_str() })),
    })
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 30;
    let names: Vec<&str> = names.collect();
    let shown = names.get(..SHOWN).unwrap_or(&names).join(", ");
    match names.len() {
        0 => "nothing".to_owned(),
        n if n > SHOWN => format!("{shown} and {} more", n - SHOWN),
        _ => shown,
    }
}

fn matches(residue: &Residue, ligand: &Ligand) -> bool {
    residue.name.as_bytes().eq_ignore_ascii_case(ligand.code.as_bytes())
        && ligand.resnum.is_none_or(|n| n == residue.resnum)
        && ligand.icode.as_deref().is_none_or(|c| c == residue.icode.as_str())
}

fn missing_ligand(subject: &Subject, row: &Row, ligand: &Ligand, chains: &[String]) -> Error {
    let structure = subject.structure();
    let mut present: Vec<String> = Vec::new();
    let mut known: HashSet<(Name, i32, Name)> = HashSet::new();
    for (residue, role) in structure.residues.iter().zip(&subject.roles) {
        let asked = structure.chains.get(residue.chain).is_some_and(|c| chains.contains(c));
        if *role == Role::Small && asked && known.insert((residue.name, residue.resnum, residue.icode)) {
            present.push(format!("{} {}{}", residue.name.as_str(), residue.resnum, residue.icode.as_str()));
        }
    }
    let mut wanted = ligand.code.clone();
    if let Some(number) = ligand.resnum {
        wanted = format!("{wanted} {number}{}", ligand.icode.as_deref().unwrap_or(""));
    }
    Error::MissingLigand {
        path: row.path.clone(),
        ligand: wanted,
        chain: chains.join("_"),
        present: listed(present.iter().map(String::as_str)),
    }
}

/// The residues of a pocket, alone: a record of one segment.
fn pocket(subject: &Subject, row: &Row, chains: &[usize], options: &Options) -> Result<Record> {
    let side = polymer_side(subject, chains, options.rule, None);
    if side.blocks.is_empty() {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    }
    let keep = members(subject, row, &side)?;
    let modality = row.modality.unwrap_or(-1);
    let sides = [Partner { structure: subject.structure(), side: &side, keep, chain: None }];
    assemble(subject, row, row.id.clone(), &sides, modality, "none", row.metadata.clone(), options)
}

/// Which blocks are of the residues that a row names. All of them must be there.
fn members(subject: &Subject, row: &Row, side: &Side) -> Result<Vec<bool>> {
    let structure = subject.structure();
    let place = |block: &Block| {
        let residue = structure.residues.get(block.residue)?;
        let chain = structure.chains.get(residue.chain)?.clone();
        Some(Place { chain, resnum: residue.resnum, icode: residue.icode.as_str().to_owned() })
    };
    let places: Vec<Option<Place>> = side.blocks.iter().map(place).collect();
    let wanted: HashSet<&Place> = row.residues.iter().collect();
    let present: HashSet<&Place> = places.iter().flatten().collect();
    let missing: Vec<String> = row.residues.iter().filter(|p| !present.contains(p)).map(Place::to_string).collect();
    if !missing.is_empty() {
        let present: Vec<String> = places.iter().flatten().map(Place::to_string).collect();
        return Err(Error::MissingResidues {
            path: row.path.clone(),
            residues: missing.join(" "),
            chains: row.chain1.join("_"),
            present: listed(present.iter().map(String::as_str)),
        });
    }
    Ok(places.iter().map(|p| p.as_ref().is_some_and(|p| wanted.contains(p))).collect())
}

fn two_polymers(subject: &Subject, row: &Row, first: &[usize], second: &[usize], options: &Options) -> Result<Record> {
    let a = polymer_side(subject, first, options.rule, None);
    let b = polymer_side(subject, second, options.rule, None);
    for (side, chains) in [(&a, &row.chain1), (&b, &row.chain2)] {
        if side.blocks.is_empty() {
            return Err(Error::EmptyPartner { path: row.path.clone(), chains: chains.join("_") });
        }
    }
    let modality = row.modality.unwrap_or_else(|| polymer_modality(&a, &b));
    let keep = contacts(&a, &b, options.cutoff, options.rule);
    let metadata = row.metadata.clone();
    let structure = subject.structure();
    let sides = [(&a, keep.0), (&b, keep.1)].map(|(side, keep)| Partner { structure, side, keep, chain: None });
    assemble(subject, row, row.id.clone(), &sides, modality, "none", metadata, options)
}

fn with_ligand(
    subject: &Subject,
    row: &Row,
    id: String,
    first: &[usize],
    copy: usize,
    options: &Options,
) -> Result<Record> {
    let structure = subject.structure();
    let Some(residue) = structure.residues.get(copy) else {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain2.join("_") });
    };
    let a = polymer_side(subject, first, options.rule, Some(copy));
    if a.blocks.is_empty() {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    }
    let (b, chemistry) = SmallMolecule { structure, at: copy, bonds: &[], row }.side(options)?;
    if b.blocks.is_empty() {
        let ligand = format!("{} {}{}", residue.name.as_str(), residue.resnum, residue.icode.as_str());
        return Err(Error::HydrogenLigand { path: row.path.clone(), ligand });
    }
    let (keep_a, keep_b) = ligand_contacts(&a, &b, options);
    let modality = row.modality.unwrap_or_else(|| ligand_modality(&a, b.atoms.len()));
    let mut metadata = row.metadata.clone();
    for (key, value) in [
        ("lig_code", residue.name.as_str().to_owned()),
        ("lig_resnum", residue.resnum.to_string()),
        ("lig_icode", residue.icode.as_str().to_owned()),
    ] {
        metadata.retain(|(k, _)| k != key);
        if !value.is_empty() {
            metadata.push((key.to_owned(), value));
        }
    }
    let sides = [(&a, keep_a), (&b, keep_b)].map(|(side, keep)| Partner { structure, side, keep, chain: None });
    assemble(subject, row, id, &sides, modality, chemistry, metadata, options)
}

fn two_ligands(subject: &Subject, row: &Row, id: String, places: [usize; 2], options: &Options) -> Result<Record> {
    /// Of [`vocab::MODALITIES`]: small molecules with one another.
    const CSD: i8 = 7;
    let structure = subject.structure();
    let mut sides = Vec::with_capacity(2);
    for at in places {
        let (side, chemistry) = SmallMolecule { structure, at, bonds: &[], row }.side(options)?;
        if side.blocks.is_empty() {
            let name = structure.residues.get(at).map(|r| format!("{} {}", r.name.as_str(), r.resnum));
            return Err(Error::HydrogenLigand { path: row.path.clone(), ligand: name.unwrap_or_default() });
        }
        sides.push((side, chemistry));
    }
    let [(a, chemistry_a), (b, chemistry_b)] = sides.as_slice() else {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    };
    let (mut keep_a, keep_b) = ligand_contacts(a, b, options);
    if options.rule == Rule::AllPairs && keep_a.contains(&true) {
        keep_a.fill(true);
    }
    let modality = row.modality.unwrap_or(CSD);
    let chemistry = if chemistry_a == chemistry_b { *chemistry_a } else { "mixed" };
    let sides = [(a, keep_a), (b, keep_b)].map(|(side, keep)| Partner { structure, side, keep, chain: None });
    assemble(subject, row, id, &sides, modality, chemistry, row.metadata.clone(), options)
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

/// One partner of a complex, before it is written.
struct Partner<'a> {
    structure: &'a Structure,
    side: &'a Side,
    keep: Vec<bool>,
    /// Instead of the structure's chain ids.
    chain: Option<&'a str>,
}

#[allow(clippy::too_many_arguments, reason = "the one place where all parts of a record meet")]
fn assemble(
    subject: &Subject,
    row: &Row,
    id: String,
    sides: &[Partner<'_>],
    modality: i8,
    chemistry: &'static str,
    metadata: Vec<(String, String)>,
    options: &Options,
) -> Result<Record> {
    if !sides.iter().all(|partner| partner.keep.contains(&true)) {
        return Err(Error::NoInterface { path: row.path.clone(), cutoff: format!("{}", options.cutoff) });
    }
    let kept = |p: &Partner<'_>| -> usize {
        p.side.blocks.iter().zip(&p.keep).filter(|(_, k)| **k).map(|(b, _)| b.end - b.start).sum()
    };
    let atoms: usize = sides.iter().map(|partner| kept(partner) + 1).sum();
    if atoms > MAX_ATOMS {
        return Err(Error::TooLarge { path: row.path.clone(), atoms: atoms as u64, limit: MAX_ATOMS as u64 });
    }
    let blocks: usize = sides.iter().map(|p| p.keep.iter().filter(|k| **k).count() + 1).sum();
    let mut record = Record {
        id,
        modality,
        split: row.split.clone(),
        labels: row.labels.clone(),
        metadata,
        block_types: Vec::with_capacity(blocks),
        block_lengths: Vec::with_capacity(blocks),
        segment_ids: Vec::with_capacity(blocks),
        atom_types: Vec::with_capacity(atoms),
        positions: Vec::with_capacity(atoms),
        block_chains: Vec::with_capacity(blocks),
        block_resnums: Vec::with_capacity(blocks),
        block_icodes: Vec::with_capacity(blocks),
        block_components: Vec::with_capacity(blocks),
        atom_names: Vec::with_capacity(atoms),
        source_path: row.path.clone(),
        source_sha256: subject.source.sha256.clone(),
        ligand_chemistry: chemistry,
        ..Record::default()
    };
    for (segment, Partner { structure, side, keep, chain }) in (0u8..).zip(sides) {
        let global = record.positions.len();
        record.block_types.push(vocab::GLOBAL_BLOCK);
        record.block_lengths.push(1);
        record.segment_ids.push(segment);
        record.block_chains.push(String::new());
        record.block_resnums.push(0);
        record.block_icodes.push(Name::default());
        record.block_components.push(Name::default());
        record.atom_types.push(vocab::GLOBAL_ATOM);
        record.atom_names.push(Name::default());
        record.positions.push([0.0; 3]);
        let mut members: Vec<[f64; 3]> = Vec::new();
        for (block, _) in side.blocks.iter().zip(keep).filter(|(_, k)| **k) {
            let Some(residue) = structure.residues.get(block.residue) else { continue };
            let range = block.start..block.end;
            record.block_types.push(block.kind);
            record.block_lengths.push(u32::try_from(range.len()).unwrap_or(u32::MAX));
            record.segment_ids.push(segment);
            let own = structure.chains.get(residue.chain).map_or("", String::as_str);
            record.block_chains.push(chain.unwrap_or(own).to_owned());
            record.block_resnums.push(residue.resnum);
            record.block_icodes.push(residue.icode);
            record.block_components.push(residue.name);
            for &atom in side.atoms.get(range.clone()).unwrap_or_default() {
                record
                    .atom_types
                    .push(structure.elements.get(atom).map_or(vocab::UNKNOWN_ATOM, |e| vocab::atom_type(*e)));
                record.atom_names.push(structure.atom_names.get(atom).copied().unwrap_or_default());
            }
            let positions = side.positions.get(range).unwrap_or_default();
            members.extend_from_slice(positions);
            record.positions.extend(positions.iter().map(|p| p.map(|c| c as f32)));
        }
        if let Some(slot) = record.positions.get_mut(global) {
            *slot = mean(&members).map(|c| c as f32);
        }
    }
    neighbor_lists(&mut record, options.neighbors);
    record.torsions = torsions(&record);
    Ok(record)
}

/// Rotatable bonds of both partners: of side chains, block by block, where a partner has an amino acid or a
/// nucleotide; else of the partner as one molecule.
fn torsions(record: &Record) -> Torsions {
    const NUCLEOTIDES: std::ops::RangeInclusive<u16> = 24..=31;
    /// Atoms; no residue has as many, and the lists of moving atoms grow with their square.
    const MAX_RESIDUE: usize = 128;
    let elements: Vec<u8> = record.atom_types.iter().map(|t| t.saturating_sub(vocab::GLOBAL_ATOM)).collect();
    let mut out = Torsions::default();
    let mut add = |atoms: std::ops::Range<usize>, backbone: &[bool]| {
        let first = atoms.start;
        if let (Some(positions), Some(elements)) = (record.positions.get(atoms.clone()), elements.get(atoms)) {
            out.add(positions, elements, backbone, first);
        }
    };
    let blocks = record.block_types.iter().zip(&record.block_lengths).zip(&record.segment_ids);
    let mut end = 0;
    let blocks: Vec<(u16, u8, std::ops::Range<usize>)> = blocks
        .map(|((kind, length), segment)| {
            let begin = end;
            end += *length as usize;
            (*kind, *segment, begin..end)
        })
        .collect();
    for segment in blocks.chunk_by(|a, b| a.1 == b.1) {
        if segment.iter().any(|(kind, ..)| vocab::RESIDUE_BLOCKS.contains(kind)) {
            let residues = segment.iter().filter(|(kind, ..)| vocab::RESIDUE_BLOCKS.contains(kind));
            for (kind, _, atoms) in residues.filter(|(.., atoms)| atoms.len() <= MAX_RESIDUE) {
                let nucleotide = NUCLEOTIDES.contains(kind);
                let names = record.atom_names.get(atoms.clone()).unwrap_or_default();
                let backbone: Vec<bool> = names.iter().map(|n| is_backbone(n.as_bytes(), nucleotide)).collect();
                add(atoms.clone(), &backbone);
            }
            continue;
        }
        // The first block is the global one.
        let members = segment.get(1..).unwrap_or_default();
        if let (Some((_, _, first)), Some((_, _, last))) = (members.first(), members.last()) {
            if last.end - first.start <= MAX_WHOLE {
                add(first.start..last.end, &vec![false; last.end - first.start]);
            }
        }
    }
    out
}

/// Fills the neighbour lists of a record from its coordinates.
fn neighbor_lists(record: &mut Record, k: usize) {
    let mut segment_of_atom = Vec::with_capacity(record.positions.len());
    let mut atom_eligible = Vec::with_capacity(record.positions.len());
    let mut centers: Vec<[f32; 3]> = Vec::with_capacity(record.block_types.len());
    let mut start = 0;
    for ((&kind, &length), &segment) in record.block_types.iter().zip(&record.block_lengths).zip(&record.segment_ids) {
        let length = length as usize;
        segment_of_atom.resize(start + length, segment);
        atom_eligible.resize(start + length, kind != vocab::GLOBAL_BLOCK);
        let members = record.positions.get(start..start + length).unwrap_or_default();
        let sum = members
            .iter()
            .fold([0.0f64; 3], |[x, y, z], [a, b, c]| [x + f64::from(*a), y + f64::from(*b), z + f64::from(*c)]);
        centers.push(sum.map(|s| (s / length.max(1) as f64) as f32));
        start += length;
    }
    let block_eligible: Vec<bool> = record.block_types.iter().map(|kind| *kind != vocab::GLOBAL_BLOCK).collect();
    let (atoms, blocks) = (record.positions.len() * k, centers.len() * k);
    record.atom_intra = vec![0; atoms];
    record.atom_inter = vec![0; atoms];
    record.block_intra = vec![0; blocks];
    record.block_inter = vec![0; blocks];
    nearest_in_complex(
        &record.positions,
        &segment_of_atom,
        &atom_eligible,
        k,
        0,
        &mut record.atom_intra,
        &mut record.atom_inter,
    );
    nearest_in_complex(
        &centers,
        &record.segment_ids,
        &block_eligible,
        k,
        0,
        &mut record.block_intra,
        &mut record.block_inter,
    );
}

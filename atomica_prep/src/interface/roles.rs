//! What the residues of a structure are: water, part of a polymer, or a small molecule.

use std::collections::{HashMap, HashSet};

use crate::neighbors::Cells;
use crate::structure::{Residue, Source, Structure};
use crate::vocab;

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
    pub(super) fn recognised(self) -> bool {
        matches!(self, Self::Polymer(block) if block != vocab::UNKNOWN_BLOCK)
    }
}

/// A structure with the roles of its residues. Made once per file, used by all of its rows.
#[derive(Debug)]
pub struct Subject {
    pub(super) source: Source,
    pub(super) roles: Vec<Role>,
    /// Residues of each chain, and the place of each chain by its id.
    members: Vec<Vec<usize>>,
    places: HashMap<String, usize>,
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
        let structure = &source.structure;
        let mut members = vec![Vec::new(); structure.chains.len()];
        for (i, residue) in structure.residues.iter().enumerate() {
            if let Some(members) = members.get_mut(residue.chain) {
                members.push(i);
            }
        }
        // Of chains with one id the first counts.
        let mut places = HashMap::with_capacity(structure.chains.len());
        for (place, id) in structure.chains.iter().enumerate() {
            places.entry(id.clone()).or_insert(place);
        }
        Self { source, roles, members, places }
    }

    /// Residues of a chain, in the order of the file.
    pub(super) fn members(&self, chain: usize) -> &[usize] {
        self.members.get(chain).map_or(&[], Vec::as_slice)
    }

    /// The chain of that id.
    pub(super) fn chain(&self, id: &str) -> Option<usize> {
        self.places.get(id).copied()
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

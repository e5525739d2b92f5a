//! What the residues of a structure are: water, part of a polymer, or a small molecule.
//!
//! One rule for all formats. Bonds and atoms decide: a residue that is bonded to another one as the members of a polymer
//! are is part of the polymer, a lone oxygen is water, and what is neither is a small molecule. Names, records (ATOM or
//! HETATM) and numbers are hints, which count where atoms are missing: pockets and gaps leave residues without a
//! neighbour.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::error::Problem;
use crate::neighbors::Cells;
use crate::structure::{Repair, Residue, Source, Structure};
use crate::vocab;

/// What a residue is, once its atoms have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Left out everywhere.
    Water,
    /// Part of a polymer, with its block type; `UNKNOWN_BLOCK` for a residue that nothing tells.
    Polymer(u16),
    /// Part of a polymer under a name that only a force field, a dictionary or its atoms explain, with the block type of
    /// the standard residue. The original does not know such names.
    Modified(u16),
    /// A bead of a coarse-grained model, which is no atom. Left out everywhere.
    Bead,
    /// A ligand, a cofactor, an ion, a sugar.
    Small,
}

impl Role {
    pub(super) fn recognised(self) -> bool {
        matches!(self, Self::Polymer(block) if block != vocab::UNKNOWN_BLOCK)
    }

    /// Block type of a part of a polymer.
    pub(crate) fn block(self) -> Option<u16> {
        match self {
            Self::Polymer(block) | Self::Modified(block) => Some(block),
            _ => None,
        }
    }

    /// Part of a polymer?
    pub(crate) fn in_polymer(self) -> bool {
        self.block().is_some()
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
    /// Å; the same between atoms whose names do not tell that they are of a backbone.
    const NAMELESS: f64 = 1.7;
    /// Å; nearer atoms stand for one another.
    const OVERLAP: f64 = 0.8;
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

    /// That of an amino acid, whole.
    fn peptide(&self) -> bool {
        self.n.is_some() && self.ca.is_some() && self.c.is_some()
    }

    /// A place in the middle, and how far that of the next member of a chain is from it at most.
    fn middle(&self) -> Option<([f64; 3], f64)> {
        /// Å; neighbouring alpha carbons are 3.8 apart, phosphorus atoms of a stretched strand 7.
        const STEPS: [f64; 2] = [4.0, 7.5];
        self.ca.map(|ca| (ca, STEPS[0])).or(self.p.or(self.o3).map(|p| (p, STEPS[1])))
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
    /// Finds the role of every residue, and adds what it took to the structure's repairs.
    pub fn new(mut source: Source) -> Self {
        let mut judge = Judge::new(&source.structure);
        let roles = judge.roles();
        let mut decisions = std::mem::take(&mut judge.decisions);
        decisions.extend(interrupted(&source.structure, &roles).into_iter().map(|at| (Repair::ChainInterrupted, at)));
        for (kind, at) in decisions {
            let what = told(kind, &source.structure, at, roles.get(at).copied());
            source.structure.repairs.add(kind, 1, || Problem { line: 0, column: 0, column_end: 0, what });
        }
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

/// What was decided of a residue, in words.
fn told(kind: Repair, structure: &Structure, at: usize, role: Option<Role>) -> String {
    let Some(residue) = structure.residues.get(at) else { return String::new() };
    let chain = structure.chains.get(residue.chain).map_or("", String::as_str);
    let who = format!("{} {}{} of chain {chain:?}", residue.name.as_str(), residue.resnum, residue.icode.as_str());
    let block = role.and_then(Role::block).unwrap_or(vocab::UNKNOWN_BLOCK);
    let taken = vocab::block_symbols().get(usize::from(block)).copied().unwrap_or("UNK");
    match kind {
        Repair::ForceFieldName => format!("{who} has a name of force fields; taken for {taken}"),
        Repair::ModifiedResidue => format!("{who} is a modified {taken}; taken for it"),
        Repair::ResidueByAtoms => format!("{who} has the atoms of {taken}; taken for it"),
        Repair::ResidueUnknown => format!("{who} is part of a polymer, and nothing tells of which kind; unknown"),
        Repair::WaterByAtoms => format!("{who} is a lone oxygen; taken for water"),
        Repair::FreeResidue => format!("{who} is bonded to no other as members of a polymer are; taken for a ligand"),
        Repair::ChainInterrupted => {
            format!(
                "{who} follows by number, and is too far away from the residue before it; it may begin another chain"
            )
        }
        Repair::CoarseGrained => format!("{who} is made of beads, not of atoms (Martini); left out"),
        _ => who,
    }
}

/// Decides on the residues of a structure.
struct Judge<'a> {
    structure: &'a Structure,
    /// An undecided base: block types as DNA and as RNA.
    open: Vec<(usize, u16, u16)>,
    /// Bonds are looked for only around residues whose name does not settle the matter.
    backbones: Option<Backbones>,
    decisions: Vec<(Repair, usize)>,
    /// No standard residue is written as ATOM, so HETATM says nothing.
    all_hetero: Option<bool>,
}

/// What the name and the atoms of a residue say of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By a name that everybody knows.
    Known(u16),
    /// By another name, for the reason of the repair.
    Taken(u16, Repair),
    /// Nothing.
    None,
}

impl<'a> Judge<'a> {
    fn new(structure: &'a Structure) -> Self {
        Self { structure, open: Vec::new(), backbones: None, decisions: Vec::new(), all_hetero: None }
    }

    fn roles(&mut self) -> Vec<Role> {
        let structure = self.structure;
        let mut roles: Vec<Role> =
            structure.residues.iter().enumerate().map(|(i, residue)| self.role(i, residue)).collect();
        self.free_runs(&mut roles);
        settle_open_bases(structure, &self.open, &mut roles);
        roles
    }

    /// Short runs of residues written as HETATM in a chain whose other members are ATOM, bonded to one another only and
    /// where the chain cannot be: a peptide or oligonucleotide under the chain's name, which is a ligand.
    fn free_runs(&mut self, roles: &mut [Role]) {
        /// Residues of a ligand.
        const LONGEST: usize = 20;
        let all = &self.structure.residues;
        let hetero = |at: usize| {
            all.get(at).zip(roles.get(at)).filter(|(r, role)| r.hetero && role.in_polymer()).map(|(r, _)| r)
        };
        let mut free = Vec::new();
        let mut at = 0;
        while at < all.len() {
            let Some(first) = hetero(at) else {
                at += 1;
                continue;
            };
            let length = (at..).take_while(|i| hetero(*i).is_some_and(|r| r.chain == first.chain)).count();
            let run = at..at + length;
            at = run.end;
            // One residue alone was decided on before.
            if (2..=LONGEST).contains(&length)
                && !self.all_hetero()
                && self.around(run.start, first, None).next().is_some()
            {
                let ends = [run.start, run.end - 1].into_iter().filter_map(|i| Some((i, all.get(i)?)));
                let fits = ends.clone().any(|(i, residue)| self.fits(i, residue, &run));
                let backbones = self.backbones.get_or_insert_with(|| Backbones::new(self.structure));
                if !fits && !run.clone().any(|i| backbones.reaches(i, &run)) {
                    free.extend(run);
                }
            }
        }
        self.decisions.retain(|(_, at)| free.binary_search(at).is_err());
        for at in free {
            if let Some(role) = roles.get_mut(at) {
                *role = Role::Small;
                self.decisions.push((Repair::FreeResidue, at));
            }
        }
    }

    fn role(&mut self, at: usize, residue: &Residue) -> Role {
        let structure = self.structure;
        let elements = structure.elements_of(residue);
        if is_water(structure, residue) {
            if vocab::name(residue.name.as_bytes()) == vocab::Name::Water {
                return Role::Water;
            }
            if self.hydroxyl(at, residue) {
                return Role::Small;
            }
            self.decisions.push((Repair::WaterByAtoms, at));
            return Role::Water;
        }
        if let [element] = elements {
            let name = residue.name.as_bytes();
            if *element != 0 && (*element == vocab::element(name) || vocab::ion(name) == Some(*element)) {
                return Role::Small;
            }
        }
        let kind = self.kind(at, residue);
        if kind != Kind::None && is_coarse(structure, residue) {
            self.decisions.push((Repair::CoarseGrained, at));
            return Role::Bead;
        }
        let (role, why) = match kind {
            Kind::Known(block) if self.belongs(at, residue, block, true) => {
                (Role::Polymer(block), (block == vocab::UNKNOWN_BLOCK).then_some(Repair::ResidueUnknown))
            }
            Kind::Taken(block, why) if self.belongs(at, residue, block, false) => (Role::Modified(block), Some(why)),
            Kind::None if self.linked(at, false) => (Role::Polymer(vocab::UNKNOWN_BLOCK), Some(Repair::ResidueUnknown)),
            Kind::Known(_) => (Role::Small, (!residue.hetero).then_some(Repair::FreeResidue)),
            _ => (Role::Small, None),
        };
        // The name of selenomethionine is as well known as the standard ones.
        let why = match role {
            Role::Polymer(_) if residue.name.as_bytes().eq_ignore_ascii_case(b"MSE") => Some(Repair::ModifiedResidue),
            _ => why,
        };
        self.decisions.extend(why.map(|why| (why, at)));
        role
    }

    /// The kind of a residue by its name, checked against its atoms, else by its atoms.
    fn kind(&mut self, at: usize, residue: &Residue) -> Kind {
        let structure = self.structure;
        let component = residue.name.as_bytes();
        let known = vocab::name(component);
        match known {
            vocab::Name::AminoAcid(block) => return Kind::Known(block),
            vocab::Name::Dna(_) | vocab::Name::Rna(_) | vocab::Name::Base { .. } => {
                // CYT is cytosine, and a cysteine without its hydrogen in Maestro.
                if let Some(block) = nucleotide(known, &Backbone::of(structure, residue), at, &mut self.open) {
                    let ribothymidine = is_thymine(known) && block == URIDINE;
                    return if ribothymidine {
                        Kind::Taken(block, Repair::ModifiedResidue)
                    } else {
                        Kind::Known(block)
                    };
                }
            }
            vocab::Name::Water | vocab::Name::Other => {}
        }
        let backbone = Backbone::of(structure, residue);
        let peptide = backbone.peptide();
        if !peptide && !backbone.sugar && backbone.p.is_none() {
            return Kind::None;
        }
        let atoms = || {
            let atoms = structure.names_of(residue).iter().zip(structure.elements_of(residue));
            atoms.filter(|(_, element)| **element != 1).map(|(name, _)| name.as_str())
        };
        let taken = |name, why| match name {
            vocab::Name::AminoAcid(block) => {
                let phosphate = |atom: &&str| matches!(*atom, "P" | "O1P" | "O2P" | "O3P");
                let own = atoms().filter(|atom| !phosphate(atom));
                let agrees = why != Repair::ForceFieldName || vocab::has_side_chain(block, own, false);
                (peptide && agrees).then_some(Kind::Taken(block, why))
            }
            // Without a sugar, or with none that can be told, only the standard names are believed.
            _ if !backbone.sugar => None,
            _ => nucleotide(name, &backbone, at, &mut Vec::new())
                .filter(|block| *block != vocab::UNKNOWN_BLOCK)
                .map(|block| Kind::Taken(block, why)),
        };
        if let Some(kind) = taken(vocab::force_field_name(component), Repair::ForceFieldName) {
            return kind;
        }
        let stated = structure.parents.iter().find(|(name, _)| name.as_bytes() == component);
        let parents = [stated.map(|(_, parent)| vocab::name(parent.as_bytes())), Some(vocab::parent(component))];
        if let Some(kind) = parents.into_iter().flatten().find_map(|name| taken(name, Repair::ModifiedResidue)) {
            return kind;
        }
        // A free one, as ATP, is a ligand under its own name.
        if let Some(kind) = taken(vocab::by_base(atoms()), Repair::ResidueByAtoms).filter(|_| self.linked(at, true)) {
            return kind;
        }
        // Unknown is what these names say.
        let unknown = [&b"UNK"[..], b"UNX", b"UNL"].iter().any(|name| name.eq_ignore_ascii_case(component));
        let by_atoms = if peptide && !unknown { vocab::by_side_chain(atoms()) } else { None };
        by_atoms.map_or(Kind::None, |block| Kind::Taken(block, Repair::ResidueByAtoms))
    }

    /// Is a residue of a known kind part of a polymer? `standard`: by a name that everybody knows.
    fn belongs(&mut self, at: usize, residue: &Residue, block: u16, standard: bool) -> bool {
        let ended = self.structure.names_of(residue).iter().any(|name| is_end(name.as_bytes(), block));
        // HETATM says of a standard residue that it is a ligand, of selenomethionine and other modified ones nothing.
        let common = standard && residue.name.as_bytes().eq_ignore_ascii_case(b"MSE");
        let nucleic = !vocab::AMINO_ACIDS.contains(&block);
        match (!residue.hetero || common || self.all_hetero(), ended) {
            // Pockets and gaps leave residues without a neighbour; a molecule of its own has both of its ends, or its
            // number and place fit to no neighbour.
            (true, false) => {
                self.beside(at, residue, nucleic)
                    || self.linked(at, true)
                    || (self.possible(at, residue, nucleic) && !self.loose(at, residue, nucleic))
            }
            (true, true) => self.linked(at, true) || self.fits(at, residue, &(at..at)),
            (false, _) => {
                self.linked(at, true) || (!standard && !nucleic && !ended && self.fits(at, residue, &(at..at)))
            }
        }
    }

    /// Is a lone oxygen bonded to the residue before or after it, as GLYCAM writes the end of a sugar (ROH)?
    fn hydroxyl(&self, at: usize, residue: &Residue) -> bool {
        /// Å; of oxygen with carbon or sulphur.
        const BOND: f64 = 1.7;
        let structure = self.structure;
        let own = structure.elements_of(residue).iter().position(|e| *e == 8);
        let Some(place) = own.and_then(|i| structure.positions_of(residue).get(i)) else { return false };
        let bonded = |other: &Residue| {
            let mut atoms = structure.elements_of(other).iter().zip(structure.positions_of(other));
            atoms.any(|(e, there)| matches!(e, 6 | 15 | 16) && distance_squared(*place, *there) < BOND * BOND)
        };
        let others = [at.checked_sub(1), at.checked_add(1)].into_iter().flatten();
        others.filter_map(|i| structure.residues.get(i)).any(bonded)
    }

    /// Are all standard residues of a file with more than a few written as HETATM?
    fn all_hetero(&mut self) -> bool {
        /// A free amino acid or two are no polymer.
        const FEW: usize = 4;
        *self.all_hetero.get_or_insert_with(|| {
            let standard =
                |r: &&Residue| !matches!(vocab::name(r.name.as_bytes()), vocab::Name::Water | vocab::Name::Other);
            let mut residues = self.structure.residues.iter().filter(standard);
            residues.clone().all(|r| r.hetero) && residues.nth(FEW).is_some()
        })
    }

    /// Is the residue before or after it in its chain, by number, as near as members of a polymer are?
    fn beside(&self, at: usize, residue: &Residue, nucleotide: bool) -> bool {
        /// Å; between the first atoms, which mostly are the nitrogen of an amino acid, or the phosphorus of a nucleotide.
        const STEPS: [f64; 2] = [4.5, 9.0];
        let Some(place) = self.structure.positions.get(residue.start) else { return false };
        let step = match self.structure.elements.get(residue.start) {
            Some(7) => STEPS[0],
            _ if self.structure.names_of(residue).iter().any(|n| n.as_bytes() == b"CA") => STEPS[0],
            _ => STEPS[1],
        };
        let near = |other: &Residue| {
            let there = self.structure.positions.get(other.start);
            other.chain == residue.chain
                && other.resnum.abs_diff(residue.resnum) <= 1
                && (!nucleotide || !matches!(vocab::name(other.name.as_bytes()), vocab::Name::AminoAcid(_)))
                && there.is_some_and(|there| distance_squared(*place, *there) < step * step)
        };
        let others = [at.checked_sub(1), at.checked_add(1)].into_iter().flatten();
        others.filter_map(|i| self.structure.residues.get(i)).any(near)
    }

    /// Can it be a member of its chain, all else that is missing or misplaced allowed for? Its number is near that of
    /// another member, and its place no farther than the chain between them would reach.
    fn possible(&self, at: usize, residue: &Residue, nucleic: bool) -> bool {
        /// Ligands are numbered from the next hundreds on.
        const FAR: u32 = 400;
        /// Å; for each residue, and for those that are badly placed.
        const REACH: [f64; 2] = [8.0, 12.0];
        let Some(place) = self.structure.positions.get(residue.start) else { return true };
        if self.around(at, residue, Some(nucleic)).next().is_none() {
            // Of a chain of which nothing else is there, nothing is known of an amino acid. A nucleotide is one, and so is
            // what stands alone among members of the other kind.
            return !nucleic && self.around(at, residue, None).next().is_none();
        }
        let near = |other: &Residue, farthest: u32| {
            let gap = other.resnum.abs_diff(residue.resnum);
            let reach = REACH[0] * f64::from(gap) + REACH[1];
            let there = self.structure.positions.get(other.start);
            gap <= farthest && there.is_some_and(|there| distance_squared(*place, *there) < reach * reach)
        };
        let others = || self.around(at, residue, Some(nucleic)).map(|(_, other)| other);
        // Ligands have no letters, and in pockets, which may hold distant pieces of a chain, they are numbered last.
        let member = || lettered(residue) || (others().all(|o| o.resnum > residue.resnum) && scattered(others()));
        others().any(|other| near(other, FAR)) || (member() && others().any(|other| near(other, u32::MAX)))
    }

    /// Residues of polymers in the chain of this one, the nearest in the file first; only nucleotides or only amino acids,
    /// if `kind` says so.
    fn around(&self, at: usize, residue: &Residue, kind: Option<bool>) -> impl Iterator<Item = (usize, &'a Residue)> {
        /// Residues of the file, on either side; a chain has its members near one another.
        const WINDOW: usize = 1000;
        let hetero = self.all_hetero == Some(true);
        let polymer = move |other: &Residue| {
            let known = !matches!(vocab::name(other.name.as_bytes()), vocab::Name::Water | vocab::Name::Other);
            known && (hetero || !other.hetero) && kind.is_none_or(|kind| nucleic(other) == kind)
        };
        let (all, chain) = (&self.structure.residues, residue.chain);
        let before = (at.saturating_sub(WINDOW)..at).rev();
        let others = before.chain(at + 1..(at + WINDOW).min(all.len()));
        others.filter_map(|i| Some((i, all.get(i)?))).filter(move |(_, r)| r.chain == chain && polymer(r))
    }

    /// Is it numbered before the first or after the last member of a chain, or between two that one residue at most fits
    /// in between, all of them with the ends that would be bonded, and too far from it for any bond? What has members on
    /// both sides, farther off or elsewhere, stands beside a gap, and insertion codes do not tell what is missing.
    fn loose(&mut self, at: usize, residue: &Residue, nucleic: bool) -> bool {
        /// Å; no bond is as long, however badly it was modelled; no gap that a file numbered anew hides at the end of a chain.
        const FAR: [f64; 2] = [4.0, 13.0];
        let own = Backbone::of(self.structure, residue);
        /// Å; from the carbonyl carbon to the nitrogen of the residue after the next, and likewise from O3' to P.
        const SPAN: [f64; 2] = [6.5, 10.0];
        let within =
            |a: Option<[f64; 3]>, b: Option<[f64; 3]>, reach: f64| Some(distance_squared(a?, b?) < reach * reach);
        let apart = |(a, b): (Option<[f64; 3]>, Option<[f64; 3]>)| within(a, b, FAR[0]) == Some(false);
        let beyond = |(a, b): (Option<[f64; 3]>, Option<[f64; 3]>)| within(a, b, FAR[1]) == Some(false);
        let step = |other: &Residue| i64::from(residue.resnum) - i64::from(other.resnum);
        let others = || self.around(at, residue, Some(nucleic));
        if lettered(residue) || others().any(|(_, other)| step(other).abs() <= 1 && lettered(other)) {
            return false;
        }
        let next = |by: i64| others().find(|(_, other)| step(other) == by);
        let inside =
            |by: i64| others().any(|(_, other)| step(other) * by < 0) || scattered(others().map(|(_, other)| other));
        let (i, far) = match (next(1), next(-1)) {
            (Some(_), None) if inside(1) => return false,
            (None, Some(_)) if inside(-1) => return false,
            (Some((i, before)), None) => {
                let other = Backbone::of(self.structure, before);
                (i, beyond((own.n, other.c)) || beyond((own.p, other.o3)))
            }
            (None, Some((i, after))) => {
                let other = Backbone::of(self.structure, after);
                (i, beyond((own.c, other.n)) || beyond((own.o3, other.p)))
            }
            (Some((_, before)), Some((_, after))) => {
                let [one, other] = [before, after].map(|r| Backbone::of(self.structure, r));
                let peptide = apart((own.n, one.c)) && apart((own.c, other.n));
                let strand = apart((own.p, one.o3)) && apart((own.o3, other.p));
                return peptide && within(one.c, other.n, SPAN[0]) == Some(true)
                    || strand && within(one.o3, other.p, SPAN[1]) == Some(true);
            }
            (None, None) => return false,
        };
        far && self.linked(i, true)
    }

    /// Could the missing residues between this one and the nearest before or after it in its chain, those of a run left
    /// out, be there?
    fn fits(&self, at: usize, residue: &Residue, run: &Range<usize>) -> bool {
        /// Longest gap that is believed.
        const GAP: i64 = 100;
        /// Å; of several residues, both ends of which are badly placed.
        const SLACK: f64 = 3.0;
        let slack = if run.is_empty() { 0.0 } else { SLACK };
        let middle = |residue: &Residue| Backbone::of(self.structure, residue).middle();
        let Some((place, step)) = middle(residue) else { return false };
        let outside = |i: Option<usize>| i.filter(|i| !run.contains(i)).and_then(|i| self.structure.residues.get(i));
        let (before, after) = (outside(at.checked_sub(1)), outside(at.checked_add(1)));
        let fitting = |(other, sign): (&Residue, i64)| {
            let gap = sign * (i64::from(residue.resnum) - i64::from(other.resnum));
            let near = middle(other).is_some_and(|(there, _)| {
                let reach = step * gap as f64 + slack;
                distance_squared(place, there) < reach * reach
            });
            other.chain == residue.chain && (1..=GAP).contains(&gap) && near
        };
        before.map(|r| (r, 1)).into_iter().chain(after.map(|r| (r, -1))).any(fitting)
    }

    /// Is the residue bonded to another one as a member of a polymer is? `known`: its kind is.
    fn linked(&mut self, at: usize, known: bool) -> bool {
        let structure = self.structure;
        let Some(residue) = structure.residues.get(at) else { return false };
        let own = Backbone::of(structure, residue);
        // Nearly always it is to the one before or after.
        let neighbours = [at.checked_sub(1), at.checked_add(1)];
        let neighbours = neighbours.into_iter().flatten().filter_map(|i| structure.residues.get(i));
        let trace = known || !residue.hetero;
        for other in neighbours.filter(|other| other.chain == residue.chain) {
            let other = Backbone::of(structure, other);
            if own.linked(&other) || (trace && own.trace_linked(&other)) {
                return true;
            }
        }
        let backbones = self.backbones.get_or_insert_with(|| Backbones::new(structure));
        backbones.linked(structure, at, &own, known)
    }
}

/// Has it an insertion code?
fn lettered(residue: &Residue) -> bool {
    !residue.icode.as_str().is_empty()
}

/// Are members of a chain numbered in many short pieces, as those of a pocket that was cut out of it?
fn scattered<'a>(members: impl Iterator<Item = &'a Residue>) -> bool {
    /// Residues of a piece, in the mean.
    const SHORT: usize = 10;
    let mut numbers: Vec<i32> = members.map(|residue| residue.resnum).collect();
    numbers.sort_unstable();
    let gaps = numbers.windows(2).filter(|pair| matches!(pair, [one, other] if other.abs_diff(*one) > 1)).count();
    gaps > 0 && numbers.len() < SHORT * (gaps + 1)
}

/// Where a chain goes on by number, and is too far away for what may be missing between: long pieces of polymers on both
/// sides, which may be chains of their own.
fn interrupted(structure: &Structure, roles: &[Role]) -> Vec<usize> {
    /// Residues of a piece.
    const LONG: usize = 8;
    /// Å; for residues that are badly placed.
    const SLACK: f64 = 6.0;
    /// Å; of members of polymers that follow one another, the first atoms are nearer.
    const NEAR: f64 = 10.0;
    let apart = |one: &Residue, other: &Residue| {
        let first = |r: &Residue| structure.positions.get(r.start).copied().unwrap_or_default();
        if other.resnum <= one.resnum || distance_squared(first(one), first(other)) < NEAR * NEAR {
            return false;
        }
        let middle = |r: &Residue| Backbone::of(structure, r).middle();
        let (Some((here, step)), Some((there, _))) = (middle(one), middle(other)) else { return false };
        let reach = step * f64::from(other.resnum.abs_diff(one.resnum)) + SLACK;
        distance_squared(here, there) > reach * reach
    };
    let mut found = Vec::new();
    let (mut before, mut members, mut pending): (Option<&Residue>, usize, Option<usize>) = (None, 0, None);
    for (at, (residue, _)) in structure.residues.iter().zip(roles).enumerate().filter(|(_, (_, r))| r.in_polymer()) {
        match before.filter(|before| before.chain == residue.chain) {
            Some(before) if apart(before, residue) => {
                pending = Some(at).filter(|_| members >= LONG);
                members = 0;
            }
            Some(_) => {}
            None => (pending, members) = (None, 0),
        }
        members += 1;
        if members == LONG {
            found.extend(pending.take());
        }
        before = Some(residue);
    }
    found
}

/// Water is a lone oxygen, with hydrogens, virtual sites or none. Where there is no telling of residues, it is many of
/// them under a name for water.
fn is_water(structure: &Structure, residue: &Residue) -> bool {
    let elements = structure.elements_of(residue);
    match elements {
        [8] => {}
        _ => {
            // No water has as many sites; nearly all residues are told apart here.
            let named = || vocab::name(residue.name.as_bytes()) == vocab::Name::Water;
            let oxygens = elements.iter().filter(|e| **e == 8).count();
            if elements.iter().any(|e| !matches!(e, 0 | 1 | 8)) || (oxygens != 1 && !named()) {
                return false;
            }
        }
    }
    // An incomplete residue of a polymer may have left an oxygen alone, and the dictionary has oxide and hydroxide.
    match vocab::name(residue.name.as_bytes()) {
        vocab::Name::Water => true,
        vocab::Name::Other => !matches!(residue.name.as_bytes(), b"O" | b"OH"),
        _ => false,
    }
}

/// Beads of Martini: BB and SC1 instead of atoms.
fn is_coarse(structure: &Structure, residue: &Residue) -> bool {
    let bead =
        |name: &[u8]| matches!(name, b"BB" | b"BB1" | b"BB2" | b"BB3" | b"SC1" | b"SC2" | b"SC3" | b"SC4" | b"SC5");
    structure.names_of(residue).iter().all(|name| bead(name.as_bytes()))
}

/// Has it the name of a nucleotide?
fn nucleic(residue: &Residue) -> bool {
    matches!(vocab::name(residue.name.as_bytes()), vocab::Name::Dna(_) | vocab::Name::Rna(_) | vocab::Name::Base { .. })
}

/// Does this atom end a chain?
fn is_end(name: &[u8], block: u16) -> bool {
    if vocab::AMINO_ACIDS.contains(&block) {
        matches!(name, b"OXT" | b"OT2" | b"OC2" | b"O''")
    } else {
        matches!(name, b"OP3" | b"O3P")
    }
}

/// Block type of uridine.
const URIDINE: u16 = 31;

/// Is it a name of thymidine or its base?
fn is_thymine(name: vocab::Name) -> bool {
    matches!(name, vocab::Name::Dna(27) | vocab::Name::Base { dna: 27, .. })
}

/// Block type of a nucleotide by name and sugar. `None` if it is none; undecided ones are noted in `open`.
fn nucleotide(name: vocab::Name, backbone: &Backbone, at: usize, open: &mut Vec<(usize, u16, u16)>) -> Option<u16> {
    match name {
        // A ribose is positive evidence; a missing oxygen is not. With it thymidine is a methylated uridine.
        name if is_thymine(name) && backbone.ribose => Some(URIDINE),
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
        let of = |r: &Residue| if is_water(structure, r) { Backbone::default() } else { Backbone::of(structure, r) };
        let all: Vec<Backbone> = structure.residues.iter().map(of).collect();
        let ends = |b: &Backbone| [b.n, b.c, b.p, b.o3, b.ca].into_iter().flatten().collect::<Vec<_>>();
        let (owners, points): (Vec<usize>, Vec<[f64; 3]>) =
            all.iter().enumerate().flat_map(|(i, b)| ends(b).into_iter().map(move |point| (i, point))).unzip();
        Self { cells: Cells::new(&points, Backbone::STEP), all, owners }
    }

    /// Is a residue of a run bonded, as members of a polymer are, to one outside of it?
    fn reaches(&self, at: usize, run: &Range<usize>) -> bool {
        let Some(own) = self.all.get(at) else { return false };
        let mut found = false;
        for end in [own.n, own.c, own.p, own.o3].into_iter().flatten() {
            self.cells.near(end, Backbone::BOND, |point| {
                let other = self.owners.get(point).filter(|i| !run.contains(i)).and_then(|i| self.all.get(*i));
                found |= other.is_some_and(|other| own.linked(other));
            });
        }
        found
    }

    /// Does a chain of amino acids begin or end with this backbone? `end` is its free end, `bonded` the other one.
    fn ends(&self, backbone: &Backbone, end: Option<[f64; 3]>, bonded: Option<[f64; 3]>) -> bool {
        backbone.peptide() && self.free(end) && !self.free(bonded)
    }

    /// Is this end of a backbone bonded to no other backbone?
    fn free(&self, end: Option<[f64; 3]>) -> bool {
        let Some(end) = end else { return false };
        let mut free = true;
        self.cells.near(end, Backbone::BOND, |point| {
            let other = self.owners.get(point).and_then(|i| self.all.get(*i));
            let near = |atom: Option<[f64; 3]>| {
                atom.is_some_and(|atom| {
                    let squared = distance_squared(end, atom);
                    squared > 0.0 && squared < Backbone::NAMELESS * Backbone::NAMELESS
                })
            };
            // Its own alpha carbon, and its own other end, are no neighbours.
            free &= !other.is_some_and(|o| o.n != Some(end) && o.c != Some(end) && (near(o.n) || near(o.c)));
        });
        free
    }

    /// Bonded, as a member of a polymer is, to another residue: a known one to any, another one to those of its chain.
    fn linked(&self, structure: &Structure, at: usize, own: &Backbone, known: bool) -> bool {
        let Some(residue) = structure.residues.get(at) else { return false };
        let trace = known || !residue.hetero;
        if self.stated(structure, residue, own, known) {
            return true;
        }
        let mut found = false;
        let mut look = |place: [f64; 3], radius: f64, bonded: &dyn Fn(&Backbone) -> bool| {
            self.cells.near(place, radius, |point| {
                let Some((i, other)) = self.owners.get(point).and_then(|i| Some((*i, self.all.get(*i)?))) else {
                    return;
                };
                let near = || structure.residues.get(i).is_some_and(|r| known || r.chain == residue.chain);
                found = found || (i != at && bonded(other) && near());
            });
        };
        for end in [own.n, own.c, own.p, own.o3].into_iter().flatten() {
            look(end, Backbone::BOND, &|other| own.linked(other));
        }
        if let Some(ca) = own.ca.filter(|_| trace) {
            look(ca, Backbone::STEP, &|other| own.trace_linked(other));
        }
        if known {
            return found;
        }
        // Modified residues may have names of their own for the atoms of their backbone. They are bonded to the free end of
        // a neighbour.
        for (place, element) in structure.positions_of(residue).iter().zip(structure.elements_of(residue)) {
            let near = |other: Option<[f64; 3]>| {
                other.is_some_and(|other| {
                    let squared = distance_squared(*place, other);
                    squared > Backbone::OVERLAP * Backbone::OVERLAP && squared < Backbone::NAMELESS * Backbone::NAMELESS
                })
            };
            match element {
                6 => look(*place, Backbone::NAMELESS, &|other| near(other.n) && self.ends(other, other.n, other.c)),
                7 => look(*place, Backbone::NAMELESS, &|other| near(other.c) && self.ends(other, other.c, other.n)),
                _ => {}
            }
        }
        found
    }

    /// The same by the bonds that the file states, which may be stretched.
    fn stated(&self, structure: &Structure, residue: &Residue, own: &Backbone, known: bool) -> bool {
        structure.bonds_of(residue).iter().any(|&(a, b)| {
            let at = structure.residue_of(b);
            let (Some(other), Some(there)) = (self.all.get(at), structure.residues.get(at)) else { return false };
            let [from, to] = [a, b].map(|atom| structure.positions.get(atom).copied());
            let joined = |one: Option<[f64; 3]>, end: Option<[f64; 3]>| one.is_some() && one == from && end == to;
            let named =
                joined(own.n, other.c) || joined(own.c, other.n) || joined(own.p, other.o3) || joined(own.o3, other.p);
            let nameless = || match structure.elements.get(a) {
                Some(6) => other.n == to && self.ends(other, other.n, other.c),
                Some(7) => other.c == to && self.ends(other, other.c, other.n),
                _ => false,
            };
            (known || there.chain == residue.chain) && (named || !known && nameless())
        })
    }
}

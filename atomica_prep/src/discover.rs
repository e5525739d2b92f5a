//! Interfaces without an index: which files there are, and in each which chains, ligands and ions meet.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::index::{chain_text, Ids, Index, Row};
use crate::interface::{
    distance_squared, heavy, ligand_modality, meet, polymer_modality, polymer_side, spheres, Polymer, Role, Rule,
    Subject,
};
use crate::neighbors::Cells;
use crate::read::{is_structure, stem_of};
use crate::structure::Structure;
use crate::vocab;

/// Name of the index of what was found.
pub const FOUND: &str = "discovered.csv";
/// Name of the list of what was left out.
pub const LEFT_OUT: &str = "left_out.csv";

/// Å; residues are in contact when heavy atoms are closer.
pub const CONTACT: f64 = 4.5;
/// Pairs of residues in contact that make an interface of two polymers.
pub const RESIDUE_PAIRS: usize = 5;
/// Watson-Crick pairs that make one partner of two strands.
const BASE_PAIRS: usize = 3;
/// Å; closer small molecules are bonded or stand for one another.
const BONDED: f64 = 2.0;

/// Components of crystallisation and purification: salts, buffers, alcohols, polyethers, reducing agents,
/// detergents; unknown atoms; the caps of peptides.
const ADDITIVES: [&str; 83] = [
    "SO4", "PO4", "CL", "GOL", "EDO", "ACT", "BME", "DMS", "PEG", "MPD", "NO3", "IOD", "BR", "FMT", "TRS", "EPE",
    "MES", "CIT", "UNX", "UNL", "ACE", "NH2", // and their relatives:
    "1PE", "1PG", "2PE", "12P", "15P", "33O", "7PE", "P33", "P6G", "PE3", "PE4", "PE5", "PE8", "PG0", "PG4", "PG6",
    "PGE", "XPE", "PEU", "MRD", "IPA", "EOH", "MOH", "POL", "PGO", "PGR", "BU1", "BU3", "DIO", "DMF", "ACY", "ACN",
    "FLC", "TAR", "TLA", "MLI", "MLA", "CAC", "IMD", "BTB", "B3P", "NHE", "CXS", "SCN", "AZI", "NH4", "SO3", "SUL",
    "PO3", "DTT", "DTV", "HED", "SGM", "TCE", "BOG", "LDA", "LMT", "C8E", "SDS", "UNK", "XE",
];

const HEADER: [&str; 11] = [
    "id",
    "path",
    "chain1",
    "chain2",
    "lig_code",
    "lig_resnum",
    "lig_icode",
    "lig_code1",
    "lig_resnum1",
    "lig_icode1",
    "modality",
];
const LEFT_OUT_HEADER: [&str; 5] = ["path", "chain", "component", "number", "why"];

/// A structure file whose interfaces are to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureFile {
    /// Its path from the root, which also names it in the index.
    pub path: String,
    /// What the ids of its complexes begin with.
    pub stem: String,
}

/// Structure files in a fixed order, with unique stems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The files.
    pub files: Vec<StructureFile>,
    /// Files of other kinds in the folders.
    pub others: u64,
}

/// Lists the structure files among the paths and in the folders among them, which are searched to the bottom; links
/// to folders are not followed.
///
/// # Errors
/// A path is not there or no structure file, a folder cannot be read, a name is not UTF-8 text.
pub fn list(paths: &[PathBuf]) -> Result<Files> {
    let wrong = |path: &Path, reason: &str| Error::Usage { message: format!("{}: {reason}", path.display()) };
    let mut others = 0;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut add = |path: &Path, base: &Path| -> Result<()> {
        let absolute = std::path::absolute(path).map_err(|e| wrong(path, &e.to_string()))?;
        let name = absolute.to_str().filter(|n| !n.chars().any(char::is_control));
        let name = name.ok_or_else(|| wrong(path, "its name cannot be written into an index; rename it"))?;
        let inner = path.strip_prefix(base).ok().and_then(Path::to_str).filter(|p| !p.is_empty());
        let inner = inner.or_else(|| path.file_name()?.to_str()).unwrap_or(name);
        found.push((name.to_owned(), inner.to_owned()));
        Ok(())
    };
    for path in paths {
        if !path.is_dir() {
            if !is_structure(path) {
                return Err(wrong(path, "is no folder and no .pdb, .ent, .cif, .mmcif or .bcif file"));
            }
            add(path, path)?;
            continue;
        }
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            let unreadable = |e: std::io::Error| wrong(&folder, &e.to_string());
            let mut entries: Vec<std::fs::DirEntry> =
                std::fs::read_dir(&folder).map_err(unreadable)?.collect::<std::io::Result<_>>().map_err(unreadable)?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let kind = entry.file_type().map_err(unreadable)?;
                let place = entry.path();
                // macOS leaves a file ._x beside x on disks of other systems.
                let aside = place.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"._"));
                if kind.is_dir() {
                    folders.push(place);
                } else if !aside && is_structure(&place) && place.is_file() {
                    add(&place, path)?;
                } else {
                    others += 1;
                }
            }
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    Ok(Files { files: named(found), others })
}

/// Gives every file the shortest stem with which no two ids can be equal: its name without extension, its path in
/// the folder, its whole path.
fn named(found: Vec<(String, String)>) -> Vec<StructureFile> {
    let mut stems: Vec<String> = found.iter().map(|(_, inner)| stem_of(inner).to_owned()).collect();
    for longer in [true, false] {
        let mut times: HashMap<&str, usize> = HashMap::new();
        for stem in &stems {
            *times.entry(stem).or_default() += 1;
        }
        // The chains follow after an underscore, so `1abc` and `1abc_A` are in each other's way.
        let clash = |stem: &str| {
            times.get(stem).is_some_and(|n| *n > 1)
                || stem.match_indices('_').any(|(at, _)| stem.get(..at).is_some_and(|head| times.contains_key(head)))
        };
        let clashes: Vec<bool> = stems.iter().map(|stem| clash(stem)).collect();
        for ((stem, (path, inner)), _) in stems.iter_mut().zip(&found).zip(clashes).filter(|(_, clashes)| *clashes) {
            stem.clone_from(if longer { inner } else { path });
        }
    }
    found.into_iter().zip(stems).map(|((path, _), stem)| StructureFile { path, stem }).collect()
}

/// First line of the index of what was found.
pub fn header() -> Vec<u8> {
    (HEADER.join(",") + "\n").into_bytes()
}

/// First line of the list of what was left out.
pub fn left_out_header() -> Vec<u8> {
    (LEFT_OUT_HEADER.join(",") + "\n").into_bytes()
}

/// What was found in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Lines of the index, without its header.
    pub text: Vec<u8>,
    /// How many.
    pub lines: u64,
    /// Lines of the list of what was left out.
    pub left_out: Vec<u8>,
    /// How many of them are small molecules or ions.
    pub molecules_left_out: u64,
}

impl Found {
    /// The rows, read as from the index that they are written to.
    ///
    /// # Errors
    /// Never for what [`find`] writes; kept so that no caller has to promise it.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let text = [header(), self.text.clone()].concat();
        let index = Index::parse(text, FOUND.to_owned(), PathBuf::new())?;
        let mut ids = Ids::default();
        let rows = index.rows(&mut ids).collect::<std::result::Result<Vec<Row>, _>>();
        rows.map_err(|bad| bad.error())
    }
}

/// Writes what was found as CSV.
struct Lines {
    found: csv::Writer<Vec<u8>>,
    left_out: csv::Writer<Vec<u8>>,
    counts: Found,
    path: String,
    stem: String,
}

impl Lines {
    fn new(file: &StructureFile) -> Self {
        Self {
            found: csv::Writer::from_writer(Vec::new()),
            left_out: csv::Writer::from_writer(Vec::new()),
            counts: Found::default(),
            path: file.path.clone(),
            stem: file.stem.clone(),
        }
    }

    fn complex(&mut self, id: &str, chains: [&str; 2], ligands: [[&str; 3]; 2], modality: i8) {
        let id = format!("{}_{id}", self.stem);
        let kind = usize::try_from(modality).ok().and_then(|i| vocab::MODALITIES.get(i)).copied().unwrap_or("");
        let [[code, number, icode], [code1, number1, icode1]] = ligands;
        let [one, two] = chains;
        let fields = [id.as_str(), &self.path, one, two, code, number, icode, code1, number1, icode1, kind];
        // Writing to memory does not fail.
        let _ = self.found.write_record(fields);
        self.counts.lines += 1;
    }

    fn leave_out(&mut self, chain: &str, component: &str, number: &str, why: &str) {
        let _ = self.left_out.write_record([self.path.as_str(), chain, component, number, why]);
        self.counts.molecules_left_out += u64::from(!component.is_empty());
    }

    fn finish(mut self) -> Found {
        if self.counts.lines == 0 {
            self.leave_out("", "", "", "no interface in this file");
        }
        let text = self.found.into_inner().unwrap_or_default();
        let left_out = self.left_out.into_inner().unwrap_or_default();
        Found { text, left_out, ..self.counts }
    }
}

/// What is near what in a structure: chains by index, small molecules by residue.
#[derive(Debug, Default)]
struct Near {
    /// Residue pairs in contact of two chains, the lower one first.
    chains: BTreeMap<(usize, usize), usize>,
    /// Chains in contact with a small molecule.
    around: BTreeMap<usize, BTreeSet<usize>>,
    /// Pairs of small molecules in contact, and whether they are bonded or overlap.
    molecules: BTreeMap<(usize, usize), bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Chain(usize),
    Molecule(usize),
}

impl Near {
    fn of(subject: &Subject, molecules: &[usize]) -> Self {
        /// Å; about the size of a residue.
        const CELL: f64 = 8.0;
        let structure = subject.structure();
        let all: Vec<usize> = (0..structure.chains.len()).collect();
        let mut side = polymer_side(subject, &all, Rule::AllPairs, None);
        let mut owners: Vec<Owner> = Vec::with_capacity(side.blocks.len() + molecules.len());
        owners
            .extend(side.blocks.iter().map(|b| Owner::Chain(structure.residues.get(b.residue).map_or(0, |r| r.chain))));
        for &at in molecules {
            if let Some(residue) = structure.residues.get(at) {
                let atoms = (residue.start..residue.end).filter(|a| heavy(structure, *a));
                side.push(structure, vocab::UNKNOWN_BLOCK, at, atoms);
                owners.push(Owner::Molecule(at));
            }
        }
        let spheres = spheres(&side);
        let centers: Vec<[f64; 3]> = spheres.iter().map(|s| s.0).collect();
        let widest = spheres.iter().map(|s| s.1).fold(0.0, f64::max);
        let cells = Cells::new(&centers, CELL);
        let mut near = Self::default();
        let blocks = side.blocks.iter().zip(&owners).zip(&spheres).enumerate();
        for (i, ((block, owner), (center, radius))) in blocks {
            let reach = CONTACT + radius + 1e-9;
            cells.near(*center, reach + widest, |j| {
                let (Some(other), Some(other_owner), Some((place, r))) =
                    (side.blocks.get(j), owners.get(j), spheres.get(j))
                else {
                    return;
                };
                let limit = reach + r;
                if j <= i || owner == other_owner || distance_squared(*center, *place) > limit * limit {
                    return;
                }
                let (a, b, sphere) = (side.positions_of(block), side.positions_of(other), (*place, *r));
                if meet(a, b, sphere, CONTACT, Rule::AllPairs) {
                    near.note(*owner, *other_owner, || meet(a, b, sphere, BONDED, Rule::AllPairs));
                }
            });
        }
        near
    }

    fn note(&mut self, a: Owner, b: Owner, bonded: impl Fn() -> bool) {
        match (a, b) {
            (Owner::Chain(a), Owner::Chain(b)) => *self.chains.entry((a.min(b), a.max(b))).or_default() += 1,
            (Owner::Chain(chain), Owner::Molecule(at)) | (Owner::Molecule(at), Owner::Chain(chain)) => {
                self.around.entry(at).or_default().insert(chain);
            }
            (Owner::Molecule(a), Owner::Molecule(b)) => {
                self.molecules.insert((a.min(b), a.max(b)), bonded());
            }
        }
    }
}

/// Finds the interfaces of a structure.
///
/// Protein chains make pairs; strands of DNA or RNA that are paired with one another make one partner, with all
/// protein chains around it as the other. A small molecule or ion makes a complex with the protein chains around it,
/// and another with the nucleic acid; two molecules of several atoms make one with each other.
pub fn find(subject: &Subject, file: &StructureFile, keep_additives: bool) -> Found {
    let structure = subject.structure();
    let mut lines = Lines::new(file);
    let mut molecules = Vec::new();
    let residues = structure.residues.iter().zip(subject.roles()).enumerate();
    for (at, (residue, _)) in residues.filter(|(_, (_, role))| **role == Role::Small) {
        let additive = ADDITIVES.iter().any(|a| a.as_bytes().eq_ignore_ascii_case(residue.name.as_bytes()));
        if !(residue.start..residue.end).any(|a| heavy(structure, a)) {
            lines.leave_out_molecule(structure, at, "has no atom heavier than hydrogen");
        } else if additive && !keep_additives {
            lines.leave_out_molecule(structure, at, "additive of crystallisation");
        } else {
            molecules.push(at);
        }
    }
    let near = Near::of(subject, &molecules);
    let kinds: Vec<Option<Polymer>> = (0..structure.chains.len())
        .map(|chain| {
            let side = polymer_side(subject, &[chain], Rule::AllPairs, None);
            (!side.blocks.is_empty()).then(|| Polymer::of(&side))
        })
        .collect();
    let context = Context { subject, near: &near, kinds: &kinds };
    for ((a, b), pairs) in &near.chains {
        if *pairs >= RESIDUE_PAIRS && context.is_protein(*a) && context.is_protein(*b) {
            context.pair(&mut lines, &[*a], &[*b]);
        }
    }
    context.nucleic_acids(&mut lines);
    context.small_molecules(&mut lines, &molecules);
    lines.finish()
}

impl Lines {
    fn leave_out_molecule(&mut self, structure: &Structure, at: usize, why: &str) {
        if let Some(residue) = structure.residues.get(at) {
            let chain = structure.chains.get(residue.chain).map_or("", String::as_str);
            let number = format!("{}{}", residue.resnum, residue.icode.as_str());
            self.leave_out(chain, residue.name.as_str(), &number, why);
        }
    }
}

/// A structure and what is known of its chains.
struct Context<'a> {
    subject: &'a Subject,
    near: &'a Near,
    kinds: &'a [Option<Polymer>],
}

impl Context<'_> {
    fn is_protein(&self, chain: usize) -> bool {
        self.kinds.get(chain) == Some(&Some(Polymer::Protein))
    }

    fn is_nucleic(&self, chain: usize) -> bool {
        matches!(self.kinds.get(chain), Some(Some(Polymer::Dna | Polymer::Rna)))
    }

    fn names(&self, chains: &[usize], joint: &str) -> String {
        let known = &self.subject.structure().chains;
        let name = |c: &usize| chain_text(known.get(*c).map_or("", String::as_str));
        chains.iter().map(name).collect::<Vec<_>>().join(joint)
    }

    /// A line break in a chain's id would end the line of the index.
    fn can_be_written(&self, chains: &[usize], lines: &mut Lines) -> bool {
        let names = self.names(chains, "");
        if names.chars().any(char::is_control) {
            lines.leave_out(&names, "", "", "an index cannot hold the name of this chain");
            return false;
        }
        true
    }

    fn pair(&self, lines: &mut Lines, first: &[usize], second: &[usize]) {
        // A chain without a name can stand first only.
        let (first, second) = if self.names(second, "_").is_empty() { (second, first) } else { (first, second) };
        if !self.can_be_written(&[first, second].concat(), lines) {
            return;
        }
        let side = |chains: &[usize]| polymer_side(self.subject, chains, Rule::AllPairs, None);
        let modality = polymer_modality(&side(first), &side(second));
        let id = format!("{}_{}", self.names(first, "-"), self.names(second, "-"));
        lines.complex(&id, [&self.names(first, "_"), &self.names(second, "_")], [[""; 3]; 2], modality);
    }

    /// Groups of paired strands with the protein chains around them.
    fn nucleic_acids(&self, lines: &mut Lines) {
        let groups = self.strands();
        let members = groups.iter().enumerate().flat_map(|(g, group)| group.iter().map(move |chain| (*chain, g)));
        let group_of: HashMap<usize, usize> = members.collect();
        let mut pairs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for ((a, b), count) in &self.near.chains {
            for (protein, strand) in [(a, b), (b, a)] {
                if let Some(group) = group_of.get(strand).filter(|_| self.is_protein(*protein)) {
                    *pairs.entry((*group, *protein)).or_default() += count;
                }
            }
        }
        for (g, group) in groups.iter().enumerate() {
            let around = pairs.range((g, 0)..(g + 1, 0)).filter(|(_, pairs)| **pairs >= RESIDUE_PAIRS);
            let proteins: Vec<usize> = around.map(|((_, protein), _)| *protein).collect();
            if !proteins.is_empty() {
                self.pair(lines, &proteins, group);
            }
        }
    }

    /// Nucleic acid chains, those that are paired with one another together.
    fn strands(&self) -> Vec<Vec<usize>> {
        /// Å; N1 of a purine and N3 of its pyrimidine are 2.8 to 3.0 apart.
        const PAIRED: f64 = 3.5;
        let mut pairs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let edges = self.pairing_atoms();
        let cells = Cells::new(&edges.iter().map(|(.., place)| *place).collect::<Vec<_>>(), PAIRED);
        for (i, (a, purine, place)) in edges.iter().enumerate() {
            cells.near(*place, PAIRED, |j| {
                let Some((b, other_purine, other)) = edges.get(j).filter(|_| j > i) else { return };
                if a != b && purine != other_purine && distance_squared(*place, *other) < PAIRED * PAIRED {
                    *pairs.entry((*a.min(b), *a.max(b))).or_default() += 1;
                }
            });
        }
        // Chains point to the lowest of their group, once all that are paired are joined.
        let mut lowest: Vec<usize> = (0..self.kinds.len()).collect();
        let find = |lowest: &mut [usize], mut chain: usize| {
            while let Some(next) = lowest.get(chain).copied().filter(|next| *next != chain) {
                let after = lowest.get(next).copied().unwrap_or(next);
                if let Some(slot) = lowest.get_mut(chain) {
                    *slot = after;
                }
                chain = next;
            }
            chain
        };
        for ((a, b), _) in pairs.iter().filter(|(_, pairs)| **pairs >= BASE_PAIRS) {
            let (a, b) = (find(&mut lowest, *a), find(&mut lowest, *b));
            if let Some(slot) = lowest.get_mut(a.max(b)) {
                *slot = a.min(b);
            }
        }
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for chain in (0..self.kinds.len()).filter(|c| self.is_nucleic(*c)) {
            groups.entry(find(&mut lowest, chain)).or_default().push(chain);
        }
        groups.into_values().collect()
    }

    /// Chain, whether it is a purine, and place of the atom by which a base pairs.
    fn pairing_atoms(&self) -> Vec<(usize, bool, [f64; 3])> {
        let structure = self.subject.structure();
        let residues = structure.residues.iter().zip(self.subject.roles());
        residues
            .filter(|(r, role)| matches!(role, Role::Polymer(_)) && self.is_nucleic(r.chain))
            .filter_map(|(residue, _)| {
                let names = structure.names_of(residue);
                let purine = names.iter().any(|n| n.as_bytes() == b"N9");
                let wanted: &[u8] = if purine { b"N1" } else { b"N3" };
                let at = names.iter().position(|n| n.as_bytes() == wanted)?;
                Some((residue.chain, purine, *structure.positions_of(residue).get(at)?))
            })
            .collect()
    }

    fn small_molecules(&self, lines: &mut Lines, molecules: &[usize]) {
        let mut seen = BTreeSet::new();
        for &at in molecules {
            let Some(name) = self.molecule(at) else { continue };
            // The index cannot tell copies of one number apart; the build makes a complex of each.
            if !seen.insert(name.id.clone()) || !self.can_be_written(&[name.chain], lines) {
                continue;
            }
            let around: Vec<usize> = self.near.around.get(&at).into_iter().flatten().copied().collect();
            let (proteins, others): (Vec<usize>, Vec<usize>) = around.iter().partition(|c| self.is_protein(**c));
            let both = !proteins.is_empty() && !others.is_empty();
            for (chains, suffix) in [(&proteins, ""), (&others, if both { "_na" } else { "" })] {
                if chains.is_empty() || !self.can_be_written(chains, lines) {
                    continue;
                }
                let side = polymer_side(self.subject, chains, Rule::AllPairs, Some(at));
                let modality = ligand_modality(&side, name.atoms);
                let chains = [self.names(chains, "_"), name.chain_name.to_string()];
                lines.complex(
                    &format!("{}{suffix}", name.id),
                    chains.each_ref().map(String::as_str),
                    [name.columns(), [""; 3]],
                    modality,
                );
            }
            if around.is_empty() {
                lines.leave_out_molecule(self.subject.structure(), at, "no polymer in contact");
            }
        }
        let mut pairs = BTreeSet::new();
        for ((a, b), bonded) in &self.near.molecules {
            let (Some(a), Some(b)) = (self.molecule(*a), self.molecule(*b)) else { continue };
            let id = format!("{}_{}", a.id, b.id);
            if !*bonded && a.atoms > 1 && b.atoms > 1 && a.id != b.id && pairs.insert(id.clone()) {
                /// Of [`vocab::MODALITIES`].
                const CSD: i8 = 7;
                lines.complex(&id, [&a.chain_name, &b.chain_name], [b.columns(), a.columns()], CSD);
            }
        }
    }

    fn molecule(&self, at: usize) -> Option<Molecule<'_>> {
        let structure = self.subject.structure();
        let residue = structure.residues.get(at)?;
        let chain_name = chain_text(structure.chains.get(residue.chain)?);
        let (code, icode) = (residue.name.as_str(), residue.icode.as_str());
        let number = residue.resnum.to_string();
        let id = format!("{code}_{chain_name}_{number}{icode}");
        let atoms = (residue.start..residue.end).filter(|a| heavy(structure, *a)).count();
        Some(Molecule { id, chain: residue.chain, chain_name, code, number, icode, atoms })
    }
}

/// A small molecule as the index names it.
struct Molecule<'a> {
    id: String,
    chain: usize,
    chain_name: Cow<'a, str>,
    code: &'a str,
    number: String,
    icode: &'a str,
    atoms: usize,
}

impl Molecule<'_> {
    fn columns(&self) -> [&str; 3] {
        [self.code, &self.number, self.icode]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stems(paths: &[(&str, &str)]) -> Vec<String> {
        let found = paths.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        named(found).into_iter().map(|f| f.stem).collect()
    }

    #[test]
    fn stems_are_as_short_as_ids_allow() {
        assert_eq!(stem_of("a/1abc.pdb.gz"), "1abc");
        assert_eq!(stem_of("AF-P1-model_v4.CIF"), "AF-P1-model_v4");
        assert_eq!(stems(&[("/d/1abc.pdb", "1abc.pdb"), ("/d/s/2xyz.cif", "s/2xyz.cif")]), ["1abc", "2xyz"]);
        assert_eq!(stems(&[("/d/a/1.pdb", "a/1.pdb"), ("/d/b/1.pdb", "b/1.pdb")]), ["a/1.pdb", "b/1.pdb"]);
        assert_eq!(stems(&[("/d/1.pdb", "1.pdb"), ("/e/1.pdb", "1.pdb")]), ["/d/1.pdb", "/e/1.pdb"]);
        assert_eq!(stems(&[("/d/1abc.pdb", "1abc.pdb"), ("/d/1abc_A.pdb", "1abc_A.pdb")]), ["1abc", "/d/1abc_A.pdb"]);
    }

    #[test]
    fn additives_are_listed_once() {
        let unique: BTreeSet<&str> = ADDITIVES.into_iter().collect();
        assert_eq!(unique.len(), ADDITIVES.len());
    }
}

//! Interfaces without an index: which files there are, and in each which chains, ligands and ions meet.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use strum::IntoStaticStr;

use crate::error::{Error, Result};
use crate::index::{chain_text, Ids, Index, Place, Row};
use crate::interface::{
    bond, distance_squared, heavy, ligand_modality, meet, polymer_modality, polymer_side, spheres, Polymer, Role, Rule,
    Subject, COPY, COVALENT, MEMBERS, MEMBERS1,
};
use crate::neighbors::Cells;
use crate::read::ligand::LigandFile;
use crate::read::{self, is_structure, stem_of};
use crate::structure::{Residue, Structure};
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
/// Copies of a lipid, solvent or ion that only a simulation has.
const MANY: usize = 20;
/// Copies of any other small molecule that only a simulation has. Photosystems hold some 300 chlorophylls.
const VERY_MANY: usize = 1000;

/// Components of crystallisation and purification: salts, buffers, alcohols, polyethers, reducing agents,
/// detergents.
const ADDITIVES: [&str; 78] = [
    "SO4", "PO4", "CL", "GOL", "EDO", "ACT", "BME", "DMS", "PEG", "MPD", "NO3", "IOD", "BR", "FMT", "TRS", "EPE",
    "MES", "CIT", // and their relatives:
    "1PE", "1PG", "2PE", "12P", "15P", "33O", "7PE", "P33", "P6G", "PE3", "PE4", "PE5", "PE8", "PG0", "PG4", "PG6",
    "PGE", "XPE", "PEU", "MRD", "IPA", "EOH", "MOH", "POL", "PGO", "PGR", "BU1", "BU3", "DIO", "DMF", "ACY", "ACN",
    "FLC", "TAR", "TLA", "MLI", "MLA", "CAC", "IMD", "BTB", "B3P", "NHE", "CXS", "SCN", "AZI", "NH4", "SO3", "SUL",
    "PO3", "DTT", "DTV", "HED", "SGM", "TCE", "BOG", "LDA", "LMT", "C8E", "SDS", "XE",
];

/// The caps of peptides, which are no ligands where they stand alone.
const CAPS: [&str; 5] = ["ACE", "NH2", "NME", "NMA", "FOR"];

/// Lipids as force fields and builders of membranes name them, cut to three letters where a format has no more.
const LIPIDS: [&str; 55] = [
    "POPC", "POPE", "POPG", "POPS", "POPA", "POPI", "DPPC", "DPPE", "DPPG", "DPPS", "DMPC", "DMPE", "DMPG", "DMPS",
    "DOPC", "DOPE", "DOPG", "DOPS", "DOPA", "DLPC", "DLPE", "DLPG", "DLPS", "DSPC", "DSPE", "DSPG", "DAPC", "SDPC",
    "SDPE", "PLPC", "PAPC", "PSM", "SSM", "NSM", "CHL1", "CHOL", "CHL", "CLR", "ERG", "TOCL", "TLCL", "POP", "DPP",
    "DMP", "DOP", // and the parts of Amber's Lipid21:
    "PA", "PC", "PE", "PGR", "PS", "OL", "LAL", "MY", "ST", "SPM",
];

/// Solvents and ions of simulations.
const SOLVENTS: [&str; 34] = [
    "MEOH", "ETOH", "DMSO", "ACN", "CHCL", "CHX", "TFE", "OCT", "HEX", "BENZ", "BNZ", "UREA", "URE", "ACET", "CCL4",
    "MOH", "EOH", "DMS", "SOD", "CLA", "POT", "CES", "NA", "CL", "K", "NA+", "CL-", "K+", "MG", "CAL", "CA", "CIP",
    "CIM", "LIT",
];

/// Why something is in the list of what was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
enum Why {
    HydrogenOnly,
    Additive,
    Cap,
    UnknownAtoms,
    Lipids,
    Solvent,
    ManyCopies,
    Beads,
    ChainName,
    NoContact,
    FewContacts,
    NoInterface,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::HydrogenOnly => "has no atom heavier than hydrogen",
            Self::Additive => "additive of crystallisation",
            Self::Cap => "cap of a peptide",
            Self::UnknownAtoms => "unknown atoms",
            Self::Lipids => "lipid of a simulation",
            Self::Solvent => "solvent or salt of a simulation",
            Self::ManyCopies => "as many copies as only a simulation has",
            Self::Beads => "beads of a coarse-grained model",
            Self::ChainName => "an index cannot hold the name of this chain",
            Self::NoContact => "no polymer in contact",
            Self::FewContacts => "in contact by fewer than five pairs of residues",
            Self::NoInterface => "no interface in this file",
        }
    }
}

/// Why a component is no ligand, if it is none; `copies` are those in the file.
fn left_out(component: &str, copies: usize) -> Option<Why> {
    let one_of = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(component));
    if one_of(&ADDITIVES) {
        Some(Why::Additive)
    } else if one_of(&CAPS) {
        Some(Why::Cap)
    } else if one_of(&["UNX"]) {
        Some(Why::UnknownAtoms)
    } else if copies >= MANY && one_of(&LIPIDS) {
        Some(Why::Lipids)
    } else if copies >= MANY && one_of(&SOLVENTS) {
        Some(Why::Solvent)
    } else if copies >= VERY_MANY {
        Some(Why::ManyCopies)
    } else {
        None
    }
}

const HEADER: [&str; 17] = [
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
    MEMBERS,
    MEMBERS1,
    COPY,
    COVALENT,
    "ligand_path",
    "ligand_index",
];
const LEFT_OUT_HEADER: [&str; 6] = ["path", "chain", "component", "number", "why", "code"];

/// A structure file whose interfaces are to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StructureFile {
    /// Its path from the root, which also names it in the index.
    pub path: String,
    /// What the ids of its complexes begin with.
    pub stem: String,
    /// The file of its ligand, where it has one beside it.
    pub ligand: Option<String>,
}

/// What the names of a structure and its ligand end with, as in PDBbind: `1abc_protein.pdb` and `1abc_ligand.sdf`.
const RECEPTORS: [&str; 3] = ["protein", "receptor", "rec"];
const LIGANDS: [&str; 2] = ["ligand", "lig"];
/// Cut out of the structure.
const POCKETS: [&str; 2] = ["pocket", "site"];
/// Of several files of one ligand, the first in this order counts.
const LIGAND_FORMATS: [&str; 7] = ["sdf", "sd", "mol", "mol2", "pdbqt", "pdb", "ent"];

/// Folder and `X` of a file `X_protein.pdb`, or of `protein.pdb`, where the name ends with one of `words`.
fn named_for<'a>(path: &'a str, words: &[&str]) -> Option<(&'a str, &'a str)> {
    let stem = stem_of(path);
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    words.iter().find_map(|word| {
        let head = stem.get(..stem.len().checked_sub(word.len())?)?;
        let same = stem.get(head.len()..)?.eq_ignore_ascii_case(word);
        let prefix = head.strip_suffix(['_', '-', '.']).filter(|p| !p.is_empty());
        (same && (head.is_empty() || prefix.is_some())).then_some((folder, prefix.unwrap_or("")))
    })
}

/// A structure: its path, what its ids are made of, and its ligand.
type Listed = (String, String, Option<String>);

/// The files of a folder, structures with their ligands. The second value is how many are left aside.
fn paired(found: Vec<(String, String)>) -> (Vec<Listed>, u64) {
    let mut ligands: HashMap<(String, String), Vec<&str>> = HashMap::new();
    let mut receptors: HashMap<(String, String), Vec<&str>> = HashMap::new();
    let owned = |(folder, prefix): (&str, &str)| (folder.to_owned(), prefix.to_owned());
    let rank = |name: &str| {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        LIGAND_FORMATS.iter().position(|format| name.ends_with(&format!(".{format}"))).unwrap_or(usize::MAX)
    };
    for (name, _) in &found {
        if let Some(key) = named_for(name, &LIGANDS).filter(|_| LigandFile::is_one(Path::new(name))) {
            ligands.entry(owned(key)).or_default().push(name);
        }
        if let Some(key) = named_for(name, &RECEPTORS).filter(|_| is_structure(Path::new(name))) {
            receptors.entry(owned(key)).or_default().push(name);
        }
    }
    ligands.retain(|key, _| receptors.contains_key(key));
    receptors.retain(|key, _| ligands.contains_key(key));
    // MOL2 and PDBQT are read as structures only where a better one is missing.
    let docked = |name: &str| matches!(rank(name), 3 | 4);
    let mut files = Vec::new();
    let mut aside = 0;
    for (name, inner) in &found {
        let key = named_for(name, &RECEPTORS).map(owned);
        if let Some((key, same)) = key.and_then(|key| receptors.get(&key).map(|same| (key, same))) {
            let first = same.iter().min_by_key(|other| (docked(other), rank(other) == 4, **other));
            if first == Some(&name.as_str()) {
                let ligand = ligands.get(&key).and_then(|all| all.iter().min_by_key(|other| (rank(other), **other)));
                let folder = key.0.rsplit('/').next().unwrap_or_default();
                let stem = if key.1.is_empty() { folder } else { &key.1 };
                files.push((name.clone(), stem.to_owned(), ligand.map(|l| (*l).to_owned())));
                continue;
            }
            aside += 1;
            continue;
        }
        let of_pair = |words| named_for(name, words).is_some_and(|key| receptors.contains_key(&owned(key)));
        if of_pair(&LIGANDS) || of_pair(&POCKETS) || docked(name) || !is_structure(Path::new(name)) {
            let used = ligands.values().any(|all| all.iter().min_by_key(|o| (rank(o), **o)) == Some(&name.as_str()));
            aside += u64::from(!used);
            continue;
        }
        files.push((name.clone(), stem_of(inner).to_owned(), None));
    }
    (files, aside)
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
    let mut explicit: Vec<(String, String)> = Vec::new();
    let add = |found: &mut Vec<(String, String)>, path: &Path, base: &Path| -> Result<()> {
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
                return Err(wrong(path, "is no folder and no .pdb, .ent, .pdbqt, .cif, .mmcif, .bcif or .mol2 file"));
            }
            // What is named is searched, whatever lies beside it.
            add(&mut found, path, path)?;
            explicit.extend(found.pop());
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
                } else if !aside && (is_structure(&place) || LigandFile::is_one(&place)) && place.is_file() {
                    add(&mut found, &place, path)?;
                } else {
                    others += 1;
                }
            }
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    let (files, aside) = paired(found);
    let explicit = explicit.into_iter().filter(|(name, _)| !files.iter().any(|(known, ..)| known == name));
    let explicit: Vec<Listed> = explicit.map(|(name, inner)| (name, stem_of(&inner).to_owned(), None)).collect();
    let mut files = [files, explicit].concat();
    files.sort();
    files.dedup_by(|a, b| a.0 == b.0);
    Ok(Files { files: named(files), others: others + aside })
}

/// Gives every file a stem with which no two ids can be equal: its name without extension; where another file's ids
/// could be the same, hyphens instead of underscores, and a number.
fn named(found: Vec<Listed>) -> Vec<StructureFile> {
    let plain: Vec<&str> = found.iter().map(|(_, stem, _)| stem.as_str()).collect();
    let names: HashSet<&str> = plain.iter().copied().collect();
    let mut taken: HashSet<String> = HashSet::new();
    let mut out = Vec::with_capacity(found.len());
    for (stem, (path, _, ligand)) in plain.iter().zip(&found) {
        // The chains follow after an underscore, so `1abc` and `1abc_A` are in each other's way.
        let heads = stem.match_indices('_').filter_map(|(at, _)| stem.get(..at));
        let first = if heads.into_iter().any(|head| names.contains(head)) {
            stem.replace('_', "-")
        } else {
            (*stem).to_owned()
        };
        let mut own = first.clone();
        let mut number = 1;
        while taken.contains(&own) || (own != *stem && names.contains(own.as_str())) {
            number += 1;
            own = format!("{first}-{number}");
        }
        taken.insert(own.clone());
        out.push(StructureFile { path: path.clone(), stem: own, ligand: ligand.clone() });
    }
    out
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
    /// Chains that are in some complex.
    used: BTreeSet<usize>,
}

impl Lines {
    fn new(file: &StructureFile) -> Self {
        Self {
            found: csv::Writer::from_writer(Vec::new()),
            left_out: csv::Writer::from_writer(Vec::new()),
            counts: Found::default(),
            path: file.path.clone(),
            stem: file.stem.clone(),
            used: BTreeSet::new(),
        }
    }

    fn complex(&mut self, id: &str, chains: [&str; 2], ligands: [[&str; 3]; 2], modality: i8, more: [&str; 4]) {
        let id = format!("{}_{id}", self.stem);
        let kind = usize::try_from(modality).ok().and_then(|i| vocab::MODALITIES.get(i)).copied().unwrap_or("");
        let [[code, number, icode], [code1, number1, icode1]] = ligands;
        let [one, two] = chains;
        let [members, members1, copy, covalent] = more;
        let fields = [
            id.as_str(),
            &self.path,
            one,
            two,
            code,
            number,
            icode,
            code1,
            number1,
            icode1,
            kind,
            members,
            members1,
            copy,
            covalent,
            "",
            "",
        ];
        // Writing to memory does not fail.
        let _ = self.found.write_record(fields);
        self.counts.lines += 1;
    }

    /// A molecule of a ligand file of its own, with the chains of the structure.
    fn docked(&mut self, chains: &str, path: &str, index: usize, several: bool) {
        let id = if several { format!("{}_ligand_{index}", self.stem) } else { format!("{}_ligand", self.stem) };
        let index = index.to_string();
        let mut fields = [""; HEADER.len()];
        for (name, value) in [
            ("id", id.as_str()),
            ("path", &self.path),
            ("chain1", chains),
            ("ligand_path", path),
            ("ligand_index", &index),
        ] {
            if let Some(slot) = HEADER.iter().position(|h| *h == name).and_then(|at| fields.get_mut(at)) {
                *slot = value;
            }
        }
        let _ = self.found.write_record(fields);
        self.counts.lines += 1;
    }

    fn leave_out(&mut self, chain: &str, component: &str, number: &str, why: Why) {
        let fields = [self.path.as_str(), chain, component, number, why.text(), why.into()];
        let _ = self.left_out.write_record(fields);
        self.counts.molecules_left_out += u64::from(!component.is_empty());
    }

    fn finish(mut self) -> Found {
        if self.counts.lines == 0 {
            self.leave_out("", "", "", Why::NoInterface);
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
    /// Pairs of them with a covalent bond.
    bonds: Vec<(usize, usize)>,
    /// Atoms of polymers, by residue and atom, to which a small molecule is covalently attached.
    attached: BTreeMap<usize, Vec<(usize, usize)>>,
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
        let mut side = polymer_side(subject, &all, Rule::AllPairs, &[]);
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
                    if matches!((owner, other_owner), (Owner::Chain(_), Owner::Chain(_))) || a.len().min(b.len()) == 0 {
                        return;
                    }
                    near.note_bond(structure, (*owner, block.residue), (*other_owner, other.residue));
                }
            });
        }
        near
    }

    /// Notes a covalent bond of a small molecule of several atoms, if there is one.
    fn note_bond(&mut self, structure: &Structure, a: (Owner, usize), b: (Owner, usize)) {
        let several = |at: usize| structure.residues.get(at).is_some_and(|r| r.end - r.start > 1);
        let bond = |a: usize, b: usize| bond(structure, structure.residues.get(a)?, structure.residues.get(b)?);
        match (a, b) {
            // The hydroxyl at the end of a sugar is a residue of its own in GLYCAM.
            ((Owner::Molecule(a), _), (Owner::Molecule(b), _)) if several(a) || several(b) => {
                self.bonds.extend(bond(a, b).map(|_| (a, b)));
            }
            ((Owner::Chain(_), residue), (Owner::Molecule(at), _))
            | ((Owner::Molecule(at), _), (Owner::Chain(_), residue))
                if several(at) =>
            {
                if let Some((atom, _)) = bond(residue, at) {
                    self.attached.entry(at).or_default().push((residue, atom));
                }
            }
            _ => {}
        }
    }

    /// Small molecules of one residue or of several that are bonded to one another, each led by its first.
    fn units(&self, molecules: &[usize]) -> Vec<Vec<usize>> {
        let mut leader: HashMap<usize, usize> = molecules.iter().map(|at| (*at, *at)).collect();
        fn find(leader: &HashMap<usize, usize>, mut at: usize) -> usize {
            while let Some(next) = leader.get(&at).filter(|next| **next != at) {
                at = *next;
            }
            at
        }
        for (a, b) in &self.bonds {
            let (a, b) = (find(&leader, *a), find(&leader, *b));
            leader.insert(a.max(b), a.min(b));
        }
        let mut units: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for at in molecules {
            units.entry(find(&leader, *at)).or_default().push(*at);
        }
        units.into_values().collect()
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
pub fn find(subject: &Subject, file: &StructureFile, keep_additives: bool, reading: read::Options) -> Found {
    let structure = subject.structure();
    let mut lines = Lines::new(file);
    let mut molecules = Vec::new();
    let mut copies: HashMap<&str, usize> = HashMap::new();
    let mut beads = BTreeSet::new();
    let small = |role: &Role| *role == Role::Small;
    for (residue, role) in structure.residues.iter().zip(subject.roles()) {
        if small(role) {
            *copies.entry(residue.name.as_str()).or_default() += 1;
        } else if *role == Role::Bead {
            beads.insert(residue.chain);
        }
    }
    for chain in beads {
        lines.leave_out(structure.chains.get(chain).map_or("", String::as_str), "", "", Why::Beads);
    }
    let residues = structure.residues.iter().zip(subject.roles()).enumerate();
    for (at, (residue, _)) in residues.filter(|(_, (_, role))| small(role)) {
        let component = residue.name.as_str();
        let why = left_out(component, copies.get(component).copied().unwrap_or(0));
        if !(residue.start..residue.end).any(|a| heavy(structure, a)) {
            lines.leave_out_molecule(structure, at, Why::HydrogenOnly);
        } else if let Some(why) = why.filter(|_| !keep_additives) {
            lines.leave_out_molecule(structure, at, why);
        } else {
            molecules.push(at);
        }
    }
    let near = Near::of(subject, &molecules);
    let kinds: Vec<Option<Polymer>> = (0..structure.chains.len())
        .map(|chain| {
            let side = polymer_side(subject, &[chain], Rule::AllPairs, &[]);
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
    context.docked(&mut lines, file, reading);
    context.alone(&mut lines);
    lines.finish()
}

impl Lines {
    fn leave_out_molecule(&mut self, structure: &Structure, at: usize, why: Why) {
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
            lines.leave_out(&names, "", "", Why::ChainName);
            return false;
        }
        true
    }

    /// Molecules of the ligand file beside the structure.
    fn docked(&self, lines: &mut Lines, file: &StructureFile, reading: read::Options) {
        let Some(path) = &file.ligand else { return };
        let polymers: Vec<usize> =
            (0..self.kinds.len()).filter(|c| self.kinds.get(*c).is_some_and(Option::is_some)).collect();
        if polymers.is_empty() || !self.can_be_written(&polymers, lines) {
            return;
        }
        // A file that cannot be read is a failure of its row.
        let count = LigandFile::open(Path::new(path), path, reading).map_or(1, |ligands| ligands.len());
        for index in 0..count {
            lines.docked(&self.names(&polymers, "_"), path, index, count > 1);
        }
        lines.used.extend(polymers);
    }

    /// Lists chains of polymers that are in no complex, though others are near, or that are a single residue.
    fn alone(&self, lines: &mut Lines) {
        let structure = self.subject.structure();
        let polymers = self.kinds.iter().flatten().count();
        let mut most = vec![0usize; self.kinds.len()];
        for ((a, b), pairs) in &self.near.chains {
            for chain in [a, b] {
                if let Some(most) = most.get_mut(*chain) {
                    *most = (*most).max(*pairs);
                }
            }
        }
        for chain in (0..self.kinds.len()).filter(|c| polymers > 1 && self.kinds.get(*c).is_some_and(Option::is_some)) {
            if lines.used.contains(&chain) {
                continue;
            }
            let side = polymer_side(self.subject, &[chain], Rule::AllPairs, &[]);
            let name = structure.chains.get(chain).map_or("", String::as_str);
            match side.blocks.as_slice() {
                [only] => lines.leave_out_molecule(structure, only.residue, Why::FewContacts),
                _ if most.get(chain).is_some_and(|most| (1..RESIDUE_PAIRS).contains(most)) => {
                    lines.leave_out(name, "", "", Why::FewContacts);
                }
                _ => {}
            }
        }
    }

    fn pair(&self, lines: &mut Lines, first: &[usize], second: &[usize]) {
        // A chain without a name can stand first only.
        let (first, second) = if self.names(second, "_").is_empty() { (second, first) } else { (first, second) };
        if !self.can_be_written(&[first, second].concat(), lines) {
            return;
        }
        lines.used.extend(first.iter().chain(second));
        let side = |chains: &[usize]| polymer_side(self.subject, chains, Rule::AllPairs, &[]);
        let modality = polymer_modality(&side(first), &side(second));
        // A chain without a name leaves nothing in the id.
        let sides = [self.names(first, "-"), self.names(second, "-")];
        let id = sides.iter().map(String::as_str).filter(|side| !side.is_empty()).collect::<Vec<_>>().join("_");
        lines.complex(&id, [&self.names(first, "_"), &self.names(second, "_")], [[""; 3]; 2], modality, [""; 4]);
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
            .filter(|(r, role)| role.in_polymer() && self.is_nucleic(r.chain))
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
        let structure = self.subject.structure();
        let units = self.near.units(molecules);
        // Copies under one chain, number and name are told apart by their place among all that the index could mean.
        let mut same: HashMap<String, Vec<usize>> = HashMap::new();
        let small = structure.residues.iter().zip(self.subject.roles()).enumerate();
        for (at, _) in small.filter(|(_, (_, role))| **role == Role::Small) {
            if let Some(name) = self.molecule(&[at]) {
                same.entry(name.id).or_default().push(at);
            }
        }
        for unit in &units {
            let (Some(name), Some(&at)) = (self.molecule(unit), unit.first()) else { continue };
            if !self.can_be_written(&[name.chain], lines) {
                continue;
            }
            let copies = same.get(&name.id).map_or(&[][..], Vec::as_slice);
            let number = copies.iter().position(|copy| *copy == at).filter(|_| copies.len() > 1).map(|n| n + 1);
            let copy = number.map(|n| n.to_string()).unwrap_or_default();
            let id = number.map_or(name.id.clone(), |n| format!("{}-{n}", name.id));
            let around: BTreeSet<usize> =
                unit.iter().filter_map(|at| self.near.around.get(at)).flatten().copied().collect();
            let (proteins, others): (Vec<usize>, Vec<usize>) = around.iter().partition(|c| self.is_protein(**c));
            let both = !proteins.is_empty() && !others.is_empty();
            let bonds = unit.iter().filter_map(|at| self.near.attached.get(at)).flatten();
            let mut bonds: Vec<(usize, usize)> = bonds.copied().collect();
            bonds.sort_unstable();
            bonds.dedup();
            let attached: Vec<String> = bonds.iter().map(|(_, atom)| structure.who(*atom)).collect();
            for (chains, suffix) in [(&proteins, ""), (&others, if both { "_na" } else { "" })] {
                if chains.is_empty() || !self.can_be_written(chains, lines) {
                    continue;
                }
                lines.used.extend(chains);
                let side = polymer_side(self.subject, chains, Rule::AllPairs, unit);
                let modality = ligand_modality(&side, name.atoms);
                let chains = self.names(chains, "_");
                let more = [name.members.as_str(), "", &copy, &attached.join(", ")];
                let ligands = [name.columns(), [""; 3]];
                lines.complex(&format!("{id}{suffix}"), [&chains, &name.chain_name], ligands, modality, more);
            }
            if around.is_empty() {
                for at in unit {
                    lines.leave_out_molecule(structure, *at, Why::NoContact);
                }
            }
        }
        let of: HashMap<usize, usize> =
            units.iter().enumerate().flat_map(|(i, unit)| unit.iter().map(move |at| (*at, i))).collect();
        let mut pairs: BTreeMap<(usize, usize), bool> = BTreeMap::new();
        for ((a, b), bonded) in &self.near.molecules {
            if let (Some(a), Some(b)) = (of.get(a), of.get(b)) {
                *pairs.entry((*a.min(b), *a.max(b))).or_default() |= *bonded;
            }
        }
        let mut seen = BTreeSet::new();
        for ((one, other), bonded) in pairs {
            let (Some(one), Some(other)) = (units.get(one), units.get(other)) else { continue };
            let (Some(a), Some(b)) = (self.molecule(one), self.molecule(other)) else { continue };
            let id = format!("{}_{}", a.id, b.id);
            if !bonded && a.atoms > 1 && b.atoms > 1 && a.id != b.id && seen.insert(id.clone()) {
                /// Of [`vocab::MODALITIES`].
                const CSD: i8 = 7;
                let ligands = [b.columns(), a.columns()];
                let more = [b.members.as_str(), &a.members, "", ""];
                lines.complex(&id, [&a.chain_name, &b.chain_name], ligands, CSD, more);
            }
        }
    }

    fn molecule(&self, unit: &[usize]) -> Option<Molecule<'_>> {
        let structure = self.subject.structure();
        let residues: Vec<&Residue> = unit.iter().filter_map(|at| structure.residues.get(*at)).collect();
        let first = residues.first()?;
        let chain = |residue: &Residue| structure.chains.get(residue.chain).map_or("", String::as_str);
        let chain_name = chain_text(chain(first));
        let (code, icode) = (first.name.as_str(), first.icode.as_str());
        let number = first.resnum.to_string();
        let place = [code, &*chain_name].into_iter().filter(|part| !part.is_empty());
        let id = format!("{}_{number}{icode}", place.collect::<Vec<_>>().join("_"));
        let atoms = residues.iter().flat_map(|r| r.start..r.end).filter(|a| heavy(structure, *a)).count();
        let places = residues.iter().map(|r| Place::of(structure, r).to_string());
        let members = if unit.len() > 1 { places.collect::<Vec<_>>().join(" ") } else { String::new() };
        Some(Molecule { id, chain: first.chain, chain_name, code, number, icode, atoms, members })
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
    /// Its residues, where it has several.
    members: String,
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
        let found = paths.iter().map(|(a, b)| ((*a).to_owned(), stem_of(b).to_owned(), None)).collect();
        named(found).into_iter().map(|f| f.stem).collect()
    }

    #[test]
    fn stems_are_as_short_as_ids_allow() {
        assert_eq!(stem_of("a/1abc.pdb.gz"), "1abc");
        assert_eq!(stem_of("AF-P1-model_v4.CIF"), "AF-P1-model_v4");
        assert_eq!(stems(&[("/d/1abc.pdb", "1abc.pdb"), ("/d/s/2xyz.cif", "s/2xyz.cif")]), ["1abc", "2xyz"]);
        assert_eq!(stems(&[("/d/a/1.pdb", "a/1.pdb"), ("/d/b/1.pdb", "b/1.pdb")]), ["1", "1-2"]);
        assert_eq!(stems(&[("/d/1abc.pdb", "1abc.pdb"), ("/d/1abc_A.pdb", "1abc_A.pdb")]), ["1abc", "1abc-A"]);
        let four = ["a/1.pdb", "b/1.pdb", "b/1-2.pdb", "b/1_2.pdb"].map(|path| (path, path));
        assert_eq!(stems(&four), ["1", "1-3", "1-2", "1-2-2"]);
    }

    #[test]
    fn additives_are_listed_once() {
        for names in [&ADDITIVES[..], &LIPIDS, &SOLVENTS] {
            let unique: BTreeSet<&str> = names.iter().copied().collect();
            assert_eq!(unique.len(), names.len());
        }
    }
}

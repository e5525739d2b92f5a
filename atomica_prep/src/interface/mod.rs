//! From a structure to the interface of two partners: who belongs to them, which blocks meet, and the record.

mod assemble;
mod bonds;
mod contacts;
mod roles;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use assemble::{assemble, Partner};
use bonds::attachments;
pub(crate) use bonds::bond;
use contacts::{contacts, ligand_contacts, Block, Side, SmallMolecule};
pub(crate) use contacts::{heavy, ligand_modality, meet, polymer_modality, polymer_side, spheres, Polymer};
pub use contacts::{Options, Rule};
pub(crate) use roles::distance_squared;
pub use roles::{Role, Subject};

use crate::error::{Error, Result};
use crate::index::{chain_text, words, Kind, Ligand, Place, Row};
use crate::read::ligand::{Bond, Molecule};
use crate::record::Record;
use crate::structure::{Name, Residue, Structure};

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
    let first: Vec<usize> = row.chain1.iter().map(|name| chain_of(subject, name, &row.path)).collect::<Result<_>>()?;
    let a = polymer_side(subject, &first, options.rule, &[]);
    if a.blocks.is_empty() {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    }
    let structure = &pose.molecule.structure;
    let Molecule { bonds, smiles, .. } = pose.molecule;
    let ligand = SmallMolecule { structure, at: 0, bonds, smiles: smiles.as_deref(), row };
    let (b, chemistry) = ligand.side(options)?;
    let named = || match &row.ligand_file {
        Some(file) => (file.path.clone(), file.index.to_string()),
        None => (row.path.clone(), pose.molecule.title.clone()),
    };
    if b.blocks.is_empty() {
        let (path, ligand) = named();
        return Err(Error::HydrogenLigand { path, ligand });
    }
    if same_places((subject.structure(), &a), (structure, &b)) {
        let (path, ligand) = named();
        return Err(Error::ReceptorLigand { path, ligand });
    }
    let (keep_a, keep_b) = ligand_contacts(&a, &b, options);
    let modality = row.modality.unwrap_or_else(|| ligand_modality(&a, b.atoms.len()));
    let mut metadata = row.metadata.clone();
    metadata.retain(|(k, _)| k != "ligand_sha256");
    metadata.push(("ligand_sha256".to_owned(), pose.sha256.to_owned()));
    if let Some(from) = pose.molecule.bonds_from {
        metadata.retain(|(k, _)| k != BONDS);
        metadata.push((BONDS.to_owned(), <&str>::from(from).to_owned()));
    }
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

/// Do the atoms of a ligand stand where those of a polymer do? Some of them tell.
fn same_places((polymer, a): (&Structure, &Side), (ligand, b): (&Structure, &Side)) -> bool {
    /// Å; beyond what formats round.
    const SAME: f64 = 0.01;
    const SOME: usize = 8;
    let place = |structure: &Structure, atom: usize| structure.positions.get(atom).copied().unwrap_or([f64::NAN; 3]);
    let same = |p: &[f64; 3]| a.atoms.iter().any(|atom| distance_squared(place(polymer, *atom), *p) < SAME * SAME);
    let sample = || b.atoms.iter().step_by(b.atoms.len().div_ceil(SOME).max(1)).map(|atom| place(ligand, *atom));
    // Half of them elsewhere are enough to tell that they do not.
    let half = sample().count().div_ceil(2);
    sample().filter(|place| !same(place)).take(half).count() < half
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

/// Makes the complexes of one row: one, or one for every copy of its ligand that matches.
pub fn complexes(subject: &Subject, row: &Row, options: &Options) -> Vec<(String, Result<Record>)> {
    let one = |error: Error| vec![(row.id.clone(), Err(error))];
    let chains = |names: &[String]| -> Result<Vec<usize>> {
        names.iter().map(|name| chain_of(subject, name, &row.path)).collect()
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
    if let Some(copy) = noted(row, COPY) {
        let place = copy.parse::<usize>().ok().and_then(|number| found.get(number.checked_sub(1)?)).copied();
        found = place.into_iter().collect();
    }
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

/// Column of an index, and entry in a record: which of several ligands of one chain, number and name, from 1.
pub const COPY: &str = "lig_copy";
/// The same: the residues of a ligand of several (`B:1 B:2 B:3`), as an oligosaccharide.
pub const MEMBERS: &str = "lig_members";
/// The same for the first of two ligands.
pub const MEMBERS1: &str = "lig_members1";
/// Entry in a record: where the bonds of a ligand in a PDB or PDBQT file are from.
pub const BONDS: &str = "ligand_bonds";
/// The same: the atoms of the polymers that a ligand is covalently attached to.
pub const COVALENT: &str = "covalent";

/// What a row says in a column that the index does not know.
fn noted<'a>(row: &'a Row, column: &str) -> Option<&'a str> {
    row.metadata.iter().find(|(key, _)| key == column).map(|(_, value)| value.as_str())
}

/// The residues of a ligand: that of the row's name, and those that the row lists with it.
fn members(subject: &Subject, row: &Row, copy: usize, column: &str) -> Vec<usize> {
    let structure = subject.structure();
    let listed: HashSet<&str> = words(noted(row, column).unwrap_or_default()).collect();
    let small = structure.residues.iter().zip(&subject.roles).enumerate();
    small
        .filter(|(at, (residue, role))| {
            *at == copy
                || (**role == Role::Small
                    && !listed.is_empty()
                    && listed.contains(Place::of(structure, residue).to_string().as_str()))
        })
        .map(|(at, _)| at)
        .collect()
}

/// Residues of some chains that are a ligand of the index.
fn copies(subject: &Subject, ligand: &Ligand, chains: &[usize]) -> Vec<usize> {
    let residues = &subject.structure().residues;
    let mut chains = chains.to_vec();
    chains.sort_unstable();
    chains.dedup();
    let members = chains.iter().flat_map(|chain| subject.members(*chain));
    let mut found: Vec<usize> =
        members.copied().filter(|i| residues.get(*i).is_some_and(|r| matches(r, ligand))).collect();
    found.sort_unstable();
    found
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
            match chain_of(subject, name, &row.path) {
                Ok(chain) => chains.push(chain),
                Err(error) => problems.push((column, error)),
            }
        }
        if chains.len() < names.len() {
            continue;
        }
        match ligand {
            None if polymer_side(subject, &chains, Rule::AllPairs, &[]).blocks.is_empty() => {
                problems.push((column, Error::EmptyPartner { path: row.path.clone(), chains: names.join("_") }));
            }
            Some(ligand) if copies(subject, ligand, &chains).is_empty() => {
                problems.push((code, missing_ligand(subject, row, ligand, names)));
            }
            None if row.kind() == Kind::Pocket => {
                let side = polymer_side(subject, &chains, Rule::AllPairs, &[]);
                problems.extend(of_pocket(subject, row, &side).err().map(|error| ("residues", error)));
            }
            _ => {}
        }
    }
    problems
}

fn chain_of(subject: &Subject, name: &str, path: &str) -> Result<usize> {
    let structure = subject.structure();
    subject.chain(name).ok_or_else(|| Error::MissingChain {
        path: path.to_owned(),
        chain: name.to_owned(),
        present: listed(structure.chains.iter().map(|c| if c.is_empty() { "(blank)".into() } else { chain_text(c) })),
    })
}

fn listed<'a>(names: impl Iterator<Item = Cow<'a, str>>) -> String {
    const SHOWN: usize = 30;
    let names: Vec<Cow<'a, str>> = names.collect();
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
        present: listed(present.iter().map(|p| p.into())),
    }
}

/// The residues of a pocket, alone: a record of one segment.
fn pocket(subject: &Subject, row: &Row, chains: &[usize], options: &Options) -> Result<Record> {
    let side = polymer_side(subject, chains, options.rule, &[]);
    if side.blocks.is_empty() {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    }
    let keep = of_pocket(subject, row, &side)?;
    let modality = row.modality.unwrap_or(-1);
    let sides = [Partner { structure: subject.structure(), side: &side, keep, chain: None }];
    assemble(subject, row, row.id.clone(), &sides, modality, "none", row.metadata.clone(), options)
}

/// Which blocks are of the residues that a row names. All of them must be there.
fn of_pocket(subject: &Subject, row: &Row, side: &Side) -> Result<Vec<bool>> {
    let structure = subject.structure();
    let place = |block: &Block| Some(Place::of(structure, structure.residues.get(block.residue)?));
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
            present: listed(present.iter().map(|p| p.into())),
        });
    }
    Ok(places.iter().map(|p| p.as_ref().is_some_and(|p| wanted.contains(p))).collect())
}

fn two_polymers(subject: &Subject, row: &Row, first: &[usize], second: &[usize], options: &Options) -> Result<Record> {
    let a = polymer_side(subject, first, options.rule, &[]);
    let b = polymer_side(subject, second, options.rule, &[]);
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
    let members = members(subject, row, copy, MEMBERS);
    let a = polymer_side(subject, first, options.rule, &members);
    if a.blocks.is_empty() {
        return Err(Error::EmptyPartner { path: row.path.clone(), chains: row.chain1.join("_") });
    }
    let (b, chemistry) = small_side(structure, &members, row, options)?;
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
    metadata.retain(|(key, _)| key != COVALENT);
    let attached = attachments(subject, &members);
    if !attached.is_empty() {
        metadata.push((COVALENT.to_owned(), attached.join(", ")));
    }
    let sides = [(&a, keep_a), (&b, keep_b)].map(|(side, keep)| Partner { structure, side, keep, chain: None });
    assemble(subject, row, id, &sides, modality, chemistry, metadata, options)
}

/// The blocks of a small molecule of one or several residues, and where their chemistry is from.
fn small_side(structure: &Structure, members: &[usize], row: &Row, options: &Options) -> Result<(Side, &'static str)> {
    let mut whole = Side::default();
    let mut chemistry = None;
    for at in members {
        let (side, cut) = SmallMolecule { structure, at: *at, bonds: &[], smiles: None, row }.side(options)?;
        whole.append(side);
        chemistry = Some(if chemistry.is_none_or(|known| known == cut) { cut } else { "mixed" });
    }
    Ok((whole, chemistry.unwrap_or("none")))
}

fn two_ligands(subject: &Subject, row: &Row, id: String, places: [usize; 2], options: &Options) -> Result<Record> {
    /// Of [`vocab::MODALITIES`]: small molecules with one another.
    const CSD: i8 = 7;
    let structure = subject.structure();
    let mut sides = Vec::with_capacity(2);
    for (at, column) in places.into_iter().zip([MEMBERS1, MEMBERS]) {
        let (side, chemistry) = small_side(structure, &members(subject, row, at, column), row, options)?;
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

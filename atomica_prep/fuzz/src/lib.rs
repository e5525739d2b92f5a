//! What is fuzzed: one function per format, from bytes to the end of the work. Each must come back without a panic,
//! whatever the bytes are, and what it makes must be consistent.
//!
//! The fuzzer (`fuzz_targets/`) and an ordinary test (`../tests/fuzz.rs`) call the same functions.

use std::io::Cursor;
use std::path::Path;

use atomica_prep::dataset::{read_shard, Compression, ShardBuilder};
use atomica_prep::index::{Ids, Index, Ligand, Row};
use atomica_prep::interface::{complex_with_pose, complexes, Options, Pose, Role, Rule, Subject};
use atomica_prep::read::ligand::LigandFile;
use atomica_prep::read::{self, read_bytes, Assembly, Strictness};
use atomica_prep::record::Record;
use atomica_prep::structure::{Source, Structure, Unread};

/// What a fuzzer calls with its bytes.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 9] = [
    ("pdb", pdb),
    ("mmcif", mmcif),
    ("bcif", bcif),
    ("sdf", sdf),
    ("mol2", mol2),
    ("pdbqt", pdbqt),
    ("packed", packed),
    ("index", index),
    ("shard", shard),
];

/// PDB, and the interfaces of what it holds.
pub fn pdb(bytes: &[u8]) {
    structure(bytes, "pdb");
}

/// mmCIF, and the interfaces of what it holds.
pub fn mmcif(bytes: &[u8]) {
    structure(bytes, "cif");
}

/// BinaryCIF, and the interfaces of what it holds.
pub fn bcif(bytes: &[u8]) {
    structure(bytes, "bcif");
}

/// SDF, V2000 and V3000, and each molecule as the ligand of a small protein.
pub fn sdf(bytes: &[u8]) {
    ligands(bytes, "x.sdf");
}

/// MOL2, each molecule as the ligand of a small protein, and all of it as a structure.
pub fn mol2(bytes: &[u8]) {
    structure(bytes, "mol2");
    ligands(bytes, "x.mol2");
}

/// PDBQT, and each pose as the ligand of a small protein.
pub fn pdbqt(bytes: &[u8]) {
    ligands(bytes, "x.pdbqt");
}

fn structure(bytes: &[u8], format: &str) {
    let read = |strictness| read_bytes(bytes, format, "x", read::Options { strictness, ..read::Options::default() });
    let lenient = read(Strictness::Lenient);
    match (read(Strictness::Strict), &lenient) {
        (Ok(strict), Ok(lenient)) => {
            assert!(strict == *lenient && strict.repairs.iter().all(|r| r.kind.is_note()));
        }
        (Ok(_), Err(error)) => panic!("strict reading is laxer: {error}"),
        (Err(_), _) => {}
    }
    if let Ok(structure) =
        read_bytes(bytes, format, "x", read::Options { ids: read::Ids::Label, ..read::Options::default() })
    {
        check_structure(&structure);
    }
    for assembly in [Assembly::Models, Assembly::Number(1)] {
        if let Ok(structure) = read_bytes(bytes, format, "x", read::Options { assembly, ..read::Options::default() }) {
            check_structure(&structure);
        }
    }
    sites(bytes, format);
    if let Ok(structure) = lenient {
        check_structure(&structure);
        interfaces(structure);
    }
}

/// A file with other B-factors is the same file otherwise.
fn sites(bytes: &[u8], format: &str) {
    let read = |bytes: &[u8]| read::read_sites_bytes(bytes, format, "x", read::Options::default());
    let Ok(before) = read(bytes) else { return };
    let records = before.structure.positions.len();
    assert_eq!((before.b_factors.len(), before.first_model.len(), before.alternate.len()), (records, records, records));
    let made = before.with_b_factors(&vec![12.5; records]).expect("as many as there are records");
    let after = read(&made).expect("only numbers were changed");
    assert!(after.b_factors.iter().all(|b| *b == 12.5) && after.b_factors.len() == records);
    assert!(before.structure.residues == after.structure.residues && before.structure.chains == after.structure.chains);
    assert!(before.structure.positions == after.structure.positions);
    assert!(before.structure.atom_names == after.structure.atom_names);
    assert!(before.first_model == after.first_model && before.alternate == after.alternate);
}

fn check_structure(structure: &Structure) {
    let atoms = structure.positions.len();
    assert!(atoms > 0, "no atoms and no error");
    assert_eq!((structure.elements.len(), structure.atom_names.len()), (atoms, atoms));
    assert!(structure.positions.iter().flatten().all(|c| c.is_finite()));
    let mut end = 0;
    for residue in &structure.residues {
        assert!(residue.start == end && residue.end > end, "runs of atoms follow one another");
        assert!(residue.chain < structure.chains.len());
        end = residue.end;
    }
    assert_eq!(end, atoms);
    let residue = |atom: usize| structure.residues.partition_point(|r| r.end <= atom);
    for (a, b) in &structure.bonds {
        assert!(*a < atoms && *b < atoms && residue(*a) != residue(*b), "stated bonds are between residues");
        assert!(structure.bonds.binary_search(&(*b, *a)).is_ok(), "and there from both ends");
    }
    assert!(structure.bonds.is_sorted());
    let accounts = structure.accounts;
    let left: u64 = Unread::ALL.into_iter().map(|why| accounts.left(why)).sum();
    assert_eq!(accounts.records + accounts.copies, left + atoms as u64, "every record is accounted for");
}

fn options(rule: Rule) -> Options {
    Options { cutoff: 8.0, rule, neighbors: 4, fragments: None }
}

fn row(chain1: &str, chain2: &str, ligand: Option<Ligand>) -> Row {
    Row {
        line: 2,
        id: "x".to_owned(),
        path: "x.pdb".to_owned(),
        file: "x.pdb".into(),
        chain1: vec![chain1.to_owned()],
        chain2: vec![chain2.to_owned()],
        ligand,
        ..Row::default()
    }
}

/// The interfaces of the first chain with the next two, and with the first small molecules.
fn interfaces(structure: Structure) {
    let subject = Subject::new(Source { structure, sha256: String::new() });
    let structure = subject.structure();
    let Some((first, others)) = structure.chains.split_first() else { return };
    let mut rows: Vec<Row> = others.iter().take(2).map(|other| row(first, other, None)).collect();
    let small = structure.residues.iter().zip(subject.roles()).filter(|(_, role)| **role == Role::Small);
    for (residue, _) in small.take(2) {
        let chain = structure.chains.get(residue.chain).map_or("", String::as_str);
        let ligand = Ligand { code: residue.name.as_str().to_owned(), resnum: Some(residue.resnum), icode: None };
        rows.push(row(first, chain, Some(ligand)));
    }
    let mut shard = ShardBuilder::default();
    for rule in [Rule::AllPairs, Rule::Reference] {
        for row in &rows {
            for record in complexes(&subject, row, &options(rule)).into_iter().filter_map(|(_, made)| made.ok()) {
                check_record(&record, 4);
                shard.push(&record);
            }
        }
    }
    if shard.rows() > 0 {
        let rows = shard.rows();
        let bytes = shard.to_bytes(Path::new("x.arrow"), Compression::None);
        assert_eq!(read_all(&bytes.unwrap_or_default()), Ok(rows), "what is written can be read");
    }
}

fn check_record(record: &Record, k: usize) {
    let (blocks, atoms) = (record.block_types.len(), record.atom_types.len());
    assert_eq!(record.block_lengths.iter().map(|l| *l as usize).sum::<usize>(), atoms);
    assert_eq!((record.segment_ids.len(), record.block_resnums.len()), (blocks, blocks));
    assert_eq!((record.positions.len(), record.atom_names.len()), (atoms, atoms));
    assert!(record.positions.iter().flatten().all(|c| c.is_finite()));
    for (list, rows) in [
        (&record.atom_intra, atoms),
        (&record.atom_inter, atoms),
        (&record.block_intra, blocks),
        (&record.block_inter, blocks),
    ] {
        assert_eq!(list.len(), rows * k);
        assert!(list.iter().all(|i| (-1..rows as i64).contains(&i64::from(*i))));
    }
    let t = &record.torsions;
    assert_eq!((t.fixed.len(), t.moving.len()), (t.sizes.len(), t.sizes.len()));
    assert_eq!(t.sizes.iter().map(|s| *s as usize).sum::<usize>(), t.atoms.len());
    let bonds = record.bond_orders.len();
    assert_eq!((record.bond_first.len(), record.bond_second.len()), (bonds, bonds));
    let indices = [&t.fixed, &t.moving, &t.atoms, &record.bond_first, &record.bond_second];
    assert!(indices.into_iter().flatten().all(|i| (0..atoms as i64).contains(&i64::from(*i))));
}

/// Rows in a shard, all of its columns read.
fn read_all(bytes: &[u8]) -> Result<usize, String> {
    let batches = read_shard(Cursor::new(bytes), "x.arrow", None).map_err(|e| e.to_string())?;
    batches.map(|batch| batch.map(|b| b.num_rows()).map_err(|e| e.to_string())).sum()
}

/// Two residues of a chain A.
const PROTEIN: &str = "\
ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00  0.00           N
ATOM      2  CA  GLY A   1       1.450   0.000   0.000  1.00  0.00           C
ATOM      3  C   GLY A   1       2.000   1.400   0.000  1.00  0.00           C
ATOM      4  N   ALA A   2       3.300   1.500   0.000  1.00  0.00           N
ATOM      5  CA  ALA A   2       4.000   2.800   0.000  1.00  0.00           C
";

fn ligands(bytes: &[u8], name: &str) {
    let Ok(file) = LigandFile::from_bytes(bytes, name, read::Options::default()) else { return };
    let Ok(structure) = read_bytes(PROTEIN.as_bytes(), "pdb", "x.pdb", read::Options::default()) else { return };
    let subject = Subject::new(Source { structure, sha256: String::new() });
    for index in 0..file.len().min(4) {
        let Ok(molecule) = file.molecule(index) else { continue };
        check_structure(&molecule.structure);
        let atoms = molecule.structure.positions.len() as u32;
        assert!(molecule.bonds.iter().all(|bond| bond.a < atoms && bond.b < atoms && bond.a != bond.b));
        let pose = Pose { molecule: &molecule, sha256: "" };
        if let Ok(record) = complex_with_pose(&subject, &row("A", "", None), pose, &options(Rule::AllPairs)) {
            check_record(&record, 4);
        }
    }
    assert!(file.molecule(file.len()).is_err());
}

/// Gzip and Zstandard around the formats; the first byte says which.
pub fn packed(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let formats = ["pdb.gz", "cif.gz", "bcif.gz", "pdb.zst", "cif.zst", "bcif.zst"];
    let format = formats[usize::from(*which) % formats.len()];
    let options = read::Options { max_decompressed: 1 << 20, ..read::Options::default() };
    if let Ok(structure) = read_bytes(bytes, format, "x", options) {
        check_structure(&structure);
    }
}

/// An index, and all of its rows.
pub fn index(bytes: &[u8]) {
    let Ok(index) = Index::parse(bytes.to_vec(), "x.csv".to_owned(), "".into()) else { return };
    let mut ids = Ids::default();
    let mut rows = 0;
    for row in index.rows(&mut ids) {
        rows += 1;
        if let Ok(row) = row {
            assert!(!row.id.is_empty() && !row.path.is_empty());
            assert!(!row.chain1.is_empty() && !row.chain2.is_empty());
        }
    }
    assert_eq!(rows, index.len());
}

/// A shard, whole and with some of its columns.
pub fn shard(bytes: &[u8]) {
    let whole = read_all(bytes);
    let some = read_shard(Cursor::new(bytes), "x.arrow", Some(&["id", "modality"]));
    let some = some.map(|batches| batches.filter_map(Result::ok).map(|b| b.num_rows()).sum::<usize>());
    if let (Ok(whole), Ok(some)) = (whole, some) {
        assert_eq!(whole, some);
    }
}

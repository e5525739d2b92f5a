//! Whatever is written in a format is read back as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod written;

use std::io::Cursor;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int8Type, UInt16Type, UInt32Type, UInt8Type};
use arrow_array::{Array, RecordBatch};
use atomica_prep::dataset::{read_shard, Compression, ShardBuilder};
use atomica_prep::index::{Ids, Index};
use atomica_prep::read::{read_bytes, read_sites_bytes, Options};
use atomica_prep::record::Record;
use atomica_prep::structure::{Name, Structure};
use atomica_prep::torsion::Torsions;
use proptest::collection::{hash_set, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use written::{bcif, csv, hybrid36, mmcif, pdb, Atom, Chain, Model, Residue, Step};

/// Which texts a format can hold.
#[derive(Debug, Clone, Copy)]
struct Texts {
    chain: &'static str,
    component: &'static str,
    atom: &'static str,
    icode: &'static str,
    numbers: (i32, i32),
}

const COLUMNS: Texts = Texts {
    chain: "[A-Za-z0-9!-/]",
    component: "[A-Z0-9]{1,3}",
    atom: "[A-Z][A-Z0-9'*]{0,3}",
    icode: "[A-Z]?",
    numbers: (-999, 2_436_111),
};

/// Names as no one gives them, so that every way of quoting is needed.
const FREE: Texts = Texts {
    chain: "[ -~]{1,6}",
    component: "[ -~é]{1,7}",
    atom: "[ -~]{1,7}",
    icode: "[ -~]{0,2}",
    numbers: (i32::MIN, i32::MAX),
};

fn atoms(texts: Texts) -> impl Strategy<Value = Vec<Atom>> {
    let atom = (1u8..=118, prop::array::uniform3(-999_999..=9_999_999));
    hash_set(texts.atom, 1..6).prop_flat_map(move |names| {
        let count = names.len();
        vec(atom.clone(), count).prop_map(move |rest| {
            let pairs = names.iter().zip(rest);
            pairs.map(|(name, (element, milli))| Atom { name: name.clone(), element, milli }).collect()
        })
    })
}

fn residues(texts: Texts) -> impl Strategy<Value = Vec<Residue>> {
    let (low, high) = texts.numbers;
    let residue = (texts.component, low..=high, texts.icode, any::<bool>(), atoms(texts));
    vec(residue, 1..5).prop_map(|residues| {
        let mut out: Vec<Residue> = Vec::new();
        for (name, number, icode, hetero, atoms) in residues {
            // Two residues with one number would be taken for one.
            if !out.iter().any(|r| r.number == number) {
                out.push(Residue { name, number, icode, hetero, atoms });
            }
        }
        out
    })
}

fn model(texts: Texts) -> impl Strategy<Value = Model> {
    hash_set(texts.chain, 1..4).prop_flat_map(move |ids| {
        let count = ids.len();
        vec(residues(texts), count).prop_map(move |all| {
            Model(ids.iter().zip(all).map(|(id, residues)| Chain { id: id.clone(), residues }).collect())
        })
    })
}

fn check(read: &Structure, model: &Model) {
    let chains: Vec<&String> = model.0.iter().map(|c| &c.id).collect();
    assert_eq!(read.chains.iter().collect::<Vec<_>>(), chains);
    let wanted: Vec<(usize, &Residue)> =
        model.0.iter().enumerate().flat_map(|(i, c)| c.residues.iter().map(move |r| (i, r))).collect();
    assert_eq!(read.residues.len(), wanted.len());
    for (found, (chain, residue)) in read.residues.iter().zip(wanted) {
        assert_eq!(
            (found.name.as_str(), found.chain, found.resnum, found.icode.as_str(), found.hetero),
            (residue.name.as_str(), chain, residue.number, residue.icode.as_str(), residue.hetero)
        );
        let names: Vec<&str> = read.names_of(found).iter().map(Name::as_str).collect();
        assert_eq!(names, residue.atoms.iter().map(|a| a.name.as_str()).collect::<Vec<_>>());
        assert_eq!(read.elements_of(found), residue.atoms.iter().map(|a| a.element).collect::<Vec<_>>());
        let positions: Vec<[f64; 3]> = residue.atoms.iter().map(Atom::position).collect();
        assert_eq!(read.positions_of(found), positions);
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outer = prop::sample::subsequence(vec![Step::Delta, Step::RunLength], 0..=2);
    // A difference of extreme numbers takes as many bytes as packing would make of it, so wide ones stay as they are.
    outer.prop_shuffle()
}

proptest! {
    // The same cases each time: what fails on one machine fails on all.
    #![proptest_config(ProptestConfig {
        cases: 60, failure_persistence: None, rng_seed: RngSeed::Fixed(0), ..ProptestConfig::default()
    })]

    #[test]
    fn structures_as_pdb(model in model(COLUMNS)) {
        check(&read_bytes(pdb(&model).as_bytes(), "pdb", "x", Options::default()).unwrap(), &model);
    }

    #[test]
    fn structures_as_mmcif(model in model(FREE)) {
        check(&read_bytes(mmcif(&model).as_bytes(), "cif", "x", Options::default()).unwrap(), &model);
    }

    #[test]
    fn structures_as_binary_cif(model in model(FREE), steps in steps()) {
        check(&read_bytes(&bcif(&model, &steps), "bcif", "x", Options::default()).unwrap(), &model);
    }

    #[test]
    fn small_numbers_in_packed_binary_cif(model in model(COLUMNS), steps in steps(), width in 1usize..=2) {
        let steps = [steps, vec![Step::Packing(width)]].concat();
        check(&read_bytes(&bcif(&model, &steps), "bcif", "x", Options::default()).unwrap(), &model);
    }

    #[test]
    fn one_entry_in_all_formats(model in model(COLUMNS)) {
        let read = [
            read_bytes(pdb(&model).as_bytes(), "pdb", "x", Options::default()).unwrap(),
            read_bytes(mmcif(&model).as_bytes(), "cif", "x", Options::default()).unwrap(),
            read_bytes(&bcif(&model, &[]), "bcif", "x", Options::default()).unwrap(),
        ];
        for other in &read[1..] {
            prop_assert_eq!(&read[0].positions, &other.positions);
            prop_assert_eq!(&read[0].atom_names, &other.atom_names);
            prop_assert_eq!(&read[0].residues, &other.residues);
        }
    }

    #[test]
    fn b_factors_in_all_formats(model in model(COLUMNS)) {
        let files =
            [(pdb(&model).into_bytes(), "pdb"), (mmcif(&model).into_bytes(), "cif"), (bcif(&model, &[]), "bcif")];
        for (file, extension) in files {
            let read = |bytes: &[u8]| read_sites_bytes(bytes, extension, "x", Options::default()).unwrap();
            let sites = read(&file);
            let values: Vec<f64> = (0..sites.b_factors.len()).map(|i| (i % 4000) as f64 / 4.0 - 20.0).collect();
            let made = sites.with_b_factors(&values).unwrap();
            let again = read(&made);
            prop_assert_eq!(&again.b_factors, &values);
            prop_assert_eq!(&again.structure, &sites.structure);
            let whole = |bytes: &[u8]| read_bytes(bytes, extension, "x", Options::default()).unwrap();
            prop_assert_eq!(whole(&made), whole(&file));
        }
    }

    #[test]
    fn residue_numbers(number in -999..=2_436_111i32) {
        let mut model = Model::small();
        model.0.truncate(1);
        model.0[0].residues.truncate(1);
        model.0[0].residues[0].number = number;
        let read = read_bytes(pdb(&model).as_bytes(), "pdb", "x", Options::default()).unwrap();
        prop_assert_eq!(read.residues[0].resnum, number, "{}", hybrid36(number));
    }

    #[test]
    fn names(bytes in vec(any::<u8>(), 0..20)) {
        match (Name::new(&bytes), std::str::from_utf8(&bytes)) {
            (Some(name), Ok(text)) => prop_assert_eq!((name.as_bytes(), name.as_str()), (bytes.as_slice(), text)),
            (None, Ok(text)) => prop_assert!(text.len() > Name::CAPACITY),
            (None, Err(_)) => {}
            (Some(name), Err(_)) => prop_assert!(false, "{name:?} is no text"),
        }
    }

    #[test]
    fn rows_of_an_index(rows in vec(("\\PC{1,8}", "\\PC{1,8}", "[\\PC\n]{0,8}", "[\\PC\n\"]{0,8}"), 1..5)) {
        let header = ["id", "path", "chain1", "chain2", "label", "note"].map(str::to_owned).to_vec();
        // A number tells ids apart; letters keep white space from being trimmed, and make no word that means nothing.
        let fields = |(i, (id, path, label, note)): (usize, &(String, String, String, String))| {
            let (id, path) = (format!("i{i}{id}i"), format!("p{path}p"));
            vec![id, path, "A".to_owned(), "B".to_owned(), format!("l{label}l"), format!("m{note}m")]
        };
        let table: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().enumerate().map(fields)).collect();
        let index = Index::parse(csv(&table).into_bytes(), "x.csv".to_owned(), "in".into()).unwrap();
        let mut ids = Ids::default();
        let read: Vec<_> = index.rows(&mut ids).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.len(), rows.len());
        for (row, wanted) in read.iter().zip(&table[1..]) {
            prop_assert_eq!((&row.id, &row.path), (&wanted[0], &wanted[1]));
            prop_assert_eq!(&row.file, &Path::new("in").join(&wanted[1]));
            prop_assert_eq!(&row.labels, &vec![("label".to_owned(), wanted[4].clone())]);
            prop_assert!(row.metadata.contains(&("note".to_owned(), wanted[5].clone())));
        }
    }

    #[test]
    fn records_in_shards(records in vec(record(), 0..4), packing in 0usize..3) {
        let packing = [Compression::None, Compression::Zstd, Compression::Lz4][packing];
        let mut shard = ShardBuilder::default();
        records.iter().for_each(|r| shard.push(r));
        let bytes = shard.to_bytes(Path::new("x.arrow"), packing).unwrap();
        let batches: Vec<RecordBatch> = read_shard(Cursor::new(&bytes), "x.arrow", None).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(batches.len(), 1);
        prop_assert_eq!(batches[0].num_rows(), records.len());
        for (row, record) in records.iter().enumerate() {
            check_row(&batches[0], row, record);
        }
    }
}

fn name_list() -> impl Strategy<Value = Vec<Name>> {
    vec("\\PC{0,3}".prop_map(|t| Name::new(t.as_bytes()).unwrap_or_default()), 0..5)
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec(("\\PC{1,6}", "\\PC{0,6}"), 0..3)
}

/// A record of any content; a shard does not ask whether it makes sense.
fn record() -> impl Strategy<Value = Record> {
    let texts = ("\\PC{0,9}", proptest::option::of("\\PC{0,5}"), pairs(), pairs(), "\\PC{0,9}");
    let blocks = (
        vec(any::<u16>(), 0..9),
        vec(any::<u32>(), 0..9),
        vec(any::<u8>(), 0..9),
        vec(any::<i32>(), 0..9),
        vec("\\PC{0,4}", 0..4),
        (name_list(), name_list(), name_list()),
    );
    let atoms = (
        vec(any::<u8>(), 0..9),
        vec(prop::array::uniform3(proptest::num::f32::NORMAL), 0..9),
        prop::array::uniform4(vec(any::<i32>(), 0..9)),
        prop::array::uniform5(vec(any::<i32>(), 0..9)),
        vec(any::<u32>(), 0..9),
        any::<i8>(),
    );
    (texts, blocks, atoms).prop_map(|(texts, blocks, atoms)| {
        let (id, split, labels, metadata, source_path) = texts;
        let (block_types, block_lengths, segment_ids, block_resnums, block_chains, names) = blocks;
        let (block_icodes, block_components, atom_names) = names;
        let (atom_types, positions, neighbors, lists, sizes, modality) = atoms;
        let [atom_intra, atom_inter, block_intra, block_inter] = neighbors;
        let [fixed, moving, torsion_atoms, bond_first, bond_second] = lists;
        Record {
            id,
            modality,
            split,
            labels,
            metadata,
            block_types,
            block_lengths,
            bond_orders: segment_ids.clone(),
            segment_ids,
            atom_types,
            positions,
            atom_intra,
            atom_inter,
            block_intra,
            block_inter,
            block_chains,
            block_resnums,
            block_icodes,
            block_components,
            atom_names,
            source_sha256: source_path.clone(),
            source_path,
            ligand_chemistry: "atoms",
            torsions: Torsions { fixed, moving, sizes, atoms: torsion_atoms },
            bond_first,
            bond_second,
        }
    })
}

fn check_row(batch: &RecordBatch, row: usize, record: &Record) {
    let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned();
    let list = |name: &str| batch.column_by_name(name).unwrap().as_list::<i32>().value(row);
    let texts =
        |name: &str| -> Vec<String> { list(name).as_string::<i32>().iter().map(|t| t.unwrap().to_owned()).collect() };
    let names = |of: &[Name]| -> Vec<String> { of.iter().map(|n| n.as_str().to_owned()).collect() };
    let pairs = |name: &str| -> Vec<(String, String)> {
        let entries = batch.column_by_name(name).unwrap().as_map().value(row);
        let column = |i: usize| -> Vec<String> {
            entries.column(i).as_string::<i32>().iter().map(|t| t.unwrap().to_owned()).collect()
        };
        column(0).into_iter().zip(column(1)).collect()
    };
    assert_eq!((text("id"), text("source_path")), (record.id.clone(), record.source_path.clone()));
    assert_eq!(text("source_sha256"), record.source_sha256);
    assert_eq!(text("ligand_chemistry"), record.ligand_chemistry);
    assert_eq!(batch.column_by_name("modality").unwrap().as_primitive::<Int8Type>().value(row), record.modality);
    let split = batch.column_by_name("split").unwrap();
    assert_eq!(split.is_valid(row).then(|| text("split")), record.split);
    assert_eq!((pairs("labels"), pairs("metadata")), (record.labels.clone(), record.metadata.clone()));
    assert_eq!(list("block_types").as_primitive::<UInt16Type>().values(), &record.block_types);
    for (name, values) in [("block_lengths", &record.block_lengths), ("torsion_sizes", &record.torsions.sizes)] {
        assert_eq!(list(name).as_primitive::<UInt32Type>().values(), values, "{name}");
    }
    for (name, values) in
        [("segment_ids", &record.segment_ids), ("atom_types", &record.atom_types), ("bond_orders", &record.bond_orders)]
    {
        assert_eq!(list(name).as_primitive::<UInt8Type>().values(), values, "{name}");
    }
    for (name, values) in [
        ("atom_intra", &record.atom_intra),
        ("atom_inter", &record.atom_inter),
        ("block_intra", &record.block_intra),
        ("block_inter", &record.block_inter),
        ("torsion_fixed", &record.torsions.fixed),
        ("torsion_moving", &record.torsions.moving),
        ("torsion_atoms", &record.torsions.atoms),
        ("bond_first", &record.bond_first),
        ("bond_second", &record.bond_second),
        ("block_resnums", &record.block_resnums),
    ] {
        assert_eq!(list(name).as_primitive::<Int32Type>().values(), values, "{name}");
    }
    let positions = list("positions");
    let points = positions.as_fixed_size_list();
    let flat: Vec<f32> =
        (0..points.len()).flat_map(|i| points.value(i).as_primitive::<Float32Type>().values().to_vec()).collect();
    assert_eq!(flat, record.positions.as_flattened());
    assert_eq!(texts("block_chains"), record.block_chains);
    assert_eq!(texts("block_icodes"), names(&record.block_icodes));
    assert_eq!(texts("block_components"), names(&record.block_components));
    assert_eq!(texts("atom_names"), names(&record.atom_names));
}

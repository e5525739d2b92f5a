//! The structure readers on a made-up chain in memory: `cargo bench --bench readers`.
//!
//! `tests/bench/readers.py` times them on real files, against gemmi and Biotite.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "criterion makes the entry point; a benchmark may panic"
)]

use std::fmt::Write;

use atomica_prep::read::{read_bytes, Options};
use criterion::{criterion_group, criterion_main, Criterion, Throughput};

const ATOMS: usize = 20_000;
const NAMES: [&str; 5] = ["N", "CA", "C", "O", "CB"];

/// Number, name, residue and place of each atom.
fn atoms() -> impl Iterator<Item = (usize, &'static str, usize, [f64; 3])> {
    (0..ATOMS).map(|i| {
        let along = (i % 9_973) as f64 / 10.0;
        (i + 1, NAMES[i % NAMES.len()], i / NAMES.len() + 1, [along - 400.0, 12.345 - along / 7.0, along / 3.0])
    })
}

fn pdb() -> String {
    let mut text = String::new();
    for (serial, name, residue, [x, y, z]) in atoms() {
        let symbol = &name[..1];
        writeln!(
            text,
            "ATOM  {serial:5}  {name:<3} ALA A{residue:4}    {x:8.3}{y:8.3}{z:8.3}  1.00 20.00          {symbol:>2}  "
        )
        .unwrap();
    }
    text
}

fn mmcif() -> String {
    let mut text = "data_made_up\nloop_\n".to_owned();
    for item in [
        "group_PDB",
        "id",
        "type_symbol",
        "label_atom_id",
        "label_alt_id",
        "label_comp_id",
        "label_asym_id",
        "label_seq_id",
        "pdbx_PDB_ins_code",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
        "occupancy",
        "B_iso_or_equiv",
        "auth_seq_id",
        "auth_asym_id",
        "pdbx_PDB_model_num",
    ] {
        writeln!(text, "_atom_site.{item}").unwrap();
    }
    for (serial, name, residue, [x, y, z]) in atoms() {
        let symbol = &name[..1];
        writeln!(
            text,
            "ATOM {serial:<5} {symbol} {name:<2} . ALA A {residue:<4} ? {x:<8.3} {y:<8.3} {z:<8.3} 1.00 20.00 \
             {residue:<4} A 1"
        )
        .unwrap();
    }
    text
}

fn readers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("readers");
    for (extension, text) in [("pdb", pdb()), ("cif", mmcif())] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(extension, |bencher| {
            bencher.iter(|| read_bytes(text.as_bytes(), extension, "made up", Options::default()).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, readers);
criterion_main!(benches);

//! What reading costs at its worst, in multiples of the file's size: the promise of the README and of `read/bcif`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod written;

use std::fmt::Write as _;
use std::fs;

use atomica_prep::interface::Subject;
use atomica_prep::read::{read_bytes, Options};
use atomica_prep::structure::Source;
use written::{column_of_runs, table, Pack};

/// Most memory that this process has held since the last call with `reset`, in bytes.
fn peak(reset: bool) -> usize {
    if reset {
        fs::write("/proc/self/clear_refs", "5").unwrap();
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// How many times its own size reading takes, roles of residues included.
fn multiple(bytes: &[u8], format: &str) -> f64 {
    let before = peak(true);
    let structure = read_bytes(bytes, format, "x", Options::default()).unwrap();
    let subject = Subject::new(Source { structure, sha256: String::new() });
    assert!(!subject.roles().is_empty());
    (peak(false) - before) as f64 / bytes.len() as f64
}

/// Every atom a residue with an alternate location, in lines as short as may be.
fn pdb() -> Vec<u8> {
    let mut text = String::new();
    for i in 0..50_000 {
        let chain = char::from(b'A' + (i / 10_000) as u8);
        writeln!(text, "ATOM      0  C  AXYZ {chain}{:>4}    {:>8.1}{:>8.1} 0", i % 10_000, i % 1000, i / 1000)
            .unwrap();
    }
    text.into_bytes()
}

/// Every atom a chain, in rows as short as may be.
fn mmcif() -> Vec<u8> {
    let mut text = "data_x\nloop_\n".to_owned();
    for item in ["Cartn_x", "Cartn_y", "Cartn_z", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id"] {
        writeln!(text, "_atom_site.{item}").unwrap();
    }
    for i in 0..100_000 {
        writeln!(text, "{} {} 0 C X {i:x} 1", i % 100, i / 100).unwrap();
    }
    text.into_bytes()
}

/// As many rows as the size of the file allows, in columns that take a few bytes each, all rows different.
fn bcif() -> Vec<u8> {
    const ROWS: i32 = 50_000;
    let names = [
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
        "group_PDB",
        "type_symbol",
        "auth_atom_id",
        "label_atom_id",
        "label_alt_id",
        "auth_comp_id",
        "label_comp_id",
        "auth_asym_id",
        "label_asym_id",
        "auth_seq_id",
        "label_seq_id",
        "pdbx_PDB_ins_code",
        "occupancy",
    ];
    let columns = names.iter().map(|name| column_of_runs(name, ROWS)).collect();
    let padding = Pack::Bytes(vec![0; 3 * ROWS as usize]);
    table(columns, ROWS.into(), padding)
}

#[test]
fn memory_is_bounded_by_the_size_of_the_file() {
    let pdb = multiple(&pdb(), "pdb");
    let mmcif = multiple(&mmcif(), "cif");
    let bcif = multiple(&bcif(), "bcif");
    println!("PDB {pdb:.0}, mmCIF {mmcif:.0}, BinaryCIF {bcif:.0} times the file");
    assert!(pdb < 20.0, "{pdb}");
    assert!(mmcif < 30.0, "{mmcif}");
    assert!(bcif < 400.0, "{bcif}");
}

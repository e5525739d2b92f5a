//! Whole builds of generated complexes, from PDB files to shards: `cargo bench --bench pipeline`.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion makes the entry point; a benchmark may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use atomica_prep::build::Stop;
use atomica_prep::cli;
use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};

const COMPLEXES: u64 = 64;

/// Two slabs of alanines face to face, 250 each; few of them are near enough to be kept.
fn structure(shift: f64) -> String {
    let mut text = String::new();
    for (chain, sign) in [('A', 1.0), ('B', -1.0)] {
        for i in 0..250u32 {
            let (x, y, z) = (f64::from(i % 7) * 6.0, f64::from(i / 7 % 7) * 6.0, f64::from(i / 49) * 6.0);
            let atoms = [("N", 0.0, 0.0), ("CA", 1.46, 0.0), ("C", 2.0, 1.42), ("O", 1.2, 2.4), ("CB", 2.0, -1.4)];
            for (name, dx, dy) in atoms {
                writeln!(
                    text,
                    "ATOM      1  {name:<3} ALA {chain}{:>4}    {:>8.3}{:>8.3}{:>8.3}  1.00  0.00           {}",
                    i + 1,
                    x + dx + shift,
                    y + dy,
                    sign * (z + 2.0),
                    &name[..1]
                )
                .unwrap();
            }
        }
        text += "TER\n";
    }
    text + "END\n"
}

fn inputs(folder: &Path) {
    let mut index = "id,path,chain1,chain2\n".to_owned();
    for i in 0..COMPLEXES {
        fs::write(folder.join(format!("{i}.pdb")), structure(i as f64 * 0.1)).unwrap();
        writeln!(index, "c{i},{i}.pdb,A,B").unwrap();
    }
    fs::write(folder.join("index.csv"), index).unwrap();
}

fn pipeline(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    inputs(folder.path());
    let mut group = criterion.benchmark_group("pipeline");
    group.sample_size(20).throughput(Throughput::Elements(COMPLEXES));
    for threads in ["1", "2"] {
        let [index, out] = ["index.csv", "out"].map(|name| folder.path().join(name).display().to_string());
        let arguments = ["build-graphs", &index, "--out", &out, "--overwrite", "--threads", threads];
        let arguments = arguments.map(str::to_owned);
        group.bench_function(BenchmarkId::new("build-graphs, threads", threads), |bencher| {
            bencher.iter(|| assert_eq!(cli::run(&arguments, &Stop::default()), 0));
        });
    }
    group.finish();
}

criterion_group!(benches, pipeline);
criterion_main!(benches);

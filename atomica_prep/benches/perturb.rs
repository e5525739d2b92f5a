//! Noise on a batch of made-up complexes of 62 blocks and 486 atoms: `cargo bench --bench perturb`.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion makes the entry point; a benchmark may panic")]

use atomica_prep::perturb::{perturb, Complex, Noise, Options};
use atomica_prep::torsion::Torsions;
use criterion::{criterion_group, criterion_main, Criterion, Throughput};

const BATCH: u64 = 16;
/// Atoms of each of the 30 residues of a partner; with the global atom 243.
const ATOMS: [usize; 30] = [8, 9, 7, 8, 8, 9, 8, 8, 7, 8, 8, 9, 8, 8, 8, 7, 8, 9, 8, 8, 8, 8, 8, 9, 8, 8, 8, 8, 9, 7];

/// Two slabs of zigzag residues, each with three bonds that turn its last atoms.
fn complex() -> Complex {
    let mut complex = Complex { torsions: Torsions::default(), ..Complex::default() };
    for segment in [0u8, 1] {
        complex.block_types.push(3);
        complex.block_lengths.push(1);
        complex.segments.push(segment);
        complex.atom_types.push(2);
        complex.positions.push([12.0, 15.0, 6.0 * f32::from(segment)]);
        for (residue, length) in ATOMS.into_iter().enumerate() {
            complex.block_types.push(4 + (residue % 20) as u16);
            complex.block_lengths.push(length as u32);
            complex.segments.push(segment);
            let first = complex.positions.len();
            let (row, column) = ((residue / 5) as f32, (residue % 5) as f32);
            for atom in 0..length {
                let step = atom as f32;
                complex.atom_types.push(8);
                complex.positions.push([
                    6.0 * column + 0.8 * (atom % 2) as f32 + 0.1 * row,
                    6.0 * row + 0.7 * step,
                    8.0 * f32::from(segment) + 0.6 * ((atom / 2) % 2) as f32 + 0.05 * column,
                ]);
            }
            for bond in 2..5 {
                let moved = first + bond + 1..first + length;
                complex.torsions.fixed.push((first + bond) as i32);
                complex.torsions.moving.push((first + bond + 1) as i32);
                complex.torsions.sizes.push(moved.len() as u32);
                complex.torsions.atoms.extend(moved.map(|atom| atom as i32));
            }
        }
    }
    complex
}

fn noise(criterion: &mut Criterion) {
    let complexes: Vec<Complex> = (0..BATCH).map(|_| complex()).collect();
    let seeds: Vec<u64> = (0..BATCH).collect();
    let moves = Noise {
        rotation_sigma: 0.25,
        rotation_max: 0.5,
        translation_sigma: 1.0,
        torsion_sigma: 0.5,
        ..Noise::default()
    };
    let mut group = criterion.benchmark_group("perturb");
    group.throughput(Throughput::Elements(BATCH));
    for (name, noise, neighbors, max_blocks) in [
        ("moves", moves, 0, None),
        ("moves, neighbours", moves, 8, None),
        ("moves, masks, neighbours", Noise { mask_proportion: 0.15, ..moves }, 8, None),
        ("crop, neighbours", Noise::default(), 8, Some(40)),
    ] {
        let options = Options { noise, neighbors, max_blocks, unknown_is_global: false };
        group.bench_function(name, |bencher| {
            bencher.iter(|| perturb(complexes.clone(), &seeds, None, &options).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, noise);
criterion_main!(benches);

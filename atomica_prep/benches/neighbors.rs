//! Neighbour search among points as dense as the atoms of a protein: `cargo bench --bench neighbors`.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion makes the entry point; a benchmark may panic")]

use atomica_prep::neighbors::{nearest_in_complex, pairs_within};
use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion, Throughput};

/// A cube of points about 2.6 Å apart, each moved a little by a fixed recipe.
fn points(count: usize) -> Vec<[f32; 3]> {
    let side = (count as f64).cbrt().ceil() as usize;
    let shift = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 1023) as f32 / 1024.0;
    (0..count)
        .map(|i| [(i / (side * side), 3 * i), (i / side % side, 3 * i + 1), (i % side, 3 * i + 2)])
        .map(|cell| cell.map(|(place, number)| place as f32 * 2.6 + 1.3 * shift(number)))
        .collect()
}

fn neighbors(criterion: &mut Criterion) {
    const K: usize = 8;
    let mut group = criterion.benchmark_group("neighbors");
    for count in [500, 5_000, 50_000] {
        let points = points(count);
        // Two partners that face each other.
        let segments: Vec<u8> = (0..count).map(|i| u8::from(2 * i >= count)).collect();
        let eligible = vec![true; count];
        let (mut intra, mut inter) = (vec![0; count * K], vec![0; count * K]);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("nearest 8, one partner", count), |bencher| {
            let one = vec![0; count];
            bencher.iter(|| nearest_in_complex(&points, &one, &eligible, K, 0, &mut intra, &mut inter));
        });
        group.bench_function(BenchmarkId::new("nearest 8, two partners", count), |bencher| {
            bencher.iter(|| nearest_in_complex(&points, &segments, &eligible, K, 0, &mut intra, &mut inter));
        });
        group.bench_function(BenchmarkId::new("pairs within 5 Å", count), |bencher| {
            bencher.iter(|| pairs_within(&points, 5.0).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, neighbors);
criterion_main!(benches);

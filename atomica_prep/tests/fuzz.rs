//! The fuzz targets over their seeds and over seeds that were damaged at random, on any compiler. What fuzzing for
//! hours has found lies among the seeds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

#[path = "../fuzz/src/lib.rs"]
mod targets;
mod written;

use std::fs;
use std::io::Write as _;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use atomica_prep::dataset::{Compression, ShardBuilder};
use atomica_prep::record::Record;
use written::{bcif, mmcif, pdb, Model, Step};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn shard(compression: Compression) -> Vec<u8> {
    let record = Record {
        id: "x".to_owned(),
        labels: vec![("label".to_owned(), "1".to_owned())],
        block_types: vec![3, 4],
        block_lengths: vec![1, 1],
        atom_types: vec![2, 8],
        positions: vec![[0.0; 3], [1.0, 2.0, 3.0]],
        block_chains: vec![String::new(), "A".to_owned()],
        ..Record::default()
    };
    let mut shard = ShardBuilder::default();
    shard.push(&record);
    shard.push(&record);
    shard.to_bytes(Path::new("x.arrow"), compression).unwrap()
}

/// Seeds that are made instead of kept, because they are binary.
fn made(target: &str) -> Vec<Vec<u8>> {
    let model = Model::small();
    let steps = [&[][..], &[Step::Delta, Step::RunLength], &[Step::Delta, Step::Packing(1)]];
    let binary = || steps.map(|s| bcif(&model, s));
    match target {
        "pdb" => vec![pdb(&model).into_bytes()],
        "mmcif" => vec![mmcif(&model).into_bytes()],
        "bcif" => binary().to_vec(),
        "packed" => {
            let texts = [pdb(&model).into_bytes(), mmcif(&model).into_bytes(), binary()[1].clone()];
            let with = |(which, packed): (u8, Vec<u8>)| [vec![which], packed].concat();
            let gzipped = texts.iter().map(|t| gzip(t));
            let zstd = texts.iter().map(|t| zstd::encode_all(t.as_slice(), 3).unwrap());
            (0..).zip(gzipped.chain(zstd)).map(with).collect()
        }
        "shard" => [Compression::None, Compression::Zstd, Compression::Lz4].map(shard).to_vec(),
        _ => Vec::new(),
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder(target)).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut seeds = made(target);
    seeds.extend(files.iter().map(|file| fs::read(file).unwrap()));
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

/// Numbers that look random and are the same everywhere (xorshift64*).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }
}

/// One to four kinds of damage: bits, bytes, lengths, pieces of another seed.
fn damaged(seed: &[u8], other: &[u8], dice: &mut Dice) -> Vec<u8> {
    const BYTES: [u8; 12] = [0, 1, 0x7f, 0x80, 0xff, 0xc1, 0xdd, b' ', b'\n', b'-', b'9', b'\''];
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        let length = dice.below(32);
        match dice.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            1 if !bytes.is_empty() => bytes[at] = BYTES[dice.below(BYTES.len())],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + length).min(seed.len()).min(bytes.len()).max(at))),
            4 => {
                let from = dice.below(other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let end = (at + length).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                // Where formats keep lengths, the largest number is the worst.
                let end = (at + 4).min(bytes.len());
                bytes[at.min(end)..end].fill(BYTES[dice.below(5)]);
            }
        }
    }
    bytes
}

fn try_one(name: &str, run: fn(&[u8]), bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| run(bytes))).is_err() {
        let path = std::env::temp_dir().join(format!("atomica-fuzz-{name}"));
        fs::write(&path, bytes).unwrap();
        panic!(
            "target {name}: the bytes are in {}; once mended, put them into {}",
            path.display(),
            folder(name).display()
        );
    }
}

/// Each target over its seeds and 3000 damaged ones, or as many as `ATOMICA_FUZZ_RUNS` says.
fn fuzz(target: &str) {
    let (name, run) = *targets::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = seeds(name);
    for seed in &seeds {
        try_one(name, run, seed);
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let runs = std::env::var("ATOMICA_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3000u32);
    for _ in 0..runs {
        let (seed, other) = (dice.below(seeds.len()), dice.below(seeds.len()));
        try_one(name, run, &damaged(&seeds[seed], &seeds[other], &mut dice));
    }
}

mod damaged_seeds {
    macro_rules! tests {
        ($($name:ident)*) => {
            $(#[test]
            fn $name() {
                super::fuzz(stringify!($name));
            })*

            #[test]
            fn of_every_target() {
                let run = [$(stringify!($name)),*];
                assert_eq!(super::targets::TARGETS.map(|(name, _)| name), run);
            }
        };
    }
    tests!(pdb mmcif bcif sdf mol2 pdbqt packed index shard);
}

#[test]
fn made_seeds_are_read_to_the_end() {
    use atomica_prep::read::{read_bytes, Options};
    let atoms = Model::small().atoms().count();
    for target in ["pdb", "mmcif", "bcif"] {
        for seed in made(target) {
            assert_eq!(
                read_bytes(&seed, target, target, Options::default()).unwrap().positions.len(),
                atoms,
                "{target}"
            );
        }
    }
}

/// Writes the made seeds beside the kept ones, for `fuzz/smoke.sh`.
#[test]
#[ignore = "writes into the folder that ATOMICA_FUZZ_SEEDS names"]
fn write_seeds() {
    let root = PathBuf::from(std::env::var("ATOMICA_FUZZ_SEEDS").unwrap());
    for (name, _) in targets::TARGETS {
        fs::create_dir_all(root.join(name)).unwrap();
        for (i, seed) in seeds(name).iter().enumerate() {
            fs::write(root.join(name).join(format!("seed-{i}")), seed).unwrap();
        }
    }
}

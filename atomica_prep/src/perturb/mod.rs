//! Noise for pretraining: one partner of a complex is turned, shifted and twisted, blocks are hidden, and what is too
//! large is cropped.
//!
//! A batch goes crop → lone partners → draws → noise → masks → neighbour lists, each complex by itself, so that neither its batch nor
//! the number of threads matters. Random numbers are those of ChaCha with 8 rounds, the same on every platform, from
//! one seed per complex; each kind of noise has a stream of its own, so that switching one on leaves the others as they
//! are. Everything behind the draws is a plain function of them.
#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "indices are checked at the entrance, by Complex::check and Draws::check"
)]

mod complex;
mod densities;
mod draws;
mod geometry;

use complex::{twist, Bond};
pub use complex::{Complex, Noise};
pub use densities::{torsion_score, RotationTable};
use draws::{maskable, Random, Stream};
pub use draws::{Draws, SMALLEST_SCALE};
use geometry::{add, apply, dot, mean, narrow, rotation, sub, superpose, times, wide, Point};
use rayon::prelude::*;

use crate::neighbors;
use crate::torsion::MAX_WHOLE;
use crate::vocab::{FIRST_MOLECULE_BLOCK, GLOBAL_ATOM, GLOBAL_BLOCK, MASK_ATOM, MASK_BLOCK, UNKNOWN_BLOCK};

/// Among so many closest pairs of blocks is that around which a complex is cropped.
const CLOSEST_PAIRS: usize = 5;

/// Å; a block with an atom this close to one of the other partner touches it.
const CONTACT: f64 = 4.0;

/// Keeps at most `limit` blocks, those nearest to a place where the two partners are close, in their order.
///
/// Global blocks are kept and counted. The place is one of the five closest pairs of blocks; where one partner is alone,
/// it is one of its blocks. Gives the blocks that were kept, too.
fn crop(complex: &Complex, limit: usize, pair: impl FnOnce(usize) -> usize) -> Result<(Complex, Vec<usize>), String> {
    let blocks = complex.block_types.len();
    let globals = complex.block_types.iter().filter(|kind| **kind == GLOBAL_BLOCK).count();
    let Some(room) = limit.checked_sub(globals).filter(|room| *room >= 2) else {
        return Err(format!("has {globals} global blocks; {limit} blocks leave no room for one of each partner"));
    };
    let centers = complex.centers();
    let places = closest(complex, &centers);
    if places.is_empty() {
        return Err("has only global blocks, too many of them".to_owned());
    }
    let chosen = pair(places.len());
    let Some(place) = places.get(chosen) else {
        return Err(format!("there are {} pairs to crop around, and no number {chosen}", places.len()));
    };
    let mut ranked: Vec<(f64, usize)> = (0..blocks)
        .filter(|block| complex.block_types[*block] != GLOBAL_BLOCK)
        .map(|block| {
            let apart = sub(centers[block], centers[place[complex.segments[block] as usize]]);
            (dot(apart, apart), block)
        })
        .collect();
    ranked.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut keep: Vec<bool> = complex.block_types.iter().map(|kind| *kind == GLOBAL_BLOCK).collect();
    for (_, block) in ranked.into_iter().take(room) {
        keep[block] = true;
    }
    Ok((only(complex, &keep), (0..blocks).filter(|block| keep[*block]).collect()))
}

/// A block of each segment, for the closest pairs, ascending. Of a single partner every block, with itself.
fn closest(complex: &Complex, centers: &[Point]) -> Vec<[usize; 2]> {
    let members = [0, 1].map(|segment| -> Vec<usize> {
        let all = 0..centers.len();
        all.filter(|b| complex.segments[*b] == segment && complex.block_types[*b] != GLOBAL_BLOCK).collect()
    });
    if members.iter().any(Vec::is_empty) {
        return members.concat().into_iter().map(|block| [block, block]).collect();
    }
    let mut found: Vec<(f64, [usize; 2])> = Vec::with_capacity(CLOSEST_PAIRS + 1);
    for &one in &members[0] {
        for &other in &members[1] {
            let apart = sub(centers[one], centers[other]);
            let distance = dot(apart, apart);
            if found.len() == CLOSEST_PAIRS && found.last().is_some_and(|last| distance >= last.0) {
                continue;
            }
            let at = found.partition_point(|f| f.0 <= distance);
            found.insert(at, (distance, [one, other]));
            found.truncate(CLOSEST_PAIRS);
        }
    }
    found.into_iter().map(|(_, pair)| pair).collect()
}

/// Some blocks of a complex, with what belongs to them; global atoms and rotatable bonds are found anew.
fn only(complex: &Complex, keep: &[bool]) -> Complex {
    let mut kept = Complex::default();
    // Index of each atom among those that are kept, or -1.
    let mut index: Vec<i32> = vec![-1; complex.positions.len()];
    for (block, atoms) in complex.blocks().filter(|(block, _)| keep[*block]) {
        kept.block_types.push(complex.block_types[block]);
        kept.block_lengths.push(complex.block_lengths[block]);
        kept.segments.push(complex.segments[block]);
        for atom in atoms {
            index[atom] = kept.positions.len() as i32;
            kept.positions.push(complex.positions[atom]);
            kept.atom_types.push(complex.atom_types[atom]);
        }
    }
    for segment in [0, 1] {
        let own = kept.ordinary_atoms(segment);
        let center = mean(own.iter().map(|a| wide(&kept.positions[*a])));
        if !own.is_empty() {
            for atom in global_atoms(&kept, segment) {
                kept.positions[atom] = narrow(center);
            }
        }
        let lost = complex.segments.iter().zip(keep).any(|(s, keep)| *s == segment && !keep);
        if lost && !kept.has_residues(segment) {
            // A molecule of which a part is gone may have come to pieces.
            if let (Some(first), Some(last)) = (own.first(), own.last()) {
                let atoms = *first..last + 1;
                if atoms.len() <= MAX_WHOLE {
                    let types = &kept.atom_types[atoms.clone()];
                    let elements: Vec<u8> = types.iter().map(|t| t.saturating_sub(GLOBAL_ATOM)).collect();
                    let backbone = vec![false; atoms.len()];
                    kept.torsions.add(&kept.positions[atoms], &elements, &backbone, *first);
                }
            }
            continue;
        }
        for Bond { fixed, moving, moved } in complex.bonds(segment) {
            let all = || moved.iter().chain([&fixed, &moving]);
            if all().all(|atom| index[*atom as usize] >= 0) {
                kept.torsions.fixed.push(index[fixed as usize]);
                kept.torsions.moving.push(index[moving as usize]);
                kept.torsions.sizes.push(moved.len() as u32);
                kept.torsions.atoms.extend(moved.iter().map(|atom| index[*atom as usize]));
            }
        }
    }
    kept
}

fn global_atoms(complex: &Complex, segment: u8) -> Vec<usize> {
    complex.atoms(segment, |kind| kind == GLOBAL_BLOCK)
}

/// Of each block of a segment, its global ones included, whether it touches the other segment.
fn touching(complex: &Complex, segment: u8) -> Result<Vec<bool>, String> {
    let mut of_atom = Vec::with_capacity(complex.positions.len());
    let mut positions = Vec::with_capacity(complex.positions.len());
    for (block, atoms) in complex.blocks().filter(|(block, _)| complex.block_types[*block] != GLOBAL_BLOCK) {
        of_atom.resize(of_atom.len() + atoms.len(), block);
        positions.extend_from_slice(&complex.positions[atoms]);
    }
    let mut touches = vec![false; complex.segments.len()];
    let (first, second) = neighbors::pairs_within(&positions, CONTACT)?;
    for (one, other) in first.into_iter().zip(second) {
        let (one, other) = (of_atom[one as usize], of_atom[other as usize]);
        if complex.segments[one] != complex.segments[other] {
            (touches[one], touches[other]) = (true, true);
        }
    }
    let own = complex.segments.iter().zip(touches).filter(|(of, _)| **of == segment);
    Ok(own.map(|(_, touches)| touches).collect())
}

/// One complex after all that was done to it. Atoms and blocks are counted within it.
#[derive(Debug, Clone, Default)]
struct Outcome {
    complex: Complex,
    /// Blocks of the complex as it came.
    kept: Vec<usize>,
    cropped: bool,
    lone: Option<u8>,
    /// Types of the molecules' blocks of the partner that was left out, less those of special blocks.
    absent: Vec<i64>,
    /// Of each block that is left: does it touch what was left out? Empty where nothing was.
    touching: Vec<bool>,
    masked: Vec<bool>,
    labels: Vec<i64>,
    segment: Option<u8>,
    /// Axis times angle.
    rotation: Point,
    rotation_score: Point,
    translation_eps: f64,
    translation_score: Point,
    bonds: Vec<[i32; 2]>,
    angles: Vec<f64>,
    atom_eps: f64,
    atom_score: Vec<Point>,
}

impl Outcome {
    /// One segment of a complex, with a note of what is gone.
    fn leave_alone(&mut self, complex: &Complex, segment: u8) -> Result<Complex, String> {
        let keep: Vec<bool> = complex.segments.iter().map(|s| *s == segment).collect();
        if !keep.contains(&true) {
            return Err(format!("lone: there is no segment {segment}"));
        }
        let gone =
            complex.block_types.iter().zip(&keep).filter(|(kind, keep)| !**keep && **kind >= FIRST_MOLECULE_BLOCK);
        self.absent = gone.map(|(kind, _)| i64::from(*kind) - i64::from(FIRST_MOLECULE_BLOCK)).collect();
        self.touching = touching(complex, segment)?;
        let mut places = keep.iter();
        self.kept.retain(|_| *places.next().unwrap_or(&true));
        Ok(only(complex, &keep))
    }
}

/// Moves one segment; fills what is told about it in `outcome`, whose complex is still without masks.
fn shake(outcome: &mut Outcome, draws: &Draws, noise: &Noise, table: Option<&RotationTable>) {
    let complex = &mut outcome.complex;
    if noise.gaussian_sigma > 0.0 {
        outcome.atom_score = vec![[0.0; 3]; complex.positions.len()];
    }
    let Some(segment) = draws.segment else { return };
    let mut positions: Vec<Point> = complex.positions.iter().map(wide).collect();
    let (own, global) = (complex.ordinary_atoms(segment), global_atoms(complex, segment));
    if let (Some((angle, axis)), Some(table)) = (draws.rotation, table) {
        let center = mean(own.iter().map(|a| positions[*a]));
        let axis = times(axis, 1.0 / dot(axis, axis).sqrt());
        let matrix = rotation(axis, table.angles[angle]);
        for &atom in &own {
            let p = &mut positions[atom];
            *p = add(apply(&matrix, sub(*p, center)), center);
        }
        outcome.rotation = times(axis, table.angles[angle]);
        outcome.rotation_score = times(axis, table.scores[angle]);
    }
    if let Some((eps, score)) = draws.translation {
        for &atom in own.iter().chain(&global) {
            positions[atom] = add(positions[atom], times(score, eps));
        }
        (outcome.translation_eps, outcome.translation_score) = (eps, score);
    }
    let bonds = complex.bonds(segment);
    if !draws.torsions.is_empty() {
        let before: Vec<Point> = own.iter().map(|a| positions[*a]).collect();
        for (bond, angle) in bonds.iter().zip(&draws.torsions) {
            twist(&mut positions, bond, *angle);
        }
        if !complex.has_residues(segment) {
            let mut after: Vec<Point> = own.iter().map(|a| positions[*a]).collect();
            superpose(&mut after, &before);
            for (atom, p) in own.iter().zip(after) {
                positions[*atom] = p;
            }
        }
        outcome.bonds = bonds.iter().map(|bond| [bond.fixed, bond.moving]).collect();
        outcome.angles.clone_from(&draws.torsions);
    }
    let still = draws.gaussian.as_ref().map(|_| positions.clone());
    if let Some((eps, shifts)) = &draws.gaussian {
        for (atom, shift) in own.iter().zip(shifts) {
            positions[*atom] = add(positions[*atom], times(*shift, *eps));
        }
        outcome.atom_eps = *eps;
    }
    let center = mean(own.iter().map(|a| positions[*a]));
    for &atom in &global {
        positions[atom] = center;
    }
    if let Some(still) = still {
        let scale = 1.0 / outcome.atom_eps;
        outcome.atom_score = still.iter().zip(&positions).map(|(a, b)| times(sub(*a, *b), scale)).collect();
    }
    complex.positions = positions.into_iter().map(narrow).collect();
}

/// Hides blocks: each becomes one atom at the mean of its atoms.
fn mask(outcome: &mut Outcome, masked: &[usize]) {
    outcome.masked = vec![false; outcome.complex.block_types.len()];
    if masked.is_empty() {
        return;
    }
    let can = maskable(&outcome.complex);
    for &number in masked {
        outcome.masked[can[number]] = true;
    }
    let complex = &outcome.complex;
    let mut hidden = Complex { segments: complex.segments.clone(), ..Complex::default() };
    let mut scores: Vec<Point> = Vec::new();
    let mut index: Vec<i32> = Vec::with_capacity(complex.positions.len());
    for (block, atoms) in complex.blocks() {
        let first = hidden.positions.len() as i32;
        let kind = complex.block_types[block];
        let score = outcome.atom_score.get(atoms.clone()).unwrap_or_default();
        if outcome.masked[block] {
            outcome.labels.push(i64::from(kind) - i64::from(FIRST_MOLECULE_BLOCK));
            index.extend(std::iter::repeat_n(first, atoms.len()));
            hidden.block_types.push(MASK_BLOCK);
            hidden.block_lengths.push(1);
            hidden.atom_types.push(MASK_ATOM);
            hidden.positions.push(narrow(mean(complex.positions[atoms].iter().map(wide))));
            if !score.is_empty() {
                scores.push(mean(score.iter().copied()));
            }
        } else {
            index.extend((first..).take(atoms.len()));
            hidden.block_types.push(kind);
            hidden.block_lengths.push(complex.block_lengths[block]);
            hidden.atom_types.extend_from_slice(&complex.atom_types[atoms.clone()]);
            hidden.positions.extend_from_slice(&complex.positions[atoms]);
            scores.extend_from_slice(score);
        }
    }
    let moved = outcome.bonds.iter().map(|bond| bond.map(|atom| index[atom as usize])).zip(&outcome.angles);
    (outcome.bonds, outcome.angles) = moved.filter(|([a, b], _)| a != b).unzip();
    outcome.complex = hidden;
    outcome.atom_score = scores;
}

/// How a batch is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The noise.
    pub noise: Noise,
    /// Neighbours of each atom and block.
    pub neighbors: usize,
    /// Larger complexes are cropped to so many blocks.
    pub max_blocks: Option<usize>,
    /// Blocks of unknown type have no neighbours, as if they were global ones.
    pub unknown_is_global: bool,
}

/// Complex number `complex` of a batch cannot be perturbed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its number.
    pub complex: usize,
    /// Why.
    pub reason: String,
}

/// A perturbed batch; atoms and blocks are counted over all of it. Lists of neighbours are rows × neighbours.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the fields are those of noise.Perturbed, and described there")]
pub struct Batch {
    pub positions: Vec<[f32; 3]>,
    pub atom_types: Vec<i64>,
    pub block_types: Vec<i64>,
    pub block_lengths: Vec<i64>,
    pub segments: Vec<i64>,
    pub block_counts: Vec<i64>,
    pub kept_blocks: Vec<i64>,
    pub cropped: Vec<bool>,
    pub masked: Vec<bool>,
    pub mask_labels: Vec<i64>,
    /// -1 where both partners are there.
    pub lone: Vec<i64>,
    pub absent_types: Vec<i64>,
    pub absent_counts: Vec<i64>,
    /// 1, 0, or -1 where both partners are there, and of global blocks.
    pub touching: Vec<i64>,
    /// -1 where nothing was moved.
    pub segment: Vec<i64>,
    pub rotation: Vec<[f64; 3]>,
    pub rotation_score: Vec<[f32; 3]>,
    pub translation_eps: Vec<f32>,
    pub translation_score: Vec<[f32; 3]>,
    pub torsion_fixed: Vec<i64>,
    pub torsion_moving: Vec<i64>,
    pub torsion_angles: Vec<f64>,
    pub torsion_score: Vec<f32>,
    pub atom_eps: Vec<f32>,
    /// Empty without Gaussian noise.
    pub atom_score: Vec<[f32; 3]>,
    pub atom_intra: Vec<i32>,
    pub atom_inter: Vec<i32>,
    pub block_intra: Vec<i32>,
    pub block_inter: Vec<i32>,
}

/// Perturbs a batch, one seed per complex. `draws`, if given, are used instead of random ones.
///
/// # Errors
/// The first complex whose columns, or draws, do not fit together, or that is too large for a batch.
///
/// # Panics
/// There are not as many seeds, and draws if any, as complexes.
pub fn perturb(
    complexes: Vec<Complex>,
    seeds: &[u64],
    draws: Option<&[Draws]>,
    options: &Options,
) -> Result<Batch, Refused> {
    assert!(seeds.len() == complexes.len() && draws.is_none_or(|d| d.len() == seeds.len()), "one length");
    let noise = &options.noise;
    let table = (noise.rotation_sigma > 0.0).then(|| RotationTable::cached(noise.rotation_sigma, noise.rotation_max));
    let sizes: Vec<usize> = complexes.iter().map(|c| c.block_types.len()).collect();
    let outcomes: Vec<Result<Outcome, String>> = complexes
        .into_par_iter()
        .enumerate()
        .map(|(i, complex)| perturb_one(complex, seeds[i], draws.map(|d| &d[i]), table.as_deref(), options))
        .collect();
    let mut batch = Batch::default();
    let mut first_block = 0;
    for (complex, (outcome, blocks)) in outcomes.into_iter().zip(sizes).enumerate() {
        let outcome = outcome.map_err(|reason| Refused { complex, reason })?;
        batch.push(outcome, first_block, noise);
        first_block += blocks as i64;
    }
    batch.find_neighbors(options)?;
    Ok(batch)
}

fn perturb_one(
    complex: Complex,
    seed: u64,
    given: Option<&Draws>,
    table: Option<&RotationTable>,
    options: &Options,
) -> Result<Outcome, String> {
    complex.check()?;
    let blocks = complex.block_types.len();
    let limit = options.max_blocks.filter(|limit| blocks > *limit);
    let (complex, kept) = match limit {
        Some(limit) => crop(&complex, limit, |pairs| match given {
            Some(draws) => draws.pair,
            None => Random::new(seed, Stream::Crop).below(pairs),
        })?,
        None => (complex, (0..blocks).collect()),
    };
    let lone = given.map_or_else(|| Draws::alone(&complex, &options.noise, seed), |draws| draws.lone);
    let mut outcome = Outcome { kept, cropped: limit.is_some(), lone, ..Outcome::default() };
    outcome.complex = match lone {
        Some(segment) => outcome.leave_alone(&complex, segment)?,
        None => complex,
    };
    let drawn;
    let draws = if let Some(draws) = given {
        draws.check(&outcome.complex, table)?;
        draws
    } else {
        drawn = Draws::new(&outcome.complex, &options.noise, table, lone, seed);
        &drawn
    };
    outcome.segment = draws.segment;
    shake(&mut outcome, draws, &options.noise, table);
    mask(&mut outcome, &draws.masked);
    Ok(outcome)
}

impl Batch {
    fn push(&mut self, outcome: Outcome, first_block: i64, noise: &Noise) {
        let first_atom = self.positions.len() as i64;
        let complex = outcome.complex;
        self.block_counts.push(complex.block_types.len() as i64);
        self.touching.extend(complex.block_types.iter().enumerate().map(|(block, kind)| {
            outcome.touching.get(block).filter(|_| *kind != GLOBAL_BLOCK).map_or(-1, |touches| i64::from(*touches))
        }));
        self.positions.extend_from_slice(&complex.positions);
        self.atom_types.extend(complex.atom_types.iter().map(|t| i64::from(*t)));
        self.block_types.extend(complex.block_types.iter().map(|t| i64::from(*t)));
        self.block_lengths.extend(complex.block_lengths.iter().map(|l| i64::from(*l)));
        self.segments.extend(complex.segments.iter().map(|s| i64::from(*s)));
        self.kept_blocks.extend(outcome.kept.iter().map(|block| first_block + *block as i64));
        self.cropped.push(outcome.cropped);
        self.masked.extend(outcome.masked);
        self.mask_labels.extend(outcome.labels);
        self.lone.push(outcome.lone.map_or(-1, i64::from));
        self.absent_counts.push(outcome.absent.len() as i64);
        self.absent_types.extend(outcome.absent);
        self.segment.push(outcome.segment.map_or(-1, i64::from));
        self.rotation.push(outcome.rotation);
        self.rotation_score.push(narrow(outcome.rotation_score));
        self.translation_eps.push(outcome.translation_eps as f32);
        self.translation_score.push(narrow(outcome.translation_score));
        self.torsion_fixed.extend(outcome.bonds.iter().map(|[fixed, _]| first_atom + i64::from(*fixed)));
        self.torsion_moving.extend(outcome.bonds.iter().map(|[_, moving]| first_atom + i64::from(*moving)));
        self.torsion_score.extend(outcome.angles.iter().map(|a| torsion_score(*a, noise.torsion_sigma) as f32));
        self.torsion_angles.extend(outcome.angles);
        self.atom_eps.push(outcome.atom_eps as f32);
        self.atom_score.extend(outcome.atom_score.into_iter().map(narrow));
    }

    fn find_neighbors(&mut self, options: &Options) -> Result<(), Refused> {
        let too_large = |reason: String| Refused { complex: self.block_counts.len().saturating_sub(1), reason };
        let complex_of_block: Vec<i64> = (0i64..)
            .zip(&self.block_counts)
            .flat_map(|(complex, count)| std::iter::repeat_n(complex, *count as usize))
            .collect();
        let apart = |kind: i64| {
            kind == i64::from(GLOBAL_BLOCK) || (options.unknown_is_global && kind == i64::from(UNKNOWN_BLOCK))
        };
        let eligible: Vec<bool> = self.block_types.iter().map(|kind| !apart(*kind)).collect();
        let segments: Vec<u8> = self.segments.iter().map(|s| *s as u8).collect();
        let mut centers = Vec::with_capacity(segments.len());
        let (mut atom_complexes, mut atom_segments, mut atom_eligible) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (block, length) in self.block_lengths.iter().enumerate() {
            let length = *length as usize;
            centers.push(narrow(mean(self.positions[start..start + length].iter().map(wide))));
            start += length;
            atom_complexes.resize(start, complex_of_block[block]);
            atom_segments.resize(start, segments[block]);
            atom_eligible.resize(start, eligible[block]);
        }
        let k = options.neighbors;
        let atoms = neighbors::nearest(&self.positions, &atom_complexes, &atom_segments, &atom_eligible, k);
        let blocks = neighbors::nearest(&centers, &complex_of_block, &segments, &eligible, k);
        (self.atom_intra, self.atom_inter) = atoms.map_err(too_large)?;
        (self.block_intra, self.block_inter) = blocks.map_err(too_large)?;
        Ok(())
    }
}

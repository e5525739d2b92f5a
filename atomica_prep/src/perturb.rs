//! Noise for pretraining: one partner of a complex is turned, shifted and twisted, blocks are hidden, and what is too
//! large is cropped.
//!
//! A batch goes crop → draws → noise → masks → neighbour lists, each complex by itself, so that neither its batch nor
//! the number of threads matters. Random numbers are those of ChaCha with 8 rounds, the same on every platform, from
//! one seed per complex; each kind of noise has a stream of its own, so that switching one on leaves the others as they
//! are. Everything behind the draws is a plain function of them.
#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "indices are checked at the entrance, by Complex::check and Draws::check"
)]

use std::f64::consts::{PI, TAU};
use std::sync::{Arc, Mutex, PoisonError};

use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform, UnitSphere};
use rayon::prelude::*;

use crate::neighbors;
use crate::torsion::{Torsions, MAX_WHOLE};
use crate::vocab::{
    FIRST_MOLECULE_BLOCK, GLOBAL_ATOM, GLOBAL_BLOCK, MASK_ATOM, MASK_BLOCK, RESIDUE_BLOCKS, UNKNOWN_BLOCK,
};

type Point = [f64; 3];
type Matrix = [[f64; 3]; 3];

/// Å; the smallest scale of a translation and of Gaussian noise.
pub const SMALLEST_SCALE: f64 = 0.1;

/// Among so many closest pairs of blocks is that around which a complex is cropped.
const CLOSEST_PAIRS: usize = 5;

/// What noise to make; 0 switches a kind off.
#[derive(Debug, Clone, Copy, Default)]
pub struct Noise {
    /// Width of the distribution of angles, rad.
    pub rotation_sigma: f64,
    /// Largest angle, rad.
    pub rotation_max: f64,
    /// Largest scale of a shift, Å.
    pub translation_sigma: f64,
    /// Standard deviation of torsion angles, rad.
    pub torsion_sigma: f64,
    /// Largest scale of the noise on single atoms, Å; instead of torsions.
    pub gaussian_sigma: f64,
    /// Share of blocks whose type is hidden.
    pub mask_proportion: f64,
}

impl Noise {
    /// Is any atom moved?
    pub fn moves(&self) -> bool {
        self.rotation_sigma > 0.0
            || self.translation_sigma > 0.0
            || self.torsion_sigma > 0.0
            || self.gaussian_sigma > 0.0
    }
}

/// The columns of a record that matter here.
#[derive(Debug, Clone, Default)]
pub struct Complex {
    /// Type of each block.
    pub block_types: Vec<u16>,
    /// Atoms of each block.
    pub block_lengths: Vec<u32>,
    /// 0 or 1 for each block; does not decrease.
    pub segments: Vec<u8>,
    /// Type of each atom.
    pub atom_types: Vec<u8>,
    /// Å.
    pub positions: Vec<[f32; 3]>,
    /// Rotatable bonds.
    pub torsions: Torsions,
}

impl Complex {
    /// Does everything fit together?
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let (blocks, atoms) = (self.block_types.len(), self.positions.len());
        if self.block_lengths.len() != blocks || self.segments.len() != blocks {
            return Err(format!(
                "{blocks} block_types, but {} block_lengths and {} segment_ids",
                self.block_lengths.len(),
                self.segments.len()
            ));
        }
        let total: u64 = self.block_lengths.iter().map(|l| u64::from(*l)).sum();
        if total != atoms as u64 || self.atom_types.len() != atoms || self.block_lengths.contains(&0) {
            return Err(format!(
                "block_lengths must be positive and add up to the {atoms} positions and {} atom_types; the sum is {total}",
                self.atom_types.len()
            ));
        }
        if self.segments.iter().any(|s| *s > 1) || self.segments.windows(2).any(|w| w[0] > w[1]) {
            return Err("segment_ids must be 0 for the first blocks and 1 for the others".to_owned());
        }
        if let Some(atom) = self.positions.iter().position(|p| p.iter().any(|c| !c.is_finite())) {
            return Err(format!("the position of atom {atom} is not finite"));
        }
        self.check_torsions()
    }

    fn check_torsions(&self) -> Result<(), String> {
        let Torsions { fixed, moving, sizes, atoms } = &self.torsions;
        let total: u64 = sizes.iter().map(|s| u64::from(*s)).sum();
        if fixed.len() != sizes.len() || moving.len() != sizes.len() || total != atoms.len() as u64 {
            return Err("the lists of rotatable bonds do not belong together".to_owned());
        }
        let segment_of = self.segment_of_atoms();
        let segment = |atom: i32| usize::try_from(atom).ok().and_then(|a| segment_of.get(a)).copied();
        let mut rest = atoms.as_slice();
        for (t, size) in sizes.iter().enumerate() {
            let (moved, others) = rest.split_at(*size as usize);
            rest = others;
            let own = segment(fixed[t]);
            if own.is_none() || segment(moving[t]) != own || moved.iter().any(|a| segment(*a) != own) {
                return Err(format!("rotatable bond {t} has atoms that are not there or of both segments"));
            }
        }
        Ok(())
    }

    fn segment_of_atoms(&self) -> Vec<u8> {
        let mut found = Vec::with_capacity(self.positions.len());
        for (segment, length) in self.segments.iter().zip(&self.block_lengths) {
            found.resize(found.len() + *length as usize, *segment);
        }
        found
    }

    /// Blocks with the range of their atoms.
    fn blocks(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        let mut end = 0;
        self.block_lengths.iter().enumerate().map(move |(block, length)| {
            let start = end;
            end += *length as usize;
            (block, start..end)
        })
    }

    /// Atoms of a segment, its global atom not counted.
    fn ordinary_atoms(&self, segment: u8) -> Vec<usize> {
        self.atoms(segment, |kind| kind != GLOBAL_BLOCK)
    }

    /// Atoms of the blocks of a segment whose types are asked for.
    fn atoms(&self, segment: u8, wanted: impl Fn(u16) -> bool) -> Vec<usize> {
        let mut found = Vec::with_capacity(self.positions.len());
        for (block, atoms) in self.blocks() {
            if self.segments[block] == segment && wanted(self.block_types[block]) {
                found.extend(atoms);
            }
        }
        found
    }

    /// Its rotatable bonds are those of side chains, and not of the segment as one molecule.
    fn has_residues(&self, segment: u8) -> bool {
        self.block_types.iter().zip(&self.segments).any(|(kind, s)| *s == segment && RESIDUE_BLOCKS.contains(kind))
    }

    /// Mean of the positions of a block's atoms.
    fn centers(&self) -> Vec<Point> {
        self.blocks().map(|(_, atoms)| mean(self.positions[atoms].iter().map(wide))).collect()
    }

    /// Rotatable bonds of a segment, with the atoms that each moves.
    fn bonds(&self, segment: u8) -> Vec<Bond<'_>> {
        let Torsions { fixed, moving, sizes, atoms } = &self.torsions;
        let first = self.first_atom_of(1);
        let mut rest = atoms.as_slice();
        let mut found = Vec::new();
        for ((&fixed, &moving), &size) in fixed.iter().zip(moving).zip(sizes) {
            let (moved, others) = rest.split_at(size as usize);
            rest = others;
            if (fixed as usize >= first) == (segment == 1) {
                found.push(Bond { fixed, moving, moved });
            }
        }
        found
    }

    fn first_atom_of(&self, segment: u8) -> usize {
        let before = self.segments.iter().zip(&self.block_lengths).filter(|(s, _)| **s < segment);
        before.map(|(_, length)| *length as usize).sum()
    }
}

/// A rotatable bond.
#[derive(Debug, Clone, Copy)]
struct Bond<'a> {
    fixed: i32,
    moving: i32,
    moved: &'a [i32],
}

// ---------------------------------------------------------------------------------------------------- random numbers

/// The streams of a complex's generator.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Crop,
    Segment,
    Rotation,
    Translation,
    Torsion,
    Gaussian,
    Mask,
}

struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64, stream: Stream) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream as u64);
        Self(generator)
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        StandardUniform.sample(&mut self.0)
    }

    /// Below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    fn normals(&mut self) -> Point {
        [self.normal(), self.normal(), self.normal()]
    }

    /// Between the smallest scale and `sigma`.
    fn scale(&mut self, sigma: f64) -> f64 {
        SMALLEST_SCALE + (sigma - SMALLEST_SCALE) * self.uniform()
    }

    /// `count` of the numbers below `n`, ascending.
    fn choose(&mut self, n: usize, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        let count = count.min(n);
        for i in 0..count {
            all.swap(i, i + self.below(n - i));
        }
        all.truncate(count);
        all.sort_unstable();
        all
    }
}

/// Everything that chance decides about a complex.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    /// Which of the closest pairs a crop is centred on.
    pub pair: usize,
    /// The segment that is perturbed; `None` where none can be.
    pub segment: Option<u8>,
    /// Number of the angle in the table, and the axis.
    pub rotation: Option<(usize, [f64; 3])>,
    /// Scale in Å, and the shift in units of it.
    pub translation: Option<(f64, [f64; 3])>,
    /// Angle of each rotatable bond of the segment, rad.
    pub torsions: Vec<f64>,
    /// Scale in Å, and the shift in units of it of each atom of the segment but the global one.
    pub gaussian: Option<(f64, Vec<[f64; 3]>)>,
    /// The hidden ones among the blocks that can be, ascending.
    pub masked: Vec<usize>,
}

impl Draws {
    /// Draws for a complex that is not cropped any more.
    fn new(complex: &Complex, noise: &Noise, table: Option<&RotationTable>, seed: u64) -> Self {
        let atoms = [0, 1].map(|segment| complex.ordinary_atoms(segment).len());
        let bonds = [0, 1].map(|segment| complex.bonds(segment).len());
        let mut draws = Self::default();
        let can = |s: &u8| atoms[*s as usize] > 1 && (noise.torsion_sigma == 0.0 || bonds[*s as usize] > 0);
        let candidates: Vec<u8> = [0u8, 1].into_iter().filter(can).collect();
        if noise.moves() && !candidates.is_empty() {
            let segment = candidates[Random::new(seed, Stream::Segment).below(candidates.len())];
            draws.segment = Some(segment);
            // Turning a lone atom, or a partner around one, can hardly be seen.
            if let Some(table) = table.filter(|_| atoms.iter().all(|n| *n > 1)) {
                let mut random = Random::new(seed, Stream::Rotation);
                draws.rotation = Some((table.pick(random.uniform()), UnitSphere.sample(&mut random.0)));
            }
            if noise.translation_sigma > 0.0 {
                let mut random = Random::new(seed, Stream::Translation);
                draws.translation = Some((random.scale(noise.translation_sigma), random.normals()));
            }
            if noise.torsion_sigma > 0.0 {
                let mut random = Random::new(seed, Stream::Torsion);
                draws.torsions = (0..bonds[segment as usize]).map(|_| random.normal() * noise.torsion_sigma).collect();
            }
            if noise.gaussian_sigma > 0.0 {
                let mut random = Random::new(seed, Stream::Gaussian);
                let scale = random.scale(noise.gaussian_sigma);
                draws.gaussian = Some((scale, (0..atoms[segment as usize]).map(|_| random.normals()).collect()));
            }
        }
        let maskable = maskable(complex).len();
        if noise.mask_proportion > 0.0 && maskable > 0 {
            let count = ((noise.mask_proportion * maskable as f64) as usize).max(1);
            draws.masked = Random::new(seed, Stream::Mask).choose(maskable, count);
        }
        draws
    }

    /// Do these draws, made by somebody else, fit the complex?
    fn check(&self, complex: &Complex, table: Option<&RotationTable>) -> Result<(), String> {
        let segment = self.segment.unwrap_or(0);
        let gaussian = self.gaussian.as_ref().map_or(0, |(_, shifts)| shifts.len());
        let maskable = maskable(complex).len();
        let problems = [
            (segment > 1, format!("there is no segment {segment}")),
            (
                self.rotation.is_some_and(|(angle, _)| table.is_none_or(|table| angle >= table.angles.len())),
                "rotation: there is no such angle in the table".to_owned(),
            ),
            (
                !self.torsions.is_empty() && self.torsions.len() != complex.bonds(segment).len(),
                format!("{} torsion angles for {} bonds", self.torsions.len(), complex.bonds(segment).len()),
            ),
            (
                self.gaussian.is_some() && gaussian != complex.ordinary_atoms(segment).len(),
                format!("gaussian: {gaussian} shifts for {} atoms", complex.ordinary_atoms(segment).len()),
            ),
            (
                self.masked.windows(2).any(|w| w[0] >= w[1]) || self.masked.last().is_some_and(|m| *m >= maskable),
                format!("masked: expected ascending numbers below {maskable}"),
            ),
        ];
        problems.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, reason)| Err(reason))
    }
}

/// Blocks that can be hidden: every molecule.
fn maskable(complex: &Complex) -> Vec<usize> {
    let kinds = complex.block_types.iter().enumerate();
    kinds.filter(|(_, kind)| **kind >= FIRST_MOLECULE_BLOCK).map(|(block, _)| block).collect()
}

// ------------------------------------------------------------------------------------------------ densities and scores

/// Angles of random rotations of one width, with their probabilities and scores.
#[derive(Debug, Clone, PartialEq)]
pub struct RotationTable {
    /// Rad, evenly spaced.
    pub angles: Vec<f64>,
    /// Sum to 1.
    pub probabilities: Vec<f64>,
    /// Derivative of the log of the density, per rad.
    pub scores: Vec<f64>,
    cumulative: Vec<f64>,
}

impl RotationTable {
    /// Angles up to `largest`, of a diffusion of width `sigma` on the rotation group; both in rad.
    pub fn new(sigma: f64, largest: f64) -> Self {
        const ANGLES: usize = 100;
        const SMALLEST: f64 = 0.001;
        const HIGHEST: f64 = 1000.0;
        let step = (largest - SMALLEST) / (ANGLES - 1) as f64;
        let angles: Vec<f64> = (0..ANGLES).map(|i| SMALLEST + step * i as f64).collect();
        let (mut densities, mut scores) = (Vec::with_capacity(ANGLES), Vec::with_capacity(ANGLES));
        for &angle in &angles {
            let (value, slope) = rotation_series(sigma, angle);
            densities.push((value * (1.0 - angle.cos()) / PI).clamp(0.0, HIGHEST));
            scores.push(slope / value + angle.sin() / (1.0 - angle.cos()));
        }
        let total: f64 = densities.iter().sum();
        let probabilities: Vec<f64> = densities.iter().map(|d| d / total).collect();
        let mut sum = 0.0;
        let cumulative = probabilities
            .iter()
            .map(|p| {
                sum += p;
                sum
            })
            .collect();
        Self { angles, probabilities, scores, cumulative }
    }

    /// Number of the angle at which the probabilities add up to more than `u`, which is in [0, 1).
    fn pick(&self, u: f64) -> usize {
        self.cumulative.partition_point(|c| *c <= u).min(self.angles.len() - 1)
    }

    /// The table of these two numbers, made when first asked for.
    pub fn cached(sigma: f64, largest: f64) -> Arc<Self> {
        type Known = Vec<((u64, u64), Arc<RotationTable>)>;
        static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
        let key = (sigma.to_bits(), largest.to_bits());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = known.iter().find(|(k, _)| *k == key) {
            return Arc::clone(table);
        }
        let table = Arc::new(Self::new(sigma, largest));
        known.push((key, Arc::clone(&table)));
        table
    }
}

/// Σ (2l + 1) exp(−l (l + 1) σ²) sin((l + ½) θ) / sin(θ / 2) over l < 2000, and its derivative by θ.
fn rotation_series(sigma: f64, angle: f64) -> (f64, f64) {
    const TERMS: usize = 2000;
    let (half_sin, half_cos) = (0.5 * angle).sin_cos();
    let (mut value, mut slope) = (0.0, 0.0);
    for l in (0..TERMS).map(|l| l as f64) {
        let weight = (2.0 * l + 1.0) * (-l * (l + 1.0) * sigma * sigma).exp();
        if weight == 0.0 {
            break;
        }
        let (sin, cos) = ((l + 0.5) * angle).sin_cos();
        value += weight * sin / half_sin;
        slope += weight * ((l + 0.5) * cos * half_sin - 0.5 * half_cos * sin) / (half_sin * half_sin);
    }
    (value, slope)
}

/// Derivative of the log-density of a normal distribution of width `sigma` that is wrapped around the circle.
///
/// ```
/// let score = atomica_prep::perturb::torsion_score(0.1, 0.25);
/// assert!((score + 1.6).abs() < 1e-9);
/// ```
pub fn torsion_score(angle: f64, sigma: f64) -> f64 {
    // In (−π, π], where the image at 0 is the heaviest.
    let angle = angle - TAU * (angle / TAU).round();
    // Beyond nine widths an image weighs less than the rounding of the others.
    let images = (9.0 * sigma / TAU).ceil() as i64 + 1;
    let (mut weights, mut pulls) = (0.0, 0.0);
    for image in -images..=images {
        let x = angle + TAU * image as f64;
        let weight = ((angle * angle - x * x) / (2.0 * sigma * sigma)).exp();
        weights += weight;
        pulls += weight * x;
    }
    -pulls / (weights * sigma * sigma)
}

// ------------------------------------------------------------------------------------------------------------ geometry

#[inline]
fn wide(p: &[f32; 3]) -> Point {
    [f64::from(p[0]), f64::from(p[1]), f64::from(p[2])]
}

#[inline]
fn narrow(p: Point) -> [f32; 3] {
    [p[0] as f32, p[1] as f32, p[2] as f32]
}

#[inline]
fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

#[inline]
fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

#[inline]
fn times(a: Point, factor: f64) -> Point {
    [a[0] * factor, a[1] * factor, a[2] * factor]
}

#[inline]
fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[inline]
fn apply(matrix: &Matrix, p: Point) -> Point {
    [dot(matrix[0], p), dot(matrix[1], p), dot(matrix[2], p)]
}

/// The origin if there are no points.
fn mean(points: impl Iterator<Item = Point>) -> Point {
    let (sum, count) = points.fold(([0.0; 3], 0.0), |(sum, count), p| (add(sum, p), count + 1.0));
    if count == 0.0 {
        sum
    } else {
        sum.map(|c| c / count)
    }
}

/// Matrix of a unit quaternion, real part first.
fn matrix_of([w, x, y, z]: [f64; 4]) -> Matrix {
    [
        [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
        [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
        [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
    ]
}

/// Turning by `angle` about `axis`, of any length but 0, counter-clockwise as seen from its tip.
fn rotation(axis: Point, angle: f64) -> Matrix {
    let (sin, cos) = (0.5 * angle).sin_cos();
    let [x, y, z] = times(axis, sin / dot(axis, axis).sqrt());
    matrix_of([cos, x, y, z])
}

/// Turns the moving side of a bond; a bond without length has no axis, and nothing moves.
fn twist(positions: &mut [Point], bond: &Bond<'_>, angle: f64) {
    let (fixed, moving) = (positions[bond.fixed as usize], positions[bond.moving as usize]);
    let axis = sub(fixed, moving);
    if dot(axis, axis) == 0.0 {
        return;
    }
    let matrix = rotation(axis, angle);
    for &atom in bond.moved {
        let p = &mut positions[atom as usize];
        *p = add(apply(&matrix, sub(*p, fixed)), fixed);
    }
}

/// Moves `points` as one body onto `targets`, with the smallest sum of squared distances.
///
/// The best rotation is, as a quaternion, the eigenvector of the largest eigenvalue of a symmetric 4 × 4 matrix.
fn superpose(points: &mut [Point], targets: &[Point]) {
    let (from, to) = (mean(points.iter().copied()), mean(targets.iter().copied()));
    let mut s = [[0.0; 3]; 3];
    for (p, q) in points.iter().zip(targets) {
        let (p, q) = (sub(*p, from), sub(*q, to));
        for i in 0..3 {
            for j in 0..3 {
                s[i][j] += p[i] * q[j];
            }
        }
    }
    let [[xx, xy, xz], [yx, yy, yz], [zx, zy, zz]] = s;
    let matrix = matrix_of(largest_eigenvector([
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]));
    for p in points {
        *p = add(apply(&matrix, sub(*p, from)), to);
    }
}

/// Unit eigenvector of the largest eigenvalue of a symmetric matrix, by Jacobi rotations.
fn largest_eigenvector(mut a: [[f64; 4]; 4]) -> [f64; 4] {
    const SWEEPS: usize = 50;
    let mut vectors = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let scale: f64 = a.iter().flatten().map(|v| v * v).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..4).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if off <= scale * 1e-32 {
            break;
        }
        for p in 0..3 {
            for q in p + 1..4 {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..4 {
                    let (x, y) = (a[k][p], a[k][q]);
                    (a[k][p], a[k][q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..4 {
                    let (x, y) = (a[p][k], a[q][k]);
                    (a[p][k], a[q][k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (vectors[k][p], vectors[k][q]);
                    (vectors[k][p], vectors[k][q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let best = (1..4).fold(0, |best, i| if a[i][i] > a[best][best] { i } else { best });
    let vector = vectors.map(|row| row[best]);
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    vector.map(|v| v / length)
}

// -------------------------------------------------------------------------------------------------------------- crops

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

// ------------------------------------------------------------------------------------------------------ one complex

/// One complex after all that was done to it. Atoms and blocks are counted within it.
#[derive(Debug, Clone, Default)]
struct Outcome {
    complex: Complex,
    /// Blocks of the complex as it came.
    kept: Vec<usize>,
    cropped: bool,
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

// -------------------------------------------------------------------------------------------------------------- batches

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
    let drawn;
    let draws = if let Some(draws) = given {
        draws.check(&complex, table)?;
        draws
    } else {
        drawn = Draws::new(&complex, &options.noise, table, seed);
        &drawn
    };
    let mut outcome = Outcome { complex, kept, cropped: limit.is_some(), segment: draws.segment, ..Outcome::default() };
    shake(&mut outcome, draws, &options.noise, table);
    mask(&mut outcome, &draws.masked);
    Ok(outcome)
}

impl Batch {
    fn push(&mut self, outcome: Outcome, first_block: i64, noise: &Noise) {
        let first_atom = self.positions.len() as i64;
        let complex = outcome.complex;
        self.block_counts.push(complex.block_types.len() as i64);
        self.positions.extend_from_slice(&complex.positions);
        self.atom_types.extend(complex.atom_types.iter().map(|t| i64::from(*t)));
        self.block_types.extend(complex.block_types.iter().map(|t| i64::from(*t)));
        self.block_lengths.extend(complex.block_lengths.iter().map(|l| i64::from(*l)));
        self.segments.extend(complex.segments.iter().map(|s| i64::from(*s)));
        self.kept_blocks.extend(outcome.kept.iter().map(|block| first_block + *block as i64));
        self.cropped.push(outcome.cropped);
        self.masked.extend(outcome.masked);
        self.mask_labels.extend(outcome.labels);
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

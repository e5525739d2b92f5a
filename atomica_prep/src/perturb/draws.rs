//! Random numbers, and everything that they decide.

use rand_chacha::rand_core::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform, UnitSphere};

use super::complex::{Complex, Noise};
use super::densities::RotationTable;
use super::geometry::Point;
use crate::vocab::FIRST_MOLECULE_BLOCK;

/// Å; the smallest scale of a translation and of Gaussian noise.
pub const SMALLEST_SCALE: f64 = 0.1;

/// The streams of a complex's generator.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Crop,
    Segment,
    Rotation,
    Translation,
    Torsion,
    Gaussian,
    Mask,
    Lone,
}

pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64, stream: Stream) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream as u64);
        Self(generator)
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        StandardUniform.sample(&mut self.0)
    }

    /// Below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
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
    /// The segment that is left alone; `None` where both stay.
    pub lone: Option<u8>,
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
    /// The segment that is left alone, of those with at least two molecules' blocks; none where there is one already.
    pub(super) fn alone(complex: &Complex, noise: &Noise, seed: u64) -> Option<u8> {
        let mut random = Random::new(seed, Stream::Lone);
        if random.uniform() >= noise.lone_proportion || complex.segments.first() == complex.segments.last() {
            return None;
        }
        let mut blocks = [0, 0];
        for block in maskable(complex) {
            blocks[complex.segments[block] as usize] += 1;
        }
        let candidates: Vec<u8> = [0u8, 1].into_iter().filter(|s| blocks[*s as usize] > 1).collect();
        (!candidates.is_empty()).then(|| candidates[random.below(candidates.len())])
    }

    /// Draws for a complex that is not cropped any more; of a lone partner nothing is moved.
    pub(super) fn new(
        complex: &Complex,
        noise: &Noise,
        table: Option<&RotationTable>,
        lone: Option<u8>,
        seed: u64,
    ) -> Self {
        let atoms = [0, 1].map(|segment| complex.ordinary_atoms(segment).len());
        let bonds = [0, 1].map(|segment| complex.bonds(segment).len());
        let mut draws = Self { lone, ..Self::default() };
        let can = |s: &u8| atoms[*s as usize] > 1 && (noise.torsion_sigma == 0.0 || bonds[*s as usize] > 0);
        let candidates: Vec<u8> = [0u8, 1].into_iter().filter(can).collect();
        if noise.moves() && lone.is_none() && !candidates.is_empty() {
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
    pub(super) fn check(&self, complex: &Complex, table: Option<&RotationTable>) -> Result<(), String> {
        let segment = self.segment.unwrap_or(0);
        let gaussian = self.gaussian.as_ref().map_or(0, |(_, shifts)| shifts.len());
        let maskable = maskable(complex).len();
        let problems = [
            (segment > 1, format!("there is no segment {segment}")),
            (self.lone.is_some() && self.segment.is_some(), "lone: what is alone cannot be moved".to_owned()),
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
pub(super) fn maskable(complex: &Complex) -> Vec<usize> {
    let kinds = complex.block_types.iter().enumerate();
    kinds.filter(|(_, kind)| **kind >= FIRST_MOLECULE_BLOCK).map(|(block, _)| block).collect()
}

//! Densities of random rotations and torsions, and their scores.

use std::f64::consts::{PI, TAU};
use std::sync::{Arc, Mutex, PoisonError};

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
    pub(super) fn pick(&self, u: f64) -> usize {
        self.cumulative.partition_point(|c| *c <= u).min(self.angles.len() - 1)
    }

    /// The table of these two numbers, made when first asked for.
    pub fn cached(sigma: f64, largest: f64) -> Arc<Self> {
        type Known = Vec<((u64, u64), Arc<RotationTable>)>;
        static KNOWN: Mutex<Known> = Mutex::new(Vec::new());
        let key = (sigma.to_bits(), largest.to_bits());
        // Held for moments alone: a process that is forked meanwhile could never have it.
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, table)) = known().iter().find(|(k, _)| *k == key) {
            return Arc::clone(table);
        }
        let table = Arc::new(Self::new(sigma, largest));
        known().push((key, Arc::clone(&table)));
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

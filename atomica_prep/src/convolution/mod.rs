//! The equivariant convolution on CPU: sum over a receiver's edges, then weights, tile by tile in cache.
//!
//! For one output irrep with k components, U coupled channels and v output channels, a receiver r with edges e:
//!
//! ```text
//! outer[r, m, k, U] = Σ_e hidden[e, m] · coupled[e, k, U]
//! out[r, k, v]      = scale · Σ_{m, U} outer[r, m, k, U] · weight[U, m, v]
//! ```
//!
//! `outer` of all receivers would be a gigabyte; here it exists for a few receivers, sixteen U and sixteen m at a
//! time, small enough for the first-level cache, and the weights of sixteen U stay in the second-level cache while all
//! receivers pass by. The backward pass makes `outer` again. Sums run in an order that does not depend on the number of
//! threads.
//!
//! Names: E edges, M receivers (rows), D columns of the senders' features, S harmonics, m hidden radial features.

#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    clippy::too_many_arguments,
    unsafe_op_in_unsafe_fn,
    reason = "`Convolution::check` compares all lengths and indices with one another before a pass starts; the unsafe functions are pointer arithmetic throughout, \
              and plain loops over registers are unrolled where chains of iterators may stay calls"
)]

mod couple;
mod passes;
mod products;
mod tables;

use pulp::Arch;
use rayon::prelude::*;

use passes::{Backward, Forward};
use products::{Buffer, LANES};
use tables::{chunks, padded, table};
pub use tables::{Arguments, Convolution, Coupling, Path, Target};

/// The most runs of the receivers that a forward and a backward pass work on side by side. The latter sums the
/// gradients of weights and features for each run on its own; their number follows from the graph alone, so that
/// threads do not change the result.
const RUNS: (usize, usize) = (64, 8);
/// Receivers that a run should have: reading all weights costs it as much as a good many.
const SHARE: usize = 300;

/// What a backward pass gives; the same shapes as what they are the gradients of.
pub struct Gradients {
    /// Of the features [N, D].
    pub x: Vec<f32>,
    /// Of the harmonics [E, S], if they are wanted.
    pub y: Option<Vec<f32>>,
    /// Of the radial features [E, m].
    pub hidden: Vec<f32>,
    /// Of the weights of each target [U, m, v].
    pub weights: Vec<Vec<f32>>,
}

/// Runs of receivers with about as many edges each, by the graph alone: first and last row.
fn runs(first_edge: &[usize], most: usize) -> Vec<(usize, usize)> {
    let rows = first_edge.len() - 1;
    let count = (rows / SHARE + 1).next_power_of_two().clamp(2, most);
    // A receiver's own work is about that of so many edges.
    let work = |row: usize| first_edge[row] + LANES * row;
    let mut bounds = vec![0];
    for row in 1..rows {
        if work(row) * count >= work(rows) * bounds.len() {
            bounds.push(row);
        }
    }
    bounds.push(rows);
    bounds.windows(2).map(|pair| (pair[0], pair[1])).filter(|(start, end)| start < end).collect()
}

impl Convolution {
    /// What in the arguments does not fit the convolution or one another, if anything.
    fn check(&self, given: &Arguments) -> Result<(), String> {
        let edges = given.sender.len();
        let lengths = [
            ("y", given.y.len(), edges * self.harmonics),
            ("hidden", given.hidden.len(), edges * self.hidden),
            ("weights", given.weights.len(), self.targets.len()),
        ];
        for (name, found, wanted) in lengths {
            if found != wanted {
                return Err(format!("{name} holds {found} values, expected {wanted} for {edges} edges"));
            }
        }
        for (target, weight) in self.targets.iter().zip(given.weights) {
            if weight.len() != target.coupled * self.hidden * target.channels {
                return Err(format!("a weight holds {} values, which does not fit its irrep", weight.len()));
            }
        }
        let nodes = given.x.len() / self.inputs.max(1);
        if let Some(sender) = given.sender.iter().find(|&&s| usize::try_from(s).map_or(true, |s| s >= nodes)) {
            return Err(format!("sender {sender} is none of the {nodes} nodes"));
        }
        let ascending = given.first_edge.windows(2).all(|pair| pair[0] <= pair[1]);
        if given.first_edge.first() != Some(&0) || given.first_edge.last() != Some(&edges) || !ascending {
            return Err(format!("first_edge must ascend from 0 to {edges}, the number of edges"));
        }
        Ok(())
    }

    /// What in the couplings and irreps does not fit the sizes, if anything.
    fn check_tables(&self) -> Result<(), String> {
        for coupling in &self.couplings {
            let (inner, outer) = coupling.components;
            let fits = |&(i, j, k, _): &(usize, usize, usize, f32)| i < inner && k < outer && j < self.harmonics;
            if ![inner, outer].iter().all(|count| [1, 3, 5].contains(count)) {
                return Err("the components of a coupling must be 1, 3 or 5".to_owned());
            }
            if !coupling.terms.iter().all(fits) {
                return Err("a coupling names a component or harmonic that is not there".to_owned());
            }
        }
        for target in &self.targets {
            let end = target.column + (target.components.max(1) - 1) * target.stride + target.channels;
            if target.components == 0 || target.components > 5 || end > self.outputs {
                return Err("an output irrep does not fit into the output".to_owned());
            }
            let mut covered = vec![false; target.coupled];
            for path in &target.paths {
                let Some(coupling) = self.couplings.get(path.coupling) else {
                    return Err(format!("there is no coupling {}", path.coupling));
                };
                let end = path.column + (coupling.components.0.max(1) - 1) * path.stride + path.channels;
                let Some(mine) = covered.get_mut(path.first..path.first + path.channels) else {
                    return Err("a path leaves its irrep's coupled channels".to_owned());
                };
                if coupling.components.1 != target.components || end > self.inputs {
                    return Err("a path does not fit its input or output".to_owned());
                }
                mine.fill(true);
            }
            if !covered.iter().all(|&c| c) {
                return Err("a coupled channel has no path".to_owned());
            }
        }
        Ok(())
    }

    /// A convolution from its tables. Fails, saying what, if they do not fit one another.
    pub fn new(sizes: [usize; 4], couplings: Vec<Coupling>, targets: Vec<Target>) -> Result<Self, String> {
        let [inputs, outputs, harmonics, hidden] = sizes;
        let mut made =
            Self { inputs, outputs, harmonics, hidden, couplings, targets, chunks: Vec::new(), tables: Vec::new() };
        made.check_tables()?;
        made.chunks = made.targets.iter().map(chunks).collect();
        made.tables = made.couplings.iter().map(table).collect();
        Ok(made)
    }

    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Output rows [M, outputs]; columns of irreps that nothing reaches are 0. Fails if the arguments do not fit.
    pub fn forward(&self, given: &Arguments) -> Result<Vec<f32>, String> {
        self.check(given)?;
        let mut out = vec![0.0f32; (given.first_edge.len() - 1) * self.outputs];
        let weights = self.pack(given, false);
        let mut left = out.as_mut_slice();
        let mut jobs = Vec::new();
        for rows in runs(given.first_edge, RUNS.0) {
            let (mine, rest) = std::mem::take(&mut left).split_at_mut((rows.1 - rows.0) * self.outputs);
            jobs.push(Forward { convolution: self, given, weights: &weights, rows, out: mine });
            left = rest;
        }
        let arch = Arch::new();
        jobs.into_par_iter().for_each(|job| arch.dispatch(job));
        Ok(out)
    }

    /// The gradients for `out_grad` [M, outputs]; those of the harmonics only if `want_y`. Fails if the arguments
    /// do not fit.
    pub fn backward(&self, given: &Arguments, out_grad: &[f32], want_y: bool) -> Result<Gradients, String> {
        self.check(given)?;
        if out_grad.len() != (given.first_edge.len() - 1) * self.outputs {
            return Err(format!("the output's gradient holds {} values", out_grad.len()));
        }
        let mut y = want_y.then(|| vec![0.0; given.y.len()]);
        let mut hidden = vec![0.0; given.hidden.len()];
        let packed = self.pack(given, true);
        let (mut hidden_left, mut y_left) = (hidden.as_mut_slice(), y.as_deref_mut());
        let mut jobs = Vec::new();
        for rows in runs(given.first_edge, RUNS.1) {
            let count = given.first_edge[rows.1] - given.first_edge[rows.0];
            let (hidden_mine, rest) = std::mem::take(&mut hidden_left).split_at_mut(count * self.hidden);
            hidden_left = rest;
            let y_mine = y_left.take().map(|y| {
                let (mine, rest) = y.split_at_mut(count * self.harmonics);
                y_left = Some(rest);
                mine
            });
            jobs.push((rows, hidden_mine, y_mine));
        }
        let arch = Arch::new();
        let sums: Vec<(Vec<f32>, Vec<Buffer>)> = jobs
            .into_par_iter()
            .map(|(rows, hidden_grad, y_grad)| {
                let mut x_grad = vec![0.0; given.x.len()];
                let length = |t: &Target| padded(t.coupled) * self.hidden * padded(t.channels);
                let mut weights_grad: Vec<_> = self.targets.iter().map(|t| Buffer::zeros(length(t))).collect();
                arch.dispatch(Backward {
                    convolution: self,
                    given,
                    weights: &packed,
                    rows,
                    out_grad,
                    x_grad: &mut x_grad,
                    y_grad,
                    hidden_grad,
                    weights_grad: &mut weights_grad,
                });
                (x_grad, weights_grad)
            })
            .collect();
        let mut x = vec![0.0; given.x.len()];
        x.par_chunks_mut(1 << 14).enumerate().for_each(|(index, x)| {
            for (sum, _) in &sums {
                for (to, from) in x.iter_mut().zip(&sum[index << 14..]) {
                    *to += from;
                }
            }
        });
        let weights = self.targets.par_iter().enumerate().map(|(index, target)| {
            let packed: Vec<&[f32]> = sums.iter().map(|(_, weights)| &*weights[index]).collect();
            self.unpack(target, &packed)
        });
        let weights = weights.collect();
        Ok(Gradients { x, y, hidden, weights })
    }

    fn pack(&self, given: &Arguments, turned: bool) -> Vec<Buffer> {
        let pairs = self.targets.par_iter().zip(given.weights);
        pairs.map(|(target, weight)| target.pack(weight, self.hidden, turned)).collect()
    }

    /// The gradients of a target's weights [U, m, v] as the sum of those in `packed`.
    fn unpack(&self, target: &Target, packed: &[&[f32]]) -> Vec<f32> {
        let (v, wide) = (target.channels, padded(target.channels));
        let mut grad = vec![0.0; target.coupled * self.hidden * v];
        for chunk in 0..target.coupled.div_ceil(LANES) {
            for m in 0..self.hidden {
                for u in (chunk * LANES..target.coupled).take(LANES) {
                    let to = &mut grad[(u * self.hidden + m) * v..][..v];
                    let row = (chunk * self.hidden + m) * LANES + u % LANES;
                    for from in packed {
                        for (to, from) in to.iter_mut().zip(&from[row * wide..][..v]) {
                            *to += from;
                        }
                    }
                }
            }
        }
        grad
    }
}

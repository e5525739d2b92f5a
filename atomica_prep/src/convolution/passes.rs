//! Forward and backward passes over a run of receivers: for sixteen coupled channels of one output irrep at a time,
//! whose weights stay in the second-level cache, tile after tile of receivers.

use pulp::{Simd, WithSimd};

use super::products::{all_dots, product, transpose, Buffer, Rows, Size, View, LANES};
use super::tables::{padded, Arguments, Chunk, Convolution, Target};

/// Edges of one tile of receivers, unless it is a single one.
const EDGES: usize = 192;

/// Hidden features of one sum: rounding errors grow with its length.
const SHORT: usize = 2;

/// Receivers and edges that are worked on together.
#[derive(Clone, Copy)]
struct Tile {
    rows: (usize, usize),
    edges: (usize, usize),
}

impl Tile {
    fn rows(&self) -> usize {
        self.rows.1 - self.rows.0
    }
}

/// `rows` of a graph in tiles of at most `most`.
fn tiles(first_edge: &[usize], rows: (usize, usize), most: usize) -> impl Iterator<Item = Tile> + '_ {
    let mut start = rows.0;
    std::iter::from_fn(move || {
        if start >= rows.1 {
            return None;
        }
        let mut end = start + 1;
        while end < rows.1 && end - start < most && first_edge[end + 1] - first_edge[start] <= EDGES {
            end += 1;
        }
        let tile = Tile { rows: (start, end), edges: (first_edge[start], first_edge[end]) };
        start = end;
        Some(tile)
    })
}

/// Hidden features in blocks of [`LANES`]; the last takes what is left over as well, so that none is shorter unless all
/// are.
fn blocks(hidden: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = (hidden / LANES).max(1);
    (0..count).map(move |block| (block * LANES, if block + 1 == count { hidden } else { (block + 1) * LANES }))
}

/// Hidden features of a block at most.
const BLOCK: usize = 2 * LANES - 1;

/// What both passes work on: one chunk of one target and one tile of receivers.
#[derive(Clone, Copy)]
struct Step<'a> {
    convolution: &'a Convolution,
    given: &'a Arguments<'a>,
    target: &'a Target,
    chunk: &'a Chunk,
    tile: Tile,
}

impl Step<'_> {
    /// Floats of one edge's or receiver's coupled channels.
    #[inline(always)]
    fn width(&self) -> usize {
        self.target.components * LANES
    }

    /// Rows of the output and of sums over edges: receivers and components.
    #[inline(always)]
    fn lines(&self) -> usize {
        self.tile.rows() * self.target.components
    }

    /// Sender of an edge: where its features start.
    #[inline(always)]
    fn place(&self, edge: usize) -> usize {
        usize::try_from(self.given.sender[edge]).unwrap_or_default() * self.convolution.inputs
    }

    #[inline(always)]
    fn features(&self, edge: usize) -> &[f32] {
        &self.given.x[self.place(edge)..][..self.convolution.inputs]
    }

    #[inline(always)]
    fn harmonics(&self, edge: usize) -> &[f32] {
        &self.given.y[edge * self.convolution.harmonics..][..self.convolution.harmonics]
    }

    /// Coupled channels [edges, k, U].
    #[inline(always)]
    fn couple<S: Simd>(&self, simd: S, into: &mut [f32]) {
        for (edge, into) in (self.tile.edges.0..self.tile.edges.1).zip(into.chunks_exact_mut(self.width())) {
            self.convolution.couple(simd, self.chunk, self.features(edge), self.harmonics(edge), into);
        }
    }

    /// First and last edge of the tile's receiver `row`.
    #[inline(always)]
    fn edges(&self, row: usize) -> (usize, usize) {
        let row = self.tile.rows.0 + row;
        (self.given.first_edge[row], self.given.first_edge[row + 1])
    }

    /// Outer products [m, rows, k, U], summed over each receiver's edges, for the hidden features `ms`.
    #[inline(always)]
    fn outer<S: Simd>(&self, simd: S, ms: (usize, usize), coupled: &[f32], into: &mut [f32]) {
        let (width, hidden) = (self.width(), self.convolution.hidden);
        for row in 0..self.tile.rows() {
            let (first, last) = self.edges(row);
            // SAFETY: `hidden` and `coupled` have rows for all edges, `into` for all receivers.
            unsafe {
                product(
                    simd,
                    Size { rows: ms.1 - ms.0, groups: 1, terms: last - first, width },
                    View {
                        start: self.given.hidden.as_ptr().add(first * hidden + ms.0),
                        row: 1,
                        column: hidden,
                        jump: 0,
                    },
                    Rows { start: coupled.as_ptr().add((first - self.tile.edges.0) * width), step: width },
                    Rows { start: into.as_mut_ptr().add(row * width), step: self.lines() * LANES },
                    false,
                );
            }
        }
    }
}

/// A forward pass over some of the receivers.
pub(super) struct Forward<'a> {
    pub convolution: &'a Convolution,
    pub given: &'a Arguments<'a>,
    /// Weights of each target [U, m, v] by chunk: [U / LANES, m, LANES, v], v padded.
    pub weights: &'a [Buffer],
    pub rows: (usize, usize),
    /// Their output.
    pub out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { convolution, given, weights, rows, out } = self;
        let hidden = convolution.hidden;
        let (mut coupled, mut outer, mut sums) = (Buffer::default(), Buffer::default(), Buffer::default());
        for ((target, chunks), weights) in convolution.targets.iter().zip(&convolution.chunks).zip(weights) {
            let wide = padded(target.channels);
            for (chunk, weights) in chunks.iter().zip(weights.chunks_exact(hidden * LANES * wide)) {
                for tile in tiles(given.first_edge, rows, target.receivers()) {
                    let step = Step { convolution, given, target, chunk, tile };
                    let lines = step.lines();
                    let coupled = coupled.of((tile.edges.1 - tile.edges.0) * step.width());
                    step.couple(simd, coupled);
                    let outer = outer.of(BLOCK * lines * LANES);
                    let sums = sums.of(lines * wide);
                    sums.fill(0.0);
                    for ms in blocks(hidden) {
                        step.outer(simd, ms, coupled, outer);
                        for some in (ms.0..ms.1).step_by(SHORT) {
                            // SAFETY: `outer` holds [m, lines, LANES], the weights [m, LANES, v], `sums` [lines, v].
                            unsafe {
                                let from = outer.as_ptr().add((some - ms.0) * lines * LANES);
                                product(
                                    simd,
                                    Size { rows: lines, groups: (ms.1 - some).min(SHORT), terms: LANES, width: wide },
                                    View { start: from, row: LANES, column: 1, jump: (lines - 1) * LANES },
                                    Rows { start: weights.as_ptr().add(some * LANES * wide), step: wide },
                                    Rows { start: sums.as_mut_ptr(), step: wide },
                                    true,
                                );
                            }
                        }
                    }
                    for row in 0..tile.rows() {
                        let out = &mut out[(tile.rows.0 - rows.0 + row) * convolution.outputs..];
                        for k in 0..target.components {
                            let from = &sums[(row * target.components + k) * wide..][..target.channels];
                            let to = &mut out[target.column + k * target.stride..][..target.channels];
                            for (to, from) in to.iter_mut().zip(from) {
                                *to += target.scale * from;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A backward pass over some of the receivers.
pub(super) struct Backward<'a> {
    pub convolution: &'a Convolution,
    pub given: &'a Arguments<'a>,
    /// Weights of each target [U, m, v] by chunk: [U / LANES, m, v, LANES].
    pub weights: &'a [Buffer],
    pub rows: (usize, usize),
    pub out_grad: &'a [f32],
    /// To be added to: the gradients of all features.
    pub x_grad: &'a mut [f32],
    /// To be added to: the gradients of the receivers' edges.
    pub y_grad: Option<&'a mut [f32]>,
    pub hidden_grad: &'a mut [f32],
    /// To be added to: the gradients of the weights, by chunk as in [`Forward`].
    pub weights_grad: &'a mut [Buffer],
}

/// Buffers of a backward pass.
#[derive(Default)]
struct Buffers {
    /// Coupled channels [edges, k, U] and their gradients.
    coupled: Buffer,
    coupled_grad: Buffer,
    /// Outer products [m, rows, k, U] and their gradients.
    outer: Buffer,
    outer_grad: Buffer,
    /// The latter for one receiver as [k, U, m].
    turned: Buffer,
    /// Gradients of the output [rows, k, v], scaled.
    out: Buffer,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (convolution, given) = (self.convolution, self.given);
        let mut buffers = Buffers::default();
        for (index, (target, chunks)) in convolution.targets.iter().zip(&convolution.chunks).enumerate() {
            for (number, chunk) in chunks.iter().enumerate() {
                for tile in tiles(given.first_edge, self.rows, target.receivers()) {
                    let step = Step { convolution, given, target, chunk, tile };
                    self.tile(simd, step, (index, number), &mut buffers);
                }
            }
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn tile<S: Simd>(&mut self, simd: S, step: Step, (index, number): (usize, usize), buffers: &mut Buffers) {
        let (convolution, target, tile) = (step.convolution, step.target, step.tile);
        let (hidden, lines, width, wide) = (convolution.hidden, step.lines(), step.width(), padded(target.channels));
        let edges = tile.edges.1 - tile.edges.0;
        let coupled = buffers.coupled.of(edges * width);
        let coupled_grad = buffers.coupled_grad.of(edges * width);
        let outer = buffers.outer.of(BLOCK * lines * LANES);
        let outer_grad = buffers.outer_grad.of(BLOCK * lines * LANES);
        let turned = buffers.turned.of(width * LANES);
        let out = buffers.out.of(lines * wide);
        step.couple(simd, coupled);
        self.scaled(step, out);
        let weights = &self.weights[index][number * hidden * LANES * target.channels..];
        for ms in blocks(hidden) {
            step.outer(simd, ms, coupled, outer);
            let weights_grad = &mut self.weights_grad[index][number * hidden * LANES * wide..];
            for m in ms.0..ms.1 {
                // SAFETY: `outer` holds [m, lines, LANES], `out` [lines, v], the weights' gradient [m, LANES, v].
                unsafe {
                    product(
                        simd,
                        Size { rows: LANES, groups: 1, terms: lines, width: wide },
                        View { start: outer.as_ptr().add((m - ms.0) * lines * LANES), row: 1, column: LANES, jump: 0 },
                        Rows { start: out.as_ptr(), step: wide },
                        Rows { start: weights_grad.as_mut_ptr().add(m * LANES * wide), step: wide },
                        true,
                    );
                }
            }
            for m in ms.0..ms.1 {
                // SAFETY: as above; the weights are [m, v, LANES].
                unsafe {
                    product(
                        simd,
                        Size { rows: lines, groups: 1, terms: target.channels, width: LANES },
                        View { start: out.as_ptr(), row: wide, column: 1, jump: 0 },
                        Rows { start: weights.as_ptr().add(m * target.channels * LANES), step: LANES },
                        Rows { start: outer_grad.as_mut_ptr().add((m - ms.0) * lines * LANES), step: LANES },
                        false,
                    );
                }
            }
            for row in 0..tile.rows() {
                self.of_edges(simd, step, row, ms, (coupled, outer_grad), turned, coupled_grad);
            }
        }
        let begin = self.given.first_edge[self.rows.0];
        for (edge, grad) in (tile.edges.0..tile.edges.1).zip(coupled_grad.chunks_exact(width)) {
            let x_grad = &mut self.x_grad[step.place(edge)..][..convolution.inputs];
            let harmonics = convolution.harmonics;
            let y_grad = self.y_grad.as_deref_mut().map(|y| &mut y[(edge - begin) * harmonics..][..harmonics]);
            convolution.uncouple(simd, step.chunk, step.features(edge), step.harmonics(edge), grad, x_grad, y_grad);
        }
    }

    /// The output's gradient [rows, k, v], v padded with zeros, times the factor on the output.
    #[inline(always)]
    fn scaled(&self, step: Step, into: &mut [f32]) {
        let target = step.target;
        for (line, into) in into.chunks_exact_mut(padded(target.channels)).enumerate() {
            let (row, k) = (step.tile.rows.0 + line / target.components, line % target.components);
            let from = &self.out_grad[row * step.convolution.outputs + target.column + k * target.stride..];
            into.fill(0.0);
            for (into, from) in into.iter_mut().zip(&from[..target.channels]) {
                *into = target.scale * from;
            }
        }
    }

    /// For one receiver's edges: the gradients of coupled channels and of the hidden features `ms`.
    #[inline(always)]
    fn of_edges<S: Simd>(
        &mut self,
        simd: S,
        step: Step,
        row: usize,
        ms: (usize, usize),
        (coupled, outer_grad): (&[f32], &[f32]),
        turned: &mut [f32],
        coupled_grad: &mut [f32],
    ) {
        let (hidden, width) = (step.convolution.hidden, step.width());
        let (first, last) = step.edges(row);
        let (count, at) = (last - first, (first - step.tile.edges.0) * width);
        let begin = self.given.first_edge[self.rows.0];
        // SAFETY: `coupled` and its gradient have rows for all edges, `outer_grad` is [m, rows, k, U].
        unsafe {
            let from = Rows { start: outer_grad.as_ptr().add(row * width), step: step.lines() * LANES };
            product(
                simd,
                Size { rows: count, groups: 1, terms: ms.1 - ms.0, width },
                View { start: self.given.hidden.as_ptr().add(first * hidden + ms.0), row: hidden, column: 1, jump: 0 },
                from,
                Rows { start: coupled_grad.as_mut_ptr().add(at), step: width },
                ms.0 > 0,
            );
            let coupled = Rows { start: coupled.as_ptr().add(at), step: width };
            let grad = Rows { start: self.hidden_grad.as_mut_ptr().add((first - begin) * hidden + ms.0), step: hidden };
            let mut done = 0;
            if ms.1 - ms.0 >= LANES {
                for k in 0..step.target.components {
                    let from = Rows { start: from.start.add(k * LANES), ..from };
                    transpose(simd, from, turned.as_mut_ptr().add(k * LANES * LANES));
                }
                product(
                    simd,
                    Size { rows: count, groups: 1, terms: width, width: LANES },
                    View { start: coupled.start, row: width, column: 1, jump: 0 },
                    Rows { start: turned.as_ptr(), step: LANES },
                    grad,
                    true,
                );
                done = LANES;
            }
            all_dots(
                simd,
                (count, ms.1 - ms.0 - done, width),
                coupled,
                Rows { start: from.start.add(done * from.step), ..from },
                Rows { start: grad.start.add(done), ..grad },
            );
        }
    }
}

//! The equivariant convolution on CPU: sum over a receiver's edges, then weights, tile by tile in cache.
//!
//! For one output irrep with k components, U coupled channels and v output channels, a receiver r with edges e:
//!
//! ```text
//! outer[r, m, k, U] = Σ_e hidden[e, m] · coupled[e, k, U]
//! out[r, k, v]      = scale · Σ_{m, U} outer[r, m, k, U] · weight[U, m, v]
//! ```
//!
//! `outer` of all receivers would be a gigabyte; here it exists for a few receivers and a few m at a time, small
//! enough for the second-level cache. The backward pass makes it again. Sums run in an order that does not depend
//! on the number of threads.
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

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Lengths of vectorised runs are padded to this many floats, the widest registers there are.
const LANES: usize = 16;
/// Receivers of one tile, edges of one tile (unless a single receiver has more), hidden features of one tile.
const ROWS: usize = 8;
const EDGES: usize = 160;
const HIDDEN: usize = 16;
/// The most parts that sum the weights' gradients on their own; by the graph alone, so that threads do not change the
/// result.
const PARTS: usize = 8;
/// Tiles that a part should have: sums of its own cost it as much as about as many.
const TILES: usize = 8;
/// Rows and vectors of the register tile of a product.
const TILE_ROWS: usize = 8;
const TALL: usize = 20;

/// Which products of a feature of degree `l_in` with a harmonic enter degree `l_out`: (i, j, k, coefficient), j
/// counted in the columns of all harmonics.
#[derive(Debug, Clone)]
pub struct Coupling {
    /// Components of the input and of the output.
    pub components: (usize, usize),
    /// Non-zero coefficients.
    pub terms: Vec<(usize, usize, usize, f32)>,
}

/// One path: channels of the senders' features that are coupled into channels of one output irrep.
#[derive(Debug, Clone)]
pub struct Path {
    /// Index of its [`Coupling`].
    pub coupling: usize,
    /// Column of its first channel in the first component.
    pub column: usize,
    /// Columns from one component to the next.
    pub stride: usize,
    /// Number of channels.
    pub channels: usize,
    /// Its first coupled channel.
    pub first: usize,
}

/// One output irrep.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its components k.
    pub components: usize,
    /// Its coupled channels U.
    pub coupled: usize,
    /// Its output channels v.
    pub channels: usize,
    /// Column of its first channel in the first component of the output.
    pub column: usize,
    /// Columns of the output from one component to the next.
    pub stride: usize,
    /// Factor on the whole sum.
    pub scale: f32,
    /// Where its coupled channels come from.
    pub paths: Vec<Path>,
}

/// A convolution: columns of features D, output, harmonics S and hidden features m; couplings and output irreps.
#[derive(Debug, Clone)]
pub struct Convolution {
    inputs: usize,
    outputs: usize,
    harmonics: usize,
    hidden: usize,
    couplings: Vec<Coupling>,
    targets: Vec<Target>,
}

/// What a pass reads. All matrices are dense and row-major.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    /// Features [N, D] of the senders.
    pub x: &'a [f32],
    /// Harmonics [E, S] of the edges.
    pub y: &'a [f32],
    /// Radial features [E, m], divided by the receiver's number of edges.
    pub hidden: &'a [f32],
    /// Sender of each edge [E].
    pub sender: &'a [i64],
    /// First edge of each receiver, and the number of edges [M + 1].
    pub first_edge: &'a [usize],
    /// Weights of each target [U, m, v].
    pub weights: &'a [&'a [f32]],
}

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

// ------------------------------------------------------------------------------------------- small products

/// One matrix of a product as it lies in memory: the first element, and the steps between rows and columns.
#[derive(Clone, Copy)]
struct View {
    start: *const f32,
    row: usize,
    column: usize,
}

/// `c[R, n] (+)= Σ_k a[R, k] b[k, n]` for R rows and V registers side by side; gives R.
///
/// # Safety
/// `a` must be readable at all R·k places, `b` and `c` at V registers of floats in each of their rows.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    terms: usize,
    a: View,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    add: bool,
) -> usize {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    let mut b_at = b;
    let mut a_at = a.start;
    for _ in 0..terms {
        let mut registers = [simd.splat_f32s(0.0); V];
        for v in 0..V {
            registers[v] = load::<S>(b_at.add(v * S::F32_LANES));
        }
        for r in 0..R {
            let factor = simd.splat_f32s(*a_at.add(r * a.row));
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(factor, registers[v], sums[r][v]);
            }
        }
        b_at = b_at.add(b_row);
        a_at = a_at.add(a.column);
    }
    for r in 0..R {
        for v in 0..V {
            let to = c.add(r * c_row + v * S::F32_LANES);
            // Added last, because the rounding errors of a sum grow with its length.
            store::<S>(to, if add { simd.add_f32s(load::<S>(to), sums[r][v]) } else { sums[r][v] });
        }
    }
    R
}

#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    from.cast::<S::f32s>().read_unaligned()
}

#[inline(always)]
unsafe fn store<S: Simd>(to: *mut f32, value: S::f32s) {
    to.cast::<S::f32s>().write_unaligned(value);
}

/// Sizes of a product: rows of the result, terms of each sum, floats of a row (a multiple of [`LANES`]).
#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    terms: usize,
    width: usize,
}

/// `c[rows, width] (+)= a[rows, terms] · b[terms, width]`; rows of `b` and `c` are contiguous.
///
/// # Safety
/// As for [`tile`], over the whole size.
#[inline(always)]
unsafe fn product<S: Simd>(
    simd: S,
    size: Size,
    a: View,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    add: bool,
) {
    let mut column = 0;
    while column < size.width {
        let left = (size.width - column) / S::F32_LANES;
        let (b, c) = (b.add(column), c.add(column));
        column += match left {
            0 => return,
            1 => {
                strip::<S, 1>(simd, size, a, b, b_row, c, c_row, add);
                1
            }
            2 | 4 => {
                strip::<S, 2>(simd, size, a, b, b_row, c, c_row, add);
                2
            }
            _ if S::F32_LANES < LANES => {
                strip::<S, 1>(simd, size, a, b, b_row, c, c_row, add);
                1
            }
            _ => {
                strip::<S, 3>(simd, size, a, b, b_row, c, c_row, add);
                3
            }
        } * S::F32_LANES;
    }
}

#[inline(always)]
unsafe fn strip<S: Simd, const V: usize>(
    simd: S,
    size: Size,
    a: View,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
    add: bool,
) {
    let mut row = 0;
    while row < size.rows {
        let at = View { start: a.start.add(row * a.row), ..a };
        let out = c.add(row * c_row);
        let k = size.terms;
        row += match size.rows - row {
            1 => tile::<S, 1, V>(simd, k, at, b, b_row, out, c_row, add),
            2 => tile::<S, 2, V>(simd, k, at, b, b_row, out, c_row, add),
            3 => tile::<S, 3, V>(simd, k, at, b, b_row, out, c_row, add),
            4 => tile::<S, 4, V>(simd, k, at, b, b_row, out, c_row, add),
            5 => tile::<S, 5, V>(simd, k, at, b, b_row, out, c_row, add),
            6 => tile::<S, 6, V>(simd, k, at, b, b_row, out, c_row, add),
            7 => tile::<S, 7, V>(simd, k, at, b, b_row, out, c_row, add),
            left if V == 1 && left >= TALL => tile::<S, TALL, V>(simd, k, at, b, b_row, out, c_row, add),
            _ => tile::<S, TILE_ROWS, V>(simd, k, at, b, b_row, out, c_row, add),
        };
    }
}

/// `c[i, j] += Σ_p a[i, p] b[j, p]` for I rows of `a` and J rows of `b`, `width` floats long.
///
/// # Safety
/// The rows must be readable, and `c` writable at all I·J places.
#[inline(always)]
unsafe fn dots<S: Simd, const I: usize, const J: usize>(
    simd: S,
    width: usize,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let mut sums = [[simd.splat_f32s(0.0); J]; I];
    let mut p = 0;
    while p < width {
        let mut other = [simd.splat_f32s(0.0); J];
        for j in 0..J {
            other[j] = load::<S>(b.add(j * b_row + p));
        }
        for i in 0..I {
            let one = load::<S>(a.add(i * a_row + p));
            for j in 0..J {
                sums[i][j] = simd.mul_add_e_f32s(one, other[j], sums[i][j]);
            }
        }
        p += S::F32_LANES;
    }
    for i in 0..I {
        for j in 0..J {
            *c.add(i * c_row + j) += simd.reduce_sum_f32s(sums[i][j]);
        }
    }
}

/// `c[i, j] += Σ_p a[i, p] b[j, p]` for all `rows` of `a` and `columns` of `b`.
///
/// # Safety
/// As for [`dots`].
#[inline(always)]
unsafe fn all_dots<S: Simd>(
    simd: S,
    rows: usize,
    columns: usize,
    width: usize,
    a: *const f32,
    a_row: usize,
    b: *const f32,
    b_row: usize,
    c: *mut f32,
    c_row: usize,
) {
    let mut i = 0;
    while i < rows {
        let tall = rows - i >= 4;
        let mut j = 0;
        while j < columns {
            let (a, b, c) = (a.add(i * a_row), b.add(j * b_row), c.add(i * c_row + j));
            let wide = columns - j >= 4;
            match (tall, wide) {
                (true, true) => dots::<S, 4, 4>(simd, width, a, a_row, b, b_row, c, c_row),
                (true, false) => dots::<S, 4, 1>(simd, width, a, a_row, b, b_row, c, c_row),
                (false, true) => dots::<S, 1, 4>(simd, width, a, a_row, b, b_row, c, c_row),
                (false, false) => dots::<S, 1, 1>(simd, width, a, a_row, b, b_row, c, c_row),
            }
            j += if wide { 4 } else { 1 };
        }
        i += if tall { 4 } else { 1 };
    }
}

// -------------------------------------------------------------------------------------------------- tiles

/// Weights of one target in the two orders that the products read.
struct Packed {
    /// [m, U, v], v padded.
    by_channel: Vec<f32>,
    /// [m, v, U], U padded; empty in a forward pass.
    by_coupled: Vec<f32>,
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(LANES)
}

impl Target {
    /// Floats of one edge's coupled channels, padded.
    fn width(&self) -> usize {
        self.components * padded(self.coupled)
    }

    fn pack(&self, weight: &[f32], hidden: usize, backward: bool) -> Packed {
        let (v, vp, up) = (self.channels, padded(self.channels), padded(self.coupled));
        let mut by_channel = vec![0.0; hidden * self.coupled * vp];
        let mut by_coupled = vec![0.0; if backward { hidden * v * up } else { 0 }];
        for u in 0..self.coupled {
            for m in 0..hidden {
                let row = &weight[(u * hidden + m) * v..][..v];
                by_channel[(m * self.coupled + u) * vp..][..v].copy_from_slice(row);
                if backward {
                    for (c, &value) in row.iter().enumerate() {
                        by_coupled[(m * v + c) * up + u] = value;
                    }
                }
            }
        }
        Packed { by_channel, by_coupled }
    }
}

/// Receivers that are worked on together.
#[derive(Clone, Copy)]
struct Tile {
    rows: (usize, usize),
}

fn tiles(first_edge: &[usize]) -> Vec<Tile> {
    let rows = first_edge.len() - 1;
    let mut found = Vec::new();
    let mut start = 0;
    while start < rows {
        let mut end = start + 1;
        while end < rows && end - start < ROWS && first_edge[end + 1] - first_edge[start] <= EDGES {
            end += 1;
        }
        found.push(Tile { rows: (start, end) });
        start = end;
    }
    found
}

/// Buffers of one thread, grown as needed.
#[derive(Default)]
struct Scratch {
    /// Per edge the coupled channels of one target.
    coupled: Vec<f32>,
    /// Their gradients.
    coupled_grad: Vec<f32>,
    /// Outer products [m of the tile, rows, k, U].
    outer: Vec<f32>,
    /// Their gradients.
    outer_grad: Vec<f32>,
    /// Output or its gradient [rows, k, v].
    out: Vec<f32>,
    /// Coupling matrices of one edge and one coupling.
    matrix: [f32; 25],
}

fn cleared(buffer: &mut Vec<f32>, length: usize) {
    buffer.clear();
    buffer.resize(length, 0.0);
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
            if inner > 5 || outer > 5 || !coupling.terms.iter().all(fits) {
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
        let made = Self { inputs, outputs, harmonics, hidden, couplings, targets };
        made.check_tables()?;
        Ok(made)
    }

    /// Columns of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The matrix [k, i] that couples features with the harmonics `y` of one edge.
    #[inline(always)]
    fn matrix(&self, coupling: usize, y: &[f32], matrix: &mut [f32; 25]) {
        let coupling = &self.couplings[coupling];
        matrix.fill(0.0);
        for &(i, j, k, c) in &coupling.terms {
            matrix[k * 5 + i] += c * y[j];
        }
    }

    /// Where the features of an edge's sender start.
    #[inline(always)]
    fn place(&self, given: &Arguments, edge: usize) -> usize {
        usize::try_from(given.sender[edge]).unwrap_or_default() * self.inputs
    }

    /// Coupled channels [edges, k, U] of one target.
    #[inline(always)]
    fn couple<S: Simd>(
        &self,
        simd: S,
        target: &Target,
        given: &Arguments,
        edges: (usize, usize),
        scratch: &mut Scratch,
    ) {
        let (width, up) = (target.width(), padded(target.coupled));
        let needed = (edges.1 - edges.0) * width;
        if scratch.coupled.len() < needed {
            scratch.coupled.resize(needed, 0.0);
        }
        if up > target.coupled {
            for line in scratch.coupled[..needed].chunks_exact_mut(up) {
                line[target.coupled..].fill(0.0);
            }
        }
        for (edge, coupled) in (edges.0..edges.1).zip(scratch.coupled.chunks_exact_mut(width)) {
            let y = &given.y[edge * self.harmonics..][..self.harmonics];
            let x = &given.x[self.place(given, edge)..][..self.inputs];
            let mut last = usize::MAX;
            for path in &target.paths {
                if path.coupling != last {
                    self.matrix(path.coupling, y, &mut scratch.matrix);
                    last = path.coupling;
                }
                let inner = self.couplings[path.coupling].components.0;
                for start in (0..path.channels).step_by(S::F32_LANES) {
                    let lanes = (path.channels - start).min(S::F32_LANES);
                    let mut from = [simd.splat_f32s(0.0); 5];
                    for (i, register) in from.iter_mut().enumerate().take(inner) {
                        *register = simd.partial_load_f32s(&x[path.column + i * path.stride + start..][..lanes]);
                    }
                    for k in 0..target.components {
                        let mut sum = simd.splat_f32s(0.0);
                        for (i, register) in from.iter().enumerate().take(inner) {
                            sum = simd.mul_add_e_f32s(simd.splat_f32s(scratch.matrix[k * 5 + i]), *register, sum);
                        }
                        simd.partial_store_f32s(&mut coupled[k * up + path.first + start..][..lanes], sum);
                    }
                }
            }
        }
    }

    /// Adds the gradients of the coupled channels to those of the features [edges, D] and harmonics [edges, S].
    #[inline(always)]
    fn uncouple<S: Simd>(
        &self,
        simd: S,
        target: &Target,
        given: &Arguments,
        edges: (usize, usize),
        scratch: &mut Scratch,
        x_grad: &mut [f32],
        mut y_grad: Option<&mut [f32]>,
    ) {
        let (width, up) = (target.width(), padded(target.coupled));
        for (index, grad) in scratch.coupled_grad.chunks_exact(width).take(edges.1 - edges.0).enumerate() {
            let edge = edges.0 + index;
            let y = &given.y[edge * self.harmonics..][..self.harmonics];
            let x = &given.x[self.place(given, edge)..][..self.inputs];
            let x_grad = &mut x_grad[index * self.inputs..][..self.inputs];
            let mut last = usize::MAX;
            for path in &target.paths {
                if path.coupling != last {
                    self.matrix(path.coupling, y, &mut scratch.matrix);
                    last = path.coupling;
                }
                let coupling = &self.couplings[path.coupling];
                let inner = coupling.components.0;
                let mut products = [[simd.splat_f32s(0.0); 5]; 5];
                for start in (0..path.channels).step_by(S::F32_LANES) {
                    let lanes = (path.channels - start).min(S::F32_LANES);
                    let mut grads = [simd.splat_f32s(0.0); 5];
                    for (k, register) in grads.iter_mut().enumerate().take(target.components) {
                        *register = simd.partial_load_f32s(&grad[k * up + path.first + start..][..lanes]);
                    }
                    for i in 0..inner {
                        let column = path.column + i * path.stride + start;
                        let to = &mut x_grad[column..][..lanes];
                        let mut sum = simd.partial_load_f32s(to);
                        for (k, register) in grads.iter().enumerate().take(target.components) {
                            sum = simd.mul_add_e_f32s(simd.splat_f32s(scratch.matrix[k * 5 + i]), *register, sum);
                        }
                        simd.partial_store_f32s(to, sum);
                        if y_grad.is_some() {
                            let from = simd.partial_load_f32s(&x[column..][..lanes]);
                            for (k, register) in grads.iter().enumerate().take(target.components) {
                                products[k][i] = simd.mul_add_e_f32s(from, *register, products[k][i]);
                            }
                        }
                    }
                }
                if let Some(y_grad) = y_grad.as_deref_mut() {
                    let y_grad = &mut y_grad[index * self.harmonics..][..self.harmonics];
                    let mut sums = [[0.0f32; 5]; 5];
                    for (k, row) in products.iter().enumerate().take(target.components) {
                        for (i, product) in row.iter().enumerate().take(inner) {
                            sums[k][i] = simd.reduce_sum_f32s(*product);
                        }
                    }
                    for &(i, j, k, c) in &coupling.terms {
                        y_grad[j] += c * sums[k][i];
                    }
                }
            }
        }
    }

    /// Outer products [m, rows, k, U] of one tile for the hidden features `first..last`.
    #[inline(always)]
    fn outer<S: Simd>(
        &self,
        simd: S,
        target: &Target,
        given: &Arguments,
        tile: Tile,
        ms: (usize, usize),
        scratch: &mut Scratch,
    ) {
        let width = target.width();
        let rows = tile.rows.1 - tile.rows.0;
        let start = given.first_edge[tile.rows.0];
        let needed = (ms.1 - ms.0) * rows * width;
        if scratch.outer.len() < needed {
            scratch.outer.resize(needed, 0.0);
        }
        for row in 0..rows {
            let (e0, e1) = (given.first_edge[tile.rows.0 + row], given.first_edge[tile.rows.0 + row + 1]);
            // SAFETY: the edges e0..e1 have rows in `hidden` and `coupled`, and `outer` holds all rows of the tile.
            unsafe {
                product(
                    simd,
                    Size { rows: ms.1 - ms.0, terms: e1 - e0, width },
                    View { start: given.hidden.as_ptr().add(e0 * self.hidden + ms.0), row: 1, column: self.hidden },
                    scratch.coupled.as_ptr().add((e0 - start) * width),
                    width,
                    scratch.outer.as_mut_ptr().add(row * width),
                    rows * width,
                    false,
                );
            }
        }
    }

    #[inline(always)]
    fn forward_tile<S: Simd>(
        &self,
        simd: S,
        given: &Arguments,
        packed: &[Packed],
        tile: Tile,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) {
        let rows = tile.rows.1 - tile.rows.0;
        let edges = (given.first_edge[tile.rows.0], given.first_edge[tile.rows.1]);
        for (target, packed) in self.targets.iter().zip(packed) {
            self.couple(simd, target, given, edges, scratch);
            let (up, vp) = (padded(target.coupled), padded(target.channels));
            let lines = rows * target.components;
            cleared(&mut scratch.out, lines * vp);
            let mut first = 0;
            while first < self.hidden {
                let last = (first + HIDDEN).min(self.hidden);
                self.outer(simd, target, given, tile, (first, last), scratch);
                for m in first..last {
                    // SAFETY: `outer` holds [m, lines, U], `by_channel` [m, U, v], `out` [lines, v].
                    unsafe {
                        product(
                            simd,
                            Size { rows: lines, terms: target.coupled, width: vp },
                            View { start: scratch.outer.as_ptr().add((m - first) * lines * up), row: up, column: 1 },
                            packed.by_channel.as_ptr().add(m * target.coupled * vp),
                            vp,
                            scratch.out.as_mut_ptr(),
                            vp,
                            true,
                        );
                    }
                }
                first = last;
            }
            for row in 0..rows {
                for k in 0..target.components {
                    let from = &scratch.out[(row * target.components + k) * vp..][..target.channels];
                    let to = &mut out[row * self.outputs + target.column + k * target.stride..][..target.channels];
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = target.scale * from;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn backward_tile<S: Simd>(
        &self,
        simd: S,
        given: &Arguments,
        packed: &[Packed],
        tile: Tile,
        scratch: &mut Scratch,
        out_grad: &[f32],
        x_grad: &mut [f32],
        mut y_grad: Option<&mut [f32]>,
        hidden_grad: &mut [f32],
        weight_grads: &mut [Vec<f32>],
    ) {
        let rows = tile.rows.1 - tile.rows.0;
        let edges = (given.first_edge[tile.rows.0], given.first_edge[tile.rows.1]);
        for ((target, packed), weight_grad) in self.targets.iter().zip(packed).zip(weight_grads) {
            self.couple(simd, target, given, edges, scratch);
            let (up, vp, width) = (padded(target.coupled), padded(target.channels), target.width());
            let lines = rows * target.components;
            cleared(&mut scratch.out, lines * vp);
            for row in 0..rows {
                for k in 0..target.components {
                    let from = &out_grad[(tile.rows.0 + row) * self.outputs + target.column + k * target.stride..]
                        [..target.channels];
                    let to = &mut scratch.out[(row * target.components + k) * vp..][..target.channels];
                    for (to, from) in to.iter_mut().zip(from) {
                        *to = target.scale * from;
                    }
                }
            }
            cleared(&mut scratch.coupled_grad, (edges.1 - edges.0) * width);
            let mut first = 0;
            while first < self.hidden {
                let last = (first + HIDDEN).min(self.hidden);
                self.outer(simd, target, given, tile, (first, last), scratch);
                if scratch.outer_grad.len() < scratch.outer.len() {
                    scratch.outer_grad.resize(scratch.outer.len(), 0.0);
                }
                for m in first..last {
                    let outer = (m - first) * lines * up;
                    // SAFETY: `outer` and its gradient hold [m, lines, U], `out` [lines, v], the weights' gradient
                    // [m, U, v] and `by_coupled` [m, v, U].
                    unsafe {
                        product(
                            simd,
                            Size { rows: target.coupled, terms: lines, width: vp },
                            View { start: scratch.outer.as_ptr().add(outer), row: 1, column: up },
                            scratch.out.as_ptr(),
                            vp,
                            weight_grad.as_mut_ptr().add(m * target.coupled * vp),
                            vp,
                            true,
                        );
                    }
                }
                for m in first..last {
                    let outer = (m - first) * lines * up;
                    unsafe {
                        product(
                            simd,
                            Size { rows: lines, terms: target.channels, width: up },
                            View { start: scratch.out.as_ptr(), row: vp, column: 1 },
                            packed.by_coupled.as_ptr().add(m * target.channels * up),
                            up,
                            scratch.outer_grad.as_mut_ptr().add(outer),
                            up,
                            false,
                        );
                    }
                }
                for row in 0..rows {
                    let (e0, e1) = (given.first_edge[tile.rows.0 + row], given.first_edge[tile.rows.0 + row + 1]);
                    // SAFETY: as in `outer`; `hidden_grad` holds the tile's edges.
                    unsafe {
                        let coupled = (e0 - edges.0) * width;
                        let outer_grad = scratch.outer_grad.as_ptr().add(row * width);
                        product(
                            simd,
                            Size { rows: e1 - e0, terms: last - first, width },
                            View {
                                start: given.hidden.as_ptr().add(e0 * self.hidden + first),
                                row: self.hidden,
                                column: 1,
                            },
                            outer_grad,
                            rows * width,
                            scratch.coupled_grad.as_mut_ptr().add(coupled),
                            width,
                            true,
                        );
                        all_dots(
                            simd,
                            e1 - e0,
                            last - first,
                            width,
                            scratch.coupled.as_ptr().add(coupled),
                            width,
                            outer_grad,
                            rows * width,
                            hidden_grad.as_mut_ptr().add((e0 - edges.0) * self.hidden + first),
                            self.hidden,
                        );
                    }
                }
                first = last;
            }
            self.uncouple(simd, target, given, edges, scratch, x_grad, y_grad.as_deref_mut());
        }
    }

    /// Output rows [M, outputs]; columns of irreps that nothing reaches are 0. Fails if the arguments do not fit.
    pub fn forward(&self, given: &Arguments) -> Result<Vec<f32>, String> {
        self.check(given)?;
        let mut out = vec![0.0f32; (given.first_edge.len() - 1) * self.outputs];
        let packed: Vec<Packed> =
            self.targets.par_iter().zip(given.weights).map(|(t, w)| t.pack(w, self.hidden, false)).collect();
        let tiles = tiles(given.first_edge);
        let mut left = out.as_mut_slice();
        let mut jobs = Vec::with_capacity(tiles.len());
        for tile in tiles {
            let (mine, rest) = std::mem::take(&mut left).split_at_mut((tile.rows.1 - tile.rows.0) * self.outputs);
            jobs.push((tile, mine));
            left = rest;
        }
        let arch = Arch::new();
        jobs.into_par_iter().for_each_init(Scratch::default, |scratch, (tile, out)| {
            arch.dispatch(Forward { convolution: self, given, packed: &packed, tile, scratch, out });
        });
        Ok(out)
    }

    /// The gradients for `out_grad` [M, outputs]; those of the harmonics only if `want_y`. Fails if the arguments
    /// do not fit.
    pub fn backward(&self, given: &Arguments, out_grad: &[f32], want_y: bool) -> Result<Gradients, String> {
        self.check(given)?;
        if out_grad.len() != (given.first_edge.len() - 1) * self.outputs {
            return Err(format!("the output's gradient holds {} values", out_grad.len()));
        }
        let mut into = Gradients {
            x: vec![0.0; given.x.len()],
            y: want_y.then(|| vec![0.0; given.y.len()]),
            hidden: vec![0.0; given.hidden.len()],
            weights: given.weights.iter().map(|w| vec![0.0; w.len()]).collect(),
        };
        let packed: Vec<Packed> =
            self.targets.par_iter().zip(given.weights).map(|(t, w)| t.pack(w, self.hidden, true)).collect();
        let tiles = tiles(given.first_edge);
        let edges = given.sender.len();
        let mut x_grad = vec![0.0f32; edges * self.inputs];
        let parts = tiles.len().div_ceil(TILES).clamp(2, PARTS);
        let share = tiles.len().div_ceil(parts).max(1);
        let mut jobs = Vec::new();
        {
            let (mut x_left, mut hidden_left) = (x_grad.as_mut_slice(), into.hidden.as_mut_slice());
            let mut y_left = into.y.as_deref_mut();
            for part in tiles.chunks(share) {
                let (Some(one), Some(end)) = (part.first(), part.last()) else { continue };
                let count = given.first_edge[end.rows.1] - given.first_edge[one.rows.0];
                let (x_mine, x_rest) = std::mem::take(&mut x_left).split_at_mut(count * self.inputs);
                let (h_mine, h_rest) = std::mem::take(&mut hidden_left).split_at_mut(count * self.hidden);
                let y_mine = match y_left.take() {
                    Some(y) => {
                        let (mine, rest) = y.split_at_mut(count * self.harmonics);
                        y_left = Some(rest);
                        Some(mine)
                    }
                    None => None,
                };
                (x_left, hidden_left) = (x_rest, h_rest);
                jobs.push((part, x_mine, y_mine, h_mine));
            }
        }
        let arch = Arch::new();
        let sums: Vec<Vec<Vec<f32>>> = jobs
            .into_par_iter()
            .map(|(part, x_grad, mut y_grad, hidden_grad)| {
                let mut scratch = Scratch::default();
                let mut weights: Vec<Vec<f32>> =
                    self.targets.iter().map(|t| vec![0.0; self.hidden * t.coupled * padded(t.channels)]).collect();
                let begin = part.first().map_or(0, |tile| given.first_edge[tile.rows.0]);
                for &tile in part {
                    let (from, to) = (given.first_edge[tile.rows.0] - begin, given.first_edge[tile.rows.1] - begin);
                    arch.dispatch(Backward {
                        convolution: self,
                        given,
                        packed: &packed,
                        tile,
                        scratch: &mut scratch,
                        out_grad,
                        x_grad: &mut x_grad[from * self.inputs..to * self.inputs],
                        y_grad: y_grad.as_deref_mut().map(|y| &mut y[from * self.harmonics..to * self.harmonics]),
                        hidden_grad: &mut hidden_grad[from * self.hidden..to * self.hidden],
                        weights: &mut weights,
                    });
                }
                weights
            })
            .collect();
        self.targets.par_iter().enumerate().zip(&mut into.weights).for_each(|((index, target), grad)| {
            let (v, vp) = (target.channels, padded(target.channels));
            for part in &sums {
                for u in 0..target.coupled {
                    for m in 0..self.hidden {
                        let to = &mut grad[(u * self.hidden + m) * v..][..v];
                        let from = &part[index][(m * target.coupled + u) * vp..][..v];
                        for (to, from) in to.iter_mut().zip(from) {
                            *to += from;
                        }
                    }
                }
            }
        });
        for (row, &sender) in x_grad.chunks_exact(self.inputs.max(1)).zip(given.sender) {
            let to = &mut into.x[usize::try_from(sender).unwrap_or_default() * self.inputs..][..self.inputs];
            for (to, from) in to.iter_mut().zip(row) {
                *to += from;
            }
        }
        Ok(into)
    }
}

struct Forward<'a, 'b> {
    convolution: &'a Convolution,
    given: &'a Arguments<'b>,
    packed: &'a [Packed],
    tile: Tile,
    scratch: &'a mut Scratch,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.convolution.forward_tile(simd, self.given, self.packed, self.tile, self.scratch, self.out);
    }
}

struct Backward<'a, 'b> {
    convolution: &'a Convolution,
    given: &'a Arguments<'b>,
    packed: &'a [Packed],
    tile: Tile,
    scratch: &'a mut Scratch,
    out_grad: &'a [f32],
    x_grad: &'a mut [f32],
    y_grad: Option<&'a mut [f32]>,
    hidden_grad: &'a mut [f32],
    weights: &'a mut [Vec<f32>],
}

impl WithSimd for Backward<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.convolution.backward_tile(
            simd,
            self.given,
            self.packed,
            self.tile,
            self.scratch,
            self.out_grad,
            self.x_grad,
            self.y_grad,
            self.hidden_grad,
            self.weights,
        );
    }
}

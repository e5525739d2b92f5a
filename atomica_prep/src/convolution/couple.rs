//! Coupling the senders' features with the harmonics of their edges, sixteen channels at a time, and back.

use pulp::Simd;

use super::products::{load, store, LANES};
use super::tables::{Chunk, Convolution, Matrix, Piece};

/// Calls `$function::<S, I, K>` for the components of features and output, which are 1, 3 or 5 each.
macro_rules! with_components {
    ($components:expr, $simd:ty, $owner:ident.$function:ident $arguments:tt) => {
        match $components {
            (1, 1) => $owner.$function::<$simd, 1, 1> $arguments,
            (1, 3) => $owner.$function::<$simd, 1, 3> $arguments,
            (1, _) => $owner.$function::<$simd, 1, 5> $arguments,
            (3, 1) => $owner.$function::<$simd, 3, 1> $arguments,
            (3, 3) => $owner.$function::<$simd, 3, 3> $arguments,
            (3, _) => $owner.$function::<$simd, 3, 5> $arguments,
            (_, 1) => $owner.$function::<$simd, 5, 1> $arguments,
            (_, 3) => $owner.$function::<$simd, 5, 3> $arguments,
            (_, _) => $owner.$function::<$simd, 5, 5> $arguments,
        }
    };
}

/// The first `lanes` floats of a register, 0 beyond.
#[inline(always)]
unsafe fn load_some<S: Simd>(simd: S, from: *const f32, lanes: usize) -> S::f32s {
    if lanes == S::F32_LANES {
        load::<S>(from)
    } else {
        simd.partial_load_f32s(std::slice::from_raw_parts(from, lanes))
    }
}

#[inline(always)]
unsafe fn store_some<S: Simd>(simd: S, to: *mut f32, lanes: usize, value: S::f32s) {
    if lanes == S::F32_LANES {
        store::<S>(to, value);
    } else {
        simd.partial_store_f32s(std::slice::from_raw_parts_mut(to, lanes), value);
    }
}

impl Convolution {
    /// The matrix [K, I] that couples features with the harmonics `y` of one edge, and zeros.
    #[inline(always)]
    fn matrix<S: Simd, const I: usize, const K: usize>(&self, simd: S, coupling: usize, y: &[f32]) -> Matrix {
        let mut matrix = Matrix([0.0; 2 * LANES]);
        let table = &self.tables[coupling];
        for start in (0..K * I).step_by(S::F32_LANES) {
            let mut sum = simd.splat_f32s(0.0);
            for (j, row) in table {
                // SAFETY: K·I is at most 25, and a whole number of registers fills a row.
                let row = unsafe { load::<S>(row.0.as_ptr().add(start)) };
                sum = simd.mul_add_e_f32s(simd.splat_f32s(y[*j]), row, sum);
            }
            unsafe { store::<S>(matrix.0.as_mut_ptr().add(start), sum) }
        }
        matrix
    }

    /// Coupled channels [K, LANES] of one edge with harmonics `y` and the sender's features `x`.
    #[inline(always)]
    pub(super) fn couple<S: Simd>(&self, simd: S, chunk: &Chunk, x: &[f32], y: &[f32], into: &mut [f32]) {
        if chunk.channels < LANES {
            into.fill(0.0);
        }
        for piece in &chunk.pieces {
            let components = self.couplings[piece.coupling].components;
            // SAFETY: `check_tables` has compared the piece's columns with the features, and `into` is [K, LANES].
            unsafe { with_components!(components, S, self.couple_piece(simd, piece, x, y, into)) }
        }
    }

    #[inline(always)]
    unsafe fn couple_piece<S: Simd, const I: usize, const K: usize>(
        &self,
        simd: S,
        piece: &Piece,
        x: &[f32],
        y: &[f32],
        into: &mut [f32],
    ) {
        let matrix = self.matrix::<S, I, K>(simd, piece.coupling, y);
        let (from, into) = (x.as_ptr().add(piece.column), into.as_mut_ptr().add(piece.at));
        for start in (0..piece.channels).step_by(S::F32_LANES) {
            let lanes = (piece.channels - start).min(S::F32_LANES);
            let mut features = [simd.splat_f32s(0.0); I];
            for i in 0..I {
                features[i] = load_some(simd, from.add(i * piece.stride + start), lanes);
            }
            for k in 0..K {
                let mut sum = simd.splat_f32s(0.0);
                for i in 0..I {
                    sum = simd.mul_add_e_f32s(simd.splat_f32s(matrix.0[k * I + i]), features[i], sum);
                }
                store_some(simd, into.add(k * LANES + start), lanes, sum);
            }
        }
    }

    /// Adds to the gradients of a sender's features and an edge's harmonics what follows from those of its coupled
    /// channels, `grad` [K, LANES].
    #[inline(always)]
    pub(super) fn uncouple<S: Simd>(
        &self,
        simd: S,
        chunk: &Chunk,
        x: &[f32],
        y: &[f32],
        grad: &[f32],
        x_grad: &mut [f32],
        mut y_grad: Option<&mut [f32]>,
    ) {
        for piece in &chunk.pieces {
            let components = self.couplings[piece.coupling].components;
            let y_grad = y_grad.as_deref_mut();
            // SAFETY: as in `couple`; `x_grad` is as long as `x`.
            unsafe { with_components!(components, S, self.uncouple_piece(simd, piece, x, y, grad, x_grad, y_grad)) }
        }
    }

    #[inline(always)]
    unsafe fn uncouple_piece<S: Simd, const I: usize, const K: usize>(
        &self,
        simd: S,
        piece: &Piece,
        x: &[f32],
        y: &[f32],
        grad: &[f32],
        x_grad: &mut [f32],
        y_grad: Option<&mut [f32]>,
    ) {
        let matrix = self.matrix::<S, I, K>(simd, piece.coupling, y);
        let grad = grad.as_ptr().add(piece.at);
        let mut products = [[simd.splat_f32s(0.0); I]; K];
        for start in (0..piece.channels).step_by(S::F32_LANES) {
            let lanes = (piece.channels - start).min(S::F32_LANES);
            let mut grads = [simd.splat_f32s(0.0); K];
            for k in 0..K {
                grads[k] = load_some(simd, grad.add(k * LANES + start), lanes);
            }
            for i in 0..I {
                let column = piece.column + i * piece.stride + start;
                let to = x_grad.as_mut_ptr().add(column);
                let mut sum = load_some(simd, to, lanes);
                for k in 0..K {
                    sum = simd.mul_add_e_f32s(simd.splat_f32s(matrix.0[k * I + i]), grads[k], sum);
                }
                store_some(simd, to, lanes, sum);
                if y_grad.is_some() {
                    let from = load_some(simd, x.as_ptr().add(column), lanes);
                    for k in 0..K {
                        products[k][i] = simd.mul_add_e_f32s(from, grads[k], products[k][i]);
                    }
                }
            }
        }
        if let Some(y_grad) = y_grad {
            let mut sums = [[0.0; I]; K];
            for k in 0..K {
                for i in 0..I {
                    sums[k][i] = simd.reduce_sum_f32s(products[k][i]);
                }
            }
            for &(i, j, k, c) in &self.couplings[piece.coupling].terms {
                y_grad[j] += c * sums[k][i];
            }
        }
    }
}

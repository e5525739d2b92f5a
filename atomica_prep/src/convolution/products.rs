//! Small matrix products whose operands lie in the first- and second-level cache.

use std::any::TypeId;

use pulp::Simd;

/// Runs of coupled channels, output channels and hidden features are this many floats: the widest registers there are.
pub(super) const LANES: usize = 16;

/// A matrix whose elements are read one by one: the first element and the steps between rows and between the terms of
/// a sum; after each group of terms comes a jump.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub start: *const f32,
    pub row: usize,
    pub column: usize,
    pub jump: usize,
}

/// A matrix with contiguous rows: the first element and the step between rows.
#[derive(Clone, Copy)]
pub(super) struct Rows<P> {
    pub start: P,
    pub step: usize,
}

/// Sizes of a product: rows of the result, groups of terms of each sum, floats of a row (a multiple of [`LANES`]).
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub rows: usize,
    pub groups: usize,
    pub terms: usize,
    pub width: usize,
}

#[inline(always)]
pub(super) unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    from.cast::<S::f32s>().read_unaligned()
}

#[inline(always)]
pub(super) unsafe fn store<S: Simd>(to: *mut f32, value: S::f32s) {
    to.cast::<S::f32s>().write_unaligned(value);
}

/// `c[R, V] (+)= Σ_k a[R, k] b[k, V]` for R rows and V registers side by side.
///
/// # Safety
/// `a` must be readable at R rows of all terms, `b` and `c` at V registers of floats in each of their rows.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    size: Size,
    a: View,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
    add: bool,
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    let (mut a_at, mut b_at) = (a.start, b.start);
    for _ in 0..size.groups {
        for _ in 0..size.terms {
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
            b_at = b_at.add(b.step);
            a_at = a_at.add(a.column);
        }
        a_at = a_at.add(a.jump);
    }
    for r in 0..R {
        for v in 0..V {
            let to = c.start.add(r * c.step + v * S::F32_LANES);
            // Added last, because the rounding errors of a sum grow with its length.
            store::<S>(to, if add { simd.add_f32s(load::<S>(to), sums[r][v]) } else { sums[r][v] });
        }
    }
}

/// Rows of a [`tile`] of `registers` columns: as many as there are registers for its sums.
const fn most_rows(lanes: usize, registers: usize) -> usize {
    match (lanes, registers) {
        (LANES, 1) => 24,
        (LANES, 2) => 12,
        (LANES, 3) => 8,
        (LANES, _) => 4,
        (_, 1) => 10,
        (_, _) => 6,
    }
}

/// `c[rows, width] (+)= a[rows, terms] · b[terms, width]`.
///
/// # Safety
/// As for [`tile`], over the whole size.
#[inline(always)]
pub(super) unsafe fn product<S: Simd>(simd: S, size: Size, a: View, b: Rows<*const f32>, c: Rows<*mut f32>, add: bool) {
    let mut column = 0;
    while column < size.width {
        let left = (size.width - column) / S::F32_LANES;
        let (b, c) = (Rows { start: b.start.add(column), ..b }, Rows { start: c.start.add(column), ..c });
        column += match left {
            0 => return,
            1 => strip::<S, 1>(simd, size, a, b, c, add),
            2 | 4 => strip::<S, 2>(simd, size, a, b, c, add),
            _ if S::F32_LANES < LANES => strip::<S, 2>(simd, size, a, b, c, add),
            5 => strip::<S, 5>(simd, size, a, b, c, add),
            _ => strip::<S, 3>(simd, size, a, b, c, add),
        };
    }
}

/// All rows of V registers of a product; gives the number of columns.
#[inline(always)]
unsafe fn strip<S: Simd, const V: usize>(
    simd: S,
    size: Size,
    a: View,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
    add: bool,
) -> usize {
    macro_rules! with_rows {
        ($rows:expr, $a:expr, $c:expr; $($count:literal)*) => {
            match $rows {
                $($count if const { $count <= most_rows(S::F32_LANES, V) } => {
                    tile::<S, $count, V>(simd, size, $a, b, $c, add);
                })*
                _ => {}
            }
        };
    }
    let most = const { most_rows(S::F32_LANES, V) };
    let mut row = 0;
    while row < size.rows {
        let left = size.rows - row;
        // A few rows at the end would wait for one another's sums, so the last two tiles share what is left.
        let rows = if left <= most {
            left
        } else if left < 2 * most {
            left.div_ceil(2)
        } else {
            most
        };
        let a = View { start: a.start.add(row * a.row), ..a };
        let c = Rows { start: c.start.add(row * c.step), ..c };
        with_rows!(rows, a, c; 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24);
        row += rows;
    }
    V * S::F32_LANES
}

/// `c[i, j] += Σ_p a[i, p] b[j, p]` for I rows of `a` and J rows of `b`, `width` floats long.
///
/// # Safety
/// The rows must be readable, and `c` writable at all I·J places.
#[inline(always)]
unsafe fn dots<S: Simd, const I: usize, const J: usize>(
    simd: S,
    width: usize,
    a: Rows<*const f32>,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
) {
    let mut sums = [[simd.splat_f32s(0.0); J]; I];
    let mut p = 0;
    while p < width {
        let mut other = [simd.splat_f32s(0.0); J];
        for j in 0..J {
            other[j] = load::<S>(b.start.add(j * b.step + p));
        }
        for i in 0..I {
            let one = load::<S>(a.start.add(i * a.step + p));
            for j in 0..J {
                sums[i][j] = simd.mul_add_e_f32s(one, other[j], sums[i][j]);
            }
        }
        p += S::F32_LANES;
    }
    for i in 0..I {
        for j in 0..J {
            *c.start.add(i * c.step + j) += simd.reduce_sum_f32s(sums[i][j]);
        }
    }
}

/// `c[i, j] += Σ_p a[i, p] b[j, p]` for all `rows` of `a` and `columns` rows of `b`.
///
/// # Safety
/// As for [`dots`].
#[inline(always)]
pub(super) unsafe fn all_dots<S: Simd>(
    simd: S,
    (rows, columns, width): (usize, usize, usize),
    a: Rows<*const f32>,
    b: Rows<*const f32>,
    c: Rows<*mut f32>,
) {
    let mut i = 0;
    while i < rows {
        let tall = rows - i >= 4;
        let a = Rows { start: a.start.add(i * a.step), ..a };
        for j in 0..columns {
            let b = Rows { start: b.start.add(j * b.step), ..b };
            let c = Rows { start: c.start.add(i * c.step + j), ..c };
            if tall {
                dots::<S, 4, 1>(simd, width, a, b, c);
            } else {
                dots::<S, 1, 1>(simd, width, a, b, c);
            }
        }
        i += if tall { 4 } else { 1 };
    }
}

/// `to[j, i] = from[i, j]` for a square of [`LANES`] rows and columns; rows of `to` are contiguous.
///
/// # Safety
/// The squares must be readable and writable.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(simd: S, from: Rows<*const f32>, to: *mut f32) {
    #[cfg(target_arch = "x86_64")]
    if TypeId::of::<S>() == TypeId::of::<pulp::x86::V4>() {
        transpose_registers(pulp::x86::V4::new_unchecked(), from, to);
        return;
    }
    let _ = simd;
    for i in 0..LANES {
        for j in 0..LANES {
            *to.add(j * LANES + i) = *from.start.add(i * from.step + j);
        }
    }
}

/// [`transpose`] in registers: rows i, i+4, i+8, i+12 side by side, then squares of four.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn transpose_registers(simd: pulp::x86::V4, from: Rows<*const f32>, to: *mut f32) {
    use std::arch::x86_64::{__m128, __m512};
    let simd = simd.avx512f;
    for block in 0..4 {
        let mut rows = [simd._mm512_setzero_ps(); 4];
        for (i, row) in rows.iter_mut().enumerate() {
            let quarter =
                |q: usize| from.start.add((i + 4 * q) * from.step + 4 * block).cast::<__m128>().read_unaligned();
            let joined = simd._mm512_castps128_ps512(quarter(0));
            let joined = simd._mm512_insertf32x4::<1>(joined, quarter(1));
            let joined = simd._mm512_insertf32x4::<2>(joined, quarter(2));
            *row = simd._mm512_insertf32x4::<3>(joined, quarter(3));
        }
        let [a, b, c, d] = rows;
        let (low, high) = (simd._mm512_unpacklo_ps(a, b), simd._mm512_unpackhi_ps(a, b));
        let (other_low, other_high) = (simd._mm512_unpacklo_ps(c, d), simd._mm512_unpackhi_ps(c, d));
        let columns = [
            simd._mm512_shuffle_ps::<0x44>(low, other_low),
            simd._mm512_shuffle_ps::<0xee>(low, other_low),
            simd._mm512_shuffle_ps::<0x44>(high, other_high),
            simd._mm512_shuffle_ps::<0xee>(high, other_high),
        ];
        for (j, column) in columns.into_iter().enumerate() {
            to.add((4 * block + j) * LANES).cast::<__m512>().write_unaligned(column);
        }
    }
}

/// Floats that start at a multiple of the widest register, so that none is split between two lines of the cache.
#[derive(Default)]
pub(super) struct Buffer {
    floats: Vec<f32>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// `length` zeros.
    pub fn zeros(length: usize) -> Self {
        let floats = vec![0.0; length + LANES];
        let start = floats.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        Self { floats, start, length }
    }

    /// The first `length` floats, with whatever they hold.
    pub fn of(&mut self, length: usize) -> &mut [f32] {
        if self.length < length {
            *self = Self::zeros(length);
        }
        &mut self[..length]
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.floats[self.start..][..self.length]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.floats[self.start..][..self.length]
    }
}

//! What a convolution is made of: couplings, output irreps, and what is made of them once for all passes.

use super::products::{Buffer, LANES};

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
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) harmonics: usize,
    pub(super) hidden: usize,
    pub(super) couplings: Vec<Coupling>,
    pub(super) targets: Vec<Target>,
    pub(super) chunks: Vec<Vec<Chunk>>,
    pub(super) tables: Vec<Vec<(usize, Matrix)>>,
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

pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(LANES)
}

impl Target {
    /// Receivers of a tile: about as many rows of a product as there are registers for, and few enough for the
    /// first-level cache.
    pub(super) fn receivers(&self) -> usize {
        match self.components {
            1 => 12,
            3 => 6,
            _ => 4,
        }
    }

    /// The weights [U, m, v] by chunk of U, each [m, LANES, v] with v padded or, `turned`, [m, v, LANES].
    pub(super) fn pack(&self, weight: &[f32], hidden: usize, turned: bool) -> Buffer {
        let (v, wide) = (self.channels, padded(self.channels));
        let (row, size) = if turned { (LANES, v * LANES) } else { (wide, wide * LANES) };
        let mut packed = Buffer::zeros(padded(self.coupled) * hidden * size / LANES);
        for (chunk, packed) in packed.chunks_exact_mut((hidden * size).max(1)).enumerate() {
            for (m, packed) in packed.chunks_exact_mut(size.max(1)).enumerate() {
                for (lane, u) in (chunk * LANES..self.coupled).take(LANES).enumerate() {
                    let from = &weight[(u * hidden + m) * v..][..v];
                    if turned {
                        for (c, &value) in from.iter().enumerate() {
                            packed[c * row + lane] = value;
                        }
                    } else {
                        packed[lane * row..][..v].copy_from_slice(from);
                    }
                }
            }
        }
        packed
    }
}

/// Up to 25 coefficients [k, i].
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Matrix(pub(super) [f32; 2 * LANES]);

/// For each harmonic of a coupling its column and what it adds to the coupling matrix.
pub(super) fn table(coupling: &Coupling) -> Vec<(usize, Matrix)> {
    let mut table: Vec<(usize, Matrix)> = Vec::new();
    for &(i, j, k, c) in &coupling.terms {
        let place = table.iter().position(|&(column, _)| column == j).unwrap_or_else(|| {
            table.push((j, Matrix([0.0; 2 * LANES])));
            table.len() - 1
        });
        table[place].1 .0[k * coupling.components.0 + i] += c;
    }
    table
}

/// [`LANES`] coupled channels of one output irrep, or what is left of them.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) channels: usize,
    pub(super) pieces: Vec<Piece>,
}

/// The part of a path that lies in a chunk.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) coupling: usize,
    /// Column of its first channel in the first component of the features, and columns to the next component.
    pub(super) column: usize,
    pub(super) stride: usize,
    pub(super) channels: usize,
    /// Its first channel in the chunk.
    pub(super) at: usize,
}

/// The chunks of one output irrep.
pub(super) fn chunks(target: &Target) -> Vec<Chunk> {
    let chunk = |first: usize| {
        let channels = (target.coupled - first).min(LANES);
        let pieces = target.paths.iter().filter_map(|path| {
            let start = path.first.max(first);
            let end = (path.first + path.channels).min(first + channels);
            (start < end).then(|| Piece {
                coupling: path.coupling,
                column: path.column + start - path.first,
                stride: path.stride,
                channels: end - start,
                at: start - first,
            })
        });
        Chunk { channels, pieces: pieces.collect() }
    };
    (0..target.coupled).step_by(LANES).map(chunk).collect()
}

//! Vectors, rotations, superposition.

pub(super) type Point = [f64; 3];
type Matrix = [[f64; 3]; 3];

#[inline]
pub(super) fn wide(p: &[f32; 3]) -> Point {
    [f64::from(p[0]), f64::from(p[1]), f64::from(p[2])]
}

#[inline]
pub(super) fn narrow(p: Point) -> [f32; 3] {
    [p[0] as f32, p[1] as f32, p[2] as f32]
}

#[inline]
pub(super) fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

#[inline]
pub(super) fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

#[inline]
pub(super) fn times(a: Point, factor: f64) -> Point {
    [a[0] * factor, a[1] * factor, a[2] * factor]
}

#[inline]
pub(super) fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

#[inline]
pub(super) fn apply(matrix: &Matrix, p: Point) -> Point {
    [dot(matrix[0], p), dot(matrix[1], p), dot(matrix[2], p)]
}

/// The origin if there are no points.
pub(super) fn mean(points: impl Iterator<Item = Point>) -> Point {
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
pub(super) fn rotation(axis: Point, angle: f64) -> Matrix {
    let (sin, cos) = (0.5 * angle).sin_cos();
    let [x, y, z] = times(axis, sin / dot(axis, axis).sqrt());
    matrix_of([cos, x, y, z])
}

/// Moves `points` as one body onto `targets`, with the smallest sum of squared distances.
///
/// The best rotation is, as a quaternion, the eigenvector of the largest eigenvalue of a symmetric 4 × 4 matrix.
pub(super) fn superpose(points: &mut [Point], targets: &[Point]) {
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

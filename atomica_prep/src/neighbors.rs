//! Exact nearest neighbours: a balanced k-d tree per segment, ties to the lower index.
//!
//! The points of a leaf look for their neighbours together, in single precision, so that they share the way through
//! the tree. Each keeps one candidate more than asked for. Where that one is clearly farther than the others, these
//! are the nearest ones, and only their order is settled in double precision; else the point is searched for alone.
#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "indices are made here, from lengths checked at the entrance"
)]

use rayon::prelude::*;

/// Filler of a list with fewer than k neighbours.
pub const NO_NEIGHBOR: i32 = -1;

/// Points of a leaf; a multiple of the widest vector of 32-bit numbers, so that a leaf is a few instructions.
const LEAF: usize = 16;

/// Distances in single precision are off by less than this, relatively; they only rule points out.
const SLACK: f32 = 1e-6;

#[derive(Debug, Clone, Copy)]
struct Node {
    low: [f32; 3],
    high: [f32; 3],
    start: u32,
    end: u32,
    /// Index of the left child, which the right one follows; of the leaf's points where there is none.
    next: u32,
    is_leaf: bool,
}

/// Coordinates by axis. Beyond the last point are infinities, farther than anything.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    axes: [[f32; LEAF]; 3],
    rows: [u32; LEAF],
}

/// A k-d tree over some rows of an array of points.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
    leaves: Vec<Leaf>,
    rows: Vec<u32>,
}

impl Tree {
    fn build(positions: &[[f32; 3]], rows: Vec<u32>) -> Self {
        let mut tree = Self { nodes: Vec::with_capacity(rows.len() / 4 + 1), leaves: Vec::new(), rows };
        if tree.rows.is_empty() {
            return tree;
        }
        let end = tree.rows.len() as u32;
        tree.nodes.push(Node { low: [0.0; 3], high: [0.0; 3], start: 0, end, next: 0, is_leaf: true });
        let mut at = 0;
        while at < tree.nodes.len() {
            let Node { start, end, .. } = tree.nodes[at];
            let rows = &mut tree.rows[start as usize..end as usize];
            let (mut low, mut high) = ([f32::INFINITY; 3], [f32::NEG_INFINITY; 3]);
            for &row in rows.iter() {
                let p = positions[row as usize];
                for axis in 0..3 {
                    low[axis] = low[axis].min(p[axis]);
                    high[axis] = high[axis].max(p[axis]);
                }
            }
            let is_leaf = rows.len() <= LEAF;
            let next = if is_leaf {
                let mut leaf = Leaf { axes: [[f32::INFINITY; LEAF]; 3], rows: [u32::MAX; LEAF] };
                for (slot, &row) in rows.iter().enumerate() {
                    leaf.rows[slot] = row;
                    for axis in 0..3 {
                        leaf.axes[axis][slot] = positions[row as usize][axis];
                    }
                }
                tree.leaves.push(leaf);
                tree.leaves.len() as u32 - 1
            } else {
                let mut axis = 0;
                for other in 1..3 {
                    if high[other] - low[other] > high[axis] - low[axis] {
                        axis = other;
                    }
                }
                // Whole leaves on the left, so that few are left half empty.
                let middle = (rows.len() / 2).next_multiple_of(LEAF).min(rows.len() - 1);
                rows.select_nth_unstable_by(middle, |a, b| {
                    positions[*a as usize][axis].total_cmp(&positions[*b as usize][axis])
                });
                let split = start + middle as u32;
                let child = Node { low, high, start, end, next: 0, is_leaf: true };
                tree.nodes.push(Node { end: split, ..child });
                tree.nodes.push(Node { start: split, ..child });
                tree.nodes.len() as u32 - 2
            };
            let node = &mut tree.nodes[at];
            (node.low, node.high, node.next, node.is_leaf) = (low, high, next, is_leaf);
            at += 1;
        }
        tree
    }

    fn search(&self, positions: &[[f32; 3]], point: [f32; 3], without: u32, best: &mut Best<'_>) {
        let Some(root) = self.nodes.first() else { return };
        // Depth is below 40, and each level leaves one sibling waiting.
        let mut waiting = [(0.0f32, 0u32); 48];
        waiting[0] = (box_distance(root, point), 0);
        let mut count = 1;
        while count > 0 {
            count -= 1;
            let (distance, at) = waiting[count];
            // At equal distance a lower index may still be found.
            if distance > best.limit {
                continue;
            }
            let node = &self.nodes[at as usize];
            if node.is_leaf {
                let leaf = &self.leaves[node.next as usize];
                let mut rough = [0.0f32; LEAF];
                for axis in 0..3 {
                    for slot in 0..LEAF {
                        let d = leaf.axes[axis][slot] - point[axis];
                        rough[slot] += d * d;
                    }
                }
                for slot in 0..(node.end - node.start) as usize {
                    if rough[slot] <= best.limit && leaf.rows[slot] != without {
                        let row = leaf.rows[slot];
                        best.offer(distance_squared(positions[row as usize], point), row);
                    }
                }
                continue;
            }
            let (left, right) = (node.next, node.next + 1);
            let near = (box_distance(&self.nodes[left as usize], point), left);
            let far = (box_distance(&self.nodes[right as usize], point), right);
            let (near, far) = if far.0 < near.0 { (far, near) } else { (near, far) };
            waiting[count] = far;
            waiting[count + 1] = near;
            count += 2;
        }
    }
}

#[inline]
fn distance_squared(a: [f32; 3], b: [f32; 3]) -> f64 {
    let mut sum = 0.0;
    for axis in 0..3 {
        let d = f64::from(a[axis]) - f64::from(b[axis]);
        sum += d * d;
    }
    sum
}

/// Squared distance to a box, in single precision.
#[inline]
fn box_distance(node: &Node, p: [f32; 3]) -> f32 {
    let mut sum = 0.0;
    for axis in 0..3 {
        let d = (node.low[axis] - p[axis]).max(p[axis] - node.high[axis]).max(0.0);
        sum += d * d;
    }
    sum
}

/// Nearer, or as near with a lower row.
#[inline]
fn sooner(a: (f64, u32), b: (f64, u32)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// The k nearest so far, ascending by (distance, row).
struct Best<'a> {
    found: &'a mut [(f64, u32)],
    count: usize,
    /// Beyond this distance, as single precision has it, nothing is of interest.
    limit: f32,
}

impl<'a> Best<'a> {
    fn new(space: &'a mut [(f64, u32)]) -> Self {
        Self { found: space, count: 0, limit: f32::INFINITY }
    }

    #[inline]
    fn offer(&mut self, distance: f64, row: u32) {
        let k = self.found.len();
        let mut at = if self.count < k {
            self.count += 1;
            self.count - 1
        } else {
            let last = self.found[k - 1];
            if !sooner((distance, row), last) {
                return;
            }
            k - 1
        };
        while at > 0 && sooner((distance, row), self.found[at - 1]) {
            self.found[at] = self.found[at - 1];
            at -= 1;
        }
        self.found[at] = (distance, row);
        if self.count == k {
            // Rounded up: single precision must not rule out what is just as near.
            self.limit = (self.found[k - 1].0 as f32).next_up() * (1.0 + SLACK);
        }
    }
}

/// The candidates of all points of a leaf: squared distances in single precision above, rows below, ascending.
struct Candidates {
    /// `wanted` slots for each point of the leaf, the last ones with [`NOTHING`] in them.
    keys: Vec<u64>,
    wanted: usize,
    /// Beyond this distance a point needs no more candidates.
    limits: [f32; LEAF],
}

/// Key of an empty slot: farther than anything.
const NOTHING: u64 = (f32::INFINITY.to_bits() as u64) << 32 | u32::MAX as u64;

impl Candidates {
    fn new(wanted: usize) -> Self {
        Self { keys: vec![NOTHING; wanted * LEAF], wanted, limits: [f32::INFINITY; LEAF] }
    }

    fn clear(&mut self) {
        self.keys.fill(NOTHING);
        self.limits = [f32::INFINITY; LEAF];
    }

    fn of(&self, point: usize) -> &[u64] {
        let slots = &self.keys[point * self.wanted..(point + 1) * self.wanted];
        let filled = slots.iter().position(|key| *key == NOTHING).unwrap_or(slots.len());
        &slots[..filled]
    }

    #[inline]
    fn offer(&mut self, point: usize, distance: f32, row: u32) {
        let slots = &mut self.keys[point * self.wanted..(point + 1) * self.wanted];
        // Distances are not negative, so their bits sort as they do.
        let key = u64::from(distance.to_bits()) << 32 | u64::from(row);
        // Every slot is passed, because a branch out of here could not be predicted.
        let mut carried = key;
        for slot in slots.iter_mut() {
            let (low, high) = (carried.min(*slot), carried.max(*slot));
            *slot = low;
            carried = high;
        }
        self.limits[point] = rough(slots[slots.len() - 1]);
    }
}

/// The distance of a key.
#[inline]
fn rough(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

/// The distance between two boxes, squared, in single precision.
#[inline]
fn gap(a: &Node, b: &Node) -> f32 {
    let mut sum = 0.0;
    for axis in 0..3 {
        let d = (a.low[axis] - b.high[axis]).max(b.low[axis] - a.high[axis]).max(0.0);
        sum += d * d;
    }
    sum
}

impl Tree {
    /// Candidates for all points of a leaf, `from` (of this tree or another).
    fn search_together(&self, from: &Node, points: &Leaf, candidates: &mut Candidates) {
        let Some(root) = self.nodes.first() else { return };
        let count = (from.end - from.start) as usize;
        let mut bound = f32::INFINITY;
        let mut waiting = [(0.0f32, 0u32); 48];
        waiting[0] = (gap(root, from), 0);
        let mut left = 1;
        while left > 0 {
            left -= 1;
            let (distance, at) = waiting[left];
            if distance > bound {
                continue;
            }
            let node = &self.nodes[at as usize];
            if !node.is_leaf {
                let near = (gap(&self.nodes[node.next as usize], from), node.next);
                let far = (gap(&self.nodes[node.next as usize + 1], from), node.next + 1);
                let (near, far) = if far.0 < near.0 { (far, near) } else { (near, far) };
                waiting[left] = far;
                waiting[left + 1] = near;
                left += 2;
                continue;
            }
            let leaf = &self.leaves[node.next as usize];
            let filled = (node.end - node.start) as usize;
            let mut changed = false;
            for point in 0..count {
                let p = [points.axes[0][point], points.axes[1][point], points.axes[2][point]];
                let limit = candidates.limits[point];
                if box_distance(node, p) > limit {
                    continue;
                }
                let mut distances = [0.0f32; LEAF];
                for axis in 0..3 {
                    for slot in 0..LEAF {
                        let d = leaf.axes[axis][slot] - p[axis];
                        distances[slot] += d * d;
                    }
                }
                // Without a branch per slot, which no processor could predict.
                let mut near = [0u8; LEAF];
                let mut found = 0;
                for slot in 0..filled {
                    near[found] = slot as u8;
                    found += usize::from(distances[slot] <= limit);
                }
                for &slot in &near[..found] {
                    let slot = usize::from(slot);
                    if leaf.rows[slot] != points.rows[point] {
                        candidates.offer(point, distances[slot], leaf.rows[slot]);
                    }
                }
                changed |= found > 0;
            }
            if changed {
                bound = candidates.limits[..count].iter().copied().fold(0.0, f32::max);
            }
        }
    }
}

/// Nearest neighbours within one complex, as rows of its own arrays plus `offset`, into `intra` and `inter`
/// (rows × k each, filled with [`NO_NEIGHBOR`]). The three inputs have one length, which is below 2³¹.
pub fn nearest_in_complex(
    positions: &[[f32; 3]],
    segments: &[u8],
    eligible: &[bool],
    k: usize,
    offset: usize,
    intra: &mut [i32],
    inter: &mut [i32],
) {
    intra.fill(NO_NEIGHBOR);
    inter.fill(NO_NEIGHBOR);
    if k == 0 {
        return;
    }
    assert!(segments.len() == positions.len() && eligible.len() == positions.len(), "one length");
    assert!(intra.len() == positions.len() * k && inter.len() == intra.len(), "rows × k");
    let mut rows: Vec<(u8, Vec<u32>)> = Vec::new();
    for (row, (&segment, _)) in segments.iter().zip(eligible).enumerate().filter(|(_, (_, e))| **e) {
        match rows.iter_mut().find(|(s, _)| *s == segment) {
            Some((_, list)) => list.push(row as u32),
            None => rows.push((segment, vec![row as u32])),
        }
    }
    let trees: Vec<(u8, Tree)> = rows.into_iter().map(|(s, list)| (s, Tree::build(positions, list))).collect();
    let mut candidates = Candidates::new(k + 1);
    let mut space = vec![(0.0, 0u32); k];
    for (segment, own) in &trees {
        for node in own.nodes.iter().filter(|n| n.is_leaf) {
            let points = &own.leaves[node.next as usize];
            for (list, same) in [(&mut *intra, true), (&mut *inter, false)] {
                candidates.clear();
                let others = || trees.iter().filter(|(other, _)| (other == segment) == same);
                for (_, tree) in others() {
                    tree.search_together(node, points, &mut candidates);
                }
                for point in 0..(node.end - node.start) as usize {
                    let row = points.rows[point];
                    let position = positions[row as usize];
                    let mut best = Best::new(&mut space);
                    let keys = candidates.of(point);
                    // Far enough, also where squares are so small that single precision has few digits left.
                    let clear = match keys.get(k) {
                        None => true,
                        Some(next) => rough(*next) > rough(keys[k - 1]) * (1.0 + 4.0 * SLACK) + f32::MIN_POSITIVE,
                    };
                    if clear {
                        for key in &keys[..keys.len().min(k)] {
                            let other = *key as u32;
                            best.offer(distance_squared(positions[other as usize], position), other);
                        }
                    } else {
                        for (_, tree) in others() {
                            tree.search(positions, position, row, &mut best);
                        }
                    }
                    let slots = &mut list[row as usize * k..row as usize * k + k];
                    for (slot, (_, other)) in slots.iter_mut().zip(&best.found[..best.count]) {
                        *slot = (*other as usize + offset) as i32;
                    }
                }
            }
        }
    }
}

/// Nearest neighbours of many complexes in parallel: two arrays of rows × k, indices over all rows.
///
/// `complexes` must not decrease. Only `eligible` rows have neighbours and are neighbours.
///
/// # Errors
/// Lengths differ, `complexes` decreases, or there are more rows than an i32 can count.
pub fn nearest(
    positions: &[[f32; 3]],
    complexes: &[i64],
    segments: &[u8],
    eligible: &[bool],
    k: usize,
) -> Result<(Vec<i32>, Vec<i32>), String> {
    let n = positions.len();
    if complexes.len() != n || segments.len() != n || eligible.len() != n {
        return Err(format!(
            "positions has {n} rows, complexes {}, segments {}, eligible {}; they must have the same number",
            complexes.len(),
            segments.len(),
            eligible.len()
        ));
    }
    if i32::try_from(n).is_err() {
        return Err(format!("{n} rows are more than an int32 can count"));
    }
    if let Some(at) = complexes.windows(2).position(|w| w[1] < w[0]) {
        return Err(format!("complexes decreases at row {}; rows of a complex must follow one another", at + 1));
    }
    let size = n.checked_mul(k).ok_or_else(|| format!("k = {k} is too large"))?;
    let (mut intra, mut inter) = (vec![NO_NEIGHBOR; size], vec![NO_NEIGHBOR; size]);
    if k == 0 {
        return Ok((intra, inter));
    }
    let mut jobs = Vec::new();
    let (mut rest_intra, mut rest_inter) = (intra.as_mut_slice(), inter.as_mut_slice());
    let mut start = 0;
    for group in complexes.chunk_by(|a, b| a == b) {
        let end = start + group.len();
        let (a, tail_a) = rest_intra.split_at_mut(group.len() * k);
        let (b, tail_b) = rest_inter.split_at_mut(group.len() * k);
        (rest_intra, rest_inter) = (tail_a, tail_b);
        jobs.push((start, end, a, b));
        start = end;
    }
    jobs.into_par_iter().for_each(|(start, end, intra, inter)| {
        let range = start..end;
        nearest_in_complex(
            &positions[range.clone()],
            &segments[range.clone()],
            &eligible[range],
            k,
            start,
            intra,
            inter,
        );
    });
    Ok((intra, inter))
}

/// Boxes over points for radius search among the blocks of one partner.
#[derive(Debug)]
pub struct Cells {
    origin: [f64; 3],
    size: f64,
    counts: [usize; 3],
    /// Where each cell's points begin in `points`.
    starts: Vec<u32>,
    points: Vec<u32>,
}

impl Cells {
    /// Sorts points into cells of about `size` Å; cells grow where there would be too many.
    pub fn new(points: &[[f64; 3]], size: f64) -> Self {
        let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        for p in points {
            for axis in 0..3 {
                low[axis] = low[axis].min(p[axis]);
                high[axis] = high[axis].max(p[axis]);
            }
        }
        if points.is_empty() {
            (low, high) = ([0.0; 3], [0.0; 3]);
        }
        let widest = (0..3).map(|a| high[a] - low[a]).fold(0.0, f64::max);
        // At most 64 cells along an axis bound the memory, whatever the coordinates.
        let size = size.max(1e-3).max(widest / 64.0);
        let counts = [0, 1, 2].map(|a| ((high[a] - low[a]) / size) as usize + 1);
        let mut cells = Self { origin: low, size, counts, starts: Vec::new(), points: vec![0; points.len()] };
        let keys: Vec<usize> = points.iter().map(|p| cells.cell(*p)).collect();
        let mut starts = vec![0u32; counts.iter().product::<usize>() + 1];
        for key in &keys {
            starts[key + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        for (i, key) in keys.iter().enumerate() {
            cells.points[next[*key] as usize] = i as u32;
            next[*key] += 1;
        }
        cells.starts = starts;
        cells
    }

    fn coordinate(&self, value: f64, axis: usize) -> usize {
        // A saturating cast: left of the origin is cell 0.
        (((value - self.origin[axis]) / self.size) as usize).min(self.counts[axis] - 1)
    }

    fn cell(&self, p: [f64; 3]) -> usize {
        let [x, y, z] = [0, 1, 2].map(|a| self.coordinate(p[a], a));
        (x * self.counts[1] + y) * self.counts[2] + z
    }

    /// Calls `visit` with every point that may lie within `radius` of `p`, and some others.
    pub fn near(&self, p: [f64; 3], radius: f64, mut visit: impl FnMut(usize)) {
        for axis in 0..3 {
            let far = self.origin[axis] + self.size * self.counts[axis] as f64;
            if p[axis] + radius < self.origin[axis] || p[axis] - radius > far {
                return;
            }
        }
        let low = [0, 1, 2].map(|a| self.coordinate(p[a] - radius, a));
        let high = [0, 1, 2].map(|a| self.coordinate(p[a] + radius, a));
        for x in low[0]..=high[0] {
            for y in low[1]..=high[1] {
                let row = (x * self.counts[1] + y) * self.counts[2];
                let (start, end) = (self.starts[row + low[2]], self.starts[row + high[2] + 1]);
                for &point in &self.points[start as usize..end as usize] {
                    visit(point as usize);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow twin: all distances, sorted.
    fn naive(
        positions: &[[f32; 3]],
        complexes: &[i64],
        segments: &[u8],
        eligible: &[bool],
        k: usize,
    ) -> (Vec<i32>, Vec<i32>) {
        let n = positions.len();
        let mut out = [vec![NO_NEIGHBOR; n * k], vec![NO_NEIGHBOR; n * k]];
        for (which, list) in out.iter_mut().enumerate() {
            for i in (0..n).filter(|i| eligible[*i]) {
                let mut all: Vec<(f64, usize)> = (0..n)
                    .filter(|j| {
                        eligible[*j]
                            && *j != i
                            && complexes[i] == complexes[*j]
                            && (segments[i] == segments[*j]) == (which == 0)
                    })
                    .map(|j| (distance_squared(positions[i], positions[j]), j))
                    .collect();
                all.sort_by(|a, b| a.partial_cmp(b).unwrap());
                for (slot, (_, j)) in list[i * k..i * k + k].iter_mut().zip(all) {
                    *slot = j as i32;
                }
            }
        }
        let [a, b] = out;
        (a, b)
    }

    /// A small generator of numbers in [0, 1), so that tests need no crate for it.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) as f64) / f64::from(1u32 << 31)
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() * n as f64) as usize
        }
    }

    fn check(positions: &[[f32; 3]], complexes: &[i64], segments: &[u8], eligible: &[bool], k: usize) {
        let fast = nearest(positions, complexes, segments, eligible, k).unwrap();
        assert_eq!(fast, naive(positions, complexes, segments, eligible, k));
    }

    #[test]
    fn random_complexes_agree_with_the_slow_twin() {
        let mut random = Random(7);
        for round in 0..60 {
            let n = random.below(400) + 1;
            // Coarse coordinates make many ties; every third round is fine-grained.
            let grain = if round % 3 == 0 { 1e-3 } else { 2.0 };
            let positions: Vec<[f32; 3]> =
                (0..n).map(|_| [0; 3].map(|_| ((random.next() * 20.0 / grain).floor() * grain) as f32)).collect();
            let mut complexes: Vec<i64> = (0..n).map(|_| random.below(4) as i64 - 1).collect();
            complexes.sort_unstable();
            let segments: Vec<u8> = (0..n).map(|_| random.below(3) as u8).collect();
            let eligible: Vec<bool> = (0..n).map(|_| random.next() > 0.1).collect();
            for k in [1, 8, 30] {
                check(&positions, &complexes, &segments, &eligible, k);
            }
        }
    }

    #[test]
    fn degenerate_inputs() {
        check(&[], &[], &[], &[], 8);
        check(&[[0.0; 3]], &[0], &[0], &[true], 8);
        check(&[[1.0; 3]; 50], &[0; 50], &[0; 50], &[true; 50], 8);
        check(&[[1.0; 3]; 50], &[0; 50], &[0; 50], &[false; 50], 8);
        let line: Vec<[f32; 3]> = (0..100).map(|i| [i as f32, 0.0, 0.0]).collect();
        let halves: Vec<u8> = (0..100).map(|i| u8::from(i >= 50)).collect();
        check(&line, &[5; 100], &halves, &[true; 100], 3);
        let far: Vec<[f32; 3]> = (0..30).map(|i| [1e6 + i as f32, -1e6, 3e5]).collect();
        check(&far, &[0; 30], &[0; 30], &[true; 30], 4);
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        let (intra, _) =
            nearest(&[[0.0; 3], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], &[0; 3], &[0; 3], &[true; 3], 1).unwrap();
        assert_eq!(intra, [1, 0, 0]);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        assert!(nearest(&[[0.0; 3]], &[0, 0], &[0], &[true], 1).is_err());
        let error = nearest(&[[0.0; 3]; 2], &[1, 0], &[0; 2], &[true; 2], 1).unwrap_err();
        assert!(error.contains("decreases at row 1"), "{error}");
        assert_eq!(nearest(&[[0.0; 3]; 2], &[0, 0], &[0; 2], &[true; 2], 0).unwrap(), (vec![], vec![]));
    }

    #[test]
    fn cells_miss_nothing() {
        let mut random = Random(11);
        for scale in [1.0, 30.0, 5000.0] {
            let points: Vec<[f64; 3]> = (0..300).map(|_| [0; 3].map(|_| (random.next() - 0.5) * scale)).collect();
            let cells = Cells::new(&points, 4.0);
            for _ in 0..50 {
                let p = [0; 3].map(|_| (random.next() - 0.5) * 1.5 * scale);
                let radius = random.next() * 12.0;
                let mut seen = vec![0; points.len()];
                cells.near(p, radius, |i| seen[i] += 1);
                for (q, times) in points.iter().zip(&seen) {
                    let d = (0..3).map(|a| (p[a] - q[a]).powi(2)).sum::<f64>().sqrt();
                    assert!(*times <= 1 && (d > radius || *times == 1));
                }
            }
        }
        Cells::new(&[], 4.0).near([0.0; 3], 1.0, |_| panic!("nothing to find"));
    }
}

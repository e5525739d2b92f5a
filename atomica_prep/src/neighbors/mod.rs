//! Exact nearest neighbours and radius search; ties go to the lower index.
//!
//! Points are packed eight to a leaf, leaves and nodes eight to a node, so that one vector instruction looks at all
//! children of a node, or at one candidate from all points of a leaf. The points of a leaf look for their neighbours
//! together and in single precision. Each keeps one candidate more than asked for; where two that follow one another
//! are too near for single precision to tell apart, double precision decides.
#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "indices are made here, from lengths checked at the entrance; loops over lanes become vectors"
)]

mod cells;
mod tree;

pub use cells::Cells;
use rayon::prelude::*;
use tree::{key, Around, Bounds, Lanes, Leaf, Point, Tree, Walk, EMPTY, LANES, NO_ROW, WIDE};

/// Filler of a list with fewer than k neighbours.
pub const NO_NEIGHBOR: i32 = -1;

/// The lowest bits of a candidate's key say which it is: number of its leaf in the order of visits, and slot.
const NAME_BITS: u32 = 10;
const NAMES: i32 = 1 << NAME_BITS;
/// Beyond them names are used again, so they say nothing; distances still do.
const MOST_VISITS: usize = NAMES as usize / WIDE;

/// What one leaf's points have found so far.
struct Found<'a> {
    /// Candidates of each point, ascending; one more than asked for.
    slots: &'a mut [Lanes<i32>],
    /// The leaves that they came from.
    visited: &'a mut Vec<u32>,
    rows: &'a mut [u32; NAMES as usize],
}

impl Found<'_> {
    /// A key beyond which no point of the leaf needs candidates. It leaves room for rounding.
    #[inline(always)]
    fn limit(&self) -> i32 {
        let last = &self.slots[self.slots.len() - 1];
        let mut worst = 0;
        for lane in 0..WIDE {
            worst = worst.max(last[lane]);
        }
        (worst.min(key(f32::MAX)) | (NAMES - 1)) + NAMES
    }

    /// Looks through all of a tree for the points of `group`; `own` is its number if it is of this tree. Numbers
    /// of leaves count from `base`.
    #[inline(always)]
    fn search(&mut self, tree: &Tree, base: usize, group: &Leaf, bounds: &Bounds, own: Option<usize>) {
        let mut limit = self.limit();
        let mut walk = Walk::new(tree, bounds);
        while let Some(at) = walk.next(limit) {
            let leaf = &tree.leaves[at];
            let name = (self.visited.len() * WIDE) as i32 & (NAMES - 1);
            self.rows[name as usize..name as usize + WIDE].copy_from_slice(&leaf.rows);
            self.visited.push((base + at) as u32);
            let mut near = leaf.near(bounds, limit);
            let any = near != 0;
            while near != 0 {
                let slot = near.trailing_zeros() as usize;
                near &= near - 1;
                let mut keys = leaf.keys(slot, group);
                for lane in 0..WIDE {
                    keys[lane] = keys[lane] & -NAMES | (name | slot as i32);
                }
                if own == Some(at) {
                    // No point is its own neighbour.
                    for lane in 0..WIDE {
                        keys[lane] = if LANES[lane] == slot as i32 { EMPTY } else { keys[lane] };
                    }
                }
                // Every slot is passed, because a branch out of here could not be predicted.
                for row in self.slots.iter_mut() {
                    for lane in 0..WIDE {
                        let (low, high) = (keys[lane].min(row[lane]), keys[lane].max(row[lane]));
                        row[lane] = low;
                        keys[lane] = high;
                    }
                }
            }
            if any {
                limit = self.limit();
            }
        }
    }

    /// Which points of the leaf have candidates whose order is beyond doubt.
    #[inline(always)]
    fn settled(&self) -> Lanes<bool> {
        let mut settled = [self.visited.len() <= MOST_VISITS; WIDE];
        for pair in self.slots.windows(2) {
            for lane in 0..WIDE {
                let (near, far) = (pair[0][lane] >> NAME_BITS, pair[1][lane] >> NAME_BITS);
                settled[lane] &= (far > near + 1) | (pair[1][lane] == EMPTY);
            }
        }
        settled
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

/// Nearer, or as near with a lower row.
#[inline]
fn sooner(a: (f64, u32), b: (f64, u32)) -> bool {
    a.0 < b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// Keeps the nearest of what is offered in `best`, ascending by (distance, row).
#[inline]
fn offer(best: &mut [(f64, u32)], new: (f64, u32)) {
    let mut at = best.len();
    while at > 0 && sooner(new, best[at - 1]) {
        if at < best.len() {
            best[at] = best[at - 1];
        }
        at -= 1;
    }
    if let Some(place) = best.get_mut(at) {
        *place = new;
    }
}

/// The lists of one complex to be filled: rows × k each.
struct Lists<'a> {
    k: usize,
    offset: usize,
    intra: &'a mut [i32],
    inter: &'a mut [i32],
}

impl Lists<'_> {
    /// `slots` are k + 1.
    #[inline(always)]
    fn fill(&mut self, trees: &[Tree], slots: &mut [Lanes<i32>]) {
        let mut leaves: Vec<&Leaf> = Vec::new();
        let mut bases = Vec::with_capacity(trees.len());
        for tree in trees {
            bases.push(leaves.len());
            leaves.extend(&tree.leaves);
        }
        let mut visited = Vec::new();
        let mut rows = [0; NAMES as usize];
        let mut best = vec![(f64::INFINITY, NO_ROW); self.k];
        for (home, tree) in trees.iter().enumerate() {
            for (at, (group, bounds)) in tree.leaves.iter().zip(&tree.bounds).enumerate() {
                for same in [true, false] {
                    slots.fill([EMPTY; WIDE]);
                    visited.clear();
                    let mut found = Found { slots: &mut *slots, visited: &mut visited, rows: &mut rows };
                    for (other, tree) in trees.iter().enumerate().filter(|(other, _)| (*other == home) == same) {
                        found.search(tree, bases[other], group, bounds, same.then_some(at));
                    }
                    let settled = found.settled();
                    let list = if same { &mut *self.intra } else { &mut *self.inter };
                    for lane in 0..WIDE {
                        if group.rows[lane] == NO_ROW {
                            continue;
                        }
                        let start = group.rows[lane] as usize * self.k;
                        let out = &mut list[start..start + self.k];
                        if settled[lane] {
                            for (place, keys) in out.iter_mut().zip(slots.iter()) {
                                if keys[lane] == EMPTY {
                                    break;
                                }
                                let name = (keys[lane] & (NAMES - 1)) as usize;
                                *place = (rows[name] as usize + self.offset) as i32;
                            }
                        } else {
                            exact(group, lane, visited.iter().map(|v| leaves[*v as usize]), &mut best);
                            for (place, (_, row)) in out.iter_mut().zip(&best).filter(|(_, (_, row))| *row != NO_ROW) {
                                *place = (*row as usize + self.offset) as i32;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The nearest points of some leaves to one of `group`, in double precision.
fn exact<'a>(group: &Leaf, lane: usize, leaves: impl Iterator<Item = &'a Leaf>, best: &mut [(f64, u32)]) {
    best.fill((f64::INFINITY, NO_ROW));
    let point = group.position(lane);
    for leaf in leaves {
        for slot in (0..WIDE).filter(|s| leaf.rows[*s] != NO_ROW && leaf.rows[*s] != group.rows[lane]) {
            offer(best, (distance_squared(leaf.position(slot), point), leaf.rows[slot]));
        }
    }
}

#[inline(always)]
fn fill(trees: &[Tree], lists: &mut Lists<'_>) {
    // The usual number is known to the compiler, so that all slots stay in registers.
    if lists.k == 8 {
        lists.fill(trees, &mut [[EMPTY; WIDE]; 9]);
    } else {
        lists.fill(trees, &mut vec![[EMPTY; WIDE]; lists.k + 1]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fill_avx2(trees: &[Tree], lists: &mut Lists<'_>) {
    fill(trees, lists);
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
    let mut groups: Vec<(u8, Vec<Point>)> = Vec::new();
    for (row, (&segment, _)) in segments.iter().zip(eligible).enumerate().filter(|(_, (_, e))| **e) {
        let point = Point { position: positions[row], row: row as u32 };
        match groups.iter_mut().find(|(s, _)| *s == segment) {
            Some((_, points)) => points.push(point),
            None => groups.push((segment, vec![point])),
        }
    }
    let trees: Vec<Tree> = groups.iter_mut().map(|(_, points)| Tree::new(points)).collect();
    let mut lists = Lists { k, offset, intra, inter };
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has been asked. Wide vectors halve the time.
        unsafe {
            fill_avx2(&trees, &mut lists);
        }
        return;
    }
    fill(&trees, &mut lists);
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

/// Distances in single precision are off by less than this, relatively, squared ones included.
const SLACK: f32 = 1e-6;

/// Pairs of points closer than a cutoff, each once.
#[inline(always)]
fn pairs(tree: &Tree, cutoff: f64, first: &mut Vec<i32>, second: &mut Vec<i32>) {
    /// Of two leaves; a power of two.
    const MOST: usize = WIDE * WIDE;
    let squared = cutoff * cutoff;
    // Within `sure` single precision is enough, beyond `limit` as well.
    let sure = key(squared as f32 * (1.0 - 2.0 * SLACK));
    let limit = key(squared as f32 * (1.0 + 2.0 * SLACK)) | (WIDE as i32 - 1);
    let (mut lower, mut higher) = ([0i32; MOST], [0i32; MOST]);
    for (home, (group, bounds)) in tree.leaves.iter().zip(&tree.bounds).enumerate() {
        let filled = group.rows.iter().filter(|row| **row != NO_ROW).count();
        let mut around = Around::new(tree, bounds, home, limit);
        while let Some(at) = around.next() {
            let leaf = &tree.leaves[at];
            let mut near = leaf.near(bounds, limit);
            let mut found = 0;
            while near != 0 {
                let slot = near.trailing_zeros() as usize;
                near &= near - 1;
                let keys = leaf.keys(slot, group);
                let end = if at == home { slot } else { filled };
                let (mut hits, mut doubts) = ([0i32; WIDE], 0);
                for lane in 0..WIDE {
                    hits[lane] = i32::from((keys[lane] < sure) & (lane < end));
                    doubts |= i32::from((keys[lane] >= sure) & (keys[lane] <= limit) & (lane < end));
                }
                if doubts != 0 {
                    for lane in 0..end {
                        hits[lane] = i32::from(distance_squared(leaf.position(slot), group.position(lane)) < squared);
                    }
                }
                let row = leaf.rows[slot] as i32;
                // All are written, and the next one over those that are no hits: a branch could not be predicted.
                for lane in 0..WIDE {
                    let other = group.rows[lane] as i32;
                    lower[found % MOST] = row.min(other);
                    higher[found % MOST] = row.max(other);
                    found += hits[lane] as usize;
                }
            }
            first.extend_from_slice(&lower[..found]);
            second.extend_from_slice(&higher[..found]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pairs_avx2(tree: &Tree, cutoff: f64, first: &mut Vec<i32>, second: &mut Vec<i32>) {
    pairs(tree, cutoff, first, second);
}

/// Rows of all pairs of points closer than `cutoff`, in an order that depends on nothing but the points; the first
/// of a pair is the lower row.
///
/// ```
/// use atomica_prep::neighbors::pairs_within;
/// let points = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]];
/// assert_eq!(pairs_within(&points, 2.0), Ok((vec![0], vec![1])));
/// ```
///
/// # Errors
/// The cutoff is not a positive number, a coordinate is not finite, or there are more rows than an i32 can count.
pub fn pairs_within(positions: &[[f32; 3]], cutoff: f64) -> Result<(Vec<i32>, Vec<i32>), String> {
    if !(cutoff > 0.0 && cutoff < MOST_CUTOFF) {
        return Err(format!("cutoff is {cutoff}; expected a number of Å above 0 and below {MOST_CUTOFF:e}"));
    }
    if i32::try_from(positions.len()).is_err() {
        return Err(format!("{} rows are more than an int32 can count", positions.len()));
    }
    if let Some(row) = positions.iter().position(|p| !p.iter().all(|c| c.is_finite())) {
        return Err(format!("positions holds a value that is not finite, in row {row}"));
    }
    let mut points: Vec<Point> =
        positions.iter().zip(0..).map(|(position, row)| Point { position: *position, row }).collect();
    let tree = Tree::new(&mut points);
    // As many as atoms of molecules have within 5 Å.
    let (mut first, mut second) = (Vec::with_capacity(positions.len() * 20), Vec::with_capacity(positions.len() * 20));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has been asked. Wide vectors halve the time.
        unsafe {
            pairs_avx2(&tree, cutoff, &mut first, &mut second);
        }
        return Ok((first, second));
    }
    pairs(&tree, cutoff, &mut first, &mut second);
    Ok((first, second))
}

/// Å; squares of larger ones are beyond single precision.
const MOST_CUTOFF: f64 = 1e18;

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

    fn all_pairs(points: &[[f32; 3]], cutoff: f64) -> Vec<(i32, i32)> {
        let mut out = Vec::new();
        for i in 0..points.len() {
            for j in i + 1..points.len() {
                if distance_squared(points[i], points[j]) < cutoff * cutoff {
                    out.push((i as i32, j as i32));
                }
            }
        }
        out
    }

    fn check_pairs(points: &[[f32; 3]], cutoff: f64) -> usize {
        let (first, second) = pairs_within(points, cutoff).unwrap();
        let mut found: Vec<(i32, i32)> = first.into_iter().zip(second).collect();
        found.sort_unstable();
        assert_eq!(found, all_pairs(points, cutoff));
        found.len()
    }

    #[test]
    fn pairs_agree_with_the_slow_twin() {
        let mut random = Random(3);
        let mut found = 0;
        for round in 0..40 {
            let n = random.below(700);
            // Whole coordinates put many pairs exactly at the cutoff, which is outside.
            let grain = if round % 2 == 0 { 1e-3 } else { 1.0 };
            let points: Vec<[f32; 3]> =
                (0..n).map(|_| [0; 3].map(|_| ((random.next() * 25.0 / grain).floor() * grain) as f32)).collect();
            for cutoff in [0.5, 3.0, 5.0, 100.0] {
                found += check_pairs(&points, cutoff);
            }
        }
        assert!(found > 10_000, "{found}");
        check_pairs(&[[1.0; 3]; 40], 1e-6);
        check_pairs(&[[-3e37; 3], [3e37; 3], [3e37; 3]], 1.0);
    }

    #[test]
    fn wrong_cutoffs_are_refused() {
        for cutoff in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(pairs_within(&[[0.0; 3]], cutoff).unwrap_err().contains("cutoff"));
        }
        let error = pairs_within(&[[0.0; 3], [f32::NAN, 0.0, 0.0]], 1.0).unwrap_err();
        assert!(error.contains("row 1"), "{error}");
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
        // Squares beyond single precision, and below it.
        let huge: Vec<[f32; 3]> = (0..40).map(|i| [(i * i) as f32 * 1e35, i as f32 * -1e36, 0.0]).collect();
        check(&huge, &[0; 40], &[0; 40], &[true; 40], 8);
        let tiny: Vec<[f32; 3]> = (0..40).map(|i| [(i * i) as f32 * 1e-30, 0.0, 0.0]).collect();
        check(&tiny, &[0; 40], &[0; 40], &[true; 40], 8);
        // More leaves to look at than names.
        check(&[[1.0; 3]; 1500], &[0; 1500], &[0; 1500], &[true; 1500], 2);
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

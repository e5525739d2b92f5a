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

use rayon::prelude::*;

/// Filler of a list with fewer than k neighbours.
pub const NO_NEIGHBOR: i32 = -1;

/// Points of a leaf and children of a node: 32-bit numbers in a vector of most processors.
const WIDE: usize = 8;

type Lanes<T> = [T; WIDE];

/// Numbers of the lanes.
const LANES: Lanes<i32> = [0, 1, 2, 3, 4, 5, 6, 7];

/// A bit for each lane.
const BITS: Lanes<u32> = [1, 2, 4, 8, 16, 32, 64, 128];

/// Row of the places behind the last point.
const NO_ROW: u32 = u32::MAX;

/// All bits of the lanes together.
#[inline(always)]
fn together(lanes: Lanes<u32>) -> u32 {
    let mut all = 0;
    for lane in 0..WIDE {
        all |= lanes[lane];
    }
    all
}

/// A point and its row in the caller's array.
#[derive(Debug, Clone, Copy)]
struct Point {
    position: [f32; 3],
    row: u32,
}

#[derive(Debug, Clone, Copy)]
struct Leaf {
    /// Coordinates by axis. Behind the last point the first one is repeated.
    axes: [Lanes<f32>; 3],
    rows: Lanes<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    low: [f32; 3],
    high: [f32; 3],
}

impl Bounds {
    const NOTHING: Self = Self { low: [f32::INFINITY; 3], high: [f32::NEG_INFINITY; 3] };

    fn around(all: impl Iterator<Item = Self>) -> Self {
        all.fold(Self::NOTHING, |mut sum, one| {
            for axis in 0..3 {
                sum.low[axis] = sum.low[axis].min(one.low[axis]);
                sum.high[axis] = sum.high[axis].max(one.high[axis]);
            }
            sum
        })
    }
}

/// The bounds of eight leaves or nodes, by axis.
#[derive(Debug, Clone, Copy)]
struct Node {
    low: [Lanes<f32>; 3],
    high: [Lanes<f32>; 3],
    children: usize,
}

/// A packed tree over some points: node i of a level holds the nodes (of level 0: leaves) from 8 i on.
#[derive(Debug, Default)]
struct Tree {
    leaves: Vec<Leaf>,
    /// Of each leaf.
    bounds: Vec<Bounds>,
    /// From the parents of the leaves to the root.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    fn new(points: &mut [Point]) -> Self {
        let mut tree = Self::default();
        if points.is_empty() {
            return tree;
        }
        let at = |p: &Point| Bounds { low: p.position, high: p.position };
        arrange(points, Bounds::around(points.iter().map(at)));
        for points in points.chunks(WIDE) {
            let mut leaf = Leaf { axes: points[0].position.map(|c| [c; WIDE]), rows: [NO_ROW; WIDE] };
            for (slot, point) in points.iter().enumerate() {
                leaf.rows[slot] = point.row;
                for axis in 0..3 {
                    leaf.axes[axis][slot] = point.position[axis];
                }
            }
            tree.leaves.push(leaf);
            tree.bounds.push(Bounds::around(points.iter().map(at)));
        }
        let mut below = tree.bounds.clone();
        loop {
            let nodes: Vec<Node> = below.chunks(WIDE).map(Node::new).collect();
            below = below.chunks(WIDE).map(|all| Bounds::around(all.iter().copied())).collect();
            tree.levels.push(nodes);
            if below.len() == 1 {
                return tree;
            }
        }
    }
}

/// On the way through a tree: its leaves, about nearest first.
struct Walk<'a> {
    levels: &'a [Vec<Node>],
    from: &'a Bounds,
    /// By level: keys of the children of the node at hand, [`EMPTY`] once they have been passed.
    keys: [Lanes<i32>; DEEPEST],
    nodes: [usize; DEEPEST],
    level: usize,
}

/// More levels than 2³¹ points need, eight times as many with each.
const DEEPEST: usize = 12;

impl<'a> Walk<'a> {
    #[inline(always)]
    fn new(tree: &'a Tree, from: &'a Bounds) -> Self {
        let mut walk =
            Self { levels: &tree.levels, from, keys: [[EMPTY; WIDE]; DEEPEST], nodes: [0; DEEPEST], level: 0 };
        if let Some(top) = walk.levels.len().checked_sub(1) {
            walk.level = top;
            walk.keys[top] = walk.levels[top][0].gaps(from);
        }
        walk
    }

    /// The next leaf whose bounds are at most `limit` (a [`key`]) away.
    #[inline(always)]
    fn next(&mut self, limit: i32) -> Option<usize> {
        loop {
            let keys = &mut self.keys[self.level];
            let mut least = EMPTY;
            for child in 0..WIDE {
                least = least.min(keys[child]);
            }
            if least > limit {
                self.level += 1;
                if self.level >= self.levels.len() {
                    return None;
                }
                continue;
            }
            let child = least as usize % WIDE;
            // Not `keys[child] = EMPTY`: the vector would have to wait for it.
            for other in 0..WIDE {
                keys[other] = if keys[other] == least { EMPTY } else { keys[other] };
            }
            let at = self.nodes[self.level] * WIDE + child;
            if self.level == 0 {
                return Some(at);
            }
            self.level -= 1;
            self.nodes[self.level] = at;
            self.keys[self.level] = self.levels[self.level][at].gaps(self.from);
        }
    }
}

/// Orders points so that runs of 8, 64, 512 … lie close together.
fn arrange(mut points: &mut [Point], mut bounds: Bounds) {
    while points.len() > WIDE {
        let leaves = points.len().div_ceil(WIDE);
        let mut step = 1;
        while step * WIDE < leaves {
            step *= WIDE;
        }
        let middle = (leaves / 2).next_multiple_of(step) * WIDE;
        let mut axis = 0;
        for other in 1..3 {
            if bounds.high[other] - bounds.low[other] > bounds.high[axis] - bounds.low[axis] {
                axis = other;
            }
        }
        points.select_nth_unstable_by(middle, |a, b| a.position[axis].total_cmp(&b.position[axis]));
        let cut = points[middle].position[axis];
        let (left, right) = std::mem::take(&mut points).split_at_mut(middle);
        let mut lower = bounds;
        lower.high[axis] = cut;
        bounds.low[axis] = cut;
        arrange(left, lower);
        points = right;
    }
}

impl Node {
    fn new(all: &[Bounds]) -> Self {
        let mut node = Self { low: [[0.0; WIDE]; 3], high: [[0.0; WIDE]; 3], children: all.len() };
        for (child, bounds) in all.iter().enumerate() {
            for axis in 0..3 {
                node.low[axis][child] = bounds.low[axis];
                node.high[axis][child] = bounds.high[axis];
            }
        }
        node
    }

    /// Keys of the distances between the children and `from`, with the child in the lowest bits.
    #[inline(always)]
    fn gaps(&self, from: &Bounds) -> Lanes<i32> {
        let mut squared = [0.0f32; WIDE];
        for axis in 0..3 {
            for child in 0..WIDE {
                let below = self.low[axis][child] - from.high[axis];
                let above = from.low[axis] - self.high[axis][child];
                let d = larger(larger(below, above), 0.0);
                squared[child] += d * d;
            }
        }
        let mut keys = [EMPTY; WIDE];
        for child in 0..WIDE {
            let own = key(squared[child]) & !(WIDE as i32 - 1) | child as i32;
            keys[child] = if child < self.children { own } else { EMPTY };
        }
        keys
    }
}

/// `f32::max` without its care for NaN, which costs instructions.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b {
        a
    } else {
        b
    }
}

/// Bits of a squared distance; as it is not negative, they sort as it does.
#[inline(always)]
fn key(squared: f32) -> i32 {
    squared.to_bits() as i32
}

/// Farther than anything.
const EMPTY: i32 = i32::MAX;

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

impl Leaf {
    fn position(&self, slot: usize) -> [f32; 3] {
        [self.axes[0][slot], self.axes[1][slot], self.axes[2][slot]]
    }

    /// Keys of the distances of one of the points to those of `group`.
    #[inline(always)]
    fn keys(&self, slot: usize, group: &Leaf) -> Lanes<i32> {
        let mut squared = [0.0f32; WIDE];
        for axis in 0..3 {
            for lane in 0..WIDE {
                let d = group.axes[axis][lane] - self.axes[axis][slot];
                squared[lane] += d * d;
            }
        }
        // Not `map`, which is not always made part of this function and then has no wide vectors.
        let mut keys = [0; WIDE];
        for lane in 0..WIDE {
            keys[lane] = key(squared[lane]);
        }
        keys
    }

    /// The points at most `limit` away from `bounds`, one bit each.
    #[inline(always)]
    fn near(&self, bounds: &Bounds, limit: i32) -> u32 {
        let mut squared = [0.0f32; WIDE];
        for axis in 0..3 {
            for slot in 0..WIDE {
                let below = self.axes[axis][slot] - bounds.high[axis];
                let above = bounds.low[axis] - self.axes[axis][slot];
                let d = larger(larger(below, above), 0.0);
                squared[slot] += d * d;
            }
        }
        let mut near = [0; WIDE];
        for slot in 0..WIDE {
            let hit = (key(squared[slot]) <= limit) & (self.rows[slot] != NO_ROW);
            near[slot] = if hit { BITS[slot] } else { 0 };
        }
        together(near)
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
    let mut parts: Vec<(u8, Vec<Point>)> = Vec::new();
    for (row, (&segment, _)) in segments.iter().zip(eligible).enumerate().filter(|(_, (_, e))| **e) {
        let point = Point { position: positions[row], row: row as u32 };
        match parts.iter_mut().find(|(s, _)| *s == segment) {
            Some((_, points)) => points.push(point),
            None => parts.push((segment, vec![point])),
        }
    }
    let trees: Vec<Tree> = parts.iter_mut().map(|(_, points)| Tree::new(points)).collect();
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

/// On the way through a tree: all leaves within a distance, in no order.
struct Around<'a> {
    levels: &'a [Vec<Node>],
    from: &'a Bounds,
    /// Number of the first leaf that matters.
    first: usize,
    limit: i32,
    /// By level: the node at hand, and its children that are still to be looked at, one bit each.
    nodes: [usize; DEEPEST],
    near: [u32; DEEPEST],
    level: usize,
}

impl<'a> Around<'a> {
    #[inline(always)]
    fn new(tree: &'a Tree, from: &'a Bounds, first: usize, limit: i32) -> Self {
        let (nodes, near) = ([0; DEEPEST], [0; DEEPEST]);
        let mut around = Self { levels: &tree.levels, from, first, limit, nodes, near, level: 0 };
        if let Some(top) = around.levels.len().checked_sub(1) {
            around.enter(top, 0);
        }
        around
    }

    #[inline(always)]
    fn enter(&mut self, level: usize, node: usize) {
        let keys = self.levels[level][node].gaps(self.from);
        // The leaves below a child end before those below the next one begin.
        let before = (self.first >> (3 * level)).saturating_sub(node * WIDE).min(WIDE) as i32;
        let mut near = [0; WIDE];
        for child in 0..WIDE {
            let hit = (keys[child] <= self.limit) & (LANES[child] >= before);
            near[child] = if hit { BITS[child] } else { 0 };
        }
        (self.level, self.nodes[level], self.near[level]) = (level, node, together(near));
    }

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        loop {
            let near = &mut self.near[self.level];
            if *near == 0 {
                self.level += 1;
                if self.level >= self.levels.len() {
                    return None;
                }
                continue;
            }
            let at = self.nodes[self.level] * WIDE + near.trailing_zeros() as usize;
            *near &= *near - 1;
            if self.level == 0 {
                return Some(at);
            }
            self.enter(self.level - 1, at);
        }
    }
}

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

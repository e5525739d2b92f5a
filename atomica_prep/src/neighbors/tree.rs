//! A packed tree over points, and the ways through it.

/// Points of a leaf and children of a node: 32-bit numbers in a vector of most processors.
pub(super) const WIDE: usize = 8;

pub(super) type Lanes<T> = [T; WIDE];

/// Numbers of the lanes.
pub(super) const LANES: Lanes<i32> = [0, 1, 2, 3, 4, 5, 6, 7];

/// A bit for each lane.
const BITS: Lanes<u32> = [1, 2, 4, 8, 16, 32, 64, 128];

/// Row of the places behind the last point.
pub(super) const NO_ROW: u32 = u32::MAX;

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
pub(super) struct Point {
    pub(super) position: [f32; 3],
    pub(super) row: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    /// Coordinates by axis. Behind the last point the first one is repeated.
    axes: [Lanes<f32>; 3],
    pub(super) rows: Lanes<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
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
pub(super) struct Tree {
    pub(super) leaves: Vec<Leaf>,
    /// Of each leaf.
    pub(super) bounds: Vec<Bounds>,
    /// From the parents of the leaves to the root.
    levels: Vec<Vec<Node>>,
}

impl Tree {
    pub(super) fn new(points: &mut [Point]) -> Self {
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
pub(super) struct Walk<'a> {
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
    pub(super) fn new(tree: &'a Tree, from: &'a Bounds) -> Self {
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
    pub(super) fn next(&mut self, limit: i32) -> Option<usize> {
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
pub(super) fn key(squared: f32) -> i32 {
    squared.to_bits() as i32
}

/// Farther than anything.
pub(super) const EMPTY: i32 = i32::MAX;

impl Leaf {
    pub(super) fn position(&self, slot: usize) -> [f32; 3] {
        [self.axes[0][slot], self.axes[1][slot], self.axes[2][slot]]
    }

    /// Keys of the distances of one of the points to those of `group`.
    #[inline(always)]
    pub(super) fn keys(&self, slot: usize, group: &Leaf) -> Lanes<i32> {
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
    pub(super) fn near(&self, bounds: &Bounds, limit: i32) -> u32 {
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

/// On the way through a tree: all leaves within a distance, in no order.
pub(super) struct Around<'a> {
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
    pub(super) fn new(tree: &'a Tree, from: &'a Bounds, first: usize, limit: i32) -> Self {
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
    pub(super) fn next(&mut self) -> Option<usize> {
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

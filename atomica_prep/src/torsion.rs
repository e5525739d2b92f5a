//! Bonds by distance, the rotatable ones among them, and the atoms that each one moves.
#![allow(
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    reason = "indices are made here, from lengths checked at the entrance"
)]

/// The rotatable bonds of a complex. Bond number t moves `sizes[t]` atoms, listed in `atoms` bond after bond.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Torsions {
    /// Atom of each bond on the side that stays.
    pub fixed: Vec<i32>,
    /// Atom of each bond on the side that moves.
    pub moving: Vec<i32>,
    /// Moving atoms of each bond.
    pub sizes: Vec<u32>,
    /// The moving atoms, ascending within a bond; the bond's own is one of them.
    pub atoms: Vec<i32>,
}

/// Most atoms of a segment that is turned as one molecule. Beyond it is no small molecule, and the lists of moving
/// atoms would grow with its square.
pub const MAX_WHOLE: usize = 1024;

/// Å; anything nearer is one atom written twice.
const NEAREST: f64 = 0.1;
/// Bonds are longer than the sum of the radii by less than this factor.
const STRETCH: f64 = 1.3;

/// Covalent radii in units of 0.01 Å by atomic number, hydrogen first (Cordero et al. 2008).
const RADII: [u16; 96] = [
    31, 28, 128, 96, 84, 76, 71, 66, 57, 58, 166, 141, 121, 111, 107, 105, 102, 106, 203, 176, 170, 160, 153, 139, 139,
    132, 126, 124, 132, 122, 122, 120, 119, 120, 120, 116, 220, 195, 190, 175, 164, 154, 147, 146, 142, 139, 145, 144,
    142, 139, 139, 138, 139, 140, 244, 215, 207, 204, 203, 201, 199, 198, 198, 196, 194, 192, 192, 189, 190, 187, 187,
    175, 170, 162, 151, 144, 141, 136, 136, 132, 145, 146, 148, 140, 150, 150, 260, 221, 215, 206, 200, 196, 190, 187,
    180, 169,
];

/// Radius of an element in Å; of an unknown one that of carbon.
pub(crate) fn radius(element: u8) -> f64 {
    let known = usize::from(element).checked_sub(1).and_then(|e| RADII.get(e)).copied();
    f64::from(known.unwrap_or(RADII[5])) / 100.0
}

/// Elements that form covalent bonds; metals are coordinated.
pub(crate) fn covalent(element: u8) -> bool {
    matches!(element, 5..=9 | 14..=17 | 33..=35 | 52 | 53)
}

/// Bonded atoms of each atom, ascending.
pub(crate) struct Bonds {
    others: Vec<u32>,
    /// Where those of each atom begin, and the end.
    starts: Vec<u32>,
}

impl Bonds {
    pub(crate) fn new(positions: &[[f32; 3]], elements: &[u8]) -> Self {
        let radii: Vec<f64> = elements.iter().map(|e| radius(*e)).collect();
        let mut starts = vec![0u32; positions.len() + 1];
        let mut pairs = Vec::with_capacity(2 * positions.len());
        for i in 0..positions.len() {
            for j in i + 1..positions.len() {
                let mut squared = 0.0;
                for axis in 0..3 {
                    let d = f64::from(positions[i][axis]) - f64::from(positions[j][axis]);
                    squared += d * d;
                }
                let limit = STRETCH * (radii[i] + radii[j]);
                if squared > NEAREST * NEAREST && squared < limit * limit {
                    pairs.push((i as u32, j as u32));
                    starts[i + 1] += 1;
                    starts[j + 1] += 1;
                }
            }
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut others = vec![0; 2 * pairs.len()];
        let mut next = starts.clone();
        // Pairs are sorted, so each atom comes to its lower partners first.
        for (i, j) in pairs {
            for (atom, other) in [(i, j), (j, i)] {
                let place = &mut next[atom as usize];
                others[*place as usize] = other;
                *place += 1;
            }
        }
        Self { others, starts }
    }

    pub(crate) fn of(&self, atom: usize) -> &[u32] {
        &self.others[self.starts[atom] as usize..self.starts[atom + 1] as usize]
    }
}

impl Torsions {
    /// Adds the rotatable bonds of one molecule, whose first atom has the index `first` in the complex.
    ///
    /// `backbone` marks atoms that never move: a bond between two of them does not turn, and the side without any
    /// moves. Without marks the smaller side moves, of equal ones that with the first atom. A molecule in pieces has
    /// no rotatable bond. Both inputs have one length.
    pub fn add(&mut self, positions: &[[f32; 3]], elements: &[u8], backbone: &[bool], first: usize) {
        let n = positions.len();
        assert!(elements.len() == n && backbone.len() == n, "one length");
        if n < 4 {
            return;
        }
        let bonds = Bonds::new(positions, elements);
        let Some(walk) = Walk::new(&bonds, n) else { return };
        let total = backbone.iter().filter(|b| **b).count();
        let mut found: Vec<(usize, usize, Side)> = Vec::new();
        for at in 1..n {
            let (atom, parent) = (walk.order[at], walk.parent[at]);
            let size = walk.ends[at] - at;
            if walk.low[at] <= walk.place[parent] || size < 2 || n - size < 2 || (backbone[atom] && backbone[parent]) {
                continue;
            }
            let below = walk.order[at..walk.ends[at]].iter().filter(|a| backbone[**a]).count();
            let side = match (total, below) {
                (0, _) if size < n - size => Side::Below(at),
                (0, _) => Side::Above(at),
                (_, 0) => Side::Below(at),
                _ if below == total => Side::Above(at),
                _ => continue,
            };
            found.push((atom.min(parent), atom.max(parent), side));
        }
        found.sort_unstable_by_key(|(a, b, _)| (*a, *b));
        for (_, _, side) in found {
            let (Side::Below(at) | Side::Above(at)) = side;
            let (below, above) = (walk.order[at], walk.parent[at]);
            let ends = walk.ends[at];
            let mut atoms: Vec<usize> = match side {
                Side::Below(_) => walk.order[at..ends].to_vec(),
                Side::Above(_) => walk.order[..at].iter().chain(&walk.order[ends..]).copied().collect(),
            };
            atoms.sort_unstable();
            let (moving, fixed) = if matches!(side, Side::Below(_)) { (below, above) } else { (above, below) };
            // A record holds far fewer than 2³¹ atoms.
            self.fixed.push((first + fixed) as i32);
            self.moving.push((first + moving) as i32);
            self.sizes.push(atoms.len() as u32);
            self.atoms.extend(atoms.into_iter().map(|a| (first + a) as i32));
        }
    }
}

/// Which side of a bond moves: that of the atom at a place of the walk with all below it, or the rest.
#[derive(Debug, Clone, Copy)]
enum Side {
    Below(usize),
    Above(usize),
}

/// A depth-first walk through a connected molecule from its first atom.
struct Walk {
    /// Atoms in the order in which they are met; those below an atom follow it.
    order: Vec<usize>,
    /// Place of each atom in that order.
    place: Vec<usize>,
    /// By place: the atom it was reached from.
    parent: Vec<usize>,
    /// By place: one past the last place below.
    ends: Vec<usize>,
    /// By place: the lowest place that a bond other than that to the parent reaches from here or below.
    low: Vec<usize>,
}

impl Walk {
    /// `None` if the molecule is in pieces.
    fn new(bonds: &Bonds, atoms: usize) -> Option<Self> {
        const UNSEEN: usize = usize::MAX;
        let list = || {
            let mut list = Vec::with_capacity(atoms);
            list.push(0);
            list
        };
        let (place, ends) = (vec![UNSEEN; atoms], vec![0; atoms]);
        let mut walk = Self { order: list(), place, parent: list(), ends, low: list() };
        walk.place[0] = 0;
        // Atoms on the way down, and how many of their bonds have been followed.
        let mut way: Vec<(usize, usize)> = vec![(0, 0)];
        while let Some((atom, next)) = way.last_mut() {
            let (atom, at) = (*atom, walk.place[*atom]);
            if let Some(&other) = bonds.of(atom).get(*next) {
                *next += 1;
                let other = other as usize;
                if walk.place[other] == UNSEEN {
                    walk.place[other] = walk.order.len();
                    walk.low.push(walk.order.len());
                    walk.order.push(other);
                    walk.parent.push(atom);
                    way.push((other, 0));
                } else if at == 0 || other != walk.parent[at] {
                    walk.low[at] = walk.low[at].min(walk.place[other]);
                }
                continue;
            }
            way.pop();
            walk.ends[at] = walk.order.len();
            if let Some((above, _)) = way.last() {
                let above = walk.place[*above];
                walk.low[above] = walk.low[above].min(walk.low[at]);
            }
        }
        (walk.order.len() == atoms).then_some(walk)
    }
}

/// Is an atom of that name part of the backbone of an amino acid or (second) of a nucleotide?
pub fn is_backbone(name: &[u8], nucleotide: bool) -> bool {
    if nucleotide {
        name.iter().any(|c| matches!(c, b'\'' | b'*' | b'P'))
    } else {
        matches!(name, b"N" | b"CA" | b"C" | b"O")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow twin: take each bond away and look at what is left.
    fn naive(positions: &[[f32; 3]], elements: &[u8], backbone: &[bool]) -> Torsions {
        let n = positions.len();
        let bonds = Bonds::new(positions, elements);
        let parts = |without: Option<(usize, usize)>| -> Vec<Vec<usize>> {
            let mut part = vec![usize::MAX; n];
            let mut out: Vec<Vec<usize>> = Vec::new();
            for start in 0..n {
                if part[start] != usize::MAX {
                    continue;
                }
                part[start] = out.len();
                let mut members = vec![start];
                let mut at = 0;
                while at < members.len() {
                    let atom = members[at];
                    at += 1;
                    for &other in bonds.of(atom) {
                        let other = other as usize;
                        if without != Some((atom.min(other), atom.max(other))) && part[other] == usize::MAX {
                            part[other] = out.len();
                            members.push(other);
                        }
                    }
                }
                members.sort_unstable();
                out.push(members);
            }
            out
        };
        let mut out = Torsions::default();
        if n == 0 || parts(None).len() != 1 {
            return out;
        }
        for i in 0..n {
            for j in bonds.of(i).iter().map(|j| *j as usize).filter(|j| *j > i) {
                let sides = parts(Some((i, j)));
                if sides.len() != 2 || sides.iter().any(|s| s.len() < 2) || (backbone[i] && backbone[j]) {
                    continue;
                }
                let free: Vec<bool> = sides.iter().map(|s| !s.iter().any(|a| backbone[*a])).collect();
                let moving = match (free[0], free[1]) {
                    (true, true) => usize::from(sides[1].len() < sides[0].len()),
                    (true, false) => 0,
                    (false, true) => 1,
                    (false, false) => continue,
                };
                let ends = if sides[moving].contains(&i) { (j, i) } else { (i, j) };
                out.fixed.push(ends.0 as i32);
                out.moving.push(ends.1 as i32);
                out.sizes.push(sides[moving].len() as u32);
                out.atoms.extend(sides[moving].iter().map(|a| *a as i32));
            }
        }
        out
    }

    fn fast(positions: &[[f32; 3]], elements: &[u8], backbone: &[bool]) -> Torsions {
        let mut out = Torsions::default();
        out.add(positions, elements, backbone, 0);
        out
    }

    #[test]
    fn random_molecules_agree_with_the_slow_twin() {
        let mut state = 5u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f64 / f64::from(1u32 << 31)) as f32
        };
        let mut rotatable = 0;
        for round in 0..400 {
            // Each atom 1.6 Å from an earlier one: trees, with rings where atoms happen to meet.
            let n = 2 + (random() * 24.0) as usize;
            let mut positions = vec![[0.0f32; 3]];
            for _ in 1..n {
                let near = positions[positions.len().saturating_sub(1 + (random() * 3.0) as usize)];
                let mut step = [0; 3].map(|_| random() - 0.5);
                let length = step.iter().map(|s| s * s).sum::<f32>().sqrt().max(1e-3);
                step = step.map(|s| s / length * 1.6);
                positions.push([near[0] + step[0], near[1] + step[1], near[2] + step[2]]);
            }
            let elements: Vec<u8> = (0..n).map(|_| [6, 7, 8][(random() * 3.0) as usize]).collect();
            let marked = round % 2 == 0;
            let backbone: Vec<bool> = (0..n).map(|_| marked && random() < 0.2).collect();
            let expected = naive(&positions, &elements, &backbone);
            rotatable += expected.fixed.len();
            assert_eq!(fast(&positions, &elements, &backbone), expected);
        }
        assert!(rotatable > 200, "{rotatable}");
    }

    #[test]
    fn a_chain_turns_its_smaller_side() {
        // Zigzag, so that only neighbours are bonded.
        let zigzag: Vec<[f32; 3]> = (0..6).map(|i| [i as f32 * 1.25, (i % 2) as f32 * 0.9, 0.0]).collect();
        let torsions = fast(&zigzag, &[6; 6], &[false; 6]);
        assert_eq!(torsions.fixed, [2, 3, 3]);
        assert_eq!(torsions.moving, [1, 2, 4]);
        assert_eq!(torsions.sizes, [2, 3, 2]);
        assert_eq!(torsions.atoms, [0, 1, 0, 1, 2, 4, 5]);
        // Held at its end, it moves what hangs from there.
        let held = fast(&zigzag, &[6; 6], &[true, true, false, false, false, false]);
        assert_eq!((held.fixed.as_slice(), held.moving.as_slice()), (&[1, 2, 3][..], &[2, 3, 4][..]));
        assert_eq!(held.sizes, [4, 3, 2]);
        let mut apart = zigzag;
        apart[5][0] += 9.0;
        assert_eq!(fast(&apart, &[6; 6], &[false; 6]), Torsions::default());
        assert_eq!(fast(&[], &[], &[]), Torsions::default());
    }

    #[test]
    fn backbones_by_name() {
        for (name, amino, nucleotide) in
            [("N", true, false), ("CB", false, false), ("OP1", false, true), ("C1'", false, true)]
        {
            assert_eq!(is_backbone(name.as_bytes(), false), amino, "{name}");
            assert_eq!(is_backbone(name.as_bytes(), true), nucleotide, "{name}");
        }
    }
}

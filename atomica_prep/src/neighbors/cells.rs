//! Boxes over points, where few of them are asked for at a time.

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
        // As many cells as a cube of 64 has, or a few for each point, bound the memory, whatever the coordinates.
        let limit = (64.0f64 * 64.0 * 64.0).max(4.0 * points.len() as f64);
        let mut size = size.max(1e-3);
        while (0..3).map(|a| ((high[a] - low[a]) / size).floor() + 1.0).product::<f64>() > limit {
            size *= 1.25;
        }
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

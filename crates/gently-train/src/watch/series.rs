//! A curve in bounded memory, however long the run.
//!
//! Here: [`Series`], which merges neighbouring points when it is full, and smoothing. Not here: what a
//! curve means or how it is drawn.
//!
//! ```
//! use gently_train::watch::series::Series;
//! let mut losses = Series::new(64);
//! for step in 0..1000 {
//!     losses.push(step, 3.0);
//! }
//! assert!(losses.points().len() < 64);
//! ```

/// One stretch of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// The last step of the stretch.
    pub step: u64,
    /// Mean of its values.
    pub mean: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
}

/// Values by step, at most `capacity` points of equally many values each.
#[derive(Debug, Clone)]
pub struct Series {
    points: Vec<Point>,
    capacity: usize,
    per_point: u64,
    pending: Option<(Point, u64)>,
}

impl Series {
    /// An empty curve that will hold fewer than `capacity` points (at least two).
    pub fn new(capacity: usize) -> Self {
        Self { points: Vec::new(), capacity: capacity.max(2), per_point: 1, pending: None }
    }

    /// Adds the next value. Values that are not finite are left out: a curve cannot show them.
    pub fn push(&mut self, step: u64, value: f64) {
        self.push_stretch(Point { step, mean: value, low: value, high: value });
    }

    /// Adds a stretch of another series as if it were one value, but for its lowest and highest: for curves that are read
    /// back. One that is not finite is left out.
    pub fn push_stretch(&mut self, new: Point) {
        if ![new.mean, new.low, new.high].iter().all(|v| v.is_finite()) {
            return;
        }
        let (mut point, mut count) = self.pending.take().unwrap_or((Point { mean: 0.0, ..new }, 0));
        count += 1;
        point.step = new.step;
        point.mean += (new.mean - point.mean) / count as f64;
        point.low = point.low.min(new.low);
        point.high = point.high.max(new.high);
        if count < self.per_point {
            self.pending = Some((point, count));
            return;
        }
        self.points.push(point);
        if self.points.len() >= self.capacity {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let odd = self.points.len() % 2 == 1;
        let last = if odd { self.points.pop() } else { None };
        self.points = self.points.chunks(2).map(merge).collect();
        if let Some(last) = last {
            self.pending = Some((last, self.per_point));
        }
        self.per_point *= 2;
    }

    /// The curve so far; values of a stretch that is not full yet are missing.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The mean of the newest stretch, full or not.
    pub fn last(&self) -> Option<f64> {
        self.pending.map(|(point, _)| point).or_else(|| self.points.last().copied()).map(|point| point.mean)
    }

    /// Step and mean of each point.
    pub fn means(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.points.iter().map(|point| (point.step as f64, point.mean))
    }

    /// Step and mean, of at most `most` equal parts of the curve.
    pub fn reduced(&self, most: usize) -> Vec<(f64, f64)> {
        let width = self.points.len().div_ceil(most.max(1)).max(1);
        self.points
            .chunks(width)
            .map(|part| {
                let sum: f64 = part.iter().map(|point| point.mean).sum();
                let step = part[part.len() - 1].step;
                (step as f64, sum / part.len() as f64)
            })
            .collect()
    }

    /// The curve smoothed by a mean over `reach` points before and after each, which unlike a running mean does
    /// not lag behind a steep fall. At its start both sides are cut equally for the same reason; at its end,
    /// where a curve is flat, only the side that has no points is.
    pub fn smoothed(&self, reach: usize) -> Vec<(f64, f64)> {
        let count = self.points.len();
        let mut sums = Vec::with_capacity(count + 1);
        sums.push(0.0);
        for (index, point) in self.points.iter().enumerate() {
            sums.push(sums[index] + point.mean);
        }
        (0..count)
            .map(|index| {
                let before = reach.min(index);
                let after = before.min(count - 1 - index);
                let sum = sums[index + after + 1] - sums[index - before];
                (self.points[index].step as f64, sum / (before + after + 1) as f64)
            })
            .collect()
    }
}

fn merge(pair: &[Point]) -> Point {
    pair[1..].iter().fold(pair[0], |a, b| Point {
        step: b.step,
        mean: (a.mean + b.mean) / 2.0,
        low: a.low.min(b.low),
        high: a.high.max(b.high),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_means_are_kept() {
        for capacity in [2, 3, 7, 64] {
            let mut series = Series::new(capacity);
            let total = 1u64 << 12;
            for step in 1..=total {
                series.push(step, step as f64);
                assert!(series.points().len() < capacity);
            }
            let all = series.points();
            assert!(all.windows(2).all(|w| w[0].step < w[1].step));
            for (index, point) in all.iter().enumerate() {
                let width = series.per_point;
                let first = index as u64 * width + 1;
                let mean = (first + (first + width - 1)) as f64 / 2.0;
                assert!((point.mean - mean).abs() < 1e-9, "{capacity}: {point:?}");
                assert_eq!(point.low, first as f64);
                assert_eq!(point.high, point.step as f64);
            }
        }
    }

    #[test]
    fn values_that_are_not_finite_leave_no_trace() {
        let mut series = Series::new(8);
        series.push(1, f64::NAN);
        series.push(2, 1.0);
        series.push(3, f64::INFINITY);
        assert_eq!(series.means().collect::<Vec<_>>(), [(2.0, 1.0)]);
        assert_eq!(series.last(), Some(1.0));
    }

    #[test]
    fn a_series_read_back_is_the_same_and_goes_on() {
        let mut first = Series::new(64);
        for step in 0..1000 {
            first.push(step, if step % 2 == 0 { 1.0 } else { 3.0 });
        }
        let mut again = Series::new(64);
        first.points().iter().for_each(|&point| again.push_stretch(point));
        assert_eq!(again.points(), first.points());
        for step in 1000..1100 {
            again.push(step, 2.0);
        }
        // Full once on the way: means, lows and highs are joined as such.
        assert!(again.points().len() < 64);
        assert!(again.points().iter().all(|p| (p.mean - 2.0).abs() < 1e-9));
        assert_eq!((again.points()[0].low, again.points()[0].high), (1.0, 3.0));
        again.push_stretch(Point { step: 2000, mean: 2.0, low: f64::NAN, high: 2.0 });
        assert!(again.points().iter().all(|p| p.step < 2000));
    }

    #[test]
    fn smoothing_keeps_a_constant_and_calms_noise() {
        let mut flat = Series::new(1000);
        let mut rough = Series::new(1000);
        for step in 0..500 {
            flat.push(step, 2.5);
            rough.push(step, if step % 2 == 0 { 1.0 } else { 3.0 });
        }
        assert!(flat.smoothed(20).iter().all(|(_, v)| (v - 2.5).abs() < 1e-12));
        let late = &rough.smoothed(20)[30..470];
        assert!(late.iter().all(|(_, v)| (v - 2.0).abs() < 0.06));
        assert!(Series::new(4).smoothed(3).is_empty());
    }

    #[test]
    fn smoothing_does_not_lag_and_reducing_keeps_the_mean() {
        let mut line = Series::new(1000);
        for step in 0..100 {
            line.push(step, step as f64);
        }
        let smooth = line.smoothed(9);
        assert!(smooth[..90].iter().all(|(step, v)| (step - v).abs() < 1e-9));
        assert_eq!(smooth[99], (99.0, 94.5));
        let reduced = line.reduced(10);
        assert_eq!(reduced.len(), 10);
        assert_eq!(reduced[0], (9.0, 4.5));
        assert_eq!(line.reduced(1000).len(), 100);
    }
}

//! Means and their standard errors, and figures of all items together.

/// A mean over items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// How many items.
    pub count: usize,
    /// The mean.
    pub value: f64,
    /// The sample's standard deviation over the square root of the count; `None` for fewer than two items.
    pub stderr: Option<f64>,
}

impl Figure {
    /// The mean of `values`, at least one.
    ///
    /// ```
    /// let f = gently::eval::Figure::of(&[1.0, 0.0, 1.0, 1.0]);
    /// assert_eq!((f.count, f.value, f.stderr), (4, 0.75, Some(0.25)));
    /// ```
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let stderr = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt());
        Self { count: values.len(), value: mean, stderr }
    }
}

/// The harmonic mean of precision and recall of label 1; pairs are what is right and what was picked. 0 where there is neither.
pub(super) fn f1(pairs: &[(usize, usize)]) -> f64 {
    let count = |f: fn(&(usize, usize)) -> bool| pairs.iter().filter(|p| f(p)).count() as f64;
    let (hit, right, picked) = (count(|p| *p == (1, 1)), count(|p| p.0 == 1), count(|p| p.1 == 1));
    if hit == 0.0 { 0.0 } else { 2.0 * hit / (right + picked) }
}

/// The correlation of two labellings (Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation
/// coefficient"); 0 where one of them has a single label.
pub(super) fn mcc(pairs: &[(usize, usize)]) -> f64 {
    let n = pairs.len() as f64;
    let labels = 1 + pairs.iter().map(|p| p.0.max(p.1)).max().unwrap_or(0);
    let (mut right, mut picked) = (vec![0.0; labels], vec![0.0; labels]);
    for &(r, p) in pairs {
        right[r] += 1.0;
        picked[p] += 1.0;
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let hits = pairs.iter().filter(|p| p.0 == p.1).count() as f64;
    let spread = (n * n - dot(&right, &right)) * (n * n - dot(&picked, &picked));
    if spread == 0.0 { 0.0 } else { (hits * n - dot(&right, &picked)) / spread.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_labels_are_those_of_scikit_learn() {
        // sklearn.metrics.f1_score and matthews_corrcoef of 1.9.
        let pairs = [(1, 1), (0, 1), (1, 0), (1, 1), (0, 0), (0, 0), (0, 1)];
        assert!((f1(&pairs) - 0.571_428_571_428_571_4).abs() < 1e-15);
        assert!((mcc(&pairs) - 0.166_666_666_666_666_66).abs() < 1e-15);
        let three = [(0, 0), (1, 2), (2, 2), (1, 1), (0, 2), (2, 0)];
        assert!((mcc(&three) - 0.261_116_483_933_546_6).abs() < 1e-15);
        assert_eq!((f1(&[(0, 0), (1, 0)]), mcc(&[(0, 0), (1, 0)])), (0.0, 0.0));
    }
}

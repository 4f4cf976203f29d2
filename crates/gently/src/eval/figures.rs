//! Means and their standard errors.

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

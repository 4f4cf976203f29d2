//! One vector from the rows of a document.
//!
//! Here: [`Pooling`], the ways that published embedders have (Reimers and Gurevych 2019, arXiv:1908.10084, and the
//! `sentence-transformers` library's pooling layer), and [`unit_length`]. Not here: which one a model was trained with,
//! which its files say.
//!
//! ```
//! use gently_infer::{Pooling, unit_length};
//! let rows = [1.0, 5.0, 3.0, 1.0]; // [T, C] = [2, 2]
//! let mut vector = [0.0; 2];
//! Pooling::Mean.pool(&rows, &mut vector);
//! assert_eq!(vector, [2.0, 3.0]);
//! Pooling::Max.pool(&rows, &mut vector);
//! assert_eq!(vector, [3.0, 5.0]);
//! unit_length(&mut vector);
//! assert!((vector[0] - 0.5145).abs() < 1e-4);
//! ```

/// How the rows of a document's tokens `[T, C]`, those put around the text among them, become one vector `[C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first: of `[CLS]` in BERT.
    Cls,
    /// The largest number of each channel.
    Max,
    /// Their sum over √T.
    MeanSqrtLength,
    /// Their mean with weights 1, 2, … T (Muennighoff 2022, arXiv:2202.08904).
    WeightedMean,
    /// The last: of decoders.
    Last,
}

impl Pooling {
    /// All of them, in the order in which several stand in a vector.
    pub const ALL: [Pooling; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLength, Self::WeightedMean, Self::Last];

    /// The name that `sentence-transformers` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::Max => "max",
            Self::MeanSqrtLength => "mean_sqrt_len",
            Self::WeightedMean => "weightedmean",
            Self::Last => "lasttoken",
        }
    }

    /// Of its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Pools `rows[T, C]` into `out[C]`; no rows give zeros.
    pub fn pool(self, rows: &[f32], out: &mut [f32]) {
        let c = out.len();
        let t = rows.len().checked_div(c).unwrap_or(0);
        if t == 0 {
            out.fill(0.0);
            return;
        }
        let weighted = |out: &mut [f32], weight: &dyn Fn(usize) -> f32, by: f32| {
            out.fill(0.0);
            for (i, row) in rows.chunks_exact(c).enumerate() {
                let w = weight(i);
                out.iter_mut().zip(row).for_each(|(o, v)| *o += w * v);
            }
            out.iter_mut().for_each(|o| *o /= by);
        };
        match self {
            Self::Mean => weighted(out, &|_| 1.0, t as f32),
            Self::MeanSqrtLength => weighted(out, &|_| 1.0, (t as f32).sqrt()),
            Self::WeightedMean => weighted(out, &|i| (i + 1) as f32, (t as f64 * (t as f64 + 1.0) / 2.0) as f32),
            Self::Cls => out.copy_from_slice(&rows[..c]),
            Self::Last => out.copy_from_slice(&rows[(t - 1) * c..t * c]),
            Self::Max => {
                out.fill(f32::NEG_INFINITY);
                for row in rows.chunks_exact(c) {
                    // Not f32::max, which would hide a NaN.
                    out.iter_mut().zip(row).for_each(|(o, v)| *o = if *v > *o || v.is_nan() { *v } else { *o });
                }
            }
        }
    }
}

/// Divides a vector by its Euclidean length, or by 1e-12 if that is more.
pub fn unit_length(vector: &mut [f32]) {
    let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_what_its_name_says() {
        let rows = [4.0, -1.0, 0.0, 2.0, 8.0, -3.0, 0.0, 6.0];
        let pooled = |p: Pooling| {
            let mut out = [9.0; 2];
            p.pool(&rows, &mut out);
            out
        };
        assert_eq!(pooled(Pooling::Mean), [3.0, 1.0]);
        assert_eq!(pooled(Pooling::Cls), [4.0, -1.0]);
        assert_eq!(pooled(Pooling::Max), [8.0, 6.0]);
        assert_eq!(pooled(Pooling::MeanSqrtLength), [6.0, 2.0]);
        assert_eq!(pooled(Pooling::WeightedMean), [2.8, 1.8]);
        assert_eq!(pooled(Pooling::Last), [0.0, 6.0]);
        for p in Pooling::ALL {
            assert_eq!(Pooling::named(p.name()), Some(p));
        }
        let mut out = [1.0; 2];
        Pooling::Max.pool(&[1.0, f32::NAN, 2.0, 0.0], &mut out);
        assert!(out[0] == 2.0 && out[1].is_nan());
    }

    #[test]
    fn no_rows_give_zeros() {
        for p in Pooling::ALL {
            let mut out = [7.0; 2];
            p.pool(&[], &mut out);
            assert_eq!(out, [0.0; 2], "{p:?}");
            // Nor is there anything to write into.
            p.pool(&[1.0, 2.0], &mut []);
            p.pool(&[], &mut []);
        }
    }

    #[test]
    fn zeros_have_no_direction() {
        let mut zeros = [0.0; 3];
        unit_length(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
        let mut tiny = [3e-30, 4e-30];
        unit_length(&mut tiny);
        assert!(tiny.iter().all(|v| v.is_finite()));
        let mut large = [3e30, 4e30];
        unit_length(&mut large);
        assert!((large[0] - 0.6).abs() < 1e-6 && (large[1] - 0.8).abs() < 1e-6, "{large:?}");
    }
}

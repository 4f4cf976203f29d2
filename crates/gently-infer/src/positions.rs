//! Tables of numbers that depend on positions, grown as far as they are used.

use gently_kernels::rope::RopeTable;
use gently_models::config::{DecoderConfig, Position};
use gently_models::positions::alibi_slopes;
use std::sync::{Arc, PoisonError, RwLock};

/// What the model's kind of positions needs.
pub(crate) enum Positions {
    /// Nothing, or a learned table, which is a weight.
    None,
    /// Sines in even channels, cosines in odd ones (Vaswani et al. 2017, §3.5), `[_, C]`.
    Sinusoidal(Growing<Vec<f32>>),
    /// Angles of pairs of channels.
    Rotary(Growing<RopeTable>),
    /// Slope of each head.
    Alibi(Vec<f32>),
}

impl Positions {
    pub fn of(cfg: &DecoderConfig) -> Self {
        match cfg.position {
            Position::Learned | Position::None => Self::None,
            Position::Sinusoidal => Self::Sinusoidal(Growing::default()),
            Position::Rotary => Self::Rotary(Growing::default()),
            Position::Alibi => Self::Alibi(alibi_slopes(cfg.heads)),
        }
    }
}

/// A table for positions below some end.
pub(crate) struct Growing<T>(RwLock<(usize, Option<Arc<T>>)>);

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Self(RwLock::new((0, None)))
    }
}

impl<T> Growing<T> {
    /// The table for positions below `end` at least; `make` is asked for more of them than that, up to `most`.
    pub fn reaching(&self, end: usize, most: usize, make: impl FnOnce(usize) -> T) -> Arc<T> {
        if let (reach, Some(table)) = &*self.0.read().unwrap_or_else(PoisonError::into_inner)
            && *reach >= end
        {
            return table.clone();
        }
        let rows = end.next_power_of_two().max(64).min(most.max(end));
        let table = Arc::new(make(rows));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (rows, Some(table.clone()));
        table
    }
}

/// The sinusoids of positions below `rows`, `[rows, C]`.
pub(crate) fn sinusoids(rows: usize, width: usize) -> Vec<f32> {
    let value = |n: usize| {
        let (t, i) = (n / width, n % width);
        let angle = t as f64 / 10000f64.powf((i / 2 * 2) as f64 / width as f64);
        (if i.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    (0..rows * width).map(value).collect()
}

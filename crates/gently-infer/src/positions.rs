//! Tables of numbers that depend on positions, in the form that kernels take; refused memory is an error.

use gently_kernels::buffer::OutOfMemory;
use gently_kernels::rope::RopeTable;
use gently_models::config::{DecoderConfig, Position};
use gently_models::positions::{Growing, alibi_slopes, sinusoid};
use std::sync::Arc;

/// What the model's kind of positions needs.
pub(crate) enum Positions {
    /// Nothing, or a learned table, which is a weight.
    None,
    /// [`sinusoids`], `[_, C]`.
    Sinusoidal(Growing<Arc<Vec<f32>>>),
    /// Angles of pairs of channels: one table, or two where some layers have their own (Gemma 3).
    Rotary(Rotary),
    /// Slope of each head.
    Alibi(Vec<f32>),
}

impl Positions {
    pub fn of(cfg: &DecoderConfig) -> Self {
        match cfg.position {
            Position::Learned | Position::None => Self::None,
            Position::Sinusoidal => Self::Sinusoidal(Growing::default()),
            Position::Rotary => Self::Rotary(Rotary::of(cfg)),
            Position::Alibi => Self::Alibi(alibi_slopes(cfg.heads)),
        }
    }
}

/// Rotary tables by layer.
pub(crate) struct Rotary {
    tables: Vec<Angles>,
    /// The table of each layer.
    of_layer: Vec<usize>,
}

/// One of the tables, and what it is made of.
struct Angles {
    frequencies: Vec<f64>,
    scale: f64,
    table: Growing<Arc<RopeTable>>,
}

impl Rotary {
    fn of(cfg: &DecoderConfig) -> Self {
        let (mut tables, mut of_layer) = (Vec::<Angles>::new(), Vec::new());
        for layer in 0..cfg.layers {
            let (frequencies, scale) = (cfg.rope_frequencies(layer), cfg.rope_scale(layer));
            let same = |t: &Angles| t.scale == scale && t.frequencies == frequencies;
            let at = tables.iter().position(same).unwrap_or_else(|| {
                tables.push(Angles { frequencies, scale, table: Growing::default() });
                tables.len() - 1
            });
            of_layer.push(at);
        }
        Self { tables, of_layer }
    }

    /// The tables for positions below `end`; [`Rotary::of_layer`] says which one a layer has.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn reaching(&self, end: usize, most: usize) -> Result<Vec<Arc<RopeTable>>, OutOfMemory> {
        let table = |angles: &Angles| {
            let make = |rows| RopeTable::try_with_frequencies(rows, &angles.frequencies, angles.scale).map(Arc::new);
            angles.table.reaching(end, most, make)
        };
        self.tables.iter().map(table).collect()
    }

    /// Which of the tables a layer has.
    pub fn of_layer(&self, layer: usize) -> usize {
        self.of_layer[layer]
    }
}

/// The [`sinusoid`]s of positions below `rows`, `[rows, C]`.
///
/// # Errors
/// [`OutOfMemory`].
pub(crate) fn sinusoids(rows: usize, width: usize) -> Result<Arc<Vec<f32>>, OutOfMemory> {
    let len = rows.saturating_mul(width);
    let mut all = Vec::new();
    all.try_reserve_exact(len).map_err(|_| OutOfMemory { bytes: len.saturating_mul(size_of::<f32>()) })?;
    all.extend((0..len).map(|n| sinusoid(n / width, n % width, width) as f32));
    Ok(Arc::new(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_beyond_all_memory_are_errors_and_cost_the_ones_before_nothing() {
        let cfg = DecoderConfig { layers: 2, ..DecoderConfig::named("smollm2-135m").unwrap() };
        let rotary = Rotary::of(&cfg);
        let reach = |end: usize| rotary.reaching(end, usize::MAX).map(|tables| tables[0].positions());
        assert_eq!(reach(65), Ok(128));
        assert!(reach(usize::MAX / 4).is_err());
        assert_eq!(reach(100), Ok(128));
        assert_eq!(sinusoids(3, 2).unwrap().len(), 6);
        assert!(sinusoids(usize::MAX / 4, 64).is_err());
    }
}

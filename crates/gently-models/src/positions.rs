//! Numbers that depend on the position alone: rotary angles, sinusoids, ALiBi slopes.
//!
//! Here: tables that are computed as far as they are used. Not here: learned positions, which are parameters, and
//! the use of the tables (see [`crate::mixers::SoftmaxAttention`], [`crate::decoder`]).
//!
//! ```
//! use gently_models::positions::Rotary;
//! use gently_models::DecoderConfig;
//! let rotary = Rotary::of_layer(&DecoderConfig { context: 1024, ..DecoderConfig::named("smollm2-135m").unwrap() }, 0);
//! assert!(rotary.reaching(100).unwrap().positions() >= 100);
//! assert!(rotary.reaching(1025).is_err());
//! ```

use crate::config::DecoderConfig;
use crate::error::{Error, Result};
use gently_tensor::{DType, Device, Rope, RopeStyle, Tensor};
use std::sync::{PoisonError, RwLock};

/// What there is for the positions below some end, made anew when more of them are asked for. Cloning it should be cheap.
pub struct Growing<T>(RwLock<Option<(usize, T)>>);

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

impl<T: Clone> Growing<T> {
    /// What there is for the positions below `end` at least. `make` is asked for more of them than that, up to `most`, so that
    /// it is asked seldom.
    ///
    /// # Errors
    /// Those of `make`; what was there before stays.
    pub fn reaching<E>(&self, end: usize, most: usize, make: impl FnOnce(usize) -> Result<T, E>) -> Result<T, E> {
        if let Some((reach, made)) = &*self.0.read().unwrap_or_else(PoisonError::into_inner)
            && *reach >= end
        {
            return Ok(made.clone());
        }
        let rows = end.checked_next_power_of_two().unwrap_or(end).max(64).min(most.max(end));
        let made = make(rows)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some((rows, made.clone()));
        Ok(made)
    }
}

/// The number of a channel of `width` at a position: a sine in even channels, a cosine in odd ones (Vaswani et al. 2017, §3.5).
pub fn sinusoid(position: usize, channel: usize, width: usize) -> f64 {
    let angle = position as f64 / 10000f64.powf((channel / 2 * 2) as f64 / width as f64);
    if channel.is_multiple_of(2) { angle.sin() } else { angle.cos() }
}

/// A table `[context, width]` of numbers computed in f64 from position and channel. Rows appear when first asked
/// for, so a long context costs nothing until it is used.
pub struct PositionTable {
    context: usize,
    width: usize,
    dtype: DType,
    device: Device,
    value: Box<dyn Fn(usize, usize) -> f64 + Send + Sync>,
    rows: Growing<Tensor>,
}

impl PositionTable {
    /// The table of `value(position, channel)`.
    pub fn new(
        context: usize,
        width: usize,
        dtype: DType,
        device: Device,
        value: impl Fn(usize, usize) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Self { context, width, dtype, device, value: Box::new(value), rows: Growing::default() }
    }

    /// The table of [`sinusoid`]s.
    pub fn sinusoids(context: usize, width: usize, dtype: DType, device: Device) -> Self {
        Self::new(context, width, dtype, device, move |t, i| sinusoid(t, i, width))
    }

    /// The table, `[at least end, width]`.
    ///
    /// # Errors
    /// [`Error::Tokens`] past the context; [`Error::Tensor`] without memory.
    pub fn reaching(&self, end: usize) -> Result<Tensor> {
        check(end, self.context)?;
        self.rows.reaching(end, self.context, |rows| self.build(rows))
    }

    fn build(&self, rows: usize) -> Result<Tensor> {
        let shape = [rows, self.width];
        if self.device == Device::Meta {
            return Ok(Tensor::zeros(shape, self.dtype, &self.device)?);
        }
        match self.dtype {
            DType::F64 => Ok(Tensor::from_slice(&self.values(rows, |v| v)?, shape, &self.device)?),
            _ => Ok(Tensor::from_slice(&self.values(rows, |v| v as f32)?, shape, &self.device)?),
        }
    }

    /// The numbers of the first rows.
    fn values<T>(&self, rows: usize, round: impl Fn(f64) -> T) -> Result<Vec<T>> {
        let len = rows.saturating_mul(self.width);
        let bytes = len.saturating_mul(size_of::<T>());
        let refused = |_| gently_tensor::Error::NoScratch { op: "position table", bytes };
        let mut values = Vec::new();
        values.try_reserve_exact(len).map_err(refused)?;
        values.extend((0..len).map(|n| round((self.value)(n / self.width, n % self.width))));
        Ok(values)
    }
}

/// Rotary angles `t · frequency`, half-split pairs (Su et al. 2021), for as many positions as were used.
pub struct Rotary {
    context: usize,
    frequencies: Vec<f64>,
    scale: f64,
    table: Growing<Rope>,
}

impl Rotary {
    /// The angles of a layer, counted from 0: see [`DecoderConfig::rope_frequencies`] and [`DecoderConfig::rope_scale`].
    pub fn of_layer(cfg: &DecoderConfig, layer: usize) -> Self {
        let (frequencies, scale) = (cfg.rope_frequencies(layer), cfg.rope_scale(layer));
        Self { context: cfg.context, frequencies, scale, table: Growing::default() }
    }

    /// Whether a layer of the same model has these angles too.
    pub(crate) fn is_of(&self, cfg: &DecoderConfig, layer: usize) -> bool {
        self.scale == cfg.rope_scale(layer) && self.frequencies == cfg.rope_frequencies(layer)
    }

    /// The table, with at least the positions before `end`.
    ///
    /// # Errors
    /// [`Error::Tokens`] past the context.
    pub fn reaching(&self, end: usize) -> Result<Rope> {
        check(end, self.context)?;
        let make = |rows| Ok(Rope::with_frequencies(rows, self.frequencies.clone(), self.scale, RopeStyle::Half));
        self.table.reaching(end, self.context, make)
    }
}

fn check(end: usize, context: usize) -> Result<()> {
    match end > context {
        true => Err(Error::Tokens { what: format!("{end} tokens do not fit into a context of {context}") }),
        false => Ok(()),
    }
}

/// The slope of each head: `2^(-8i/H)` for a power of two; otherwise those of the next lower power, then every
/// other one of the next higher (Press et al. 2021, and their code).
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = |n: usize| move |i: usize| 2f64.powf(-8.0 * (i + 1) as f64 / n as f64);
    if heads.is_power_of_two() {
        return (0..heads).map(power(heads)).map(|s| s as f32).collect();
    }
    let lower = heads.next_power_of_two() / 2;
    let rest = (0..2 * lower).step_by(2).map(power(2 * lower)).take(heads - lower);
    (0..lower).map(power(lower)).chain(rest).map(|s| s as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_the_paper() {
        assert_eq!(alibi_slopes(8)[..3], [0.5, 0.25, 0.125]);
        let six = alibi_slopes(6);
        assert_eq!(six[..4], [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(six[4..], [0.5, 0.125]);
    }

    #[test]
    fn tables_grow_and_keep_their_values() {
        let table = PositionTable::new(200, 3, DType::F32, Device::Cpu, |t, i| (t * 10 + i) as f64);
        for end in [2, 70, 200, 3] {
            let rows = table.reaching(end).unwrap();
            assert!(rows.dims()[0] >= end);
            let rows = rows.to_vec::<f32>().unwrap();
            assert!(rows.iter().enumerate().all(|(n, v)| *v == (n / 3 * 10 + n % 3) as f32));
        }
        assert!(table.reaching(201).unwrap_err().to_string().contains("context of 200"));
        assert!(table.reaching(usize::MAX).is_err());
    }

    #[test]
    fn a_table_beyond_all_memory_is_an_error() {
        let table = PositionTable::new(usize::MAX, 64, DType::F32, Device::Cpu, |_, _| 0.0);
        assert!(matches!(table.reaching(usize::MAX / 4), Err(Error::Tensor(e)) if e.is_out_of_memory()));
    }
}

//! Rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34).

use super::{dense, need_device, need_float, need_ids, need_shape};
use crate::backend::{self, Positions};
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::tensor::View;
use crate::{DType, Device, Error, Op, Result, Tensor, profile};
use gently_kernels::real::Real;
use gently_kernels::rope::{RopeStyle, RopeTable};
use std::sync::{Arc, OnceLock};

/// Angles for rotary positions: a table for positions `0..positions`, and which channels make a pair. Cheap to clone.
///
/// ```
/// use gently_tensor::{Rope, RopeStyle};
/// let rope = Rope::new(1024, 64, 10_000.0, RopeStyle::Half)?;
/// assert_eq!(rope.positions(), 1024);
/// # Ok::<(), gently_tensor::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Rope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    style: RopeStyle,
    positions: usize,
    frequencies: Vec<f64>,
    scale: f64,
    single: OnceLock<RopeTable<f32>>,
    double: OnceLock<RopeTable<f64>>,
}

impl Rope {
    /// Frequencies θ^(−2i/R) for the first `rotated` = R channels of a head.
    ///
    /// # Errors
    /// R odd or 0, or more than there is memory for.
    pub fn new(positions: usize, rotated: usize, theta: f64, style: RopeStyle) -> Result<Rope> {
        if rotated == 0 || !rotated.is_multiple_of(2) {
            return Err(Error::BadArgument {
                op: "rope",
                name: "rotated channels",
                value: rotated as f64,
                why: "channels are turned in pairs",
            });
        }
        let pairs = rotated / 2;
        let mut frequencies = Vec::new();
        let refused = |_| Error::NoScratch { op: "rope", bytes: pairs.saturating_mul(size_of::<f64>()) };
        frequencies.try_reserve_exact(pairs).map_err(refused)?;
        frequencies.extend((0..pairs).map(|i| theta.powf(-2.0 * i as f64 / rotated as f64)));
        Ok(Rope::with_frequencies(positions, frequencies, 1.0, style))
    }

    /// One frequency for each pair of channels, and the factor `scale` of the channels that are turned: scaled variants for
    /// long contexts.
    pub fn with_frequencies(positions: usize, frequencies: Vec<f64>, scale: f64, style: RopeStyle) -> Rope {
        let (single, double) = (OnceLock::new(), OnceLock::new());
        Rope(Arc::new(Inner { style, positions, frequencies, scale, single, double }))
    }

    /// The number of positions in the table.
    pub fn positions(&self) -> usize {
        self.0.positions
    }

    /// The number of channels of a head that are turned.
    pub fn rotated(&self) -> usize {
        2 * self.0.frequencies.len()
    }

    /// Which channels make a pair.
    pub fn style(&self) -> RopeStyle {
        self.0.style
    }

    pub(crate) fn table(&self) -> &RopeTable<f32> {
        let i = &self.0;
        i.single.get_or_init(|| RopeTable::with_frequencies(i.positions, &i.frequencies, i.scale))
    }

    pub(crate) fn table_f64(&self) -> &RopeTable<f64> {
        let i = &self.0;
        i.double.get_or_init(|| RopeTable::with_frequencies(i.positions, &i.frequencies, i.scale))
    }

    /// Refuses heads that are too narrow, positions beyond the table, and a table that there is no memory for: afterwards it is
    /// made.
    pub(crate) fn check(&self, x: &Tensor, d: usize, start: usize, time: usize) -> Result<()> {
        if self.rotated() > d {
            return Err(Error::BadShape {
                op: "rope",
                shape: Box::new(*x.shape()),
                why: "heads have fewer channels than are turned",
            });
        }
        match start.checked_add(time) {
            Some(end) if end <= self.positions() => match (x.device(), x.dtype()) {
                // Nothing is turned there.
                (Device::Meta, _) => Ok(()),
                (_, DType::F64) => self.make(&self.0.double),
                _ => self.make(&self.0.single),
            },
            _ => Err(Error::range("rope", start, time, self.positions())),
        }
    }

    /// Makes a table that is not there yet.
    fn make<T: Real>(&self, table: &OnceLock<RopeTable<T>>) -> Result<()> {
        if table.get().is_none() {
            let i = &self.0;
            let made = RopeTable::try_with_frequencies(i.positions, &i.frequencies, i.scale);
            // Another thread may have been faster; both tables are the same.
            let _ = table.set(made.map_err(|e| Error::NoScratch { op: "rope", bytes: e.bytes })?);
        }
        Ok(())
    }
}

impl Tensor {
    /// Turns the heads of `[B, T, H, D]`; token t stands at position `start + t`.
    ///
    /// # Errors
    /// A shape that is not this, D below the channels that are turned, a dtype that is not f32 or f64, positions beyond the
    /// table, no memory for the table.
    pub fn rope(&self, rope: &Rope, start: usize) -> Result<Tensor> {
        self.rope_by(rope, start, None)
    }

    /// [`Tensor::rope`] with the position of each token given, u32 `[B, T]`: packed documents.
    ///
    /// # Errors
    /// As [`Tensor::rope`], and positions of another shape, dtype or device.
    pub fn rope_at(&self, rope: &Rope, positions: &Tensor) -> Result<Tensor> {
        self.rope_by(rope, 0, Some(positions))
    }

    fn rope_by(&self, rope: &Rope, start: usize, positions: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = Op::Rope.name();
        let _op = profile::op(OP);
        need_float(OP, self)?;
        let &[b, t, h, d] = self.dims() else {
            return Err(Error::BadShape { op: OP, shape: Box::new(*self.shape()), why: "heads are [B, T, H, D]" });
        };
        let positions = match positions {
            Some(p) => Some(check_positions(rope, self, p, b, t, d)?),
            None => {
                rope.check(self, d, start, t)?;
                None
            }
        };
        let mut out = self.copy()?;
        let rope = rope.clone();
        let turn = move |x: &mut Buffer, inverse: bool| {
            let at = positions.as_ref().map_or(Positions::From(start), Positions::Each);
            backend::rope(x, &rope, [b, t, h, d], [t * h * d, h * d, d], at, inverse);
        };
        if let Some(buffer) = out.unique() {
            turn(buffer, false);
        }
        if !recording(&[self]) {
            return Ok(out);
        }
        let node = Node::new(Op::Rope, &[self], move |s, g| {
            let mut g = g;
            if g.unique().is_none() {
                g = g.copy()?;
            }
            if let Some(buffer) = g.unique() {
                turn(buffer, true);
            }
            s.give(0, g)
        });
        Ok(out.attach(node))
    }
}

/// Checks positions `[B, T]` against the table; returns a dense snapshot of them.
pub(crate) fn check_positions(
    rope: &Rope,
    x: &Tensor,
    positions: &Tensor,
    b: usize,
    t: usize,
    d: usize,
) -> Result<View> {
    const OP: &str = Op::Rope.name();
    need_ids(OP, positions)?;
    need_device(OP, x, positions)?;
    need_shape(OP, positions, &[b, t], "positions are [B, T]")?;
    let positions = dense(OP, positions)?;
    // There are no values on Meta.
    let last = positions.dense::<u32>().iter().copied().max().unwrap_or(0) as usize;
    rope.check(x, d, last, usize::from(b * t > 0))?;
    Ok(positions)
}

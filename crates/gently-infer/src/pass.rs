//! What happens to the rows of a pass in every layer, whosever they are.
//!
//! Here: [`Lowered`], weights with their positions: embedding, the two branches of a block, the last norm. Attention itself is
//! given by the caller, since it depends on what rows may see: sequences with a memory (see [`crate::Plan`]), or whole
//! documents (see [`crate::Encoder`]). Not here: logits.

use crate::error::{Result, no_memory};
use crate::matrix::{Finish, Inputs, Matrix};
use crate::positions::{Positions, sinusoids};
use crate::weights::{Layer, Norm, Up, Weights};
use crate::work::{Buffer, Stream, Work};
use gently_kernels::attention::HeadViewMut;
use gently_kernels::rope::{Positions as At, RopeStyle, RopeTable, rotate};
use gently_kernels::{activation, norm};
use gently_models::config::{DecoderConfig, NormPlace, Position};
use std::sync::Arc;

/// Positions that are counted where a model sets them no end: f32, in which distances are multiplied, holds each of them.
const COUNTED: usize = 1 << 24;
/// What is told of tables that there is no memory for.
const TABLES: &str = "tables of positions";

/// A model's weights and what its positions need.
pub(crate) struct Lowered {
    pub weights: Weights,
    positions: Positions,
}

impl Lowered {
    pub fn new(weights: Weights) -> Self {
        let positions = Positions::of(&weights.cfg);
        Self { weights, positions }
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.weights.cfg
    }

    /// The longest sequence; `None` where positions have no end.
    pub fn room(&self) -> Option<usize> {
        let endless = matches!(self.config().position, Position::Alibi | Position::None);
        (!endless).then_some(self.config().context)
    }

    /// The most tokens that a sequence may have, also where positions have no end.
    pub fn most(&self) -> usize {
        self.room().unwrap_or(COUNTED)
    }

    /// ALiBi's slope of each head.
    pub fn slopes(&self) -> Option<&[f32]> {
        match &self.positions {
            Positions::Alibi(slopes) => Some(slopes),
            _ => None,
        }
    }

    /// Tables of angles for positions below `end`.
    pub fn tables(&self, end: usize) -> Result<Vec<Arc<RopeTable>>> {
        match &self.positions {
            Positions::Rotary(rotary) => rotary.reaching(end, self.config().context).map_err(no_memory(TABLES)),
            _ => Ok(Vec::new()),
        }
    }

    /// The one of them that a layer has.
    pub fn table<'t>(&self, layer: usize, tables: &'t [Arc<RopeTable>]) -> Option<&'t RopeTable> {
        match &self.positions {
            Positions::Rotary(rotary) => tables.get(rotary.of_layer(layer)).map(|t| &**t),
            _ => None,
        }
    }

    /// What a block of parallel branches does first: both read x as it is now.
    pub fn fork(&self, layer: &Layer, work: &mut Work, n: usize) -> Result<()> {
        let cfg = self.config();
        if cfg.parallel {
            let Stream { x, y, mean, rstd, .. } = &mut work.stream;
            normalise(&layer.mlp_norm, x.take(n * cfg.width)?, y.take(n * cfg.width)?, mean, rstd)?;
        }
        Ok(())
    }

    /// Token ids, one for each of `work.at`, to `x` `[N, C]`; `end` is one past the last position.
    pub fn embed(&self, work: &mut Work, ids: impl Iterator<Item = u32>, end: usize) -> Result<()> {
        let c = self.weights.cfg.width;
        let n = work.at.len();
        let x = work.stream.x.take(n * c)?;
        for (row, id) in x.chunks_exact_mut(c).zip(ids) {
            self.weights.tokens.row(id as usize, row);
        }
        if let Some(scale) = self.weights.cfg.embed_scale {
            x.iter_mut().for_each(|v| *v *= scale as f32);
        }
        let table;
        let added = match (&self.weights.positions, &self.positions) {
            (Some(learned), _) => &learned[..],
            (None, Positions::Sinusoidal(rows)) => {
                let most = self.weights.cfg.context;
                table = rows.reaching(end, most, |rows| sinusoids(rows, c)).map_err(no_memory(TABLES))?;
                &table[..]
            }
            _ => &[],
        };
        if !added.is_empty() {
            for (row, at) in x.chunks_exact_mut(c).zip(&work.at) {
                add(row, &added[*at as usize * c..][..c]);
            }
        }
        if let Some(norm) = &self.weights.embed_norm {
            let Stream { x, h, mean, rstd, .. } = &mut work.stream;
            normalise(norm, x.take(n * c)?, h.take(n * c)?, mean, rstd)?;
            std::mem::swap(x, h);
        }
        Ok(())
    }

    /// The branch that mixes tokens: `x` to `x`, both `[N, C]`. `attend` takes rows of queries, keys and values
    /// `[N, (H+2Hk)·D]`, normalised and turned, to `[N, H·D]`.
    pub fn mix(
        &self,
        layer: &Layer,
        work: &mut Work,
        n: usize,
        rope: Option<&RopeTable>,
        attend: impl FnOnce(&[f32], &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let cfg = &self.weights.cfg;
        let (heads, kv_heads, d, width) = (cfg.heads, cfg.kv_heads(), cfg.head_width(), cfg.qkv_width());
        let qkv = work.qkv.take(n * width)?;
        let x = work.stream.x.take(n * cfg.width)?;
        if reads_as_is(cfg.norm_place) {
            layer.qkv.product(&mut work.inputs, x, qkv, Finish::default())?;
        } else {
            let h = work.stream.h.take(n * cfg.width)?;
            normalise(&layer.mixer_norm, x, h, &mut work.stream.mean, &mut work.stream.rstd)?;
            layer.qkv.product(&mut work.inputs, h, qkv, Finish::default())?;
        }
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            for (part, from, count) in [(q_norm, 0, heads), (k_norm, heads, kv_heads)] {
                let (raw, normed) = (work.heads.take(n * count * d)?, work.heads_normed.take(n * count * d)?);
                for (to, row) in raw.chunks_exact_mut(count * d).zip(qkv.chunks_exact(width)) {
                    to.copy_from_slice(&row[from * d..][..count * d]);
                }
                normalise(part, raw, normed, &mut work.stream.mean, &mut work.stream.rstd)?;
                for (row, normed) in qkv.chunks_exact_mut(width).zip(normed.chunks_exact(count * d)) {
                    row[from * d..][..count * d].copy_from_slice(normed);
                }
            }
        }
        if let Some(table) = rope {
            // Keys lie after queries: one call turns both.
            let view = HeadViewMut { data: qkv, offset: 0, stride_b: n * width, stride_t: width, stride_h: d };
            rotate(view, [1, n, heads + kv_heads, d], table, At::Each(&work.at), RopeStyle::Half, false);
        }
        let mixed = work.mixed.take(n * heads * d)?;
        attend(qkv, mixed)?;
        let norms = (cfg.norm_place, &layer.mixer_norm, layer.mixer_out_norm.as_ref());
        close_branch(&layer.out, mixed, norms, &mut work.stream, &mut work.inputs, n * cfg.width)
    }

    /// The branch of each token on its own: `x` to `x`, both `[N, C]`.
    pub fn transform(&self, layer: &Layer, work: &mut Work, n: usize) -> Result<()> {
        let cfg = &self.weights.cfg;
        let len = n * cfg.width;
        let Stream { x, h, y, mean, rstd } = &mut work.stream;
        let input: &[f32] = if cfg.parallel {
            y.take(len)?
        } else if reads_as_is(cfg.norm_place) {
            x.take(len)?
        } else {
            normalise(&layer.mlp_norm, x.take(len)?, h.take(len)?, mean, rstd)?;
            h.take(len)?
        };
        let hidden = work.hidden.take(n * cfg.mlp_width())?;
        let finish = Finish { activation: layer.activation, add: false };
        match &layer.up {
            Up::One(w) => w.product(&mut work.inputs, input, hidden, finish)?,
            Up::Two(gate, up) => {
                let raw = work.up.take(hidden.len())?;
                gate.product(&mut work.inputs, input, raw, Finish::default())?;
                activation::forward(layer.activation, raw, hidden);
                up.product(&mut work.inputs, input, raw, Finish::default())?;
                hidden.iter_mut().zip(&*raw).for_each(|(h, u)| *h *= u);
            }
        }
        let norms = (cfg.norm_place, &layer.mlp_norm, layer.mlp_out_norm.as_ref());
        close_branch(&layer.down, hidden, norms, &mut work.stream, &mut work.inputs, len)
    }
}

/// Whether branches read the residual stream without a norm before them.
fn reads_as_is(place: NormPlace) -> bool {
    matches!(place, NormPlace::Post | NormPlace::Out)
}

/// The end of a branch: the product of `from`, the residual, and the norms that stand here.
fn close_branch(
    w: &Matrix,
    from: &[f32],
    (place, norm, out_norm): (NormPlace, &Norm, Option<&Norm>),
    stream: &mut Stream,
    inputs: &mut Inputs,
    len: usize,
) -> Result<()> {
    let Stream { x, h, y, mean, rstd } = stream;
    let after = match (place, out_norm) {
        // x + norm(f(norm(x)))
        (_, Some(out_norm)) => Some(out_norm),
        // x + norm(f(x))
        (NormPlace::Out, None) => Some(norm),
        _ => None,
    };
    if let Some(after) = after {
        let (x, h, y) = (x.take(len)?, h.take(len)?, y.take(len)?);
        w.product(inputs, from, y, Finish::default())?;
        normalise(after, y, h, mean, rstd)?;
        add(x, h);
        return Ok(());
    }
    // x + f(norm(x)), or norm(x + f(x))
    w.product(inputs, from, x.take(len)?, Finish { add: true, ..Finish::default() })?;
    if place == NormPlace::Post {
        normalise(norm, x.take(len)?, h.take(len)?, mean, rstd)?;
        std::mem::swap(x, h);
    }
    Ok(())
}

/// `y = norm(x)`, row by row.
pub(crate) fn normalise(n: &Norm, x: &[f32], y: &mut [f32], mean: &mut Buffer, rstd: &mut Buffer) -> Result<()> {
    let rows = x.len() / n.weight.len().max(1);
    norm::forward(&n.view(), x, None, y, mean.take(rows)?, rstd.take(rows)?);
    Ok(())
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

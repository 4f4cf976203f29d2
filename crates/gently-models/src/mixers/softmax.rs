//! Softmax attention: `y_t = Σ_j softmax_j(q_t·k_j/√D + bias_tj) v_j` (Vaswani et al. 2017).
//!
//! Here: the parameters and every choice around the scores: grouped heads (Ainslie et al. 2023), rotary positions,
//! ALiBi, sliding window, normalised queries and keys, soft cap. Not here: the scores themselves, which the
//! tensor crate computes block by block without ever holding a T×T matrix.

use super::{KvCache, MixCtx, Mixer, MixerState};
use crate::config::{DecoderConfig, Position};
use crate::error::{Error, Result};
use crate::init::{self, Init};
use crate::layers::Linear;
use crate::params::{Builder, ParamKind};
use crate::positions::{Rotary, alibi_slopes};
use gently_tensor::{Activation, AttentionSpec, Mask, Rope, Tensor, profile};
use std::sync::Arc;

/// Causal multi-head attention with H query heads and Hk key and value heads of D channels.
pub struct SoftmaxAttention {
    /// `[(H+2Hk)·D, C]`: all queries, then all keys, then all values, in one product.
    qkv: Linear,
    /// `[C, H·D]`
    out: Linear,
    /// Scales of normalised queries and keys: `[D]` each, or `[H·D]` and `[Hk·D]` where all heads are one row.
    qk_norm: Option<(Tensor, Tensor)>,
    qk_norm_wide: bool,
    rotary: Option<Arc<Rotary>>,
    /// Slope of each head, `[H]`.
    alibi: Option<Tensor>,
    heads: usize,
    kv_heads: usize,
    head_width: usize,
    scale: f32,
    mask: Mask,
    window: Option<usize>,
    softcap: Option<f64>,
    eps: f64,
}

impl SoftmaxAttention {
    /// The attention of the configuration's first layer; see [`SoftmaxAttention::of_layer`].
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn new(b: &mut Builder, cfg: &DecoderConfig, rotary: Option<Arc<Rotary>>) -> Result<Self> {
        Self::of_layer(b, cfg, 0, rotary)
    }

    /// The attention of a layer, counted from 0, under the builder's scope as `qkv`, `out`, `q_norm`, `k_norm`. `rotary`
    /// is used with rotary positions only, and shared by the layers that have the same.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn of_layer(b: &mut Builder, cfg: &DecoderConfig, layer: usize, rotary: Option<Arc<Rotary>>) -> Result<Self> {
        let path = b.path().to_owned();
        let (c, h, d) = (cfg.width, cfg.heads, cfg.head_width());
        let qkv =
            Linear::new(b.scope(format!("{path}.qkv")), cfg.qkv_width(), c, cfg.attention_bias, init::matrix(cfg))?;
        let out = Linear::new(b.scope(format!("{path}.out")), c, h * d, cfg.out_bias(), init::residual(cfg))?;
        let qk_norm = if cfg.qk_norm {
            let mut scale = |name: &str, heads: usize| {
                let n = if cfg.qk_norm_wide { heads * d } else { d };
                b.scope(format!("{path}.{name}")).param("weight", &[n], Init::Ones, ParamKind::Vector)
            };
            Some((scale("q_norm", h)?, scale("k_norm", cfg.kv_heads())?))
        } else {
            None
        };
        let alibi = match cfg.position {
            Position::Alibi => Some(Tensor::from_slice(&alibi_slopes(h), [h], &b.device())?),
            _ => None,
        };
        let window = cfg.window_of(layer);
        Ok(Self {
            qkv,
            out,
            qk_norm,
            qk_norm_wide: cfg.qk_norm_wide,
            rotary: rotary.filter(|_| cfg.position == Position::Rotary),
            alibi,
            heads: h,
            kv_heads: cfg.kv_heads(),
            head_width: d,
            scale: cfg.attention_scale() as f32,
            mask: match window {
                _ if cfg.bidirectional => Mask::Full,
                Some(window) => Mask::Window(window),
                None => Mask::Causal,
            },
            window,
            softcap: cfg.attention_softcap,
            eps: cfg.norm_eps,
        })
    }
}

impl Mixer for SoftmaxAttention {
    type State = KvCache;

    fn mix(&self, x: &Tensor, state: &mut KvCache, cx: &MixCtx) -> Result<Tensor> {
        let (h, d) = (self.heads, self.head_width);
        let part = profile::part("qkv");
        let qkv = self.qkv.forward(x, Activation::None, cx.compute)?; // [B,T,(H+2Hk)·D]
        drop(part);
        let part = profile::part("scores");
        let mut spec = AttentionSpec {
            docs: cx.docs.clone(),
            alibi: self.alibi.clone(),
            softcap: self.softcap.map(|c| c as f32),
            compute: cx.compute,
            ..AttentionSpec::new(self.scale, self.mask)
        };
        if let Some(mut dropout) = cx.dropout_at("scores") {
            spec = spec.with_dropout(dropout.p, &mut dropout.stream)?;
        }
        let y = if cx.keep {
            self.attend_with_state(&qkv, state, spec)? // [B,T,H,D]
        } else if self.qk_norm.is_some() {
            let (q, k, v) = self.heads_of(&qkv, 0)?;
            q.attention(&k, &v, &spec)? // [B,T,H,D]
        } else {
            // Nothing between projection and scores but the rotation: it never leaves its packed form.
            let rope = self.rope_reaching(x.dims()[1])?;
            qkv.attention_packed(h, self.kv_heads, rope.as_ref(), None, &spec)? // [B,T,H,D]
        };
        let y = y.reshape([x.dims()[0], x.dims()[1], h * d])?; // [B,T,H·D]
        drop(part);
        let _part = profile::part("out");
        self.out.close_branch(&y, cx.residual.as_ref(), cx.dropout_at("branch"), cx.compute) // [B,T,C]
    }

    fn init_state(&self, batch: usize) -> KvCache {
        KvCache::new(batch, self.kv_heads, self.head_width, self.window)
    }
}

impl SoftmaxAttention {
    /// The new tokens against all that are kept: keys are kept as they were turned, so none is turned twice.
    fn attend_with_state(&self, qkv: &Tensor, state: &mut KvCache, mut spec: AttentionSpec) -> Result<Tensor> {
        if spec.docs.is_some() {
            return Err(Error::State { what: "packed documents cannot be continued".into() });
        }
        if self.mask == Mask::Full && !state.is_empty() {
            let what = "an encoder's tokens see those after them: give all at once".into();
            return Err(Error::State { what });
        }
        let (q, k, v) = self.heads_of(qkv, state.len())?;
        let (k, v) = state.append(&k, &v)?; // [B,S,Hk,D]
        spec.q_start = k.dims()[1] - q.dims()[1];
        Ok(q.attention(&k, &v, &spec)?) // [B,T,H,D]
    }

    /// Queries `[B,T,H,D]`, keys and values `[B,T,Hk,D]` of a packed projection, normalised and turned; the first
    /// token stands at position `start`.
    fn heads_of(&self, qkv: &Tensor, start: usize) -> Result<(Tensor, Tensor, Tensor)> {
        let (b, t, d) = (qkv.dims()[0], qkv.dims()[1], self.head_width);
        let part =
            |from: usize, n: usize| -> Result<Tensor> { Ok(qkv.narrow(2, from * d, n * d)?.reshape([b, t, n, d])?) };
        let (mut q, mut k) = match &self.qk_norm {
            Some((q_scale, k_scale)) if self.qk_norm_wide => {
                let whole = |from: usize, n: usize, scale: &Tensor| -> Result<Tensor> {
                    Ok(qkv.narrow(2, from * d, n * d)?.rms_norm(scale, self.eps)?.reshape([b, t, n, d])?)
                };
                (whole(0, self.heads, q_scale)?, whole(self.heads, self.kv_heads, k_scale)?) // [B,T,H,D], [B,T,Hk,D]
            }
            Some((q_scale, k_scale)) => {
                let q = part(0, self.heads)?.rms_norm(q_scale, self.eps)?; // [B,T,H,D]
                (q, part(self.heads, self.kv_heads)?.rms_norm(k_scale, self.eps)?) // [B,T,Hk,D]
            }
            None => (part(0, self.heads)?, part(self.heads, self.kv_heads)?), // [B,T,H,D], [B,T,Hk,D]
        };
        let v = part(self.heads + self.kv_heads, self.kv_heads)?; // [B,T,Hk,D]
        if let Some(rope) = self.rope_reaching(start + t)? {
            q = q.rope(&rope, start)?;
            k = k.rope(&rope, start)?;
        }
        Ok((q, k, v))
    }

    fn rope_reaching(&self, end: usize) -> Result<Option<Rope>> {
        self.rotary.as_ref().map(|r| r.reaching(end)).transpose()
    }
}

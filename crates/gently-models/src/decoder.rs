//! The whole model: embedding, blocks, last norm, head.
//!
//! Here: [`Decoder`] and its three uses: the loss of a batch (training), all logits (evaluation and checks), and
//! step by step with a state (generation). Not here: the inside of a block (see [`crate::block`]), files (see
//! [`crate::pretrained`]).
//!
//! ```
//! use gently_models::{Batch, Decoder, ForwardCx, config::*};
//! use gently_tensor::{Device, Rng};
//! # fn main() -> gently_models::Result<()> {
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
//! let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?;
//! let (ids, targets) = (model.ids(&[1, 2, 3, 4], 2)?, model.ids(&[2, 3, 4, 5], 2)?);
//! let batch = Batch { ids: &ids, targets: &targets, docs: None };
//! let loss = model.loss(&batch, 1.0 / 4.0, &ForwardCx::default())?;
//! let grads = loss.backward()?;
//! assert!(model.params().iter().all(|p| grads.get(&p.tensor).is_some()));
//! # Ok(()) }
//! ```

use crate::block::Block;
use crate::config::{DecoderConfig, NormPlace, Position};
use crate::error::{Error, Result};
use crate::flops::Cost;
use crate::init;
use crate::layers::{Dropout, Norm};
use crate::mixers::{AnyMixer, MixCtx, SoftmaxAttention};
use crate::params::{Builder, Param, ParamKind};
use crate::positions::{PositionTable, Rotary};
use crate::state::DecoderState;
use gently_tensor::{Compute, DType, Device, LinearArgs, Rng, Tensor, checkpoint, no_grad, profile};
use std::sync::Arc;

/// How a pass is run.
#[derive(Debug, Clone)]
pub struct ForwardCx {
    /// Whether dropout is on.
    pub training: bool,
    /// Arithmetic of matrix products: f32, or bf16 operands with f32 sums.
    pub compute: Compute,
    /// Where dropout masks come from: give each micro-batch of each step its own stream. Not advanced.
    pub rng: Rng,
    /// Keep only the input of each block for the backward pass and compute the rest again (Chen et al. 2016).
    pub recompute: bool,
}

impl Default for ForwardCx {
    /// Evaluation in f32.
    fn default() -> Self {
        Self { training: false, compute: Compute::F32, rng: Rng::new(0), recompute: false }
    }
}

/// Tokens to learn from.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `[B,T]` u32.
    pub ids: &'a Tensor,
    /// `[B,T]` u32: the token after each, or `u32::MAX` where nothing is to be learned.
    pub targets: &'a Tensor,
    /// `[B,T]` u32: document numbers; tokens see only their own document, whose first token is at position 0.
    pub docs: Option<&'a Tensor>,
}

/// Positions that are added to the embedding.
enum AddedPositions {
    None,
    /// `[context,C]`
    Learned(Tensor),
    Sinusoidal(PositionTable),
}

/// A decoder-only transformer.
pub struct Decoder {
    cfg: DecoderConfig,
    device: Device,
    /// `[V,C]`
    tokens: Tensor,
    positions: AddedPositions,
    embed_norm: Option<Norm>,
    blocks: Vec<Arc<Block>>,
    final_norm: Option<Norm>,
    /// `[V,C]`; the same tensor as `tokens` when tied.
    head: Tensor,
    params: Vec<Param>,
    other_mixers: bool,
}

impl Decoder {
    /// A model with fresh parameters in f32, drawn from `rng`'s stream `init`.
    ///
    /// # Errors
    /// [`Error::Config`] from the validation of `cfg`.
    pub fn new(cfg: &DecoderConfig, rng: &Rng, device: &Device) -> Result<Self> {
        Self::build(cfg, Builder::new(Some(rng), device))
    }

    /// A model whose parameters a [`Builder`] makes: other dtypes, or zeros to be filled from a file.
    ///
    /// # Errors
    /// [`Error::Config`] from the validation of `cfg`.
    pub fn build(cfg: &DecoderConfig, b: Builder) -> Result<Self> {
        cfg.validate()?;
        // One table of angles for all layers that have the same: usually one, with local layers two.
        let tables: Vec<Arc<Rotary>> = if cfg.position == Position::Rotary {
            let first = Rotary::of_layer(cfg, 0);
            let other =
                (0..cfg.layers).find(|&layer| !first.is_of(cfg, layer)).map(|layer| Rotary::of_layer(cfg, layer));
            [Some(first), other].into_iter().flatten().map(Arc::new).collect()
        } else {
            Vec::new()
        };
        let rotary = |layer: usize| match tables.as_slice() {
            [only] => Some(only.clone()),
            several => several.iter().find(|table| table.is_of(cfg, layer)).cloned(),
        };
        Self::assemble(cfg, b, false, |b, layer| {
            Ok(Box::new(SoftmaxAttention::of_layer(b, cfg, layer, rotary(layer))?))
        })
    }

    /// A model with other mixers: `mixer` makes the one of each layer under the builder's scope. What the mixers
    /// do with positions is theirs; learned and sinusoidal positions are added to the embedding here.
    ///
    /// No configuration says what such a model computes, whatever its mixers are: it is saved under our own names, its
    /// folder is read by [`Decoder::load_weights`] into a model made in the same way, and no engine lowers it.
    ///
    /// # Errors
    /// [`Error::Config`] from the validation of `cfg`; [`Error::NameTaken`].
    pub fn with_mixers(
        cfg: &DecoderConfig,
        b: Builder,
        mixer: impl Fn(&mut Builder, usize) -> Result<Box<dyn AnyMixer>>,
    ) -> Result<Self> {
        Self::assemble(cfg, b, true, mixer)
    }

    fn assemble(
        cfg: &DecoderConfig,
        mut b: Builder,
        other_mixers: bool,
        mixer: impl Fn(&mut Builder, usize) -> Result<Box<dyn AnyMixer>>,
    ) -> Result<Self> {
        cfg.validate()?;
        let (v, c) = (cfg.vocab, cfg.width);
        let device = b.device();
        let table = ParamKind::Embedding;
        let tokens = b.scope("embed").param("tokens", &[v, c], init::matrix(cfg), table)?;
        let positions = match cfg.position {
            Position::Learned => {
                AddedPositions::Learned(b.param("positions", &[cfg.context, c], init::matrix(cfg), table)?)
            }
            Position::Sinusoidal => {
                AddedPositions::Sinusoidal(PositionTable::sinusoids(cfg.context, c, b.params_dtype(), device))
            }
            Position::Rotary | Position::Alibi | Position::None => AddedPositions::None,
        };
        let embed_norm = if cfg.embed_norm { Some(Norm::new(b.scope("embed_norm"), cfg, c)?) } else { None };
        let blocks = (0..cfg.layers)
            .map(|i| Block::new(&mut b, cfg, &format!("blocks.{i}"), |b| mixer(b, i)).map(Arc::new))
            .collect::<Result<_>>()?;
        let final_norm = match cfg.norm_place {
            NormPlace::Post => None,
            NormPlace::Pre | NormPlace::Both | NormPlace::Out => Some(Norm::new(b.scope("final_norm"), cfg, c)?),
        };
        let head = match cfg.tied_head {
            true => tokens.clone(),
            false => b.scope("head").param("weight", &[v, c], init::matrix(cfg), table)?,
        };
        let cfg = cfg.clone();
        let params = b.into_params();
        Ok(Self { cfg, device, tokens, positions, embed_norm, blocks, final_norm, head, params, other_mixers })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.cfg
    }

    /// Whether it was made by [`Decoder::with_mixers`]: its configuration does not say what its mixers compute.
    pub fn has_other_mixers(&self) -> bool {
        self.other_mixers
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The parameters, in the order of the forward pass; a tied head is not listed twice.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Number of parameters; a tied head counts once.
    pub fn num_params(&self) -> usize {
        self.params.iter().map(|p| p.tensor.numel()).sum()
    }

    /// Floating-point operations of a training step per token, on average over sequences of `t` tokens. The convention is in
    /// [`crate::flops`].
    pub fn flops_per_token(&self, t: usize) -> f64 {
        Cost::of(&self.cfg).training_flops_per_token(t)
    }

    /// Token ids as a tensor `[batch, ids.len() / batch]` on the model's device.
    ///
    /// # Errors
    /// [`Error::Tokens`] if `batch` does not divide their number.
    pub fn ids(&self, ids: &[u32], batch: usize) -> Result<Tensor> {
        if batch == 0 || !ids.len().is_multiple_of(batch) {
            return Err(Error::Tokens { what: format!("{} tokens do not make {batch} equal rows", ids.len()) });
        }
        Ok(Tensor::from_slice(ids, [batch, ids.len() / batch], &self.device)?)
    }

    /// The cross entropy of the targets, summed over those that count and multiplied by `scale` (give one over
    /// their number to get the mean). The logits of a whole batch never exist.
    ///
    /// # Errors
    /// [`Error::Tokens`] for shapes that do not fit the model; and ids outside the vocabulary.
    pub fn loss(&self, batch: &Batch, scale: f64, cx: &ForwardCx) -> Result<Tensor> {
        if batch.targets.dims() != batch.ids.dims() {
            let (ids, targets) = (batch.ids.dims(), batch.targets.dims());
            return Err(Error::Tokens { what: format!("tokens {ids:?} were given with targets {targets:?}") });
        }
        let x = self.hidden(batch.ids, batch.docs, None, cx)?; // [B,T,C]
        let n = batch.ids.numel();
        let x = x.reshape([n, self.cfg.width])?; // [N,C]
        let targets = batch.targets.reshape([n])?; // [N]
        let _part = profile::part("head");
        Ok(x.linear_cross_entropy(&self.head, &targets, scale, self.cfg.logit_softcap, cx.compute)?)
    }

    /// The logits of every position, `[B,T]` to `[B,T,V]`.
    ///
    /// # Errors
    /// As [`Decoder::loss`].
    pub fn logits(&self, ids: &Tensor, cx: &ForwardCx) -> Result<Tensor> {
        self.head(&self.hidden(ids, None, None, cx)?, cx.compute)
    }

    /// What goes into the head, `[B,T]` ids to `[B,T,C]`: an encoder's answer. `docs` as in [`Batch::docs`].
    ///
    /// # Errors
    /// As [`Decoder::loss`].
    pub fn features(&self, ids: &Tensor, docs: Option<&Tensor>, cx: &ForwardCx) -> Result<Tensor> {
        self.hidden(ids, docs, None, cx)
    }

    /// The state before the first token.
    pub fn init_state(&self, batch: usize) -> DecoderState {
        DecoderState::new(batch, self.blocks.iter().map(|b| b.init_state(batch)).collect())
    }

    /// Reads `[B,T]` more tokens and gives the logits of the last one, `[B,V]`. A prompt may come at once or in
    /// pieces. Nothing is recorded for gradients.
    ///
    /// # Errors
    /// [`Error::Tokens`] past the context; [`Error::State`] for another batch. After an error inside a layer
    /// the state refuses further use; the errors named here leave it as it was.
    pub fn step(&self, ids: &Tensor, state: &mut DecoderState) -> Result<Tensor> {
        self.step_with(ids, state, &ForwardCx::default())
    }

    /// As [`Decoder::step`] with another arithmetic.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub fn step_with(&self, ids: &Tensor, state: &mut DecoderState, cx: &ForwardCx) -> Result<Tensor> {
        let (b, t) = self.check_ids(ids)?;
        no_grad(|| {
            let x = self.hidden(ids, None, Some(state), cx)?; // [B,T,C]
            let last = x.narrow(1, t - 1, 1)?.reshape([b, self.cfg.width])?; // [B,C]
            self.head(&last, cx.compute) // [B,V]
        })
    }

    /// As [`Decoder::step_with`], with the logits of every new token, `[B,T,V]`.
    ///
    /// # Errors
    /// As [`Decoder::step`].
    pub fn extend(&self, ids: &Tensor, state: &mut DecoderState, cx: &ForwardCx) -> Result<Tensor> {
        no_grad(|| self.head(&self.hidden(ids, None, Some(state), cx)?, cx.compute))
    }

    /// What goes into the head: `[B,T]` ids to `[B,T,C]`.
    fn hidden(
        &self,
        ids: &Tensor,
        docs: Option<&Tensor>,
        state: Option<&mut DecoderState>,
        cx: &ForwardCx,
    ) -> Result<Tensor> {
        let (batch, t) = self.check_ids(ids)?;
        let start = state.as_ref().map_or(0, |s| s.len);
        self.check_room(batch, start, t, state.as_deref())?;

        let part = profile::part("embed");
        let mut x = self.embed(ids, docs, start)?; // [B,T,C]
        if let Some(norm) = &self.embed_norm {
            x = norm.apply(&x)?;
        }
        if let Some(dropout) = self.dropout_at("embed", cx) {
            x = dropout.apply(&x)?;
        }
        drop(part);
        let layer_cx = |i: usize, keep: bool| MixCtx {
            keep,
            compute: cx.compute,
            dropout: self.dropout_at(&format!("blocks.{i}"), cx),
            docs: docs.cloned(),
            residual: None,
        };
        match state {
            // An error half way leaves some layers ahead of others: such a state refuses to be used again.
            Some(state) => {
                state.broken = true;
                for (i, (block, state)) in self.blocks.iter().zip(&mut state.layers).enumerate() {
                    let _part = profile::part(format_args!("blocks.{i}"));
                    x = block.forward(&x, state, &layer_cx(i, true))?; // [B,T,C]
                }
                state.broken = false;
                state.len += t;
            }
            None => {
                for (i, block) in self.blocks.iter().enumerate() {
                    let _part = profile::part(format_args!("blocks.{i}"));
                    x = run_block(block, &x, batch, layer_cx(i, false), cx.recompute)?; // [B,T,C]
                }
            }
        }
        let _part = profile::part("final_norm");
        match &self.final_norm {
            Some(norm) => norm.apply(&x),
            None => Ok(x),
        }
    }

    /// The dropout of the place called `name`, in training.
    fn dropout_at(&self, name: &str, cx: &ForwardCx) -> Option<Dropout> {
        let on = cx.training && self.cfg.dropout > 0.0;
        on.then(|| Dropout { p: self.cfg.dropout, stream: cx.rng.stream(name) })
    }

    /// Rows of the token table, plus rows of the position table where there is one: `[B,T]` to `[B,T,C]`.
    fn embed(&self, ids: &Tensor, docs: Option<&Tensor>, start: usize) -> Result<Tensor> {
        let tokens = || -> Result<Tensor> {
            let x = self.tokens.embedding(ids)?; // [B,T,C]
            Ok(match self.cfg.embed_scale {
                Some(scale) => x.affine(scale, 0.0)?,
                None => x,
            })
        };
        let table = match &self.positions {
            AddedPositions::None => return tokens(),         // [B,T,C]
            AddedPositions::Learned(table) => table.clone(), // [context,C]
            AddedPositions::Sinusoidal(table) => table.reaching(start + ids.dims()[1])?, // [at least T,C]
        };
        Ok(match docs {
            None if self.cfg.embed_scale.is_none() => {
                self.tokens.embedding_with_positions(ids, &table, start)? // [B,T,C]
            }
            None => tokens()?.add(&table.narrow(0, start, ids.dims()[1])?)?, // [B,T,C]
            Some(docs) => tokens()?.add(&table.embedding(&positions_in_docs(docs)?)?)?, // [B,T,C]
        })
    }

    /// `[…,C]` to logits `[…,V]`.
    fn head(&self, x: &Tensor, compute: Compute) -> Result<Tensor> {
        let _part = profile::part("head");
        let logits = x.linear(&LinearArgs::new(&self.head).compute(compute))?;
        Ok(match self.cfg.logit_softcap {
            Some(cap) => logits.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)?,
            None => logits,
        })
    }

    fn check_ids(&self, ids: &Tensor) -> Result<(usize, usize)> {
        match *ids.dims() {
            [b, t] if b > 0 && t > 0 => Ok((b, t)),
            ref other => Err(Error::Tokens { what: format!("token ids must be [B,T] and not empty, got {other:?}") }),
        }
    }

    fn check_room(&self, batch: usize, start: usize, t: usize, state: Option<&DecoderState>) -> Result<()> {
        if let Some(state) = state {
            if state.batch != batch {
                let what = format!("it was made for a batch of {}, not of {batch}", state.batch);
                return Err(Error::State { what });
            }
            if state.broken || state.layers.len() != self.blocks.len() {
                let what = "it belongs to another model, or an earlier step failed half way".into();
                return Err(Error::State { what });
            }
        }
        let bounded = !matches!(self.cfg.position, Position::Alibi | Position::None);
        if bounded && start + t > self.cfg.context {
            let what = format!("{} tokens do not fit into a context of {}", start + t, self.cfg.context);
            return Err(Error::Tokens { what });
        }
        Ok(())
    }
}

/// One block without a kept state; with `recompute` only its input is kept for the backward pass.
fn run_block(block: &Arc<Block>, x: &Tensor, batch: usize, cx: MixCtx, recompute: bool) -> Result<Tensor> {
    if !recompute {
        return block.forward(x, &mut block.init_state(batch), &cx);
    }
    let block = block.clone();
    // Dropout streams are fixed for the pass, so the second run needs no help to draw the same masks.
    Ok(checkpoint(&[x], &mut Rng::new(0), move |xs, _| {
        block.forward(&xs[0], &mut block.init_state(batch), &cx).map_err(|e| match e {
            Error::Tensor(e) => e,
            _ => gently_tensor::Error::BadArgument {
                op: "checkpoint",
                name: "block",
                value: f64::NAN,
                why: "its mixer failed; run without recomputation to see how",
            },
        })
    })?)
}

/// The place of each token in its own document: `[B,T]` u32 to `[B,T]` u32.
fn positions_in_docs(docs: &Tensor) -> Result<Tensor> {
    if docs.device() == Device::Meta {
        return Ok(Tensor::zeros(docs.dims(), DType::U32, &Device::Meta)?);
    }
    let t = docs.dims().last().copied().unwrap_or(1).max(1);
    let places: Vec<u32> = docs.with_data::<u32, _>(|docs| {
        let mut places = Vec::with_capacity(docs.len());
        for row in docs.chunks(t) {
            let mut start = 0;
            for (i, doc) in row.iter().enumerate() {
                if i > 0 && row[i - 1] != *doc {
                    start = i;
                }
                places.push((i - start) as u32);
            }
        }
        places
    })?;
    Ok(Tensor::from_slice(&places, docs.dims(), &docs.device())?)
}

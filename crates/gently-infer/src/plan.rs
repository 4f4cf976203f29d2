//! A model lowered once into fused steps over packed weights and kept memory.
//!
//! Here: [`Plan`] and its one pass, of which a prompt (many tokens of a sequence), decoding (one token each of some
//! sequences) and verifying a draft (a few tokens, all logits) are shapes. Not here: which sequences go into a pass
//! (see [`crate::Scheduler`]).
//!
//! A layer is five products and attention; everything else happens inside them or is too small to be shared among
//! threads: queries, keys and values are one product, gate and up are one with SwiGLU at its end, and the residual is
//! added where a branch's product is written.
//!
//! ```
//! use gently_infer::{Piece, Plan, PlanOptions, Wanted, Work};
//! use gently_models::{Decoder, DecoderConfig};
//! # use gently_tensor::{Device, Rng};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::named("gpt2")? };
//! let plan = Plan::new(&Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?, PlanOptions::default())?;
//! let (mut work, mut state) = (Work::new(), plan.state());
//! let logits = plan.read(&mut work, &mut state, &[1, 2, 3])?;
//! assert_eq!(logits.len(), 16);
//! # Ok(()) }
//! ```

use crate::error::{Error, Result};
use crate::matrix::{Finish, Inputs, Matrix};
use crate::positions::{Positions, sinusoids};
use crate::state::State;
use crate::weights::{Layer, Norm, Up, Weights};
use crate::work::{Buffer, Stream, Work};
use gently_kernels::attention::HeadViewMut;
use gently_kernels::kv::{Attend, Elem, PAGE, Page, PageShape, Rows, Span, Spec};
use gently_kernels::rope::{Positions as At, RopeStyle, RopeTable, rotate};
use gently_kernels::{activation, norm, pool};
use gently_models::Decoder;
use gently_models::config::{DecoderConfig, NormPlace, Position};
use gently_models::weights::WeightSource;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Choices made when a model is lowered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    /// What keys and values are kept as. The default is f32, which gives the numbers of the model itself.
    pub cache: Elem,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { cache: Elem::F32 }
    }
}

/// Which logits of a piece are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: more of the prompt comes.
    None,
    /// Those after its last token.
    Last,
    /// Those after each of its tokens: to verify a draft, or to score a text.
    All,
}

/// New tokens of one sequence in a pass.
pub struct Piece<'a> {
    /// What the sequence has read; moves on by the tokens.
    pub state: &'a mut State,
    /// One or more tokens.
    pub tokens: &'a [u32],
    /// Which logits to compute.
    pub wanted: Wanted,
}

/// A model ready to run. Shared by all that run it; a pass borrows it.
pub struct Plan {
    weights: Weights,
    shape: PageShape,
    positions: Positions,
}

impl Plan {
    /// Lowers a model.
    ///
    /// # Errors
    /// [`Error::Lowering`] for a model with parts that are not the decoder block's, such as mixers from elsewhere.
    pub fn new(model: &Decoder, options: PlanOptions) -> Result<Self> {
        Ok(Self::of(Weights::of_decoder(model)?, options))
    }

    /// Lowers the weights of a published model as they are stored: quantized ones stay as they are.
    ///
    /// # Errors
    /// [`Error::Lowering`] as [`Plan::new`], and for types of blocks that rows do not fit; [`Error::Model`] for weights
    /// that cannot be read.
    pub fn of_files(source: &WeightSource, options: PlanOptions) -> Result<Self> {
        Ok(Self::of(Weights::of_files(source)?, options))
    }

    fn of(weights: Weights, options: PlanOptions) -> Self {
        let cfg = &weights.cfg;
        let shape =
            PageShape { layers: cfg.layers, kv_heads: cfg.kv_heads(), d: cfg.head_width(), elem: options.cache };
        let positions = Positions::of(cfg);
        Self { weights, shape, positions }
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.weights.cfg
    }

    /// The state before the first token.
    pub fn state(&self) -> State {
        State::new(self.shape, self.weights.identity)
    }

    /// The longest sequence; `None` where positions have no end.
    pub fn room(&self) -> Option<usize> {
        let endless = matches!(self.config().position, Position::Alibi | Position::None);
        (!endless).then_some(self.config().context)
    }

    /// Bytes of weights that a pass reads, whatever its number of rows.
    pub fn weight_bytes(&self) -> usize {
        self.weights.bytes_per_pass()
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// Bytes of matrices by the name of the type they are stored in.
    pub fn weight_types(&self) -> BTreeMap<&'static str, usize> {
        self.weights.types()
    }

    /// Bytes of keys and values that a token adds, and that each later token reads.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.shape.bytes() / PAGE
    }

    /// Reads more tokens of one sequence and gives the logits after the last, `[V]`.
    ///
    /// # Errors
    /// As [`Plan::forward`].
    pub fn read<'w>(&self, work: &'w mut Work, state: &mut State, tokens: &[u32]) -> Result<&'w [f32]> {
        let mut pieces = [Piece { state, tokens, wanted: Wanted::Last }];
        Ok(self.forward(work, &mut pieces, &|| true)?.unwrap_or(&[]))
    }

    /// One pass: reads the tokens of all pieces and gives the wanted logits in order, `[R, V]`. `going` is asked before
    /// each layer; when it says no, the pass ends without logits, and the states are as they were.
    ///
    /// The logits of a piece have the same bits whatever else is in the pass and however a sequence is cut into pieces.
    ///
    /// # Errors
    /// [`Error::Tokens`] for an empty piece, a token outside the vocabulary, or one beyond the context;
    /// [`Error::State`] for a state of another plan. Then the states are as they were.
    pub fn forward<'w>(
        &self,
        work: &'w mut Work,
        pieces: &mut [Piece<'_>],
        going: &dyn Fn() -> bool,
    ) -> Result<Option<&'w [f32]>> {
        self.check(pieces)?;
        let cfg = self.config();
        let n: usize = pieces.iter().map(|p| p.tokens.len()).sum();
        let spans = spans(pieces);
        work.at.clear();
        work.at.extend(spans.iter().flat_map(|s| (s.start..s.start + s.rows).map(|t| t as u32)));
        for piece in pieces.iter_mut() {
            piece.state.reserve(piece.tokens.len());
        }
        let end = spans.iter().map(|s| s.start + s.rows).max().unwrap_or(0);
        let (slopes, tables) = match &self.positions {
            Positions::Alibi(slopes) => (Some(&slopes[..]), Vec::new()),
            Positions::Rotary(rotary) => (None, rotary.reaching(end, cfg.context)),
            _ => (None, Vec::new()),
        };
        let attend = |window: Option<usize>| {
            let spec = Spec {
                heads: cfg.heads,
                scale: cfg.attention_scale() as f32,
                window,
                alibi: slopes,
                softcap: cfg.attention_softcap.map(|c| c as f32),
            };
            Attend::new(spec, self.shape, &spans)
        };
        // Layers with a window and those without are cut differently.
        let mut wide = attend(None);
        let mut narrow = cfg.window.map(|w| attend(Some(w)));

        self.embed(work, pieces, end);
        for (i, layer) in self.weights.layers.iter().enumerate() {
            if !going() {
                return Ok(None);
            }
            if cfg.parallel {
                // Both branches read x as it is now.
                let Stream { x, y, mean, rstd, .. } = &mut work.stream;
                normalise(&layer.mlp_norm, x.take(n * cfg.width), y.take(n * cfg.width), mean, rstd);
            }
            let rope = match &self.positions {
                Positions::Rotary(rotary) => Some(&*tables[rotary.of_layer(i)]),
                _ => None,
            };
            let attend = match (cfg.window_of(i), &mut narrow) {
                (Some(_), Some(narrow)) => narrow,
                _ => &mut wide,
            };
            self.mix(layer, i, work, n, pieces, &spans, rope, attend);
            self.transform(layer, work, n);
        }
        for piece in pieces.iter_mut() {
            piece.state.advance(piece.tokens);
        }
        Ok(Some(self.head(work, pieces)))
    }

    fn check(&self, pieces: &[Piece<'_>]) -> Result<()> {
        let vocab = self.config().vocab;
        for piece in pieces {
            if piece.tokens.is_empty() {
                return Err(Error::Tokens { what: "a piece has no tokens".into() });
            }
            if let Some(id) = piece.tokens.iter().find(|id| **id as usize >= vocab) {
                return Err(Error::Tokens { what: format!("token {id} is outside the vocabulary of {vocab}") });
            }
            if !piece.state.belongs(self.shape, self.weights.identity) {
                return Err(Error::State { what: "it belongs to another model, or has another cache type".into() });
            }
            let end = piece.state.len() + piece.tokens.len();
            if end > self.room().unwrap_or(1 << 24) {
                let room = self.room().unwrap_or(1 << 24);
                return Err(Error::Tokens { what: format!("{end} tokens do not fit into a context of {room}") });
            }
        }
        Ok(())
    }

    /// Token ids to `x` `[N, C]`.
    fn embed(&self, work: &mut Work, pieces: &[Piece<'_>], end: usize) {
        let c = self.config().width;
        let n = work.at.len();
        let x = work.stream.x.take(n * c);
        let ids = pieces.iter().flat_map(|p| p.tokens);
        for (row, id) in x.chunks_exact_mut(c).zip(ids) {
            self.weights.tokens.row(*id as usize, row);
        }
        if let Some(scale) = self.config().embed_scale {
            x.iter_mut().for_each(|v| *v *= scale as f32);
        }
        let table;
        let added = match (&self.weights.positions, &self.positions) {
            (Some(learned), _) => &learned[..],
            (None, Positions::Sinusoidal(rows)) => {
                table = rows.reaching(end, self.config().context, |rows| sinusoids(rows, c));
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
            normalise(norm, x.take(n * c), h.take(n * c), mean, rstd);
            std::mem::swap(x, h);
        }
    }

    /// The branch that mixes tokens: `x` to `x`, both `[N, C]`.
    #[allow(clippy::too_many_arguments)]
    fn mix(
        &self,
        layer: &Layer,
        index: usize,
        work: &mut Work,
        n: usize,
        pieces: &mut [Piece<'_>],
        spans: &[Span],
        rope: Option<&RopeTable>,
        attend: &mut Attend<'_>,
    ) {
        let cfg = self.config();
        let (heads, kv_heads, d, width) = (cfg.heads, cfg.kv_heads(), cfg.head_width(), cfg.qkv_width());
        let qkv = work.qkv.take(n * width);
        let x = work.stream.x.take(n * cfg.width);
        if reads_as_is(cfg.norm_place) {
            layer.qkv.product(&mut work.inputs, x, qkv, Finish::default());
        } else {
            let h = work.stream.h.take(n * cfg.width);
            normalise(&layer.mixer_norm, x, h, &mut work.stream.mean, &mut work.stream.rstd);
            layer.qkv.product(&mut work.inputs, h, qkv, Finish::default());
        }
        if let Some((q_norm, k_norm)) = &layer.qk_norm {
            for (part, from, count) in [(q_norm, 0, heads), (k_norm, heads, kv_heads)] {
                let (raw, normed) = (work.heads.take(n * count * d), work.heads_normed.take(n * count * d));
                for (to, row) in raw.chunks_exact_mut(count * d).zip(qkv.chunks_exact(width)) {
                    to.copy_from_slice(&row[from * d..][..count * d]);
                }
                normalise(part, raw, normed, &mut work.stream.mean, &mut work.stream.rstd);
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
        for (piece, span) in pieces.iter_mut().zip(spans) {
            let data = &qkv[span.first_row * width..][..span.rows * width];
            remember(
                piece.state,
                index,
                Rows { data, stride: width, k: heads * d, v: (heads + kv_heads) * d, count: span.rows },
            );
        }
        let mixed = work.mixed.take(n * heads * d);
        let pages: Vec<&[Arc<Page>]> = pieces.iter().map(|p| p.state.pages()).collect();
        attend.run(index, &pages, qkv, width, mixed);
        let norms = (cfg.norm_place, &layer.mixer_norm, layer.mixer_out_norm.as_ref());
        close_branch(&layer.out, mixed, norms, &mut work.stream, &mut work.inputs, n * cfg.width);
    }

    /// The branch of each token on its own: `x` to `x`, both `[N, C]`.
    fn transform(&self, layer: &Layer, work: &mut Work, n: usize) {
        let cfg = self.config();
        let len = n * cfg.width;
        let Stream { x, h, y, mean, rstd } = &mut work.stream;
        let input: &[f32] = if cfg.parallel {
            y.take(len)
        } else if reads_as_is(cfg.norm_place) {
            x.take(len)
        } else {
            normalise(&layer.mlp_norm, x.take(len), h.take(len), mean, rstd);
            h.take(len)
        };
        let hidden = work.hidden.take(n * cfg.mlp_width());
        let finish = Finish { activation: layer.activation, add: false };
        match &layer.up {
            Up::One(w) => w.product(&mut work.inputs, input, hidden, finish),
            Up::Two(gate, up) => {
                let raw = work.up.take(hidden.len());
                gate.product(&mut work.inputs, input, raw, Finish::default());
                activation::forward(layer.activation, raw, hidden);
                up.product(&mut work.inputs, input, raw, Finish::default());
                hidden.iter_mut().zip(&*raw).for_each(|(h, u)| *h *= u);
            }
        }
        let norms = (cfg.norm_place, &layer.mlp_norm, layer.mlp_out_norm.as_ref());
        close_branch(&layer.down, hidden, norms, &mut work.stream, &mut work.inputs, len);
    }

    /// The logits wanted, `[R, V]`.
    fn head<'w>(&self, work: &'w mut Work, pieces: &[Piece<'_>]) -> &'w [f32] {
        let (c, v) = (self.config().width, self.config().vocab);
        let n = work.at.len();
        // Wanted rows move to the front of h.
        let (x, h) = (work.stream.x.take(n * c), work.stream.h.take(n * c));
        let (mut row, mut wanted) = (0, 0);
        for piece in pieces {
            let t = piece.tokens.len();
            let from = match piece.wanted {
                Wanted::None => t,
                Wanted::Last => t - 1,
                Wanted::All => 0,
            };
            h[wanted * c..][..(t - from) * c].copy_from_slice(&x[(row + from) * c..][..(t - from) * c]);
            row += t;
            wanted += t - from;
        }
        let logits = work.logits.take(wanted * v);
        let rows = work.features.take(wanted * c);
        work.features_len = wanted * c;
        if wanted == 0 {
            return logits;
        }
        match &self.weights.final_norm {
            Some(norm) => {
                normalise(norm, &h[..wanted * c], rows, &mut work.stream.mean, &mut work.stream.rstd);
            }
            None => rows.copy_from_slice(&h[..wanted * c]),
        }
        self.weights.head().product(&mut work.inputs, rows, logits, Finish::default());
        if let Some(cap) = self.config().logit_softcap {
            let cap = cap as f32;
            pool::parallel_chunks_mut(logits, 4096, |_, part| {
                part.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
            });
        }
        logits
    }
}

/// Rows of each piece in the pass.
fn spans(pieces: &[Piece<'_>]) -> Vec<Span> {
    let mut first_row = 0;
    let span = |p: &Piece<'_>| {
        let span = Span { first_row, rows: p.tokens.len(), start: p.state.len() };
        first_row += span.rows;
        span
    };
    pieces.iter().map(span).collect()
}

/// Writes keys and values of new tokens into the state's pages, a page a task.
fn remember(state: &mut State, layer: usize, rows: Rows<'_>) {
    let (pages, place) = state.reserve(rows.count);
    pool::parallel_chunks_mut(pages, 1, |i, page| {
        // Tokens of page i: those from `first` on, of which the page has room for some.
        let first = (i * PAGE).saturating_sub(place);
        let slot = if i == 0 { place } else { 0 };
        let count = (PAGE - slot).min(rows.count - first.min(rows.count));
        if let Some(page) = page.first_mut().and_then(Arc::get_mut) {
            page.write(layer, slot, Rows { data: &rows.data[first * rows.stride..], count, ..rows });
        }
    });
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
) {
    let Stream { x, h, y, mean, rstd } = stream;
    let after = match (place, out_norm) {
        // x + norm(f(norm(x)))
        (_, Some(out_norm)) => Some(out_norm),
        // x + norm(f(x))
        (NormPlace::Out, None) => Some(norm),
        _ => None,
    };
    if let Some(after) = after {
        let (x, h, y) = (x.take(len), h.take(len), y.take(len));
        w.product(inputs, from, y, Finish::default());
        normalise(after, y, h, mean, rstd);
        return add(x, h);
    }
    // x + f(norm(x)), or norm(x + f(x))
    w.product(inputs, from, x.take(len), Finish { add: true, ..Finish::default() });
    if place == NormPlace::Post {
        normalise(norm, x.take(len), h.take(len), mean, rstd);
        std::mem::swap(x, h);
    }
}

fn normalise(n: &Norm, x: &[f32], y: &mut [f32], mean: &mut Buffer, rstd: &mut Buffer) {
    let rows = x.len() / n.weight.len().max(1);
    norm::forward(&n.view(), x, None, y, mean.take(rows), rstd.take(rows));
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

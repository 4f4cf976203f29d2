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

use crate::error::{Error, Result, check_tokens, no_memory};
use crate::matrix::Finish;
use crate::pass::{Lowered, normalise};
use crate::state::State;
use crate::weights::Weights;
use crate::work::{ROWS, Work};
use gently_kernels::kv::{Attend, Elem, PAGE, Page, PageShape, Rows, Span, Spec};
use gently_kernels::{pool, softcap};
use gently_models::Decoder;
use gently_models::config::DecoderConfig;
use gently_models::weights::WeightSource;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens read in one pass where many come: a bound on its memory.
pub(crate) const CHUNK: usize = 256;

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
    lowered: Lowered,
    shape: PageShape,
}

impl Plan {
    /// Lowers a model.
    ///
    /// # Errors
    /// [`Error::Lowering`] for a model with parts that are not the decoder block's, such as mixers from elsewhere;
    /// [`Error::NoMemory`] for its weights.
    pub fn new(model: &Decoder, options: PlanOptions) -> Result<Self> {
        Self::of(Weights::of_decoder(model)?, options)
    }

    /// Lowers the weights of a published model as they are stored: quantized ones stay as they are.
    ///
    /// # Errors
    /// [`Error::Lowering`] as [`Plan::new`], and for types of blocks that rows do not fit; [`Error::NoMemory`] for the weights;
    /// [`Error::Model`] for those that cannot be read, or are without the head.
    pub fn of_files(source: &WeightSource, options: PlanOptions) -> Result<Self> {
        source.check_head()?;
        let plan = Weights::of_files(source).and_then(|weights| Self::of(weights, options));
        plan.map_err(|e| e.of_file(source.path()))
    }

    fn of(weights: Weights, options: PlanOptions) -> Result<Self> {
        let cfg = &weights.cfg;
        if cfg.bidirectional {
            let what = "it is an encoder, whose tokens see those after them: it embeds texts and writes none";
            return Err(Error::Lowering { what: what.into() });
        }
        let shape =
            PageShape { layers: cfg.layers, kv_heads: cfg.kv_heads(), d: cfg.head_width(), elem: options.cache };
        Ok(Self { lowered: Lowered::new(weights), shape })
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        self.lowered.config()
    }

    /// The state before the first token.
    pub fn state(&self) -> State {
        State::new(self.shape, self.lowered.weights.identity)
    }

    /// The longest sequence; `None` where positions have no end: of those 2²⁴ are counted.
    pub fn room(&self) -> Option<usize> {
        self.lowered.room()
    }

    /// The most tokens that a sequence may have, also where positions have no end.
    pub fn most(&self) -> usize {
        self.lowered.most()
    }

    /// Bytes of weights that a pass reads, whatever its number of rows.
    pub fn weight_bytes(&self) -> usize {
        self.lowered.weights.bytes_per_pass()
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.lowered.weights.bytes()
    }

    /// Bytes of matrices by the name of the type they are stored in.
    pub fn weight_types(&self) -> BTreeMap<&'static str, usize> {
        self.lowered.weights.types()
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

    /// Reads more tokens of one sequence, in passes of at most 256, where nothing is chosen after them: without logits.
    ///
    /// # Errors
    /// As [`Plan::forward`]; what was read before the pass that failed stays read.
    pub fn prefill(&self, work: &mut Work, state: &mut State, tokens: &[u32]) -> Result<()> {
        for tokens in tokens.chunks(CHUNK) {
            self.forward(work, &mut [Piece { state: &mut *state, tokens, wanted: Wanted::None }], &|| true)?;
        }
        Ok(())
    }

    /// One pass: reads the tokens of all pieces and gives the wanted logits in order, `[R, V]`. `going` is asked before
    /// each layer; when it says no, the pass ends without logits, and the states are as they were.
    ///
    /// The logits of a piece have the same bits whatever else is in the pass and however a sequence is cut into pieces.
    ///
    /// # Errors
    /// [`Error::Tokens`] for an empty piece or a token outside the vocabulary; [`Error::TooLong`] for one beyond the context;
    /// [`Error::State`] for a state of another plan; [`Error::NoMemory`]. Then the states are as they were.
    pub fn forward<'w>(
        &self,
        work: &'w mut Work,
        pieces: &mut [Piece<'_>],
        going: &dyn Fn() -> bool,
    ) -> Result<Option<&'w [f32]>> {
        let passed = self.pass(work, pieces, going);
        for piece in pieces {
            match passed {
                Ok(Some(_)) => piece.state.advance(piece.tokens),
                _ => piece.state.release(),
            }
        }
        passed
    }

    /// Makes a piece ready for a pass: its tokens can be read, and there are pages for their keys and values. What is not read
    /// after all gives them back with [`State::release`]; [`Plan::forward`] does.
    ///
    /// # Errors
    /// As [`Plan::forward`], of this piece alone.
    pub(crate) fn ready(&self, piece: &mut Piece<'_>) -> Result<()> {
        self.check(piece)?;
        piece.state.reserve(piece.tokens.len())
    }

    /// Computes the logits, with keys and values written into the pages of states that do not move on yet.
    fn pass<'w>(
        &self,
        work: &'w mut Work,
        pieces: &mut [Piece<'_>],
        going: &dyn Fn() -> bool,
    ) -> Result<Option<&'w [f32]>> {
        pieces.iter_mut().try_for_each(|piece| self.ready(piece))?;
        let cfg = self.config();
        let n: usize = pieces.iter().map(|p| p.tokens.len()).sum();
        let spans = spans(pieces);
        work.at.clear();
        work.at.extend(spans.iter().flat_map(|s| (s.start..s.start + s.rows).map(|t| t as u32)));
        let end = spans.iter().map(|s| s.start + s.rows).max().unwrap_or(0);
        let tables = self.lowered.tables(end)?;
        let attend = |window: Option<usize>| {
            let spec = Spec {
                heads: cfg.heads,
                scale: cfg.attention_scale() as f32,
                window,
                alibi: self.lowered.slopes(),
                softcap: cfg.attention_softcap.map(|c| c as f32),
            };
            Attend::try_new(spec, self.shape, &spans).map_err(no_memory(ROWS))
        };
        // Layers with a window and those without are cut differently.
        let mut wide = attend(None)?;
        let mut narrow = cfg.window.map(|w| attend(Some(w))).transpose()?;

        self.lowered.embed(work, pieces.iter().flat_map(|p| p.tokens).copied(), end)?;
        let (heads, d, width) = (cfg.heads, cfg.head_width(), cfg.qkv_width());
        let (k, v) = (heads * d, (heads + cfg.kv_heads()) * d);
        for (i, layer) in self.lowered.weights.layers.iter().enumerate() {
            if !going() {
                return Ok(None);
            }
            self.lowered.fork(layer, work, n)?;
            let attend = match (cfg.window_of(i), &mut narrow) {
                (Some(_), Some(narrow)) => narrow,
                _ => &mut wide,
            };
            self.lowered.mix(layer, work, n, self.lowered.table(i, &tables), |qkv, mixed| {
                for (piece, span) in pieces.iter_mut().zip(&spans) {
                    let data = &qkv[span.first_row * width..][..span.rows * width];
                    remember(piece.state, i, Rows { data, stride: width, k, v, count: span.rows });
                }
                let pages: Vec<&[Arc<Page>]> = pieces.iter().map(|p| p.state.pages()).collect();
                attend.run(i, &pages, qkv, width, mixed);
                Ok(())
            })?;
            self.lowered.transform(layer, work, n)?;
        }
        self.head(work, pieces).map(Some)
    }

    fn check(&self, piece: &Piece<'_>) -> Result<()> {
        let room = self.most();
        check_tokens("a piece", self.config().vocab, piece.tokens)?;
        self.own(piece.state)?;
        let end = piece.state.len() + piece.tokens.len();
        match end > room {
            true => Err(Error::TooLong { tokens: end, room }),
            false => Ok(()),
        }
    }

    /// Whether a state is of this plan.
    pub(crate) fn owns(&self, state: &State) -> bool {
        state.belongs(self.shape, self.lowered.weights.identity)
    }

    /// Refuses a state of another plan.
    pub(crate) fn own(&self, state: &State) -> Result<()> {
        match self.owns(state) {
            true => Ok(()),
            false => Err(Error::State { what: "it belongs to another model, or has another cache type".into() }),
        }
    }

    /// The logits wanted, `[R, V]`.
    fn head<'w>(&self, work: &'w mut Work, pieces: &[Piece<'_>]) -> Result<&'w [f32]> {
        let (c, v) = (self.config().width, self.config().vocab);
        let n = work.at.len();
        // Wanted rows move to the front of h.
        let (x, h) = (work.stream.x.take(n * c)?, work.stream.h.take(n * c)?);
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
        let logits = work.logits.take(wanted * v)?;
        let rows = work.features.take(wanted * c)?;
        work.features_len = wanted * c;
        if wanted == 0 {
            return Ok(logits);
        }
        match &self.lowered.weights.final_norm {
            Some(norm) => {
                normalise(norm, &h[..wanted * c], rows, &mut work.stream.mean, &mut work.stream.rstd)?;
            }
            None => rows.copy_from_slice(&h[..wanted * c]),
        }
        self.lowered.weights.head().product(&mut work.inputs, rows, logits, Finish::default())?;
        if let Some(cap) = self.config().logit_softcap {
            softcap::apply(cap as f32, logits);
        }
        Ok(logits)
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
    let (pages, place) = state.reserved(rows.count);
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

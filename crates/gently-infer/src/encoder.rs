//! Whole documents in, a row for each of their tokens out.
//!
//! Here: [`Encoder`], the pass of models that read and do not write: all tokens of many documents at once, with nothing kept.
//! Encoders (BERT) see a whole document from each token; decoders, which some embedders are, what their mask leaves.
//! Not here: what becomes of the rows (a mean, the first one), which a model's own files say.
//!
//! Documents of different lengths lie one after another, without padding: what a pass costs is the sum of their tokens.
//!
//! ```
//! use gently_infer::{Encoder, Work};
//! use gently_models::{Decoder, DecoderConfig};
//! # use gently_tensor::{Device, Rng};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, bidirectional: true, ..DecoderConfig::named("gpt2")? };
//! let encoder = Encoder::new(&Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?)?;
//! let mut work = Work::new();
//! let rows = encoder.encode(&mut work, &[&[1, 2, 3], &[4, 5]])?;
//! assert_eq!(rows.len(), 5 * 8);
//! # Ok(()) }
//! ```

use crate::error::{Error, Result, check_tokens, no_memory};
use crate::pass::{Lowered, normalise};
use crate::weights::Weights;
use crate::work::{ROWS, Work};
use gently_kernels::attention::{AttnShape, AttnSpec, HeadView, Mask, Part, forward_each};
use gently_models::Decoder;
use gently_models::config::DecoderConfig;
use gently_models::weights::WeightSource;
use std::collections::BTreeMap;

/// A model ready to read documents. Shared by all that run it; a pass borrows it.
pub struct Encoder {
    lowered: Lowered,
}

impl Encoder {
    /// Lowers a model.
    ///
    /// # Errors
    /// [`Error::Lowering`] for a model with parts that are not the block's, such as mixers from elsewhere; [`Error::NoMemory`]
    /// for its weights.
    pub fn new(model: &Decoder) -> Result<Self> {
        Ok(Self { lowered: Lowered::new(Weights::of_decoder(model)?) })
    }

    /// Lowers the weights of a published model as they are stored: quantized ones stay as they are.
    ///
    /// # Errors
    /// [`Error::Lowering`] as [`Encoder::new`], and for types of blocks that rows do not fit; [`Error::NoMemory`] for the weights;
    /// [`Error::Model`] for those that cannot be read.
    pub fn of_files(source: &WeightSource) -> Result<Self> {
        let weights = Weights::of_files(source).map_err(|e| e.of_file(source.path()))?;
        Ok(Self { lowered: Lowered::new(weights) })
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        self.lowered.config()
    }

    /// The longest document; `None` where positions have no end.
    pub fn room(&self) -> Option<usize> {
        self.lowered.room()
    }

    /// Bytes of weights held.
    pub fn bytes(&self) -> usize {
        self.lowered.weights.bytes()
    }

    /// Bytes of matrices by the name of the type they are stored in.
    pub fn weight_types(&self) -> BTreeMap<&'static str, usize> {
        self.lowered.weights.types()
    }

    /// One pass: the last hidden rows of all tokens of all documents in order, `[N, C]` with N the sum of their lengths.
    /// Memory grows with N: it is the caller's to bound.
    ///
    /// The rows of a document have the same bits whatever else is in the pass.
    ///
    /// # Errors
    /// [`Error::Tokens`] for an empty document, a token outside the vocabulary, or a document longer than the
    /// context; [`Error::NoMemory`].
    pub fn encode<'w>(&self, work: &'w mut Work, documents: &[&[u32]]) -> Result<&'w [f32]> {
        self.check(documents)?;
        if documents.is_empty() {
            return Ok(&[]);
        }
        let cfg = self.config();
        let lengths: Vec<usize> = documents.iter().map(|d| d.len()).collect();
        let n: usize = lengths.iter().sum();
        let end = lengths.iter().copied().max().unwrap_or(0);
        work.at.clear();
        work.at.extend(lengths.iter().flat_map(|t| 0..*t as u32));
        let tables = self.lowered.tables(end)?;
        let shape =
            AttnShape { batch: 1, t_q: n, t_k: n, heads: cfg.heads, kv_heads: cfg.kv_heads(), d: cfg.head_width() };
        // Taken out while a branch borrows the rest.
        let mut stats = std::mem::take(&mut work.stats);
        let mut layers = || -> Result<()> {
            self.lowered.embed(work, documents.iter().copied().flatten().copied(), end)?;
            for (i, layer) in self.lowered.weights.layers.iter().enumerate() {
                let mask = match cfg.window_of(i) {
                    _ if cfg.bidirectional => Mask::Full,
                    Some(window) => Mask::Window(window),
                    None => Mask::Causal,
                };
                let spec = AttnSpec {
                    alibi: self.lowered.slopes(),
                    softcap: cfg.attention_softcap.map(|c| c as f32),
                    ..AttnSpec::new(cfg.attention_scale() as f32, mask)
                };
                self.lowered.fork(layer, work, n)?;
                self.lowered.mix(layer, work, n, self.lowered.table(i, &tables), |qkv, mixed| {
                    let [q, k, v] = [Part::Q, Part::K, Part::V].map(|part| HeadView::packed(qkv, shape, part));
                    let stats = stats.take(shape.stats_len())?;
                    forward_each(shape, &lengths, &spec, q, k, v, mixed, stats).map_err(no_memory(ROWS))
                })?;
                self.lowered.transform(layer, work, n)?;
            }
            Ok(())
        };
        let done = layers();
        work.stats = stats;
        done?;
        let stream = &mut work.stream;
        let Some(norm) = &self.lowered.weights.final_norm else { return Ok(stream.x.take(n * cfg.width)?) };
        let x = stream.x.take(n * cfg.width)?;
        let rows = work.features.take(n * cfg.width)?;
        normalise(norm, x, rows, &mut stream.mean, &mut stream.rstd)?;
        work.features_len = n * cfg.width;
        Ok(rows)
    }

    fn check(&self, documents: &[&[u32]]) -> Result<()> {
        let (vocab, room) = (self.config().vocab, self.lowered.most());
        for (i, document) in documents.iter().enumerate() {
            check_tokens(format_args!("document {i}"), vocab, document)?;
            if document.len() > room {
                let what = format!("document {i}: {} tokens do not fit into a context of {room}", document.len());
                return Err(Error::Tokens { what });
            }
        }
        Ok(())
    }
}

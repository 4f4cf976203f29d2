//! The sections of a recipe and their defaults.
//!
//! Here: one struct for each TOML section but `[model]`, which is [`gently_models::DecoderConfig`]. The defaults are
//! those of a small character model on a CPU. Not here: reading, checking and writing recipes.

use gently_kernels::gemm::Compute;
use gently_models::config::{DecoderConfig, Family};
use serde::{Deserialize, Serialize};

/// A whole configuration, all values known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `[model]`
    pub model: DecoderConfig,
    /// `[data]`
    pub data: Data,
    /// `[tokenizer]`
    pub tokenizer: Tokenizer,
    /// `[train]`
    pub train: Train,
    /// `[optimizer]`
    pub optimizer: Optimizer,
    /// `[eval]`
    pub eval: Eval,
    /// `[sample]`
    pub sample: Sample,
    /// `[checkpoint]`
    pub checkpoint: Checkpoint,
    /// `[spike]`
    pub spike: Spike,
}

/// `[data]`: what is read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Files, folders, or names of known sets, one or more. Empty: the caller gives the text.
    pub path: Vec<String>,
    /// How often each path is drawn from, relative to the others; empty: one corpus of all.
    pub weights: Vec<f64>,
    /// The part of each source kept for evaluation, 0 to 0.5, cut from its end.
    pub val_fraction: f64,
    /// Files for evaluation instead of a cut.
    pub val_path: Vec<String>,
    /// Field of a JSON line or Parquet row that holds the text.
    pub field: String,
    /// `stream`: documents follow each other and see each other. `mask`: they follow each other, and attention stays
    /// inside a document. `pack`: whole documents are packed best-fit into rows, masked from each other.
    pub documents: Documents,
    /// Draw blocks in a seeded random order without replacement; false reads them in order.
    pub shuffle: bool,
    /// Where token shards are kept; empty: in the run folder.
    pub shards: String,
}

/// How documents share a row of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Documents {
    /// One endless text.
    #[default]
    Stream,
    /// One endless text, attention inside documents only.
    Mask,
    /// Best-fit packing, attention inside documents only.
    Pack,
}

/// `[tokenizer]`: how text becomes tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokenizer {
    /// `characters` (the vocabulary is the text's), `bytes`, `bpe` (trained on the text), or `file`.
    pub kind: TokenizerKind,
    /// For `file`: a `tokenizer.json`, or a folder with one, or with GPT-2's `vocab.json` and `merges.txt`.
    pub path: String,
    /// For `bpe`: size of the vocabulary.
    pub vocab: usize,
}

/// Kinds of tokenizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// One token for each character of the text.
    #[default]
    Characters,
    /// One token for each byte.
    Bytes,
    /// Byte-pair encoding trained on the text.
    Bpe,
    /// Read from a file.
    File,
}

/// `[train]`: size and length of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Train {
    /// Updates.
    pub steps: u64,
    /// Rows that are drawn at a time.
    pub batch: usize,
    /// Tokens of one row.
    pub block: usize,
    /// Batches of one update.
    pub accumulate: usize,
    /// Most rows of a batch that go through the model together; 0 takes as many as make `MICRO_TOKENS` (2048) tokens. It
    /// decides about memory and speed; the update is the same but for rounding.
    pub micro_batch: usize,
    /// The one seed: initial weights, data order, dropout, samples.
    pub seed: u64,
    /// Arithmetic of matrix products; weights and optimizer state stay f32.
    pub compute: ComputeKind,
    /// Recompute each block in the backward pass instead of keeping its activations: less memory, for a third more time in the
    /// products.
    pub recompute: bool,
    /// Largest global gradient norm; 0 turns clipping off.
    pub clip: f64,
}

/// Tokens that go through the model together, where a recipe does not say: enough for products to run at full speed and
/// for the traffic of weights and their gradients not to show, and few enough to keep activations small.
pub const MICRO_TOKENS: usize = 2048;

impl Train {
    /// Most rows that go through the model together.
    pub fn rows(&self) -> usize {
        match self.micro_batch {
            0 => (MICRO_TOKENS / self.block.max(1)).max(1),
            rows => rows,
        }
    }
}

/// Arithmetic of matrix products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComputeKind {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// bfloat16 inputs, 32-bit sums.
    Bf16,
}

impl ComputeKind {
    /// The name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            ComputeKind::F32 => "f32",
            ComputeKind::Bf16 => "bf16",
        }
    }
}

impl From<ComputeKind> for Compute {
    fn from(kind: ComputeKind) -> Self {
        match kind {
            ComputeKind::F32 => Compute::F32,
            ComputeKind::Bf16 => Compute::Bf16,
        }
    }
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Optimizer {
    /// `adamw`, `lion` or `muon`.
    pub kind: OptimizerKind,
    /// Peak learning rate of AdamW or Lion; with Muon, of the parameters that Muon does not take.
    pub lr: f64,
    /// Lowest learning rate, at the end of the decay; unset: a tenth of `lr`.
    pub min_lr: Option<f64>,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of the parameters that `decay` names.
    pub weight_decay: f64,
    /// Which parameters decay.
    pub decay: Decay,
    /// In what the moments are kept.
    pub moments: Moments,
    /// Peak learning rate of the matrices that Muon takes; it follows the same schedule.
    pub muon_lr: f64,
    /// Muon's momentum.
    pub momentum: f64,
    /// Muon's Newton–Schulz iterations.
    pub newton_schulz: usize,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Shape of the learning rate after warm-up.
    pub schedule: ScheduleKind,
    /// Step at which the decay ends; unset: `train.steps`.
    pub decay_steps: Option<u64>,
    /// For `wsd`: the last part of the steps in which the rate falls, 0 to 1.
    pub cooldown: f64,
}

/// Kinds of optimizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
    /// Sign of an interpolated momentum.
    Lion,
    /// Orthogonalised momentum for hidden matrices, AdamW for the rest.
    Muon,
}

/// Which parameters weight decay takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Weight matrices; not embeddings, a head of its own, norms and biases.
    Matrices,
    /// All parameters of two or more dimensions, as nanoGPT does: matrices and embeddings.
    #[default]
    AllMatrices,
    /// Everything.
    All,
    /// Nothing.
    None,
}

/// Numbers in which an optimizer keeps its moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// 4 bytes for each.
    #[default]
    F32,
    /// 2 bytes for each, rounded up or down at random.
    Bf16,
}

/// Shapes of the learning rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine from `lr` to `min_lr`.
    #[default]
    Cosine,
    /// A straight line from `lr` to `min_lr`.
    Linear,
    /// `lr` throughout.
    Constant,
    /// Warm-up, stable, decay: `lr`, then a straight line to `min_lr` in the last part.
    Wsd,
}

/// `[eval]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Eval {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
    /// Fixed batches of one evaluation; 0: the whole validation split.
    pub batches: usize,
    /// Evaluate before the first step as well.
    pub at_start: bool,
}

/// `[sample]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Steps between samples; 0: none.
    pub every: u64,
    /// Texts to continue.
    pub prompts: Vec<String>,
    /// Tokens of one sample.
    pub tokens: usize,
    /// Temperature; 0 takes the likeliest token.
    pub temperature: f64,
    /// Draw among this many likeliest tokens; 0: among all.
    pub top_k: usize,
    /// Sample before the first step as well.
    pub at_start: bool,
}

impl Sample {
    /// Whether the run writes samples at any step.
    pub fn is_on(&self) -> bool {
        self.every > 0 || self.at_start
    }

    /// Whether a run that has made `step` updates will still write samples.
    pub(crate) fn is_on_after(&self, step: u64) -> bool {
        self.every > 0 || (self.at_start && step == 0)
    }
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    /// Steps between checkpoints; 0: only at the end.
    pub every: u64,
    /// How many of the newest are kept.
    pub keep: usize,
    /// Keep the one with the lowest validation loss as well.
    pub best: bool,
}

/// `[spike]`: leaving out updates whose loss or gradient norm is far above the recent ones (llm.c's rule).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spike {
    /// Whether spikes are skipped.
    pub skip: bool,
    /// Updates that the mean and deviation are taken over.
    pub window: usize,
    /// Deviations above the mean from which it is a spike.
    pub z: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: DecoderConfig::preset(Family::Gpt2),
            data: Data::default(),
            tokenizer: Tokenizer::default(),
            train: Train::default(),
            optimizer: Optimizer::default(),
            eval: Eval::default(),
            sample: Sample::default(),
            checkpoint: Checkpoint::default(),
            spike: Spike::default(),
        }
    }
}

impl Default for Data {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            weights: Vec::new(),
            val_fraction: 0.1,
            val_path: Vec::new(),
            field: "text".into(),
            documents: Documents::Stream,
            shuffle: true,
            shards: String::new(),
        }
    }
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self { kind: TokenizerKind::Characters, path: String::new(), vocab: 4096 }
    }
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: 2000,
            batch: 12,
            block: 64,
            accumulate: 1,
            micro_batch: 0,
            seed: 1337,
            compute: ComputeKind::F32,
            recompute: false,
            clip: 1.0,
        }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            lr: 1e-3,
            min_lr: None,
            betas: [0.9, 0.99],
            eps: 1e-8,
            weight_decay: 0.1,
            decay: Decay::AllMatrices,
            moments: Moments::F32,
            muon_lr: 0.02,
            momentum: 0.95,
            newton_schulz: 5,
            warmup: 100,
            schedule: ScheduleKind::Cosine,
            decay_steps: None,
            cooldown: 0.4,
        }
    }
}

impl Default for Eval {
    fn default() -> Self {
        Self { every: 250, batches: 20, at_start: true }
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self { every: 0, prompts: vec!["\n".into()], tokens: 200, temperature: 0.8, top_k: 0, at_start: false }
    }
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: 250, keep: 2, best: true }
    }
}

impl Default for Spike {
    fn default() -> Self {
        Self { skip: false, window: 128, z: 6.0 }
    }
}

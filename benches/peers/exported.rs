//! A training run that `export.rs` wrote down, as peers in Rust see it: settings, initial weights, batches in order, and the
//! loop that times a [`Peer`] on it. What a peer computes with is its own program's matter (`candle/`, `burn/`), which includes
//! this file; what `train_peer.py` prints is printed here, too.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// Target of a position that does not count.
const IGNORE: u32 = u32::MAX;

/// What both sides do for an update; the loop around them is [`train`].
pub trait Peer {
    /// Loss of one micro-batch, ids and targets each (B, T), times `share`; its gradients are added to what is there.
    fn micro(&mut self, ids: &[u32], targets: &[u32], share: f64) -> Result<f64>;
    /// Clips the gradients together to the norm `clip` (0 means not at all) and makes an AdamW update.
    fn update(&mut self, rate: f64, clip: f64) -> Result<()>;
    /// Numbers that are trained.
    fn parameters(&self) -> usize;
}

/// What the command line says.
pub struct Arguments {
    pub export: PathBuf,
    pub steps: usize,
    pub threads: usize,
}

impl Arguments {
    /// `--export DIR --steps N --threads N`
    pub fn read() -> Result<Self> {
        let usage = "usage: train --export DIR [--steps 100] [--threads 2]";
        let mut a = Self { export: PathBuf::new(), steps: 100, threads: 2 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().context(usage)?;
            match word.as_str() {
                "--export" => a.export = value.into(),
                "--steps" => a.steps = value.parse().context("--steps")?,
                "--threads" => a.threads = value.parse().context("--threads")?,
                _ => bail!("{usage}"),
            }
        }
        ensure!(a.export.is_dir(), "{usage}");
        Ok(a)
    }
}

/// The parts of `config.toml` that matter here.
#[derive(Deserialize)]
pub struct Config {
    pub model: Model,
    pub optimizer: Optimizer,
    pub train: Train,
}

#[derive(Deserialize)]
pub struct Model {
    pub vocab: usize,
    pub context: usize,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub norm_eps: f64,
    pub dropout: f64,
    norm: String,
    norm_place: String,
    norm_bias: bool,
    position: String,
    mlp: String,
    attention_bias: bool,
    mlp_bias: bool,
    tied_head: bool,
    qk_norm: bool,
    mlp_width: Option<usize>,
    kv_heads: Option<usize>,
    head_width: Option<usize>,
    window: Option<usize>,
    logit_softcap: Option<f64>,
    attention_softcap: Option<f64>,
}

#[derive(Deserialize)]
pub struct Optimizer {
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    kind: String,
    decay: String,
    schedule: String,
    lr: f64,
    min_lr: Option<f64>,
    warmup: usize,
    decay_steps: Option<usize>,
}

#[derive(Deserialize)]
pub struct Train {
    pub batch: usize,
    pub block: usize,
    accumulate: usize,
    clip: f64,
    steps: usize,
}

impl Config {
    fn read(folder: &Path) -> Result<Self> {
        let config: Self = toml::from_str(&std::fs::read_to_string(folder.join("config.toml"))?)?;
        config.check()?;
        Ok(config)
    }

    /// These programs are one architecture; anything else would be a comparison of different things.
    fn check(&self) -> Result<()> {
        let (m, o) = (&self.model, &self.optimizer);
        let one = m.norm == "layer" && m.norm_place == "pre" && m.position == "learned" && m.mlp == "gelu";
        ensure!(one && m.tied_head && !m.qk_norm, "this program only knows GPT-2's decoder");
        ensure!(!(m.norm_bias || m.attention_bias || m.mlp_bias), "this program knows no biases");
        ensure!(m.kv_heads.is_none_or(|n| n == m.heads), "this program knows no grouped heads");
        ensure!(m.head_width.is_none_or(|n| n * m.heads == m.width), "heads must share the width");
        ensure!(m.mlp_width.is_none_or(|n| n == 4 * m.width), "this program's MLP is four times as wide");
        let more = m.window.is_some() || m.logit_softcap.is_some() || m.attention_softcap.is_some();
        ensure!(!more, "this program knows no windows and no soft caps");
        ensure!(m.dropout == 0.0, "this program knows no dropout");
        let known = o.kind == "adamw" && o.decay == "all_matrices" && o.schedule == "cosine";
        ensure!(known, "this program only knows AdamW with decay = \"all_matrices\" and the cosine schedule");
        Ok(())
    }

    /// The learning rate of update `step`, counted from 0.
    fn rate(&self, step: usize) -> f64 {
        let o = &self.optimizer;
        let (low, end) = (o.min_lr.unwrap_or(o.lr / 10.0), o.decay_steps.unwrap_or(self.train.steps));
        if step < o.warmup {
            return o.lr * (step + 1) as f64 / (o.warmup + 1) as f64;
        }
        if step >= end {
            return low;
        }
        let done = (step - o.warmup) as f64 / (end - o.warmup) as f64;
        low + 0.5 * (1.0 + (std::f64::consts::PI * done).cos()) * (o.lr - low)
    }
}

/// Initial weights under GPT-2's published names, f32; projections are [in, out].
pub struct Weights(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Weights {
    fn read(folder: &Path) -> Result<Self> {
        let bytes = std::fs::read(folder.join("checkpoints/step-0/model.safetensors"))?;
        let file = safetensors::SafeTensors::deserialize(&bytes)?;
        let mut all = HashMap::new();
        for (name, view) in file.tensors() {
            ensure!(view.dtype() == safetensors::Dtype::F32, "{name} is not f32");
            let numbers = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            all.insert(name, (view.shape().to_vec(), numbers));
        }
        Ok(Self(all))
    }

    /// The weight `transformer.NAME`, which must have this shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (found, numbers) = self.0.remove(&format!("transformer.{name}")).with_context(|| format!("no {name}"))?;
        ensure!(found == shape, "{name}: {found:?} in the export, {shape:?} here");
        Ok(numbers)
    }

    /// Nothing may be left over, or the model here would be a smaller one; but for the zeros that GPT-2's files hold in place of
    /// biases that are not there.
    pub fn finish(self) -> Result<()> {
        let zero = |numbers: &[f32]| numbers.iter().all(|n| *n == 0.0);
        let left: Vec<_> =
            self.0.into_iter().filter(|(_, (_, numbers))| !zero(numbers)).map(|(name, _)| name).collect();
        ensure!(left.is_empty(), "{left:?} of the export are not used");
        Ok(())
    }
}

/// Columns `from..from + count` of a row-major matrix with `width` columns.
pub fn columns(matrix: &[f32], width: usize, from: usize, count: usize) -> Vec<f32> {
    matrix.chunks_exact(width).flat_map(|row| &row[from..from + count]).copied().collect()
}

/// Settings and weights of an export, to build a peer from.
pub fn open(a: &Arguments) -> Result<(Config, Weights)> {
    let config = Config::read(&a.export).with_context(|| format!("{}", a.export.display()))?;
    Ok((config, Weights::read(&a.export)?))
}

/// Ids and targets of `count` micro-batches, each (B, T).
fn batches(a: &Arguments, config: &Config, count: usize) -> Result<Vec<u32>> {
    let bytes = std::fs::read(a.export.join("batches.u32"))?;
    let wanted = count * 2 * config.train.batch * config.train.block;
    ensure!(bytes.len() >= wanted * 4, "the export holds fewer than {count} batches");
    let ids: Vec<u32> =
        bytes.chunks_exact(4).take(wanted).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    ensure!(!ids.contains(&IGNORE), "this program knows no positions that do not count");
    Ok(ids)
}

/// Makes and times the updates, and prints what `train_peer.py` prints.
pub fn train(a: &Arguments, config: &Config, program: &str, peer: &mut impl Peer) -> Result<()> {
    let t = &config.train;
    let all = batches(a, config, a.steps * t.accumulate)?;
    let part = t.batch * t.block;
    let mut micro = all.chunks_exact(2 * part);
    let (mut losses, mut seconds) = (Vec::new(), Vec::new());
    for step in 0..a.steps {
        let begun = Instant::now();
        let mut loss = 0.0;
        for _ in 0..t.accumulate {
            let (ids, targets) = micro.next().context("no batch is left")?.split_at(part);
            loss += peer.micro(ids, targets, 1.0 / t.accumulate as f64)?;
        }
        peer.update(config.rate(step), t.clip)?;
        seconds.push(begun.elapsed().as_secs_f64());
        losses.push(loss);
    }
    let said = serde_json::json!({
        "program": program, "compute": "f32", "threads": a.threads, "tokens_per_step": part * t.accumulate,
        "parameters": peer.parameters(), "losses": losses, "seconds": seconds,
    });
    println!("{said}");
    Ok(())
}

//! burn's side of the comparison of training: GPT-2's decoder with burn's tensors, gradients and AdamW on its Flex backend.
//!
//! ```text
//! RAYON_NUM_THREADS=2 train --export DIR [--steps 100] [--threads 2]
//! ```
//!
//! burn's fused norm, softmax and attention are not used when gradients are wanted: it composes them of its other operations.
//! Here that is done by hand, in the way that was fastest; see `../README.md`.

#[path = "../../exported.rs"]
mod exported;

use anyhow::{Context, Result, ensure};
use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, module::linear};
use exported::{Arguments, Config, Peer, Weights};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let a = Arguments::read()?;
    let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
    ensure!(threads == a.threads.to_string(), "set RAYON_NUM_THREADS to {}", a.threads);
    let (config, mut weights) = exported::open(&a)?;
    let mut peer = Burn::new(&config, &mut weights)?;
    weights.finish()?;
    exported::train(&a, &config, concat!("burn ", env!("CARGO_PKG_VERSION"), " flex"), &mut peer)
}

/// Weights of a block; projections are [in, out].
#[derive(Module, Debug)]
struct Block {
    ln_1: Param<Tensor<1>>,
    queries: Param<Tensor<2>>,
    keys: Param<Tensor<2>>,
    values: Param<Tensor<2>>,
    projection: Param<Tensor<2>>,
    ln_2: Param<Tensor<1>>,
    up: Param<Tensor<2>>,
    down: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Decoder {
    wte: Param<Tensor<2>>,
    wpe: Param<Tensor<2>>,
    blocks: Vec<Block>,
    ln_f: Param<Tensor<1>>,
}

/// Layer norm without a bias over C of (B, T, C).
fn norm(x: Tensor<3>, weight: &Param<Tensor<1>>, eps: f64) -> Tensor<3> {
    let mean = x.clone().mean_dim(2);
    let x = x - mean;
    let scale = ((x.clone() * x.clone()).mean_dim(2) + eps).sqrt().recip();
    x * scale * weight.val().unsqueeze()
}

/// GELU by tanh, written with the logistic function: `(1 + tanh u) / 2 = 1 / (1 + exp(-2u))`.
fn gelu(x: Tensor<3>) -> Tensor<3> {
    let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let u = ((x.clone() * x.clone()) * (twice * 0.044715) + twice) * x.clone();
    x * activation::sigmoid(u)
}

/// Softmax over the last dimension; the maximum is only there for the range of exp and needs no gradient.
fn softmax(x: Tensor<4>) -> Tensor<4> {
    let most = x.clone().detach().max_dim(3);
    let e = (x - most).exp();
    let sum = e.clone().sum_dim(3);
    e * sum.recip()
}

impl Block {
    /// (B, T, C) -> (B, T, C); `mask` (1, 1, T, T) is 0 where a position may look and -inf elsewhere.
    fn forward(&self, x: Tensor<3>, heads: usize, eps: f64, mask: &Tensor<4>) -> Tensor<3> {
        let [b, t, c] = x.dims();
        let width = c / heads;
        let normed = norm(x.clone(), &self.ln_1, eps);
        let head = |weight: &Param<Tensor<2>>| {
            linear(normed.clone(), weight.val(), None).reshape([b, t, heads, width]).swap_dims(1, 2)
        };
        let q = head(&self.queries) * (width as f64).powf(-0.5);
        let scores = q.matmul(head(&self.keys).swap_dims(2, 3)) + mask.clone();
        let y = softmax(scores).matmul(head(&self.values)).swap_dims(1, 2).reshape([b, t, c]);
        let x = x + linear(y, self.projection.val(), None);
        let y = gelu(linear(norm(x.clone(), &self.ln_2, eps), self.up.val(), None));
        x + linear(y, self.down.val(), None)
    }
}

struct Burn {
    device: Device,
    rows: usize,
    heads: usize,
    eps: f64,
    mask: Tensor<4>,
    /// Away only while it is updated.
    decoder: Option<Decoder>,
    optimizer: ModuleOptimizer,
    gradients: GradientsAccumulator<Decoder>,
}

impl Burn {
    fn new(config: &Config, weights: &mut Weights) -> Result<Self> {
        let device = Device::flex().autodiff();
        let (m, o) = (&config.model, &config.optimizer);
        let c = m.width;
        let matrix = |numbers: Vec<f32>, shape: [usize; 2]| Param::from_data(TensorData::new(numbers, shape), &device);
        let vector = |numbers: Vec<f32>| Param::from_data(TensorData::new(numbers, [c]), &device);
        let wte = matrix(weights.take("wte.weight", &[m.vocab, c])?, [m.vocab, c]);
        let wpe = matrix(weights.take("wpe.weight", &[m.context, c])?, [m.context, c]);
        let mut blocks = Vec::new();
        for i in 0..m.layers {
            let mut take = |name: &str, shape: &[usize]| weights.take(&format!("h.{i}.{name}.weight"), shape);
            let all = take("attn.c_attn", &[c, 3 * c])?;
            let part = |n: usize| matrix(exported::columns(&all, 3 * c, n * c, c), [c, c]);
            blocks.push(Block {
                ln_1: vector(take("ln_1", &[c])?),
                queries: part(0),
                keys: part(1),
                values: part(2),
                projection: matrix(take("attn.c_proj", &[c, c])?, [c, c]),
                ln_2: vector(take("ln_2", &[c])?),
                up: matrix(take("mlp.c_fc", &[c, 4 * c])?, [c, 4 * c]),
                down: matrix(take("mlp.c_proj", &[4 * c, c])?, [4 * c, c]),
            });
        }
        let decoder = Decoder { wte, wpe, blocks, ln_f: vector(weights.take("ln_f.weight", &[c])?) };

        let adamw = AdamWConfig::new()
            .with_beta_1(o.betas.0 as f32)
            .with_beta_2(o.betas.1 as f32)
            .with_epsilon(o.eps as f32)
            .with_weight_decay(o.weight_decay as f32);
        let mut vectors = Vectors(Vec::new());
        decoder.visit(&mut vectors);
        let apart = ParamGroup::from_ids(vectors.0);
        let optimizer = adamw.init().with_group(apart, adamw.with_weight_decay(0.0).build(), None);

        let t = config.train.block;
        let mask: Vec<f32> = (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_data(TensorData::new(mask, [1, 1, t, t]), &device);
        let gradients = GradientsAccumulator::new();
        let (rows, heads, eps) = (config.train.batch, m.heads, m.norm_eps);
        Ok(Self { device, rows, heads, eps, mask, decoder: Some(decoder), optimizer, gradients })
    }

    /// Mean loss in nats of ids and targets, each (B, T).
    fn loss(&self, decoder: &Decoder, ids: &[u32], targets: &[u32]) -> Tensor<1> {
        let (n, t) = (ids.len(), ids.len() / self.rows);
        let ints = |of: &[u32]| -> Tensor<1, Int> {
            let of: Vec<i32> = of.iter().map(|id| *id as i32).collect();
            Tensor::from_data(TensorData::new(of, [n]), &self.device)
        };
        let (wte, wpe) = (decoder.wte.val(), decoder.wpe.val());
        let c = wte.dims()[1];
        let wpe = if wpe.dims()[0] == t { wpe } else { wpe.narrow(0, 0, t) };
        let x: Tensor<3> = wte.clone().select(0, ints(ids)).reshape([self.rows, t, c]);
        let mut x = x + wpe.unsqueeze();
        for block in &decoder.blocks {
            x = block.forward(x, self.heads, self.eps, &self.mask);
        }
        let logits = norm(x, &decoder.ln_f, self.eps).reshape([n, c]).matmul(wte.transpose());
        activation::log_softmax(logits, 1).gather(1, ints(targets).reshape([n, 1])).mean().neg()
    }
}

/// Weights with one dimension.
struct Vectors(Vec<ParamId>);

impl ModuleVisitor for Vectors {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 1 {
            self.0.push(param.id);
        }
    }
}

/// Sum of the squares of all gradients.
struct Squares<'a>(&'a GradientsParams, f64);

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.0.get::<D>(param.id) {
            self.1 += (gradient.clone() * gradient).sum().into_scalar::<f32>() as f64;
        }
    }
}

/// All gradients, times a number.
struct Scale<'a>(&'a mut GradientsParams, f64);

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.0.remove::<D>(param.id) {
            self.0.register(param.id, gradient * self.1);
        }
    }
}

impl Peer for Burn {
    fn micro(&mut self, ids: &[u32], targets: &[u32], share: f64) -> Result<f64> {
        let decoder = self.decoder.as_ref().context("an update failed")?;
        let loss = self.loss(decoder, ids, targets);
        let loss = if share == 1.0 { loss } else { loss * share };
        let gradients = GradientsParams::from_grads(loss.backward(), decoder);
        self.gradients.accumulate(decoder, gradients);
        Ok(loss.into_scalar::<f32>() as f64)
    }

    fn update(&mut self, rate: f64, clip: f64) -> Result<()> {
        let decoder = self.decoder.take().context("an update failed")?;
        let mut gradients = self.gradients.grads();
        if clip > 0.0 {
            let mut squares = Squares(&gradients, 0.0);
            decoder.visit(&mut squares);
            let factor = clip / (squares.1.sqrt() + 1e-6);
            if factor < 1.0 {
                decoder.visit(&mut Scale(&mut gradients, factor));
            }
        }
        self.decoder = Some(self.optimizer.step(rate, decoder, gradients));
        Ok(())
    }

    fn parameters(&self) -> usize {
        self.decoder.as_ref().map_or(0, |decoder| decoder.num_params())
    }
}

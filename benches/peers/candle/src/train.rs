//! candle's side of the comparison of training: GPT-2's decoder with candle's tensors, gradients and AdamW.
//!
//! ```text
//! RAYON_NUM_THREADS=2 train --export DIR [--steps 100] [--threads 2]
//! ```
//!
//! candle's fused norm, softmax and attention have no backward. Here they are composed of its other operations in the way
//! that was fastest on its CPU backend; see `../README.md`.

#[path = "../../exported.rs"]
mod exported;

use anyhow::{Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use exported::{Arguments, Config, Model, Peer, Weights};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let a = Arguments::read()?;
    let threads = candle_core::utils::get_num_threads();
    ensure!(threads == a.threads, "candle takes {threads} threads: set RAYON_NUM_THREADS to {}", a.threads);
    // Inside candle's own pool of threads, as it advises.
    Device::Cpu.with_context(|| {
        let (config, mut weights) = exported::open(&a)?;
        let mut peer = Candle::new(&config, &mut weights)?;
        weights.finish()?;
        exported::train(&a, &config, concat!("candle ", env!("CARGO_PKG_VERSION")), &mut peer)
    })
}

/// Layer norm without a bias over C of (B, T, C).
struct Norm {
    weight: Var,
    eps: f64,
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?.recip()?;
        Ok(x.broadcast_mul(&scale)?.broadcast_mul(&self.weight)?)
    }
}

/// x (B, T, C) times a weight [in, out].
fn project(x: &Tensor, weight: &Var) -> Result<Tensor> {
    let (b, t, c) = x.dims3()?;
    Ok(x.reshape((b * t, c))?.matmul(weight)?.reshape((b, t, ()))?)
}

/// GELU by tanh, written with the logistic function: `(1 + tanh u) / 2 = 1 / (1 + exp(-2u))`. candle's own raises to a power
/// in its backward, which costs more than all else here.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let twice = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let u = (x * x.sqr()?.affine(twice * 0.044715, twice)?)?;
    Ok((x * candle_nn::ops::sigmoid(&u)?)?)
}

/// Softmax over the last dimension; the maximum is only there for the range of exp and needs no gradient.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let most = x.max_keepdim(D::Minus1)?.detach();
    let e = x.broadcast_sub(&most)?.exp()?;
    Ok(e.broadcast_mul(&e.sum_keepdim(D::Minus1)?.recip()?)?)
}

struct Block {
    ln_1: Norm,
    /// Queries, keys and values apart: a slice of one product's result costs more, forward and backward.
    attention: [Var; 3],
    projection: Var,
    ln_2: Norm,
    up: Var,
    down: Var,
}

impl Block {
    /// (B, T, C) -> (B, T, C); `mask` (T, T) is 0 where a position may look and -inf elsewhere.
    fn forward(&self, x: &Tensor, heads: usize, mask: &Tensor) -> Result<Tensor> {
        let (b, t, c) = x.dims3()?;
        let normed = self.ln_1.forward(x)?;
        let head = |weight: &Var| -> Result<Tensor> {
            Ok(project(&normed, weight)?.reshape((b, t, heads, c / heads))?.transpose(1, 2)?)
        };
        let [q, k, v] = &self.attention;
        let q = (head(q)? * ((c / heads) as f64).powf(-0.5))?;
        let (k, v) = (head(k)?.contiguous()?, head(v)?.contiguous()?);
        let scores = q.contiguous()?.matmul(&k.t()?)?.broadcast_add(mask)?;
        let y = softmax(&scores)?.matmul(&v)?.transpose(1, 2)?.reshape((b, t, c))?;
        let x = (x + project(&y, &self.projection)?)?;
        let y = project(&gelu(&project(&self.ln_2.forward(&x)?, &self.up)?)?, &self.down)?;
        Ok((x + y)?)
    }
}

struct Candle {
    heads: usize,
    rows: usize,
    wte: Var,
    wpe: Var,
    blocks: Vec<Block>,
    ln_f: Norm,
    mask: Tensor,
    vars: Vec<Var>,
    gradients: Option<GradStore>,
    /// Matrices, which decay, and vectors, which do not.
    optimizers: [AdamW; 2],
}

impl Candle {
    fn new(config: &Config, weights: &mut Weights) -> Result<Self> {
        let m = &config.model;
        let mut vars = Vec::new();
        let mut var = |numbers: Vec<f32>, shape: &[usize]| -> Result<Var> {
            let var = Var::from_tensor(&Tensor::from_vec(numbers, shape, &Device::Cpu)?)?;
            vars.push(var.clone());
            Ok(var)
        };
        let c = m.width;
        let wte = var(weights.take("wte.weight", &[m.vocab, c])?, &[m.vocab, c])?;
        let wpe = var(weights.take("wpe.weight", &[m.context, c])?, &[m.context, c])?;
        let blocks = (0..m.layers).map(|i| block(m, i, weights, &mut var)).collect::<Result<_>>()?;
        let ln_f = Norm { weight: var(weights.take("ln_f.weight", &[c])?, &[c])?, eps: m.norm_eps };
        let o = &config.optimizer;
        let adamw = |decay: bool| {
            let those = vars.iter().filter(|v| (v.rank() >= 2) == decay).cloned().collect();
            let weight_decay = if decay { o.weight_decay } else { 0.0 };
            AdamW::new(those, ParamsAdamW { lr: 0.0, beta1: o.betas.0, beta2: o.betas.1, eps: o.eps, weight_decay })
        };
        let optimizers = [adamw(true)?, adamw(false)?];
        let t = config.train.block;
        let mask = (0..t * t).map(|i| if i % t > i / t { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, t), &Device::Cpu)?;
        Ok(Self {
            heads: m.heads,
            rows: config.train.batch,
            wte,
            wpe,
            blocks,
            ln_f,
            mask,
            vars,
            gradients: None,
            optimizers,
        })
    }

    /// Mean loss in nats of ids and targets, each (B, T).
    fn loss(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (b, t) = ids.dims2()?;
        let c = self.wte.dim(1)?;
        let x = self.wte.index_select(&ids.flatten_all()?, 0)?.reshape((b, t, c))?;
        let mut x = x.broadcast_add(&self.wpe.narrow(0, 0, t)?)?;
        for block in &self.blocks {
            x = block.forward(&x, self.heads, &self.mask)?;
        }
        let logits = self.ln_f.forward(&x)?.reshape((b * t, c))?.matmul(&self.wte.t()?)?;
        Ok(candle_nn::loss::cross_entropy(&logits, &targets.flatten_all()?)?)
    }
}

fn block(
    m: &Model,
    i: usize,
    weights: &mut Weights,
    var: &mut impl FnMut(Vec<f32>, &[usize]) -> Result<Var>,
) -> Result<Block> {
    let c = m.width;
    let mut take = |name: &str, shape: &[usize]| weights.take(&format!("h.{i}.{name}.weight"), shape);
    let ln_1 = Norm { weight: var(take("ln_1", &[c])?, &[c])?, eps: m.norm_eps };
    let all = take("attn.c_attn", &[c, 3 * c])?;
    let mut part = |n: usize| var(exported::columns(&all, 3 * c, n * c, c), &[c, c]);
    let attention = [part(0)?, part(1)?, part(2)?];
    let projection = var(take("attn.c_proj", &[c, c])?, &[c, c])?;
    let ln_2 = Norm { weight: var(take("ln_2", &[c])?, &[c])?, eps: m.norm_eps };
    let up = var(take("mlp.c_fc", &[c, 4 * c])?, &[c, 4 * c])?;
    let down = var(take("mlp.c_proj", &[4 * c, c])?, &[4 * c, c])?;
    Ok(Block { ln_1, attention, projection, ln_2, up, down })
}

impl Peer for Candle {
    fn micro(&mut self, ids: &[u32], targets: &[u32], share: f64) -> Result<f64> {
        let shape = (self.rows, ids.len() / self.rows);
        let ids = Tensor::from_slice(ids, shape, &Device::Cpu)?;
        let targets = Tensor::from_slice(targets, shape, &Device::Cpu)?;
        let loss = self.loss(&ids, &targets)?;
        let loss = if share == 1.0 { loss } else { (loss * share)? };
        let mut gradients = loss.backward()?;
        if let Some(before) = &self.gradients {
            for var in &self.vars {
                if let (Some(new), Some(old)) = (gradients.get(var), before.get(var)) {
                    let sum = (new + old)?;
                    gradients.insert(var, sum);
                }
            }
        }
        self.gradients = Some(gradients);
        Ok(loss.to_dtype(DType::F64)?.to_scalar()?)
    }

    fn update(&mut self, rate: f64, clip: f64) -> Result<()> {
        let Some(mut gradients) = self.gradients.take() else { return Ok(()) };
        if clip > 0.0 {
            let mut square = 0.0;
            for var in &self.vars {
                let gradient = gradients.get(var);
                let gradient = gradient.ok_or_else(|| anyhow::anyhow!("a weight {:?} has no gradient", var.shape()))?;
                square += gradient.sqr()?.sum_all()?.to_scalar::<f32>()? as f64;
            }
            let factor = clip / (square.sqrt() + 1e-6);
            if factor < 1.0 {
                for var in &self.vars {
                    if let Some(gradient) = gradients.get(var) {
                        let smaller = (gradient * factor)?;
                        gradients.insert(var, smaller);
                    }
                }
            }
        }
        for optimizer in &mut self.optimizers {
            optimizer.set_learning_rate(rate);
            optimizer.step(&gradients)?;
        }
        Ok(())
    }

    fn parameters(&self) -> usize {
        self.vars.iter().map(|var| var.elem_count()).sum()
    }
}

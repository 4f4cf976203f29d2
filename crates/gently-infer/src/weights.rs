//! A model's weights as the plan reads them: packed, merged, each in one place.
//!
//! Here: taking a [`Decoder`] apart by the names of its parameters. Not here: what is computed with them (see
//! [`crate::Plan`]).

use crate::error::{Error, Result};
use gently_kernels::gemm::Activation;
use gently_kernels::gemm::packed::{Finish, Packed};
use gently_kernels::norm;
use gently_models::config::{DecoderConfig, MlpKind, NormKind, NormPlace, Position};
use gently_models::{Decoder, Param};
use gently_tensor::DType;
use std::collections::BTreeMap;
use xxhash_rust::xxh3::Xxh3;

/// A weight matrix `[rows, cols]` with its bias, ready for products.
pub(crate) enum Matrix {
    F32(Packed),
}

impl Matrix {
    /// `y[N, rows] = finish(x[N, cols])`.
    pub fn product(&self, x: &[f32], y: &mut [f32], finish: Finish) {
        match self {
            Self::F32(w) => w.product(x, y, finish),
        }
    }

    /// Width of a row of y.
    pub fn rows(&self) -> usize {
        match self {
            Self::F32(w) => w.rows(),
        }
    }

    /// One row of the matrix: a token's embedding.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        match self {
            Self::F32(w) => w.row(r, out),
        }
    }

    /// Bytes held, which are the bytes read by a product.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(w) => w.bytes(),
        }
    }
}

/// A norm of rows of C channels.
pub(crate) struct Norm {
    kind: norm::Kind,
    pub weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// The kernel's view.
    pub fn view(&self) -> norm::Norm<'_, f32> {
        norm::Norm {
            kind: self.kind,
            width: self.weight.len(),
            weight: Some(&self.weight),
            bias: self.bias.as_deref(),
            eps: self.eps,
        }
    }
}

/// One block.
pub(crate) struct Layer {
    pub mixer_norm: Norm,
    pub mixer_out_norm: Option<Norm>,
    /// `[(H+2Hk)·D, C]`
    pub qkv: Matrix,
    /// Norms of a query's and a key's head.
    pub qk_norm: Option<(Norm, Norm)>,
    /// `[C, H·D]`
    pub out: Matrix,
    pub mlp_norm: Norm,
    pub mlp_out_norm: Option<Norm>,
    /// `[M, C]`, gated for SwiGLU.
    pub up: Matrix,
    pub activation: Activation,
    /// `[C, M]`
    pub down: Matrix,
}

/// The whole model.
pub(crate) struct Weights {
    pub cfg: DecoderConfig,
    /// `[V, C]`: embeddings, and the head when tied.
    pub tokens: Matrix,
    /// `[context, C]`
    pub positions: Option<Vec<f32>>,
    pub layers: Vec<Layer>,
    pub final_norm: Option<Norm>,
    /// `[V, C]`; `None` when tied.
    pub head: Option<Matrix>,
    /// Tells one model from another, for saved states.
    pub identity: u64,
}

impl Weights {
    /// Packs the parameters of a decoder.
    pub fn of(model: &Decoder) -> Result<Self> {
        let cfg = model.config().clone();
        refuse(&cfg)?;
        let mut parts = Parts::new(model.params());
        let (c, v, m) = (cfg.width, cfg.vocab, cfg.mlp_width());
        let hd = cfg.heads * cfg.head_width();

        let tokens = parts.matrix("embed.tokens", v, c, false)?;
        let positions = parts.vector("embed.positions")?;
        let mut layers = Vec::with_capacity(cfg.layers);
        for i in 0..cfg.layers {
            let name = |part: &str| format!("blocks.{i}.{part}");
            let gated = cfg.mlp == MlpKind::Swiglu;
            let up = name(if gated { "mlp.gate_up" } else { "mlp.up" });
            let head_norm =
                |scale: Vec<f32>| Norm { kind: norm::Kind::Rms, weight: scale, bias: None, eps: cfg.norm_eps as f32 };
            let q_norm = parts.vector(&name("mixer.q_norm.weight"))?.map(head_norm);
            let k_norm = parts.vector(&name("mixer.k_norm.weight"))?.map(head_norm);
            layers.push(Layer {
                mixer_norm: parts.norm(&cfg, &name("mixer_norm"))?,
                mixer_out_norm: parts.norm_if(&cfg, &name("mixer_out_norm"))?,
                qkv: parts.matrix(&name("mixer.qkv"), cfg.qkv_width(), c, false)?,
                qk_norm: q_norm.zip(k_norm),
                out: parts.matrix(&name("mixer.out"), c, hd, false)?,
                mlp_norm: parts.norm(&cfg, &name("mlp_norm"))?,
                mlp_out_norm: parts.norm_if(&cfg, &name("mlp_out_norm"))?,
                up: parts.matrix(&up, m, c, gated)?,
                activation: activation(cfg.mlp),
                down: parts.matrix(&name("mlp.down"), c, m, false)?,
            });
        }
        let final_norm = parts.norm_if(&cfg, "final_norm")?;
        let head = if cfg.tied_head { None } else { Some(parts.matrix("head", v, c, false)?) };
        let identity = parts.finish(&cfg)?;
        Ok(Self { cfg, tokens, positions, layers, final_norm, head, identity })
    }

    /// The matrix of the head.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.tokens)
    }

    /// Bytes of weights that one pass reads, whatever its number of rows: all matrices, and the head once.
    pub fn bytes_per_pass(&self) -> usize {
        let layer = |l: &Layer| l.qkv.bytes() + l.out.bytes() + l.up.bytes() + l.down.bytes();
        self.layers.iter().map(layer).sum::<usize>() + self.head().bytes()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let table = self.head.as_ref().map_or(0, |_| self.tokens.bytes());
        self.bytes_per_pass() + table + self.positions.as_ref().map_or(0, |p| 4 * p.len())
    }
}

/// Choices that the plan does not compute must not be dropped silently.
fn refuse(cfg: &DecoderConfig) -> Result<()> {
    let natural = 1.0 / (cfg.head_width() as f64).sqrt();
    let choices = [
        ("mlp = geglu", cfg.mlp == MlpKind::Geglu),
        ("norm_place = out", cfg.norm_place == NormPlace::Out),
        ("rotary_width", cfg.position == Position::Rotary && cfg.rotary_width() != cfg.head_width()),
        ("rope_factors", cfg.rope_factors.is_some()),
        ("local_rope_theta", cfg.local_rope_theta.is_some() && cfg.window.is_some()),
        ("window_skip", cfg.window_skip.is_some() && cfg.window.is_some()),
        ("qk_norm_wide", cfg.qk_norm_wide),
        ("attention_scale", (cfg.attention_scale() - natural).abs() > 1e-9),
        ("embed_scale", cfg.embed_scale.is_some()),
        ("embed_norm", cfg.embed_norm),
        ("parallel", cfg.parallel),
        ("bidirectional", cfg.bidirectional),
    ];
    match choices.iter().find(|(_, wanted)| *wanted) {
        Some((choice, _)) => Err(Error::Lowering { what: format!("the model's {choice} has no fused form yet") }),
        None => Ok(()),
    }
}

fn activation(kind: MlpKind) -> Activation {
    match kind {
        MlpKind::Gelu => Activation::GeluTanh,
        MlpKind::GeluErf => Activation::GeluErf,
        MlpKind::Relu => Activation::Relu,
        MlpKind::Relu2 => Activation::Relu2,
        MlpKind::Silu => Activation::Silu,
        // The gate is applied by the packed weights.
        MlpKind::Swiglu | MlpKind::Geglu => Activation::None,
    }
}

/// Parameters by name, each to be taken once.
struct Parts<'a> {
    rest: BTreeMap<&'a str, &'a Param>,
    hash: Xxh3,
}

impl<'a> Parts<'a> {
    fn new(params: &'a [Param]) -> Self {
        Self { rest: params.iter().map(|p| (p.name.as_str(), p)).collect(), hash: Xxh3::new() }
    }

    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(param) = self.rest.remove(name) else { return Ok(None) };
        let values = param.tensor.to_dtype(DType::F32)?.to_vec::<f32>()?;
        // Enough of each tensor to tell models apart; all of it would cost a pass over memory.
        self.hash.update(name.as_bytes());
        values.iter().step_by(values.len() / 64 + 1).for_each(|v| self.hash.update(&v.to_le_bytes()));
        Ok(Some(values))
    }

    fn need(&mut self, name: &str) -> Result<Vec<f32>> {
        self.vector(name)?.ok_or_else(|| Error::Lowering { what: format!("it has no parameter {name}") })
    }

    /// `[rows, cols]`, or `[2·rows, cols]` when gated, under `name` or `name.weight` with `name.bias`.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize, gated: bool) -> Result<Matrix> {
        let bare = self.vector(name)?;
        let values = match bare {
            Some(values) => values,
            None => self.need(&format!("{name}.weight"))?,
        };
        let bias = self.vector(&format!("{name}.bias"))?;
        let all = if gated { 2 * rows } else { rows };
        if values.len() != all * cols || bias.as_ref().is_some_and(|b| b.len() != all) {
            return Err(Error::Lowering { what: format!("{name} is not a matrix of {all} rows and {cols} columns") });
        }
        let pack = if gated { Packed::gated } else { Packed::new };
        Ok(Matrix::F32(pack(&values, rows, cols, bias.as_deref())))
    }

    fn norm_if(&mut self, cfg: &DecoderConfig, name: &str) -> Result<Option<Norm>> {
        let Some(weight) = self.vector(&format!("{name}.weight"))? else { return Ok(None) };
        let kind = match cfg.norm {
            NormKind::Layer => norm::Kind::Layer,
            NormKind::Rms => norm::Kind::Rms,
        };
        let bias = self.vector(&format!("{name}.bias"))?;
        Ok(Some(Norm { kind, weight, bias, eps: cfg.norm_eps as f32 }))
    }

    fn norm(&mut self, cfg: &DecoderConfig, name: &str) -> Result<Norm> {
        self.norm_if(cfg, name)?.ok_or_else(|| Error::Lowering { what: format!("it has no norm {name}") })
    }

    /// All parameters must have been taken: one that is left would be silently ignored.
    fn finish(mut self, cfg: &DecoderConfig) -> Result<u64> {
        if let Some(name) = self.rest.keys().next() {
            return Err(Error::Lowering { what: format!("parameter {name} has no place in it") });
        }
        self.hash.update(serde_json::Value::Object(cfg.to_keys()).to_string().as_bytes());
        Ok(self.hash.digest())
    }
}

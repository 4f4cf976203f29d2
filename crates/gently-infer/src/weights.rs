//! A model's weights as the plan reads them: packed, merged, each in one place.
//!
//! Here: taking a [`Decoder`], or the files of a published model, apart by the names of our parameters. Not here: what is
//! computed with them (see [`crate::pass`]).

use crate::error::{Error, Result, no_parameter};
use crate::matrix::{Matrix, Stored};
use gently_kernels::activation::Activation;
use gently_kernels::buffer::OutOfMemory;
use gently_kernels::norm;
use gently_kernels::quant::{BlockType, PackArena, dequantize};
use gently_models::config::{DecoderConfig, MlpKind, NormKind};
use gently_models::weights::WeightSource;
use gently_models::{Decoder, Param};
use gently_tensor::DType;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::Xxh3;

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

/// The way into the MLP's hidden row.
pub(crate) enum Up {
    /// One matrix; with a gate, gate and up in one.
    One(Matrix),
    /// Gate and up of different types.
    Two(Matrix, Matrix),
}

/// One block.
pub(crate) struct Layer {
    pub mixer_norm: Norm,
    pub mixer_out_norm: Option<Norm>,
    /// `[(H+2Hk)·D, C]`
    pub qkv: Matrix,
    /// Norms of queries and of keys, each head by itself or all in one row.
    pub qk_norm: Option<(Norm, Norm)>,
    /// `[C, H·D]`
    pub out: Matrix,
    pub mlp_norm: Norm,
    pub mlp_out_norm: Option<Norm>,
    /// To `[M]`
    pub up: Up,
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
    pub embed_norm: Option<Norm>,
    pub layers: Vec<Layer>,
    pub final_norm: Option<Norm>,
    /// `[V, C]`; `None` when tied.
    pub head: Option<Matrix>,
    /// Tells one model from another, for saved states.
    pub identity: u64,
}

impl Weights {
    /// Packs the parameters of a decoder, whose configuration says all that is computed with them.
    pub fn of_decoder(model: &Decoder) -> Result<Self> {
        // Their parameters may be named like the block's own: only the model knows.
        if model.has_other_mixers() {
            return Err(Error::Lowering { what: "it has mixers from elsewhere".into() });
        }
        let params = model.params().iter().map(|p| (p.name.clone(), p)).collect();
        Self::of(model.config(), Source::Memory(params))
    }

    /// Packs the weights of a published model as they are stored.
    pub fn of_files(source: &WeightSource) -> Result<Self> {
        Self::of(source.config(), Source::Files(source))
    }

    fn of(cfg: &DecoderConfig, source: Source<'_>) -> Result<Self> {
        let cfg = cfg.clone();
        let mut parts = Parts::new(source);
        let (c, v, m) = (cfg.width, cfg.vocab, cfg.mlp_width());
        let hd = cfg.heads * cfg.head_width();

        let tokens = parts.matrix("embed.tokens", v, c)?;
        let positions = parts.vector("embed.positions")?;
        let embed_norm = parts.norm_if(&cfg, "embed_norm")?;
        let mut layers = Vec::new();
        for i in 0..cfg.layers {
            let name = |part: &str| format!("blocks.{i}.{part}");
            let head_norm =
                |weight: Vec<f32>| Norm { kind: norm::Kind::Rms, weight, bias: None, eps: cfg.norm_eps as f32 };
            let q_norm = parts.vector(&name("mixer.q_norm.weight"))?.map(head_norm);
            let k_norm = parts.vector(&name("mixer.k_norm.weight"))?.map(head_norm);
            layers.push(Layer {
                mixer_norm: parts.norm(&cfg, &name("mixer_norm"))?,
                mixer_out_norm: parts.norm_if(&cfg, &name("mixer_out_norm"))?,
                qkv: parts.matrix(&name("mixer.qkv.weight"), cfg.qkv_width(), c)?,
                qk_norm: q_norm.zip(k_norm),
                out: parts.matrix(&name("mixer.out.weight"), c, hd)?,
                mlp_norm: parts.norm(&cfg, &name("mlp_norm"))?,
                mlp_out_norm: parts.norm_if(&cfg, &name("mlp_out_norm"))?,
                up: match cfg.mlp.is_gated() {
                    true => parts.gated(&name("mlp.gate_up.weight"), m, c)?,
                    false => Up::One(parts.matrix(&name("mlp.up.weight"), m, c)?),
                },
                activation: activation(cfg.mlp),
                down: parts.matrix(&name("mlp.down.weight"), c, m)?,
            });
        }
        let final_norm = parts.norm_if(&cfg, "final_norm")?;
        let head = if cfg.tied_head { None } else { Some(parts.matrix("head.weight", v, c)?) };
        let identity = parts.finish(&cfg)?;
        Ok(Self { cfg, tokens, positions, embed_norm, layers, final_norm, head, identity })
    }

    /// The matrix of the head.
    pub fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.tokens)
    }

    /// All matrices of products, the head once.
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers
            .iter()
            .flat_map(|l| {
                let (up, more) = match &l.up {
                    Up::One(up) => (up, None),
                    Up::Two(gate, up) => (gate, Some(up)),
                };
                [Some(&l.qkv), Some(&l.out), Some(up), more, Some(&l.down)].into_iter().flatten()
            })
            .chain([self.head()])
    }

    /// Bytes of weights that one pass reads, whatever its number of rows: all matrices, and the head once.
    pub fn bytes_per_pass(&self) -> usize {
        self.matrices().map(Matrix::bytes).sum()
    }

    /// Bytes of matrices by the name of their type.
    pub fn types(&self) -> BTreeMap<&'static str, usize> {
        let mut all = BTreeMap::new();
        for (name, bytes) in self.matrices().flat_map(Matrix::types) {
            *all.entry(name).or_insert(0) += bytes;
        }
        all
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let table = self.head.as_ref().map_or(0, |_| self.tokens.bytes());
        self.bytes_per_pass() + table + self.positions.as_ref().map_or(0, |p| 4 * p.len())
    }
}

fn activation(kind: MlpKind) -> Activation {
    match kind {
        MlpKind::Gelu | MlpKind::Geglu => Activation::GeluTanh,
        MlpKind::GeluErf => Activation::GeluErf,
        MlpKind::Relu => Activation::Relu,
        MlpKind::Relu2 => Activation::Relu2,
        MlpKind::Silu | MlpKind::Swiglu => Activation::Silu,
    }
}

/// Where parameters come from.
enum Source<'a> {
    Memory(BTreeMap<String, &'a Param>),
    Files(&'a WeightSource),
}

impl<'a> Source<'a> {
    fn names(&self) -> BTreeSet<String> {
        match self {
            Self::Memory(params) => params.keys().cloned().collect(),
            Self::Files(files) => files.params().map(|(name, _)| name.to_owned()).collect(),
        }
    }

    fn release(&self) {
        if let Self::Files(files) = self {
            files.release();
        }
    }

    /// The rows of a parameter that there is, with the length of a row.
    fn parts(&self, name: &str) -> Result<(Vec<Stored<'a>>, usize)> {
        match self {
            Self::Memory(params) => {
                let Some(param) = params.get(name) else { return Ok((Vec::new(), 0)) };
                let values = param.tensor.to_dtype(DType::F32)?.to_vec::<f32>()?;
                let rows = param.tensor.dims().first().copied().unwrap_or(1);
                let cols = values.len() / rows.max(1);
                Ok((vec![Stored { ty: BlockType::F32, rows, bytes: bytes_of(name, &values)? }], cols))
            }
            Self::Files(files) => {
                let parts = files.parts(name)?;
                let cols = parts.first().map_or(0, |p| p.cols);
                let stored = |p: gently_models::weights::Part<'a>| -> Result<Stored<'a>> {
                    Ok(match BlockType::from_ggml_id(p.kind.id()) {
                        Some(ty) => Stored { ty, rows: p.rows, bytes: p.bytes },
                        // Types that products do not know become numbers.
                        None => Stored { ty: BlockType::F32, rows: p.rows, bytes: bytes_of(name, &p.to_f32()?)? },
                    })
                };
                Ok((parts.into_iter().map(stored).collect::<Result<_>>()?, cols))
            }
        }
    }
}

/// Parameters by name, each to be taken once.
struct Parts<'a> {
    source: Source<'a>,
    rest: BTreeSet<String>,
    hash: Xxh3,
    /// All matrices lie side by side: whole layers in huge pages.
    arena: PackArena,
}

impl<'a> Parts<'a> {
    fn new(source: Source<'a>) -> Self {
        Self { rest: source.names(), source, hash: Xxh3::new(), arena: PackArena::new() }
    }

    fn take(&mut self, name: &str) -> Result<Option<(Vec<Stored<'a>>, usize)>> {
        if !self.rest.remove(name) {
            return Ok(None);
        }
        // What came before is packed by now: the file's pages need not be held beside it.
        self.source.release();
        let (parts, cols) = self.source.parts(name)?;
        // Enough of each tensor to tell models apart; all of it would cost a pass over memory.
        self.hash.update(name.as_bytes());
        for part in &parts {
            part.bytes.chunks(part.bytes.len() / 64 + 1).for_each(|c| self.hash.update(&c[..c.len().min(8)]));
        }
        Ok(Some((parts, cols)))
    }

    /// A parameter that is computed with as it is.
    fn vector(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some((parts, cols)) = self.take(name)? else { return Ok(None) };
        let mut all = room::<f32>(name, parts.iter().map(|p| p.rows * cols).sum())?;
        for part in parts {
            let at = all.len();
            all.resize(at + part.rows * cols, 0.0);
            dequantize(part.ty, &part.bytes, &mut all[at..]).map_err(no_parameter(name))?;
        }
        Ok(Some(all))
    }

    /// The rows of a matrix of known size, with its bias.
    fn rows(&mut self, name: &str, rows: usize, cols: usize) -> Result<(Vec<Stored<'a>>, Option<Vec<f32>>)> {
        let Some((parts, width)) = self.take(name)? else {
            return Err(Error::Lowering { what: format!("it has no parameter {name}") });
        };
        if width != cols || parts.iter().map(|p| p.rows).sum::<usize>() != rows {
            return Err(Error::Lowering { what: format!("{name} is not a matrix of {rows} rows and {cols} columns") });
        }
        let bias = match name.strip_suffix(".weight") {
            Some(layer) => self.vector(&format!("{layer}.bias"))?,
            None => None,
        };
        Ok((parts, bias))
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let (parts, bias) = self.rows(name, rows, cols)?;
        Matrix::pack(&mut self.arena, name, &parts, cols, bias)
    }

    /// Gate over up, `[2·rows, cols]`.
    fn gated(&mut self, name: &str, rows: usize, cols: usize) -> Result<Up> {
        let (parts, bias) = self.rows(name, 2 * rows, cols)?;
        let (gate, up) = halves(name, parts, rows, cols)?;
        match (<[_; 1]>::try_from(gate), <[_; 1]>::try_from(up)) {
            (Ok([gate]), Ok([up])) if gate.ty == up.ty => {
                Ok(Up::One(Matrix::gated(&mut self.arena, name, [gate, up], cols, bias)?))
            }
            (gate, up) => {
                let whole = |half: Result<[Stored<'a>; 1], Vec<Stored<'a>>>| half.map_or_else(|v| v, |one| one.into());
                let (first, second) = match bias {
                    Some(mut bias) => {
                        let second = bias.split_off(rows);
                        (Some(bias), Some(second))
                    }
                    None => (None, None),
                };
                let gate = Matrix::pack(&mut self.arena, name, &whole(gate), cols, first)?;
                Ok(Up::Two(gate, Matrix::pack(&mut self.arena, name, &whole(up), cols, second)?))
            }
        }
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
        if let Some(name) = self.rest.first() {
            return Err(Error::Lowering { what: format!("parameter {name} has no place in it") });
        }
        self.hash.update(serde_json::Value::Object(cfg.to_keys()).to_string().as_bytes());
        Ok(self.hash.digest())
    }
}

/// Room for `len` elements of a parameter.
///
/// # Errors
/// [`Error::NoMemory`].
fn room<T>(name: &str, len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    let refused = OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) };
    room.try_reserve_exact(len).map_err(|_| no_parameter(name)(refused.into()))?;
    Ok(room)
}

/// Numbers of a parameter as they are stored.
///
/// # Errors
/// [`Error::NoMemory`].
fn bytes_of(name: &str, values: &[f32]) -> Result<Cow<'static, [u8]>> {
    let mut bytes = room::<u8>(name, size_of_val(values))?;
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    Ok(Cow::Owned(bytes))
}

/// Cuts parts of `[2·rows, cols]` after `rows`.
fn halves<'a>(
    name: &str,
    parts: Vec<Stored<'a>>,
    rows: usize,
    cols: usize,
) -> Result<(Vec<Stored<'a>>, Vec<Stored<'a>>)> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut at = 0;
    for part in parts {
        let here = rows.saturating_sub(at).min(part.rows);
        at += part.rows;
        if here == part.rows {
            first.push(part);
        } else if here == 0 {
            second.push(part);
        } else {
            let Some(cut) = part.ty.row_bytes(cols).map(|b| b * here) else {
                return Err(Error::Lowering { what: format!("{name} has rows of no whole number of blocks") });
            };
            let (above, below) = match part.bytes {
                Cow::Borrowed(bytes) => {
                    let (above, below) = bytes.split_at(cut);
                    (Cow::Borrowed(above), Cow::Borrowed(below))
                }
                Cow::Owned(mut bytes) => {
                    let mut below = room(name, bytes.len() - cut)?;
                    below.extend_from_slice(&bytes[cut..]);
                    bytes.truncate(cut);
                    (Cow::Owned(bytes), Cow::Owned(below))
                }
            };
            first.push(Stored { ty: part.ty, rows: here, bytes: above });
            second.push(Stored { ty: part.ty, rows: part.rows - here, bytes: below });
        }
    }
    Ok((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_no_machine_has_is_refused_by_name() {
        for len in [1 << 46, usize::MAX] {
            let said = room::<f32>("w", len).unwrap_err();
            let wanted = format!("there is no memory for {} bytes of weights (w)", len.saturating_mul(4));
            assert!(matches!(said, Error::NoMemory { .. }) && said.to_string() == wanted, "{said}");
        }
        assert_eq!(bytes_of("w", &[1.0, -2.0]).unwrap()[..], [0, 0, 128, 63, 0, 0, 0, 192]);
    }
}

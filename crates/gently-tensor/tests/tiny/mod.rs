//! A decoder small enough for tests and made of the operations that real ones use; on any device.

use gently_tensor::*;

pub const B: usize = 4;
pub const T: usize = 24;
pub const V: usize = 96;
pub const C: usize = 64;
pub const H: usize = 4;
const LAYERS: usize = 3;

#[derive(Clone)]
struct Block {
    norm1: [Tensor; 2],
    qkv: Tensor,
    out: Tensor,
    norm2: [Tensor; 2],
    up: [Tensor; 2],
    down: [Tensor; 2],
}

pub struct Tiny {
    embed: Tensor,
    position: Tensor,
    blocks: Vec<Block>,
    norm: [Tensor; 2],
    pub ids: Tensor,
    pub targets: Tensor,
    pub recompute: bool,
    pub dropout: f64,
}

impl Block {
    fn run(&self, x: &Tensor, dropout: f64, rng: &mut Rng) -> Result<Tensor> {
        let (b, t) = (x.dims()[0], x.dims()[1]);
        let spec = AttentionSpec::causal(C / H).with_dropout(dropout, rng)?;
        let y = x
            .layer_norm(&self.norm1[0], Some(&self.norm1[1]), 1e-5)?
            .linear(&LinearArgs::new(&self.qkv))?
            .attention_packed(H, H, None, None, &spec)?
            .reshape([b, t, C])?;
        let y = y.linear(&LinearArgs::new(&self.out))?.dropout(dropout, rng)?;
        let x = x.add(&y)?;
        let up = LinearArgs::new(&self.up[0]).bias(&self.up[1]).activation(Activation::GeluTanh);
        let down = LinearArgs::new(&self.down[0]).bias(&self.down[1]).residual(&x);
        let h = x.layer_norm(&self.norm2[0], Some(&self.norm2[1]), 1e-5)?;
        h.linear(&up)?.linear(&down)
    }
}

impl Tiny {
    pub fn new(device: &Device) -> Result<Tiny> {
        let mut rng = Rng::new(11).stream("init");
        let mut matrix = |shape: &[usize]| rng.normal(shape, 0.0, 0.08, DType::F32, device)?.param();
        let vector = |n: usize, v: f64| Tensor::full([n], v, DType::F32, device)?.param();
        let norm = || -> Result<[Tensor; 2]> { Ok([vector(C, 1.0)?, vector(C, 0.0)?]) };
        let (embed, position) = (matrix(&[V, C])?, matrix(&[T, C])?);
        let mut blocks = Vec::new();
        for _ in 0..LAYERS {
            blocks.push(Block {
                norm1: norm()?,
                qkv: matrix(&[3 * C, C])?,
                out: matrix(&[C, C])?,
                norm2: norm()?,
                up: [matrix(&[4 * C, C])?, vector(4 * C, 0.0)?],
                down: [matrix(&[C, 4 * C])?, vector(C, 0.0)?],
            });
        }
        let words = |step: usize| -> Vec<u32> { (0..B * T).map(|i| ((i * i * 7 + step * i + 3) % V) as u32).collect() };
        Ok(Tiny {
            embed,
            position,
            blocks,
            norm: norm()?,
            ids: Tensor::from_slice(&words(1), [B, T], device)?,
            targets: Tensor::from_slice(&words(5), [B, T], device)?,
            recompute: false,
            dropout: 0.0,
        })
    }

    pub fn params(&self) -> Vec<Tensor> {
        let mut all = vec![self.embed.clone(), self.position.clone()];
        for b in &self.blocks {
            all.extend(b.norm1.iter().chain([&b.qkv, &b.out]).cloned());
            all.extend(b.norm2.iter().chain(&b.up).chain(&b.down).cloned());
        }
        all.extend(self.norm.iter().cloned());
        all
    }

    pub fn loss(&self, ids: &Tensor, targets: &Tensor, rng: &mut Rng) -> Result<Tensor> {
        let mut x = self.embed.embedding_with_positions(ids, &self.position, 0)?;
        for block in &self.blocks {
            x = if self.recompute {
                let (block, p) = (block.clone(), self.dropout);
                checkpoint(&[&x], rng, move |xs, rng| block.run(&xs[0], p, rng))?
            } else {
                block.run(&x, self.dropout, rng)?
            };
        }
        let x = x.layer_norm(&self.norm[0], Some(&self.norm[1]), 1e-5)?;
        let scale = 1.0 / (B * T) as f64;
        x.linear_cross_entropy(&self.embed, targets, scale, None, Compute::F32)
    }

    pub fn step(&self, rng: &mut Rng, grads: &mut Grads) -> Result<Tensor> {
        grads.clear();
        let loss = self.loss(&self.ids, &self.targets, rng)?;
        loss.backward_into(grads)?;
        Ok(loss)
    }
}

//! A token mixer of one's own in a decoder: the running mean of what came before.
//!
//! `cargo run --release --example custom_mixer`

use gently::models::init::Init;
use gently::models::mixers::{MixCtx, Mixer, MixerState};
use gently::models::params::{Builder, ParamKind};
use gently::models::{Error, Result};
use gently::prelude::*;
use gently::tensor::LinearArgs;

/// y_t = W · mean(x_1 … x_t). The state is the sum so far and how many there were.
struct RunningMean {
    weight: Tensor, // [C,C]
}

#[derive(Clone)]
struct Sum {
    sum: Tensor, // [B,1,C]
    len: usize,
}

impl Mixer for RunningMean {
    type State = Sum;

    fn mix(&self, x: &Tensor, state: &mut Sum, cx: &MixCtx) -> Result<Tensor> {
        let (b, t, c) = (x.dims()[0], x.dims()[1], x.dims()[2]);
        // Row t of `weights` averages tokens 0..=t, and its last column weighs the sum that the state brings.
        let mut weights = vec![0.0f32; t * (t + 1)];
        for (i, row) in weights.chunks_mut(t + 1).enumerate() {
            let share = 1.0 / (state.len + i + 1) as f32;
            row[..=i].fill(share);
            row[t] = share;
        }
        let weights = Tensor::from_slice(&weights, [t, t + 1], &x.device())?;
        let mean = weights.matmul(&Tensor::cat(&[x, &state.sum], 1)?)?; // [B,T,C]
        if cx.keep {
            let len = state.len + t;
            state.sum = mean.narrow(1, t - 1, 1)?.affine(len as f64, 0.0)?; // [B,1,C]
            state.len = len;
        }
        let y = mean.reshape([b * t, c])?.linear(&LinearArgs::new(&self.weight))?.reshape([b, t, c])?;
        match &cx.residual {
            Some(residual) => Ok(y.add(residual)?),
            None => Ok(y),
        }
    }

    fn init_state(&self, batch: usize) -> Sum {
        let c = self.weight.dims()[1];
        let sum = Tensor::zeros([batch, 1, c], DType::F32, &self.weight.device()).expect("three sizes make a tensor");
        Sum { sum, len: 0 }
    }
}

impl MixerState for Sum {
    fn len(&self) -> usize {
        self.len
    }
    fn truncate(&mut self, len: usize) -> Result<()> {
        match len == self.len {
            true => Ok(()),
            false => Err(Error::State { what: "a running mean cannot go back".into() }),
        }
    }
    fn bytes(&self) -> usize {
        self.sum.numel() * 4
    }
    fn save(&self) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("sum", self.sum.clone())])
    }
    fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()> {
        let sum = get("sum")?;
        if sum.dims() != self.sum.dims() {
            return Err(Error::State { what: format!("a sum of shape {:?}, not {:?}", sum.dims(), self.sum.dims()) });
        }
        (self.sum, self.len) = (sum, len);
        Ok(())
    }
}

/// A decoder with such a mixer in each layer.
pub fn model(config: &DecoderConfig, rng: &Rng, device: &Device) -> Result<Decoder> {
    let c = config.width;
    Decoder::with_mixers(config, Builder::new(Some(rng), device), |b: &mut Builder, _layer| {
        let weight = b.param("weight", &[c, c], Init::Normal { std: 0.1 }, ParamKind::Matrix)?;
        Ok(Box::new(RunningMean { weight }))
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config =
        DecoderConfig { vocab: 8, layers: 2, heads: 1, width: 32, context: 64, ..DecoderConfig::named("gpt2")? };
    let model = model(&config, &Rng::new(1), &Device::Cpu)?;

    // Learn to count: 0 1 2 … 7 0 1 2 … — plain gradient descent is enough.
    let ids: Vec<u32> = (0..64).map(|i| i % 8).collect();
    let next: Vec<u32> = (1..65).map(|i| i % 8).collect();
    let (ids, next) = (model.ids(&ids, 1)?, model.ids(&next, 1)?);
    let batch = Batch { ids: &ids, targets: &next, docs: None };
    let (mut first, mut last) = (None, 0.0);
    for _ in 0..200 {
        let loss = model.loss(&batch, 1.0 / 64.0, &ForwardCx { training: true, ..Default::default() })?;
        last = loss.item::<f32>()?;
        first.get_or_insert(last);
        let grads = loss.backward()?;
        for p in model.params() {
            let Some(grad) = grads.get(&p.tensor) else { continue };
            let grad = grad.to_vec::<f32>()?;
            p.tensor.with_data_mut::<f32, _>(|w| w.iter_mut().zip(&grad).for_each(|(w, g)| *w -= 0.5 * g))?;
        }
    }
    println!("loss {:.3} before, {last:.3} after", first.unwrap_or(last));

    // Step by step, the model says the same as all at once.
    let mut state = model.init_state(1);
    let mut token = 3;
    let mut said = vec![token];
    for _ in 0..8 {
        let logits = model.step(&model.ids(&[token], 1)?, &mut state)?.to_vec::<f32>()?;
        token = (0..8u32).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize])).unwrap_or(0);
        said.push(token);
    }
    println!("counts on from 3: {said:?}");

    // A folder holds its weights, but no code: whoever reads it makes the same model first.
    let folder = std::env::temp_dir().join(format!("gently-custom-mixer-{}", std::process::id()));
    model.save_pretrained(&folder)?;
    let again = self::model(&config, &Rng::new(2), &Device::Cpu)?;
    again.load_weights(&folder)?;
    std::fs::remove_dir_all(&folder)?;
    let loss = again.loss(&batch, 1.0 / 64.0, &ForwardCx::default())?.item::<f32>()?;
    println!("loss {loss:.3} after it was saved and loaded");
    Ok(())
}

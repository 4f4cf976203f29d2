//! A mixer written outside the crate, in a model and under its laws: the mean of all tokens so far.

use gently_models::config::{DecoderConfig, Family};
use gently_models::init::Init;
use gently_models::layers::Linear;
use gently_models::mixers::{MixCtx, Mixer, MixerState};
use gently_models::params::Builder;
use gently_models::{Batch, Decoder, Error, ForwardCx, Result};
use gently_tensor::{DType, Device, Rng, Tensor};

/// `y_t = W · mean(x_1 … x_t)`.
struct RunningMean {
    out: Linear,
    width: usize,
}

/// The sum of the tokens seen, `[B,1,C]`, and their number.
#[derive(Clone)]
struct Sum {
    total: Tensor,
    seen: usize,
}

impl Mixer for RunningMean {
    type State = Sum;

    fn mix(&self, x: &Tensor, state: &mut Sum, cx: &MixCtx) -> Result<Tensor> {
        let t = x.dims()[1];
        // Row i of the matrix takes the mean of what was seen and of the first i+1 new tokens.
        let share = |i: usize| 1.0 / (state.seen + i + 1) as f32;
        let rows: Vec<f32> = (0..t * t).map(|n| if n % t <= n / t { share(n / t) } else { 0.0 }).collect();
        let shares: Vec<f32> = (0..t).map(share).collect();
        let new = Tensor::from_slice(&rows, [t, t], &x.device())?.matmul(x)?; // [B,T,C]
        let old = state.total.mul(&Tensor::from_slice(&shares, [t, 1], &x.device())?)?; // [B,T,C]
        let y = new.add(&old)?;
        if cx.keep {
            state.total = state.total.add(&x.sum(1, true)?)?;
            state.seen += t;
        }
        self.out.close_branch(&y, cx.residual.as_ref(), cx.dropout_at("branch"), cx.compute)
    }

    fn init_state(&self, batch: usize) -> Sum {
        let total = Tensor::zeros([batch, 1, self.width], DType::F32, &Device::Cpu);
        Sum { total: total.expect("a small tensor of zeros"), seen: 0 }
    }
}

impl MixerState for Sum {
    fn len(&self) -> usize {
        self.seen
    }

    /// A sum does not know its parts: it can only stay or start again.
    fn truncate(&mut self, len: usize) -> Result<()> {
        if len == self.seen {
            return Ok(());
        }
        Err(Error::State { what: format!("a sum of {} tokens cannot go back to {len}", self.seen) })
    }

    fn bytes(&self) -> usize {
        4 * self.total.numel()
    }

    fn save(&self) -> Result<Vec<(&'static str, Tensor)>> {
        Ok(vec![("total", self.total.clone())])
    }

    fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()> {
        let total = get("total")?;
        if total.dims() != self.total.dims() {
            return Err(Error::State { what: format!("a sum of shape {:?}", total.dims()) });
        }
        (self.total, self.seen) = (total, len);
        Ok(())
    }
}

fn model() -> Decoder {
    let cfg =
        DecoderConfig { vocab: 13, context: 32, layers: 2, heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
    let rng = Rng::new(6);
    Decoder::with_mixers(&cfg, Builder::new(Some(&rng), &Device::Cpu), |b, _layer| {
        let init = Init::Normal { std: 0.3 };
        let path = b.path().to_owned();
        Ok(Box::new(RunningMean { out: Linear::new(b.scope(format!("{path}.out")), 8, 8, false, init)?, width: 8 }))
    })
    .unwrap()
}

#[test]
fn it_trains() {
    let model = model();
    let ids = model.ids(&[1, 2, 3, 4, 5, 6], 2).unwrap();
    let batch = Batch { ids: &ids, targets: &ids, docs: None };
    for recompute in [false, true] {
        let cx = ForwardCx { recompute, ..ForwardCx::default() };
        let grads = model.loss(&batch, 1.0, &cx).unwrap().backward().unwrap();
        assert!(model.params().iter().all(|p| grads.get(&p.tensor).is_some()));
    }
    assert!(model.params().iter().any(|p| p.name == "blocks.1.mixer.out.weight"));
}

#[test]
fn any_split_is_the_whole_and_states_are_kept() {
    let model = model();
    let ids = [1, 5, 2, 8, 12, 3, 3, 7];
    let whole = model.logits(&model.ids(&ids, 1).unwrap(), &ForwardCx::default()).unwrap();
    let last = whole.narrow(1, 7, 1).unwrap().to_vec::<f32>().unwrap();
    for split in 1..8 {
        let mut state = model.init_state(1);
        model.step(&model.ids(&ids[..split], 1).unwrap(), &mut state).unwrap();
        let mut loaded = model.init_state(1);
        loaded.restore(state.len(), &state.to_tensors().unwrap()).unwrap();
        let rest = model.ids(&ids[split..], 1).unwrap();
        let a = model.step(&rest, &mut state).unwrap().to_vec::<f32>().unwrap();
        let b = model.step(&rest, &mut loaded).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(a, b);
        assert!(a.iter().zip(&last).all(|(x, y)| (x - y).abs() < 1e-5), "{a:?} {last:?}");
        assert!(matches!(state.truncate(2), Err(Error::State { .. })));
    }
}

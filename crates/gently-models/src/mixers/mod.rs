//! Token mixers: what lets a token know about those before it. One file for each mixer.
//!
//! Here: the [`Mixer`] trait, its state, and the type-erased forms ([`AnyMixer`], [`AnyState`]) that let a model
//! hold mixers of several kinds, also kinds defined outside this crate. Not here: the rest of a block (see
//! [`crate::block`]).
//!
//! **Laws** (tested for each mixer): a sequence gives the same output and the same final state whether it comes
//! at once, in pieces, or token by token; rows of a batch do not influence each other; documents packed into one
//! row do not either; a state that was saved and loaded continues identically.
//!
//! ```
//! use gently_models::config::{DecoderConfig, Family};
//! use gently_models::mixers::{MixCtx, Mixer, SoftmaxAttention};
//! use gently_models::params::Builder;
//! use gently_tensor::{DType, Device, Rng, Tensor};
//! # fn main() -> gently_models::Result<()> {
//! let cfg = DecoderConfig { heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
//! let mut b = Builder::new(Some(&Rng::new(0)), &Device::Cpu);
//! let mixer = SoftmaxAttention::new(&mut b, &cfg, None)?;
//! let mut state = mixer.init_state(1);
//! let cx = MixCtx { keep: true, ..MixCtx::default() };
//! let x = Tensor::ones([1, 3, 8], DType::F32, &Device::Cpu)?;
//! let y = gently_tensor::no_grad(|| mixer.mix(&x, &mut state, &cx))?;
//! assert_eq!(y.dims(), [1, 3, 8]);
//! # Ok(()) }
//! ```

mod kv_cache;
mod softmax;

pub use kv_cache::KvCache;
pub use softmax::SoftmaxAttention;

use crate::error::{Error, Result};
use crate::layers::Dropout;
use gently_tensor::{Compute, Tensor};
use std::any::Any;

/// Mixes information across time. T tokens and a state in, T tokens and the next state out: training (T long,
/// empty state, nothing kept), prefill (T long, state kept) and decoding (T = 1) are one function.
pub trait Mixer: Send + Sync {
    /// What the mixer remembers of the tokens before.
    type State: MixerState;

    /// `x` `[B,T,C]` to `[B,T,C]`, plus `cx.residual` where given. With `cx.keep` the state moves on by T tokens;
    /// without it the state is left as it is.
    ///
    /// # Errors
    /// From the tensor crate, or when the state belongs to another batch or model.
    fn mix(&self, x: &Tensor, state: &mut Self::State, cx: &MixCtx) -> Result<Tensor>;

    /// The state before the first token.
    fn init_state(&self, batch: usize) -> Self::State;
}

/// What a mixer remembers. `Clone` is a fork: it copies nothing until one of the two is written.
pub trait MixerState: Clone + Send + Sync + 'static {
    /// Tokens seen.
    fn len(&self) -> usize;

    /// Whether no token was seen.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the tokens from `len` on.
    ///
    /// # Errors
    /// [`Error::State`] if this state cannot go back that far.
    fn truncate(&mut self, len: usize) -> Result<()>;

    /// Bytes held.
    fn bytes(&self) -> usize;

    /// What must be saved: names and tensors.
    ///
    /// # Errors
    /// From the tensor crate.
    fn save(&self) -> Result<Vec<(&'static str, Tensor)>>;

    /// Takes over saved tensors into a fresh state; `len` tokens were seen.
    ///
    /// # Errors
    /// [`Error::State`] if a tensor is missing or has another shape.
    fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()>;
}

/// What surrounds a mixer in one pass.
#[derive(Debug, Clone, Default)]
pub struct MixCtx {
    /// Whether the state is updated (prefill and decoding) or not (training).
    pub keep: bool,
    /// Arithmetic of matrix products.
    pub compute: Compute,
    /// Dropout probability and the random stream of this layer; absent outside training.
    pub dropout: Option<Dropout>,
    /// `[B,T]` u32 document numbers: a token sees only its own document. Only without a kept state.
    pub docs: Option<Tensor>,
    /// Added to the output, in the same pass where the mixer can.
    pub residual: Option<Tensor>,
}

impl MixCtx {
    /// Dropout at the place called `name`, with a stream of its own.
    pub fn dropout_at(&self, name: &str) -> Option<Dropout> {
        let dropout = self.dropout.as_ref()?;
        Some(Dropout { p: dropout.p, stream: dropout.stream.stream(name) })
    }
}

/// A mixer of any kind. Every [`Mixer`] is one.
pub trait AnyMixer: Send + Sync {
    /// As [`Mixer::mix`].
    ///
    /// # Errors
    /// As [`Mixer::mix`]; [`Error::State`] for the state of another kind of mixer.
    fn mix_any(&self, x: &Tensor, state: &mut AnyState, cx: &MixCtx) -> Result<Tensor>;

    /// As [`Mixer::init_state`].
    fn init_any(&self, batch: usize) -> AnyState;
}

impl<M: Mixer> AnyMixer for M {
    fn mix_any(&self, x: &Tensor, state: &mut AnyState, cx: &MixCtx) -> Result<Tensor> {
        match state.0.as_any().downcast_mut::<M::State>() {
            Some(state) => self.mix(x, state, cx),
            None => Err(Error::State { what: "it belongs to another kind of mixer".into() }),
        }
    }

    fn init_any(&self, batch: usize) -> AnyState {
        AnyState(Box::new(self.init_state(batch)))
    }
}

/// The state of a mixer of any kind.
pub struct AnyState(Box<dyn ErasedState>);

/// [`MixerState`] as a trait object.
trait ErasedState: Send + Sync {
    fn len(&self) -> usize;
    fn truncate(&mut self, len: usize) -> Result<()>;
    fn bytes(&self) -> usize;
    fn save(&self) -> Result<Vec<(&'static str, Tensor)>>;
    fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()>;
    fn fork(&self) -> Box<dyn ErasedState>;
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<S: MixerState> ErasedState for S {
    fn len(&self) -> usize {
        MixerState::len(self)
    }
    fn truncate(&mut self, len: usize) -> Result<()> {
        MixerState::truncate(self, len)
    }
    fn bytes(&self) -> usize {
        MixerState::bytes(self)
    }
    fn save(&self) -> Result<Vec<(&'static str, Tensor)>> {
        MixerState::save(self)
    }
    fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()> {
        MixerState::load(self, len, get)
    }
    fn fork(&self) -> Box<dyn ErasedState> {
        Box::new(self.clone())
    }
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl Clone for AnyState {
    fn clone(&self) -> Self {
        Self(self.0.fork())
    }
}

impl AnyState {
    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`MixerState::truncate`].
    ///
    /// # Errors
    /// As there.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        self.0.truncate(len)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// As [`MixerState::save`].
    ///
    /// # Errors
    /// As there.
    pub fn save(&self) -> Result<Vec<(&'static str, Tensor)>> {
        self.0.save()
    }

    /// As [`MixerState::load`].
    ///
    /// # Errors
    /// As there.
    pub fn load(&mut self, len: usize, get: &mut dyn FnMut(&str) -> Result<Tensor>) -> Result<()> {
        self.0.load(len, get)
    }
}

//! Tensors with reverse-mode differentiation on top of `gently-kernels`.
//!
//! Here: [`Tensor`] with its views and operations, the tape ([`Grads`], [`no_grad`], [`checkpoint()`]), random streams
//! ([`Rng`]), the recycling pool's accounts ([`memory`]), the recorder of kernel calls ([`mod@profile`]) and the gradient
//! check ([`gradcheck`]). Not here: kernels
//! (`gently-kernels`), models, optimizers, files.
//!
//! Shape letters: B batch, T and S time, C channels, H heads, D head width, V vocabulary.
//!
//! ```
//! use gently_tensor::{Device, DType, LinearArgs, Rng, Tensor};
//! let mut rng = Rng::new(1).stream("example");
//! let x = rng.normal([4, 8], 0.0, 1.0, DType::F32, &Device::Cpu)?;
//! let w = rng.normal([3, 8], 0.0, 0.1, DType::F32, &Device::Cpu)?.param()?;
//! let loss = x.linear(&LinearArgs::new(&w))?.sqr()?.mean_all()?;
//! let grads = loss.backward()?;
//! let step = grads.get(&w).unwrap().to_vec::<f32>()?;
//! w.with_data_mut::<f32, _>(|w| w.iter_mut().zip(&step).for_each(|(w, g)| *w -= 0.1 * g))?;
//! # Ok::<(), gently_tensor::Error>(())
//! ```

#![forbid(unsafe_code)]

mod backend;
mod checkpoint;
mod device;
mod dtype;
mod error;
pub mod gradcheck;
pub mod memory;
mod op;
mod ops;
pub mod profile;
mod rng;
mod saved;
mod shape;
mod storage;
mod tape;
mod tensor;
mod view;

pub use checkpoint::checkpoint;
pub use device::Device;
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use gently_kernels::activation::Activation;
pub use gently_kernels::attention::Mask;
pub use gently_kernels::dropout::Dropout;
pub use gently_kernels::gemm::Compute;
pub use gently_kernels::rope::RopeStyle;
pub use half::bf16;
pub use op::Op;
pub use ops::attention::AttentionSpec;
pub use ops::linear::LinearArgs;
pub use ops::loss::IGNORE;
pub use ops::rope::Rope;
pub use rng::Rng;
pub use shape::{Dim, MAX_RANK, Shape, ToShape};
pub use tape::{Grads, is_recording, no_grad};
pub use tensor::{Tensor, TensorId};

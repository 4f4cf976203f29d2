//! CPU kernels for sequence models, on plain slices.
//!
//! This is the only crate of Gently with `unsafe` code. Each kernel stands beside a plain twin that
//! says what it computes, and runs on the best instruction set of the machine ([`cpu`]). Parallel
//! loops go through [`pool`] and are cut by shape, so results do not depend on the number of threads.
//! No graphs, files or models are known here.
//!
//! ```
//! use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
//! let mut c = [0.0];
//! gemm(Compute::F32, Mat::f32(&[3.0], 1, 1), Mat::f32(&[4.0], 1, 1), &mut c, 1, Epilogue::default());
//! assert_eq!(c[0], 12.0);
//! ```

#[cfg(target_endian = "big")]
compile_error!("gently-kernels reads weights and caches as they lie in files, which is little-endian");

pub mod activation;
pub mod attention;
pub mod buffer;
pub mod cast;
pub mod choice;
pub mod cpu;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gemm;
pub mod kv;
mod lanes;
pub mod loss;
pub mod norm;
pub mod optim;
pub mod peak;
pub mod philox;
pub mod pool;
pub mod quant;
pub mod real;
pub mod reduce;
pub mod rope;
pub mod scratch;
pub mod simd;
pub mod simd_math;
pub mod softcap;
pub mod softmax;
mod thread_buffer;

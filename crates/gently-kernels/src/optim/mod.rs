//! Optimizers on plain slices, one pass over memory for each step.
//!
//! Here: [`AdamW`], [`Lion`], [`Muon`]: hyperparameters as structs, each with `step`; moments in f32 or bf16 ([`Moment`]). Not here: schedules,
//! parameter groups and clipping (the trainer's); a clip factor is folded in as `grad_scale`.
//!
//! ```
//! use gently_kernels::optim::AdamW;
//! let (mut w, mut m, mut v) = ([1.0f32], [0.0f32], [0.0f32]);
//! AdamW { lr: 0.1, ..AdamW::default() }.step(1, &mut w, &[0.5], &mut m[..], &mut v[..]);
//! assert!((w[0] - 0.9).abs() < 1e-6); // The first step moves by the learning rate.
//! ```

mod adamw;
mod lion;
mod moments;
mod muon;

pub use adamw::AdamW;
pub use lion::Lion;
pub use moments::{Moment, Noise};
pub use muon::{Muon, MuonScale, orthogonalize};

/// Reference implementations, generic over the float type.
pub mod plain {
    pub use super::adamw::plain_step as adamw;
    pub use super::lion::plain_step as lion;
    pub use super::muon::plain_orthogonalize as orthogonalize;
}

#[cfg(test)]
mod tests;

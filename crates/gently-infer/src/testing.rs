//! What unit tests share.

use crate::plan::{Plan, PlanOptions};
use gently_models::{Decoder, DecoderConfig};
use gently_tensor::{Device, Rng};
use std::sync::Arc;

/// A tiny model of 16 tokens, of random weights.
pub(crate) fn plan() -> Arc<Plan> {
    let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::named("gpt2").unwrap() };
    let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu).unwrap();
    Arc::new(Plan::new(&model, PlanOptions::default()).unwrap())
}

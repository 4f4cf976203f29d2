//! Ranges of values and the rules between them.

use super::{Documents, Resolved, ScheduleKind, TokenizerKind};
use crate::{Error, Result};

/// Largest count that is believed, so that products of two counts cannot overflow.
const MOST: usize = 1 << 28;

/// Checks every value.
///
/// # Errors
/// [`Error::Value`] naming the first key at fault, its value, its place and the rule.
pub(super) fn ranges(resolved: &Resolved) -> Result<()> {
    let config = &resolved.config;
    let refuse = |key: &str, rule: &str| Err(resolved.out_of_range(key, rule));

    config.model.validate().map_err(|error| match error {
        gently_models::Error::Config { key, rule, .. } => resolved.out_of_range(&format!("model.{key}"), &rule),
        other => Error::Model(other),
    })?;

    // Each layer is built before memory can be planned: some 20 KiB and a fifth of a millisecond.
    if config.model.layers > 1 << 14 {
        return refuse("model.layers", "must be between 1 and 16384");
    }
    let counts = [
        ("train.batch", config.train.batch),
        ("train.block", config.train.block),
        ("train.accumulate", config.train.accumulate),
        ("tokenizer.vocab", config.tokenizer.vocab),
        ("sample.tokens", config.sample.tokens),
        ("checkpoint.keep", config.checkpoint.keep),
    ];
    for (key, value) in counts {
        if value == 0 || value > MOST {
            return refuse(key, "must be between 1 and 2^28");
        }
    }
    if config.train.batch.saturating_mul(config.train.block) > MOST {
        return refuse("train.batch", "times train.block must be at most 2^28");
    }
    if config.train.batch.saturating_mul(config.train.block).saturating_mul(config.train.accumulate) > MOST {
        return refuse("train.accumulate", "times train.batch and train.block must be at most 2^28");
    }
    if config.train.micro_batch > MOST {
        return refuse("train.micro_batch", "must be at most 2^28");
    }
    if config.eval.batches > MOST {
        return refuse("eval.batches", "must be at most 2^28");
    }
    if config.train.block > config.model.context {
        return refuse("train.block", &format!("must be at most model.context = {}", config.model.context));
    }
    if config.train.seed > i64::MAX as u64 {
        return refuse("train.seed", "must be below 2^63");
    }
    if config.train.steps == 0 || config.train.steps > 1 << 40 {
        return refuse("train.steps", "must be between 1 and 2^40");
    }

    let optimizer = &config.optimizer;
    // Five are usual, and more only turn singular values about 1: a limit on what one update may cost.
    if !(1..=100).contains(&optimizer.newton_schulz) {
        return refuse("optimizer.newton_schulz", "must be between 1 and 100");
    }
    let not_negative = [
        ("train.clip", config.train.clip),
        ("optimizer.min_lr", optimizer.min_lr.unwrap_or(0.0)),
        ("optimizer.weight_decay", optimizer.weight_decay),
        ("sample.temperature", config.sample.temperature),
    ];
    for (key, value) in not_negative {
        if !value.is_finite() || value < 0.0 {
            return refuse(key, "must be finite and not negative");
        }
    }
    let positive = [
        ("optimizer.lr", optimizer.lr),
        ("optimizer.eps", optimizer.eps),
        ("optimizer.muon_lr", optimizer.muon_lr),
        ("spike.z", config.spike.z),
    ];
    for (key, value) in positive {
        if !value.is_finite() || value <= 0.0 {
            return refuse(key, "must be finite and above 0");
        }
    }
    if !optimizer.betas.iter().all(|b| (0.0..1.0).contains(b)) {
        return refuse("optimizer.betas", "must each be at least 0 and below 1");
    }
    if !(0.0..1.0).contains(&optimizer.momentum) {
        return refuse("optimizer.momentum", "must be at least 0 and below 1");
    }
    if !(0.0..=1.0).contains(&optimizer.cooldown) {
        return refuse("optimizer.cooldown", "must be between 0 and 1");
    }
    if optimizer.min_lr.is_some_and(|min| min > optimizer.lr) {
        return refuse("optimizer.min_lr", "must not be above optimizer.lr");
    }
    if optimizer.schedule != ScheduleKind::Constant && optimizer.decay_steps.is_some_and(|end| end == 0) {
        return refuse("optimizer.decay_steps", "must be above 0");
    }
    if config.spike.window < 8 || config.spike.window > 1 << 20 {
        return refuse("spike.window", "must be between 8 and 2^20");
    }

    let data = &config.data;
    if !(0.0..=0.5).contains(&data.val_fraction) {
        return refuse("data.val_fraction", "must be between 0 and 0.5");
    }
    if !data.weights.is_empty() && data.weights.len() != data.path.len() {
        return refuse(
            "data.weights",
            &format!("must have one number for each of the {} paths in data.path", data.path.len()),
        );
    }
    if data.weights.iter().any(|w| !w.is_finite() || *w <= 0.0) {
        return refuse("data.weights", "must all be finite and above 0");
    }
    if data.documents == Documents::Pack && !data.shuffle {
        return refuse("data.shuffle", "must be true with data.documents = \"pack\", which always draws at random");
    }
    if config.tokenizer.kind == TokenizerKind::File && config.tokenizer.path.is_empty() {
        return refuse("tokenizer.path", "must name a tokenizer when tokenizer.kind is \"file\"");
    }
    if config.sample.is_on() && config.sample.prompts.is_empty() {
        return refuse("sample.prompts", "must hold a text when sample.every is above 0 or sample.at_start is true");
    }
    Ok(())
}

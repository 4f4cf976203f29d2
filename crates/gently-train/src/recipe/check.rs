//! Ranges of values and the rules between them.

use gently_models::config::{BELOW_ONE, DecoderConfig, POSITIVE, Position, fits_f32, is_below_one, is_positive};

use super::{
    Data, Decay, Documents, Optimizer, OptimizerKind, Resolved, Sample, ScheduleKind, Source, Spike, Tokenizer,
    TokenizerKind,
};
use crate::{Error, Result};

/// Largest count that is believed, so that products of two counts cannot overflow.
const MOST: usize = 1 << 28;
/// The most that `train.steps` may be.
pub(crate) const MOST_STEPS: u64 = 1 << 40;

/// Checks every value.
///
/// # Errors
/// [`Error::Value`] naming the first key at fault, its value, its place and the rule.
pub(super) fn ranges(resolved: &Resolved) -> Result<()> {
    let config = &resolved.config;
    let refuse = |key: &str, rule: &str| Err(resolved.out_of_range(key, rule));

    config.model.validate().map_err(|error| match error {
        gently_models::Error::Config { key, value, rule } => {
            resolved.worked_out_of_range(&format!("model.{key}"), value, &rule)
        }
        other => Error::Model(other),
    })?;

    if config.model.bidirectional {
        return refuse(
            "model.bidirectional",
            "must be false: a model that sees the next token does not learn to tell it",
        );
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
    if config.train.steps == 0 || config.train.steps > MOST_STEPS {
        return refuse("train.steps", "must be between 1 and 2^40");
    }

    let optimizer = &config.optimizer;
    if let Err(Refused { key, rule, .. }) = check_optimizer(optimizer) {
        return refuse(&format!("optimizer.{key}"), &rule);
    }
    // The loop compares these two in f64; the kernels take the others as f32.
    if !config.train.clip.is_finite() || config.train.clip < 0.0 {
        return refuse("train.clip", "must be finite and not negative");
    }
    if !config.spike.z.is_finite() || config.spike.z <= 0.0 {
        return refuse("spike.z", "must be finite and above 0");
    }
    let not_negative =
        [("optimizer.min_lr", optimizer.min_lr.unwrap_or(0.0)), ("sample.temperature", config.sample.temperature)];
    for (key, value) in not_negative {
        if !is_not_negative(value) {
            return refuse(key, NOT_NEGATIVE);
        }
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

/// A value of `[optimizer]` that no update can be made with.
pub(crate) struct Refused {
    /// Its key in the section.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// The rule it breaks.
    pub rule: String,
}

/// Checks what an optimizer computes with: all but the keys of the schedule.
pub(crate) fn check_optimizer(optimizer: &Optimizer) -> Result<(), Refused> {
    let [beta1, beta2] = optimizer.betas;
    // The key, the value, whether it is in range, and the rule.
    let values = [
        ("lr", optimizer.lr, is_positive(optimizer.lr), POSITIVE.to_owned()),
        ("eps", optimizer.eps, is_positive(optimizer.eps), POSITIVE.to_owned()),
        ("muon_lr", optimizer.muon_lr, is_positive(optimizer.muon_lr), POSITIVE.to_owned()),
        ("weight_decay", optimizer.weight_decay, is_not_negative(optimizer.weight_decay), NOT_NEGATIVE.to_owned()),
        ("betas", beta1, is_below_one(beta1), format!("each {BELOW_ONE}")),
        ("betas", beta2, is_below_one(beta2), format!("each {BELOW_ONE}")),
        ("momentum", optimizer.momentum, is_below_one(optimizer.momentum), BELOW_ONE.to_owned()),
    ];
    for (key, value, fits, rule) in values {
        if !fits {
            return Err(Refused { key, value: value.to_string(), rule });
        }
    }
    // Five are usual, and more only turn singular values about 1: a limit on what one update may cost.
    if !(1..=100).contains(&optimizer.newton_schulz) {
        let value = optimizer.newton_schulz.to_string();
        return Err(Refused { key: "newton_schulz", value, rule: "must be between 1 and 100".into() });
    }
    Ok(())
}

const NOT_NEGATIVE: &str = "must be finite and not negative, as a number of 32 bits too";

fn is_not_negative(value: f64) -> bool {
    fits_f32(value) && value >= 0.0
}

/// Refuses values that a person chose and that change nothing beside the others, but those that the run was begun with (`saved`).
///
/// # Errors
/// [`Error::Value`] naming the first such key.
pub(super) fn effects(resolved: &Resolved, saved: Option<&Resolved>) -> Result<()> {
    let config = &resolved.config;
    let (model, data, tokenizer) = (&config.model, &config.data, &config.tokenizer);
    let (optimizer, sample, spike) = (&config.optimizer, &config.sample, &config.spike);
    let (own, usual) = (DecoderConfig::preset(model.family), Optimizer::default());
    let (plain, calm) = (Sample::default(), Spike::default());
    let rotary = model.position == Position::Rotary;
    let has_layer = |windowed: bool| (0..model.layers).any(|n| model.window_of(n).is_some() == windowed);
    let (windowed, global) = (has_layer(true), has_layer(false));
    let turns_global = global || model.local_rope_theta.is_none();
    let muon = optimizer.kind == OptimizerKind::Muon;
    let decays = optimizer.schedule != ScheduleKind::Constant;
    let cools = optimizer.schedule != ScheduleKind::Wsd
        || optimizer.cooldown > 0.0
        || optimizer.decay_steps.is_some_and(|end| end < config.train.steps);
    // A recipe's own part stays behind where a run has texts for validation; 0 says that none is kept.
    let part = resolved.source("data.val_fraction") == Source::Set && data.val_fraction != 0.0;
    let samples = sample.is_on();
    // The keys that decide whether another counts, and with what it does.
    let by = |deciders: &'static [&'static str], needed: &'static str| (deciders, needed);
    let turned = by(&["model.position"], "model.position = \"rotary\"");
    let shaped = by(&["model.window"], "model.window");
    let local =
        by(&["model.window", "model.window_skip"], "layers with a window: model.window, model.window_skip not 1");
    let by_global = by(
        &["model.local_rope_theta", "model.window", "model.window_skip", "model.layers"],
        "a layer that has no window: the others turn by model.local_rope_theta",
    );
    let skips = by(&["spike.skip"], "spike.skip = true");
    let by_muon = by(&["optimizer.kind"], "optimizer.kind = \"muon\"");
    let falling = "a schedule that falls: optimizer.schedule = \"cosine\", \"linear\" or \"wsd\"";
    let falls = by(&["optimizer.schedule"], falling);
    let written = by(&["sample.every", "sample.at_start"], "samples: sample.every above 0 or sample.at_start = true");
    // The key, whether it is another than the default, whether it counts, and what would make it count.
    let settings = [
        ("model.rope_theta", model.rope_theta != own.rope_theta, rotary, turned),
        ("model.rotary_width", model.rotary_width != own.rotary_width, rotary, turned),
        ("model.rope_factors", model.rope_factors != own.rope_factors, rotary, turned),
        ("model.rope_scale", model.rope_scale != own.rope_scale, rotary, turned),
        ("model.local_rope_theta", model.local_rope_theta != own.local_rope_theta, rotary, turned),
        ("model.window_skip", model.window_skip != own.window_skip, model.window.is_some(), shaped),
        (
            "model.window_skip",
            model.window_skip != own.window_skip,
            model.window_skip.is_none_or(|n| n <= model.layers),
            by(&["model.layers"], "as many layers (model.layers)"),
        ),
        (
            "model.window",
            model.window != own.window,
            windowed,
            by(&["model.window_skip"], "model.window_skip above 1: no layer is left with a window"),
        ),
        ("model.local_rope_theta", model.local_rope_theta != own.local_rope_theta, windowed, local),
        ("model.rope_theta", model.rope_theta != own.rope_theta, turns_global, by_global),
        ("model.rope_factors", model.rope_factors != own.rope_factors, turns_global, by_global),
        ("model.rope_scale", model.rope_scale != own.rope_scale, turns_global, by_global),
        (
            "data.weights",
            !data.weights.is_empty(),
            data.path.len() > 1,
            by(&["data.path"], "several paths in data.path"),
        ),
        (
            "data.val_fraction",
            part && data.val_fraction != Data::default().val_fraction,
            data.val_path.is_empty(),
            by(&["data.val_path"], "data.val_path = []: texts for validation are given"),
        ),
        (
            "tokenizer.path",
            !tokenizer.path.is_empty(),
            tokenizer.kind == TokenizerKind::File,
            by(&["tokenizer.kind"], "tokenizer.kind = \"file\""),
        ),
        (
            "tokenizer.vocab",
            tokenizer.vocab != Tokenizer::default().vocab,
            tokenizer.kind == TokenizerKind::Bpe,
            by(&["tokenizer.kind"], "tokenizer.kind = \"bpe\""),
        ),
        ("optimizer.min_lr", optimizer.min_lr.is_some(), decays, falls),
        (
            "optimizer.min_lr",
            optimizer.min_lr.is_some(),
            cools,
            by(&["optimizer.schedule", "optimizer.cooldown"], "optimizer.cooldown above 0"),
        ),
        ("optimizer.decay_steps", optimizer.decay_steps.is_some(), decays, falls),
        ("optimizer.muon_lr", optimizer.muon_lr != usual.muon_lr, muon, by_muon),
        ("optimizer.momentum", optimizer.momentum != usual.momentum, muon, by_muon),
        ("optimizer.newton_schulz", optimizer.newton_schulz != usual.newton_schulz, muon, by_muon),
        (
            "optimizer.cooldown",
            optimizer.cooldown != usual.cooldown,
            optimizer.schedule == ScheduleKind::Wsd,
            by(&["optimizer.schedule"], "optimizer.schedule = \"wsd\""),
        ),
        (
            "optimizer.eps",
            optimizer.eps != usual.eps,
            optimizer.kind != OptimizerKind::Lion,
            by(&["optimizer.kind"], "optimizer.kind = \"adamw\" or \"muon\""),
        ),
        (
            "optimizer.weight_decay",
            // 0 says the same once more.
            optimizer.weight_decay != usual.weight_decay && optimizer.weight_decay != 0.0,
            optimizer.decay != Decay::None,
            by(&["optimizer.decay"], "optimizer.decay = \"matrices\", \"all_matrices\" or \"all\""),
        ),
        ("sample.prompts", sample.prompts != plain.prompts, samples, written),
        ("sample.tokens", sample.tokens != plain.tokens, samples, written),
        ("sample.temperature", sample.temperature != plain.temperature, samples, written),
        ("sample.top_k", sample.top_k != plain.top_k, samples, written),
        (
            "sample.top_k",
            sample.top_k != plain.top_k,
            sample.temperature > 0.0,
            by(&["sample.temperature"], "sample.temperature above 0"),
        ),
        ("spike.window", spike.window != calm.window, spike.skip, skips),
        ("spike.z", spike.z != calm.z, spike.skip, skips),
    ];
    for (key, differs, counts, (deciders, needed)) in settings {
        let set = |key: &str| resolved.source(key) == Source::Set;
        let chosen = match resolved.source(key) {
            Source::Set => true,
            // What a recipe says for its own choice stays behind where --set makes another.
            Source::Recipe { .. } => {
                !(deciders.iter().any(|key| set(key)) || key.starts_with("model.") && set("model.family"))
            }
            _ => false,
        };
        let kept = saved.is_some_and(|saved| resolved.has_same(saved, key));
        if differs && !counts && chosen && !kept {
            return Err(resolved.out_of_range(key, &format!("has no effect without {needed}")));
        }
    }
    Ok(())
}

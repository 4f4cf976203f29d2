//! Choosing the next token from a row of logits.
//!
//! Here: [`SamplingParams`], and the [`Sampler`] that draws by them, over plain `f32` slices. Penalties are in
//! `penalties`. Not here: running the model (see [`crate::Decoder`]), text, stop strings, and searches over whole texts.
//!
//! The steps run in a fixed order, that of Python `transformers` where it has them: logit bias, repetition, frequency and
//! presence penalties, DRY, temperature, top-k, top-p, min-p, typical; or mirostat in place of the filters. The random
//! number for the n-th choice is drawn from a counter-based generator at position n, so the same seed gives the same
//! tokens however the work is cut.
//!
//! Only candidates that can survive are looked at: weights and maxima come from one vectorised pass over the logits.
//!
//! ```
//! use gently_models::sampling::{Sampler, SamplingParams};
//! let mut sampler = Sampler::new(SamplingParams { temperature: 0.0, ..Default::default() }).unwrap();
//! assert_eq!(sampler.sample(&[0.1, 2.0, -1.0], &[]), 1);
//! ```

mod penalties;
#[cfg(test)]
mod tests;

pub use penalties::Dry;

use gently_kernels::{choice, philox};
use penalties::Penalties;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// How to choose the next token. The default samples from the model's own distribution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Logits are divided by this; `0` always takes the most likely token.
    pub temperature: f32,
    /// Keep only the `top_k` most likely tokens; `0` keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probabilities reach `top_p` (nucleus sampling, Holtzman et al. 2019);
    /// the token that crosses the line is kept. `1` keeps all.
    pub top_p: f32,
    /// Leave out the token that crosses the line of `top_p`, as the code published with GPT-2 does; the most likely one
    /// is always kept.
    pub top_p_strict: bool,
    /// Keep tokens at least `min_p` times as likely as the most likely one (Nguyen et al. 2024). `0` keeps all.
    pub min_p: f32,
    /// Keep the tokens whose surprise is nearest to the expected one, until their probabilities reach this (locally typical
    /// sampling, Meister et al. 2022). `1` keeps all.
    pub typical: f32,
    /// Hold the surprise of the text near a target, in place of the filters above (Basu et al. 2021, version 2).
    pub mirostat: Option<Mirostat>,
    /// Divide positive and multiply negative logits of tokens already seen by this (Keskar et al. 2019). `1` is off.
    pub repetition_penalty: f32,
    /// Subtract this from a token's logit for each time it was seen.
    pub frequency_penalty: f32,
    /// Subtract this from the logits of tokens that were seen.
    pub presence_penalty: f32,
    /// Make tokens less likely that would go on repeating what was said before.
    pub dry: Option<Dry>,
    /// Penalties look back on this many tokens; `0` on all.
    pub penalty_window: usize,
    /// Added to the logits of these tokens; minus infinity rules one out.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Seed of the random choices.
    pub seed: u64,
}

/// Surprise in bits, and how fast it is corrected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirostat {
    /// τ, the surprise aimed at, in bits: 5 is usual.
    pub tau: f32,
    /// η, the part of the error that is corrected at once: 0.1 is usual.
    pub eta: f32,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            top_p_strict: false,
            min_p: 0.0,
            typical: 1.0,
            mirostat: None,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            dry: None,
            penalty_window: 0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

/// A sampling parameter out of its range.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{name} is {value}, but must be {range}")]
pub struct SamplingError {
    /// Name of the parameter.
    pub name: &'static str,
    /// The value given.
    pub value: f32,
    /// The values allowed, in words.
    pub range: &'static str,
}

impl SamplingError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match (self.name, self.range) {
            (_, ALONE) => "leave it out, or mirostat",
            (_, DRAWN) => "leave mirostat out, or choose a temperature such as 0.8",
            ("temperature", _) => "0.8 is usual; 0 always takes the likeliest token",
            ("top_p" | "typical", _) => "0.9 is usual; 1 keeps all tokens",
            ("min_p", _) => "0.05 is usual; 0 keeps all tokens",
            ("repetition_penalty", _) => "1.1 is usual; 1 is off",
            ("frequency_penalty" | "presence_penalty", _) => "0.5 is usual; 0 is off",
            ("mirostat.tau", _) => "5 bits are usual",
            ("mirostat.eta", _) => "0.1 is usual",
            ("dry.multiplier", _) => "0.8 is usual; 0 is off",
            ("dry.base", _) => "1.75 is usual",
            ("dry.allowed", _) => "2 is usual",
            _ => "minus infinity rules a token out",
        }
    }
}

/// What filters must be beside mirostat.
const ALONE: &str = "off with mirostat, which takes their place";
/// What the temperature must be beside mirostat: it draws.
const DRAWN: &str = "above 0 with mirostat, which draws";

impl SamplingParams {
    /// Whether anything makes tokens less likely that were seen before.
    pub fn penalises(&self) -> bool {
        self.counts() || self.dry.as_ref().is_some_and(|d| d.multiplier > 0.0)
    }

    /// Whether there are penalties on single tokens.
    fn counts(&self) -> bool {
        self.repetition_penalty != 1.0 || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }

    /// Checks every parameter's range.
    ///
    /// # Errors
    /// Names the first parameter that is out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let positive = |v: f32| v.is_finite() && v > 0.0;
        let share = |v: f32| v > 0.0 && v <= 1.0;
        let t = self.temperature;
        let mut all = vec![
            (t.is_finite() && t >= 0.0, "temperature", t, "0 (greedy) or a positive number"),
            (share(self.top_p), "top_p", self.top_p, "above 0 and at most 1"),
            ((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "between 0 and 1"),
            (share(self.typical), "typical", self.typical, "above 0 and at most 1"),
            (positive(self.repetition_penalty), "repetition_penalty", self.repetition_penalty, "a positive number"),
            (self.frequency_penalty.is_finite(), "frequency_penalty", self.frequency_penalty, "a number"),
            (self.presence_penalty.is_finite(), "presence_penalty", self.presence_penalty, "a number"),
        ];
        if let Some(m) = self.mirostat {
            all.push((positive(m.tau), "mirostat.tau", m.tau, "a positive number"));
            all.push((share(m.eta), "mirostat.eta", m.eta, "above 0 and at most 1"));
            all.push((self.top_k == 0, "top_k", self.top_k as f32, ALONE));
            all.push((self.top_p == 1.0, "top_p", self.top_p, ALONE));
            all.push((self.min_p == 0.0, "min_p", self.min_p, ALONE));
            all.push((self.typical == 1.0, "typical", self.typical, ALONE));
            // It would be asked for and never come into play.
            all.push((t > 0.0, "temperature", t, DRAWN));
        }
        if let Some(dry) = &self.dry {
            let finite = dry.multiplier.is_finite() && dry.multiplier >= 0.0;
            all.push((finite, "dry.multiplier", dry.multiplier, "0 or a positive number"));
            all.push((dry.base.is_finite() && dry.base >= 1.0, "dry.base", dry.base, "at least 1"));
            // A longer run is not looked for, and would never be penalised.
            let found = (1..=penalties::LONGEST).contains(&dry.allowed);
            all.push((found, "dry.allowed", dry.allowed as f32, "between 1 and 64"));
        }
        for bias in self.logit_bias.values() {
            let ok = !bias.is_nan() && *bias < f32::INFINITY;
            all.push((ok, "logit_bias", *bias, "a number, or minus infinity"));
        }
        match all.into_iter().find(|check| !check.0) {
            Some((_, name, value, range)) => Err(SamplingError { name, value, range }),
            None => Ok(()),
        }
    }
}

/// Draws tokens; holds the random position and scratch space.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    penalties: Penalties,
    drawn: u64,
    /// Mirostat's bound on surprise, in bits.
    bound: f64,
    /// Logits with bias and penalties, where there are any.
    changed: Vec<f32>,
    /// Largest logit of each chunk.
    maxima: Vec<f32>,
    /// Weight of each token and the sum of each chunk's.
    weights: Vec<f32>,
    sums: Vec<f64>,
    /// Tokens that survive, with their weights.
    candidates: Vec<(u32, f32)>,
}

/// What a row of logits leaves to choose from.
enum Choice {
    /// This token alone.
    One(u32),
    /// Every token, by `weights` and `sums`.
    All,
    /// The candidates.
    Some,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// A parameter out of range.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        Ok(Self {
            bound: params.mirostat.map_or(0.0, |m| 2.0 * f64::from(m.tau)),
            params,
            penalties: Penalties::default(),
            drawn: 0,
            changed: Vec::new(),
            maxima: Vec::new(),
            weights: Vec::new(),
            sums: Vec::new(),
            candidates: Vec::new(),
        })
    }

    /// The parameters in force.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses a token for `logits` `[V]`; `history` are the tokens that penalties count as seen.
    /// NaN logits are never chosen; if no logit is finite the answer is token 0.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let position = self.drawn;
        self.drawn += 1;
        let choice = self.consider(logits, history);
        let key = [self.params.seed as u32, (self.params.seed >> 32) as u32];
        let uniform = || {
            let words = philox::philox([position as u32, (position >> 32) as u32, 0x5a3b_1e00, 0], key);
            // 53 random bits: fine enough that a token of probability 1e-12 is still drawn at its rate.
            let bits = (u64::from(words[0]) << 21) ^ (u64::from(words[1]) >> 11);
            bits as f64 / (1u64 << 53) as f64
        };
        let token = match choice {
            Choice::One(token) => token,
            Choice::All => draw_all(&self.weights, &self.sums, uniform()),
            Choice::Some => draw(&self.candidates, uniform()),
        };
        if let Some(Mirostat { tau, eta }) = self.params.mirostat
            && let Some(weight) = self.weights.get(token as usize).filter(|w| **w > 0.0)
        {
            // The surprise under the model's distribution, not under what the bound left of it.
            let surprise = (self.sums.iter().sum::<f64>() / f64::from(*weight)).log2();
            self.bound -= f64::from(eta) * (surprise - f64::from(tau));
        }
        token
    }

    /// The distribution that [`Self::sample`] draws from, as (token, probability), most likely first.
    /// Greedy parameters give a single token.
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Vec<(u32, f32)> {
        match self.consider(logits, history) {
            Choice::One(token) => return vec![(token, 1.0)],
            Choice::All => self.collect_all(),
            Choice::Some => {}
        }
        let mut out = self.candidates.clone();
        normalise(&mut out);
        out.sort_by(by_weight);
        out
    }

    /// Finds out what may be chosen.
    fn consider(&mut self, logits: &[f32], history: &[u32]) -> Choice {
        let window = match self.params.penalty_window {
            0 => history.len(),
            n => n.min(history.len()),
        };
        let mut changed = std::mem::take(&mut self.changed);
        let mut used = self.penalties.apply(&self.params, logits, &history[history.len() - window..], &mut changed);
        choice::maxima(if used { &changed } else { logits }, &mut self.maxima);
        let mut most = self.maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if most == f32::INFINITY {
            // Infinitely likely tokens share all there is.
            let finite = |z: &f32| if *z == f32::INFINITY { 0.0 } else { f32::NEG_INFINITY };
            changed = if used { &changed } else { logits }.iter().map(finite).collect();
            (used, most) = (true, 0.0);
            choice::maxima(&changed, &mut self.maxima);
        }
        let choice = self.choose(if used { &changed } else { logits }, most);
        self.changed = changed;
        choice
    }

    /// What the filters leave of logits whose largest is `most`.
    fn choose(&mut self, logits: &[f32], most: f32) -> Choice {
        let p = &self.params;
        if most == f32::NEG_INFINITY {
            return Choice::One(0);
        }
        let sharpness = 1.0 / p.temperature;
        if !sharpness.is_finite() {
            // Greedy, or a temperature too small to divide by.
            return Choice::One(first_of(logits, &self.maxima, most));
        }

        let filtered = p.top_k > 0 || p.top_p < 1.0 || p.min_p > 0.0 || p.typical < 1.0;
        let needs_total = p.top_k == 0 && (p.top_p < 1.0 || p.typical < 1.0) || p.mirostat.is_some() || !filtered;
        if needs_total {
            self.weights.resize(logits.len(), 0.0);
            choice::weights(logits, most, sharpness, &mut self.weights, &mut self.sums);
        }
        if let Some(Mirostat { .. }) = p.mirostat {
            let total: f64 = self.sums.iter().sum();
            let least = total * (-self.bound).exp2();
            self.candidates.clear();
            let keep = |(i, w): (usize, &f32)| (f64::from(*w) >= least && *w > 0.0).then_some((i as u32, *w));
            self.candidates.extend(self.weights.iter().enumerate().filter_map(keep));
            if self.candidates.is_empty() {
                return Choice::One(first_of(logits, &self.maxima, most));
            }
            return Choice::Some;
        }
        if !filtered {
            return Choice::All;
        }
        self.shortlist(logits, most, sharpness);
        self.filter();
        // The draw walks the tokens in the order of their ids, whatever the filters did to the order.
        self.candidates.sort_unstable_by_key(|x| x.0);
        Choice::Some
    }

    /// Fills `candidates` with the likeliest tokens and their weights: at least all that top-k, top-p or min-p keep.
    fn shortlist(&mut self, logits: &[f32], most: f32, sharpness: f32) {
        let p = &self.params;
        let total: f64 = self.sums.iter().sum();
        // Of weight e⁻⁸ and more; if that is not enough, further down.
        let mut depth = if p.top_k == 0 && p.top_p == 1.0 && p.min_p > 0.0 { 1e-3 - p.min_p.ln() } else { 8.0 };
        let all = p.typical < 1.0 && p.top_k == 0 && p.top_p == 1.0 && p.min_p == 0.0;
        loop {
            let line = if all || depth > 100.0 { f32::NEG_INFINITY } else { most - depth / sharpness };
            self.candidates.clear();
            for (chunk, top) in self.maxima.iter().enumerate().filter(|(_, top)| **top >= line) {
                if *top == f32::NEG_INFINITY {
                    continue;
                }
                let from = chunk * choice::CHUNK;
                let end = logits.len().min(from + choice::CHUNK);
                for (i, &z) in logits[from..end].iter().enumerate() {
                    if z >= line && z > f32::NEG_INFINITY {
                        self.candidates.push(((from + i) as u32, z));
                    }
                }
            }
            let enough = if p.top_k > 0 {
                self.candidates.len() >= p.top_k
            } else if p.top_p < 1.0 {
                let kept: f64 = self.candidates.iter().map(|c| f64::from(self.weights[c.0 as usize])).sum();
                // A margin for the roundings of two sums in different orders.
                kept >= total * (f64::from(p.top_p) + 1e-6)
            } else {
                true
            };
            if enough || line == f32::NEG_INFINITY {
                break;
            }
            depth *= 2.0;
        }
        if p.top_k > 0 && p.top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(p.top_k - 1, by_weight);
            self.candidates.truncate(p.top_k);
        }
        for c in &mut self.candidates {
            c.1 = if c.1 == most { 1.0 } else { ((c.1 - most) * sharpness).exp() };
        }
    }

    /// Applies top-p, min-p and typical to the candidates.
    fn filter(&mut self) {
        let p = &self.params;
        let c = &mut self.candidates;
        // After top-k the rest counts for nothing; before it, everything does.
        let total = if p.top_k > 0 || self.sums.is_empty() { sum(c) } else { self.sums.iter().sum() };
        if p.top_p < 1.0 {
            c.sort_unstable_by(by_weight);
            let line = f64::from(p.top_p) * total;
            let mut reached = 0.0f64;
            let crossing = c.iter().position(|x| {
                reached += f64::from(x.1);
                reached >= line && (!p.top_p_strict || reached > line)
            });
            let keep = match crossing {
                Some(at) if p.top_p_strict => at.max(1),
                Some(at) => at + 1,
                None => c.len(),
            };
            c.truncate(keep);
        }
        if p.min_p > 0.0 {
            let line = p.min_p * c.iter().map(|x| x.1).fold(0.0, f32::max);
            c.retain(|x| x.1 >= line);
        }
        if p.typical < 1.0 {
            let total = sum(c);
            let surprise = |w: f32| -(f64::from(w) / total).ln();
            c.retain(|x| x.1 > 0.0);
            let expected: f64 = c.iter().map(|x| f64::from(x.1) / total * surprise(x.1)).sum();
            let strange = |x: &(u32, f32)| (surprise(x.1) - expected).abs();
            c.sort_by(|a, b| strange(a).total_cmp(&strange(b)).then(a.0.cmp(&b.0)));
            let mut reached = 0.0f64;
            let crossing = c.iter().position(|x| {
                reached += f64::from(x.1) / total;
                reached >= f64::from(p.typical)
            });
            c.truncate(crossing.map_or(c.len(), |at| at + 1));
        }
    }

    fn collect_all(&mut self) {
        self.candidates.clear();
        let some = self.weights.iter().enumerate().filter(|(_, w)| **w > 0.0);
        self.candidates.extend(some.map(|(i, w)| (i as u32, *w)));
    }
}

/// Natural log-probabilities under the model itself, before temperature, filters and penalties: of `chosen`, and of the
/// `n` likeliest tokens, likeliest first. `logits` is `[V]`; tokens without a finite logit have minus infinity.
pub fn logprobs(logits: &[f32], chosen: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let clean = |z: f32| if z.is_finite() { z } else { f32::NEG_INFINITY };
    // Not-a-numbers are passed over.
    let largest = match logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) {
        f32::INFINITY => return logprobs(&Vec::from_iter(logits.iter().map(|&z| clean(z))), chosen, n),
        // No token has a probability: any number will do.
        f32::NEG_INFINITY => 0.0,
        largest => largest,
    };
    let (mut weights, mut sums) = (vec![0.0; logits.len()], Vec::new());
    choice::weights(logits, largest, 1.0, &mut weights, &mut sums);
    let total: f64 = sums.iter().sum();
    let logprob = |z: f32| match z.is_finite() {
        true => (f64::from(z) - f64::from(largest) - total.ln()) as f32,
        false => f32::NEG_INFINITY,
    };
    let mut top: Vec<(u32, f32)> = Vec::new();
    if n > 0 {
        top.extend(logits.iter().enumerate().map(|(i, &z)| (i as u32, clean(z))));
        if n < top.len() {
            top.select_nth_unstable_by(n - 1, by_weight);
            top.truncate(n);
        }
        top.sort_unstable_by(by_weight);
        top.iter_mut().for_each(|t| t.1 = logprob(t.1));
    }
    (logits.get(chosen as usize).map_or(f32::NEG_INFINITY, |&z| logprob(z)), top)
}

/// Descending by value, ties by ascending token, so that every filter is deterministic.
fn by_weight(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The first token whose logit is `most`.
fn first_of(logits: &[f32], maxima: &[f32], most: f32) -> u32 {
    let chunk = maxima.iter().position(|m| *m == most).unwrap_or(0) * choice::CHUNK;
    let at = logits.iter().skip(chunk).position(|z| *z == most).unwrap_or(0);
    (chunk + at) as u32
}

fn sum(c: &[(u32, f32)]) -> f64 {
    c.iter().map(|x| f64::from(x.1)).sum()
}

fn normalise(c: &mut [(u32, f32)]) {
    let total = sum(c);
    for x in c.iter_mut() {
        x.1 = (f64::from(x.1) / total) as f32;
    }
}

/// The candidate at the share `uniform` of all weights.
fn draw(candidates: &[(u32, f32)], uniform: f64) -> u32 {
    let mut left = uniform * sum(candidates);
    for &(token, w) in candidates {
        left -= f64::from(w);
        if left < 0.0 {
            return token;
        }
    }
    candidates.iter().rev().find(|c| c.1 > 0.0).map_or(0, |x| x.0)
}

/// The token at the share `uniform` of all weights, chunk by chunk.
fn draw_all(weights: &[f32], sums: &[f64], uniform: f64) -> u32 {
    let mut left = uniform * sums.iter().sum::<f64>();
    let mut last = 0;
    for (chunk, sum) in sums.iter().enumerate() {
        let from = chunk * choice::CHUNK;
        if left >= *sum && chunk + 1 < sums.len() {
            left -= sum;
            continue;
        }
        let end = weights.len().min(from + choice::CHUNK);
        for (i, w) in weights[from..end].iter().enumerate().filter(|(_, w)| **w > 0.0) {
            last = from + i;
            left -= f64::from(*w);
            if left < 0.0 {
                return last as u32;
            }
        }
        // The chunk's sum was rounded up: what is left belongs to the next one's beginning.
        left = left.max(0.0);
    }
    last as u32
}

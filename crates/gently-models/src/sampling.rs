//! Choosing the next token from a row of logits.
//!
//! Here: greedy choice, temperature, top-k, top-p, min-p and the repetition penalty, over plain `f32` slices.
//! Not here: running the model (see [`crate::Decoder`]), text, stop strings.
//!
//! The filters run in a fixed order, the one Python `transformers` uses: repetition penalty, temperature,
//! top-k, top-p, min-p. The random number for the n-th choice is drawn from a counter-based generator at
//! position n, so the same seed gives the same tokens however the work is cut.
//!
//! ```
//! use gently_models::sampling::{Sampler, SamplingParams};
//! let mut sampler = Sampler::new(SamplingParams { temperature: 0.0, ..Default::default() }).unwrap();
//! assert_eq!(sampler.sample(&[0.1, 2.0, -1.0], &[]), 1);
//! ```

use gently_kernels::philox;
use serde::{Deserialize, Serialize};
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
    /// Keep tokens at least `min_p` times as likely as the most likely one (Nguyen et al. 2024). `0` keeps all.
    pub min_p: f32,
    /// Divide positive and multiply negative logits of tokens already seen by this (Keskar et al. 2019). `1` is off.
    pub repetition_penalty: f32,
    /// Seed of the random choices.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
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

impl SamplingParams {
    /// Checks every parameter's range.
    ///
    /// # Errors
    /// Names the first parameter that is out of range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |ok: bool, name, value, range| if ok { Ok(()) } else { Err(SamplingError { name, value, range }) };
        check(
            self.temperature.is_finite() && self.temperature >= 0.0,
            "temperature",
            self.temperature,
            "0 (greedy) or a positive number",
        )?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "between 0 and 1")?;
        check(
            self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
            "repetition_penalty",
            self.repetition_penalty,
            "a positive number",
        )
    }
}

/// Draws tokens; holds the random position and scratch space.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    drawn: u64,
    candidates: Vec<(u32, f32)>,
    seen: Vec<u32>,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// A parameter out of range.
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        Ok(Self { params, drawn: 0, candidates: Vec::new(), seen: Vec::new() })
    }

    /// The parameters in force.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses a token for `logits` `[V]`; `history` are the tokens that the repetition penalty counts as seen.
    /// NaN logits are never chosen; if no logit is finite the answer is token 0.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        let position = self.drawn;
        self.drawn += 1;
        self.collect(logits, history);
        if self.params.temperature == 0.0 || self.candidates.len() <= 1 {
            return first_largest(&self.candidates);
        }
        self.filter();
        let key = [self.params.seed as u32, (self.params.seed >> 32) as u32];
        let words = philox::philox([position as u32, (position >> 32) as u32, 0x5a3b_1e00, 0], key);
        // 53 random bits: fine enough that a token of probability 1e-12 is still drawn at its rate.
        let bits = (u64::from(words[0]) << 21) ^ (u64::from(words[1]) >> 11);
        let uniform = bits as f64 / (1u64 << 53) as f64;
        draw(&self.candidates, uniform)
    }

    /// The distribution that [`Self::sample`] draws from, as (token, probability), most likely first.
    /// Greedy parameters give a single token.
    pub fn distribution(&mut self, logits: &[f32], history: &[u32]) -> Vec<(u32, f32)> {
        self.collect(logits, history);
        if self.params.temperature == 0.0 || self.candidates.len() <= 1 {
            return vec![(first_largest(&self.candidates), 1.0)];
        }
        self.filter();
        let mut out = self.candidates.clone();
        out.sort_by(by_probability);
        out
    }

    /// Fills `candidates` with penalised logits, leaving out those that are not numbers or minus infinity.
    fn collect(&mut self, logits: &[f32], history: &[u32]) {
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .enumerate()
                .filter(|(_, z)| !z.is_nan() && **z > f32::NEG_INFINITY)
                .map(|(i, &z)| (i as u32, z)),
        );
        if self.params.repetition_penalty != 1.0 {
            self.seen.clear();
            self.seen.extend_from_slice(history);
            self.seen.sort_unstable();
            self.seen.dedup();
            for (token, z) in &mut self.candidates {
                if self.seen.binary_search(token).is_ok() {
                    *z = if *z > 0.0 {
                        *z / self.params.repetition_penalty
                    } else {
                        *z * self.params.repetition_penalty
                    };
                }
            }
        }
    }

    /// Turns `candidates` from logits into the filtered, normalised probabilities.
    fn filter(&mut self) {
        let SamplingParams { temperature, top_k, top_p, min_p, .. } = self.params;
        let c = &mut self.candidates;
        if top_k > 0 && top_k < c.len() {
            c.select_nth_unstable_by(top_k - 1, by_probability);
            c.truncate(top_k);
        }
        let largest = c.iter().map(|x| x.1).fold(f32::NEG_INFINITY, f32::max);
        for x in c.iter_mut() {
            x.1 = if x.1 == largest { 1.0 } else { ((x.1 - largest) / temperature).exp() };
        }
        normalise(c);
        if top_p < 1.0 {
            c.sort_unstable_by(by_probability);
            let mut reached = 0.0f64;
            let keep = c.iter().position(|x| {
                reached += f64::from(x.1);
                reached >= f64::from(top_p)
            });
            c.truncate(keep.map_or(c.len(), |k| k + 1));
            normalise(c);
        }
        if min_p > 0.0 {
            let line = min_p * c.iter().map(|x| x.1).fold(0.0, f32::max);
            c.retain(|x| x.1 >= line);
            normalise(c);
        }
        // The draw walks the tokens in the order of their ids, whatever the filters did to the order.
        c.sort_unstable_by_key(|x| x.0);
    }
}

/// Descending by value, ties by ascending token, so that every filter is deterministic.
fn by_probability(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn first_largest(candidates: &[(u32, f32)]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for &(token, z) in candidates {
        if z > best.1 {
            best = (token, z);
        }
    }
    best.0
}

fn normalise(c: &mut [(u32, f32)]) {
    let total: f64 = c.iter().map(|x| f64::from(x.1)).sum();
    for x in c.iter_mut() {
        x.1 = (f64::from(x.1) / total) as f32;
    }
}

fn draw(candidates: &[(u32, f32)], uniform: f64) -> u32 {
    let total: f64 = candidates.iter().map(|x| f64::from(x.1)).sum();
    let mut left = uniform * total;
    for &(token, p) in candidates {
        left -= f64::from(p);
        if left < 0.0 {
            return token;
        }
    }
    candidates.last().map_or(0, |x| x.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let e: Vec<f64> = logits.iter().map(|&z| (f64::from(z) / temperature).exp()).collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|x| x / total).collect()
    }

    /// χ² of `n` draws against `expected`; tokens with probability 0 must never be drawn.
    fn chi_square(params: SamplingParams, logits: &[f32], expected: &[f64], n: usize) -> f64 {
        let mut sampler = Sampler::new(params).unwrap();
        let mut count = vec![0usize; logits.len()];
        for _ in 0..n {
            count[sampler.sample(logits, &[]) as usize] += 1;
        }
        let mut chi = 0.0;
        for (k, &p) in count.iter().zip(expected) {
            if p == 0.0 {
                assert_eq!(*k, 0, "a filtered token was drawn");
            } else {
                let e = p * n as f64;
                chi += (*k as f64 - e).powi(2) / e;
            }
        }
        chi
    }

    const LOGITS: [f32; 6] = [1.0, 2.5, -0.5, 0.0, 2.0, -3.0];

    fn kept(p: &[f64], keep: &[usize]) -> Vec<f64> {
        let total: f64 = keep.iter().map(|&i| p[i]).sum();
        (0..p.len()).map(|i| if keep.contains(&i) { p[i] / total } else { 0.0 }).collect()
    }

    #[test]
    fn draws_follow_the_analytic_distribution() {
        let base = SamplingParams { seed: 7, ..Default::default() };
        let p1 = softmax(&LOGITS, 1.0);
        let half = softmax(&LOGITS, 0.5);
        // 99.9 % quantile of χ² with 5 degrees of freedom is 20.5; the draws are seeded, so this cannot flake.
        assert!(chi_square(base.clone(), &LOGITS, &p1, 20_000) < 20.5);
        assert!(chi_square(SamplingParams { temperature: 0.5, ..base.clone() }, &LOGITS, &half, 20_000) < 20.5);
        assert!(chi_square(SamplingParams { top_k: 2, ..base.clone() }, &LOGITS, &kept(&p1, &[1, 4]), 20_000) < 20.5);
        // Probabilities are about .51 .31 .11 …: 0.6 is crossed by the second token, which stays.
        assert!(chi_square(SamplingParams { top_p: 0.6, ..base.clone() }, &LOGITS, &kept(&p1, &[1, 4]), 20_000) < 20.5);
        assert!(chi_square(SamplingParams { min_p: 0.2, ..base }, &LOGITS, &kept(&p1, &[0, 1, 4]), 20_000) < 20.5);
    }

    #[test]
    fn greedy_takes_the_first_largest_and_skips_nan() {
        let mut s = Sampler::new(SamplingParams { temperature: 0.0, ..Default::default() }).unwrap();
        assert_eq!(s.sample(&[f32::NAN, 1.0, 3.0, 3.0], &[]), 2);
        assert_eq!(s.sample(&[f32::NAN, f32::NAN], &[]), 0);
        assert_eq!(s.sample(&[f32::NEG_INFINITY, -5.0], &[]), 1);
    }

    #[test]
    fn infinite_logits_do_not_make_nan() {
        let mut s = Sampler::new(SamplingParams::default()).unwrap();
        assert_eq!(s.sample(&[0.0, f32::INFINITY, 1.0], &[]), 1);
    }

    #[test]
    fn repetition_penalty_lowers_both_signs() {
        let mut s =
            Sampler::new(SamplingParams { repetition_penalty: 2.0, temperature: 0.0, ..Default::default() }).unwrap();
        assert_eq!(s.sample(&[3.0, 2.0], &[0]), 1);
        assert_eq!(s.sample(&[-1.0, -1.5], &[0, 0]), 1);
    }

    #[test]
    fn the_same_seed_draws_the_same_tokens() {
        let run = |seed| {
            let mut s = Sampler::new(SamplingParams { seed, ..Default::default() }).unwrap();
            (0..50).map(|_| s.sample(&LOGITS, &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    #[test]
    fn bad_parameters_are_named() {
        let bad = |p: SamplingParams| Sampler::new(p).unwrap_err().name;
        assert_eq!(bad(SamplingParams { temperature: -1.0, ..Default::default() }), "temperature");
        assert_eq!(bad(SamplingParams { temperature: f32::NAN, ..Default::default() }), "temperature");
        assert_eq!(bad(SamplingParams { top_p: 0.0, ..Default::default() }), "top_p");
        assert_eq!(bad(SamplingParams { min_p: 1.5, ..Default::default() }), "min_p");
        assert_eq!(bad(SamplingParams { repetition_penalty: 0.0, ..Default::default() }), "repetition_penalty");
    }
}

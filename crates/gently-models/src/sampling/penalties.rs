//! What was said before, and what is biased: changes to single logits.

use super::SamplingParams;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// "Don't repeat yourself" (p-e-w 2024, as in text-generation-webui): a token that would continue a run of n tokens as it
/// went on before is penalised by `multiplier · base^(n − allowed)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dry {
    /// The penalty of a run that is just long enough: 0.8 is usual, 0 is off.
    pub multiplier: f32,
    /// Growth with each further token.
    pub base: f32,
    /// The shortest run that is penalised, 1 to 64.
    pub allowed: usize,
    /// Tokens that no run reaches across, such as line breaks.
    pub breakers: Vec<u32>,
}

impl Default for Dry {
    fn default() -> Self {
        Self { multiplier: 0.8, base: 1.75, allowed: 2, breakers: Vec::new() }
    }
}

/// Longest run that is looked for: its penalty rules a token out already.
pub(super) const LONGEST: usize = 64;

/// Scratch of the penalties.
#[derive(Debug, Clone, Default)]
pub(super) struct Penalties {
    sorted: Vec<u32>,
}

impl Penalties {
    /// Copies `logits` to `out` with bias and penalties, if there are any that change something; says whether.
    pub fn apply(&mut self, p: &SamplingParams, logits: &[f32], history: &[u32], out: &mut Vec<f32>) -> bool {
        let (counts, dry) = (p.counts(), p.dry.as_ref().filter(|d| d.multiplier > 0.0));
        if p.logit_bias.is_empty() && (history.is_empty() || !p.penalises()) {
            return false;
        }
        out.clear();
        out.extend_from_slice(logits);
        for (token, bias) in &p.logit_bias {
            if let Some(z) = out.get_mut(*token as usize) {
                *z += bias;
            }
        }
        if counts {
            self.sorted.clear();
            self.sorted.extend_from_slice(history);
            self.sorted.sort_unstable();
            for run in self.sorted.chunk_by(|a, b| a == b) {
                let Some(z) = out.get_mut(run[0] as usize) else { continue };
                *z = if *z > 0.0 { *z / p.repetition_penalty } else { *z * p.repetition_penalty };
                *z -= p.frequency_penalty * run.len() as f32 + p.presence_penalty;
            }
        }
        if let Some(dry) = dry {
            for (token, run) in runs(dry, history) {
                if let Some(z) = out.get_mut(token as usize) {
                    *z -= dry.multiplier * dry.base.powi((run - dry.allowed) as i32);
                }
            }
        }
        true
    }
}

/// Tokens that would continue a run, with the longest run of each.
fn runs(dry: &Dry, history: &[u32]) -> BTreeMap<u32, usize> {
    let mut found = BTreeMap::new();
    let Some(&last) = history.last() else { return found };
    for end in 0..history.len() - 1 {
        if history[end] != last {
            continue;
        }
        let same = |i: &usize| {
            let (a, b) = (history[end - i], history[history.len() - 1 - i]);
            a == b && !dry.breakers.contains(&a)
        };
        let run = (0..LONGEST.min(end + 1)).take_while(same).count();
        if run >= dry.allowed {
            let longest = found.entry(history[end + 1]).or_insert(0);
            *longest = run.max(*longest);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_they_repeat() {
        let dry = Dry { allowed: 2, ..Dry::default() };
        // … 1 2 3 [9] … 2 3 [8] … 1 2 3: nine would continue three tokens, eight two.
        let history = [1, 2, 3, 9, 5, 2, 3, 8, 1, 2, 3];
        assert_eq!(runs(&dry, &history), BTreeMap::from([(9, 3), (8, 2)]));
        let broken = Dry { breakers: vec![2], ..dry.clone() };
        assert_eq!(runs(&broken, &history), BTreeMap::new(), "a run ends at a breaker");
        assert_eq!(runs(&dry, &[]), BTreeMap::new());
        assert_eq!(runs(&dry, &[4; 5]), BTreeMap::from([(4, 4)]));
    }
}

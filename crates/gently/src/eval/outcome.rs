//! What came of an item.

use super::answer::{ExactMatch, Pipeline};
use super::likelihood::Likelihood;
use super::metric::Metric;
use super::prompt::Prompt;
use serde_json::{Value, json};

/// What came of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its number among the task's items, from 0.
    pub item: usize,
    /// What the model read.
    pub prompt: String,
    /// Whether the prompt lost its beginning, because the model's context is shorter.
    pub cut: bool,
    /// For each of [`super::Task::measures`] 1 or 0, or what it is for the item's text alone.
    pub scores: Vec<f64>,
    /// What the model answered.
    pub answer: Answer,
    names: Vec<String>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// One of some choices.
    Chosen(Choices),
    /// A text.
    Written(Written),
    /// How likely a text is.
    Read(Read),
}

/// Choices and how likely they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Choices {
    /// Their texts.
    pub texts: Vec<String>,
    /// How likely each is, in order.
    pub likelihoods: Vec<Likelihood>,
    /// The likeliest.
    pub picked: usize,
    /// The likeliest for each character.
    pub picked_norm: usize,
    /// The likeliest for each byte.
    pub picked_bytes: usize,
    /// Those that are right.
    pub right: Vec<usize>,
    /// Where choices are prompts: what follows each of them, whose likelihood was asked.
    pub continuation: Option<String>,
    /// How likely each is with nothing in front; where mutual information is measured.
    pub alone: Vec<Likelihood>,
    /// The one whose likelihood the prompt raises by the greatest factor; where that is measured.
    pub picked_mutual: Option<usize>,
}

/// A written answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// As it was written.
    pub text: String,
    /// After each of the task's filters, in order.
    pub filtered: Vec<String>,
    /// What would be right.
    pub targets: Vec<String>,
}

/// A text that was read, or several.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Read {
    /// The sum of the natural log-probabilities of its tokens.
    pub log_likelihood: f64,
    /// Its tokens.
    pub tokens: usize,
    /// Its words: one more than stretches of white space.
    pub words: usize,
    /// Its bytes.
    pub bytes: usize,
}

impl Read {
    /// A text of this likelihood.
    pub(super) fn of(text: &str, parts: &[Likelihood]) -> Self {
        let mut space = false;
        let breaks = text.chars().filter(|c| !std::mem::replace(&mut space, c.is_whitespace()) && c.is_whitespace());
        Self {
            log_likelihood: parts.iter().map(|p| p.sum).sum(),
            tokens: parts.iter().map(|p| p.tokens).sum(),
            words: 1 + breaks.count(),
            bytes: text.len(),
        }
    }

    /// Both together.
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            log_likelihood: self.log_likelihood + other.log_likelihood,
            tokens: self.tokens + other.tokens,
            words: self.words + other.words,
            bytes: self.bytes + other.bytes,
        }
    }

    pub(super) fn measure(&self, metric: Metric) -> f64 {
        let for_each = |n: usize| -self.log_likelihood / n as f64;
        match metric {
            Metric::WordPerplexity => for_each(self.words).exp(),
            Metric::BytePerplexity => for_each(self.bytes).exp(),
            _ => for_each(self.bytes) / std::f64::consts::LN_2,
        }
    }
}

impl Outcome {
    pub(super) fn read(item: usize, read: Read, metrics: &[Metric]) -> Self {
        Self {
            item,
            prompt: String::new(),
            cut: false,
            scores: metrics.iter().map(|m| read.measure(*m)).collect(),
            names: metrics.iter().map(|m| m.name().to_owned()).collect(),
            answer: Answer::Read(read),
        }
    }

    /// `alone` is empty, or has the likelihood of each choice with nothing in front.
    pub(super) fn chosen(
        item: usize,
        prompt: Prompt,
        likelihoods: Vec<Likelihood>,
        alone: Vec<Likelihood>,
        metrics: &[Metric],
    ) -> Self {
        let Prompt { context, choices: texts, gold: right, continuation, .. } = prompt;
        // The first of equals, as numpy's argmax.
        let greatest = |each: &mut dyn Iterator<Item = f64>| {
            each.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, v)| if v > best.1 { (i, v) } else { best }).0
        };
        let best = |length: fn(&str) -> usize| {
            greatest(&mut likelihoods.iter().zip(&texts).map(|(l, text)| l.sum / length(text) as f64))
        };
        let raised = greatest(&mut likelihoods.iter().zip(&alone).map(|(l, a)| l.sum - a.sum));
        let picked_mutual = (!alone.is_empty()).then_some(raised);
        let picked = best(|_| 1);
        let picked_norm = best(|text| text.chars().count());
        let picked_bytes = best(str::len);
        let score = |metric: &Metric| {
            f64::from(match metric {
                // Of all items together something else is made of these.
                Metric::Acc | Metric::F1 | Metric::Mcc => right.contains(&picked),
                Metric::AccMutualInfo => right.contains(&raised),
                Metric::AccNorm => right.contains(&picked_norm),
                Metric::AccBytes => right.contains(&picked_bytes),
                _ => right.iter().any(|g| likelihoods[*g].greedy),
            })
        };
        Self {
            item,
            prompt: context,
            cut: likelihoods.iter().chain(&alone).any(|l| l.cut),
            scores: metrics.iter().map(score).collect(),
            names: metrics.iter().map(|m| m.name().to_owned()).collect(),
            answer: Answer::Chosen(Choices {
                texts,
                likelihoods,
                picked,
                picked_norm,
                picked_bytes,
                right,
                continuation,
                alone,
                picked_mutual,
            }),
        }
    }

    pub(super) fn written(
        item: usize,
        prompt: Prompt,
        text: String,
        cut: bool,
        filters: &[Pipeline],
        exact: &ExactMatch,
    ) -> Result<Self, String> {
        let Prompt { context, targets, .. } = prompt;
        let filtered = filters.iter().map(|f| f.apply(&text)).collect::<Result<Vec<_>, _>>()?;
        let right = filtered.iter().map(|answer| exact.is_right(answer, &targets)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            item,
            prompt: context,
            cut,
            scores: right.into_iter().map(f64::from).collect(),
            names: filters.iter().map(|f| f.name.clone()).collect(),
            answer: Answer::Written(Written { text, filtered, targets }),
        })
    }

    /// As a line of a file: what was asked, what was answered, what is right, and the scores.
    pub fn to_json(&self) -> Value {
        let scores: Value = self.names.iter().cloned().zip(self.scores.iter().map(|s| Value::from(*s))).collect();
        let mut line = json!({"item": self.item + 1, "prompt": self.prompt, "cut": self.cut});
        let more = match &self.answer {
            Answer::Chosen(c) => {
                let mut more = json!({
                    "choices": c.texts,
                    "log_likelihoods": c.likelihoods.iter().map(|l| l.sum).collect::<Vec<_>>(),
                    "tokens": c.likelihoods.iter().map(|l| l.tokens).collect::<Vec<_>>(),
                    "greedy": c.likelihoods.iter().map(|l| l.greedy).collect::<Vec<_>>(),
                    "picked": c.picked, "picked_norm": c.picked_norm, "picked_bytes": c.picked_bytes,
                    "right": c.right, "scores": scores,
                });
                if let Some(text) = &c.continuation {
                    more["continuation"] = json!(text);
                }
                if let Some(picked) = c.picked_mutual {
                    more["log_likelihoods_alone"] = c.alone.iter().map(|l| l.sum).collect();
                    more["picked_mutual"] = json!(picked);
                }
                more
            }
            Answer::Read(r) => json!({
                "log_likelihood": r.log_likelihood, "tokens": r.tokens, "words": r.words, "bytes": r.bytes,
                "scores": scores,
            }),
            Answer::Written(w) => {
                let filtered: Value = self.names.iter().cloned().zip(w.filtered.iter().map(|f| json!(f))).collect();
                json!({"answer": w.text, "filtered": filtered, "right": w.targets, "scores": scores})
            }
        };
        if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
            line.extend(more);
        }
        line
    }
}

//! How a task is answered, and what is measured of its items.
//!
//! Here: [`Kind`], [`Metric`], and the `metric_list` of a task file. Not here: the figures (see [`super::figures`]).

use super::answer::ExactMatch;
use super::error::Result;
use super::keys::Keys;
use super::yaml::Value;

/// How a task is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The likeliest of some continuations is the answer.
    MultipleChoice,
    /// The answer is written.
    Generate,
    /// A text is read, and what is asked is how likely it is.
    Rolling,
}

impl Kind {
    /// Its name in a task file.
    pub fn name(self) -> &'static str {
        ["multiple_choice", "generate_until", "loglikelihood_rolling"][self as usize]
    }
}

/// What is measured of an item: 1 or 0, or how well its text is foretold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// The likeliest choice is right.
    Acc,
    /// The choice with the greatest log-likelihood for each of its characters is right.
    AccNorm,
    /// The choice with the greatest log-likelihood for each of its bytes is right.
    AccBytes,
    /// The choice that the prompt makes likelier than it is by itself, by the greatest factor, is right.
    AccMutualInfo,
    /// The harmonic mean of precision and recall of choice 1, of two.
    F1,
    /// The correlation of what is picked with what is right (Matthews; for more than two choices Gorodkin's).
    Mcc,
    /// The written answer is right; of choices: the right one is what would have been written, token by token.
    ExactMatch,
    /// The perplexity for each word: for what stands between white space.
    WordPerplexity,
    /// The perplexity for each byte.
    BytePerplexity,
    /// Bits that each byte takes.
    BitsPerByte,
}

impl Metric {
    /// Its name in a task file.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 10] = [
            "acc",
            "acc_norm",
            "acc_bytes",
            "acc_mutual_info",
            "f1",
            "mcc",
            "exact_match",
            "word_perplexity",
            "byte_perplexity",
            "bits_per_byte",
        ];
        NAMES[self as usize]
    }

    /// Those that a kind of task has.
    fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::MultipleChoice => {
                &[Self::Acc, Self::AccNorm, Self::AccBytes, Self::AccMutualInfo, Self::F1, Self::Mcc, Self::ExactMatch]
            }
            Kind::Generate => &[Self::ExactMatch],
            Kind::Rolling => &[Self::WordPerplexity, Self::BytePerplexity, Self::BitsPerByte],
        }
    }

    /// Those of a kind that are measured unless the task says which.
    fn default(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::MultipleChoice => &[Self::Acc, Self::AccNorm],
            other => Self::of(other),
        }
    }

    /// How items are put together, as task files name it.
    fn aggregation(self) -> &'static str {
        match self {
            Self::WordPerplexity | Self::BytePerplexity => "weighted_perplexity",
            Self::BitsPerByte => "bits_per_byte",
            Self::F1 => "f1",
            Self::Mcc => "matthews_corrcoef",
            _ => "mean",
        }
    }
}

/// The metrics of a task, and how its written answers are compared.
pub(super) fn metrics(keys: &Keys<'_>, kind: Kind) -> Result<(Vec<Metric>, ExactMatch)> {
    let possible = Metric::of(kind);
    let mut found = Vec::new();
    let mut exact = ExactMatch::default();
    for node in keys.list("metric_list")? {
        const OPTIONS: [&str; 7] = [
            "metric",
            "aggregation",
            "higher_is_better",
            "ignore_case",
            "ignore_punctuation",
            "ignore_numbers",
            "regexes_to_ignore",
        ];
        let entry = Keys::of(keys.path, "metric_list", node, &OPTIONS, &[])?;
        let names: Vec<&str> = possible.iter().map(|m| m.name()).collect();
        let Some(at) = entry.choice("metric", &names)? else {
            return Err(entry.wrong("metric", node, "it is missing"));
        };
        let metric = possible[at];
        if found.contains(&metric) {
            return Err(entry.wrong("metric", node, format!("{} is given twice", metric.name())));
        }
        entry.only("aggregation", &[Value::Text(metric.aggregation().into())])?;
        entry.only("higher_is_better", &[Value::Bool(kind != Kind::Rolling)])?;
        let written = metric == Metric::ExactMatch && kind == Kind::Generate;
        if let Some(key) = OPTIONS[3..].iter().find(|k| !written && entry.get(k).is_some()) {
            return Err(entry.wrong(key, node, "it is an option of exact_match over written answers"));
        }
        exact.ignore_case |= entry.flag("ignore_case")?.unwrap_or(false);
        exact.ignore_punctuation |= entry.flag("ignore_punctuation")?.unwrap_or(false);
        exact.ignore_numbers |= entry.flag("ignore_numbers")?.unwrap_or(false);
        for pattern in entry.list("regexes_to_ignore")? {
            exact.ignored.push(entry.regex("regexes_to_ignore", pattern)?);
        }
        found.push(metric);
    }
    if found.is_empty() {
        found = Metric::default(kind).to_vec();
    }
    Ok((found, exact))
}

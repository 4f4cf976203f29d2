//! How well a model does at tasks: multiple choice and written answers, scored as lm-evaluation-harness scores them.
//!
//! Here: [`Task`]s in YAML under that program's keys, the prompts they make, log-likelihoods of choices ([`likelihood`]), written
//! answers and their filters ([`answer`]), and [`Run`], which gives the outcome of each item and the means with their standard
//! errors. Not here: the model, and the table (`gently eval`).
//!
//! ```no_run
//! use gently::eval::{EvalOptions, Run, Task};
//! use gently::prelude::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (model, task) = (TextModel::open("SmolLM2-135M")?, Task::open("examples/eval/facts.yaml")?);
//! let mut run = Run::new(&model, &task, &EvalOptions::default())?;
//! for outcome in run.by_ref() {
//!     println!("{}", outcome?.to_json());
//! }
//! for measure in run.measures() {
//!     println!("{} {:.3}", measure.name(), measure.figure.value);
//! }
//! # Ok(()) }
//! ```

pub mod answer;
mod error;
mod figures;
mod items;
mod keys;
pub mod likelihood;
mod metric;
mod outcome;
mod prompt;
mod sources;
mod task;
pub mod yaml;

pub use error::{Error, Result};
pub use figures::Figure;
pub use metric::{Kind, Metric};
pub use outcome::{Answer, Choices, Outcome, Read, Written};
pub use task::Task;

use crate::text_model::TextModel;
use crate::write::{WriteOptions, Writer, text_of};
use likelihood::{Cutter, Pair, Scorer};
use prompt::Prompt;
use std::collections::VecDeque;

/// What is asked, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvalOptions {
    /// Only the first items, this many.
    pub limit: Option<usize>,
    /// Solved examples before each item, in place of what the task says.
    pub num_fewshot: Option<usize>,
    /// Draws the examples.
    pub seed: u64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// What it is.
    pub metric: Metric,
    /// The filters that answers went through, by name; `None` for choices, and for answers taken as they are.
    pub filter: Option<String>,
    /// The mean over items.
    pub figure: Figure,
}

impl Measure {
    /// The metric, with its filters behind a comma where there are some.
    pub fn name(&self) -> String {
        match &self.filter {
            Some(filter) => format!("{},{filter}", self.metric.name()),
            None => self.metric.name().into(),
        }
    }
}

/// Items read in one go, for choices: enough for full passes.
const BATCH_TOKENS: usize = 4096;
/// Most of them.
const BATCH_ITEMS: usize = 64;
/// Longest window of a text that is read whole, where the model's context has no end.
const LONGEST: usize = 1 << 14;
/// Answers asked for at once, if the engine has places for so many and a queue as long.
pub const ANSWERS: usize = 16;
/// Most bytes of keys and values of a batch.
const BATCH_BYTES: usize = 512 << 20;

/// A task on its way through a model: an iterator over the items' outcomes, in their order.
pub struct Run<'a> {
    model: &'a TextModel,
    task: &'a Task,
    cutter: Cutter<'a>,
    scorer: Scorer<'a>,
    shots: usize,
    seed: u64,
    total: usize,
    /// Items that were begun.
    next: usize,
    ready: VecDeque<Outcome>,
    /// Scores of the items given out, by measure.
    scores: Vec<Vec<f64>>,
    /// The right choice and the likeliest one of each of them.
    labels: Vec<(usize, usize)>,
    /// Texts that were read, together.
    read: Read,
    /// Items whose prompt was longer than the model's context.
    cut: usize,
    failed: bool,
}

impl<'a> Run<'a> {
    /// Begins.
    ///
    /// # Errors
    /// More examples asked for than there are, or what [`Task::check`] refuses; a tokenizer that fails.
    pub fn new(model: &'a TextModel, task: &'a Task, options: &EvalOptions) -> Result<Self> {
        task.check(options)?;
        let total = options.limit.unwrap_or(usize::MAX).min(task.len());
        let shots = options.num_fewshot.unwrap_or(task.num_fewshot);
        // A task that cannot be asked is refused before anything is computed.
        (0..total).try_for_each(|i| prompt::prompt(task, i, shots, options.seed).map(|_| ()))?;
        Ok(Self {
            model,
            task,
            cutter: Cutter::new(model)?,
            scorer: Scorer::new(model.engine().plan()),
            shots,
            seed: options.seed,
            total,
            next: 0,
            ready: VecDeque::new(),
            scores: vec![Vec::new(); task.measures().len()],
            labels: Vec::new(),
            read: Read::default(),
            cut: 0,
            failed: false,
        })
    }

    /// How many items are asked.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many solved examples stand before each.
    pub fn num_fewshot(&self) -> usize {
        self.shots
    }

    /// Items so far whose prompt lost its beginning, because the model's context is shorter.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// The means over the items given out so far; none before the first.
    pub fn measures(&self) -> Vec<Measure> {
        let named = self.task.measures().into_iter().zip(&self.scores).filter(|(_, scores)| !scores.is_empty());
        named
            .map(|((metric, filter), scores)| Measure {
                metric,
                filter: filter.map(str::to_owned),
                figure: {
                    let of_all = |value| Figure { count: scores.len(), value, stderr: None };
                    match (self.task.kind, metric) {
                        // Long texts weigh more than short ones.
                        (Kind::Rolling, _) => of_all(self.read.measure(metric)),
                        (_, Metric::F1) => of_all(figures::f1(&self.labels)),
                        (_, Metric::Mcc) => of_all(figures::mcc(&self.labels)),
                        _ => Figure::of(scores),
                    }
                },
            })
            .collect()
    }

    fn prompt(&mut self) -> Result<Prompt> {
        let made = prompt::prompt(self.task, self.next, self.shots, self.seed);
        self.next += 1;
        made
    }

    fn wrong(&self, item: usize, reason: String) -> Error {
        Error::item(&self.task.items.path, item, reason)
    }

    /// The model's context, and the tokens that are read in one go.
    fn sizes(&self) -> (usize, usize) {
        let plan = self.model.engine().plan();
        let most = (BATCH_BYTES / plan.cache_bytes_per_token().max(1)).min(BATCH_TOKENS);
        (plan.room().unwrap_or(usize::MAX), most)
    }

    /// Reads the next item's text.
    fn read(&mut self) -> Result<()> {
        let (room, most) = self.sizes();
        let item = self.next;
        let prompt = self.prompt()?;
        let text = prompt.targets.first().map_or("", String::as_str);
        let windows = self.cutter.windows(text, room.min(LONGEST)).map_err(|e| self.of_item(item, e))?;
        if windows.is_empty() {
            return Err(self.wrong(item, "its text has no tokens to score".into()));
        }
        let mut parts = Vec::new();
        let groups: Vec<Vec<Pair>> = windows.into_iter().map(|w| vec![w]).collect();
        for groups in groups.chunks((most / room.min(LONGEST)).max(1)) {
            parts.extend(self.scorer.score(groups)?.concat());
        }
        self.ready.push_back(Outcome::read(item, Read::of(text, &parts), &self.task.metrics));
        Ok(())
    }

    /// Scores the next items' choices.
    fn choose(&mut self) -> Result<()> {
        let (room, most) = self.sizes();
        let asks = |metric| self.task.metrics.contains(&metric);
        let (mutual, labels, f1) =
            (asks(Metric::AccMutualInfo), asks(Metric::F1) || asks(Metric::Mcc), asks(Metric::F1));
        let (mut prompts, mut groups, mut tokens) = (Vec::new(), Vec::new(), 0);
        while self.next < self.total && tokens < most && prompts.len() < BATCH_ITEMS {
            let item = self.next;
            let prompt = self.prompt()?;
            if labels && prompt.gold.len() != 1 {
                let n = prompt.gold.len();
                return Err(self.wrong(item, format!("{n} choices are right; f1 and mcc are of tasks with one")));
            }
            if f1 && prompt.choices.len() > 2 {
                let n = prompt.choices.len();
                return Err(self.wrong(item, format!("there are {n} choices; f1 is of tasks with two")));
            }
            let delimiter = &self.task.target_delimiter;
            let texts = prompt.choices.iter().map(|choice| match &prompt.continuation {
                Some(text) => (format!("{}{choice}", prompt.context), format!("{delimiter}{text}")),
                None => (prompt.context.clone(), format!("{delimiter}{choice}")),
            });
            let mut of_item = vec![self.pairs(item, texts, room)?];
            if mutual {
                let alone = prompt.choices.iter().map(|choice| (String::new(), format!("{delimiter}{choice}")));
                of_item.push(self.pairs(item, alone, room)?);
            }
            for pairs in &of_item {
                tokens += pairs.iter().map(|p| p.continuation.len()).sum::<usize>();
                let contexts = pairs.iter().map(|p| p.context.len().min(room));
                tokens +=
                    if prompt.continuation.is_some() { contexts.sum::<usize>() } else { contexts.max().unwrap_or(0) };
            }
            prompts.push((item, prompt));
            groups.extend(of_item);
        }
        let mut scored = self.scorer.score(&groups)?.into_iter();
        for (item, prompt) in prompts {
            let likelihoods = scored.next().unwrap_or_default();
            let alone = if mutual { scored.next().unwrap_or_default() } else { Vec::new() };
            self.ready.push_back(Outcome::chosen(item, prompt, likelihoods, alone, &self.task.metrics));
        }
        Ok(())
    }

    /// Contexts and continuations of an item's choices, in tokens.
    fn pairs(&self, item: usize, texts: impl Iterator<Item = (String, String)>, room: usize) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for (i, (context, continuation)) in texts.enumerate() {
            let number = i + 1;
            let pair = self.cutter.pair(&context, &continuation).map_err(|e| self.of_item(item, e))?;
            let reason = match pair {
                Some(pair) if pair.continuation.len() > room => {
                    let n = pair.continuation.len();
                    format!("choice {number} has {n} tokens, more than the model's context of {room}")
                }
                Some(pair) => {
                    pairs.push(pair);
                    continue;
                }
                None if context.trim().is_empty() => {
                    format!("choice {number} has no tokens, or the empty prompt has none")
                }
                None => format!("choice {number} has no tokens of its own after the prompt"),
            };
            return Err(self.wrong(item, reason));
        }
        Ok(pairs)
    }

    /// Writes the next items' answers, as many at once as the engine takes.
    fn write(&mut self) -> Result<()> {
        let room = self.model.engine().plan().room().unwrap_or(usize::MAX);
        let generation = &self.task.generation;
        let options = WriteOptions {
            // An answer that would fill the context leaves half of it to the prompt.
            max_tokens: if generation.max_tokens < room { generation.max_tokens } else { (room / 2).max(1) },
            sampling: gently_models::sampling::SamplingParams { temperature: 0.0, ..Default::default() },
            stop: generation.until.clone(),
            answer: true,
            ..WriteOptions::default()
        };
        let mut writers = Vec::new();
        while self.next < self.total && writers.len() < ANSWERS {
            let item = self.next;
            let prompt = self.prompt()?;
            let mut ids =
                self.model.tokenizer().encode_prompt(&prompt.context).map_err(|e| self.of_item(item, e.into()))?;
            let most = room.saturating_sub(options.max_tokens).max(1);
            let cut = ids.len() > most;
            ids.drain(..ids.len().saturating_sub(most));
            match Writer::of_tokens(self.model, ids, &options) {
                Ok(writer) => writers.push((item, prompt, cut, writer)),
                // The queue is full: this item comes again when those before it have been answered.
                Err(crate::write::Error::Infer(gently_infer::Error::Busy { .. })) if !writers.is_empty() => {
                    self.next = item;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        for (item, prompt, cut, writer) in writers {
            let answer = self.answer(writer, &options.stop)?;
            let outcome = Outcome::written(item, prompt, answer, cut, &self.task.filters, &self.task.exact);
            self.ready.push_back(outcome.map_err(|reason| self.wrong(item, reason))?);
        }
        Ok(())
    }

    /// What is written, without special tokens: the harness looks for the ends of an answer with them, then leaves them out and
    /// cuts the answer again. The rest is text as it would have been written without them.
    fn answer(&self, mut writer: Writer, stop: &[String]) -> Result<String> {
        let text = writer.by_ref().collect::<Result<String, crate::write::Error>>()?;
        let tokenizer = self.model.tokenizer();
        let ids = writer.written().iter().map(|token| token.id);
        let plain: Vec<u32> = ids.filter(|id| !tokenizer.is_special(*id)).collect();
        if plain.len() == writer.written().len() {
            return Ok(text);
        }
        Ok(text_of(tokenizer, true, &plain, stop)?.0)
    }

    /// A tokenizer's refusal, with the item whose text it refuses.
    fn of_item(&self, item: usize, e: Error) -> Error {
        match e {
            Error::Text(e) => self.wrong(item, e.to_string()),
            other => other,
        }
    }
}

impl Iterator for Run<'_> {
    type Item = Result<Outcome>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() && !self.failed && self.next < self.total {
            let done = match self.task.kind {
                Kind::MultipleChoice => self.choose(),
                Kind::Generate => self.write(),
                Kind::Rolling => self.read(),
            };
            if let Err(e) = done {
                self.failed = true;
                return Some(Err(e));
            }
        }
        let outcome = self.ready.pop_front()?;
        self.cut += usize::from(outcome.cut);
        if let Answer::Read(read) = &outcome.answer {
            self.read = self.read.and(read);
        }
        if let Answer::Chosen(chosen) = &outcome.answer {
            self.labels.push((chosen.right[0], chosen.picked));
        }
        self.scores.iter_mut().zip(&outcome.scores).for_each(|(all, score)| all.push(*score));
        Some(Ok(outcome))
    }
}

//! The memory plan: the run's own steps on `Device::Meta`, where nothing is computed but every buffer is counted.

use std::sync::{Mutex, PoisonError};

use gently_kernels::pool;
use gently_models::Decoder;
use gently_tensor::{Device, Grads, Rng, memory};
use gently_text::Tokenizer;

use super::Build;
use super::sample::{self, Prompt};
use super::step::Passes;
use crate::Result;
use crate::data::{Batch, IGNORE};
use crate::optim::Optim;
use crate::plan::{self, MemoryPlan};
use crate::process_memory;
use crate::recipe::{Config, Sample};
use crate::stop::StopHandle;

/// Tokens of a sample that are rehearsed after those that fill the context: the first of them moves it on.
const PAST_CONTEXT: usize = 4;

/// What a run takes that no account has: events, lines of files, what the optimizer and checkpoints take for a moment, and the
/// holes that the last leave between buffers that stay. Runs of the quickstart, without this, went over their plans by 0.3 to 1.0
/// MiB.
const HEAP: u64 = 1 << 20;

/// There is one account for `Device::Meta` in a process; two plans at once would count each other's buffers.
static ACCOUNT: Mutex<()> = Mutex::new(());

/// What reading the data takes, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DataMemory {
    /// Of this process alone.
    pub owned: u64,
    /// Files that are mapped.
    pub mapped: u64,
}

/// What a run of `config` will take at its peak. Where somebody asks to stop meanwhile the samples are left out: such a run makes
/// none.
pub(super) fn plan(
    config: &Config,
    build: &Build,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    data: DataMemory,
    stop: &StopHandle,
) -> Result<MemoryPlan> {
    let _account = ACCOUNT.lock().unwrap_or_else(PoisonError::into_inner);
    memory::reset(Device::Meta);
    let live = || memory::stats(Device::Meta).live as u64;
    let before = live();

    let model = build(&config.model, &Rng::new(config.train.seed), &Device::Meta)?;
    let parameters = live() - before;
    let passes = Passes::new(&config.train);
    let mut optim = Optim::new(model.params(), &config.optimizer)?.with_compute(passes.compute());
    let states = live() - before - parameters;
    let gradients: u64 = model.params().iter().map(|p| memory::rounded(p.tensor.numel() * 4) as u64).sum();
    rehearse(config, &model, &passes, &mut optim, (tokenizer, prompts), stop)?;
    let peak = memory::stats(Device::Meta).peak_held as u64 - before;
    let scratch = memory::scratch().or(optim.scratch()).total(pool::threads()) as u64;
    drop((model, optim));
    memory::reset(Device::Meta);

    let activations = peak.saturating_sub(parameters + states + gradients);
    let base = process_memory::resident().unwrap_or(0);
    let recompute = if config.train.recompute { "recomputed by block" } else { "" };
    let lines: [_; plan::LINES] = [
        ("parameters", parameters, "f32"),
        ("gradients", gradients, "f32"),
        ("optimizer state", states, ""),
        ("activations", activations, recompute),
        ("kernels' scratch", scratch, "as the kernels state it"),
        ("data", data.owned + batches(config), "the batches of an update, and tokens that lie in no file"),
        ("process", base, "program, libraries and tokenizer, measured before the first tensor"),
        // An estimate: of 4.9 MB that were not in memory here a run of 8,000 steps with validation brought in 0.8. The rest is
        // other commands', and grows with them.
        (
            "program to come",
            process_memory::unread_program() / 4,
            "a quarter of the program's code that is not in memory yet",
        ),
        ("heap", HEAP, "small allocations and the holes between them, an estimate"),
        (plan::MAPPED, data.mapped, "token shards in the system's cache; they need not fit"),
    ];
    Ok(MemoryPlan::from_lines(lines))
}

/// Bytes of the batches of an update, all of which are drawn before its first pass: how many targets count is the divisor of each
/// loss.
fn batches(config: &Config) -> u64 {
    /// What the lists of a micro-batch take beside their numbers.
    const LISTS: usize = size_of::<Batch>() + 3 * 32;
    let train = &config.train;
    let token = if config.data.documents == crate::recipe::Documents::Stream { 8 } else { 12 };
    let micro = train.batch.div_ceil(train.rows());
    (train.accumulate * (train.batch * train.block * token + micro * LISTS)) as u64
}

/// In the order of a run, because a buffer that is free when it is wanted is not taken anew.
fn rehearse(
    config: &Config,
    model: &Decoder,
    passes: &Passes,
    optim: &mut Optim,
    (tokenizer, prompts): (&Tokenizer, &[Prompt]),
    stop: &StopHandle,
) -> Result<()> {
    let (rows, width) = (config.train.batch, config.train.block);
    let tokens = rows * width;
    let mut targets = vec![0; tokens];
    // A mask costs something, but one token at least must be learned from.
    if tokens > 1 {
        targets[tokens - 1] = IGNORE;
    }
    let masked = config.data.documents != crate::recipe::Documents::Stream;
    let batch =
        Batch { ids: vec![0; tokens], targets, docs: masked.then(|| vec![0; tokens]), batch: rows, block: width };
    // More than two micro-batches of a size change nothing: from the second on all buffers are there.
    let all: Vec<Batch> =
        (0..config.train.accumulate.min(2)).flat_map(|_| passes.micro_batches(batch.clone())).collect();
    let (mut batches, mut seen) = (Vec::new(), Vec::new());
    for batch in all {
        seen.push(batch.batch);
        if seen.iter().filter(|&&rows| rows == batch.batch).count() <= 2 {
            batches.push(batch);
        }
    }
    let never = StopHandle::new();
    passes.summed_loss(model, &batches[0])?;
    for step in 0..2 {
        let mut grads = Grads::new();
        passes.gradients(model, step, &batches, &mut grads, &never)?;
        optim.step(&grads, 0.0, 1.0)?;
    }
    passes.summed_loss(model, &batches[0])?;
    if config.sample.is_on() {
        let first = &prompts[..prompts.len().min(1)];
        // Beyond the context nothing grows any more.
        let tokens = config.sample.tokens.min(config.model.context.saturating_add(PAST_CONTEXT));
        let short = Sample { tokens, ..config.sample.clone() };
        sample::write(model, passes, tokenizer, first, &short, 0, stop)?;
    }
    Ok(())
}

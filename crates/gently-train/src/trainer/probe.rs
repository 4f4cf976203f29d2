//! A run's updates without a run: the same passes and the same optimizer on random tokens, for measurements.

use std::time::Instant;

use gently_models::Decoder;
use gently_tensor::{Device, Grads, Rng};
use gently_text::Tokenizer;

use super::rehearsal::DataMemory;
use super::step::Passes;
use super::{machine, rehearsal};
use crate::data::Batch;
use crate::events::{Machine, Split};
use crate::optim::Optim;
use crate::optim::norm::{clip_factor, global_norm};
use crate::process_memory;
use crate::recipe::{Config, Documents};
use crate::schedule::Schedule;
use crate::stop::StopHandle;
use crate::{Error, Result};

/// A model in training on random tokens: the work of an update depends on sizes alone, so no text is needed and no file is
/// written.
///
/// ```
/// use gently_train::Recipe;
/// use gently_train::trainer::Probe;
/// let text = "[model]\nlayers = 1\nheads = 2\nwidth = 16\nvocab = 30\n[train]\nbatch = 2\nblock = 8\n";
/// let mut probe = Probe::new(&Recipe::parse(text, "small.toml")?.resolve()?.config)?;
/// let spent = probe.update()?;
/// assert!(spent.total >= spent.forward + spent.backward);
/// # Ok::<(), gently_train::Error>(())
/// ```
pub struct Probe {
    config: Config,
    model: Decoder,
    passes: Passes,
    optim: Optim,
    schedule: Schedule,
    batches: Vec<Batch>,
    planned: u64,
    step: u64,
}

impl Probe {
    /// Makes the model of `config`, whose vocabulary is taken as it stands.
    ///
    /// # Errors
    /// [`Error::Memory`] if the planned peak does not fit the machine; from the model and the optimizer.
    pub fn new(config: &Config) -> Result<Self> {
        let mut config = config.clone();
        config.sample.every = 0;
        process_memory::forget_peak();
        let build = |model: &_, rng: &_, device: &_| Decoder::new(model, rng, device);
        let plan =
            rehearsal::plan(&config, &build, &Tokenizer::bytes(), &[], DataMemory::default(), &StopHandle::new())?;
        let planned = plan.total();
        let needed = plan.needed_beside(process_memory::resident().unwrap_or(0));
        if let Some(available) = process_memory::available()
            && needed > available
        {
            return Err(Error::Memory { needed, available, resumed: false, lasting: plan.is_mostly_lasting() });
        }
        let train = &config.train;
        let mut rng = Rng::new(train.seed).stream("probe");
        let (rows, width) = (train.batch, train.block);
        let mut words = || Vec::from_iter((0..rows * width).map(|_| rng.below(config.model.vocab as u64) as u32));
        // One document a row: the most that attention may have to do.
        let masked = config.data.documents != Documents::Stream;
        let mut batch = || Batch {
            ids: words(),
            targets: words(),
            docs: masked.then(|| vec![0; rows * width]),
            batch: rows,
            block: width,
        };
        let passes = Passes::new(train);
        let batches = (0..train.accumulate).flat_map(|_| passes.micro_batches(batch())).collect();
        let model = Decoder::new(&config.model, &Rng::new(train.seed), &Device::Cpu)?;
        let optim = Optim::new(model.params(), &config.optimizer)?.with_compute(passes.compute());
        let schedule = Schedule::new(&config.optimizer, train.steps);
        Ok(Self { model, passes, optim, schedule, batches, planned, step: 0, config })
    }

    /// Makes one update and says where its time went.
    ///
    /// # Errors
    /// From the passes and the optimizer.
    pub fn update(&mut self) -> Result<Split> {
        let begun = Instant::now();
        let mut grads = Grads::new();
        let never = StopHandle::new();
        let measured =
            self.passes.gradients(&self.model, self.step, &self.batches, &mut grads, &never)?.unwrap_or_default();
        let between = Instant::now();
        let norm = global_norm(self.model.params(), &grads)?;
        self.optim.step(&grads, self.schedule.rate(self.step), clip_factor(norm, self.config.train.clip))?;
        drop(grads);
        self.step += 1;
        Ok(Split {
            total: begun.elapsed().as_secs_f64(),
            data: 0.0,
            forward: measured.forward,
            backward: measured.backward,
            optimizer: between.elapsed().as_secs_f64(),
        })
    }

    /// The model.
    pub fn model(&self) -> &Decoder {
        &self.model
    }

    /// Planned peak memory of the process, in bytes.
    pub fn planned_bytes(&self) -> u64 {
        self.planned
    }

    /// The machine with its measured peak in the run's arithmetic.
    pub fn machine(&self) -> Machine {
        machine::machine(&self.config)
    }
}

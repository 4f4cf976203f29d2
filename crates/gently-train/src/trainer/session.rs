//! An opened run: its folder, model, data and logs; saving and resuming.

use std::path::{Path, PathBuf};
use std::time::Instant;

use gently_models::Decoder;
use gently_tensor::{Device, Rng, profile};

use super::diagnose::bad_weight;
use super::profiling::Profiling;
use super::rehearsal::DataMemory;
use super::sample::{self, Prompt};
use super::state::State;
use super::step::Passes;
use super::{OpenData, Trainer, machine, rehearsal};
use crate::checkpoint::{Checkpoints, STATE_FILE, Verified};
use crate::data;
use crate::events::{CheckpointSaved, Failed, Machine, Preparing, RunStarted};
use crate::folder::{LOG_FILE, Lines, Lock, Log, METRICS_FILE, SAMPLES_FILE};
use crate::optim::Optim;
use crate::plan::MemoryPlan;
use crate::process_memory;
use crate::recipe::{CONFIG_FILE, Config, Recipe, Resolved};
use crate::schedule::Schedule;
use crate::source::TrainData;
use crate::stop::StopHandle;
use crate::{Error, Event, Observer, Result};

/// The optimizer's tensors in a checkpoint, and parameters that the model's file does not hold to the bit.
const OPTIMIZER_FILE: &str = "trainer.safetensors";

/// Everything that a running run owns.
pub(super) struct Session {
    pub config: Config,
    pub folder: PathBuf,
    pub name: String,
    pub profiling: Option<Profiling>,
    pub model: Decoder,
    pub optim: Optim,
    pub passes: Passes,
    pub schedule: Schedule,
    pub data: TrainData,
    pub prompts: Vec<Prompt>,
    pub state: State,
    pub checkpoints: Checkpoints,
    pub metrics: Lines,
    pub samples: Lines,
    pub machine: Machine,
    pub plan: MemoryPlan,
    pub stop: StopHandle,
    pub begun: Instant,
    /// The step of the newest complete checkpoint.
    pub saved: Option<u64>,
    observers: Vec<Box<dyn Observer + Send>>,
    log: Log,
    _lock: Lock,
}

impl Session {
    /// Locks the folder, settles the configuration, opens the data, plans the memory, makes the model and takes up the
    /// last good checkpoint. A run that cannot go on is left with its configuration, its logs and its checkpoints.
    pub fn open(trainer: Trainer) -> Result<Self> {
        let begun = Instant::now();
        let mut observers = trainer.observers;
        let folder = trainer.folder;
        if folder.exists() && !folder.is_dir() {
            return Err(Error::NotAFolder { path: folder });
        }
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("cannot make", &folder, e))?;
        let lock = Lock::take(&folder)?;
        let checkpoints = Checkpoints::of_run(&folder);
        let log = Log::open(&folder.join(LOG_FILE))?;

        let saved_config = saved_config(&folder, trainer.resume)?;
        let mut resolved = match &saved_config {
            Some((recipe, saved)) => trainer.recipe.over(recipe).resolve_after(saved)?,
            None => trainer.recipe.resolve()?,
        };
        if let Some((_, saved)) = &saved_config {
            resolved.continues(saved)?;
        }
        let mut data = open_data(trainer.data, &resolved, &folder, &mut observers, &trainer.stop)?;
        if let Some(tokenizer) = data.prepared.take() {
            resolved.take_tokenizer(tokenizer);
        }
        let mut look = || if trainer.stop.is_asked() { Err(data::Error::Stopped) } else { Ok(()) };
        if let Some(val) = &mut data.val
            && !val.settle(&mut look)?
        {
            data.val = None;
            data.warnings.push("nothing is evaluated: no token of the validation split is one to learn from".into());
        }
        resolved.fit_vocabulary(data.tokenizer.vocab_size())?;
        if let Some((_, saved)) = &saved_config {
            resolved.keeps_vocabulary(saved)?;
        }
        let config = resolved.config.clone();

        let newest = checkpoints.newest()?;
        let last = newest.good.as_ref().map(|good| good.step);
        let steps = config.train.steps;
        if let Some(done) = last.filter(|done| *done > steps) {
            return Err(Error::StepsDone { steps, place: resolved.source("train.steps"), done });
        }
        let mut warnings: Vec<String> = newest.damaged.iter().map(|e| format!("{e}; an older one is taken")).collect();
        warnings.append(&mut data.warnings);
        let mut prompts = Vec::new();
        if config.sample.is_on_after(last.unwrap_or(0)) {
            let (good, complaints) = sample::prompts(&config.sample, &data.tokenizer);
            prompts = good;
            warnings.extend(complaints);
        }
        let profiling = (trainer.profile > 0).then(|| Profiling::new(trainer.profile, &config));
        process_memory::forget_peak();
        let reading = DataMemory { owned: data.memory, mapped: data.mapped };
        let plan = rehearsal::plan(&config, &trainer.build, &data.tokenizer, &prompts, reading, &trainer.stop)?;
        let needed = plan.needed_beside(process_memory::resident().unwrap_or(0));
        if let Some(free) = process_memory::available()
            && needed > free
        {
            let (resumed, lasting) = (saved_config.is_some(), plan.is_mostly_lasting());
            return Err(Error::Memory { needed, available: free, resumed, lasting });
        }

        let model = (trainer.build)(&config.model, &Rng::new(config.train.seed), &Device::Cpu)?;
        let passes = Passes::new(&config.train);
        let mut optim = Optim::new(model.params(), &config.optimizer)?.with_compute(passes.compute());
        let tokenizer = format!("{:016x}", data.tokenizer.hash());
        let mut state = State::new(data.train.position(), &config.spike, tokenizer);
        if let Some(good) = newest.good {
            state = take_up(good, state, &config, &model, &mut optim, &mut data)?;
        }
        warnings.extend(state.measure_on(data.val.as_ref().map(|val| format!("{:016x}", val.identity()))));
        // A step whose line and samples are still pending has none.
        let written = if state.pending.is_some() { last.and_then(|step| step.checked_sub(1)) } else { last };
        // From here on the run's files change. Logs first: one that cannot be opened leaves the configuration as it was.
        let metrics = Lines::open(&folder.join(METRICS_FILE), written)?;
        let samples = Lines::open(&folder.join(SAMPLES_FILE), written)?;
        if saved_config.is_some() {
            checkpoints.sweep()?;
        }
        gently_formats::atomic::write(folder.join(CONFIG_FILE), resolved.to_toml().as_bytes())?;
        let mut session = Self {
            schedule: Schedule::new(&config.optimizer, config.train.steps),
            machine: machine::machine_once(&config),
            metrics,
            samples,
            saved: last,
            config,
            model,
            optim,
            passes,
            data,
            prompts,
            state,
            checkpoints,
            plan,
            stop: trainer.stop,
            begun,
            observers,
            log,
            folder,
            name: resolved.name.clone(),
            profiling,
            _lock: lock,
        };
        match session.begin(&resolved, warnings) {
            Ok(()) => Ok(session),
            Err(error) => Err(session.failed(error)),
        }
    }

    /// Tells that the run starts, and what a person should know of it.
    fn begin(&mut self, resolved: &Resolved, warnings: Vec<String>) -> Result<()> {
        self.announce(resolved)?;
        for message in warnings {
            self.warn(message)?;
        }
        // Not before it was told: what is set aside is warned of no more.
        match self.saved {
            Some(step) => self.checkpoints.set_aside_after(step),
            None => Ok(()),
        }
    }

    fn announce(&mut self, resolved: &Resolved) -> Result<()> {
        let train = &self.config.train;
        let name = resolved.name.clone();
        let pending = self.saved.is_none() || self.state.pending.is_some();
        let started = RunStarted {
            name,
            folder: self.folder.clone(),
            start_step: self.state.step,
            pending,
            best: self.state.best.map(|best| (best.step, best.loss)),
            best_since: self.state.step + u64::from(!pending),
            total_steps: train.steps,
            tokens_per_step: (train.batch * train.block * train.accumulate) as u64,
            config: resolved.lines(),
            plan: self.plan.clone(),
            model: machine::model_summary(&self.model, &self.config),
            data: self.data.summary.clone(),
            machine: self.machine.clone(),
        };
        let mut text = match started.start_step {
            0 => format!("run {} begins: {}", started.name, started.model.description),
            step => format!("run {} goes on after step {step}", started.name),
        };
        text += &format!("\ndata: {}", started.data.description);
        for line in &started.plan.lines {
            text += &format!("\nmemory: {:<18}{:>12} {}", line.name, line.bytes, line.note);
        }
        text += &format!("\nmemory: {:<18}{:>12}", "planned peak", started.plan.total());
        self.log.say(&text)?;
        self.tell(&Event::RunStarted(Box::new(started)))
    }

    /// Tells every observer.
    pub fn tell(&mut self, event: &Event) -> Result<()> {
        for observer in &mut self.observers {
            observer.on(event)?;
        }
        Ok(())
    }

    /// Tells every observer and the log what ended the run, and gives it back.
    pub fn failed(&mut self, error: Error) -> Error {
        let message = in_words(&error);
        // Neither may hide the error itself, which may be theirs.
        let _ = self.log.say(&format!("failed: {message}"));
        let event = Event::Failed(Failed { step: self.state.step, message });
        for observer in &mut self.observers {
            let _ = observer.on(&event);
        }
        error
    }

    /// Tells every observer and the log what a person should read.
    pub fn warn(&mut self, message: String) -> Result<()> {
        self.log.say(&format!("warning: {message}"))?;
        let step = self.state.step;
        self.tell(&Event::Warning { step, message })
    }

    /// Appends to the log.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.log.say(text)
    }

    /// Saves a checkpoint of the present step and removes those that are no longer kept.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a weight that is no number: the checkpoints before stay as they are, the last of them a good one.
    pub fn save(&mut self) -> Result<()> {
        let _phase = profile::phase("checkpoint");
        let begun = Instant::now();
        // A good checkpoint must not make way for a broken one. A look at each weight costs little beside writing it.
        if let Some(found) = bad_weight(&self.model, self.state.step)? {
            return Err(self.not_finite(found)?);
        }
        // Lines up to this step must be there when the checkpoint is.
        self.metrics.sync()?;
        self.samples.sync()?;
        self.state.position = self.data.train.position();
        self.state.updates = self.optim.updates();
        let (model, optim, tokenizer) = (&self.model, &self.optim, &self.data.tokenizer);
        let step = self.state.step;
        let (path, bytes) = self.checkpoints.save(step, &self.state, |folder| {
            model.save_pretrained(folder)?;
            tokenizer.save(folder)?;
            optim.save(&folder.join(OPTIMIZER_FILE), &model.rounded_when_saved()?)
        })?;
        self.saved = Some(step);
        let best = self.state.best.map(|best| best.step);
        let keep_best = best.filter(|_| self.config.checkpoint.best);
        self.checkpoints.prune(self.config.checkpoint.keep, keep_best)?;
        let event =
            CheckpointSaved { step, path, bytes, best: best == Some(step), seconds: begun.elapsed().as_secs_f64() };
        self.say(&format!("checkpoint {}", event.path.display()))?;
        self.tell(&Event::CheckpointSaved(event))
    }
}

/// An error with its causes, in a sentence.
fn in_words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let why = cause.to_string();
        // Some errors say what their source says.
        if !text.contains(&why) {
            text += &format!(": {why}");
        }
        next = cause.source();
    }
    text
}

/// Puts model, optimizer and data where a checkpoint says they were, and gives the numbers that belong to it. `fresh` are those of
/// a run that begins.
fn take_up(
    good: Verified,
    fresh: State,
    config: &Config,
    model: &Decoder,
    optim: &mut Optim,
    data: &mut TrainData,
) -> Result<State> {
    let Verified { step, path, state } = good;
    let bad = |why: String| Error::State { file: path.join(STATE_FILE), why };
    let state: State = serde_json::from_value(state).map_err(|e| bad(e.to_string()))?;
    state.check(step).map_err(bad)?;
    if state.tokenizer != fresh.tokenizer {
        return Err(Error::TokenizerMismatch);
    }
    // The place first: it is the cheapest to refuse.
    data.train.seek(&state.position)?;
    model.load_weights(&path)?;
    // After the weights, of which it has those that are rounded there.
    optim.load(&path.join(OPTIMIZER_FILE), state.updates)?;
    let window = config.spike.window;
    Ok(State { losses: state.losses.resized(window), norms: state.norms.resized(window), ..state })
}

/// Opens the data and lets the observers see how far that is. Ends with an observer's error, or when somebody asks to stop.
fn open_data(
    open: Box<OpenData>,
    resolved: &Resolved,
    folder: &Path,
    observers: &mut [Box<dyn Observer + Send>],
    stop: &StopHandle,
) -> Result<TrainData> {
    let mut told = Ok(());
    let opened = open(resolved, folder, &mut |now| {
        let event = Event::Preparing(Preparing { stage: now.stage.into(), done: now.done, total: now.total });
        told = observers.iter_mut().try_for_each(|observer| observer.on(&event));
        match stop.is_asked() || told.is_err() {
            true => Err(data::Error::Stopped),
            false => Ok(()),
        }
    });
    told.and(opened)
}

/// The configuration with which the folder's run was begun, if it is to go on.
fn saved_config(folder: &Path, resume: bool) -> Result<Option<(Recipe, Resolved)>> {
    if !resume {
        let holds_a_run = !Checkpoints::of_run(folder).steps()?.is_empty()
            || std::fs::metadata(folder.join(METRICS_FILE)).is_ok_and(|m| m.len() > 0);
        return match holds_a_run {
            true => Err(Error::RunExists { folder: folder.into() }),
            false => Ok(None),
        };
    }
    if !folder.join(CONFIG_FILE).exists() {
        // Killed before it had begun, or never begun: there is nothing to go on with, and nothing to lose.
        return Ok(None);
    }
    let recipe = Recipe::reload(folder)?;
    let resolved = recipe.resolve_unchecked()?;
    Ok(Some((recipe, resolved)))
}

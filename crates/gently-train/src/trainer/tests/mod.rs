//! Whole runs of a model of about 5000 parameters.

mod exactness;
mod failures;
mod mixers;

use std::path::Path;
use std::sync::{Arc, Mutex};

use gently_tensor::Rng;
use gently_text::Tokenizer;
use serde_json::Value;

use super::*;
use crate::data::{Batch, Corpus, EvalSet, IGNORE};
use crate::events::{DataSummary, SpikeSkipped};
use crate::source::BatchSource;
use crate::{Error, Event};

const TINY: &str = "\
[model]
layers = 2
heads = 2
width = 16
[train]
steps = 12
batch = 4
block = 8
seed = 7
[optimizer]
lr = 3e-3
warmup = 2
[eval]
every = 4
batches = 2
[sample]
every = 6
prompts = ['to ']
tokens = 12
[checkpoint]
every = 3
";

const TEXT: &str = "to be or not to be that is the question whether it is nobler in the mind to suffer ";

fn tiny(set: &[&str]) -> Recipe {
    let mut recipe = Recipe::parse(TINY, "tiny.toml").unwrap();
    for assignment in set {
        recipe.set(assignment).unwrap();
    }
    recipe
}

/// Random windows of one text; the n-th batch is a function of n. Some targets are masked.
struct Windows {
    ids: Vec<u32>,
    rows: usize,
    width: usize,
    at: u64,
    masked: bool,
}

impl BatchSource for Windows {
    fn next_batch(&mut self) -> crate::Result<Batch> {
        let mut batch = Batch { batch: self.rows, block: self.width, ..Batch::default() };
        for row in 0..self.rows as u64 {
            // The same rows in the same order, whatever their number in a batch.
            let n = self.at * self.rows as u64 + row;
            let room = (self.ids.len() - self.width) as u64;
            let start = Rng::new(5).substream(n).below(room) as usize;
            batch.ids.extend(&self.ids[start..start + self.width]);
            batch.targets.extend(&self.ids[start + 1..=start + self.width]);
            if self.masked {
                let places = batch.targets.len() - self.width..;
                let keep = 1 + n as usize % self.width;
                for target in &mut batch.targets[places][keep..] {
                    *target = IGNORE;
                }
            }
        }
        self.at += 1;
        Ok(batch)
    }
    fn position(&self) -> Value {
        self.at.into()
    }
    fn seek(&mut self, to: &Value) -> crate::Result<()> {
        self.at = to.as_u64().unwrap();
        Ok(())
    }
}

fn windows(resolved: &Resolved, masked: bool) -> crate::Result<TrainData> {
    let tokenizer = Tokenizer::characters(TEXT.chars());
    let ids = tokenizer.encode(TEXT).unwrap();
    let train = &resolved.config.train;
    let (rows, width) = (train.batch, train.block);
    let val = Corpus::from_documents("val", [ids.clone()], tokenizer.vocab_size() as u64, 0)?;
    Ok(TrainData {
        train: Box::new(Windows { ids, rows, width, at: 0, masked }),
        val: Some(EvalSet::new(val.into(), rows, width, Some(resolved.config.eval.batches), false)?),
        tokenizer,
        summary: DataSummary::default(),
        memory: 0,
        mapped: 0,
        warnings: Vec::new(),
        prepared: None,
    })
}

fn trainer(recipe: Recipe, folder: &Path) -> Trainer {
    Trainer::new(recipe, folder).data(|resolved, _| windows(resolved, false))
}

/// Collects events, and fails at the one of a number.
#[derive(Clone, Default)]
struct Watch {
    seen: Arc<Mutex<Vec<Event>>>,
    fail_at: Option<usize>,
}

impl crate::Observer for Watch {
    fn on(&mut self, event: &Event) -> crate::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        seen.push(event.clone());
        match self.fail_at {
            Some(n) if seen.len() > n => Err(Error::Observer { name: "a crash".into(), source: "power cut".into() }),
            _ => Ok(()),
        }
    }
}

impl Watch {
    fn events(&self) -> Vec<Event> {
        self.seen.lock().unwrap().clone()
    }

    /// What a person was warned of.
    fn warnings(&self) -> Vec<String> {
        let message = |e: Event| if let Event::Warning { message, .. } = e { Some(message) } else { None };
        self.events().into_iter().filter_map(message).collect()
    }

    fn losses(&self) -> Vec<f64> {
        let loss = |e: Event| if let Event::Step(step) = e { Some(step.loss) } else { None };
        self.events().into_iter().filter_map(loss).collect()
    }
}

/// `metrics.jsonl` without what a clock measured.
fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join(crate::folder::METRICS_FILE)).unwrap();
    text.lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            for key in ["tokens_per_second", "utilisation", "seconds"] {
                line.as_object_mut().unwrap().shift_remove(key);
            }
            line
        })
        .collect()
}

/// Everything that must be equal in equal runs.
fn outcome(folder: &Path) -> (Vec<Value>, String, Vec<u8>, Vec<u8>) {
    let last = crate::checkpoint::Checkpoints::of_run(folder).latest().unwrap().unwrap();
    let read = |name| std::fs::read(last.join(name)).unwrap();
    let samples = std::fs::read_to_string(folder.join(crate::folder::SAMPLES_FILE)).unwrap();
    (metrics(folder), samples, read("model.safetensors"), read("trainer.safetensors"))
}

/// Damages a file.
fn flip_last_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

/// Runs to the end in a folder of its own.
fn finish(recipe: Recipe) -> (tempfile::TempDir, Watch, Finished) {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    let finished = trainer(recipe, folder.path()).observe(watch.clone()).run().unwrap();
    (folder, watch, finished)
}

#[test]
fn a_run_learns_and_leaves_its_files() {
    let (folder, watch, finished) = finish(tiny(&["train.steps=60", "checkpoint.keep=1"]));
    let losses = watch.losses();
    assert_eq!(losses.len(), 60);
    assert!(losses[59] < 0.8 * losses[0], "{losses:?}");
    assert!((losses[0] - 18f64.ln()).abs() < 0.2, "a fresh model knows nothing: {}", losses[0]);

    let lines = metrics(folder.path());
    assert_eq!(lines.len(), 61, "one line for each step, and one before the first");
    assert!(lines[0].get("val_loss").is_some() && lines[0].get("train_loss").is_none());
    assert_eq!(lines[4]["step"], 4);
    assert_eq!(lines[4]["train_loss"].as_f64(), Some(losses[3]));
    assert_eq!(finished.val_loss, lines[60]["val_loss"].as_f64());
    assert_eq!(finished.tokens, 60 * 32);

    let checkpoint = finished.checkpoint.unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "trainer.json", "DONE"] {
        assert!(checkpoint.join(name).is_file(), "{name}");
    }
    let model = Decoder::load_pretrained(&checkpoint, &Device::Cpu).unwrap();
    assert_eq!(model.config().vocab, Tokenizer::load(&checkpoint).unwrap().vocab_size());
    let config = std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
    assert!(config.contains("# tokenizer"), "{config}");

    let count = |name: &str| {
        let events = watch.events();
        let named = |e: &&Event| serde_json::to_value(e).unwrap()["event"] == name;
        events.iter().filter(named).count()
    };
    assert_eq!(count("run_started"), 1);
    assert_eq!(count("evaluated"), 16);
    assert_eq!(count("sampled"), 10);
    assert_eq!(count("finished"), 1);
}

#[test]
fn every_optimizer_and_shape_trains() {
    for set in
        ["optimizer.kind=muon", "optimizer.kind=lion", "model.family=llama", "train.compute=bf16", "model.dropout=0.1"]
    {
        let lr = if set.ends_with("lion") { "optimizer.lr=2e-3" } else { "optimizer.lr=3e-3" };
        let (_folder, watch, _) = finish(tiny(&["train.steps=60", lr, set]));
        let losses = watch.losses();
        assert!(losses[59] < 0.9 * losses[0], "{set}: {} -> {}", losses[0], losses[59]);
    }
}

#[test]
fn the_plan_is_made_before_the_first_step() {
    let (_folder, watch, _) = finish(tiny(&["train.steps=2"]));
    let Event::RunStarted(started) = &watch.events()[0] else {
        panic!("the first event says that the run began");
    };
    let bytes = |name: &str| started.plan.lines.iter().find(|line| line.name == name).map(|line| line.bytes).unwrap();
    let parameters = 4 * started.model.parameters;
    for (name, times) in [("parameters", 1), ("gradients", 1), ("optimizer state", 2)] {
        let planned = bytes(name);
        assert!(planned >= times * parameters, "{name}: {planned} for {parameters}");
        assert!(planned < times * parameters * 5 / 4 + 65536, "{name}: {planned}");
    }
    assert!(bytes("activations") > 0 && bytes("heap") > 0);
    assert_eq!(started.tokens_per_step, 32);
}

#[test]
fn stopping_saves_and_going_on_completes() {
    let folder = tempfile::tempdir().unwrap();
    let stop = StopHandle::new();
    stop.stop();
    let recipe = || tiny(&["checkpoint.every=0"]);
    let finished = trainer(recipe(), folder.path()).stop_when(stop).run().unwrap();
    assert_eq!(finished.reason, crate::events::Reason::Stopped);
    assert_eq!(finished.step, 0);
    let finished = trainer(recipe(), folder.path()).resume(true).run().unwrap();
    assert_eq!(finished.reason, crate::events::Reason::Complete);
    let (whole, _, _) = finish(recipe());
    assert_eq!(outcome(folder.path()), outcome(whole.path()));
    // Once more: nothing is left to do, and nothing changes.
    let again = trainer(recipe(), folder.path()).resume(true).run().unwrap();
    assert_eq!(again.step, 12);
    assert_eq!(outcome(folder.path()), outcome(whole.path()));
}

/// Asks to stop when all is ready and no step is made.
struct StopAtStart(StopHandle);

impl Observer for StopAtStart {
    fn on(&mut self, event: &Event) -> Result<()> {
        if let Event::RunStarted(_) = event {
            self.0.stop();
        }
        Ok(())
    }
}

#[test]
fn a_text_file_becomes_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, TEXT.repeat(40)).unwrap();
    let run = folder.path().join("run");
    let recipe = || {
        let mut recipe = tiny(&["train.steps=8", "data.documents=mask"]);
        recipe.assign("data.path", vec![text.display().to_string()], crate::recipe::Source::Set).unwrap();
        recipe
    };
    // Asked before the text is prepared: there is nothing to go on with, and nothing in the way.
    let stop = StopHandle::new();
    stop.stop();
    let error = Trainer::new(recipe(), &run).stop_when(stop).run().unwrap_err();
    assert!(matches!(error, Error::Data(crate::data::Error::Stopped)), "{error}");
    let stop = StopHandle::new();
    Trainer::new(recipe(), &run).observe(StopAtStart(stop.clone())).stop_when(stop).run().unwrap();
    let finished = Trainer::new(recipe(), &run).resume(true).run().unwrap();
    assert_eq!(finished.step, 8);
    let whole = folder.path().join("whole");
    Trainer::new(recipe(), &whole).run().unwrap();
    assert_eq!(outcome(&run), outcome(&whole));
    // The text changed: its order of blocks is another, so the run cannot go on.
    std::fs::write(&text, TEXT.repeat(41)).unwrap();
    let prepared = std::fs::read_to_string(run.join("data/dataset.json")).unwrap();
    let longer = || Trainer::new(tiny(&["train.steps=9"]), &run).resume(true).run();
    let error = longer().unwrap_err();
    assert!(matches!(error, Error::Data(_)), "{error}");
    assert!(error.hint().is_some());
    // So it is where as many tokens are others.
    std::fs::write(&text, TEXT.repeat(40).replacen("to be", "be to", 1)).unwrap();
    let error = longer().unwrap_err();
    assert!(matches!(error, Error::Data(crate::data::Error::State { .. })), "{error}");
    assert_eq!(std::fs::read_to_string(run.join("data/dataset.json")).unwrap(), prepared);
    // The old text, from which the old shards were made, goes on.
    std::fs::write(&text, TEXT.repeat(40)).unwrap();
    assert_eq!(longer().unwrap().step, 9);
}

#[test]
fn a_run_goes_on_without_the_texts_it_was_begun_with() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let named = |path: &Path| {
        let mut recipe = tiny(&["train.steps=8", "data.documents=mask"]);
        recipe.assign("data.path", vec![path.display().to_string()], crate::recipe::Source::Set).unwrap();
        recipe
    };
    let recipe = || named(&at("text.txt"));
    std::fs::write(at("text.txt"), TEXT.repeat(40)).unwrap();
    let whole = at("whole");
    Trainer::new(recipe(), &whole).run().unwrap();
    let runs = [at("one"), at("two"), at("three")];
    for run in &runs {
        let stop = StopHandle::new();
        Trainer::new(recipe(), run).observe(StopAtStart(stop.clone())).stop_when(stop).run().unwrap();
    }
    let [one, two, three] = &runs;
    std::fs::rename(at("text.txt"), at("moved.txt")).unwrap();
    Trainer::new(recipe(), one).resume(true).run().unwrap();
    assert_eq!(outcome(one), outcome(&whole));
    Trainer::new(named(&two.join("data")), two).resume(true).run().unwrap();
    assert_eq!(outcome(two), outcome(&whole));
    // Without the shards there is nothing to go on with until the text is named.
    std::fs::remove_dir_all(three.join("data")).unwrap();
    let error = Trainer::new(recipe(), three).resume(true).run().unwrap_err();
    assert!(matches!(&error, Error::Data(crate::data::Error::Gone { dataset: None, .. })), "{error}");
    assert!(error.hint().unwrap().contains("--data"));
    Trainer::new(named(&at("moved.txt")), three).resume(true).run().unwrap();
    assert_eq!(outcome(three), outcome(&whole));
    // Shards of another text are not taken for those of the run.
    std::fs::write(at("text.txt"), TEXT.repeat(41)).unwrap();
    let other = at("other");
    Trainer::new(recipe(), &other).run().unwrap();
    std::fs::remove_file(at("text.txt")).unwrap();
    std::fs::remove_dir_all(one.join("data")).unwrap();
    std::fs::rename(other.join("data"), one.join("data")).unwrap();
    let error = Trainer::new(recipe(), one).resume(true).run().unwrap_err();
    assert!(matches!(error, Error::Data(crate::data::Error::State { .. })), "{error}");
}

#[test]
fn samples_may_be_written_at_the_start_alone() {
    let (folder, _, _) = finish(tiny(&["train.steps=2", "sample.every=0", "sample.at_start=true"]));
    let samples = std::fs::read_to_string(folder.path().join(crate::folder::SAMPLES_FILE)).unwrap();
    assert_eq!(samples.lines().count(), 1);
    assert!(samples.starts_with("{\"step\":0,"), "{samples}");
}

#[test]
fn a_step_that_is_pending_is_told_to_those_who_watch_when_the_run_goes_on() {
    let set = ["train.steps=3", "eval.every=0", "eval.at_start=false", "sample.every=3", "sample.tokens=3"];
    let begins = |watch: &Watch| match watch.events().swap_remove(0) {
        Event::RunStarted(run) => (run.start_step, run.pending),
        other => panic!("{other:?}"),
    };
    let (mut told, mut evaluated) = (0, 0);
    for look in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let stop = StopHandle::at_look(look);
        let finished = trainer(tiny(&set), folder.path()).stop_when(stop).run().unwrap();
        if finished.reason == crate::events::Reason::Complete {
            break;
        }
        if finished.step < 3 {
            continue;
        }
        let watch = Watch::default();
        trainer(tiny(&set), folder.path()).resume(true).observe(watch.clone()).run().unwrap();
        let evaluations = watch.events().iter().filter(|e| matches!(e, Event::Evaluated(e) if e.step == 3)).count();
        assert_eq!((watch.losses().len(), evaluations), (1, 1), "stopped at look {look}");
        assert_eq!(begins(&watch), (3, true), "stopped at look {look}");
        for event in watch.events() {
            if let Event::Step(step) = &event {
                // How fast it was another process knew.
                assert_eq!(crate::watch::format::duration(step.eta), "–");
                serde_json::from_value::<Event>(serde_json::to_value(&event).unwrap()).unwrap();
            }
        }
        told += 1;
        evaluated += usize::from(finished.val_loss.is_some());
    }
    // Stopped in the last evaluation, and in the samples after it.
    assert!(told > evaluated && evaluated > 0, "{told} {evaluated}");
    // All of a new run is to come, and nothing of the last step of a whole one.
    let (folder, watch, finished) = finish(tiny(&set));
    assert_eq!(begins(&watch), (0, true));
    let watch = Watch::default();
    trainer(tiny(&set), folder.path()).resume(true).observe(watch.clone()).run().unwrap();
    assert_eq!(begins(&watch), (3, false));
    let events = watch.events();
    let Event::RunStarted(run) = &events[0] else { panic!("{:?}", events[0]) };
    assert!(run.best.is_some());
    assert_eq!((run.best, run.best_since), (finished.best, 4));
}

#[test]
fn a_spike_that_is_pending_is_told_once_more() {
    // A model that hardly learns: some of its losses, which go up and down by chance, are taken for spikes.
    let set = ["model.dropout=0.1", "optimizer.lr=1e-5", "spike.skip=true", "spike.window=8", "spike.z=0.01"];
    let set = [&set[..], &["eval.every=1", "sample.every=0", "checkpoint.every=0"][..]].concat();
    let spikes = |watch: &Watch| {
        let spike = |e: Event| if let Event::SpikeSkipped(spike) = e { Some(spike) } else { None };
        watch.events().into_iter().filter_map(spike).collect::<Vec<_>>()
    };
    let mut told = 0;
    for look in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Watch::default(), Watch::default());
        let stop = StopHandle::at_look(look);
        let finished = trainer(tiny(&set), folder.path()).stop_when(stop).observe(first.clone()).run().unwrap();
        if finished.reason == crate::events::Reason::Complete {
            break;
        }
        let Some(spike) = spikes(&first).pop().filter(|spike| spike.step == finished.step) else { continue };
        let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
        let SpikeSkipped { step, loss, grad_norm, .. } = spike;
        let line = format!("spike at step {step}: loss {loss:.4}, gradient norm {grad_norm:.4}; update left out");
        assert!(log.contains(&line), "{log}");
        trainer(tiny(&set), folder.path()).resume(true).observe(second.clone()).run().unwrap();
        let events = second.events();
        let Event::RunStarted(run) = &events[0] else { panic!("{:?}", events[0]) };
        let again = matches!(events[1], Event::SpikeSkipped(of) if of == spike);
        assert_eq!(again, run.pending, "stopped at look {look}");
        assert_eq!(spikes(&second).iter().filter(|of| of.step == spike.step).count(), usize::from(run.pending));
        told += usize::from(again);
    }
    assert!(told > 0, "spikes are met, and stops in the evaluation after one");
}

#[test]
fn prompts_for_the_start_alone_are_not_read_when_the_run_goes_on() {
    let set =
        |steps: &'static str| tiny(&[steps, "sample.every=0", "sample.at_start=true", "sample.prompts=['Ω', 'to ']"]);
    let (folder, watch, _) = finish(set("train.steps=2"));
    assert_eq!(watch.warnings().len(), 1);
    let watch = Watch::default();
    trainer(set("train.steps=4"), folder.path()).resume(true).observe(watch.clone()).run().unwrap();
    assert!(watch.warnings().is_empty(), "{:?}", watch.warnings());
}

#[test]
fn a_run_can_be_handed_to_another_thread() {
    fn sent<T: Send>() {}
    sent::<Trainer>();
}

/// What was said of a profile: the table's place, and warnings.
fn profiled(recipe: Recipe, folder: &Path, resume: bool) -> (Vec<(u64, u64)>, Vec<String>) {
    let watch = Watch::default();
    trainer(recipe, folder).resume(resume).profile(10).observe(watch.clone()).run().unwrap();
    let of = |e: Event| if let Event::Profiled(of) = e { Some((of.first_step, of.steps)) } else { None };
    (watch.events().into_iter().filter_map(of).collect(), watch.warnings())
}

#[test]
fn a_profile_of_a_short_run_is_of_its_last_update_and_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = || tiny(&["train.steps=3", "sample.every=0"]);
    assert_eq!(profiled(recipe(), folder.path(), false), (vec![(3, 1)], vec![]));
    let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
    assert!(log.contains("profile of update 3\n"), "{log}");
    // No update is left.
    let (none, warnings) = profiled(recipe(), folder.path(), true);
    assert_eq!((none, warnings), (vec![], vec!["no profile is written: the run made no update".to_owned()]));
}

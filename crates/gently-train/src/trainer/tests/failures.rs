//! Bad input and bad luck: a clear error, and nothing lost.

use std::collections::BTreeSet;

use super::*;
use crate::checkpoint::Checkpoints;

#[test]
fn a_loss_that_is_no_number_stops_before_the_update() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = tiny(&["optimizer.lr=1e30", "optimizer.warmup=0", "train.clip=0.0", "checkpoint.every=1"]);
    let error = trainer(recipe, folder.path()).run().unwrap_err();
    let Error::NonFinite { step, ref tensor, ref last_good, .. } = error else {
        panic!("{error}");
    };
    assert!(tensor.is_some(), "{error}");
    assert!(error.hint().unwrap().contains("optimizer.lr"));
    let good = last_good.clone().unwrap();
    assert!(good.ends_with(format!("step-{}", step - 1)), "{error}");
    Checkpoints::of_run(folder.path()).verify(step - 1).unwrap();
    let text = std::fs::read_to_string(folder.path().join("diagnostic.json")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["step"], step);
    assert_eq!(metrics(folder.path()).last().unwrap()["step"], step - 1);
}

#[test]
fn weights_that_are_no_numbers_are_never_saved() {
    let rate = ["optimizer.lr=3e38", "optimizer.warmup=0", "optimizer.schedule=constant", "train.clip=0.0"];
    let with = |more: [&'static str; 2]| tiny(&[&rate[..], &["sample.every=0", "train.steps=9"], &more].concat());
    // Where nothing was saved before: neither at a step that is due nor at the end.
    for more in [["train.steps=1", "checkpoint.every=0"], ["checkpoint.keep=1", "checkpoint.every=1"]] {
        let folder = tempfile::tempdir().unwrap();
        let error = trainer(with(more), folder.path()).run().unwrap_err();
        assert!(matches!(&error, Error::NonFinite { step: 1, what: "weight", last_good: None, .. }), "{error}");
        assert!(Checkpoints::of_run(folder.path()).steps().unwrap().is_empty());
        let text = std::fs::read_to_string(folder.path().join("diagnostic.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["what"], "weight");
    }
    // What was good stays.
    let (folder, _, _) = finish(tiny(&["train.steps=2", "checkpoint.keep=1", "checkpoint.best=false"]));
    let more = ["checkpoint.keep=1", "checkpoint.every=1"];
    let error = trainer(with(more), folder.path()).resume(true).run().unwrap_err();
    let Error::NonFinite { step: 3, what: "weight", last_good: Some(good), .. } = &error else { panic!("{error}") };
    assert!(good.ends_with("step-2"), "{error}");
    assert!(Checkpoints::of_run(folder.path()).verify(2).is_ok());
}

#[test]
fn a_bad_token_is_an_error_and_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let error = Trainer::new(tiny(&[]), folder.path())
        .data(|resolved, _| {
            let mut data = windows(resolved, false)?;
            let (rows, width) = (resolved.config.train.batch, resolved.config.train.block);
            data.train = Box::new(Windows { ids: vec![5000; 100], rows, width, at: 0, masked: false });
            Ok(data)
        })
        .run()
        .unwrap_err();
    assert!(error.to_string().contains("5000"), "{error}");
}

#[test]
fn a_folder_is_one_runs_and_one_processs() {
    let (folder, _, _) = finish(tiny(&[]));
    let error = trainer(tiny(&[]), folder.path()).run().unwrap_err();
    assert!(matches!(error, Error::RunExists { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--resume"));
    let _lock = crate::folder::Lock::take(folder.path()).unwrap();
    let error = trainer(tiny(&[]), folder.path()).resume(true).run().unwrap_err();
    assert!(matches!(error, Error::FolderInUse { .. }), "{error}");
}

#[test]
fn another_model_text_or_vocabulary_is_refused() {
    let (folder, _, _) = finish(tiny(&[]));
    let before = outcome(folder.path());
    for (set, key) in [
        ("model.width=32", "model.width"),
        ("train.batch=2", "train.batch"),
        ("optimizer.kind=lion", "optimizer.kind"),
        ("model.vocab=64", "model.vocab"),
    ] {
        let error = trainer(tiny(&[set]), folder.path()).resume(true).run().unwrap_err();
        assert!(matches!(&error, Error::ConfigMismatch { key: k, .. } if k == key), "{error}");
    }
    let other = |text: &'static str| {
        Trainer::new(tiny(&[]), folder.path())
            .data(move |resolved, _| {
                let mut data = windows(resolved, false)?;
                data.tokenizer = Tokenizer::characters(text.chars());
                Ok(data)
            })
            .resume(true)
            .run()
            .unwrap_err()
    };
    let error = other("short");
    assert!(matches!(&error, Error::ConfigMismatch { key, .. } if key == "model.vocab"), "{error}");
    let size = Tokenizer::characters(TEXT.chars()).vocab_size();
    let letters: String = ('A'..).take(size).collect();
    let error = other(letters.leak());
    assert!(matches!(error, Error::TokenizerMismatch), "{error}");
    assert_eq!(outcome(folder.path()), before);
}

#[test]
fn a_run_that_cannot_fit_says_so_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = ["train.batch=16384", "train.block=512", "train.micro_batch=16384"];
    let set = [sizes[0], sizes[1], sizes[2], "model.width=1024", "model.layers=16"];
    let error = trainer(tiny(&set), folder.path()).run().unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    assert!(error.hint().unwrap().starts_with("lower train.micro_batch"));
    let hint =
        |resumed, lasting| Error::Memory { needed: 2 << 20, available: 1 << 20, resumed, lasting }.hint().unwrap();
    assert!(hint(true, false).starts_with("set train.recompute=true"));
    assert!(hint(false, true).contains("lower model.width") && hint(true, true).contains("set optimizer.moments=bf16"));
}

#[test]
fn shards_larger_than_the_memory_are_no_reason_to_refuse() {
    let with = |memory: u64, mapped: u64| {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::default();
        let ended = Trainer::new(tiny(&["train.steps=2"]), folder.path())
            .data(move |resolved, _| Ok(TrainData { memory, mapped, ..windows(resolved, false)? }))
            .observe(watch.clone())
            .run();
        (ended, watch)
    };
    let (ended, watch) = with(0, 1 << 50);
    assert_eq!(ended.unwrap().step, 2);
    let Event::RunStarted(started) = &watch.events()[0] else { panic!("the plan comes first") };
    let mapped = started.plan.lines.iter().find(|line| line.name == crate::plan::MAPPED).unwrap();
    assert_eq!((mapped.bytes, started.plan.total() > 1 << 50), (1 << 50, true));
    assert!(matches!(with(1 << 50, 0).0, Err(Error::Memory { .. })));
}

/// The error of a tensor that no machine has memory for.
fn refused() -> gently_tensor::Error {
    gently_tensor::Tensor::zeros([1usize << 46], gently_tensor::DType::F32, &Device::Cpu).unwrap_err()
}

#[test]
fn a_model_that_the_system_has_no_memory_for_is_an_error_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let build = |config: &DecoderConfig, rng: &Rng, device: &Device| match device {
        Device::Meta => Decoder::new(config, rng, device),
        _ => Err(refused().into()),
    };
    let error = trainer(tiny(&[]), folder.path()).model(build).run().unwrap_err();
    assert_eq!(error.to_string(), "zeros: there is no memory for the 262144.0 GiB of a f32 tensor [70368744177664]");
    assert!(error.is_out_of_memory());
    assert!(error.hint().unwrap().contains("train.recompute=true"));
}

#[test]
fn memory_that_runs_out_in_a_run_loses_nothing() {
    struct Hungry(Box<dyn BatchSource>, usize);
    impl BatchSource for Hungry {
        fn next_batch(&mut self) -> crate::Result<Batch> {
            self.1 += 1;
            if self.1 == 6 { Err(refused().into()) } else { self.0.next_batch() }
        }
        fn position(&self) -> Value {
            self.0.position()
        }
        fn seek(&mut self, to: &Value) -> crate::Result<()> {
            self.0.seek(to)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let hungry = Trainer::new(tiny(&[]), folder.path()).data(|resolved, _| {
        let data = windows(resolved, false)?;
        Ok(TrainData { train: Box::new(Hungry(data.train, 0)), ..data })
    });
    let error = hungry.run().unwrap_err();
    let Error::OutOfMemory { step: 6, last_good: Some(last_good), .. } = &error else { panic!("{error}") };
    assert!(last_good.ends_with("step-4"), "{}", last_good.display());
    assert!(error.to_string().starts_with("step 6: memory ran out; the last good checkpoint is "), "{error}");
    assert!(error.hint().unwrap().contains("--resume"));
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("262144.0 GiB"));
    // What was kept goes on to the same end as a run that was never short of memory.
    trainer(tiny(&[]), folder.path()).resume(true).run().unwrap();
    let (unbroken, _, _) = finish(tiny(&[]));
    assert_eq!(outcome(folder.path()), outcome(unbroken.path()));
}

#[test]
fn data_that_runs_dry_ends_a_run_and_keeps_what_was_learned() {
    /// Has no target that counts from a batch on.
    struct Dry(Box<dyn BatchSource>, u64);
    impl BatchSource for Dry {
        fn next_batch(&mut self) -> crate::Result<Batch> {
            let dry = self.position().as_u64() >= Some(self.1);
            let mut batch = self.0.next_batch()?;
            if dry {
                batch.targets.fill(IGNORE);
            }
            Ok(batch)
        }
        fn position(&self) -> Value {
            self.0.position()
        }
        fn seek(&mut self, to: &Value) -> crate::Result<()> {
            self.0.seek(to)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let recipe = || tiny(&["checkpoint.every=0"]);
    for resume in [false, true] {
        let error = Trainer::new(recipe(), folder.path())
            .data(|resolved, _| {
                let data = windows(resolved, false)?;
                Ok(TrainData { train: Box::new(Dry(data.train, 5)), ..data })
            })
            .resume(resume)
            .run()
            .unwrap_err();
        assert!(matches!(error, Error::NothingToLearn { step: 6, batches: 1000 }), "{error}");
        assert!(error.hint().unwrap().contains("completions"));
        assert!(Checkpoints::of_run(folder.path()).latest().unwrap().unwrap().ends_with("step-5"));
    }
    // From there a run goes on as if it had not looked for what counts.
    trainer(recipe(), folder.path()).resume(true).run().unwrap();
    let (unbroken, _, _) = finish(recipe());
    assert_eq!(outcome(folder.path()), outcome(unbroken.path()));
}

#[test]
fn a_validation_split_without_a_target_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    let finished = Trainer::new(tiny(&["train.steps=2"]), folder.path())
        .data(|resolved, _| {
            let mut data = windows(resolved, false)?;
            // Of documents that do not see each other the last token has no target.
            let ones = (0..40).map(|n| vec![n % 3]);
            let val = Corpus::from_documents("val", ones, data.tokenizer.vocab_size() as u64, 0)?;
            data.val = Some(EvalSet::new(val.into(), 4, 8, Some(2), true)?);
            Ok(data)
        })
        .observe(watch.clone())
        .run()
        .unwrap();
    assert_eq!((finished.step, finished.val_loss), (2, None));
    let warnings = watch.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("nothing is evaluated"), "{warnings:?}");
}

#[test]
fn a_prompt_that_cannot_be_spelled_is_a_warning() {
    let (folder, watch, _) = finish(tiny(&["sample.prompts=['Ω', 'to ']"]));
    assert!(watch.warnings()[0].contains('Ω'));
    let samples = std::fs::read_to_string(folder.path().join("samples.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 2);
    assert!(samples.lines().all(|line| line.contains("\"prompt\":\"to \"")));
}

#[test]
fn samples_may_be_longer_than_the_context() {
    let (folder, _, _) = finish(tiny(&["sample.tokens=40"]));
    let samples = std::fs::read_to_string(folder.path().join("samples.jsonl")).unwrap();
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert_eq!(first["text"].as_str().unwrap().chars().count(), 40);
}

/// Each token of them would be a pass of the rehearsal.
#[test]
fn the_plan_of_samples_without_end_is_made_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let stop = StopHandle::new();
    let recipe = tiny(&["sample.tokens=100000000", "sample.at_start=true", "eval.at_start=false"]);
    let finished = trainer(recipe, folder.path()).observe(StopAtStart(stop.clone())).stop_when(stop).run().unwrap();
    assert_eq!((finished.step, finished.reason), (0, crate::events::Reason::Stopped));
}

#[test]
fn a_run_is_not_cut_short_by_going_on() {
    let (folder, _, _) = finish(tiny(&["train.steps=6"]));
    let config = || std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
    let before = config();
    let error = trainer(tiny(&["train.steps=4"]), folder.path()).resume(true).run().unwrap_err();
    assert_eq!(error.to_string(), "train.steps = 4 (--set), but the run has made 6 steps already");
    assert!(error.hint().unwrap().contains("train.steps=6"));
    assert_eq!(config(), before);
    assert_eq!(trainer(tiny(&["train.steps=6"]), folder.path()).resume(true).run().unwrap().step, 6);
}

#[test]
fn a_run_of_damaged_checkpoints_alone_says_what_to_do() {
    let (folder, _, _) = finish(tiny(&["train.steps=4", "checkpoint.keep=1", "checkpoint.best=false"]));
    flip_last_byte(&folder.path().join("checkpoints/step-4/model.safetensors"));
    let error = trainer(tiny(&["train.steps=8"]), folder.path()).resume(true).run().unwrap_err();
    assert!(matches!(error, Error::DamagedCheckpoint { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--out"));
}

#[cfg(unix)]
#[test]
fn a_file_in_the_way_of_the_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("occupied");
    std::fs::write(&path, b"x").unwrap();
    let error = trainer(tiny(&[]), &path).run().unwrap_err();
    assert!(error.to_string().contains("occupied is no folder"), "{error}");
    assert!(error.hint().unwrap().contains("--out"));
    let error = trainer(tiny(&[]), &path.join("deeper")).run().unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("deeper")), "{error}");
    assert!(error.hint().unwrap().contains("--out"));
}

/// Changes the state in a run's newest checkpoint, with the checksum that belongs to it.
fn edit_state(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = Checkpoints::of_run(folder).latest().unwrap().unwrap();
    let file = path.join(crate::checkpoint::STATE_FILE);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut manifest["state"]);
    let text = serde_json::to_vec(&manifest).unwrap();
    let done = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&text));
    std::fs::write(path.join(crate::checkpoint::DONE_FILE), done).unwrap();
    std::fs::write(&file, text).unwrap();
}

#[test]
fn a_state_that_no_run_can_have_saved_is_refused() {
    type Change = fn(&mut Value);
    let changes: [Change; 4] = [
        |state| state["updates"] = u64::MAX.into(),
        |state| state["step"] = 5.into(),
        |state| state["tokens"] = u64::MAX.into(),
        |state| state["best"]["step"] = 4000.into(),
    ];
    for change in changes {
        let (folder, _, _) = finish(tiny(&["train.steps=4"]));
        edit_state(folder.path(), change);
        let error = trainer(tiny(&["train.steps=8"]), folder.path()).resume(true).run().unwrap_err();
        assert!(matches!(&error, Error::State { file, .. } if file.ends_with("trainer.json")), "{error}");
    }
}

#[test]
fn a_window_of_another_length_keeps_the_newest_losses() {
    for (window, kept) in [(8, 8), (16, 10)] {
        let (folder, watch, _) = finish(tiny(&["train.steps=10", "spike.skip=true", "spike.window=9"]));
        let set = format!("spike.window={window}");
        trainer(tiny(&["train.steps=11", &set]), folder.path()).resume(true).run().unwrap();
        let path = Checkpoints::of_run(folder.path()).latest().unwrap().unwrap();
        let text = std::fs::read_to_string(path.join(crate::checkpoint::STATE_FILE)).unwrap();
        let saved: Value = serde_json::from_str(&text).unwrap();
        for name in ["losses", "norms"] {
            assert_eq!(saved["state"][name]["values"].as_array().unwrap().len(), kept, "{name}");
        }
        // The last is that of the step just made.
        assert_eq!(saved["state"]["losses"]["values"][kept - 2].as_f64(), Some(watch.losses()[9]));
    }
}

#[test]
fn a_run_that_may_not_go_on_is_left_as_it_was() {
    let (folder, _, _) = finish(tiny(&[]));
    // A line that going on would cut off, and what a killed process left.
    let log = folder.path().join("metrics.jsonl");
    let lines = std::fs::read_to_string(&log).unwrap() + "{\"step\":13}\n";
    std::fs::write(&log, &lines).unwrap();
    let left = folder.path().join("checkpoints").join(".step-15.tmp");
    std::fs::create_dir(&left).unwrap();
    // Damage of which nobody would hear any more if the checkpoint were set aside now.
    flip_last_byte(&folder.path().join("checkpoints").join("step-12").join("model.safetensors"));
    let checkpoints = || {
        let entries = std::fs::read_dir(folder.path().join("checkpoints")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    let before = checkpoints();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (config, samples) = (read("config.toml"), read("samples.jsonl"));
    let size = Tokenizer::characters(TEXT.chars()).vocab_size();
    let letters: String = ('A'..).take(size).collect();
    let error = Trainer::new(tiny(&["optimizer.lr=1e-3"]), folder.path())
        .data(move |resolved, _| {
            let mut data = windows(resolved, false)?;
            data.tokenizer = Tokenizer::characters(letters.chars());
            Ok(data)
        })
        .resume(true)
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::TokenizerMismatch), "{error}");
    assert_eq!((read("metrics.jsonl"), read("config.toml"), read("samples.jsonl")), (lines, config, samples));
    assert_eq!(checkpoints(), before);
    // One that may, goes on from its checkpoint.
    let watch = Watch::default();
    trainer(tiny(&["optimizer.lr=1e-3"]), folder.path()).resume(true).observe(watch.clone()).run().unwrap();
    let warnings = watch.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("model.safetensors"), "{warnings:?}");
    assert!(checkpoints().contains("damaged-step-12") && checkpoints().contains("step-12"), "{:?}", checkpoints());
    assert_eq!(metrics(folder.path()).last().unwrap()["step"], 12);
    assert!(read("config.toml").contains("1e-3") || read("config.toml").contains("0.001"));
    assert!(!left.exists());
}

#[test]
fn folders_of_another_program_are_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = |name: &str| folder.path().join("checkpoints").join(name);
    for name in ["step-6", "step-500"] {
        std::fs::create_dir_all(theirs(name)).unwrap();
        std::fs::write(theirs(name).join("model.safetensors"), name).unwrap();
    }
    trainer(tiny(&[]), folder.path()).run().unwrap();
    trainer(tiny(&["train.steps=13"]), folder.path()).resume(true).run().unwrap();
    for (now, was) in [("kept-1-step-6", "step-6"), ("step-500", "step-500")] {
        assert_eq!(std::fs::read_to_string(theirs(now).join("model.safetensors")).unwrap(), was);
    }
}

#[test]
fn one_token_in_an_update_is_enough() {
    let (_, watch, _) = finish(tiny(&["train.batch=1", "train.block=1", "train.steps=2", "sample.every=0"]));
    assert_eq!(watch.losses().len(), 2);
}

#[test]
fn a_log_that_cannot_be_written_leaves_the_configuration() {
    let (folder, _, _) = finish(tiny(&["train.steps=4"]));
    let samples = folder.path().join("samples.jsonl");
    std::fs::remove_file(&samples).unwrap();
    std::fs::create_dir(&samples).unwrap();
    let config = || std::fs::read_to_string(folder.path().join("config.toml")).unwrap();
    let before = config();
    let error = trainer(tiny(&["train.steps=8"]), folder.path()).resume(true).run().unwrap_err();
    assert!(error.to_string().contains("samples.jsonl"), "{error}");
    assert_eq!(config(), before);
}

#[test]
fn a_saved_value_that_is_out_of_range_now_can_be_replaced() {
    let (folder, _, _) = finish(tiny(&["train.steps=4"]));
    let path = folder.path().join("config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| match line.starts_with("batches = ") {
        true => "batches = 4611686018427387904 # --set",
        false => line,
    });
    std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let again = |set: &[&str]| trainer(tiny(set), folder.path()).resume(true).run();
    let error = again(&["train.steps=8"]).unwrap_err();
    assert!(matches!(&error, Error::Value { key, .. } if key == "eval.batches"), "{error}");
    assert_eq!(again(&["train.steps=8", "eval.batches=2"]).unwrap().step, 8);
}

#[test]
fn a_best_loss_on_other_texts_counts_no_more() {
    for (batches, backwards, forgotten) in [(2, false, false), (2, true, true), (1, false, true)] {
        let (folder, _, before) = finish(tiny(&["train.steps=8"]));
        let watch = Watch::default();
        let set = format!("eval.batches={batches}");
        let after = Trainer::new(tiny(&["train.steps=12", &set]), folder.path())
            .data(move |resolved, _| {
                let mut data = windows(resolved, false)?;
                if backwards {
                    let mut ids = data.tokenizer.encode(TEXT)?;
                    ids.reverse();
                    let val = Corpus::from_documents("val", [ids], data.tokenizer.vocab_size() as u64, 0)?;
                    let train = &resolved.config.train;
                    data.val = Some(EvalSet::new(val.into(), train.batch, train.block, Some(batches), false)?);
                }
                Ok(data)
            })
            .resume(true)
            .observe(watch.clone())
            .run()
            .unwrap();
        let warnings = watch.warnings();
        assert_eq!(warnings.len(), usize::from(forgotten), "{warnings:?}");
        assert!(warnings.iter().all(|message| message.contains("validation")), "{warnings:?}");
        let (step, loss) = after.best.unwrap();
        match forgotten {
            true => assert_eq!((step, Some(loss)), (12, after.val_loss)),
            false => assert!(loss <= before.best.unwrap().1),
        }
    }
}

#[test]
fn batches_that_are_not_of_the_recipes_size_are_refused() {
    /// Gives batches that something was done to.
    struct Changed(Box<dyn BatchSource>, fn(&mut Batch));
    impl BatchSource for Changed {
        fn next_batch(&mut self) -> crate::Result<Batch> {
            let mut batch = self.0.next_batch()?;
            (self.1)(&mut batch);
            Ok(batch)
        }
        fn position(&self) -> Value {
            self.0.position()
        }
        fn seek(&mut self, to: &Value) -> crate::Result<()> {
            self.0.seek(to)
        }
    }
    // Four rows of eight are wanted.
    type Change = fn(&mut Batch);
    let cases: [(Change, &str); 6] = [
        (|batch| batch.ids.truncate(16), "of 4 rows of 8 tokens has 16 ids"),
        (|batch| batch.targets.truncate(31), "has 31 targets"),
        (|batch| batch.docs = Some(vec![0; 8]), "has 8 docs"),
        (|batch| batch.ids.push(1), "has 33 ids"),
        (|batch| batch.block = 4, "has 4 rows of 4 tokens, and the recipe says 4 of 8"),
        (|batch| (batch.batch, batch.block) = (8, 4), "has 8 rows of 4 tokens"),
    ];
    for (change, said) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = Trainer::new(tiny(&["train.micro_batch=1"]), folder.path())
            .data(move |resolved, _| {
                let data = windows(resolved, false)?;
                Ok(TrainData { train: Box::new(Changed(data.train, change)), ..data })
            })
            .run()
            .unwrap_err();
        assert!(matches!(error, Error::Batch { step: 1, .. }), "{error}");
        assert!(error.to_string().contains(said) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn those_who_watch_hear_why_a_run_failed() {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    let recipe = tiny(&["optimizer.lr=1e30", "optimizer.warmup=0", "train.clip=0.0"]);
    let report = crate::watch::Report::new();
    let error = trainer(recipe, folder.path()).observe(watch.clone()).observe(report).run().unwrap_err();
    let events = watch.events();
    let Some(Event::Failed(failed)) = events.last() else { panic!("{:?}", events.last()) };
    assert_eq!(failed.message, error.to_string());
    assert_eq!(metrics(folder.path()).last().unwrap()["step"], failed.step);
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    let badge = format!("class=\"badge failed\">failed at step {}", failed.step);
    assert!(page.contains(&badge) && page.contains("is not finite"), "{page}");
    let log = std::fs::read_to_string(folder.path().join("log.txt")).unwrap();
    assert!(log.contains(&format!("failed: {error}")), "{log}");
}

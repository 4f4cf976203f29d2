//! The same answer every time: threads, micro-batches, recomputation, crashes.

use super::*;
use crate::checkpoint::Checkpoints;
use crate::data::{Input, Prepare, TokenizerSpec};

/// Relative distance that f32 sums in another order may have.
const ROUNDING: f64 = 2e-5;

fn losses_with(set: &[&str], masked: bool) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    Trainer::new(tiny(set), folder.path())
        .data(move |resolved, _| windows(resolved, masked))
        .observe(watch.clone())
        .run()
        .unwrap();
    watch.losses()
}

#[test]
fn accumulation_changes_nothing_but_rounding() {
    for masked in [false, true] {
        let whole = losses_with(&["train.batch=8"], masked);
        for (batch, accumulate) in [(4, 2), (2, 4), (1, 8)] {
            let set = [format!("train.batch={batch}"), format!("train.accumulate={accumulate}")];
            let cut = losses_with(&[&set[0], &set[1]], masked);
            for (step, (a, b)) in whole.iter().zip(&cut).enumerate() {
                let far = (a - b).abs() / a;
                assert!(far < ROUNDING, "masked {masked}, {accumulate} parts, step {step}: {a} and {b}");
            }
        }
    }
}

#[test]
fn a_batch_may_be_cut_into_micro_batches() {
    for masked in [false, true] {
        let dropout = "model.dropout=0.1";
        let cut = losses_with(&["train.batch=8", "train.micro_batch=2", dropout], masked);
        // The same rows in the same order, drawn two at a time.
        let drawn = losses_with(&["train.batch=2", "train.accumulate=4", dropout], masked);
        assert_eq!(cut, drawn, "masked {masked}");
        let whole = losses_with(&["train.batch=8"], masked);
        let uneven = losses_with(&["train.batch=8", "train.micro_batch=3"], masked);
        for (step, (a, b)) in whole.iter().zip(&uneven).enumerate() {
            let far = (a - b).abs() / a;
            assert!(far < ROUNDING, "masked {masked}, step {step}: {a} and {b}");
        }
    }
}

#[test]
fn products_in_bf16_learn_as_those_in_f32_do() {
    let off = ["eval.every=0", "eval.at_start=false", "sample.every=0", "checkpoint.every=0"];
    let losses = |compute: &str| {
        let set = format!("train.compute={compute}");
        losses_with(&[&off[..], &["train.steps=200", "optimizer.lr=1e-3", &set]].concat(), false)
    };
    let (exact, rounded) = (losses("f32"), losses("bf16"));
    assert_eq!((exact.len(), rounded.len()), (200, 200));
    assert!(exact[199] < 0.9 * exact[0] && exact != rounded);
    for (step, (a, b)) in exact.iter().zip(&rounded).enumerate() {
        let far = (a - b).abs() / a;
        assert!(far < 2e-3, "step {step}: {a} and {b}");
    }
}

#[test]
fn recomputation_gives_the_same_losses() {
    let set = ["model.dropout=0.2"];
    let kept = losses_with(&set, false);
    let recomputed = losses_with(&[set[0], "train.recompute=true"], false);
    assert_eq!(kept, recomputed);
}

#[test]
fn one_thread_and_two_give_the_same_bits() {
    let set = ["model.width=64", "train.batch=8", "model.dropout=0.1"];
    let before = gently_kernels::pool::threads();
    gently_kernels::pool::set_threads(1);
    let (one, _, _) = finish(tiny(&set));
    gently_kernels::pool::set_threads(2);
    let (two, _, _) = finish(tiny(&set));
    gently_kernels::pool::set_threads(before);
    assert_eq!(outcome(one.path()), outcome(two.path()));
}

#[test]
fn a_crash_at_any_event_leaves_nothing_different() {
    // A model that hardly learns: its losses go up and down by chance, and some of that is taken for spikes.
    let set = ["model.dropout=0.1", "optimizer.lr=1e-5", "spike.skip=true", "spike.window=8", "spike.z=0.01"];
    let (whole, watch, _) = finish(tiny(&set));
    let expected = outcome(whole.path());
    let events = watch.events();
    assert!(events.iter().any(|e| matches!(e, Event::SpikeSkipped(_))), "spikes are met");
    for (n, event) in events.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let crash = Watch { fail_at: Some(n), ..Watch::default() };
        let error = trainer(tiny(&set), folder.path()).observe(crash).run().unwrap_err();
        assert!(matches!(error, Error::Observer { .. }), "{error}");
        // A torn line, as a kill in the middle of a write leaves it.
        let path = folder.path().join("metrics.jsonl");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"{\"step\":3,\"train_lo");
        std::fs::write(&path, text).unwrap();
        trainer(tiny(&set), folder.path()).resume(true).run().unwrap();
        assert_eq!(outcome(folder.path()), expected, "crash at event {n}: {event:?}");
    }
}

#[test]
fn a_stop_at_any_look_leaves_nothing_different() {
    let set = ["model.dropout=0.1", "train.accumulate=2", "train.steps=7", "sample.at_start=true", "sample.tokens=4"];
    let (whole, _, _) = finish(tiny(&set));
    let expected = outcome(whole.path());
    let (mut n, mut stopped) = (0, 0);
    loop {
        n += 1;
        let folder = tempfile::tempdir().unwrap();
        let run = |resume: bool, look: u64| {
            let stop = StopHandle::at_look(look);
            let finished = trainer(tiny(&set), folder.path()).resume(resume).stop_when(stop).run().unwrap();
            finished.reason == crate::events::Reason::Complete
        };
        if run(false, n) {
            break;
        }
        stopped += 1;
        // Stopped once more on the way, and then not.
        run(true, 1 + n % 5);
        assert!(run(true, 0), "stopped at look {n}");
        assert_eq!(outcome(folder.path()), expected, "stopped at look {n}");
    }
    // Micro-batches, batches of evaluations, tokens of samples, and updates.
    assert!(stopped > 35, "{stopped}");
}

/// Long prompts, which do not count, and short completions: most windows have nothing to learn from.
#[test]
fn windows_without_a_target_are_passed_over_and_nothing_differs() {
    let place = tempfile::tempdir().unwrap();
    let (texts, prepared) = (place.path().join("questions.jsonl"), place.path().join("prepared"));
    let line = |n: usize| {
        let prompt: String = TEXT.chars().cycle().skip(n).take(60).collect();
        format!("{{\"prompt\":\"{prompt}\",\"completion\":\"{n:03}\"}}\n")
    };
    std::fs::write(&texts, (0..40).map(line).collect::<String>()).unwrap();
    let mut prepare = Prepare::new([Input::Path(texts)]);
    (prepare.tokenizer, prepare.val_fraction) = (TokenizerSpec::Bytes, 0.0);
    prepare.run(&prepared, &mut |_| Ok(())).unwrap();

    let path = format!("data.path=['{}']", prepared.display());
    let set = [path.as_str(), "train.batch=1", "train.accumulate=2", "model.dropout=0.1", "sample.every=0"];
    let run = |folder: &Path, resume: bool, stop: StopHandle| {
        let finished = Trainer::new(tiny(&set), folder).resume(resume).stop_when(stop).run().unwrap();
        finished.reason == crate::events::Reason::Complete
    };
    let whole = tempfile::tempdir().unwrap();
    assert!(run(whole.path(), false, StopHandle::new()));
    let expected = outcome(whole.path());
    let last = Checkpoints::of_run(whole.path()).verify(12).unwrap();
    let drawn = last.state["position"]["batches"].as_u64().unwrap();
    assert!(drawn > 30, "12 updates take 24 batches, and {drawn} were drawn");

    let mut stopped = 0;
    for look in (1..).step_by(3) {
        let folder = tempfile::tempdir().unwrap();
        if run(folder.path(), false, StopHandle::at_look(look)) {
            break;
        }
        stopped += 1;
        assert!(run(folder.path(), true, StopHandle::new()), "stopped at look {look}");
        assert_eq!(outcome(folder.path()), expected, "stopped at look {look}");
    }
    // Among the looks are those between two draws.
    assert!(stopped > 12, "{stopped}");
}

#[test]
fn a_damaged_checkpoint_costs_only_the_steps_since_the_one_before() {
    let (whole, _, _) = finish(tiny(&[]));
    let folder = tempfile::tempdir().unwrap();
    let short = tiny(&["optimizer.decay_steps=12", "train.steps=6", "checkpoint.best=false"]);
    trainer(short, folder.path()).run().unwrap();
    flip_last_byte(&Checkpoints::of_run(folder.path()).path(6).join("model.safetensors"));
    let watch = Watch::default();
    let longer = tiny(&["train.steps=12", "checkpoint.best=true"]);
    trainer(longer, folder.path()).resume(true).observe(watch.clone()).run().unwrap();
    assert!(watch.warnings().iter().any(|message| message.contains("model.safetensors")), "the damage is told");
    // Evaluations differ: the short run had its last one at step 6. Everything learned is the same.
    assert_eq!(outcome(folder.path()).2, outcome(whole.path()).2);
    assert_eq!(outcome(folder.path()).3, outcome(whole.path()).3);
}

/// A model whose norms have scales under a half, which Gemma's layout cannot hold to the bit.
fn small_scales(config: &DecoderConfig, rng: &Rng, device: &Device) -> gently_models::Result<Decoder> {
    let model = Decoder::new(config, rng, device)?;
    for norm in model.params().iter().filter(|p| p.name.contains("norm") && *device == Device::Cpu) {
        norm.tensor.with_data_mut::<f32, _>(|scales| scales.iter_mut().for_each(|scale| *scale *= 0.3))?;
    }
    Ok(model)
}

#[test]
fn what_a_published_layout_rounds_goes_on_with_the_same_bits() {
    let gemma = ["model.family=llama", "model.mlp=geglu", "model.tied_head=true", "model.embed_scale=4.0"];
    let run = |folder: &Path, set: &[&str]| {
        let recipe = tiny(&[&gemma[..], set].concat());
        trainer(recipe, folder).model(small_scales).resume(true).run().unwrap();
    };
    let (whole, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(whole.path(), &[]);
    run(folder.path(), &["optimizer.decay_steps=12", "train.steps=6"]);
    let saved = Checkpoints::of_run(folder.path()).path(6);
    assert_eq!(gently_models::pretrained::read_config(&saved).unwrap().0, gently_models::families::Layout::Gemma);
    let header = std::fs::read(saved.join("trainer.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&header).contains("norm.weight.value"), "what is rounded is kept");
    run(folder.path(), &["train.steps=12"]);
    assert_eq!(outcome(folder.path()).2, outcome(whole.path()).2);
    assert_eq!(outcome(folder.path()).3, outcome(whole.path()).3);
}

#[test]
fn a_profile_changes_no_bit() {
    let set = ["model.dropout=0.1", "train.accumulate=2", "train.recompute=true"];
    let (plain, _, _) = finish(tiny(&set));
    let folder = tempfile::tempdir().unwrap();
    let watch = Watch::default();
    trainer(tiny(&set), folder.path()).observe(watch.clone()).profile(4).run().unwrap();
    assert_eq!(outcome(plain.path()), outcome(folder.path()));
    assert!(!gently_tensor::profile::is_on(), "the recording is over");

    let json = std::fs::read(folder.path().join(crate::profile::JSON_FILE)).unwrap();
    let profile: crate::profile::Profile = serde_json::from_slice(&json).unwrap();
    // Three updates warm up.
    assert_eq!((profile.facts.first_step, profile.facts.steps, profile.step_seconds.len()), (4, 4, 4));
    let phase = |name: &str| profile.phases.iter().find(|p| p.name == name).map(|p| p.count);
    for (name, count) in [("step", 4), ("data", 4), ("forward", 8), ("backward", 8), ("gradient norm", 4)] {
        assert_eq!(phase(name), Some(count), "{name}");
    }
    assert_eq!((phase("optimizer"), phase("evaluation"), phase("samples")), (Some(4), Some(1), Some(1)));
    assert!(phase("checkpoint") >= Some(1));
    let adamw: u64 = profile.calls.iter().filter(|c| c.op == "adamw").map(|c| c.count).sum();
    assert!(adamw >= 4 && profile.calls.iter().any(|c| c.pass == "recompute" && c.layer == Some(1)));
    let profiled = watch.events().into_iter().find_map(|e| if let Event::Profiled(p) = e { Some(p) } else { None });
    assert!(profiled.unwrap().table.contains("mlp.up"));
    assert!(std::fs::read_to_string(folder.path().join("log.txt")).unwrap().contains("profile of updates 4 to 7"));
}

#[test]
fn a_run_too_short_to_warm_up_profiles_its_last_update() {
    let folder = tempfile::tempdir().unwrap();
    trainer(tiny(&["train.steps=2"]), folder.path()).profile(10).run().unwrap();
    let json = std::fs::read(folder.path().join(crate::profile::JSON_FILE)).unwrap();
    let profile: crate::profile::Profile = serde_json::from_slice(&json).unwrap();
    assert_eq!((profile.facts.first_step, profile.facts.steps), (2, 1));
}

#[test]
fn a_stop_leaves_the_profile_of_the_updates_that_were_made() {
    let off = ["eval.every=0", "eval.at_start=false", "sample.every=0", "checkpoint.every=0", "train.accumulate=2"];
    let stopped = |look: u64| {
        let folder = tempfile::tempdir().unwrap();
        let stop = StopHandle::at_look(look);
        let finished = trainer(tiny(&off), folder.path()).profile(10).stop_when(stop).run().unwrap();
        assert!(!gently_tensor::profile::is_on(), "the recording is over");
        (folder, finished.step)
    };
    // Three looks for each update: before it, and before each of its micro-batches.
    let mut calls = Vec::new();
    for look in 19..=21 {
        let (folder, step) = stopped(look);
        assert_eq!(step, 6, "look {look}");
        let json = std::fs::read(folder.path().join(crate::profile::JSON_FILE)).unwrap();
        let profile: crate::profile::Profile = serde_json::from_slice(&json).unwrap();
        assert_eq!((profile.facts.first_step, profile.facts.steps, profile.step_seconds.len()), (4, 3, 3));
        let phase = |name: &str| profile.phases.iter().find(|p| p.name == name).map(|p| p.count);
        for (name, count) in [("step", 3), ("data", 3), ("forward", 6), ("backward", 6), ("optimizer", 3)] {
            assert_eq!(phase(name), Some(count), "{name} at look {look}");
        }
        calls.push(profile.calls.iter().map(|c| c.count).sum::<u64>());
        assert!(folder.path().join(crate::profile::PAGE_FILE).is_file());
    }
    // Nothing of the update that was given up is in the sums.
    assert!(calls[0] > 0 && calls.iter().all(|&n| n == calls[0]), "{calls:?}");
    // In the first of the updates wanted there is nothing to write.
    let (folder, step) = stopped(11);
    assert_eq!(step, 3);
    assert!(!folder.path().join(crate::profile::JSON_FILE).exists());
}

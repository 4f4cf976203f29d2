//! Bad input and bad luck: a clear error, and nothing lost.

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
    assert!(error.hint().unwrap().contains("train.micro_batch"));
}

#[test]
fn a_prompt_that_cannot_be_spelled_is_a_warning() {
    let (folder, watch, _) = finish(tiny(&["sample.prompts=['Ω', 'to ']"]));
    let warning = watch.events().into_iter().find_map(|e| match e {
        Event::Warning { message, .. } => Some(message),
        _ => None,
    });
    assert!(warning.unwrap().contains('Ω'));
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

#[cfg(unix)]
#[test]
fn a_file_in_the_way_of_the_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("occupied");
    std::fs::write(&path, b"x").unwrap();
    let error = trainer(tiny(&[]), &path).run().unwrap_err();
    assert!(error.to_string().contains("occupied"), "{error}");
}

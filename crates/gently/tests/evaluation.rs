//! Tasks give the numbers of lm-evaluation-harness: the same task files, the same model (see `golden/eval/make.py`).

use gently::eval::{Answer, EvalOptions, Metric, Outcome, Run, Task};
use gently::prelude::*;
use gently::text_model::OpenOptions;
use gently_infer::{Elem, EngineOptions, PlanOptions};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/eval")
}

/// The random Llama with the tokenizer of the golden numbers.
fn model(dir: &Path, threads: Option<usize>) -> TextModel {
    model_on(dir, EngineOptions { batch: 2, threads, ..EngineOptions::default() })
}

fn model_on(dir: &Path, engine: EngineOptions) -> TextModel {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gently-models/tests/golden/llama");
    for (from, name) in [
        (&weights, "config.json"),
        (&weights, "model.safetensors"),
        (&golden(), "tokenizer.json"),
        (&golden(), "tokenizer_config.json"),
    ] {
        fs::copy(from.join(name), dir.join(name)).unwrap();
    }
    TextModel::open_with(dir, OpenOptions { plan: PlanOptions { cache: Elem::F32 }, engine, draft: None }).unwrap()
}

fn expected() -> Value {
    serde_json::from_str(&fs::read_to_string(golden().join("expected.json")).unwrap()).unwrap()
}

fn outcomes(model: &TextModel, task: &Task, options: &EvalOptions) -> Vec<Outcome> {
    Run::new(model, task, options).unwrap().map(|o| o.unwrap()).collect()
}

#[test]
fn every_number_is_the_harness_number() {
    let dir = tempfile::tempdir().unwrap();
    let (model, expected) = (model(dir.path(), None), expected());
    let (mut pairs, mut greedy, mut cut) = (0, 0, 0);
    let names = ["sea_choice", "sea_spaces", "sea_shots", "sea_prompts", "sea_mutual", "sea_written", "sea_perplexity"];
    for name in names {
        let task = Task::open(golden().join(format!("{name}.yaml"))).unwrap();
        let known = &expected[name];
        let items = known["items"].as_array().unwrap();
        assert_eq!((task.name(), task.len()), (name, items.len()));
        let mut run = Run::new(&model, &task, &EvalOptions::default()).unwrap();
        for (outcome, item) in run.by_ref().map(|o| o.unwrap()).zip(items) {
            let context = match &outcome.answer {
                Answer::Read(_) => None,
                Answer::Chosen(c) if c.continuation.is_some() => Some(outcome.prompt.clone() + &c.texts[0]),
                _ => Some(outcome.prompt.clone()),
            };
            assert!(context.is_none_or(|c| c == item["context"]), "{name}: {}", item["context"]);
            match &outcome.answer {
                Answer::Chosen(chosen) => {
                    let all = item["pairs"].as_array().unwrap();
                    assert_eq!(chosen.likelihoods.len() + chosen.alone.len(), all.len());
                    for (found, pair) in chosen.likelihoods.iter().chain(&chosen.alone).zip(all) {
                        let sum = pair[1].as_f64().unwrap();
                        assert!((found.sum - sum).abs() <= 1e-4, "{name}: {pair}: {found:?}");
                        assert_eq!(found.greedy, pair[2].as_bool().unwrap(), "{name}: {pair}");
                        pairs += 1;
                        greedy += usize::from(found.greedy);
                    }
                    cut += usize::from(outcome.cut);
                }
                Answer::Read(read) => {
                    let sum = item["log_likelihood"].as_f64().unwrap();
                    assert!((read.log_likelihood - sum).abs() <= 1e-4 * sum.abs().max(1.0), "{item}: {read:?}");
                }
                Answer::Written(written) => {
                    assert_eq!(written.text, item["answer"].as_str().unwrap());
                    for (found, name) in written.filtered.iter().zip(["first-word", "last-letter"]) {
                        assert_eq!(found, item["filtered"][name].as_str().unwrap());
                    }
                }
            }
        }
        let metrics = known["metrics"].as_object().unwrap();
        assert_eq!(run.measures().len(), metrics.len());
        for measure in run.measures() {
            let [value, stderr] = [0, 1].map(|i| metrics[&measure.name()][i].as_f64());
            let value = value.unwrap();
            // Means of ones and zeros are exact; perplexities are as near as the likelihoods.
            let near = if stderr.is_some() { 1e-12 } else { 1e-4 * value };
            assert!((measure.figure.value - value).abs() < near, "{name}: {measure:?}, not {value}");
            // Of these the harness draws items anew, by Python's draws.
            let drawn = matches!(measure.metric, Metric::F1 | Metric::Mcc);
            match (measure.figure.stderr, stderr.filter(|_| !drawn)) {
                (Some(found), Some(known)) => assert!((found - known).abs() < 1e-12, "{name}: {found}, not {known}"),
                (found, known) => assert_eq!(found, known, "{name}"),
            }
            assert_eq!(measure.figure.count, items.len());
        }
    }
    assert!(pairs > 90 && greedy > 0 && cut > 5, "{pairs} pairs, {greedy} greedy, {cut} cut");
}

#[test]
fn numbers_do_not_depend_on_company_or_threads() {
    let dir = tempfile::tempdir().unwrap();
    let task = Task::open(golden().join("sea_shots.yaml")).unwrap();
    let options = EvalOptions { num_fewshot: Some(1), ..EvalOptions::default() };
    let all = outcomes(&model(dir.path(), Some(1)), &task, &options);
    let model = model(dir.path(), Some(2));
    assert_eq!(outcomes(&model, &task, &options), all);
    // The first items alone are other batches.
    for limit in 1..=3 {
        let options = EvalOptions { limit: Some(limit), ..options.clone() };
        assert_eq!(outcomes(&model, &task, &options), all[..limit], "bit for bit");
    }
}

#[test]
fn answers_wait_for_a_short_queue() {
    let dir = tempfile::tempdir().unwrap();
    let items = vec!["{q: the}"; 40].join(", ");
    let text = format!(
        "kind: generate\nitems: [{items}]\ndoc_to_text: q\ndoc_to_target: q\n\
        generation_kwargs: {{until: zz, max_gen_toks: 8}}\n"
    );
    let task = Task::parse(&text, Path::new("t.yaml")).unwrap();
    let all = outcomes(&model(dir.path(), None), &task, &EvalOptions::default());
    let short = model_on(dir.path(), EngineOptions { batch: 1, queue: 1, ..EngineOptions::default() });
    assert_eq!(outcomes(&short, &task, &EvalOptions::default()), all);
}

#[test]
fn a_task_that_the_model_has_no_room_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path(), None);
    let task = |choice: &str, text: &str| {
        let choice = format!("doc_to_choice: ['{choice}', a]\ndoc_to_text: '{text}'\ndoc_to_target: 0\n");
        let text = format!("output_type: multiple_choice\nitems: [{{q: the}}]\n{choice}");
        let task = Task::parse(&text, Path::new("t.yaml")).unwrap();
        let mut run = Run::new(&model, &task, &EvalOptions::default()).unwrap();
        let e = run.next().unwrap().unwrap_err().to_string();
        assert!(run.next().is_none(), "a failed run has ended");
        e
    };
    let e = task(&"s ".repeat(30), "{{q}}");
    assert!(e.starts_with("t.yaml: item 1: choice 1 has") && e.contains("context of 24"), "{e}");
}

/// The examples that people run as they are.
fn example(name: &str) -> Task {
    Task::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/eval").join(name)).unwrap()
}

#[test]
fn examples_fit_their_items() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path(), None);
    for (name, items) in [("facts.yaml", 20), ("capitals.yaml", 6)] {
        let task = example(name);
        // Beginning renders every prompt.
        assert_eq!(Run::new(&model, &task, &EvalOptions::default()).unwrap().total(), items);
    }
}

#[test]
fn smollm2_knows_some_facts() {
    let file = "../../target/assets/SmolLM2-135M-Instruct.Q4_1.gguf";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if !path.exists() {
        eprintln!("skipped: {} is not there; scripts/fetch-assets.sh fetches it", path.display());
        return;
    }
    let model = TextModel::open(path).unwrap();
    let all = |task: &Task| {
        let mut run = Run::new(&model, task, &EvalOptions::default()).unwrap();
        let outcomes: Vec<Outcome> = run.by_ref().map(|o| o.unwrap()).collect();
        assert_eq!(outcomes.len(), task.len());
        (outcomes, run.measures().iter().map(|m| m.figure.value).collect::<Vec<_>>())
    };
    // The harness read the file's weights in f32. Here rows are rounded to int8 on the way, and a log-likelihood moves with them (by
    // 0.135 root mean square); the nearest choice of the harness leads by 0.03 a letter, so one item may fall to the other side.
    let known: Value = serde_json::from_str(&fs::read_to_string(golden().join("facts.json")).unwrap()).unwrap();
    let (outcomes, found) = all(&example("facts.yaml"));
    let (mut squares, mut count) = (0.0, 0);
    for (outcome, sums) in outcomes.iter().zip(known["items"].as_array().unwrap()) {
        let Answer::Chosen(chosen) = &outcome.answer else { panic!("{outcome:?}") };
        assert_eq!(chosen.likelihoods.len(), sums.as_array().unwrap().len());
        for (found, sum) in chosen.likelihoods.iter().zip(sums.as_array().unwrap()) {
            squares += (found.sum - sum.as_f64().unwrap()).powi(2);
            count += 1;
        }
    }
    assert_eq!(count, 80);
    assert!((squares / count as f64).sqrt() < 0.2, "{}", (squares / count as f64).sqrt());
    for (found, name) in found.iter().zip(["acc", "acc_norm"]) {
        assert!((found - known["metrics"][name].as_f64().unwrap()).abs() < 1.5 / 20.0, "{name}: {found}");
    }
    assert_eq!(all(&example("capitals.yaml")).1, [1.0]);
}

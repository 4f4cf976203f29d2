//! `gently eval`: how well a model does at tasks.

use super::failure::advise;
use super::output::{data, say, table};
use super::overwrite;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::eval::{ANSWERS, EvalOptions, Figure, Run, Task};
use gently_formats::Error;
use gently_formats::atomic::{self, AtomicFile};
use gently_formats::bounded;
use gently_train::watch::BytesBar;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `gently eval`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently eval SmolLM2-135M-Instruct.Q4_1.gguf --task examples/eval/facts.yaml\n  \
    gently eval runs/quickstart --task a.yaml b.yaml --limit 100 --out results\n\n\
    A task file has the keys of lm-evaluation-harness:\n  \
    output_type: multiple_choice\n  data: items.jsonl\n  doc_to_text: \"Question: {{question}}\\nAnswer:\"\n  \
    doc_to_choice: \"{{choices}}\"\n  doc_to_target: \"{{answer}}\"\n\n\
    tag, group, task_alias, metadata, should_decontaminate and doc_to_decontamination_query may be there and do nothing:\n\
    they have no part in scores. Any other key that is not known is an error.")]
pub struct Args {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// Task files (.yaml)
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    task: Vec<PathBuf>,
    /// Ask only the first items of each task, this many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Solved examples before each item, in place of what the task says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    num_fewshot: Option<u32>,
    /// Seed that draws the examples
    #[arg(long, default_value_t = 1234)]
    seed: u64,
    /// Write what came of each item into this folder: one TASK.jsonl each, and last results.json
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: super::engine::Options,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    // What is wrong with the files is said before the model is read.
    let tasks: Vec<Task> = args.task.iter().map(Task::open).collect::<Result<_, _>>()?;
    let names = names(&tasks)?;
    let options = EvalOptions {
        limit: args.limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        num_fewshot: args.num_fewshot.map(|n| n as usize),
        seed: args.seed,
    };
    tasks.iter().try_for_each(|task| task.check(&options))?;
    let out = args.out.as_deref().map(|folder| Out { folder });
    if let Some(out) = &out {
        out.check(&tasks, &names)?;
        std::fs::create_dir_all(out.folder).map_err(Error::io(out.folder, "create"))?;
    }
    let model = args.engine.open_for(&args.model, ANSWERS)?;
    let mut rows = vec![["task", "n", "metric", "value", "stderr"].map(String::from).to_vec()];
    let mut results = Vec::new();
    for (task, name) in tasks.iter().zip(&names) {
        let begun = Instant::now();
        let mut run = Run::new(&model, task, &options)?;
        let mut lines = out.as_ref().map(|out| AtomicFile::create(out.lines(name))).transpose()?;
        let bar = BytesBar::items();
        let total = run.total() as u64;
        bar.show(task.name(), 0, total);
        for (i, outcome) in run.by_ref().enumerate() {
            let outcome = outcome?;
            bar.show(task.name(), i as u64 + 1, total);
            if let Some(file) = &mut lines {
                let done = writeln!(file, "{}", outcome.to_json());
                done.map_err(Error::io(file.target(), "write"))?;
            }
        }
        drop(bar);
        if let (Some(file), Some(out)) = (lines, &out) {
            out.forget()?;
            file.commit()?;
        }
        if run.cut() > 0 {
            say(&format!(
                "{}: {} of {total} prompts were longer than the model's context and lost their beginnings",
                task.name(),
                run.cut()
            ));
        }
        let mut metrics = Vec::new();
        for measure in run.measures() {
            let Figure { count, value, stderr } = measure.figure;
            let error = stderr.map_or_else(|| "none".into(), |e| format!("{e:.4}"));
            rows.push(vec![task.name().into(), count.to_string(), measure.name(), format!("{value:.4}"), error]);
            metrics.push(json!({
                "metric": measure.metric.name(), "filter": measure.filter, "value": value, "stderr": stderr,
            }));
        }
        results.push(json!({
            "task": task.name(), "file": task.path(), "kind": task.kind().name(), "items": total,
            "num_fewshot": run.num_fewshot(), "cut": run.cut(), "metrics": metrics,
            "seconds": begun.elapsed().as_secs_f64(),
        }));
    }
    let report = json!({"model": model.path(), "seed": args.seed, "limit": args.limit, "tasks": results});
    if let Some(out) = &out {
        atomic::write(out.results(), format!("{report:#}\n").as_bytes())?;
        say(&format!("items and results are in {}", out.folder.display()));
    }
    data(&if args.json { format!("{report}\n") } else { table(&rows) })?;
    Ok(())
}

/// Names of the tasks' files of items: all different, and of plain signs.
fn names(tasks: &[Task]) -> Result<Vec<String>> {
    let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for task in tasks {
        let name: String = task.name().chars().map(plain).collect();
        let name = name.trim_start_matches('.').to_owned();
        if name.is_empty() || !seen.insert(name.clone()) {
            let what = format!("{}: the task's name {:?} is taken, or no name", task.path().display(), task.name());
            return Err(advise(what, "give each task file a task: name of its own"));
        }
        names.push(name);
    }
    Ok(names)
}

/// The folder that is written: first the items of each task, last the results.
struct Out<'a> {
    folder: &'a Path,
}

impl Out<'_> {
    fn lines(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.jsonl"))
    }

    fn results(&self) -> PathBuf {
        self.folder.join("results.json")
    }

    /// Refuses to write over what the tasks are read from, and over what is not from here.
    fn check(&self, tasks: &[Task], names: &[String]) -> Result<()> {
        // What is not there is not read either.
        let place = |path: &Path| std::fs::canonicalize(path).ok();
        let read: BTreeSet<PathBuf> = tasks.iter().flat_map(Task::files).filter_map(place).collect();
        for path in names.iter().map(|name| self.lines(name)).chain([self.results()]) {
            if place(&path).is_some_and(|p| read.contains(&p)) {
                let what = format!("{} is a file of the tasks and would be written over", path.display());
                return Err(advise(what, "choose another folder with --out"));
            }
        }
        for name in names {
            overwrite::refuse_others(&self.lines(name), "file of outcomes", are_outcomes)?;
        }
        overwrite::refuse_others(&self.results(), "file of results", are_results)
    }

    /// Removes old results, which are not those of the items that come.
    fn forget(&self) -> Result<()> {
        let path = self.results();
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(&path, "remove")(e).into()),
            _ => Ok(()),
        }
    }
}

/// Most bytes of an outcome, or of results, that are looked at before they are replaced.
const LONGEST: u64 = 64 << 20;

/// Whether a file begins with an outcome of an item, as `--out` writes it.
fn are_outcomes(path: &Path) -> bool {
    let mut line = Vec::new();
    let read = bounded::Lines::open(path, LONGEST).and_then(|mut lines| lines.next_into(&mut line));
    let keys = ["item", "prompt", "cut", "scores"];
    read.is_ok() && serde_json::from_slice::<Value>(&line).is_ok_and(|line| keys.iter().all(|k| line.get(k).is_some()))
}

/// Whether a file has the results of tasks, as `--out` writes them.
fn are_results(path: &Path) -> bool {
    let keys = ["model", "seed", "limit", "tasks"];
    let Ok(text) = bounded::read(path, LONGEST) else { return false };
    serde_json::from_slice::<Value>(&text).is_ok_and(|all| keys.iter().all(|k| all.get(k).is_some()))
}

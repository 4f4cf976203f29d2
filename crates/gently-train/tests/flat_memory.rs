//! Memory is flat: at step 1000 a run holds no more than at step 10 but for the report's points, whose number is bounded.
//! Alone in its process, because the system's account is the process's.

use std::sync::{Arc, Mutex};

use gently_train::{Event, Observer, Recipe, Result, Trainer, plan};

/// What may come between step 10 and step 1000: what the report draws (2048 points of each series and 512 samples at most: under
/// 2 MiB), and pages of code and of the system's libraries that are used late.
const SLACK: u64 = 2 << 20;

/// What may come once the report has all it keeps.
const LATE_SLACK: u64 = 256 << 10;

/// Evaluates, writes samples and saves before step 10, so that everything a step can need has been needed once.
const RECIPE: &str = "\
[model]
layers = 1
heads = 2
width = 16
[train]
steps = 3001
batch = 2
block = 16
[eval]
every = 9
batches = 1
[sample]
every = 9
prompts = ['the ']
tokens = 4
[checkpoint]
every = 9
keep = 1
";

struct Resident(Arc<Mutex<Vec<(u64, u64)>>>);

impl Observer for Resident {
    fn on(&mut self, event: &Event) -> Result<()> {
        if let (Event::Step(step), Some(bytes)) = (event, plan::resident()) {
            self.0.lock().unwrap().push((step.step, bytes));
        }
        Ok(())
    }
}

#[test]
fn resident_memory_at_step_1000_is_that_of_step_10() {
    if plan::resident().is_none() {
        println!("skipped: this system does not tell resident memory");
        return;
    }
    // The GNU C library keeps a heap for each thread, and what is freed there spreads by some 400 KiB in a thousand steps. What
    // this test looks for is what is never freed: it runs itself again with one heap.
    const ONE_HEAP: &str = "MALLOC_ARENA_MAX";
    if std::env::var_os(ONE_HEAP).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let done = again.arg("resident_memory_at_step_1000_is_that_of_step_10").env(ONE_HEAP, "1").output().unwrap();
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "the sea is grey and we sail on a long night under old stars\n".repeat(40)).unwrap();
    let mut recipe = Recipe::parse(RECIPE, "flat.toml").unwrap();
    recipe.set(&format!("data.path=['{}']", text.display())).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let run = folder.path().join("run");
    let trainer = Trainer::new(recipe, &run).observe(Resident(seen.clone()));
    trainer.observe(gently_train::watch::Report::new()).run().unwrap();
    let seen = seen.lock().unwrap();
    let at = |step| seen.iter().find(|(n, _)| *n == step).unwrap().1;
    for (from, to, slack) in [(10, 1000, SLACK), (2000, 3000, LATE_SLACK)] {
        let (early, late) = (at(from), at(to));
        assert!(late <= early + slack, "{early} bytes at step {from}, {late} at step {to}");
    }
}

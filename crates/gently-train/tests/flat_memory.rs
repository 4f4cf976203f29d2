//! Memory is flat: at step 1000 a run holds no more than at step 10 but for the report's points, whose number is bounded.
//! Alone in its process, because both accounts, the heap's and the system's, are the process's.

use std::sync::{Arc, Mutex};

use gently_train::{Event, Observer, Recipe, Result, Trainer, process_memory};
use peak_alloc::PeakAlloc;

/// Counts what is allocated and not freed, to the byte.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// The steps that are compared, and what the heap may grow by since the one before: the report keeps every point of its series up
/// to 2048 (345 bytes a step here), and 512 samples with their texts (18 KB in the last thousand steps).
const STEPS: [(u64, u64); 4] = [(10, 0), (1000, 512 << 10), (2000, 512 << 10), (3000, 64 << 10)];

/// What resident memory may grow by between those: beside the heap's growth, pages of code that are used late and what the C
/// library's allocator spreads by, some 300 KiB in a thousand steps.
const RESIDENT_SLACK: u64 = 2 << 20;

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

/// Bytes on the heap and, where the system tells, resident bytes at the steps that are compared.
#[derive(Default)]
struct Account(Vec<(u64, u64, Option<u64>)>);

struct Watch(Arc<Mutex<Account>>);

impl Observer for Watch {
    fn on(&mut self, event: &Event) -> Result<()> {
        if let Event::Step(step) = event
            && STEPS.iter().any(|(at, _)| *at == step.step)
        {
            let heap = HEAP.current_usage() as u64;
            self.0.lock().unwrap().0.push((step.step, heap, process_memory::resident()));
        }
        Ok(())
    }
}

#[test]
fn memory_at_step_1000_is_that_of_step_10() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "the sea is grey and we sail on a long night under old stars\n".repeat(40)).unwrap();
    let mut recipe = Recipe::parse(RECIPE, "flat.toml").unwrap();
    recipe.set(&format!("data.path=['{}']", text.display())).unwrap();
    let account = Arc::new(Mutex::new(Account::default()));
    let trainer = Trainer::new(recipe, folder.path().join("run")).observe(Watch(account.clone()));
    trainer.observe(gently_train::watch::Report::new()).run().unwrap();
    let seen = &account.lock().unwrap().0;
    assert_eq!(seen.iter().map(|at| at.0).collect::<Vec<_>>(), STEPS.map(|(step, _)| step));
    for (pair, (_, slack)) in seen.windows(2).zip(&STEPS[1..]) {
        let [(from, heap, resident), (to, late_heap, late_resident)] = pair else { unreachable!() };
        assert!(*late_heap <= heap + slack, "heap: {heap} bytes at step {from}, {late_heap} at step {to}");
        if let (Some(early), Some(late)) = (resident, late_resident) {
            assert!(*late <= early + RESIDENT_SLACK, "resident: {early} bytes at step {from}, {late} at step {to}");
        }
    }
}

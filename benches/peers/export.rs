//! Writes down what another program needs to make the same training run: initial weights, batches in order, settings.
//!
//! ```text
//! peer_export RECIPE DATA OUT STEPS [KEY=VALUE …]
//! ```
//!
//! `OUT` becomes a run folder stopped before its first step: `config.toml` (every value), `checkpoints/step-0/` (weights in
//! Hugging Face layout), and beside them `batches.u32`: for each micro-batch of the first STEPS updates its ids and
//! then its targets, each [B,T], as little-endian u32.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gently::recipes;
use gently_train::recipe::Source;
use gently_train::source::{self, TrainData};
use gently_train::{StopHandle, Trainer};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, data, out, steps, changes @ ..] = arguments.as_slice() else {
        bail!("usage: peer_export RECIPE DATA OUT STEPS [KEY=VALUE …]");
    };
    let steps: u64 = steps.parse().context("STEPS is not a number")?;
    let out = PathBuf::from(out);
    let mut recipe = recipes::find(recipe)?;
    recipe.assign("data.path", vec![data.as_str()], Source::Set)?;
    for change in changes {
        recipe.set(change)?;
    }

    let stop = StopHandle::new();
    stop.stop();
    let batches = out.join("batches.u32");
    Trainer::new(recipe, &out)
        .data(move |resolved, folder| {
            let mut data = source::open(resolved, folder, &mut |_| Ok(()))?;
            let count = steps * resolved.config.train.accumulate as u64;
            write_batches(&mut data, count, &batches)?;
            Ok(data)
        })
        .stop_when(stop)
        .run()?;
    Ok(())
}

/// Takes `count` batches, writes them to `path`, and goes back to the first.
fn write_batches(data: &mut TrainData, count: u64, path: &Path) -> gently_train::Result<()> {
    let failed = |source| gently_train::Error::Io { action: "cannot write", path: path.into(), source };
    let first = data.train.position();
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for _ in 0..count {
        let batch = data.train.next_batch()?;
        for id in batch.ids.iter().chain(&batch.targets) {
            file.write_all(&id.to_le_bytes()).map_err(failed)?;
        }
    }
    file.flush().map_err(failed)?;
    data.train.seek(&first)
}

//! Train a small model on a text of one's own, watch it, and let it write.
//!
//! `cargo run --release --example train -- FILE [STEPS]`

use gently::prelude::*;
use gently::train::watch::Progress;
use gently::train::{Recipe, Trainer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let Some(file) = args.next() else {
        return Err("usage: train FILE [STEPS]".into());
    };
    let steps = args.next().unwrap_or_else(|| "200".into());
    let folder = std::env::temp_dir().join(format!("gently-example-{}", std::process::id()));

    let mut recipe = Recipe::new("example");
    recipe.set(&format!("data.path=[{file:?}]"))?;
    recipe.set(&format!("train.steps={steps}"))?;
    for setting in ["model.layers=2", "model.heads=4", "model.width=64", "train.block=64", "optimizer.lr=3e-3"] {
        recipe.set(setting)?;
    }
    let finished = Trainer::new(recipe, &folder).observe(Progress::stderr()).run()?;
    println!("validation loss {:?} after {} steps", finished.val_loss, finished.step);

    let model = TextModel::open(&folder)?;
    let text = Writer::new(&model, "\n", &WriteOptions::default())?.collect_text()?;
    println!("{text}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

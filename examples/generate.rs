//! Continue a prompt with a trained model.
//!
//! `cargo run --release --example generate -- runs/quickstart "In the beginning "`

use gently::prelude::*;
use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(prompt)) = (args.next(), args.next()) else {
        return Err("usage: generate MODEL PROMPT".into());
    };
    let model = TextModel::open(folder)?;
    let sampling = SamplingParams { temperature: 0.8, top_p: 0.95, seed: 42, ..Default::default() };
    let options = WriteOptions { max_tokens: 300, sampling, stop: vec!["\n\n".into()], ..WriteOptions::default() };
    print!("{prompt}");
    for piece in Writer::new(&model, &prompt, &options)? {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}

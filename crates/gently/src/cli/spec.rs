//! `gently spec`: the algorithm of a model with its real sizes.

use super::failure::advise;
use super::output::data;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::folder;
use gently_models::DecoderConfig;
use std::path::Path;

/// Options of `gently spec`.
#[derive(ClapArgs)]
#[command(
    after_help = "Examples:\n  gently spec gpt2\n  gently spec smollm2.gguf\n  gently spec runs/quickstart > model.txt"
)]
pub struct Args {
    /// A GGUF file, a model's folder, a run folder, or the name of a published size (gpt2, smollm2-135m, …)
    model: String,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    data(&gently_models::spec::text(&named_or_folder(&args.model)?.1))?;
    Ok(())
}

/// The configuration of a folder or GGUF file, or of a published size by its name, with what to call it.
pub fn named_or_folder(model: &str) -> Result<(String, DecoderConfig)> {
    let path = Path::new(model);
    // What looks like a path is no name of a size: where it is not there, that is what is said.
    let like = path.components().count() > 1 || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if like || path.exists() {
        let (path, config) = folder::configuration(path)?;
        return Ok((path.display().to_string(), config));
    }
    match DecoderConfig::named(model) {
        Ok(config) => Ok((model.to_owned(), config)),
        Err(error) => Err(advise(
            format!("{model} is no GGUF file, no folder and no published size"),
            error.hint().unwrap_or_else(|| "give a folder with config.json".into()),
        )),
    }
}

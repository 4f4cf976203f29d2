//! `gently bench train`: this machine's own table of the recipes.

use super::{ComputeChoice, Effort, machine, machine_line, measure};
use crate::cli::failure::advise;
use crate::cli::output::{bytes, data, say, table};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::recipes;
use gently_kernels::{peak, pool};
use gently_models::flops::Cost;
use gently_text::Tokenizer;
use gently_train::Error;
use gently_train::recipe::{Config, Resolved, Source, TokenizerKind};
use serde_json::json;

/// Options of `gently bench train`.
#[derive(ClapArgs)]
pub struct Args {
    /// Recipes to run; may be repeated (default: all that come with the program)
    #[arg(long, value_name = "NAME")]
    recipe: Vec<String>,
    /// Arithmetic of the products
    #[arg(long, value_enum, default_value = "f32")]
    compute: ComputeChoice,
    /// Updates to time at the most, after two that warm up; the median counts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    steps: u64,
    /// Seconds for one row of the table, warm-up aside; at least three updates are timed
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Keep the recipes' batches, however long an update takes
    #[arg(long)]
    full: bool,
    /// Change one value of the recipes, such as --set train.batch=16; the arithmetic is --compute
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// An update whose floor is longer is cut into a smaller batch: its speed is the same, and the bench ends.
const LONGEST: f64 = 6.0;

/// Runs the command.
pub fn run(args: &Args, as_json: bool) -> Result<()> {
    let names: Vec<String> = match args.recipe.is_empty() {
        true => recipes::BUILT_IN.iter().map(|r| r.0.to_owned()).collect(),
        false => args.recipe.clone(),
    };
    let peak = peak::f32_gflops() * 1e9 * pool::threads() as f64;
    let head =
        ["recipe", "compute", "parameters", "B × T", "tokens/s", "of peak", "time/floor", "memory", "repetitions"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let (mut report, mut skipped) = (Vec::new(), Vec::new());
    let effort = Effort { warm_up: 2, timed: (args.steps.min(3), args.steps), seconds: args.seconds };
    for name in names {
        for &kind in args.compute.kinds() {
            let compute = kind.name();
            let given = resolved(&name, compute, &args.set)?;
            let vocab_given = given.source("model.vocab").is_given();
            let mut config = given.config;
            if !vocab_given {
                config.model.vocab = vocabulary(&config);
            }
            if !args.full {
                shorten(&mut config, peak);
            }
            let measured = match measure(&config, effort) {
                Ok(measured) => measured,
                Err(error @ Error::Memory { .. }) => {
                    let why = format!("{name} in {compute} is left out: {error}");
                    say(&why);
                    skipped.push(json!({"recipe": name, "compute": compute, "why": error.to_string()}));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let over = measured.over_floor();
            rows.push(vec![
                name.clone(),
                compute.into(),
                format!("{:.1} M", measured.parameters as f64 / 1e6),
                format!("{} × {}", config.train.batch * config.train.accumulate, config.train.block),
                format!("{:.0}", measured.tokens_per_second()),
                format!("{:.0} %", 100.0 / over),
                format!("{over:.2}"),
                bytes(measured.memory_bytes),
                measured.steps.len().to_string(),
            ]);
            if !as_json {
                say(&format!("{name} in {compute}: {:.0} tokens/s", measured.tokens_per_second()));
            }
            let mut row = measured.json(&config);
            row["recipe"] = name.clone().into();
            report.push(row);
        }
    }
    if as_json {
        let mut all = machine();
        all["runs"] = report.into();
        all["skipped"] = skipped.into();
        data(&format!("{all}\n"))?;
    } else {
        data(&table(&rows))?;
        say(&machine_line());
        say(
            "Medians of the repetitions, on random tokens. The floor: 6 operations for each weight in a product and attention's \
             visible scores, at the peak measured in registers.",
        );
    }
    Ok(())
}

/// A recipe as it is measured.
pub(super) fn resolved(name: &str, compute: &str, set: &[String]) -> Result<Resolved> {
    let mut recipe = recipes::find(name)?;
    recipe.assign("train.compute", compute, Source::Set)?;
    // Tokens are drawn at random: a recipe that leaves it to the person which file to read needs none here.
    recipe.assign("tokenizer.path", "none", Source::Derived("random tokens".into()))?;
    for assignment in set {
        // Rows would say one arithmetic and be measured in another.
        if assignment.split('=').next().map(str::trim) == Some("train.compute") {
            return Err(advise("--set train.compute has no place here", "choose the arithmetic with --compute"));
        }
        recipe.set(assignment)?;
    }
    Ok(recipe.resolve()?)
}

/// The vocabulary that the recipe's tokenizer will most likely have: the work depends on it alone.
fn vocabulary(config: &Config) -> usize {
    match config.tokenizer.kind {
        TokenizerKind::Characters => 65, // the works of Shakespeare in one file
        TokenizerKind::Bytes => Tokenizer::bytes().vocab_size(),
        TokenizerKind::Bpe => config.tokenizer.vocab,
        TokenizerKind::File => 50_257, // GPT-2's
    }
}

/// Fewer micro-batches, then fewer rows, until an update's floor is short enough.
fn shorten(config: &mut Config, peak: f64) {
    let flops = Cost::of(&config.model).training_flops_per_token(config.train.block) * config.train.block as f64;
    let longest = |batch: usize, accumulate: usize| flops * (batch * accumulate) as f64 / peak > LONGEST;
    let train = &mut config.train;
    if longest(train.batch, train.accumulate) {
        train.accumulate = 1;
    }
    while train.batch > 1 && longest(train.batch, train.accumulate) {
        train.batch = train.batch.div_ceil(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_recipe_can_be_measured() {
        for (name, _) in recipes::BUILT_IN {
            let given = resolved(name, "f32", &["train.batch=2".to_owned()]).unwrap();
            assert!(vocabulary(&given.config) >= 65, "{name}");
        }
        let bytes = resolved("shakespeare-cpu", "f32", &["tokenizer.kind=bytes".to_owned()]).unwrap();
        assert_eq!(vocabulary(&bytes.config), 256);
    }

    #[test]
    fn the_arithmetic_is_not_set_twice() {
        for assignment in ["train.compute=bf16", " train.compute = 'f32'"] {
            let error = resolved("shakespeare-cpu", "f32", &[assignment.to_owned()]).err().unwrap();
            assert!(error.to_string().contains("train.compute"), "{error}");
        }
        assert_eq!(resolved("shakespeare-cpu", "bf16", &[]).unwrap().config.train.compute.name(), "bf16");
    }
}

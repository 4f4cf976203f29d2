//! `gently data`: prepare, inspect and fetch training text.

use super::failure::advise;
use super::output::{bytes, count, data, say, table};
use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use gently_train::StopHandle;
use gently_train::data::fetch::FetchProgress;
use gently_train::data::{Corpus, Dataset, Input, Layout, Prepare, Progress, Replace, TokenizerSpec, inspect, sets};
use gently_train::terminal::quoted_path;
use gently_train::watch::BytesBar;
use serde_json::json;
use std::path::PathBuf;

/// Options of `gently data`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently data prepare stories/ --tokenizer bpe --vocab 4096 --out data/stories\n  \
    gently data inspect data/stories\n  gently data get tinyshakespeare")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Turn texts into token shards once, for any number of runs
    Prepare(PrepareArgs),
    /// Show what is in prepared shards: a decoded sample, lengths, the commonest tokens
    Inspect(InspectArgs),
    /// Fetch a public set by name and verify it
    Get {
        /// Its name; `gently data list` shows them
        name: String,
    },
    /// List the public sets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum TokenizerKind {
    /// One token for each character of the text
    Characters,
    /// One token for each byte
    Bytes,
    /// Byte-level BPE, trained on the text
    Bpe,
}

#[derive(ClapArgs)]
struct PrepareArgs {
    /// Files (.txt, .jsonl, .parquet), folders, names of public sets, or `-` for standard input
    #[arg(required = true)]
    inputs: Vec<String>,
    /// The folder to write
    #[arg(long, short)]
    out: PathBuf,
    /// Replace a dataset in the folder that was made of other texts or with other settings
    #[arg(long)]
    replace: bool,
    /// How text becomes tokens
    #[arg(long, default_value = "characters")]
    tokenizer: TokenizerKind,
    /// Use this tokenizer.json (or the folder it is in) instead
    #[arg(long, value_name = "PATH", conflicts_with = "tokenizer")]
    tokenizer_file: Option<PathBuf>,
    /// Size of the vocabulary that `--tokenizer bpe` learns (default: 4096)
    #[arg(long)]
    vocab: Option<usize>,
    /// The part kept for validation, 0 to 0.5
    #[arg(long, default_value_t = 0.1, value_parser = fraction, allow_negative_numbers = true)]
    val_fraction: f64,
    /// The field of a JSON line or Parquet row with the text
    #[arg(long, default_value = "text")]
    field: String,
    /// What stands between the documents of a plain text, such as <|endoftext|>
    #[arg(long, value_parser = separator, allow_hyphen_values = true)]
    separator: Option<String>,
    /// Seed that draws the documents for validation
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Threads that encode (default: all)
    #[arg(long, value_parser = super::train::thread_count)]
    threads: Option<usize>,
}

#[derive(ClapArgs)]
struct InspectArgs {
    /// A folder that `gently data prepare` or a run (its data/ folder) made
    dataset: PathBuf,
    /// How many of the commonest tokens to list
    #[arg(long, default_value_t = 12)]
    most: usize,
    /// Tokens of the sample
    #[arg(long, default_value_t = 120)]
    tokens: usize,
    /// Seed that chooses the sample
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Whether Ctrl-C and SIGTERM are heard here.
    pub fn hears_signals(&self) -> bool {
        matches!(self.what, What::Prepare(_))
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    match args.what {
        What::Prepare(args) => prepare(args),
        What::Inspect(args) => inspect_folder(&args),
        What::Get { name } => get(&name),
        What::List { json } => list(json),
    }
}

/// A part for validation, 0 to 0.5 as in a recipe.
fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(part) if (0.0..=0.5).contains(&part) => Ok(part),
        _ => Err("a number from 0 to 0.5 is needed, such as 0.1; 0 keeps nothing".into()),
    }
}

/// What stands between documents: some text.
fn separator(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a text is needed; leave the option out where a file is one document".into()),
        text => Ok(text.into()),
    }
}

/// Size of a vocabulary that is learned, where none is asked for.
const VOCAB: usize = 4096;

fn prepare(args: PrepareArgs) -> Result<()> {
    let learned = args.tokenizer_file.is_none() && matches!(args.tokenizer, TokenizerKind::Bpe);
    if let (Some(vocab), false) = (args.vocab, learned) {
        let what = format!("--vocab {vocab} is a size to learn, which only --tokenizer bpe does");
        return Err(advise(what, "add --tokenizer bpe, or leave --vocab out"));
    }
    let wanted = if learned { args.vocab.unwrap_or(VOCAB) } else { 0 };
    let tokenizer = match (args.tokenizer_file, args.tokenizer) {
        (Some(file), _) => TokenizerSpec::File(file),
        (None, TokenizerKind::Characters) => TokenizerSpec::Characters,
        (None, TokenizerKind::Bytes) => TokenizerSpec::Bytes,
        (None, TokenizerKind::Bpe) => TokenizerSpec::Bpe(wanted),
    };
    let job = Prepare {
        tokenizer,
        val_fraction: args.val_fraction,
        seed: args.seed,
        layout: Layout { field: args.field, separator: args.separator, ..Layout::default() },
        threads: args.threads.unwrap_or(0),
        replace: if args.replace { Replace::Any } else { Replace::Nothing },
        ..Prepare::new(args.inputs.iter().map(|i| Input::named(i)))
    };
    let bar = BytesBar::stderr();
    let stop = StopHandle::on_signals()?;
    let dataset = job.run(&args.out, &mut |p: Progress| {
        bar.show(p.stage, p.done, p.total);
        if stop.is_asked() { Err(gently_train::data::Error::Stopped) } else { Ok(()) }
    });
    drop(bar);
    let dataset = dataset?;
    let info = dataset.info();
    let how = if dataset.was_reused() { "was prepared already" } else { "is prepared" };
    say(&format!(
        "{} {how}: {} tokens to learn from, {} to validate on, vocabulary {} ({})",
        args.out.display(),
        count(info.train.tokens as f64),
        count(info.val.tokens as f64),
        info.tokenizer.vocab,
        info.tokenizer.kind,
    ));
    if info.tokenizer.vocab < wanted {
        say(&format!("the text gave only {} entries of the {wanted} asked for", info.tokenizer.vocab));
    }
    say(&format!("train on it: gently train RECIPE --data {}", quoted_path(&args.out)));
    Ok(())
}

fn inspect_folder(args: &InspectArgs) -> Result<()> {
    let inner = args.dataset.join("data");
    let folder = if !Dataset::is_at(&args.dataset) && Dataset::is_at(&inner) { &inner } else { &args.dataset };
    if !folder.exists() {
        return Err(advise(format!("{} does not exist", folder.display()), "make it with gently data prepare"));
    }
    let dataset = Dataset::open(folder)?;
    let tokenizer = dataset.tokenizer();
    let train = dataset.train()?;
    let val = dataset.val()?;
    let summarise = |corpus: &Corpus| inspect::summarise(corpus, tokenizer, args.most);
    let (train_summary, val_summary) = (summarise(&train)?, val.as_ref().map(summarise).transpose()?);
    let sample = inspect::sample(&train, tokenizer, args.seed, args.tokens)?;
    if args.json {
        let report = json!({"dataset": folder, "info": dataset.info(), "train": train_summary, "val": val_summary,
            "sample": sample});
        data(&format!("{report}\n"))?;
        return Ok(());
    }
    let mut text = format!("{}\n\n", folder.display());
    let mut rows = vec![["", "train", "val"].map(String::from).to_vec()];
    let mut row = |name: &str, of: &dyn Fn(&inspect::Summary) -> String| {
        rows.push(vec![name.into(), of(&train_summary), val_summary.as_ref().map_or("none".into(), of)]);
    };
    row("tokens", &|s| s.tokens.to_string());
    row("documents", &|s| s.documents.to_string());
    row("shards", &|s| s.shards.to_string());
    row("text", &|s| bytes(s.bytes));
    row("bytes per token", &|s| format!("{:.2}", s.bytes as f64 / s.tokens.max(1) as f64));
    row("not learned from", &|s| s.masked.to_string());
    row("document length, shortest", &|s| s.lengths.min.to_string());
    row("  median", &|s| s.lengths.median.to_string());
    row("  nine tenths", &|s| s.lengths.p90.to_string());
    row("  longest", &|s| s.lengths.max.to_string());
    row("different tokens", &|s| format!("{} of {}", s.distinct, tokenizer.vocab_size()));
    row("entropy, bits per token", &|s| format!("{:.3}", s.entropy));
    text.push_str(&table(&rows));
    text.push_str("\ncommonest tokens\n");
    let most = train_summary.most.iter().map(|t| {
        let share = 100.0 * t.count as f64 / train_summary.tokens.max(1) as f64;
        vec![format!("{:?}", t.text), t.token.to_string(), t.count.to_string(), format!("{share:.2} %")]
    });
    text.push_str(&table(&most.collect::<Vec<_>>()));
    text.push_str(&format!(
        "\nsample (shard {}, document {}, {} tokens; | between tokens)\n{}\n",
        sample.shard,
        sample.document,
        sample.tokens.len(),
        sample.pieces.join("|")
    ));
    data(&text)?;
    Ok(())
}

fn get(name: &str) -> Result<()> {
    let set = sets::find(name)?;
    let cache = sets::cache();
    let bar = BytesBar::stderr();
    let got = sets::get(name, &cache, &mut |p: FetchProgress| {
        bar.show(p.what(), p.done, p.total);
        Ok(())
    });
    drop(bar);
    got?;
    match set.files {
        [] => say(&format!("{name} comes with the program; use it with --data {name}")),
        files => {
            for file in files {
                data(&format!("{}\n", cache.join(file.name).display()))?;
            }
            say(&format!("verified; use it with --data {name}"));
        }
    }
    Ok(())
}

fn list(as_json: bool) -> Result<()> {
    let size = |set: &sets::PublicSet| set.files.iter().map(|f| f.bytes).sum::<u64>();
    if as_json {
        let all: Vec<_> = sets::SETS
            .iter()
            .map(|s| {
                json!({"name": s.name, "about": s.about, "licence": s.licence, "bytes": size(s),
                "urls": s.files.iter().map(|f| f.url).collect::<Vec<_>>()})
            })
            .collect();
        data(&format!("{}\n", serde_json::Value::from(all)))?;
        return Ok(());
    }
    let mut text = String::new();
    for set in &sets::SETS {
        text.push_str(&format!("{:<20} {} ({})\n", set.name, set.about, set.licence));
    }
    data(&text)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::fraction;

    #[test]
    fn a_part_for_validation_is_at_most_a_half() {
        assert_eq!((fraction("0"), fraction("0.5")), (Ok(0.0), Ok(0.5)));
        for odd in ["-0.1", "0.6", "1", "nan", "a tenth"] {
            assert!(fraction(odd).is_err(), "{odd}");
        }
    }
}

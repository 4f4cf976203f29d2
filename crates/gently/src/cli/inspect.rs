//! `gently inspect`: what a model folder or GGUF file holds.

use super::gguf_file;
use super::output::{bytes, count, data, table};
use super::spec::named_or_folder;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::folder;
use gently_models::config::DecoderConfig;
use gently_models::families::Layout;
use gently_models::flops::Cost;
use gently_models::params::Builder;
use gently_models::pretrained::read_config;
use gently_models::{Decoder, Param};
use gently_tensor::Device;
use serde_json::json;
use std::path::Path;

/// Options of `gently inspect`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently inspect runs/quickstart\n  gently inspect gpt2 --context 1024 --json\n  \
    gently inspect smollm2-135m.gguf")]
pub struct Args {
    /// A GGUF file, a model's folder, a run folder, or the name of a published size (gpt2, smollm2-135m, …)
    model: String,
    /// Count work and memory for sequences of this many tokens (default: the model's context)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    context: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Make the report of a run folder again, from its files alone
    #[arg(long, conflicts_with_all = ["json", "context"])]
    report: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if args.report {
        let path = gently_train::watch::report::rebuild(Path::new(&args.model))?;
        data(&format!("{}\n", path.display()))?;
        return Ok(());
    }
    let (name, config) = named_or_folder(&args.model)?;
    config.validate()?;
    let layout = match Path::new(&args.model).exists() {
        true => read_config(folder::locate(Path::new(&args.model))?)?.0,
        false => Layout::of(&config),
    };
    let context = args.context.map_or(config.context, |n| n as usize);
    let cost = Cost::of(&config);
    let training = cost.training_flops_per_token(context);
    // Shapes only: nothing is allocated, whatever the file says its sizes are.
    let shapes = Decoder::build(&config, Builder::new(None, &Device::Meta))?;
    let gguf = gguf_file::open(&args.model)?;
    let files: Vec<(String, u64)> = match &gguf {
        Some(file) => file.parts().map(|(path, size)| (file_name(path), size as u64)).collect(),
        None => folder_files(&args.model)?,
    };
    // What `generate --cache` may be, the default first. An encoder reads a text at once and keeps none.
    let kept = match config.bidirectional {
        true => Vec::new(),
        false => vec![("f16", cost.kv_bytes_per_token() / 2), ("f32", cost.kv_bytes_per_token())],
    };
    if args.json {
        let mut report = json!({
            "model": name, "layout": layout_key(layout), "config": config, "parameters": cost.parameters,
            "embedding_parameters": cost.embedding_parameters, "matmul_parameters": cost.matmul_parameters,
            "context": context,
            "forward_flops_per_token": training / 3.0,
            "training_flops_per_token": training,
            "weight_bytes_f32": cost.weight_bytes(4), "weight_bytes_bf16": cost.weight_bytes(2),
            "training_state_bytes": cost.adamw_bytes(),
            "files": files.iter().map(|(n, b)| json!({"name": n, "bytes": b})).collect::<Vec<_>>(),
            "tensors": shapes.params().iter()
                .map(|p| json!({"name": p.name, "shape": p.tensor.dims()})).collect::<Vec<_>>(),
        });
        for (kind, one) in &kept {
            report[format!("kv_bytes_per_token_{kind}")] = json!(one);
        }
        if let Some(file) = &gguf {
            report["gguf"] = gguf_file::to_json(file);
        }
        data(&format!("{report}\n"))?;
        return Ok(());
    }
    let mut text = format!("{name}\n\n{}\n", summary(layout, &config));
    text.push_str(&table(&parameters(shapes.params())));
    let mut rows: Vec<(String, String)> = [
        ("parameters", count(cost.parameters as f64)),
        ("  of them in matrix products", count(cost.matmul_parameters as f64)),
        ("operations per token, forward", count(training / 3.0)),
        ("operations per token, training", count(training)),
        ("weights in f32", bytes(cost.weight_bytes(4))),
        ("weights in bf16", bytes(cost.weight_bytes(2))),
        ("weights, gradients, AdamW state", bytes(cost.adamw_bytes())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for (kind, one) in kept {
        rows.push((format!("keys and values in {kind}, one token"), bytes(one)));
        rows.push((format!("keys and values in {kind}, whole context"), bytes(one.saturating_mul(context as u64))));
    }
    text.push_str(&format!("\nfor sequences of {context} tokens\n"));
    text.push_str(&table(&rows.into_iter().map(|(k, v)| vec![k, v]).collect::<Vec<_>>()));
    // A GGUF file lists its own.
    if gguf.is_none() && !files.is_empty() {
        text.push_str("\nfiles\n");
        let rows: Vec<_> = files.iter().map(|(n, b)| vec![n.clone(), bytes(*b)]).collect();
        text.push_str(&table(&rows));
    }
    if let Some(file) = &gguf {
        text.push_str(&gguf_file::to_text(file));
    }
    data(&text)?;
    Ok(())
}

/// The published family whose files it has, as `config.json` names it.
fn layout_key(layout: Layout) -> &'static str {
    layout.entry().and_then(|entry| entry.model_types.first()).copied().unwrap_or("gently")
}

/// One line on the architecture.
fn summary(layout: Layout, c: &DecoderConfig) -> String {
    // Of a model that is in no published form only the preset that it began from has a name.
    let family = match layout.entry() {
        Some(_) => format!("{layout:?}"),
        None => format!("{:?}, changed", c.family),
    };
    let key_heads = if c.kv_heads() == c.heads { String::new() } else { format!(" ({} for keys)", c.kv_heads()) };
    format!(
        "{family}: {} layers, width {}, {} heads{key_heads} of {}, MLP {} ({:?}), {:?} norm, {:?} positions, \
         vocabulary {}, context {}\n",
        c.layers,
        c.width,
        c.heads,
        c.head_width(),
        c.mlp_width(),
        c.mlp,
        c.norm,
        c.position,
        c.vocab,
        c.context
    )
}

/// Name, shape and size of every parameter; the blocks are alike, so the first stands for all.
fn parameters(params: &[Param]) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["tensor".into(), "shape".into(), "parameters".into()]];
    let mut hidden = 0usize;
    for p in params {
        let later_block = p.name.strip_prefix("blocks.").is_some_and(|rest| !rest.starts_with("0."));
        if later_block {
            hidden += 1;
            continue;
        }
        rows.push(vec![p.name.clone(), format!("{:?}", p.tensor.dims()), p.tensor.numel().to_string()]);
    }
    if hidden > 0 {
        rows.push(vec![format!("… and {hidden} tensors of the other blocks, of the same shapes")]);
    }
    rows
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files of the folder that `model` means, with their sizes in bytes; none for a named size.
fn folder_files(model: &str) -> Result<Vec<(String, u64)>> {
    if !Path::new(model).exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    let place = folder::locate(Path::new(model))?;
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), meta.len()));
        }
    }
    files.sort();
    Ok(files)
}

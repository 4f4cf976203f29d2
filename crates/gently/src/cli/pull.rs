//! `gently pull`: a model from the Hugging Face Hub.

use super::output::{bytes, data, say};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::hub::{Hub, Name};
use gently_train::data::fetch::FetchProgress;
use gently_train::terminal::quoted_path;
use gently_train::watch::BytesBar;
use serde_json::json;
use std::path::PathBuf;

/// Options of `gently pull`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently pull HuggingFaceTB/SmolLM2-135M-Instruct\n  \
    gently chat models/HuggingFaceTB--SmolLM2-135M-Instruct\n  \
    gently pull owner/model-GGUF:model-q4_0.gguf --to models\n\n\
    HF_TOKEN is sent where it is set, HF_ENDPOINT names a mirror. The program curl does the fetching.")]
pub struct Args {
    /// owner/repo, with @revision and :file.gguf where wanted
    name: String,
    /// The folder to put it in (default: models/owner--repo)
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// Print one JSON object instead of the path
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let name: Name = args.name.parse()?;
    let folder = args.to.unwrap_or_else(|| name.folder());
    let bar = BytesBar::stderr();
    let pulled = Hub::from_env()?.pull(&name, &folder, &mut |p: FetchProgress| {
        bar.show(p.what(), p.done, p.total);
        Ok(())
    });
    drop(bar);
    let pulled = pulled?;
    let model = pulled.model.display();
    say(&format!("{name}: {} files, {}, commit {}", pulled.files, bytes(pulled.bytes), &pulled.revision[..12]));
    if args.json {
        let report = json!({
            "name": name.to_string(), "model": pulled.model, "revision": pulled.revision, "files": pulled.files,
            "bytes": pulled.bytes,
        });
        data(&format!("{report}\n"))?;
    } else {
        data(&format!("{model}\n"))?;
        say(&format!("use it: gently generate {} --prompt \"Once upon a time\"", quoted_path(&pulled.model)));
    }
    Ok(())
}

//! `gently convert` and `gently quantize`: a model in another format, or with coarser weights.

use super::failure::advise;
use super::input;
use super::output::{bytes, data, say, table};
use super::overwrite;
use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use gently::embed::Settings;
use gently::folder::{self, NewModel};
use gently::gguf;
use gently_formats::files;
use gently_formats::gguf::{TensorType, is_part};
use gently_formats::safetensors::Dtype;
use gently_models::families::Layout;
use gently_models::weights::{Storage, requantize};
use gently_models::{Batch, Decoder, ForwardCx, WeightSource};
use gently_tensor::{Device, no_grad};
use gently_text::{TemplateText, Tokenizer};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Options of `gently convert`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently convert smollm2-135m.gguf smollm2/ --type bf16\n  \
    gently convert runs/quickstart model.gguf --type f16")]
pub struct Args {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// Where to: a name ending in .gguf for a GGUF file, otherwise a Hugging Face folder
    output: PathBuf,
    /// Type of the matrices; vectors of a GGUF file stay F32
    #[arg(long = "type", value_enum, default_value_t = Float::F32)]
    kind: Float,
}

/// Types of floats.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Float {
    F32,
    F16,
    Bf16,
}

/// Runs `gently convert`.
pub fn run(args: Args) -> Result<()> {
    let path = folder::locate(&args.model)?;
    let source = WeightSource::open(&path)?;
    refuse_part(&args.output)?;
    overwrite::refuse(overwrite::files_of(&args.model, &path, &source), &args.output)?;
    if is_gguf(&args.output) {
        let kind = match args.kind {
            Float::F32 => TensorType::F32,
            Float::F16 => TensorType::F16,
            Float::Bf16 => TensorType::Bf16,
        };
        write_gguf(&source, &path, &args.output, Storage::new(kind))?;
    } else {
        let (mut tokenizer, chat) = (tokenizer_of(&source, &path)?, template_of(&path)?);
        // An encoder has no positions for more, and transformers cuts texts only where a length is said. A GGUF file says it as the
        // model's context; a folder of a decoder keeps what it says.
        if source.config().bidirectional || source.gguf().is_some() {
            tokenizer = tokenizer.with_longest(source.config().context);
        }
        let settings = embedding(&source, &path);
        let decoder = source.decoder(&Device::Cpu)?;
        let dtype = match args.kind {
            Float::F32 => Dtype::F32,
            Float::F16 => Dtype::F16,
            Float::Bf16 => Dtype::Bf16,
        };
        let tokens = chat.as_ref().map(|chat| chat.tokens.clone()).unwrap_or_default();
        // All is read before anything is written, and all is written before anything of another model is taken away.
        let new = NewModel::create(&args.output)?;
        tokenizer.save_with(new.path(), &tokens)?;
        if let Some(settings) = settings {
            settings.save(new.path(), source.config().width)?;
        }
        if let Some(chat) = chat {
            gently_formats::atomic::write(new.path().join(files::CHAT_TEMPLATE), chat.source.as_bytes())?;
        }
        decoder.save_as(new.path(), dtype).map_err(|error| new.named(error))?;
        new.commit()?;
        if Layout::of(decoder.config()) == Layout::Native {
            say(
                "note: no published family has such a model: model_type is \"gently\", and only this program reads the folder",
            );
        }
    }
    data(&format!("{}\n", args.output.display()))?;
    Ok(())
}

/// Options of `gently quantize`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently quantize smollm2-135m.gguf smollm2-q4_0.gguf --type q4_0\n  \
    gently quantize runs/quickstart q8.gguf --type q8_0 --measure held-out.txt")]
pub struct QuantizeArgs {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// The GGUF file to write
    output: PathBuf,
    /// Type of the matrices: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k
    #[arg(long = "type", value_parser = tensor_type)]
    kind: TensorType,
    /// Type of the token table and the head (default: q8_0, or --type where that is finer)
    #[arg(long, value_parser = tensor_type)]
    tables: Option<TensorType>,
    /// Compare the perplexity of both models on this text
    #[arg(long)]
    measure: Option<PathBuf>,
    /// With --measure: read at most this many tokens
    #[arg(long, default_value_t = 4096, requires = "measure", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `gently quantize`.
pub fn quantize(args: QuantizeArgs) -> Result<()> {
    let path = folder::locate(&args.model)?;
    if !is_gguf(&args.output) {
        let what = format!("{} does not end in .gguf", args.output.display());
        return Err(advise(what, "quantized weights are written as GGUF files"));
    }
    let source = WeightSource::open(&path)?;
    refuse_part(&args.output)?;
    let mut read = overwrite::files_of(&args.model, &path, &source);
    read.extend(args.measure.clone());
    overwrite::refuse(read, &args.output)?;
    // What cannot be measured is said before hours of writing.
    let text = args.measure.as_ref().map(|text| Measured::read(&source, &path, text, args.tokens)).transpose()?;
    let storage = Storage::new(args.kind);
    let storage = Storage { tables: args.tables.unwrap_or(storage.tables), ..storage };
    let weighed = |place: &Path, source: &WeightSource| -> Result<_> {
        let size = size_of(source)?;
        let elements: usize = source.params().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let nats = text.as_ref().map(|text| text.nats(source)).transpose()?;
        Ok((place.display().to_string(), size, 8.0 * source.stored_bytes() as f64 / elements as f64, nats))
    };
    let before = weighed(&path, &source)?;
    write_gguf(&source, &path, &args.output, storage)?;
    drop(source);
    let report = [before, weighed(&args.output, &WeightSource::open(&args.output)?)?];
    if args.json {
        let models: Vec<_> = report
            .iter()
            .map(|(name, size, bits, nats)| {
                json!({"model": name, "bytes": size, "bits_per_parameter": bits, "nats_per_token": nats,
                       "perplexity": nats.map(f64::exp)})
            })
            .collect();
        data(&format!("{}\n", json!({ "models": models })))?;
        return Ok(());
    }
    let mut rows = vec![["model", "bytes", "bits each", "nats/token", "perplexity"].map(String::from).to_vec()];
    for (name, size, bits, nats) in report {
        let number = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"));
        rows.push(vec![name, bytes(size), format!("{bits:.2}"), number(nats), number(nats.map(f64::exp))]);
    }
    data(&table(&rows))?;
    Ok(())
}

fn tensor_type(text: &str) -> Result<TensorType, String> {
    let written = |t: &&TensorType| t.name().eq_ignore_ascii_case(text);
    let number = |t: &&TensorType| !matches!(t.name(), "I8" | "I16" | "I32" | "I64" | "F64");
    let known =
        || TensorType::ALL.iter().filter(number).map(|t| t.name().to_lowercase()).collect::<Vec<_>>().join(", ");
    TensorType::ALL.iter().filter(number).find(written).copied().ok_or_else(|| format!("known types: {}", known()))
}

/// Whether a name is that of a GGUF file, in letters of any case: some systems do not tell them apart.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

/// Refuses a GGUF file with the name of a part of several.
fn refuse_part(output: &Path) -> Result<()> {
    if is_gguf(output) && is_part(output) {
        let what = format!("{} has the name of a part of several files", output.display());
        return Err(advise(what, "the result is one file: give it a name without -00001-of-00002"));
    }
    Ok(())
}

fn tokenizer_of(source: &WeightSource, path: &Path) -> Result<Tokenizer> {
    Ok(match source.gguf() {
        Some(file) => gguf::tokenizer(file)?,
        None => Tokenizer::load(path)?,
    })
}

/// The chat template as it stands; what is wrong with it is told, and other programs may know better.
fn template_of(path: &Path) -> Result<Option<TemplateText>> {
    let text = folder::template_text(path)?;
    if let Some(Err(error)) = text.clone().map(TemplateText::template) {
        say(&format!("warning: {error}; it is passed on as it is"));
    }
    Ok(text)
}

/// What the files say about embedding, where they do and it is known here.
fn embedding(source: &WeightSource, path: &Path) -> Option<Settings> {
    let said = match source.gguf() {
        Some(file) => Settings::of_gguf(file),
        None => Settings::of_folder(path).map(|(_, settings)| settings),
    };
    said.unwrap_or_else(|error| {
        say(&format!("warning: what the model says about embeddings is left out: {error}"));
        None
    })
}

fn write_gguf(source: &WeightSource, path: &Path, output: &Path, storage: Storage) -> Result<()> {
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} tensors")?);
    bar.set_message("writing");
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    match source.gguf() {
        Some(file) => requantize(file, output, storage, progress)?,
        None => {
            let tokenizer = tokenizer_of(source, path)?;
            let chat = template_of(path)?;
            let mut keys = match gguf::tokenizer_keys(&tokenizer, source.config().vocab, chat.as_ref()) {
                Ok(text) => {
                    if !text.lost.is_empty() {
                        say(&format!(
                            "note: other programs do not read from the file {}; this one finds it in the file's \
                             tokenizer.huggingface.json",
                            text.lost.join(", ")
                        ));
                    }
                    let lost = gguf::ends_without_key(&tokenizer).iter().filter_map(|id| tokenizer.token(*id));
                    let lost: Vec<String> = lost.collect();
                    if !lost.is_empty() {
                        let names = lost.join(", ");
                        say(&format!(
                            "warning: GGUF has three places for ends of a text; the file does not name {names}"
                        ));
                    }
                    text.keys
                }
                // Nobody could write with the file, nor could this program open it.
                Err(error) => {
                    let what = format!("the tokenizer of {} does not go into the file: {error}", path.display());
                    return Err(advise(what, "convert to a Hugging Face folder: give a name without .gguf"));
                }
            };
            let architecture = source.layout().gguf_entry().and_then(|e| e.architectures.first());
            if let (Some(settings), Some(architecture)) = (embedding(source, path), architecture) {
                keys.extend(settings.to_gguf(architecture));
                let lost = settings.lost_in_gguf(source.config().context).join(", ");
                if !lost.is_empty() {
                    say(&format!(
                        "warning: the file does not say {lost}: GGUF has no form for it; a Hugging Face folder keeps it"
                    ));
                }
            }
            source.write_gguf(output, storage, &keys, progress)?;
        }
    }
    bar.finish_and_clear();
    // Of a file that is there: what cannot be written is an error already.
    if source.gguf_is_ours_alone() {
        let entry = source.layout().gguf_entry();
        let architecture = entry.and_then(|e| e.architectures.first()).copied().unwrap_or_default();
        say(&format!("note: only this program reads the file: llama.cpp has no rope_freqs.weight for {architecture}"));
    }
    let ignored = source.gguf_ignored().join(", ");
    if !ignored.is_empty() {
        say(&format!("note: llama.cpp computes this file otherwise: it ignores {ignored}"));
    }
    Ok(())
}

/// Bytes of the files with the weights: of all parts, where a model is split.
fn size_of(source: &WeightSource) -> Result<u64> {
    let mut total = 0;
    for path in source.files() {
        total += std::fs::metadata(path)?.len();
    }
    Ok(total)
}

/// The first `most` tokens of a text, or all where there are fewer; of a long text not much more is encoded.
fn first_tokens(text: &str, most: usize, encode: impl Fn(&str) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
    // What stands before a cut may be other tokens in the whole text: a word, or its end.
    const AT_CUT: usize = 32;
    // Some bytes for each, and more where the text's tokens are longer.
    let mut bytes = most.saturating_add(AT_CUT).saturating_mul(8);
    loop {
        let mut end = text.len().min(bytes);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut ids = encode(&text[..end])?;
        if end == text.len() || ids.len() >= most.saturating_add(AT_CUT) {
            ids.truncate(most);
            return Ok(ids);
        }
        bytes = bytes.saturating_mul(2);
    }
}

/// A text that models are measured on, as tokens.
struct Measured {
    ids: Vec<u32>,
    /// What begins every text, where the vocabulary has it.
    front: Option<u32>,
}

impl Measured {
    /// Reads at most `most` tokens of a file.
    fn read(source: &WeightSource, path: &Path, text: &Path, most: u32) -> Result<Self> {
        if source.config().bidirectional {
            let what =
                format!("{} is an encoder, whose tokens see those after them: it foretells no text", path.display());
            return Err(advise(what, "leave --measure out, and compare the vectors that gently embed gives"));
        }
        let tokenizer = tokenizer_of(source, path)?;
        let text = input::text(text, input::BOOK, "--measure")?;
        let ids = first_tokens(&text, (most as usize).saturating_add(1), |text| Ok(tokenizer.encode_begun(text)?))?;
        if ids.len() < 2 {
            return Err(advise("the text to measure on has fewer than two tokens", "give a longer text"));
        }
        Ok(Self { ids, front: tokenizer.front()?.first().copied() })
    }

    /// Mean of −log p of the tokens to a model, each with at most a window of tokens before it. A model whose numbers mean nothing
    /// is named.
    fn nats(&self, source: &WeightSource) -> Result<f64> {
        const WINDOW: usize = 512;
        let ids = &self.ids;
        let model: Decoder = source.decoder(&Device::Cpu)?;
        let window = WINDOW.min(model.config().context);
        let count = (ids.len() - 1) as f64;
        let mut nats = 0.0;
        for at in (0..ids.len() - 1).step_by(window) {
            let end = (at + window).min(ids.len() - 1);
            let mut inputs = ids[at..end].to_vec();
            // A model whose every text begins with a token of its own knows no window without it.
            if let (Some(first), Some(front)) = (inputs.first_mut(), self.front) {
                *first = front;
            }
            let (inputs, targets) = (model.ids(&inputs, 1)?, model.ids(&ids[at + 1..=end], 1)?);
            let batch = Batch { ids: &inputs, targets: &targets, docs: None };
            let loss = no_grad(|| model.loss(&batch, 1.0, &ForwardCx::default()))?;
            nats += f64::from(loss.item::<f32>()?);
            if !nats.is_finite() {
                let error = anyhow::Error::new(gently_infer::Error::NotNumbers { tokens: end });
                return Err(error.context(source.path().display().to_string()));
            }
        }
        Ok(nats / count)
    }
}

#[cfg(test)]
mod tests {
    use super::first_tokens;

    #[test]
    fn tokens_are_as_many_as_are_asked_for_however_long_they_are() {
        let text = "é".repeat(5000);
        for length in [1, 7, 100] {
            // Tokens of so many characters, each with its number.
            let encode = |text: &str| -> anyhow::Result<Vec<u32>> {
                Ok((0..text.chars().count().div_ceil(length) as u32).collect())
            };
            let all = 5000_usize.div_ceil(length);
            for most in [1, 10, all, 2 * all] {
                let ids = first_tokens(&text, most, encode).unwrap();
                assert!(ids.into_iter().eq(0..most.min(all) as u32), "{most} tokens of {length}");
            }
        }
    }
}

//! `gently embed`: texts as vectors.

use super::failure::advise;
use super::output::{data, say, table};
use super::overwrite;
use anyhow::Result;
use clap::Args as ClapArgs;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use gently::embed::{EmbedOptions, Embedder, Embeddings};
use gently_formats::bounded::{Lines, is_too_long};
use gently_formats::npy;
use gently_infer::Pooling;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Options of `gently embed`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently embed all-MiniLM-L6-v2 \"A man is eating food.\"\n  \
    gently embed all-MiniLM-L6-v2 --similarity \"It is sunny.\" \"Lovely weather!\"\n  \
    gently embed minilm.gguf --file documents.txt --npy vectors.npy")]
pub struct Args {
    /// A GGUF file or a Hugging Face model folder, with or without the files of sentence-transformers
    model: PathBuf,
    /// Texts to embed; before one that begins with a hyphen stands --
    texts: Vec<String>,
    /// Embed the lines of this file, one text each; `-` reads standard input
    #[arg(long, conflicts_with = "texts", required_unless_present = "texts")]
    file: Option<PathBuf>,
    /// Print one JSON object instead of one line of JSON for each text
    #[arg(long, conflicts_with = "npy")]
    json: bool,
    /// Write the vectors to this file as NumPy reads them: one row for each text, f32; a pipe gets them at the end
    #[arg(long)]
    npy: Option<PathBuf>,
    /// Print how alike the texts are: the cosine of each with each
    #[arg(long, conflicts_with = "npy")]
    similarity: bool,
    /// How a text's rows become one vector (default: what the model's files say, else mean)
    #[arg(long, value_parser = pooling)]
    pooling: Option<Pooling>,
    /// Compute threads (default: all)
    #[arg(long, value_parser = super::train::thread_count)]
    threads: Option<usize>,
}

/// What is taken for an option may be a text: says how it is given. (clap would name the first two letters of it. Nor can texts
/// take hyphens by themselves: every option behind one would be a text.)
pub fn advise_on(error: &mut clap::Error) {
    const HINT: &str = "put -- before a text that begins with a hyphen, and options before that: \
        gently embed MODEL [OPTIONS] -- \"- a text\"";
    if error.kind() == ErrorKind::UnknownArgument && error.get(ContextKind::Suggested).is_some() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![HINT.into()]));
    }
}

fn pooling(name: &str) -> Result<Pooling, String> {
    let known = || Pooling::ALL.map(Pooling::name).join(", ");
    Pooling::named(name).ok_or_else(|| format!("known ways: {}", known()))
}

/// Texts that are embedded and written at a time: a bound on memory for files of any length.
const CHUNK: usize = 1024;
/// Most texts of a table of cosines.
const MOST_ALIKE: usize = 1024;

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(threads) = args.threads {
        gently_kernels::pool::set_threads(threads);
    }
    let mut source = match &args.file {
        Some(path) => Source::of_file(path)?,
        None => Source::Given(args.texts.clone().into_iter()),
    };
    if let Some(output) = &args.npy {
        refuse_read(&args, output)?;
    }
    let options = EmbedOptions { pooling: args.pooling, ..EmbedOptions::default() };
    let embedder = Embedder::open_with(&args.model, options)?;
    let mut output = match &args.npy {
        Some(path) => Output::Npy(npy::Writer::create(path, embedder.width())?),
        None if args.similarity || args.json => Output::Kept(Vec::new(), embedder.embed::<&str>(&[])?),
        None => Output::Lines,
    };
    let (mut count, mut tokens, mut cut, mut spent) = (0, 0, 0, Duration::ZERO);
    loop {
        let texts = source.take(CHUNK)?;
        if texts.is_empty() {
            break;
        }
        if args.similarity && count + texts.len() > MOST_ALIKE {
            let what = format!("--similarity compares at most {MOST_ALIKE} texts with each other");
            return Err(advise(what, "write the vectors with --npy and compare those that matter"));
        }
        let begun = Instant::now();
        let rows = embedder.embed(&texts).map_err(|e| name_text(e, &args, count))?;
        spent += begun.elapsed();
        count += rows.len();
        tokens += rows.tokens().iter().sum::<usize>();
        cut += rows.cut().iter().filter(|c| **c).count();
        output.take(texts, rows)?;
    }
    if count == 0 {
        let name = args.file.as_deref().unwrap_or(Path::new("-"));
        return Err(advise(format!("there is nothing to embed: {} has no lines", shown(name)), "give one text a line"));
    }
    match output {
        Output::Lines => {}
        Output::Npy(writer) => {
            writer.finish()?;
        }
        Output::Kept(texts, rows) if args.similarity => similarity(&texts, &rows, args.json)?,
        Output::Kept(texts, rows) => {
            let s = embedder.settings();
            let pooling: Vec<_> = s.pooling.iter().map(|p| p.name()).collect();
            let about = json!({
                "model": embedder.path(), "dimension": embedder.width(), "pooling": pooling,
                "normalized": s.normalize, "max_tokens": embedder.max_tokens(), "tokens": tokens,
                "seconds": spent.as_secs_f64(),
            });
            let about = about.to_string();
            let items: Vec<String> = texts.iter().enumerate().map(|(i, t)| item(t, &rows, i)).collect::<Result<_>>()?;
            // The numbers are written as the f32 they are, which a JSON value would not keep.
            data(&format!("{},\"embeddings\":[{}]}}\n", &about[..about.len() - 1], items.join(",")))?;
        }
    }
    if cut > 0 {
        say(&format!("{cut} of {count} texts were longer than {} tokens and were cut there", embedder.max_tokens()));
    }
    if args.npy.is_some() {
        let rate = count as f64 / spent.as_secs_f64().max(1e-9);
        say(&format!("{count} texts, {tokens} tokens, {} numbers each; {rate:.0} texts/s", embedder.width()));
    }
    Ok(())
}

/// Refuses vectors in the place of what is read.
fn refuse_read(args: &Args, output: &Path) -> Result<()> {
    let mut read = overwrite::files_of_named(&args.model)?;
    // The shell may have opened a file as standard input.
    let stdin = || PathBuf::from("/dev/stdin");
    read.extend(args.file.iter().map(|file| if file == Path::new("-") { stdin() } else { file.clone() }));
    overwrite::refuse(read, output)
}

/// Where the vectors go.
enum Output {
    Lines,
    Npy(npy::Writer),
    Kept(Vec<String>, Embeddings),
}

impl Output {
    fn take(&mut self, texts: Vec<String>, rows: Embeddings) -> Result<()> {
        match self {
            Self::Lines => {
                for (i, text) in texts.iter().enumerate() {
                    data(&format!("{}\n", item(text, &rows, i)?))?;
                }
            }
            Self::Npy(writer) => writer.write(rows.values())?,
            Self::Kept(all, values) => {
                all.extend(texts);
                values.extend(&rows);
            }
        }
        Ok(())
    }
}

/// One text with its vector, as a JSON object.
fn item(text: &str, rows: &Embeddings, i: usize) -> Result<String> {
    let (text, vector) = (json!(text), serde_json::to_string(rows.row(i))?);
    Ok(format!("{{\"text\":{text},\"tokens\":{},\"cut\":{},\"embedding\":{vector}}}", rows.tokens()[i], rows.cut()[i]))
}

/// The cosines of all pairs.
fn similarity(texts: &[String], rows: &Embeddings, as_json: bool) -> Result<()> {
    let n = texts.len();
    let cosines: Vec<Vec<f32>> = (0..n).map(|a| (0..n).map(|b| rows.cosine(a, b)).collect()).collect();
    if as_json {
        let cosines = serde_json::to_string(&cosines)?;
        data(&format!("{{\"texts\":{},\"similarity\":{cosines}}}\n", json!(texts)))?;
        return Ok(());
    }
    let mut lines = vec![std::iter::once(String::new()).chain((1..=n).map(|i| i.to_string())).collect::<Vec<_>>()];
    for (i, (text, cosines)) in texts.iter().zip(&cosines).enumerate() {
        let name = format!("{}  {}", i + 1, beginning(text));
        lines.push(std::iter::once(name).chain(cosines.iter().map(|c| format!("{c:.4}"))).collect());
    }
    data(&table(&lines))?;
    Ok(())
}

/// The beginning of a text, on one line.
fn beginning(text: &str) -> String {
    const SHOWN: usize = 40;
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN + 1).collect();
    match plain.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &plain[..at]),
        None => plain,
    }
}

/// A text's number as the person counts: lines of a file, texts of the command.
fn name_text(error: gently::embed::Error, args: &Args, before: usize) -> anyhow::Error {
    use gently::embed::Error::{Empty, NotFinite, Text};
    let (Text { index, .. } | Empty { index } | NotFinite { index }) = error else { return error.into() };
    let n = before + index + 1;
    let place = match &args.file {
        Some(path) => format!("{}, line {n}", shown(path)),
        None => format!("text {n} of the command"),
    };
    anyhow::Error::new(error).context(place)
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

fn unreadable(name: &str, error: &std::io::Error) -> anyhow::Error {
    advise(format!("cannot read {name}: {error}"), "give a text file that exists, or - for standard input")
}

/// Longest line.
const LONGEST: u64 = 16 << 20;

/// Where texts come from.
enum Source {
    Given(std::vec::IntoIter<String>),
    Lines { name: String, lines: Lines<Box<dyn BufRead>> },
}

impl Source {
    fn of_file(path: &Path) -> Result<Self> {
        let reader: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            let failed = |e: std::io::Error| unreadable(&path.display().to_string(), &e);
            Box::new(BufReader::new(std::fs::File::open(path).map_err(failed)?))
        };
        Ok(Self::Lines { name: shown(path), lines: Lines::new(reader, LONGEST) })
    }

    /// The next texts, `most` of them or those that are left.
    fn take(&mut self, most: usize) -> Result<Vec<String>> {
        let (name, lines) = match self {
            Self::Given(texts) => return Ok(texts.take(most).collect()),
            Self::Lines { name, lines } => (name, lines),
        };
        let mut texts = Vec::new();
        // Also by length, so that long lines are not all held at once.
        let mut held = 0;
        while texts.len() < most && (held as u64) < LONGEST {
            let mut bytes = Vec::new();
            let read = lines.next_into(&mut bytes);
            let number = lines.number();
            let place = || format!("{name}, line {number}");
            match read {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) if is_too_long(&e) => {
                    let what = format!("{}: it is longer than {} MiB", place(), LONGEST >> 20);
                    return Err(advise(what, "give one text a line"));
                }
                Err(e) => return Err(unreadable(name, &e)),
            }
            for end in [b'\n', b'\r'] {
                bytes.pop_if(|b| *b == end);
            }
            held += bytes.len();
            texts.push(String::from_utf8(bytes).map_err(|e| {
                let at = e.utf8_error().valid_up_to();
                advise(format!("{}: it is not UTF-8 (byte {at})", place()), "convert it with iconv first")
            })?);
        }
        Ok(texts)
    }
}

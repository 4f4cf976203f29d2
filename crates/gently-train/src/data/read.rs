//! Reading of texts in bounded memory: plain text, JSON lines, Parquet, folders of them, standard input, lists in memory.
//!
//! A reader hands out [`Chunk`]s of about a megabyte, in order, that together are the documents.

use super::{Dataset, Error, Progress, Report, Result, SourceInfo, sets};
use gently_formats::bounded::{Lines, is_too_long};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes read at once, and so about the size of a chunk.
const CHUNK: usize = 1 << 20;
/// The longest line of a .jsonl file.
const MAX_LINE: u64 = 64 << 20;
/// What standard input is called.
const STDIN: &str = "standard input";
/// Said while there is nothing to count yet, so that the work can be called off.
pub(crate) const LOOKING: Progress = Progress { stage: "scanning", done: 0, total: 0, tokens: 0 };

/// Where text comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Input {
    /// A file, by its ending `.jsonl`, `.parquet` or else plain text, the first and last also with `.gz` behind; or a
    /// folder, of which all files with these endings, `.txt` and `.md` are read, in the order of their names.
    Path(PathBuf),
    /// Standard input in a format.
    Stdin(Format),
    /// A public set by name (see [`super::sets`]), fetched if need be; its own validation files, if it has any, are the
    /// validation split.
    Set(String),
    /// Documents in memory.
    Documents {
        /// What to call them in messages.
        name: String,
        /// One text each.
        documents: Arc<Vec<String>>,
    },
}

impl Input {
    /// What a person names: `-` is standard input as plain text, a path that exists (or has a folder or a known ending in
    /// it) is one, and everything else the name of a public set.
    pub fn named(name: &str) -> Self {
        let path = Path::new(name);
        if name == "-" {
            Self::Stdin(Format::Text)
        } else if path.exists() || Format::of(path).is_some() || path.components().count() != 1 {
            Self::Path(path.into())
        } else {
            Self::Set(name.into())
        }
    }

    /// Whether its text can be read now as it was when something was prepared of it, as far as can be told without reading it:
    /// not that of standard input, pipes, and files and sets that are not there.
    pub(crate) fn lasts(&self) -> bool {
        match self {
            Self::Path(path) => std::fs::metadata(path).is_ok_and(|meta| matches!(once(&meta), Once::File)),
            Self::Stdin(_) => false,
            Self::Set(name) => sets::find(name).is_ok(),
            Self::Documents { .. } => true,
        }
    }

    /// Whether there is something to read, be it only once.
    pub(crate) fn is_there(&self) -> bool {
        match self {
            Self::Path(path) => path.exists(),
            Self::Set(name) => sets::find(name).is_ok(),
            Self::Stdin(_) | Self::Documents { .. } => true,
        }
    }

    /// Whether it is standard input and somebody seems to have sent a text into it, as far as can be told without reading: it is
    /// a pipe or a file, and no terminal or other device.
    pub(crate) fn is_sent(&self) -> bool {
        matches!(self, Self::Stdin(_)) && stdin_is_sent()
    }

    /// Whether a source is this one, or a file in it.
    pub(crate) fn holds(&self, source: &SourceInfo) -> bool {
        match self {
            Self::Path(path) => Path::new(&source.name).starts_with(path),
            // No set has a source of its name: a file or folder without an ending is gone that was called so.
            Self::Set(name) => Path::new(&source.name).starts_with(name),
            Self::Stdin(_) => source.name == STDIN,
            Self::Documents { name, .. } => source.name == *name,
        }
    }

    /// The beginning of its text, at most `most` characters; nothing is fetched for it. `None` where there is no text, where it
    /// cannot be read, and for standard input and pipes, which would be without it from then on.
    pub fn beginning(&self, most: usize) -> Option<String> {
        if matches!(self, Self::Set(_)) || !self.lasts() {
            return None;
        }
        let (sources, _) = resolve(std::slice::from_ref(self), None, &mut |_| Ok(())).ok()?;
        let mut text = String::new();
        let mut left = most;
        for source in sources {
            let read = source.read(&Layout::default(), &mut |chunk| {
                for c in chunk.text.chars().take(left) {
                    text.push(c);
                    left -= 1;
                }
                if left == 0 { Err(Error::Stopped) } else { Ok(()) }
            });
            match read {
                Ok(()) => {}
                Err(Error::Stopped) => break,
                Err(_) => return None,
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// What to call it in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Stdin(_) => STDIN.into(),
            Self::Set(name) | Self::Documents { name, .. } => name.clone(),
        }
    }

    /// One text in memory.
    pub fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Documents { name: name.into(), documents: Arc::new(vec![text.into()]) }
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

/// A format of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Plain text: one document, or several with a separator between them.
    Text,
    /// A JSON object on each line: a document in a field, or a prompt and its completion in two.
    JsonLines,
    /// Apache Parquet: a document in each row.
    Parquet,
}

impl Format {
    /// By a file's ending.
    pub fn of(path: &Path) -> Option<Self> {
        if is_gzip(path) {
            return Self::of(Path::new(path.file_stem()?)).filter(|&f| f != Self::Parquet);
        }
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" | "md" => Some(Self::Text),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Whether a file's name says that it is packed.
pub(super) fn is_gzip(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"))
}

/// How documents lie in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The field of a JSON line or Parquet row with the text.
    pub field: String,
    /// The field with a prompt, whose tokens do not count in the loss, where the text field is missing.
    pub prompt: String,
    /// The field with what follows the prompt.
    pub completion: String,
    /// What stands between the documents of a plain text, such as `<|endoftext|>`; without it a file is one document.
    pub separator: Option<String>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { field: "text".into(), prompt: "prompt".into(), completion: "completion".into(), separator: None }
    }
}

/// Part of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub text: &'a str,
    /// Whether its tokens count in the loss.
    pub counts: bool,
    /// Whether the document ends after it.
    pub last: bool,
}

/// One file or list to be read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub name: String,
    body: Body,
    /// What stands between its documents, where that is known better than by the layout.
    separator: Option<String>,
}

#[derive(Debug, Clone)]
enum Body {
    File(PathBuf, Format),
    Memory(Arc<Vec<String>>),
}

/// The files and lists that inputs stand for, and those of sets that are for validation. Standard input and pipes are copied
/// to files beside `spool` first, because they are read twice; without one they are refused. `report` hears of each piece that is
/// copied or fetched.
pub(crate) fn resolve(
    inputs: &[Input],
    spool: Option<&Path>,
    report: &mut Report<'_>,
) -> Result<(Vec<Source>, Vec<Source>)> {
    let (mut sources, mut val) = (Vec::new(), Vec::new());
    for input in inputs {
        match input {
            Input::Documents { name, documents } => {
                let body = Body::Memory(documents.clone());
                sources.push(Source { name: name.clone(), body, separator: None });
            }
            Input::Set(name) => {
                let separator = sets::find(name)?.separator.map(str::to_owned);
                let files = sets::get(name, &sets::cache(), &mut |now| {
                    report(Progress { stage: now.stage, done: now.done, total: now.total.max(now.done), tokens: 0 })
                })?;
                for (list, inputs) in [(&mut sources, files.inputs), (&mut val, files.val_inputs)] {
                    let (found, _) = resolve(&inputs, spool, report)?;
                    list.extend(found.into_iter().map(|s| Source { separator: separator.clone(), ..s }));
                }
            }
            Input::Stdin(format) => {
                let copy = keep(&mut || Ok(io::stdin().lock()), STDIN, spool, sources.len(), report)?;
                let source = file_source(copy, *format);
                sources.push(Source { name: STDIN.into(), ..source });
            }
            Input::Path(path) => {
                let meta = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
                let before = sources.len();
                if meta.is_dir() {
                    folder(path, report, &mut sources)?;
                    if sources.len() == before {
                        let path = path.clone();
                        return Err(match Dataset::is_at(&path) {
                            true => Error::NotTexts { path },
                            false => Error::NoFiles { path },
                        });
                    }
                } else {
                    let name = path.display().to_string();
                    let file = match once(&meta) {
                        Once::File => path.clone(),
                        Once::Pipe => {
                            // Opening waits for somebody who writes, so only where it will be read.
                            let mut pipe = || File::open(path);
                            keep(&mut pipe, &name, spool, sources.len(), report)?
                        }
                        Once::Device => {
                            let reason = "is a device, neither a file nor a folder nor a pipe";
                            return Err(Error::Unreadable { source_name: name, reason });
                        }
                    };
                    let source = file_source(file, Format::of(path).unwrap_or(Format::Text));
                    sources.push(Source { name, ..source });
                }
            }
        }
    }
    Ok((sources, val))
}

/// What reading something once leaves for a second time.
enum Once {
    /// The same.
    File,
    /// Nothing.
    Pipe,
    /// Who knows; some have no end.
    Device,
}

fn once(meta: &std::fs::Metadata) -> Once {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = meta.file_type();
        if kind.is_fifo() {
            return Once::Pipe;
        }
        if kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
            return Once::Device;
        }
    }
    let _ = meta;
    Once::File
}

/// Whether standard input is a pipe, or a file with something in it.
#[cfg(unix)]
fn stdin_is_sent() -> bool {
    use std::os::fd::AsFd;
    let meta = io::stdin().as_fd().try_clone_to_owned().and_then(|own| File::from(own).metadata());
    meta.is_ok_and(|meta| match once(&meta) {
        Once::File => meta.len() > 0,
        Once::Pipe => true,
        Once::Device => false,
    })
}

/// As above, where only a terminal can be told from other things.
#[cfg(not(unix))]
fn stdin_is_sent() -> bool {
    !io::IsTerminal::is_terminal(&io::stdin())
}

/// Copies what can be read once to a file beside `spool`.
fn keep<R: io::Read>(
    open: &mut dyn FnMut() -> io::Result<R>,
    name: &str,
    spool: Option<&Path>,
    number: usize,
    report: &mut Report<'_>,
) -> Result<PathBuf> {
    let Some(spool) = spool else {
        let reason = "cannot be read twice, which a mixture's common tokenizer needs";
        return Err(Error::Unreadable { source_name: name.into(), reason });
    };
    let path = spool.with_extension(number.to_string());
    let mut from = open().map_err(Error::io(Path::new(name), "read"))?;
    let mut file = File::create(&path).map_err(Error::io(&path, "write"))?;
    let mut piece = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = match from.read(&mut piece) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io(Path::new(name), "read")(e)),
        };
        io::Write::write_all(&mut file, &piece[..n]).map_err(Error::io(&path, "write"))?;
        done += n as u64;
        report(Progress { stage: "copying", done, total: done, tokens: 0 })?;
        if n == 0 {
            return Ok(path);
        }
    }
}

fn file_source(path: PathBuf, format: Format) -> Source {
    Source { name: path.display().to_string(), body: Body::File(path, format), separator: None }
}

/// All readable files of a folder, sorted by name at each level, hidden ones and what is neither a file nor a folder left out.
/// Links are followed, but each folder is walked once and each file taken once, under the first name that leads to it: so links
/// back to a folder that they stand in have an end. `report` is asked at each entry.
fn folder(path: &Path, report: &mut Report<'_>, out: &mut Vec<Source>) -> Result<()> {
    let mut seen = HashSet::new();
    // Its path without links; what cannot be followed is told when it is read.
    let mut is_new = |entry: &Path| seen.insert(entry.canonicalize().unwrap_or_else(|_| entry.into()));
    // The next entry last. A list and not calls in each other: how deep folders lie is not ours to say.
    let mut ahead = vec![path.to_path_buf()];
    while let Some(entry) = ahead.pop() {
        report(LOOKING)?;
        let meta = std::fs::metadata(&entry);
        if meta.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
            if is_new(&entry) {
                ahead.append(&mut inside(&entry, report)?);
            }
        } else if let Some(format) = Format::of(&entry)
            && meta.map_or(true, |meta| matches!(once(&meta), Once::File))
            && is_new(&entry)
        {
            out.push(file_source(entry, format));
        }
    }
    Ok(())
}

/// The entries of a folder that are not hidden, the first in the order of names last.
fn inside(folder: &Path, report: &mut Report<'_>) -> Result<Vec<PathBuf>> {
    let refused = |e| Error::io(folder, "read")(e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refused)? {
        report(LOOKING)?;
        let entry = entry.map_err(refused)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            entries.push(entry.path());
        }
    }
    entries.sort_unstable_by(|a, b| b.cmp(a));
    Ok(entries)
}

/// Called with each chunk.
pub(crate) type Sink<'a> = dyn FnMut(Chunk<'_>) -> Result<()> + 'a;

impl Source {
    /// Bytes, where they are known.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::File(path, _) => std::fs::metadata(path).map_or(0, |m| m.len()),
            Body::Memory(documents) => documents.iter().map(|d| d.len() as u64).sum(),
        }
    }

    /// How the bytes are read, where that is not as one plain text laid out as the settings say: the same bytes may be
    /// read in several ways. Empty otherwise.
    pub fn manner(&self) -> String {
        let Body::File(path, format) = &self.body else {
            return String::new();
        };
        // Part of what a dataset is known by: names that stay, whatever those of the program become.
        let mut manner = String::from(match format {
            Format::Text => "",
            Format::JsonLines => " JsonLines",
            Format::Parquet => " Parquet",
        });
        if is_gzip(path) {
            manner += " gzip";
        }
        if let Some(separator) = self.separator.as_ref().filter(|_| *format == Format::Text) {
            manner += &format!(" separated by {}", serde_json::Value::from(separator.as_str()));
        }
        manner
    }

    /// The SHA-256 of the file, or of a list's texts each behind its length. `heard` as in [`file_sha256`].
    pub fn sha256(&self, heard: &mut dyn FnMut(u64) -> Result<()>) -> Result<String> {
        match &self.body {
            Body::File(path, _) => file_sha256(path, heard),
            Body::Memory(documents) => {
                let mut hasher = Sha256::new();
                for document in documents.iter() {
                    hasher.update((document.len() as u64).to_le_bytes());
                    hasher.update(document);
                }
                Ok(hex(&hasher.finalize()))
            }
        }
    }

    /// Gives all documents to `sink`, in order. Each ends with a chunk that is marked so, perhaps an empty one.
    pub fn read(&self, layout: &Layout, sink: &mut Sink<'_>) -> Result<()> {
        match &self.body {
            Body::Memory(documents) => {
                for document in documents.iter() {
                    sink(Chunk { text: document, counts: true, last: true })?;
                }
                Ok(())
            }
            Body::File(path, format) => {
                let file = || -> Result<Box<dyn Read>> {
                    let file = File::open(path).map_err(Error::io(path, "read"))?;
                    Ok(if is_gzip(path) { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) })
                };
                match format {
                    Format::Text => {
                        let separator = self.separator.as_deref().or(layout.separator.as_deref());
                        self.text(file()?, path, separator, sink)
                    }
                    Format::JsonLines => self.json_lines(file()?, path, layout, sink),
                    Format::Parquet => super::parquet::read(path, &self.name, layout, sink),
                }
            }
        }
    }

    fn text(&self, file: Box<dyn Read>, path: &Path, separator: Option<&str>, sink: &mut Sink<'_>) -> Result<()> {
        let separator = separator.filter(|s| !s.is_empty());
        let mut text = Utf8Reader { file, bytes: Vec::new(), offset: 0, ended: false };
        let mut pending = String::new();
        let mut open = false;
        // The end of the line that a separator stands in belongs to no document. It may come with the next reading only.
        let mut line_ends = false;
        while text.fill(path, &self.name, &mut pending)? {
            // What has been given is drained once: for each of many documents it would move all that is behind them.
            let mut given = 0;
            if let Some(separator) = separator {
                loop {
                    if line_ends {
                        let Some(end) = line_end(&pending[given..], text.ended) else { break };
                        given += end;
                        line_ends = false;
                    }
                    let Some(at) = pending[given..].find(separator).map(|at| given + at) else { break };
                    sink(Chunk { text: &pending[given..at], counts: true, last: true })?;
                    given = at + separator.len();
                    (open, line_ends) = (false, true);
                }
            }
            // A separator may have begun in what is at hand, and a chunk ends well at the end of a line.
            let keep = separator.map_or(0, |s| s.len() - 1);
            let until = floor(&pending, pending.len().saturating_sub(keep)).max(given);
            let until = pending[given..until].rfind('\n').map_or(until, |n| given + n + 1);
            if until > given && !text.ended && !line_ends {
                sink(Chunk { text: &pending[given..until], counts: true, last: false })?;
                given = until;
                open = true;
            }
            pending.drain(..given);
        }
        if open || !pending.is_empty() {
            sink(Chunk { text: &pending, counts: true, last: true })?;
        }
        Ok(())
    }

    fn json_lines(&self, file: Box<dyn Read>, path: &Path, layout: &Layout, sink: &mut Sink<'_>) -> Result<()> {
        let mut lines = Lines::new(BufReader::with_capacity(CHUNK, file), MAX_LINE);
        let (mut line, mut offset) = (Vec::new(), 0u64);
        loop {
            let read = lines.next_into(&mut line);
            let number = lines.number();
            let bad = |reason: String| Error::Line { source_name: self.name.clone(), line: number, reason };
            match read {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(e) if is_too_long(&e) => return Err(bad(format!("the line is over {MAX_LINE} bytes"))),
                Err(e) => return Err(Error::io(path, "read")(e)),
            }
            let text = std::str::from_utf8(&line).map_err(|e| not_utf8(&self.name, offset, &line, e.valid_up_to()))?;
            offset += line.len() as u64;
            let text = text.trim_start_matches('\u{feff}').trim();
            if text.is_empty() {
                continue;
            }
            let object: serde_json::Value =
                serde_json::from_str(text).map_err(|e| bad(format!("column {}: {}", e.column(), without_place(&e))))?;
            let Some(object) = object.as_object() else {
                return Err(bad("it is not a JSON object".into()));
            };
            let field = |name: &str| object.get(name).and_then(serde_json::Value::as_str);
            if let Some(text) = field(&layout.field) {
                sink(Chunk { text, counts: true, last: true })?;
            } else if let (Some(prompt), Some(completion)) = (field(&layout.prompt), field(&layout.completion)) {
                sink(Chunk { text: prompt, counts: false, last: false })?;
                sink(Chunk { text: completion, counts: true, last: true })?;
            } else {
                let names: Vec<_> = object.keys().take(12).map(String::as_str).collect();
                return Err(bad(format!(
                    "no text in a field {:?}, nor in {:?} and {:?}; its fields are {}",
                    layout.field,
                    layout.prompt,
                    layout.completion,
                    names.join(", ")
                )));
            }
        }
    }
}

/// What is wrong with a line of JSON, without the place that is told already: the parser knows of that line alone.
fn without_place(error: &serde_json::Error) -> String {
    let (text, place) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    text.strip_suffix(place.as_str()).unwrap_or(&text).to_owned()
}

/// A file's text, in pieces that are whole characters.
struct Utf8Reader {
    file: Box<dyn Read>,
    /// Bytes of a character whose rest has not been read.
    bytes: Vec<u8>,
    /// Where in the file `bytes` begins.
    offset: u64,
    ended: bool,
}

impl Utf8Reader {
    /// Appends the next text to `out`; false when there is no more.
    fn fill(&mut self, path: &Path, name: &str, out: &mut String) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let read = (&mut self.file).take(CHUNK as u64).read_to_end(&mut self.bytes).map_err(Error::io(path, "read"))?;
        self.ended = read == 0;
        let valid = match std::str::from_utf8(&self.bytes) {
            Ok(_) => self.bytes.len(),
            Err(e) if e.error_len().is_none() && !self.ended => e.valid_up_to(),
            Err(e) => return Err(not_utf8(name, self.offset, &self.bytes, e.valid_up_to())),
        };
        let text = String::from_utf8_lossy(&self.bytes[..valid]);
        // A byte-order mark is no part of the text.
        out.push_str(if self.offset == 0 { text.trim_start_matches('\u{feff}') } else { &text });
        drop(text);
        self.bytes.drain(..valid);
        self.offset += valid as u64;
        Ok(true)
    }
}

/// Bytes of the end of a line that a text begins with, 0 if it begins with none; `None` where what comes next decides.
fn line_end(text: &str, is_all: bool) -> Option<usize> {
    match text.as_bytes() {
        [] | [b'\r'] if !is_all => None,
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => Some(0),
    }
}

fn not_utf8(name: &str, base: u64, bytes: &[u8], at: usize) -> Error {
    let byte = bytes.get(at).copied().unwrap_or(0);
    Error::NotUtf8 { source_name: name.into(), offset: base + at as u64, byte }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The SHA-256 of a file, as hex. `heard` is told how many bytes were read, about a megabyte at a time, and may end it.
pub(crate) fn file_sha256(path: &Path, heard: &mut dyn FnMut(u64) -> Result<()>) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path, "read"))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        heard(n as u64)?;
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

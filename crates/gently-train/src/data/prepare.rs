//! Texts to a prepared dataset: a folder of token shards, a tokenizer and `dataset.json`.
//!
//! The folder appears whole: everything is written beside it first, and `dataset.json` comes last. Preparing the same sources in
//! the same way again finds that out by their hashes and does nothing.

use super::dataset::{Dataset, DatasetInfo, SplitInfo, TokenizerInfo};
use super::encode::{self, Encoded, Side};
use super::read::{Input, LOOKING, Layout, Source, resolve};
use super::scan::Scan;
use super::shards::SplitWriter;
use super::{Corpus, Error, Result, SourceInfo};
use crate::folder::Lock;
use gently_formats::shard::ShardInfo;
use gently_formats::unfinished::Unfinished;
use gently_text::{BpeOptions, END_OF_TEXT, Tokenizer, train_bpe};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// The tokenizer to use.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TokenizerSpec {
    /// A token for each character of the sources.
    Characters,
    /// A token for each byte.
    Bytes,
    /// Byte-level BPE of this many entries, trained on the sources.
    Bpe(usize),
    /// A `tokenizer.json`, or a folder with one or with GPT-2's two files.
    File(PathBuf),
    /// One that is at hand.
    Ready(Tokenizer),
}

/// From so many documents on, whole ones are kept for validation.
const MANY: usize = 64;
/// Time between two looks whether the work is called off, where it waits for another thread.
const LOOK: Duration = Duration::from_millis(100);

/// How the validation split is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SplitRule {
    /// Fewer than 64 documents, such as a single text: [`SplitRule::Tail`]. Others, and all with prompts that do not count from
    /// two on: [`SplitRule::Documents`].
    #[default]
    Auto,
    /// The last characters of each document, as nanoGPT splits Shakespeare. Of prompts with completions that takes the
    /// completions first; it is an error where none is left.
    Tail,
    /// Whole documents, drawn by a hash of seed and text.
    Documents,
}

/// What may take the place of a dataset of other texts or settings that the folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Replace {
    /// Any dataset.
    #[default]
    Any,
    /// One with the same tokens to learn from: the run that learns from them goes on.
    SameTokens,
    /// None.
    Nothing,
}

/// What to prepare and how.
#[derive(Debug, Clone)]
pub struct Prepare {
    /// The texts.
    pub inputs: Vec<Input>,
    /// Texts for validation, instead of a part of `inputs`.
    pub val_inputs: Vec<Input>,
    /// The tokenizer.
    pub tokenizer: TokenizerSpec,
    /// The part for validation, 0 to below 1; 0 for none.
    pub val_fraction: f64,
    /// Which part that is.
    pub split: SplitRule,
    /// Draws the documents for validation.
    pub seed: u64,
    /// How documents lie in the files.
    pub layout: Layout,
    /// Whether an end-of-text token follows each document. `None`: where the tokenizer has one and there is more than one
    /// document. `Some(true)` gives byte and character tokenizers one.
    pub end_of_text: Option<bool>,
    /// Tokens in a shard, at most.
    pub shard_tokens: u64,
    /// Threads that encode; 0 for all processors.
    pub threads: usize,
    /// What may take the place of a dataset in the folder that was prepared of other texts or in another way.
    pub replace: Replace,
}

/// How far the preparation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: "fetching", "waiting for another download" and "verifying" (a public set), "copying" (a pipe),
    /// "scanning", "training the tokenizer", "encoding".
    pub stage: &'static str,
    /// Bytes of text, or of a file, done in this stage.
    pub done: u64,
    /// Bytes of the sources (of compressed sources: fewer than the text's), or those expected of the file.
    pub total: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// Hears how far the preparation is, and may end it with an error.
pub type Report<'a> = dyn FnMut(Progress) -> Result<()> + 'a;

impl Prepare {
    /// Characters, a tenth for validation.
    pub fn new(inputs: impl IntoIterator<Item = Input>) -> Self {
        Self {
            inputs: inputs.into_iter().collect(),
            val_inputs: Vec::new(),
            tokenizer: TokenizerSpec::Characters,
            val_fraction: 0.1,
            split: SplitRule::Auto,
            seed: 1337,
            layout: Layout::default(),
            end_of_text: None,
            shard_tokens: 100_000_000,
            threads: 0,
            replace: Replace::Any,
        }
    }

    /// Prepares into the folder `dir`, or finds it prepared in this way already. `progress` is called about once for each
    /// megabyte, and ten times a second while something else is waited for; where it answers with an error, such as
    /// [`Error::Stopped`], that ends the work, and nothing of it stays but what was fetched.
    ///
    /// # Errors
    /// Those of reading ([`Error::NotUtf8`], [`Error::Empty`] …), of the tokenizer, of writing, and of `progress`;
    /// [`Error::OnlyPrompts`] when no token to learn from counts; [`Error::Occupied`] and [`Error::State`] when the folder holds
    /// a dataset, or tokens, that may not be replaced.
    pub fn run(&self, dir: impl AsRef<Path>, progress: &mut Report<'_>) -> Result<Dataset> {
        let dir = dir.as_ref();
        self.check()?;
        let is_new = !dir.exists();
        std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
        let prepared = self.run_in(dir, progress);
        if is_new && prepared.is_err() {
            // The error is the one to tell; a folder with something in it stays.
            let _ = std::fs::remove_dir(dir);
        }
        prepared
    }

    fn run_in(&self, dir: &Path, progress: &mut Report<'_>) -> Result<Dataset> {
        let work = Workspace::new(dir)?;
        let (sources, set_val) = resolve(&self.inputs, Some(&work.path.join("input")), progress)?;
        let (mut val_sources, more) = resolve(&self.val_inputs, Some(&work.path.join("val-input")), progress)?;
        val_sources.extend(more);
        if val_sources.is_empty() && self.val_fraction > 0.0 {
            // A set's own validation files.
            val_sources = set_val;
        }
        let total: u64 = sources.iter().chain(&val_sources).map(Source::size).sum();
        let mut done = 0;
        let mut scanned = |n: u64| {
            done += n;
            progress(Progress { stage: "scanning", done, total, tokens: 0 })
        };
        let drawn = if val_sources.is_empty() { self.val_fraction } else { 0.0 };
        let keep = if self.split == SplitRule::Tail { usize::MAX } else { MANY };
        // Texts for validation first: mostly the shorter ones, so what is wrong with them is told soon.
        let val_scan = match val_sources.as_slice() {
            [] => None,
            s => Some(Scan::run(s, &self.layout, 0.0, self.seed, 0, &mut scanned)?),
        };
        let mut scan = Scan::run(&sources, &self.layout, drawn, self.seed, keep, &mut scanned)?;
        scan.settle(drawn);
        let key =
            self.key((sources.as_slice(), &scan), val_scan.as_ref().map(|scan| (val_sources.as_slice(), scan)))?;
        if let Some(ready) = Dataset::open_if(dir, &key) {
            return Ok(ready);
        }
        if self.replace == Replace::Nothing
            && let Some(made_from) = Dataset::other_at(dir, &key)
        {
            return Err(Error::Occupied { path: dir.into(), made_from });
        }
        let tokenizer = self.make_tokenizer(&sources, &scan, val_scan.as_ref(), total, progress)?;
        let documents = scan.documents + val_scan.as_ref().map_or(0, |s| s.documents);
        let end = match self.end_of_text {
            Some(false) => None,
            Some(true) => Some(tokenizer.end_of_text().ok_or_else(|| Error::Option {
                option: "end_of_text",
                reason: "the tokenizer has no token that ends a text".into(),
            })?),
            None => tokenizer.end_of_text().filter(|_| documents > 1),
        };
        // nanoGPT: `int(n * 0.9)`.
        let cuts: Vec<u64> = scan.lengths.iter().map(|&n| (n as f64 * (1.0 - drawn)) as u64).collect();
        // A prompt's completion lies in its tail: from two documents on, whole ones are kept.
        let few = if scan.masked { 2 } else { MANY as u64 };
        let side = match self.split {
            _ if drawn <= 0.0 => Side::Train,
            SplitRule::Tail => Side::Tails(&cuts),
            SplitRule::Auto if scan.documents < few => Side::Tails(&cuts),
            SplitRule::Documents if scan.documents < 2 => {
                let reason = "there is one document only; split its characters (auto or tail)".into();
                return Err(Error::Option { option: "split", reason });
            }
            SplitRule::Auto | SplitRule::Documents => Side::Drawn,
        };
        let info = ShardInfo {
            vocab: tokenizer.vocab_size() as u64,
            tokenizer: tokenizer.hash(),
            masked: scan.masked || val_scan.as_ref().is_some_and(|s| s.masked),
        };
        let mut train = SplitWriter::new(&work.path, "train", info, self.shard_tokens);
        let mut val = SplitWriter::new(&work.path, "val", info, self.shard_tokens);
        let (mut done, mut tokens) = (0u64, 0u64);
        let mut learned = false;
        let mut write = |piece: Encoded| {
            let split = if piece.val { &mut val } else { &mut train };
            split.push(&piece.tokens, piece.counts)?;
            learned |= !piece.val && piece.counts && !piece.tokens.is_empty();
            if piece.last {
                if let Some(end) = end.filter(|_| piece.whole) {
                    split.push(&[end], true)?;
                    learned |= !piece.val;
                }
                split.end_document();
            }
            done += piece.bytes as u64;
            tokens += piece.tokens.len() as u64;
            progress(Progress { stage: "encoding", done, total, tokens })
        };
        let threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        encode::run(&sources, &self.layout, &tokenizer, side, &scan, threads, &mut write)?;
        if let Some(val_scan) = &val_scan {
            encode::run(&val_sources, &self.layout, &tokenizer, Side::Val, val_scan, threads, &mut write)?;
        }
        let (train, val): (SplitInfo, SplitInfo) = (train.finish()?, val.finish()?);
        // Texts without any token are the loader's to refuse, which knows how many are wanted.
        if train.tokens > 0 && !learned {
            let names: Vec<_> = sources.iter().map(|s| s.name.as_str()).take(3).collect();
            return Err(Error::OnlyPrompts { source_name: names.join(", ") });
        }
        if self.replace == Replace::SameTokens {
            expect_same(dir, &work.path, &train, &scan.sources)?;
        }
        tokenizer.save(&work.path)?;
        let info = DatasetInfo {
            version: DatasetInfo::VERSION,
            key,
            tokenizer: TokenizerInfo::of(&tokenizer, end),
            train,
            val,
            characters: scan.characters + val_scan.as_ref().map_or(0, |s| s.characters),
            sources: scan.sources,
            val_sources: val_scan.map_or_else(Vec::new, |s| s.sources),
        };
        work.publish(&info)?;
        Dataset::open(dir)
    }

    /// The tokenizer that [`Prepare::run`] would use, made without encoding anything: for several datasets that are to share
    /// one, such as the parts of a mixture.
    ///
    /// # Errors
    /// As [`Prepare::run`]. Standard input and pipes cannot be read twice and are refused.
    pub fn tokenizer(&self, progress: &mut Report<'_>) -> Result<Tokenizer> {
        let all: Vec<Input> = self.inputs.iter().chain(&self.val_inputs).cloned().collect();
        let (mut sources, val) = resolve(&all, None, progress)?;
        sources.extend(val);
        let total = sources.iter().map(Source::size).sum();
        let mut done = 0;
        let mut scanned = |n: u64| {
            done += n;
            progress(Progress { stage: "scanning", done, total, tokens: 0 })
        };
        let scan = Scan::run(&sources, &self.layout, 0.0, self.seed, 0, &mut scanned)?;
        self.make_tokenizer(&sources, &scan, None, total, progress)
    }

    /// The dataset in `dir` where something it was made of cannot be read again, such as standard input or a file that was moved,
    /// and whether it holds the texts for validation too and not others. `None` where all texts can be read again, or where one
    /// that can be read once was not among them. `named` are the texts that the run names which goes on.
    ///
    /// # Errors
    /// [`Error::Gone`] for one of those that is not there and of which the dataset was not made; those of reading, also for any
    /// other that is not there.
    pub(crate) fn kept(
        &self,
        dir: &Path,
        named: &[String],
        progress: &mut Report<'_>,
    ) -> Result<Option<(Dataset, bool)>> {
        let gone: Vec<&Input> = self.inputs.iter().chain(&self.val_inputs).filter(|input| !input.lasts()).collect();
        if gone.is_empty() {
            return Ok(None);
        }
        // What cannot be opened is of no use to anybody.
        let dataset = Dataset::open(dir).ok();
        let known = |input: &Input| {
            let info = dataset.iter().map(Dataset::info);
            info.flat_map(|info| info.sources.iter().chain(&info.val_sources)).any(|source| input.holds(source))
        };
        let unknown: Vec<&Input> = gone.into_iter().filter(|input| !known(input)).collect();
        if let Some(&input) = unknown.iter().find(|input| !input.is_there()) {
            if !named.contains(&input.name()) {
                // It never was one of the run's: what is wrong with it is told as of any text.
                resolve(std::slice::from_ref(input), None, progress)?;
                return Ok(None);
            }
            // One to learn from: the dataset can be named in its place.
            let learned = self.inputs.iter().any(|own| std::ptr::eq(own, input));
            let dataset = (learned && dataset.is_some()).then(|| dir.to_path_buf());
            return Err(Error::Gone { source_name: input.name(), dataset });
        }
        match dataset {
            Some(dataset) if unknown.is_empty() => {
                let validates = self.validates(&dataset, progress)?;
                Ok(Some((dataset, validates)))
            }
            _ => Ok(None),
        }
    }

    /// Whether the texts for validation, if there are any, are those of the dataset.
    fn validates(&self, dataset: &Dataset, progress: &mut Report<'_>) -> Result<bool> {
        if !self.val_inputs.iter().all(Input::lasts) {
            return Ok(true);
        }
        let (mut sources, more) = resolve(&self.val_inputs, None, progress)?;
        sources.extend(more);
        let known = &dataset.info().val_sources;
        if !sources.is_empty() && sources.len() != known.len() {
            return Ok(false);
        }
        for (source, known) in sources.iter().zip(known) {
            let mut look = |_| progress(LOOKING);
            if source.sha256(&mut look)? != known.sha256 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check(&self) -> Result<()> {
        let refuse = |option, reason: &str| Err(Error::Option { option, reason: reason.into() });
        if !(0.0..1.0).contains(&self.val_fraction) {
            return refuse("val_fraction", "it must be at least 0 and below 1");
        }
        if self.shard_tokens == 0 {
            return refuse("shard_tokens", "it must be at least 1");
        }
        if self.inputs.is_empty() {
            return refuse("input", "give at least one file, folder or set");
        }
        Ok(())
    }

    fn make_tokenizer(
        &self,
        sources: &[Source],
        scan: &Scan,
        val_scan: Option<&Scan>,
        total: u64,
        progress: &mut Report<'_>,
    ) -> Result<Tokenizer> {
        let made = match &self.tokenizer {
            TokenizerSpec::Characters => {
                let val = val_scan.into_iter().flat_map(|s| s.alphabet.chars());
                Tokenizer::characters(scan.alphabet.chars().chain(val))
            }
            TokenizerSpec::Bytes => Tokenizer::bytes(),
            TokenizerSpec::File(path) => Tokenizer::load(path)?,
            TokenizerSpec::Ready(tokenizer) => tokenizer.clone(),
            TokenizerSpec::Bpe(size) => train_on(sources, &self.layout, *size, &mut |done| {
                progress(Progress { stage: "training the tokenizer", done, total, tokens: 0 })
            })?,
        };
        Ok(if self.end_of_text == Some(true) { made.with_end_of_text(END_OF_TEXT) } else { made })
    }

    /// Names everything that the shards depend on: a hash of [`Prepare::spelled`].
    fn key(&self, train: (&[Source], &Scan), val: Option<(&[Source], &Scan)>) -> Result<String> {
        let spelled = self.spelled(train, val)?;
        Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(spelled.as_bytes())))
    }

    /// Everything that the shards depend on, as text. Every dataset is prepared anew where it changes.
    fn spelled(&self, train: (&[Source], &Scan), val: Option<(&[Source], &Scan)>) -> Result<String> {
        // Counted up with every change of what the same settings give.
        const VERSION: u32 = 2;
        let tokenizer = match &self.tokenizer {
            TokenizerSpec::Characters => "characters".to_owned(),
            TokenizerSpec::Bytes => "bytes".into(),
            TokenizerSpec::Bpe(size) => format!("bpe {size}"),
            TokenizerSpec::File(path) => format!("{:016x}", Tokenizer::load(path)?.hash()),
            TokenizerSpec::Ready(tokenizer) => format!("{:016x}", tokenizer.hash()),
        };
        // The bytes of each source and how they are read.
        let hashes = |(sources, scan): (&[Source], &Scan)| {
            let pairs = scan.sources.iter().zip(sources);
            pairs.map(|(info, source)| info.sha256.clone() + &source.manner()).collect::<Vec<_>>()
        };
        let split = match self.split {
            SplitRule::Auto => "auto",
            SplitRule::Tail => "tail",
            SplitRule::Documents => "documents",
        };
        let Layout { field, prompt, completion, separator } = &self.layout;
        let all = json!([
            VERSION,
            tokenizer,
            self.val_fraction,
            split,
            self.seed,
            [field, prompt, completion],
            separator,
            self.end_of_text,
            self.shard_tokens,
            hashes(train),
            val.map(hashes),
        ]);
        Ok(all.to_string())
    }
}

/// Compares the tokens to learn from that `made` holds, of `sources`, with those of the dataset in `dir`, if there is one.
fn expect_same(dir: &Path, made: &Path, train: &SplitInfo, sources: &[SourceInfo]) -> Result<()> {
    // What cannot be opened is of no use to anybody.
    let Ok(dataset) = Dataset::open(dir) else { return Ok(()) };
    let Ok(old) = dataset.train() else { return Ok(()) };
    let new = Corpus::open("train", train.shards.iter().map(|name| made.join(name)))?;
    let identity = |corpus: &Corpus| (corpus.tokens(), corpus.tokenizer(), corpus.content());
    if identity(&old) == identity(&new) {
        return Ok(());
    }
    let same = |(old, new): (&SourceInfo, &SourceInfo)| old.sha256 == new.sha256;
    let known = &dataset.info().sources;
    // The same bytes in the same tokens: what differs is how much of them is kept for validation.
    if old.tokenizer() == new.tokenizer() && known.len() == sources.len() && known.iter().zip(sources).all(same) {
        return Err(Error::OtherPart);
    }
    Err(Error::State { reason: "the texts are not those that the run was begun with".into() })
}

/// Trains a BPE on the sources' text, which is read beside it; `read` hears of the bytes so far, also while merges are looked for.
/// Its error does not wait for them: they cannot be called off, so their thread is left to end by itself.
fn train_on(
    sources: &[Source],
    layout: &Layout,
    size: usize,
    read: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Tokenizer> {
    let (texts, queue) = sync_channel::<String>(8);
    let (answer, trained) = sync_channel(1);
    let trainer = std::thread::spawn(move || {
        // Nobody waits any more where the work was called off.
        let _ = answer.send(train_bpe(queue.into_iter(), &BpeOptions::new(size)));
    });
    let mut done = 0;
    for source in sources {
        source.read(layout, &mut |chunk| {
            done += chunk.text.len() as u64;
            read(done)?;
            // A trainer that has stopped has its own error to tell.
            let _ = texts.send(chunk.text.to_owned());
            Ok(())
        })?;
    }
    drop(texts);
    loop {
        match trained.recv_timeout(LOOK) {
            Ok(tokenizer) => return Ok(tokenizer?),
            Err(RecvTimeoutError::Timeout) => read(done)?,
            Err(RecvTimeoutError::Disconnected) => match trainer.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => unreachable!("it answers before it ends"),
            },
        }
    }
}

/// A folder in the target folder, where everything is made; removed with what is left in it, also by a signal.
struct Workspace {
    path: PathBuf,
    target: PathBuf,
    _lock: Option<Lock>,
    _unfinished: Unfinished,
}

impl Workspace {
    fn new(target: &Path) -> Result<Self> {
        sweep(target);
        let process = std::process::id();
        let mut n = 0u64;
        loop {
            // Processes in containers may have one number, and threads of a process do: a folder belongs to who made it.
            let path = target.join(format!("{PREPARING}{process}-{n}"));
            n += 1;
            match std::fs::create_dir(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io(target, "write into")(e)),
            }
            let lock = match Lock::take(&path) {
                Ok(lock) => Some(lock),
                // Somebody sweeps, and has seen the folder before it was locked.
                Err(crate::Error::FolderInUse { .. }) => continue,
                // Where a file system has no locks there is no sweeping either.
                Err(_) => None,
            };
            // So here, where the sweeping was quicker.
            if path.is_dir() {
                let half = path.clone();
                let unfinished = Unfinished::new(move || drop(std::fs::remove_dir_all(half)));
                return Ok(Self { path, target: target.into(), _lock: lock, _unfinished: unfinished });
            }
        }
    }

    /// Moves the shards and the tokenizer to their places and says so in `dataset.json`. In between there is none, so a
    /// crash leaves a folder that is not prepared, never one that is half new.
    fn publish(&self, info: &DatasetInfo) -> Result<()> {
        let io = |e| Error::io(&self.target, "write into")(e);
        // Two that end at the same moment would mix. Where a folder cannot be locked there is no such order.
        let _one_by_one = File::open(&self.target).and_then(|folder| folder.lock().map(|()| folder));
        let json = self.target.join(DatasetInfo::FILE);
        match std::fs::remove_file(&json) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
        for entry in std::fs::read_dir(&self.target).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension().is_some_and(|e| e == "tok") {
                std::fs::remove_file(path).map_err(io)?;
            }
        }
        let keep = |name: &str| name.ends_with(".tok") || name.starts_with("tokenizer");
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            let entry = entry.map_err(io)?;
            if keep(&entry.file_name().to_string_lossy()) {
                std::fs::rename(entry.path(), self.target.join(entry.file_name())).map_err(io)?;
            }
        }
        let text = serde_json::to_string_pretty(info)
            .map_err(|e| Error::NotDataset { path: json.clone(), reason: e.to_string() })?;
        gently_formats::atomic::write(&json, (text + "\n").as_bytes())?;
        Ok(())
    }
}

/// The beginning of a workspace's name; the number of its process follows, and which of that process's it is.
const PREPARING: &str = ".preparing-";

/// Removes the workspaces of processes that were killed: those that nobody holds, on this machine or another.
fn sweep(target: &Path) {
    for entry in std::fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(PREPARING) {
            continue;
        }
        if let Ok(_held) = Lock::take(&entry.path()) {
            // Under another name first, which no workspace has: who has just made this one must not find it half removed.
            let (from, to) = (entry.path(), target.join(format!("{name}.old")));
            let left = if std::fs::rename(&from, &to).is_ok() { to } else { from };
            // It costs space only.
            let _ = std::fs::remove_dir_all(left);
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nothing in it is of use any more; a leftover costs space only.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that changes by itself has every dataset prepared anew.
    #[test]
    fn what_a_key_is_made_of_is_pinned() {
        let prepare = Prepare::new([Input::text("a text", "abc")]);
        let (sources, _) = resolve(&prepare.inputs, None, &mut |_| Ok(())).unwrap();
        let scan = Scan::run(&sources, &prepare.layout, 0.1, 1337, MANY, &mut |_| Ok(())).unwrap();
        let text = "ce91dc5eec0139adf091900d225971d6ad246a845bad791b5693a9d0d55dd391";
        let expected = format!(
            r#"[2,"characters",0.1,"auto",1337,["text","prompt","completion"],null,null,100000000,["{text}"],null]"#
        );
        assert_eq!(prepare.spelled((sources.as_slice(), &scan), None).unwrap(), expected);
        let other = Prepare {
            split: SplitRule::Documents,
            layout: Layout { separator: Some("<|end|>".into()), ..Layout::default() },
            end_of_text: Some(true),
            ..prepare
        };
        let expected = format!(
            r#"[2,"characters",0.1,"documents",1337,["text","prompt","completion"],"<|end|>",true,100000000,["{text}"],["{text}"]]"#
        );
        let both = || (sources.as_slice(), &scan);
        assert_eq!(other.spelled(both(), Some(both())).unwrap(), expected);
    }
}

//! The second pass: documents to tokens, in parallel, in bounded memory.
//!
//! One thread reads and cuts, the workers encode, the calling thread writes in order. Both queues are short, so that what is in
//! flight is a few megabytes whatever the size of the sources.

use super::read::{Layout, Source};
use super::scan::Scan;
use super::{Error, Result};
use gently_text::{Tokenizer, safe_cut};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a piece of a long document, and of a job.
const PIECE: usize = 256 << 10;
/// Pieces of short documents in a job.
const PIECES: usize = 4096;
/// The longest text held in the hope of a place to cut it.
const MAX_UNCUT: usize = 64 << 20;

/// Which documents are kept for validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side<'a> {
    /// All train.
    Train,
    /// All validate.
    Val,
    /// Those the scan drew.
    Drawn,
    /// Of each document what comes after so many characters.
    Tails(&'a [u64]),
}

/// Part of a document, to be encoded on its own.
#[derive(Debug)]
struct Piece {
    text: String,
    counts: bool,
    last: bool,
    whole: bool,
    val: bool,
    /// Characters and bytes of the source before it, for messages.
    at: (usize, usize),
}

/// Part of a document, encoded.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub tokens: Vec<u32>,
    pub counts: bool,
    /// Whether the document ends after it.
    pub last: bool,
    /// If so, whether that is the document's own end; otherwise its tail went to validation.
    pub whole: bool,
    pub val: bool,
    /// Bytes of text it was.
    pub bytes: usize,
}

type Answer = Result<Vec<Encoded>>;

#[derive(Debug)]
struct Job {
    source: String,
    pieces: Vec<Piece>,
    answer: SyncSender<Answer>,
}

/// Encodes all documents and gives them to `sink` in order.
pub(crate) fn run(
    sources: &[Source],
    layout: &Layout,
    tokenizer: &Tokenizer,
    side: Side<'_>,
    scan: &Scan,
    threads: usize,
    sink: &mut dyn FnMut(Encoded) -> Result<()>,
) -> Result<()> {
    let threads = threads.max(1);
    let (jobs, todo) = sync_channel::<Job>(threads);
    let (order, answers) = sync_channel::<Receiver<Answer>>(2 * threads);
    let todo = Mutex::new(todo);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || Cutter::new(tokenizer, side, scan, jobs, order).run(sources, layout));
        for _ in 0..threads {
            scope.spawn(|| work(tokenizer, &todo));
        }
        let mut written = Ok(());
        for answer in &answers {
            // A worker that died (it would have panicked) sends nothing.
            let encoded = answer.recv().unwrap_or(Ok(Vec::new()));
            written = encoded.and_then(|pieces| pieces.into_iter().try_for_each(&mut *sink));
            if written.is_err() {
                break;
            }
        }
        // Closing the queue stops the reader soon after its next job, and with it the workers.
        drop(answers);
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(read)
    })
}

fn work(tokenizer: &Tokenizer, todo: &Mutex<Receiver<Job>>) {
    loop {
        let job = match todo.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(job) = job else { return };
        let encode = |piece: Piece| -> Result<Encoded> {
            let tokens = tokenizer.encode(&piece.text).map_err(|e| place(e, &job.source, piece.at))?;
            let Piece { text, counts, last, whole, val, .. } = piece;
            Ok(Encoded { tokens, counts, last, whole, val, bytes: text.len() })
        };
        // When the writer has stopped nobody listens any more.
        let _ = job.answer.send(job.pieces.into_iter().map(encode).collect());
    }
}

/// Names the source, and makes a position in a piece one in the source.
fn place(mut e: gently_text::Error, source: &str, at: (usize, usize)) -> Error {
    if let gently_text::Error::UnknownCharacter { position, byte, .. } = &mut e {
        *position += at.0;
        *byte += at.1;
    }
    Error::Text { place: Some(source.into()), source: e }
}

/// Cuts documents into pieces and pieces into jobs.
struct Cutter<'a> {
    tokenizer: &'a Tokenizer,
    side: Side<'a>,
    scan: &'a Scan,
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<Answer>>,
    source: String,
    /// The current document's text that is not yet in a piece.
    pending: String,
    counts: bool,
    /// Up to where cuts of `pending` have been tried.
    tried: usize,
    /// Whether the current document has had text.
    open: bool,
    /// Documents begun before the current one.
    document: u64,
    /// Characters of the current document put into pieces.
    characters: u64,
    /// Characters and bytes put into pieces, of this source.
    at: (usize, usize),
    val: bool,
    pieces: Vec<Piece>,
    bytes: usize,
    stopped: bool,
}

impl<'a> Cutter<'a> {
    fn new(
        tokenizer: &'a Tokenizer,
        side: Side<'a>,
        scan: &'a Scan,
        jobs: SyncSender<Job>,
        order: SyncSender<Receiver<Answer>>,
    ) -> Self {
        Self {
            tokenizer,
            side,
            scan,
            jobs,
            order,
            source: String::new(),
            pending: String::new(),
            counts: true,
            tried: 0,
            open: false,
            document: 0,
            characters: 0,
            at: (0, 0),
            val: false,
            pieces: Vec::new(),
            bytes: 0,
            stopped: false,
        }
    }

    fn run(mut self, sources: &[Source], layout: &Layout) -> Result<()> {
        for source in sources {
            self.source.clone_from(&source.name);
            self.at = (0, 0);
            source.read(layout, &mut |chunk| self.take(chunk.text, chunk.counts, chunk.last))?;
            self.flush();
            if self.stopped {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, text: &str, counts: bool, last: bool) -> Result<()> {
        // Nobody listens any more, so nothing more needs to be read; whoever stopped has an error of its own to tell.
        if self.stopped {
            return Err(Error::Stopped);
        }
        if !text.is_empty() {
            if !self.open {
                self.open = true;
                self.characters = 0;
                self.val = match self.side {
                    Side::Train => false,
                    Side::Val => true,
                    Side::Drawn => self.scan.is_drawn(self.document),
                    Side::Tails(cuts) => cuts.get(self.document as usize) == Some(&0),
                };
            }
            if counts != self.counts && !self.pending.is_empty() {
                self.emit(self.pending.len(), false, true);
            }
            self.counts = counts;
            self.pending.push_str(text);
            self.cut_tail();
            self.cut()?;
        }
        if last && self.open {
            self.emit(self.pending.len(), true, true);
            self.open = false;
            self.document += 1;
        }
        Ok(())
    }

    /// Where a document's tail goes to validation, two documents are made of it.
    fn cut_tail(&mut self) {
        let Side::Tails(cuts) = self.side else { return };
        let Some(&from) = cuts.get(self.document as usize) else { return };
        if self.val || from < self.characters {
            return;
        }
        let ahead = usize::try_from(from - self.characters).unwrap_or(usize::MAX);
        if let Some((at, _)) = self.pending.char_indices().nth(ahead) {
            self.emit(at, true, false);
            self.val = true;
        }
    }

    /// Makes pieces of a long document.
    fn cut(&mut self) -> Result<()> {
        while self.pending.len() >= 2 * PIECE {
            let from = self.tried.max(PIECE);
            match safe_cut(self.tokenizer, &self.pending, from)? {
                Some(at) => self.emit(at, false, true),
                None if self.pending.len() > MAX_UNCUT => {
                    return Err(Error::Uncut { source_name: self.source.clone(), bytes: self.pending.len() });
                }
                None => {
                    // Some way back, because the surroundings of the last candidates were not all there.
                    self.tried = self.pending.len() - PIECE / 2;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Moves the first `at` bytes of what is pending into a piece.
    fn emit(&mut self, at: usize, last: bool, whole: bool) {
        let rest = self.pending.split_off(at);
        let text = std::mem::replace(&mut self.pending, rest);
        self.tried = 0;
        let characters = text.chars().count();
        self.bytes += text.len();
        let start = self.at;
        self.characters += characters as u64;
        self.at.0 += characters;
        self.at.1 += text.len();
        self.pieces.push(Piece { text, counts: self.counts, last, whole, val: self.val, at: start });
        if self.bytes >= PIECE || self.pieces.len() >= PIECES {
            self.flush();
        }
    }

    /// Sends the pieces off as a job.
    fn flush(&mut self) {
        if self.pieces.is_empty() || self.stopped {
            return;
        }
        self.bytes = 0;
        let (answer, receiver) = sync_channel(1);
        let job = Job { source: self.source.clone(), pieces: std::mem::take(&mut self.pieces), answer };
        // A closed queue means that the writer has stopped with an error of its own.
        let sent = match self.order.send(receiver) {
            Ok(()) => self.jobs.send(job).map_or(ControlFlow::Break(()), |()| ControlFlow::Continue(())),
            Err(_) => ControlFlow::Break(()),
        };
        self.stopped = sent.is_break();
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::{Input, resolve};
    use super::*;

    #[test]
    fn a_reader_that_nobody_listens_to_reads_no_further() {
        let documents = std::sync::Arc::new(vec!["a".repeat(PIECE); 3]);
        let input = Input::Documents { name: "texts".into(), documents };
        let (sources, _) = resolve(&[input], None, &mut |_| Ok(())).unwrap();
        let layout = Layout::default();
        let scan = Scan::run(&sources, &layout, 0.0, 0, 0, &mut |_| Ok(())).unwrap();
        let tokenizer = Tokenizer::bytes();
        let (jobs, _todo) = sync_channel(1);
        let (order, answers) = sync_channel(1);
        drop(answers);
        let read = Cutter::new(&tokenizer, Side::Train, &scan, jobs, order).run(&sources, &layout);
        assert!(matches!(read, Err(Error::Stopped)));
    }

    #[test]
    fn the_writers_error_is_the_one_that_is_told() {
        let documents = std::sync::Arc::new(vec!["a".repeat(PIECE); 12]);
        let input = Input::Documents { name: "texts".into(), documents };
        let (sources, _) = resolve(&[input], None, &mut |_| Ok(())).unwrap();
        let layout = Layout::default();
        let scan = Scan::run(&sources, &layout, 0.0, 0, 0, &mut |_| Ok(())).unwrap();
        fn full(_: Encoded) -> Result<()> {
            Err(Error::Option { option: "disk", reason: "it is full".into() })
        }
        let error = run(&sources, &layout, &Tokenizer::bytes(), Side::Train, &scan, 2, &mut full).unwrap_err();
        assert!(matches!(error, Error::Option { option: "disk", .. }), "{error}");
    }
}

//! The order in which one corpus gives its rows: windows of the stream, random windows, or packed documents.
//!
//! All three are functions of (seed, epoch, position), so a place is three numbers and seeking costs nothing.

use super::pack::{self, Piece};
use super::permute::{Permutation, draw, draw_below};
use super::{Batch, Corpus, Error, LoaderOptions, Mode, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Documents packed together. More fill the rows better; fewer cost less when a run seeks.
const GROUP: u64 = 2048;

/// A place in one corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Times the corpus has been gone through.
    pub epoch: u64,
    /// With packed documents: the group of documents.
    pub group: u64,
    /// The next row in the epoch, or in the group.
    pub position: u64,
}

/// One corpus being gone through.
#[derive(Debug)]
pub(crate) struct Order {
    pub corpus: Arc<Corpus>,
    pub cursor: Cursor,
    /// Rows given since the beginning.
    pub taken: u64,
    /// What makes this corpus's draws differ from another's.
    salt: u64,
    plan: Plan,
    scratch: Vec<u32>,
}

#[derive(Debug)]
enum Plan {
    Windows(Windows),
    Random { ends: Vec<u64> },
    Packed(Packed),
}

/// The windows of one epoch.
#[derive(Debug)]
struct Windows {
    epoch: u64,
    /// Where the first window of each part starts.
    offsets: Vec<u64>,
    /// Windows in the parts up to each, and so in all.
    ends: Vec<u64>,
    /// `None`: in order.
    shuffle: Option<Permutation>,
}

/// The rows of one group of documents.
#[derive(Debug)]
struct Packed {
    /// Epoch and group of `rows`, once made.
    at: Option<(u64, u64)>,
    /// Documents in the parts up to each.
    ends: Vec<u64>,
    /// The group's documents: part and tokens.
    documents: Vec<(usize, Range<u64>)>,
    rows: Vec<Vec<Piece>>,
    shuffle: Permutation,
}

impl Order {
    pub fn new(corpus: Arc<Corpus>, salt: u64, o: &LoaderOptions) -> Result<Self> {
        let block = o.block as u64;
        let too_short = || Error::TooShort { split: corpus.name().into(), tokens: corpus.tokens(), block: o.block };
        let parts = 0..corpus.parts();
        let plan = match o.mode {
            Mode::Stream | Mode::Sequential => {
                let windows = Windows::new(&corpus, 0, salt, o);
                if windows.total() == 0 {
                    return Err(too_short());
                }
                Plan::Windows(windows)
            }
            Mode::Replacement => {
                let ends = running(parts.map(|p| corpus.part_len(p).saturating_sub(block)));
                if ends.last().copied().unwrap_or(0) == 0 {
                    return Err(too_short());
                }
                Plan::Random { ends }
            }
            Mode::Documents => {
                let ends = running(parts.map(|p| corpus.part_documents(p)));
                if corpus.tokens() < 2 {
                    return Err(too_short());
                }
                let (documents, rows) = (Vec::new(), Vec::new());
                Plan::Packed(Packed { at: None, ends, documents, rows, shuffle: Permutation::new(1, 0, &[]) })
            }
        };
        Ok(Self { corpus, cursor: Cursor::default(), taken: 0, salt, plan, scratch: Vec::new() })
    }

    /// Rows of an epoch, where they can be known beforehand.
    pub fn rows_per_epoch(&self) -> Option<u64> {
        match &self.plan {
            Plan::Windows(w) => Some(w.total()),
            Plan::Random { .. } | Plan::Packed(_) => None,
        }
    }

    /// Appends the next row to the batch and moves on.
    pub fn next_row(&mut self, o: &LoaderOptions, batch: &mut Batch) -> Result<()> {
        let block = o.block as u64;
        match &mut self.plan {
            Plan::Windows(windows) => {
                if windows.epoch != self.cursor.epoch {
                    *windows = Windows::new(&self.corpus, self.cursor.epoch, self.salt, o);
                }
                let (part, start) = windows.get(self.cursor.position, block);
                batch.push_window(&self.corpus, part, start..start + block, &mut self.scratch)?;
                self.cursor.position += 1;
                if self.cursor.position >= windows.total() {
                    self.cursor = Cursor { epoch: self.cursor.epoch + 1, ..Cursor::default() };
                }
            }
            Plan::Random { ends } => {
                let total = ends.last().copied().unwrap_or(0);
                let pick = draw_below(total, o.seed, &[self.salt, self.cursor.position]);
                let part = ends.partition_point(|&end| end <= pick);
                let start = pick - if part == 0 { 0 } else { ends[part - 1] };
                batch.push_window(&self.corpus, part, start..start + block, &mut self.scratch)?;
                self.cursor.position += 1;
            }
            Plan::Packed(packed) => {
                packed.make(&self.corpus, self.cursor, self.salt, o);
                let row = packed.shuffle.get(self.cursor.position) as usize;
                packed.push_row(&self.corpus, row, &mut self.scratch, batch)?;
                self.cursor.position += 1;
                if self.cursor.position >= packed.rows.len() as u64 {
                    let group = self.cursor.group + 1;
                    self.cursor = if group * GROUP < self.corpus.documents() {
                        Cursor { epoch: self.cursor.epoch, group, position: 0 }
                    } else {
                        Cursor { epoch: self.cursor.epoch + 1, ..Cursor::default() }
                    };
                }
            }
        }
        self.taken += 1;
        Ok(())
    }

    /// Whether a saved place can be this corpus's.
    pub fn holds(&mut self, cursor: Cursor, o: &LoaderOptions) -> bool {
        match &mut self.plan {
            Plan::Windows(_) => {
                let windows = Windows::new(&self.corpus, cursor.epoch, self.salt, o);
                cursor.group == 0 && cursor.position < windows.total()
            }
            Plan::Random { .. } => cursor.group == 0,
            Plan::Packed(packed) => {
                cursor.group < self.corpus.documents().div_ceil(GROUP) && {
                    packed.make(&self.corpus, cursor, self.salt, o);
                    cursor.position < packed.rows.len() as u64
                }
            }
        }
    }
}

impl Windows {
    /// The windows of an epoch. Each part's start at an offset drawn below the block, so that epochs cut
    /// the text at different places; a part of less than two windows keeps its one.
    fn new(corpus: &Corpus, epoch: u64, salt: u64, o: &LoaderOptions) -> Self {
        let block = o.block as u64;
        let mut offsets = Vec::with_capacity(corpus.parts());
        for part in 0..corpus.parts() {
            let targets = corpus.part_len(part).saturating_sub(1);
            let slack = if o.mode == Mode::Sequential {
                1
            } else if targets >= 2 * block {
                block
            } else {
                targets % block + 1
            };
            offsets.push(draw_below(slack, o.seed, &[salt, epoch, part as u64]));
        }
        let count = |part: usize| (corpus.part_len(part).saturating_sub(1).saturating_sub(offsets[part])) / block;
        let ends = running((0..corpus.parts()).map(count));
        let total = ends.last().copied().unwrap_or(0);
        let shuffle = (o.mode != Mode::Sequential).then(|| Permutation::new(total, o.seed, &[salt, epoch, u64::MAX]));
        Self { epoch, offsets, ends, shuffle }
    }

    fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Part and first token of the window at `position` in the shuffled order.
    fn get(&self, position: u64, block: u64) -> (usize, u64) {
        let window = self.shuffle.as_ref().map_or(position, |s| s.get(position));
        let part = self.ends.partition_point(|&end| end <= window);
        let inside = window - if part == 0 { 0 } else { self.ends[part - 1] };
        (part, self.offsets[part] + inside * block)
    }
}

impl Packed {
    /// Packs the cursor's group, unless that is the one at hand.
    fn make(&mut self, corpus: &Corpus, cursor: Cursor, salt: u64, o: &LoaderOptions) {
        if self.at == Some((cursor.epoch, cursor.group)) {
            return;
        }
        let total = corpus.documents();
        let order = Permutation::new(total, o.seed, &[salt, cursor.epoch, u64::MAX]);
        let group = cursor.group * GROUP..((cursor.group + 1) * GROUP).min(total);
        self.documents.clear();
        self.documents.extend(group.map(|i| {
            let document = order.get(i);
            let part = self.ends.partition_point(|&end| end <= document);
            let inside = document - if part == 0 { 0 } else { self.ends[part - 1] };
            (part, corpus.document(part, inside))
        }));
        self.rows = pack::best_fit(self.documents.iter().map(|(_, d)| d.end - d.start), o.block as u64);
        let rows = self.rows.len() as u64;
        self.shuffle = Permutation::new(rows, o.seed, &[salt, cursor.epoch, cursor.group, draw(salt, &[1])]);
        self.at = Some((cursor.epoch, cursor.group));
    }

    fn push_row(&self, corpus: &Corpus, row: usize, scratch: &mut Vec<u32>, batch: &mut Batch) -> Result<()> {
        let start = batch.ids.len();
        let pieces = &self.rows[row];
        for (n, piece) in pieces.iter().enumerate() {
            let (part, document) = &self.documents[piece.document];
            let range = document.start + piece.tokens.start..document.start + piece.tokens.end;
            batch.push_piece(corpus, *part, range, document.end, n as u32, scratch)?;
        }
        batch.pad_row(start, pieces.len() as u32);
        Ok(())
    }
}

/// Running sums.
fn running(counts: impl Iterator<Item = u64>) -> Vec<u64> {
    counts
        .scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        })
        .collect()
}

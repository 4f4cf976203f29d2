//! What a training or evaluation step eats.

use super::{Corpus, Result};
use std::ops::Range;

/// The target of a position that does not count in the loss.
pub const IGNORE: u32 = u32::MAX;

/// B rows of T tokens and their targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Tokens, `[B, T]` row after row. Padding is 0.
    pub ids: Vec<u32>,
    /// The token after each, `[B, T]`, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Which document each token is of, `[B, T]`, counted from 0 in each row, where attention must stay inside
    /// documents. Padding is a document of its own.
    pub docs: Option<Vec<u32>>,
    /// B.
    pub batch: usize,
    /// T.
    pub block: usize,
}

impl Batch {
    pub(crate) fn with_capacity(batch: usize, block: usize, docs: bool) -> Self {
        let room = || Vec::with_capacity(batch * block);
        Self { ids: room(), targets: room(), docs: docs.then(room), batch, block }
    }

    /// Positions that count in the loss.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORE).count()
    }

    /// The batch in pieces of at most `rows` rows, as even as they can be, in order.
    ///
    /// # Panics
    /// Where `ids`, `targets` or `docs` have fewer than B·T numbers.
    ///
    /// ```
    /// # use gently_train::data::Batch;
    /// let batch = Batch { ids: vec![1, 2, 3, 4, 5, 6], targets: vec![2, 3, 4, 5, 6, 7], docs: None, batch: 3, block: 2 };
    /// let pieces = batch.split(2);
    /// assert_eq!(pieces[0].ids, [1, 2]);
    /// assert_eq!((pieces[1].batch, &pieces[1].targets[..]), (2, &[4, 5, 6, 7][..]));
    /// ```
    pub fn split(self, rows: usize) -> Vec<Batch> {
        let pieces = self.batch.div_ceil(rows.max(1));
        if pieces <= 1 {
            return vec![self];
        }
        let bounds: Vec<usize> = (0..=pieces).map(|i| i * self.batch / pieces).collect();
        let cut = |of: &[u32], at: &[usize]| of[at[0] * self.block..at[1] * self.block].to_vec();
        let piece = |at: &[usize]| Batch {
            ids: cut(&self.ids, at),
            targets: cut(&self.targets, at),
            docs: self.docs.as_ref().map(|docs| cut(docs, at)),
            batch: at[1] - at[0],
            block: self.block,
        };
        bounds.windows(2).map(piece).collect()
    }

    /// Appends a row of the tokens of `range` of one part, each with its successor as target, padded to the block.
    /// Needs the token after the range for the last target, unless the part ends there. Where documents matter,
    /// no target crosses from one to the next.
    pub(crate) fn push_window(
        &mut self,
        corpus: &Corpus,
        part: usize,
        range: Range<u64>,
        scratch: &mut Vec<u32>,
    ) -> Result<()> {
        let len = (range.end - range.start) as usize;
        scratch.clear();
        corpus.read(part, range.start..(range.end + 1).min(corpus.part_len(part)), scratch)?;
        let start = self.targets.len();
        self.ids.extend_from_slice(&scratch[..len]);
        self.targets.extend_from_slice(&scratch[1..]);
        self.targets.resize(start + len, IGNORE);
        self.apply_mask(corpus, part, range.start, start);
        let mut last = 0;
        if let Some(docs) = &mut self.docs {
            let mut at = range.start;
            let mut document = corpus.document_of(part, at);
            while at < range.end {
                let end = corpus.document(part, document).end;
                let stop = end.min(range.end);
                docs.resize(docs.len() + (stop - at) as usize, last);
                if end <= range.end {
                    // The successor of a document's last token is another document's.
                    self.targets[start + (end - 1 - range.start) as usize] = IGNORE;
                }
                at = stop;
                document += 1;
                last += 1;
            }
        }
        self.pad_row(start, last);
        Ok(())
    }

    /// Appends a piece of one document, which ends at token `end` of the part, as document `number` of the row. The last
    /// token's target is the document's next, or none at its end.
    pub(crate) fn push_piece(
        &mut self,
        corpus: &Corpus,
        part: usize,
        range: Range<u64>,
        end: u64,
        number: u32,
        scratch: &mut Vec<u32>,
    ) -> Result<()> {
        let len = (range.end - range.start) as usize;
        scratch.clear();
        corpus.read(part, range.start..(range.end + 1).min(end), scratch)?;
        let start = self.targets.len();
        self.ids.extend_from_slice(&scratch[..len]);
        self.targets.extend_from_slice(&scratch[1..]);
        self.targets.resize(start + len, IGNORE);
        self.apply_mask(corpus, part, range.start, start);
        if let Some(docs) = &mut self.docs {
            docs.resize(docs.len() + len, number);
        }
        Ok(())
    }

    /// Drops the targets from `start` on, the first of which follows token `token`, that the loss mask leaves out.
    fn apply_mask(&mut self, corpus: &Corpus, part: usize, token: u64, start: usize) {
        if corpus.part_is_masked(part) {
            for (i, target) in self.targets[start..].iter_mut().enumerate() {
                if *target != IGNORE && !corpus.counts(part, token + i as u64 + 1) {
                    *target = IGNORE;
                }
            }
        }
    }

    /// Fills the row that started at `start` up to the block.
    pub(crate) fn pad_row(&mut self, start: usize, document: u32) {
        self.ids.resize(start + self.block, 0);
        self.targets.resize(start + self.block, IGNORE);
        if let Some(docs) = &mut self.docs {
            docs.resize(start + self.block, document);
        }
    }
}

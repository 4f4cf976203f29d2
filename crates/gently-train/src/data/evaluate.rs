//! Batches for evaluation: the same ones in the same order each time.

use super::permute::draw;
use super::{Batch, Corpus, Error, Result};
use std::sync::Arc;

/// Windows of a split, in order: all of it, or a number of windows spread evenly over it.
///
/// ```
/// use gently_train::data::{Corpus, EvalSet};
/// use std::sync::Arc;
///
/// let corpus = Arc::new(Corpus::from_documents("val", [(0..100).collect()], 100, 0)?);
/// let all = EvalSet::new(corpus, 4, 16, None, false)?;
/// let targets: usize = (0..all.len()).map(|i| all.batch(i).unwrap().counted()).sum();
/// assert_eq!(targets, 99);
/// # Ok::<(), gently_train::data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct EvalSet {
    corpus: Arc<Corpus>,
    batch: usize,
    block: usize,
    doc_mask: bool,
    /// Windows in the parts up to each.
    ends: Vec<u64>,
    /// Windows chosen.
    chosen: u64,
    /// By how many windows those chosen lie behind the even places.
    shift: u64,
}

impl EvalSet {
    /// Rows of `block` tokens, `batch` of them at a time: all, or at most `limit` batches spread evenly. Over all
    /// of a part, each token but the first is a target once; the last window may be shorter, padded with
    /// [`super::IGNORE`], as is the last batch.
    ///
    /// # Errors
    /// [`Error::TooShort`] when no part has two tokens, [`Error::Option`] for sizes of 0.
    pub fn new(corpus: Arc<Corpus>, batch: usize, block: usize, limit: Option<usize>, doc_mask: bool) -> Result<Self> {
        for (option, n) in [("batch", batch), ("block", block), ("eval.batches", limit.unwrap_or(1))] {
            if n == 0 {
                return Err(Error::Option { option, reason: "it must be at least 1".into() });
            }
        }
        let mut total = 0;
        let mut ends = Vec::with_capacity(corpus.parts());
        for part in 0..corpus.parts() {
            total += corpus.part_len(part).saturating_sub(1).div_ceil(block as u64);
            ends.push(total);
        }
        if total == 0 {
            return Err(Error::TooShort { split: corpus.name().into(), tokens: corpus.tokens(), block });
        }
        let chosen = limit.map_or(total, |n| total.min((n as u64).saturating_mul(batch as u64)));
        Ok(Self { corpus, batch, block, doc_mask, ends, chosen, shift: 0 })
    }

    /// Sees to it that a target counts: where none of the windows chosen has one, as in the midst of long prompts, all move on
    /// together, by as few windows as it takes. False where no window of the split has one. What `look` answers while that is
    /// looked for may end it.
    ///
    /// # Errors
    /// As [`EvalSet::batch`]; those of `look`.
    pub(crate) fn settle(&mut self, look: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        for shift in 0..self.windows().div_ceil(self.chosen) {
            self.shift = shift;
            for i in 0..self.len() {
                if self.batch(i)?.counted() > 0 {
                    return Ok(true);
                }
                look()?;
            }
        }
        Ok(false)
    }

    /// Windows of the split.
    fn windows(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// A hash of all that decides what the batches hold: losses on sets of equal identity can be compared.
    pub(crate) fn identity(&self) -> u64 {
        let sizes = [self.batch as u64, self.block as u64, u64::from(self.doc_mask), self.chosen];
        draw(self.corpus.content(), &sizes)
    }

    /// Batches.
    pub fn len(&self) -> usize {
        self.chosen.div_ceil(self.batch as u64) as usize
    }

    /// Whether there are none; there is always one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Batch `i` < [`EvalSet::len`].
    ///
    /// # Errors
    /// [`Error::File`] when a shard is damaged there.
    pub fn batch(&self, i: usize) -> Result<Batch> {
        let mut batch = Batch::with_capacity(self.batch, self.block, self.doc_mask);
        let mut scratch = Vec::new();
        let total = self.windows();
        for row in 0..self.batch {
            let n = (i * self.batch + row) as u64;
            if n >= self.chosen {
                batch.pad_row(row * self.block, 0);
                continue;
            }
            let window = ((u128::from(n) * u128::from(total) / u128::from(self.chosen)) as u64 + self.shift) % total;
            let part = self.ends.partition_point(|&end| end <= window);
            let inside = window - if part == 0 { 0 } else { self.ends[part - 1] };
            let start = inside * self.block as u64;
            let end = (start + self.block as u64).min(self.corpus.part_len(part) - 1);
            batch.push_window(&self.corpus, part, start..end, &mut scratch)?;
        }
        Ok(batch)
    }

    /// All batches in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Batch>> + '_ {
        (0..self.len()).map(|i| self.batch(i))
    }
}

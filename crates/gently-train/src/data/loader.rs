//! Batches for training, from one corpus or a weighted mixture, from a place that can be saved and sought.

use super::order::{Cursor, Order};
use super::permute::draw;
use super::{Batch, Corpus, Error, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How rows are taken from the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// Windows of the stream of tokens, each once in an epoch, in shuffled order across and inside shards.
    #[default]
    Stream,
    /// The same windows in the order of the text, from its start.
    Sequential,
    /// Windows at random places, with replacement, as nanoGPT draws them.
    Replacement,
    /// Whole documents, best-fit packed into rows; each token once in an epoch.
    Documents,
}

/// What a loader is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderOptions {
    /// Rows of a batch, B.
    pub batch: usize,
    /// Tokens of a row, T.
    pub block: usize,
    /// Seed of the order.
    pub seed: u64,
    /// How rows are taken.
    pub mode: Mode,
    /// Whether batches carry document numbers, so that attention stays inside documents. Always so for
    /// [`Mode::Documents`].
    pub doc_mask: bool,
}

impl LoaderOptions {
    /// Shuffled windows of the stream, without document masks.
    pub fn new(batch: usize, block: usize, seed: u64) -> Self {
        Self { batch, block, seed, mode: Mode::Stream, doc_mask: false }
    }
}

/// A place in the data. As JSON it goes into a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    /// What the place is a place of: options and corpora. Seeking elsewhere is refused.
    pub fingerprint: String,
    /// A hash of what the corpora hold; places that were saved before there was one have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Batches given.
    pub batches: u64,
    /// The place in each corpus.
    pub cursors: Vec<Cursor>,
    /// Rows given by each corpus.
    pub taken: Vec<u64>,
}

/// An endless stream of batches.
///
/// ```
/// use gently_train::data::{Corpus, Loader, LoaderOptions};
/// use std::sync::Arc;
///
/// let corpus = Corpus::from_documents("train", [(0..1000).map(|i| i % 50).collect()], 50, 0)?;
/// let mut loader = Loader::new(Arc::new(corpus), LoaderOptions::new(4, 16, 1))?;
/// loader.next_batch()?;
/// let here = loader.state();
/// let next = loader.next_batch()?;
/// assert_eq!(next.targets[0], next.ids[1]);
/// loader.seek(&here)?;
/// assert_eq!(loader.next_batch()?, next);
/// # Ok::<(), gently_train::data::Error>(())
/// ```
#[derive(Debug)]
pub struct Loader {
    options: LoaderOptions,
    orders: Vec<Order>,
    weights: Vec<f64>,
    batches: u64,
    fingerprint: String,
    content: String,
}

/// The most that a place's counts may be: it leaves room for the sums that are made of them.
const MOST: u64 = 1 << 52;

impl Loader {
    /// Batches of one corpus.
    ///
    /// # Errors
    /// [`Error::TooShort`] when the corpus has not one whole window, [`Error::Option`] for a batch or block of 0.
    pub fn new(corpus: Arc<Corpus>, options: LoaderOptions) -> Result<Self> {
        Self::mixture([(corpus, 1.0)], options)
    }

    /// Batches of several corpora, row by row in proportion to their weights: after any number of rows each has
    /// given its share to within one row.
    ///
    /// # Errors
    /// As [`Loader::new`]; [`Error::Option`] for weights that are not positive numbers, [`Error::OtherTokenizer`] when the
    /// corpora differ in it.
    pub fn mixture(corpora: impl IntoIterator<Item = (Arc<Corpus>, f64)>, mut options: LoaderOptions) -> Result<Self> {
        let positive = |option, n: usize| match n {
            0 => Err(Error::Option { option, reason: "it must be at least 1".into() }),
            _ => Ok(()),
        };
        positive("batch", options.batch)?;
        positive("block", options.block)?;
        if options.batch.checked_mul(options.block).is_none_or(|n| n > u32::MAX as usize) {
            let reason = format!("{} × {} tokens in a batch are too many", options.batch, options.block);
            return Err(Error::Option { option: "batch", reason });
        }
        options.doc_mask |= options.mode == Mode::Documents;
        let (mut orders, mut weights): (Vec<Order>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut words = vec![options.batch as u64, options.block as u64, options.seed, options.mode as u64];
        words.push(options.doc_mask.into());
        let mut contents = Vec::new();
        for (i, (corpus, weight)) in corpora.into_iter().enumerate() {
            if !(weight > 0.0 && weight.is_finite()) {
                let reason = format!("{weight} is not a positive number");
                return Err(Error::Option { option: "weight", reason });
            }
            // Nothing has no tokenizer to compare.
            if corpus.tokens() == 0 {
                return Err(Error::TooShort { split: corpus.name().into(), tokens: 0, block: options.block });
            }
            if let Some(first) = orders.first() {
                corpus.expect_tokenizer_of(&first.corpus)?;
            }
            words.extend([corpus.tokens(), corpus.documents(), corpus.parts() as u64, corpus.tokenizer()]);
            words.push(weight.to_bits());
            contents.push(corpus.content());
            orders.push(Order::new(corpus, i as u64, &options)?);
            weights.push(weight);
        }
        if orders.is_empty() {
            return Err(Error::Option { option: "data", reason: "a mixture needs at least one corpus".into() });
        }
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
        let (fingerprint, content) = (format!("{:016x}", draw(0, &words)), format!("{:016x}", draw(0, &contents)));
        Ok(Self { options, orders, weights, batches: 0, fingerprint, content })
    }

    /// The next batch.
    ///
    /// # Errors
    /// [`Error::File`] when a shard is damaged where it is read. The loader has then moved into the batch; seek to
    /// the state before to try again.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let o = &self.options;
        let mut batch = Batch::with_capacity(o.batch, o.block, o.doc_mask);
        for _ in 0..o.batch {
            let pick = self.pick();
            self.orders[pick].next_row(&self.options, &mut batch)?;
        }
        self.batches += 1;
        Ok(batch)
    }

    /// The corpus that is furthest behind its share.
    fn pick(&self) -> usize {
        let rows: u64 = self.orders.iter().map(|o| o.taken).sum();
        let behind = |i: usize| self.weights[i] * (rows + 1) as f64 - self.orders[i].taken as f64;
        (0..self.orders.len()).fold(0, |best, i| if behind(i) > behind(best) { i } else { best })
    }

    /// The place before the next batch.
    pub fn state(&self) -> LoaderState {
        LoaderState {
            fingerprint: self.fingerprint.clone(),
            content: Some(self.content.clone()),
            batches: self.batches,
            cursors: self.orders.iter().map(|o| o.cursor).collect(),
            taken: self.orders.iter().map(|o| o.taken).collect(),
        }
    }

    /// Goes to a saved place: the batches from there on are the ones that came then.
    ///
    /// # Errors
    /// [`Error::State`] when the place is one in other data or with other options.
    pub fn seek(&mut self, to: &LoaderState) -> Result<()> {
        let refuse = |reason: &str| Err(Error::State { reason: reason.into() });
        if to.fingerprint != self.fingerprint {
            return refuse("the data, its tokenizer, or batch, block, seed or mode are not those it was saved with");
        }
        if to.content.as_ref().is_some_and(|content| *content != self.content) {
            return refuse("the data has as many tokens as it had, but not the same ones");
        }
        let counts = to.cursors.iter().flat_map(|c| [c.epoch, c.group, c.position]).chain(to.taken.iter().copied());
        if counts.chain([to.batches]).any(|n| n > MOST) {
            return refuse("it is further on than a run can come");
        }
        if to.cursors.len() != self.orders.len() || to.taken.len() != self.orders.len() {
            return refuse("it names another number of corpora");
        }
        for (order, &cursor) in self.orders.iter_mut().zip(&to.cursors) {
            if !order.holds(cursor, &self.options) {
                return refuse("it lies outside the data");
            }
        }
        for (order, (&cursor, &taken)) in self.orders.iter_mut().zip(to.cursors.iter().zip(&to.taken)) {
            order.cursor = cursor;
            order.taken = taken;
        }
        self.batches = to.batches;
        Ok(())
    }

    /// What the loader does.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// Batches given since the beginning.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Batches that have about as many tokens as the corpora.
    pub fn batches_per_epoch(&self) -> u64 {
        let rows = |o: &Order| o.rows_per_epoch().unwrap_or(o.corpus.tokens().div_ceil(self.options.block as u64));
        self.orders.iter().map(rows).sum::<u64>().div_ceil(self.options.batch as u64).max(1)
    }
}

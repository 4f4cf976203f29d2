//! The table that joins our parameters to published tensors.

use crate::config::DecoderConfig;
use crate::error::Result;
use crate::weights::zeros;

/// Where the rows of one of our parameters lie in published tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The published name.
    pub name: String,
    /// How many rows of ours it holds (for a vector: elements).
    pub rows: usize,
    /// Whether it is stored `[in, out]` (GPT-2's Conv1D); ours are `[out, in]`.
    pub transposed: bool,
    /// Which row of theirs is which of ours.
    pub order: Order,
    /// Ours is theirs plus this (Gemma stores the scale of a norm less one).
    pub shift: f32,
    /// Ours is theirs plus the first row of this tensor (BERT's token types, of which sentences have the first).
    pub plus: Option<String>,
}

impl Rows {
    /// A published tensor stored as ours is.
    pub fn plain(name: impl Into<String>, rows: usize) -> Self {
        Self { name: name.into(), rows, transposed: false, order: Order::Same, shift: 0.0, plus: None }
    }
}

/// How the rows of a published tensor are ordered. Whole rows move, so quantized rows move as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As ours.
    Same,
    /// Channels of a head that rotary positions turn together are neighbours (Llama in GGUF); ours are half a head apart.
    Pairs {
        /// Rows of a head.
        head_width: usize,
    },
    /// Query, key and value of a head are neighbours (GPT-NeoX); ours are all queries, all keys, all values.
    Heads {
        /// Rows of one of the three.
        head_width: usize,
        /// Number of heads.
        heads: usize,
    },
}

impl Order {
    /// The row of theirs that is row `row` of ours.
    pub fn source(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Pairs { head_width: d } => {
                let (head, within) = (row / d * d, row % d);
                let half = d / 2;
                head + if within < half { 2 * within } else { 2 * (within - half) + 1 }
            }
            Self::Heads { head_width: d, heads } => {
                let (part, head, within) = (row / (heads * d), row / d % heads, row % d);
                (3 * head + part) * d + within
            }
        }
    }

    /// Rows of `width` numbers in our order, put in theirs. `name` is that of their tensor.
    ///
    /// # Errors
    /// [`crate::Error::NoMemory`].
    pub(crate) fn to_theirs(self, name: &str, ours: Vec<f32>, width: usize) -> Result<Vec<f32>> {
        if self == Self::Same {
            return Ok(ours);
        }
        let mut theirs = zeros(name, ours.len())?;
        for (row, numbers) in ours.chunks_exact(width.max(1)).enumerate() {
            theirs[self.source(row) * width..][..width].copy_from_slice(numbers);
        }
        Ok(theirs)
    }
}

/// One of our parameters and the published tensors that make it up, in order of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Our name.
    pub ours: String,
    /// The published tensors.
    pub theirs: Vec<Rows>,
}

/// The whole table of a layout.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    /// Our parameters.
    pub mappings: Vec<Mapping>,
    /// Published biases that our configuration leaves out: written as zeros, must be zeros when read.
    pub zeros: Vec<(String, usize)>,
    /// The published name of the head. Known also where the head is the embedding table, as a file may have it all the same.
    pub head: Option<String>,
    /// Prefix that a file may leave off every name ("transformer."): the model was saved without its head.
    pub optional_prefix: Option<&'static str>,
    /// Ends of names, and what old files have in place of them.
    pub old_ends: &'static [(&'static str, &'static str)],
    /// Ends of names that hold no weights of ours (masks, tables): skipped when read.
    pub skipped: &'static [&'static str],
    /// Starts of names of heads that are not of ours (classes, masked words): skipped when read.
    pub other_heads: &'static [&'static str],
}

impl NameTable {
    /// Joins our parameter to one published tensor of the same layout; the row's further properties may be set on what is
    /// returned.
    pub(crate) fn same(&mut self, ours: impl Into<String>, theirs: impl Into<String>, rows: usize) -> &mut Rows {
        self.rows(ours, vec![(theirs.into(), rows)], false);
        self.last()
    }

    /// Joins our parameter to published tensors stacked by rows.
    pub(crate) fn rows(&mut self, ours: impl Into<String>, theirs: Vec<(String, usize)>, transposed: bool) {
        let rows = |(name, rows): (String, usize)| Rows { transposed, ..Rows::plain(name, rows) };
        self.mappings.push(Mapping { ours: ours.into(), theirs: theirs.into_iter().map(rows).collect() });
    }

    /// Joins our head to a published tensor, where it has one of its own.
    pub(crate) fn head(&mut self, cfg: &DecoderConfig, theirs: impl Into<String>) {
        let theirs = theirs.into();
        if !cfg.tied_head {
            self.same("head.weight", &theirs, cfg.vocab);
        }
        self.head = Some(theirs);
    }

    /// The names of all published tensors that have a place.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let rows = self.mappings.iter().flat_map(|mapping| &mapping.theirs);
        let of_rows = rows.flat_map(|rows| [Some(rows.name.as_str()), rows.plus.as_deref()]).flatten();
        of_rows.chain(self.zeros.iter().map(|(name, _)| name.as_str()))
    }

    /// Whether a tensor holds no weights of ours and is skipped when read.
    pub(crate) fn skips(&self, name: &str) -> bool {
        self.skipped.iter().any(|end| name.ends_with(end))
            || self.other_heads.iter().any(|start| name.starts_with(start))
    }

    /// The published tensors of the mapping made last.
    pub(crate) fn latest(&mut self) -> &mut [Rows] {
        self.mappings.last_mut().map(|m| m.theirs.as_mut_slice()).unwrap_or_default()
    }

    fn last(&mut self) -> &mut Rows {
        match self.mappings.last_mut().and_then(|m| m.theirs.last_mut()) {
            Some(rows) => rows,
            None => unreachable!("the mapping was made with one tensor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations() {
        let orders = [Order::Same, Order::Pairs { head_width: 8 }, Order::Heads { head_width: 4, heads: 2 }];
        for order in orders {
            let mut seen: Vec<usize> = (0..24).map(|row| order.source(row)).collect();
            seen.sort_unstable();
            assert_eq!(seen, Vec::from_iter(0..24), "{order:?}");
        }
    }

    #[test]
    fn rows_come_from_where_the_converter_put_them() {
        // llama.cpp's converter: reshape(H, 2, D/2).swapaxes(1, 2); row 1 of the file is row D/2 of ours.
        let pairs = Order::Pairs { head_width: 8 };
        assert_eq!([0, 1, 4, 5, 8].map(|row| pairs.source(row)), [0, 2, 1, 3, 8]);
        // GPT-NeoX: q, k, v of head 0, then of head 1.
        let heads = Order::Heads { head_width: 4, heads: 2 };
        assert_eq!([0, 4, 8, 20].map(|row| heads.source(row)), [0, 12, 4, 20]);
    }
}

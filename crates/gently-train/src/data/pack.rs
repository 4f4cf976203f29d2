//! Best-fit packing of documents into rows.
//!
//! Documents longer than a row are cut into full rows and a rest; the pieces, longest first, each go into the fullest row that
//! still has room (Ding et al. 2024, "Fewer truncations improve language modeling"). No token is lost or
//! repeated; what stays free at the end of a row is padding.

use std::collections::BTreeSet;
use std::ops::Range;

/// A piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The document, as the caller numbers them.
    pub document: usize,
    /// Its tokens in the piece, counted from the document's start.
    pub tokens: Range<u64>,
}

impl Piece {
    fn len(&self) -> u64 {
        self.tokens.end - self.tokens.start
    }
}

/// Packs documents of the given lengths into rows of `block` > 0 tokens. The order of rows and of pieces in a row depends
/// on the lengths alone.
pub(crate) fn best_fit(lengths: impl IntoIterator<Item = u64>, block: u64) -> Vec<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (document, length) in lengths.into_iter().enumerate() {
        let mut at = 0;
        while at < length {
            let end = (at + block).min(length);
            pieces.push(Piece { document, tokens: at..end });
            at = end;
        }
    }
    // Stable: equal lengths stay in document order.
    pieces.sort_by_key(|p| std::cmp::Reverse(p.len()));
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    // Rows with room, by the room they have.
    let mut open: BTreeSet<(u64, usize)> = BTreeSet::new();
    for piece in pieces {
        let len = piece.len();
        let (room, row) = match open.range((len, 0)..).next().copied() {
            Some(best) => {
                open.remove(&best);
                best
            }
            None => {
                rows.push(Vec::new());
                (block, rows.len() - 1)
            }
        };
        rows[row].push(piece);
        if room > len {
            open.insert((room - len, row));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_once_and_no_row_over_full(
            lengths in prop::collection::vec(0u64..60, 0..80), block in 1u64..20,
        ) {
            let rows = best_fit(lengths.iter().copied(), block);
            let mut seen: Vec<Vec<bool>> = lengths.iter().map(|&n| vec![false; n as usize]).collect();
            for row in &rows {
                prop_assert!(row.iter().map(Piece::len).sum::<u64>() <= block);
                prop_assert!(!row.is_empty());
                for piece in row {
                    for t in piece.tokens.clone() {
                        prop_assert!(!std::mem::replace(&mut seen[piece.document][t as usize], true));
                    }
                }
            }
            prop_assert!(seen.iter().flatten().all(|&s| s));
            // No two rows could be one: best fit would have put the later row's first piece into the earlier.
            let total: u64 = lengths.iter().sum();
            prop_assert!(rows.len() as u64 <= 2 * total.div_ceil(block) + 1);
        }
    }

    #[test]
    fn fills_gaps_exactly() {
        let rows = best_fit([7, 3, 5, 5, 12], 10);
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0], [Piece { document: 4, tokens: 0..10 }]);
        assert_eq!(rows[1].iter().map(|p| p.document).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(rows[2].iter().map(|p| p.document).collect::<Vec<_>>(), [2, 3]);
    }
}

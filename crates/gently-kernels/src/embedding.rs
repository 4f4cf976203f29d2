//! Rows of a table by index: gather, and its backward, scatter-add.
//!
//! Here: `[V, C]` tables read and accumulated by `u32` ids, with learned positions added on request.
//! Not here: the output projection (see `loss`), sinusoidal or rotary positions (see `rope`).
//!
//! ```
//! use gently_kernels::embedding;
//! let table = [0.0f32, 0.0, 1.0, 1.0, 2.0, 2.0];
//! let mut out = [0.0f32; 4];
//! embedding::gather(&table, 2, &[2, 1], None, &mut out).unwrap();
//! assert_eq!(out, [2.0, 2.0, 1.0, 1.0]);
//! assert!(embedding::gather(&table, 2, &[3, 1], None, &mut out).is_err());
//! ```

use crate::pool::{self, Disjoint};
use crate::real::Real;

/// An id with no row in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token id {id} at position {position} is outside the table of {rows} rows")]
pub struct OutOfRange {
    /// The offending id.
    pub id: u32,
    /// Where it stands in `ids`.
    pub position: usize,
    /// Rows of the table.
    pub rows: usize,
}

/// Learned positions added to the gathered rows: token n of the batch sits at position
/// `start + n % block`.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a, T> {
    /// `[context, C]`.
    pub table: &'a [T],
    /// Tokens in each sequence, T.
    pub block: usize,
    /// Position of each sequence's first token.
    pub start: usize,
}

fn check_ids(ids: &[u32], rows: usize) -> Result<(), OutOfRange> {
    match ids.iter().position(|&id| id as usize >= rows) {
        Some(position) => Err(OutOfRange { id: ids[position], position, rows }),
        None => Ok(()),
    }
}

/// Rows moved by one task: about 64 KiB.
fn rows_per_task<T>(width: usize) -> usize {
    (64 * 1024 / (width * size_of::<T>()).max(1)).max(1)
}

/// `out[n] = table[ids[n]] (+ positions)`; table `[V, C]`, out `[N, C]`.
///
/// # Errors
/// [`OutOfRange`] when an id is not below V; `out` is then untouched.
///
/// # Panics
/// When lengths disagree or a position lies outside its table.
pub fn gather<T: Real>(
    table: &[T],
    width: usize,
    ids: &[u32],
    positions: Option<Positions<'_, T>>,
    out: &mut [T],
) -> Result<(), OutOfRange> {
    assert!(width > 0 && table.len().is_multiple_of(width), "embedding: table is not whole rows of {width}");
    assert_eq!(out.len(), ids.len() * width, "embedding: output is not one row for each id");
    if let Some(p) = positions {
        assert!(p.block > 0, "embedding: sequences of no tokens");
        let last = p.start + p.block.min(ids.len());
        assert!(last * width <= p.table.len(), "embedding: position {last} is outside its table");
    }
    check_ids(ids, table.len() / width)?;
    let rows = rows_per_task::<T>(width);
    pool::parallel_chunks_mut(out, rows * width, |chunk, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let n = chunk * rows + i;
            let row = &table[ids[n] as usize * width..][..width];
            match positions {
                None => out.copy_from_slice(row),
                Some(p) => {
                    let pos = &p.table[(p.start + n % p.block) * width..][..width];
                    for ((o, &a), &b) in out.iter_mut().zip(row).zip(pos) {
                        *o = a + b;
                    }
                }
            }
        }
    });
    Ok(())
}

/// `dtable[ids[n]] += dout[n]` for every n; table `[V, C]`, dout `[N, C]`.
///
/// Work is cut by columns and every task walks the ids in order, so each sum has one order whatever
/// the number of threads, without sorting.
///
/// # Errors
/// [`OutOfRange`] when an id is not below V; `dtable` is then untouched.
///
/// # Panics
/// When lengths disagree.
pub fn scatter_add<T: Real>(dtable: &mut [T], width: usize, ids: &[u32], dout: &[T]) -> Result<(), OutOfRange> {
    assert!(width > 0 && dtable.len().is_multiple_of(width), "embedding: table is not whole rows of {width}");
    assert_eq!(dout.len(), ids.len() * width, "embedding: gradient is not one row for each id");
    check_ids(ids, dtable.len() / width)?;
    let block = columns_per_task(width);
    let shared = Disjoint::new(dtable);
    pool::parallel(width.div_ceil(block), |task| {
        let first = task * block;
        let len = block.min(width - first);
        for (n, &id) in ids.iter().enumerate() {
            // SAFETY: this task alone touches columns first..first+len, and ids were checked.
            let row = unsafe { shared.part(id as usize * width + first, len) };
            for (r, &g) in row.iter_mut().zip(&dout[n * width + first..][..len]) {
                *r += g;
            }
        }
    });
    Ok(())
}

/// Backward of [`Positions`]: `dtable[start + n % block] += dout[n]`, sequences in order.
///
/// # Panics
/// When lengths disagree or a position lies outside its table.
pub fn positions_add<T: Real>(dtable: &mut [T], width: usize, block: usize, start: usize, dout: &[T]) {
    assert!(width > 0 && dout.len().is_multiple_of(width), "embedding: gradient is not whole rows of {width}");
    let n = dout.len() / width;
    let used = block.min(n);
    assert!((start + used) * width <= dtable.len(), "embedding: a position is outside its table");
    let rows = rows_per_task::<T>(width);
    pool::parallel_chunks_mut(&mut dtable[start * width..][..used * width], rows * width, |chunk, out| {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let mut t = chunk * rows + i;
            while t < n {
                for (o, &g) in out.iter_mut().zip(&dout[t * width..][..width]) {
                    *o += g;
                }
                t += block;
            }
        }
    });
}

/// Columns of a task: as many tasks as threads, for long pieces of rows, but at least 64 columns. This cut may
/// depend on the number of threads because the order of each sum does not depend on the cut.
fn columns_per_task(width: usize) -> usize {
    width.div_ceil(pool::threads()).next_multiple_of(16).max(64).min(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{random, same_on_threads};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn gather_and_scatter_are_what_they_say(
            vocab in 1usize..50, width in 1usize..150, batch in 1usize..5, block in 1usize..30,
            start in 0usize..4, learned: bool, seed: u32,
        ) {
            let n = batch * block;
            let ids: Vec<u32> = (0..n).map(|i| crate::philox::word([seed, 1], i as u64) % vocab as u32).collect();
            let table = random(seed, vocab * width);
            let places = random(seed ^ 1, (start + block) * width);
            let positions = learned.then_some(Positions { table: &places[..], block, start });
            let mut out = vec![0.0; n * width];
            gather(&table, width, &ids, positions, &mut out).unwrap();
            for (i, &o) in out.iter().enumerate() {
                let (t, c) = (i / width, i % width);
                let place = if learned { places[(start + t % block) * width + c] } else { 0.0 };
                prop_assert_eq!(o, table[ids[t] as usize * width + c] + place);
            }
            let mut dtable = table.clone();
            scatter_add(&mut dtable, width, &ids, &out).unwrap();
            let mut want = table.clone();
            let mut dplaces = places.clone();
            positions_add(&mut dplaces, width, block, start, &out);
            let mut want_places = places.clone();
            for (i, &o) in out.iter().enumerate() {
                let (t, c) = (i / width, i % width);
                want[ids[t] as usize * width + c] += o;
                want_places[(start + t % block) * width + c] += o;
            }
            prop_assert_eq!(dtable, want);
            prop_assert_eq!(dplaces, want_places);
        }
    }

    #[test]
    fn an_unknown_id_is_an_error_and_nothing_is_written() {
        let mut out = [7.0f32; 4];
        let error = gather(&[0.0; 6], 2, &[1, 3], None, &mut out).unwrap_err();
        assert_eq!(error, OutOfRange { id: 3, position: 1, rows: 3 });
        assert_eq!(error.to_string(), "token id 3 at position 1 is outside the table of 3 rows");
        let mut dtable = [7.0f32; 6];
        assert!(scatter_add(&mut dtable, 2, &[0, u32::MAX], &[1.0; 4]).is_err());
        assert_eq!((out, dtable), ([7.0; 4], [7.0; 6]));
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let ids: Vec<u32> = (0..5000).map(|i| crate::philox::word([1, 1], i) % 65).collect();
        let dout = random(1, 5000 * 200);
        same_on_threads(|| {
            let (mut dtable, mut dplaces) = (vec![0.0; 65 * 200], vec![0.0; 50 * 200]);
            scatter_add(&mut dtable, 200, &ids, &dout).unwrap();
            positions_add(&mut dplaces, 200, 50, 0, &dout);
            (dtable, dplaces)
        });
    }
}

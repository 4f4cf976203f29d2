//! Walking several strided operands in step.
//!
//! A walk drops axes of length 1 and merges neighbours that every operand crosses in one stride, so
//! most shapes become one or two axes; the innermost axis is then a loop that vectorises.

// Several arrays are indexed by the operand k at once.
#![allow(clippy::needless_range_loop)]

use crate::lanes::CHUNK;
use crate::pool;

/// A merged shape and the strides of K operands over it. The number of its elements can be counted.
pub(super) struct Walk<const K: usize> {
    shape: Vec<usize>,
    strides: [Vec<usize>; K],
}

impl<const K: usize> Walk<K> {
    pub(super) fn new(shape: &[usize], strides: [&[usize]; K]) -> Self {
        for s in strides {
            assert_eq!(s.len(), shape.len(), "elementwise: one stride for each axis");
        }
        // The other axes of an empty shape may be of any length.
        if shape.contains(&0) {
            return Walk { shape: vec![0], strides: std::array::from_fn(|_| vec![1]) };
        }
        let count = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        assert!(count.is_some(), "elementwise: shape {shape:?} has more elements than can be counted");
        let mut out = Walk { shape: Vec::new(), strides: std::array::from_fn(|_| Vec::new()) };
        for (axis, &len) in shape.iter().enumerate() {
            if len == 1 {
                continue;
            }
            let crossed = |k: usize| strides[k][axis].checked_mul(len);
            let merges =
                !out.shape.is_empty() && (0..K).all(|k| crossed(k).is_some_and(|s| out.strides[k].last() == Some(&s)));
            if merges {
                *out.shape.last_mut().expect("not empty") *= len;
                for k in 0..K {
                    *out.strides[k].last_mut().expect("not empty") = strides[k][axis];
                }
            } else {
                out.shape.push(len);
                for k in 0..K {
                    out.strides[k].push(strides[k][axis]);
                }
            }
        }
        if out.shape.is_empty() {
            out.shape.push(1);
            out.strides.iter_mut().for_each(|s| s.push(1));
        }
        out
    }

    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The merged axes: shape and strides, outermost first.
    pub(super) fn axes(&self) -> (&[usize], [&[usize]; K]) {
        (&self.shape, std::array::from_fn(|k| self.strides[k].as_slice()))
    }

    /// One past the largest index of operand `k`; the largest number where that is beyond it, which no slice reaches.
    pub(super) fn extent(&self, k: usize) -> usize {
        if self.len() == 0 {
            return 0;
        }
        let axes = self.shape.iter().zip(&self.strides[k]);
        axes.fold(1usize, |end, (&n, &s)| end.saturating_add((n - 1).saturating_mul(s)))
    }

    /// Stride of operand `k` along the innermost axis.
    pub(super) fn inner(&self, k: usize) -> usize {
        *self.strides[k].last().expect("a walk has an axis")
    }

    /// Calls `run(first, offsets, len)` for every run of at most [`CHUNK`] elements along the innermost
    /// axis, in parallel over runs: `first` is the run's place in row-major order.
    pub(super) fn runs(&self, run: impl Fn(usize, [usize; K], usize) + Sync) {
        let last = self.shape.len() - 1;
        let inner = self.shape[last];
        if self.len() == 0 {
            return;
        }
        let rows: usize = self.shape[..last].iter().product();
        let cuts = inner.div_ceil(CHUNK);
        let per_task = (CHUNK / inner).max(1);
        let units = rows * cuts;
        pool::parallel(units.div_ceil(per_task), |task| {
            let first = task * per_task;
            let mut index = vec![0usize; last];
            let mut rest = first / cuts;
            for axis in (0..last).rev() {
                index[axis] = rest % self.shape[axis];
                rest /= self.shape[axis];
            }
            let mut offsets: [usize; K] =
                std::array::from_fn(|k| index.iter().zip(&self.strides[k]).map(|(&i, &s)| i * s).sum());
            for unit in first..(first + per_task).min(units) {
                let (row, start) = (unit / cuts, unit % cuts * CHUNK);
                let at = std::array::from_fn(|k| offsets[k] + start * self.strides[k][last]);
                run(row * inner + start, at, CHUNK.min(inner - start));
                if unit % cuts + 1 < cuts {
                    continue;
                }
                for axis in (0..last).rev() {
                    index[axis] += 1;
                    for k in 0..K {
                        offsets[k] += self.strides[k][axis];
                    }
                    if index[axis] < self.shape[axis] {
                        break;
                    }
                    index[axis] = 0;
                    for k in 0..K {
                        offsets[k] -= self.strides[k][axis] * self.shape[axis];
                    }
                }
            }
        });
    }
}

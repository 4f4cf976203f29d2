//! Dropout of numbers by their place, from counter-based random numbers.

// Several arrays are indexed by the lane at once, in loops that must vectorise.
#![allow(clippy::needless_range_loop)]

use crate::cpu::{self, Path};
use crate::dropout::Dropout;
use crate::lanes::CHUNK;
use crate::philox::{BLOCKS, philox_lanes};
use crate::pool;
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};

/// Counters made at a time.
const N: usize = 16;

impl Dropout {
    /// Words below this drop their number.
    fn threshold(&self) -> u32 {
        assert!((0.0..1.0).contains(&self.p), "dropout: probability {} is not in [0, 1)", self.p);
        (self.p as f64 * 4_294_967_296.0) as u32
    }

    /// Factor on what is kept, 1 / (1 − p).
    fn scale(&self) -> f64 {
        1.0 / (1.0 - self.p as f64)
    }

    /// `y = x` with some numbers 0 and the others divided by 1 − p, plus `residual` if there is one. Any shape; number i uses
    /// place `offset + i`. The gradient is this function of `dy`.
    ///
    /// # Panics
    /// When lengths disagree or `p` is not in [0, 1).
    pub fn apply<T: Real>(&self, x: &[T], residual: Option<&[T]>, y: &mut [T]) {
        self.apply_on(cpu::path(), x, residual, y);
    }

    fn apply_on<T: Real>(&self, path: Path, x: &[T], residual: Option<&[T]>, y: &mut [T]) {
        assert_eq!(x.len(), y.len(), "dropout: lengths of x and y");
        assert!(residual.is_none_or(|r| r.len() == x.len()), "dropout: length of the residual");
        let threshold = self.threshold();
        let scale = T::from_f64(self.scale());
        pool::parallel_chunks_mut(y, CHUNK, |chunk, y| {
            let at = chunk * CHUNK;
            let x = &x[at..][..y.len()];
            let residual = residual.map(|r| &r[at..][..y.len()]);
            let offset = self.offset.wrapping_add(at as u64);
            dispatch(path, Part { key: self.key, offset, threshold, scale, x, residual, y });
        });
    }

    /// The plain twin of [`Dropout::apply`].
    #[cfg(test)]
    fn apply_plain<T: Real>(&self, x: &[T], residual: Option<&[T]>, y: &mut [T]) {
        let (threshold, scale) = (self.threshold(), T::from_f64(self.scale()));
        for i in 0..x.len() {
            let kept = crate::philox::word(self.key, self.offset.wrapping_add(i as u64)) >= threshold;
            let value = if kept { x[i] * scale } else { T::ZERO };
            y[i] = value + residual.map_or(T::ZERO, |r| r[i]);
        }
    }
}

struct Part<'a, T> {
    key: [u32; 2],
    offset: u64,
    threshold: u32,
    scale: T,
    x: &'a [T],
    residual: Option<&'a [T]>,
    y: &'a mut [T],
}

impl<T: Real> Kernel for Part<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Part { key, offset, threshold, scale, x, residual, y } = self;
        let mut block = offset / 4;
        let mut skip = (offset % 4) as usize;
        let mut done = 0;
        while done < y.len() {
            let mut counters = [[0; N]; 4];
            for l in 0..N {
                let b = (block + l as u64) & BLOCKS;
                (counters[0][l], counters[1][l]) = (b as u32, (b >> 32) as u32);
            }
            let words = philox_lanes(counters, key);
            let mut factors = [T::ZERO; 4 * N];
            for l in 0..N {
                for w in 0..4 {
                    factors[4 * l + w] = if words[w][l] >= threshold { scale } else { T::ZERO };
                }
            }
            let n = (4 * N - skip).min(y.len() - done);
            let (x, y) = (&x[done..done + n], &mut y[done..done + n]);
            let kept = x.iter().zip(&factors[skip..skip + n]);
            match residual {
                // Selecting rather than multiplying by 0: a dropped infinity must not become NaN.
                None => y.iter_mut().zip(kept).for_each(|(y, (&x, &f))| {
                    *y = if f == T::ZERO { T::ZERO } else { x * f };
                }),
                Some(r) => {
                    for ((y, (&x, &f)), &r) in y.iter_mut().zip(kept).zip(&r[done..done + n]) {
                        *y = (if f == T::ZERO { T::ZERO } else { x * f }) + r;
                    }
                }
            }
            done += n;
            block += N as u64;
            skip = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_drops_what_the_plain_twin_drops() {
        let x: Vec<f32> = (0..40_000).map(|i| i as f32 * 0.01 - 3.0).collect();
        let r: Vec<f32> = x.iter().map(|v| v * 0.5).collect();
        for (p, offset) in [(0.0, 0), (0.1, 3), (0.5, 1 << 34), (0.9, 61), (0.3, u64::MAX - 20_000)] {
            let drop = Dropout { p, key: [3, 4], offset };
            for residual in [None, Some(r.as_slice())] {
                let mut want = vec![0.0; x.len()];
                drop.apply_plain(&x, residual, &mut want);
                for path in cpu::available() {
                    let mut got = vec![1.0; x.len()];
                    drop.apply_on(path, &x, residual, &mut got);
                    assert_eq!(got, want, "{path:?} p {p}");
                }
                if residual.is_none() {
                    let dropped = want.iter().filter(|&&v| v == 0.0).count() as f32 / x.len() as f32;
                    assert!((dropped - p).abs() < 0.01, "{dropped} for {p}");
                }
            }
        }
        let mut y = [0.0f64; 4];
        Dropout { p: 0.99, key: [1, 1], offset: 0 }.apply(&[f64::INFINITY; 4], None, &mut y);
        assert!(y.iter().all(|v| !v.is_nan()));
    }
}

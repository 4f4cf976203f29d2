//! What choosing a token asks of a row of logits: its largest numbers and its weights.
//!
//! Here: one pass each over `[V]` numbers, in chunks of [`CHUNK`], so that the few candidates that matter are found
//! again without looking at the rest. Not here: the choice itself.
//!
//! Not-a-numbers are as if they were minus infinity.
//!
//! ```
//! use gently_kernels::choice;
//! let (mut maxima, mut weights, mut sums) = (Vec::new(), vec![0.0; 3], Vec::new());
//! let x = [1.0, f32::NAN, 3.0];
//! choice::maxima(&x, &mut maxima);
//! assert_eq!(maxima, [3.0]);
//! choice::weights(&x, 3.0, 0.5, &mut weights, &mut sums);
//! assert!((f64::from(weights[0]) - (-1.0f64).exp()).abs() < 1e-6 && weights[1] == 0.0 && weights[2] == 1.0);
//! ```

use crate::cpu::{self, Path};
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math;

/// Numbers in a chunk.
pub const CHUNK: usize = 256;

/// The largest number of each chunk of `x` `[V]`; minus infinity where there is none.
pub fn maxima(x: &[f32], out: &mut Vec<f32>) {
    maxima_on(cpu::path(), x, out);
}

fn maxima_on(path: Path, x: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.resize(x.len().div_ceil(CHUNK), f32::NEG_INFINITY);
    dispatch(path, Maxima { x, out });
}

struct Maxima<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Maxima<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (out, x) in self.out.iter_mut().zip(self.x.chunks(CHUNK)) {
            let mut most = [s.splat(f32::NEG_INFINITY); 2];
            let (whole, rest) = x.split_at(x.len() / S::LANES * S::LANES);
            for (i, part) in whole.chunks_exact(S::LANES).enumerate() {
                // The second operand where either is no number.
                most[i % 2] = s.max(s.load(part), most[i % 2]);
            }
            let tail = rest.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
            *out = tail.max(s.max_lane(s.max(most[0], most[1])));
        }
    }
}

/// `out = exp((x − most) · sharpness)`, all `[V]`, and the sum of each chunk. `most` is the largest of `x`, finite.
///
/// # Panics
/// When `out` is not as long as `x`.
pub fn weights(x: &[f32], most: f32, sharpness: f32, out: &mut [f32], sums: &mut Vec<f64>) {
    weights_on(cpu::path(), x, most, sharpness, out, sums);
}

fn weights_on(path: Path, x: &[f32], most: f32, sharpness: f32, out: &mut [f32], sums: &mut Vec<f64>) {
    assert_eq!(x.len(), out.len(), "weights: one for each logit");
    sums.clear();
    sums.resize(x.len().div_ceil(CHUNK), 0.0);
    dispatch(path, Weights { x, most, sharpness, out, sums });
}

struct Weights<'a> {
    x: &'a [f32],
    most: f32,
    sharpness: f32,
    out: &'a mut [f32],
    sums: &'a mut [f64],
}

impl Kernel for Weights<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (most, sharpness) = (s.splat(self.most), s.splat(self.sharpness));
        // Smaller weights are zero in f32; not-a-numbers become this by the order of operands.
        let least = s.splat(-200.0);
        for ((x, out), sum) in self.x.chunks(CHUNK).zip(self.out.chunks_mut(CHUNK)).zip(self.sums) {
            let mut total = s.splat(0.0);
            for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
                let behind = s.mul(s.sub(s.load_part(x), most), sharpness);
                let e = simd_math::exp(s, s.max(behind, least));
                if x.len() == S::LANES {
                    s.store(out, e);
                    total = s.add(total, e);
                } else {
                    s.store_part(out, e);
                    // Lanes beyond the end hold weights of nothing.
                    *sum += out.iter().map(|v| f64::from(*v)).sum::<f64>();
                }
            }
            *sum += f64::from(s.sum(total));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_the_definitions_on_every_path() {
        for len in [0, 1, 7, 16, 255, 256, 257, 1000] {
            let mut x: Vec<f32> = (0..len).map(|i| ((i * 7919) % 1009) as f32 / 50.0 - 10.0).collect();
            if len > 5 {
                (x[2], x[3], x[5]) = (f32::NAN, f32::NEG_INFINITY, 11.0);
            }
            let clean = |v: &f32| if v.is_nan() { f32::NEG_INFINITY } else { *v };
            let most = x.iter().map(clean).fold(-20.0, f32::max);
            for path in cpu::available() {
                let (mut tops, mut w, mut sums) = (Vec::new(), vec![0.0; len], Vec::new());
                maxima_on(path, &x, &mut tops);
                let want: Vec<f32> =
                    x.chunks(CHUNK).map(|c| c.iter().map(clean).fold(f32::NEG_INFINITY, f32::max)).collect();
                assert_eq!(tops, want, "{path:?} {len}");
                weights_on(path, &x, most, 0.7, &mut w, &mut sums);
                for (chunk, (x, w)) in x.chunks(CHUNK).zip(w.chunks(CHUNK)).enumerate() {
                    let mut sum = 0.0;
                    for (x, w) in x.iter().zip(w) {
                        let exact = (f64::from(clean(x) - most) * f64::from(0.7f32)).exp();
                        assert!((f64::from(*w) - exact).abs() < 1e-6, "{path:?} {len}: {w} and {exact}");
                        sum += f64::from(*w);
                    }
                    assert!((sum - sums[chunk]).abs() < 1e-5 * sum.max(1e-3), "{path:?} {len}");
                }
            }
        }
    }
}

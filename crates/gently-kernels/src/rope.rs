//! Rotary positions: pairs of channels turned by an angle proportional to the position.
//!
//! Here: RoPE of Su et al., "RoFormer" (arXiv:2104.09864), eq. 34, in place on a strided view of heads,
//! forward and transposed, which is the backward. Not here: scaled frequencies of long-context models; pass your own.
//!
//! ```
//! use gently_kernels::rope::{Positions, RopeStyle, RopeTable, rotate};
//! use gently_kernels::attention::HeadViewMut;
//! let table = RopeTable::new(8, 2, 10000.0);
//! let mut x = vec![1.0, 0.0]; // B=1, T=1, H=1, D=2
//! let view = HeadViewMut::contiguous(&mut x, 1, 1, 2);
//! rotate(view, [1, 1, 1, 2], &table, Positions::From(3), RopeStyle::Half, false);
//! assert!((x[0] - 3f32.cos()).abs() < 1e-6 && (x[1] - 3f32.sin()).abs() < 1e-6);
//! ```

use crate::attention::HeadViewMut;
use crate::buffer::OutOfMemory;
use crate::cpu::{self, Path};
use crate::pool::{self, Disjoint};
use crate::real::Real;

/// Which channels make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RopeStyle {
    /// `(i, i + R/2)`: GPT-NeoX, Llama as published by Hugging Face.
    #[default]
    Half,
    /// `(2i, 2i + 1)`: RoFormer, GPT-J, Llama as published by its authors.
    Interleaved,
}

/// Which row of the table each token uses.
#[derive(Debug, Clone, Copy)]
pub enum Positions<'a> {
    /// Token `t` of each row of the batch stands at this position plus `t`.
    From(usize),
    /// The position of each token, `[B, T]`.
    Each(&'a [u32]),
}

/// Cosines and sines, `[positions, R/2]`, both times a factor that is usually 1, made in f64 and rounded once.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable<T = f32> {
    /// factor · cos(position · frequency).
    pub cos: Vec<T>,
    /// factor · sin(position · frequency).
    pub sin: Vec<T>,
    /// Pairs of channels in a row: R/2, where R ≤ D channels are turned.
    pub pairs: usize,
}

impl<T: Real> RopeTable<T> {
    /// Frequencies θ^(−2i/R) for `rotated` = R channels and `positions` rows: for tables whose size does not come from outside,
    /// as [`RopeTable::with_frequencies`].
    ///
    /// # Panics
    /// When the system has no memory for it.
    pub fn new(positions: usize, rotated: usize, theta: f64) -> Self {
        let pairs = rotated / 2;
        let frequencies: Vec<f64> = (0..pairs).map(|i| theta.powf(-2.0 * i as f64 / rotated as f64)).collect();
        Self::with_frequencies(positions, &frequencies, 1.0)
    }

    /// One frequency for each pair, for scaled variants, and the factor `scale` of the channels that are turned: for tables whose
    /// size does not come from outside. Others take [`RopeTable::try_with_frequencies`].
    ///
    /// # Panics
    /// When the system has no memory for it.
    pub fn with_frequencies(positions: usize, frequencies: &[f64], scale: f64) -> Self {
        Self::try_with_frequencies(positions, frequencies, scale).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same of any size.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn try_with_frequencies(positions: usize, frequencies: &[f64], scale: f64) -> Result<Self, OutOfMemory> {
        let pairs = frequencies.len();
        let table = |of: fn(f64) -> f64| -> Result<Vec<T>, OutOfMemory> {
            let len = positions.saturating_mul(pairs);
            let mut all = Vec::new();
            let refused = |_| OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) };
            all.try_reserve_exact(len).map_err(refused)?;
            let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
            all.extend(angles.map(|a| T::from_f64(scale * of(a))));
            Ok(all)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, pairs })
    }

    /// The number of positions the table holds.
    pub fn positions(&self) -> usize {
        self.cos.len().checked_div(self.pairs).unwrap_or(usize::MAX)
    }
}

/// Turns the first `2 · table.pairs` channels of each head of `x`, of shape `[B, T, H, D]`; the others
/// stay. `inverse` turns the other way, which is the gradient, and turns back where the table's factor is 1.
///
/// # Panics
/// When the view leaves its slice, a head has too few channels, or a position is beyond the table.
pub fn rotate<T: Real>(
    x: HeadViewMut<'_, T>,
    shape: [usize; 4],
    table: &RopeTable<T>,
    positions: Positions<'_>,
    style: RopeStyle,
    inverse: bool,
) {
    rotate_on(cpu::path(), x, shape, table, positions, style, inverse);
}

fn rotate_on<T: Real>(
    path: Path,
    x: HeadViewMut<'_, T>,
    [batch, time, heads, d]: [usize; 4],
    table: &RopeTable<T>,
    positions: Positions<'_>,
    style: RopeStyle,
    inverse: bool,
) {
    /// Tokens turned by one task.
    const TOKENS: usize = 32;
    let n = table.pairs;
    path.check();
    assert!(2 * n <= d, "rotary: {n} pairs do not fit in heads of {d} channels");
    assert!(
        table.cos.len() == table.sin.len() && table.cos.len().is_multiple_of(n.max(1)),
        "rotary: table of odd size"
    );
    x.check([batch, time, heads, d]);
    if batch * time * heads * n == 0 {
        return;
    }
    match positions {
        Positions::From(first) => assert!(
            first.checked_add(time).is_some_and(|end| end <= table.positions()),
            "rotary: positions {first} to {} of a table of {}",
            first + time - 1,
            table.positions()
        ),
        Positions::Each(p) => {
            assert_eq!(p.len(), batch * time, "rotary: one position for each token");
            assert!(p.iter().all(|&p| (p as usize) < table.positions()), "rotary: position beyond the table");
        }
    }
    let HeadViewMut { data, offset, stride_b, stride_t, stride_h } = x;
    let data = Disjoint::new(data);
    let blocks = time.div_ceil(TOKENS);
    pool::parallel(batch * blocks, |task| {
        let (b, block) = (task / blocks, task % blocks);
        for t in block * TOKENS..time.min((block + 1) * TOKENS) {
            let p = match positions {
                Positions::From(first) => first + t,
                Positions::Each(p) => p[b * time + t] as usize,
            };
            let (cos, sin) = (&table.cos[p * n..][..n], &table.sin[p * n..][..n]);
            for h in 0..heads {
                // SAFETY: `check` showed that heads of the view do not overlap; each is visited once.
                let head = unsafe { data.part(offset + b * stride_b + t * stride_t + h * stride_h, 2 * n) };
                // SAFETY: the processor has the path (checked above).
                unsafe { turn_on(path, head, cos, sin, style, inverse) }
            }
        }
    });
}

/// # Safety
/// The processor must have the path.
unsafe fn turn_on<T: Real>(path: Path, head: &mut [T], cos: &[T], sin: &[T], style: RopeStyle, inverse: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        /// The portable code, compiled for wider registers; FMA is off, so the bits are the same.
        #[target_feature(enable = "avx2")]
        fn avx2<T: Real>(head: &mut [T], cos: &[T], sin: &[T], style: RopeStyle, inverse: bool) {
            turn(head, cos, sin, style, inverse);
        }
        if path >= Path::Avx2 {
            // SAFETY: the caller's promise.
            return unsafe { avx2(head, cos, sin, style, inverse) };
        }
    }
    let _ = path;
    turn(head, cos, sin, style, inverse);
}

#[inline(always)]
fn turn<T: Real>(head: &mut [T], cos: &[T], sin: &[T], style: RopeStyle, inverse: bool) {
    let sign = if inverse { -T::ONE } else { T::ONE };
    match style {
        RopeStyle::Half => {
            let (first, second) = head.split_at_mut(cos.len());
            for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (x, y, s) = (*a, *b, s * sign);
                *a = x * c - y * s;
                *b = x * s + y * c;
            }
        }
        RopeStyle::Interleaved => {
            for ((pair, &c), &s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (x, y, s) = (pair[0], pair[1], s * sign);
                pair[0] = x * c - y * s;
                pair[1] = x * s + y * c;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
    }

    /// The definition, element by element: (a + ib) e^(iφ).
    fn definition(x: &[f32], [b, t, h, d]: [usize; 4], rotated: usize, first: usize, style: RopeStyle) -> Vec<f32> {
        let mut y = x.to_vec();
        for (row, head) in y.chunks_mut(d).enumerate() {
            let pos = first + row / h % t;
            assert!(row / h / t < b);
            let old = head.to_vec();
            for i in 0..rotated / 2 {
                let angle = pos as f64 * 10000f64.powf(-2.0 * i as f64 / rotated as f64);
                let (u, v) = match style {
                    RopeStyle::Half => (i, i + rotated / 2),
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                };
                let (x, y) = (old[u] as f64, old[v] as f64);
                head[u] = (x * angle.cos() - y * angle.sin()) as f32;
                head[v] = (x * angle.sin() + y * angle.cos()) as f32;
            }
        }
        y
    }

    #[test]
    fn equals_the_definition_and_turns_back_on_every_path() {
        for (shape, rotated) in [([2, 40, 3, 16], 16), ([1, 5, 2, 20], 12), ([3, 1, 1, 2], 2)] {
            let x = ramp(shape.iter().product());
            let table = RopeTable::new(64, rotated, 10000.0);
            for style in [RopeStyle::Half, RopeStyle::Interleaved] {
                let want = definition(&x, shape, rotated, 7, style);
                let mut bits: Option<Vec<f32>> = None;
                for path in cpu::available() {
                    let mut y = x.clone();
                    let [_, t, h, d] = shape;
                    let at = Positions::From(7);
                    rotate_on(path, HeadViewMut::contiguous(&mut y, t, h, d), shape, &table, at, style, false);
                    let worst = y.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(worst < 2e-6, "{path:?} {style:?} {worst}");
                    assert_eq!(*bits.get_or_insert_with(|| y.clone()), y);
                    rotate_on(path, HeadViewMut::contiguous(&mut y, t, h, d), shape, &table, at, style, true);
                    let worst = y.iter().zip(&x).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(worst < 2e-6, "{path:?} {style:?} {worst}");
                }
            }
        }
    }

    #[test]
    fn a_factor_scales_the_turned_channels_alone() {
        let shape = [1, 5, 2, 8];
        let x = ramp(shape.iter().product());
        let frequencies = [1.0, 0.3, 0.01];
        let turned = |scale: f64| {
            let mut y = x.clone();
            let table = RopeTable::with_frequencies(5, &frequencies, scale);
            let view = HeadViewMut::contiguous(&mut y, 5, 2, 8);
            rotate(view, shape, &table, Positions::From(0), RopeStyle::Half, false);
            y
        };
        let (plain, scaled) = (turned(1.0), turned(1.5));
        for (i, (a, b)) in plain.iter().zip(&scaled).enumerate() {
            let factor = if i % 8 < 6 { 1.5 } else { 1.0 };
            assert!((factor * a - b).abs() < 2e-6, "{i}: {a} {b}");
        }
    }

    #[test]
    fn a_table_beyond_all_memory_is_an_error() {
        for positions in [usize::MAX / 8, usize::MAX] {
            let refused = RopeTable::<f32>::try_with_frequencies(positions, &[1.0, 0.1], 1.0).unwrap_err();
            assert!(refused.bytes > usize::MAX / 8, "{refused}");
        }
    }

    #[test]
    fn each_token_may_have_its_own_position_inside_a_packed_buffer() {
        // Two heads of 4 channels that lie after 3 foreign ones in rows of 13.
        let (b, t, h, d, row) = (2, 3, 2, 4, 13);
        let x = ramp(b * t * row);
        let table = RopeTable::new(10, d, 100.0);
        let positions = [0, 1, 2, 5, 0, 9];
        let mut y = x.clone();
        let view = HeadViewMut { data: &mut y, offset: 3, stride_b: t * row, stride_t: row, stride_h: d };
        rotate(view, [b, t, h, d], &table, Positions::Each(&positions), RopeStyle::Half, false);
        for i in 0..x.len() {
            if !(3..3 + h * d).contains(&(i % row)) {
                assert_eq!(x[i], y[i], "a foreign element changed");
            }
        }
        let mut one = x[3 * row + 3..][..d].to_vec();
        let view = HeadViewMut::contiguous(&mut one, 1, 1, d);
        rotate(view, [1, 1, 1, d], &table, Positions::From(5), RopeStyle::Half, false);
        assert_eq!(one, y[3 * row + 3..][..d]);
    }

    #[test]
    fn a_path_that_is_not_there_is_refused() {
        let table = RopeTable::new(1, 2, 100.0);
        cpu::assert_refused_elsewhere(|path| {
            let mut x = [0.0f32; 2];
            let view = HeadViewMut::contiguous(&mut x, 1, 1, 2);
            rotate_on(path, view, [1, 1, 1, 2], &table, Positions::From(0), RopeStyle::Half, false);
        });
    }

    #[test]
    #[should_panic(expected = "rotary: positions 9 to 10 of a table of 10")]
    fn a_position_beyond_the_table_is_refused() {
        let table = RopeTable::new(10, 2, 100.0);
        let mut x = [0.0f32; 4];
        let view = HeadViewMut::contiguous(&mut x, 2, 1, 2);
        rotate(view, [1, 2, 1, 2], &table, Positions::From(9), RopeStyle::Half, false);
    }
}

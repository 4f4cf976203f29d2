//! The products' inner loop, plainly: what every fast one computes, to the bit.

use super::BLOCK;
use super::packed::{GROUP, Layout, integer_at, scale_at};
use super::product::Tile;
use super::rows::PackedRows;
use super::unpacked::Weights;

/// The integer types.
pub(super) fn integers(w: &Weights, x: &PackedRows, g: usize, tile: usize, columns: usize, out: &mut Tile) {
    let w = w.matrix;
    let layout = Layout::of(w.block_type()).expect("an integer type");
    let (group, k, width) = (w.group(g), w.k(), x.width());
    let part = if layout.halves { 16 } else { 32 };
    for r in 0..GROUP {
        let mut sums = [0.0f32; super::rows::MAX_WIDTH];
        for b in 0..k / BLOCK {
            let mut q = [0; BLOCK];
            for (i, q) in q.iter_mut().enumerate() {
                *q = integer_at(&layout, k, group, b * BLOCK + i, r) as i32 - layout.zero;
            }
            for (c, sum) in sums[..columns].iter_mut().enumerate() {
                let first = (tile * (k / BLOCK) + b) * width;
                let xs = &x.ints[(first + c) * BLOCK..][..BLOCK];
                let xd = x.scale[first + c];
                for h in 0..BLOCK / part {
                    let (d, m) = scale_at(&layout, k, group, b * BLOCK + h * part, r);
                    let places = h * part..(h + 1) * part;
                    let dot: i32 = q[places.clone()].iter().zip(&xs[places]).map(|(q, &x)| q * x as i32).sum();
                    *sum = (d * xd).mul_add(dot as f32, *sum);
                    if layout.min {
                        let s = match layout.halves {
                            true => xd * x.half_sum[h][first + c] as f32,
                            false => x.scaled_sum[first + c],
                        };
                        *sum = m.mul_add(s, *sum);
                    }
                }
            }
        }
        for (c, sum) in sums[..columns].iter().enumerate() {
            out.0[c][r] = *sum;
        }
    }
}

//! From numbers to blocks: rounding to the simple types. The K types are in [`super::encode_k`].
//!
//! The simple types round as GGUF's reference does, bit for bit: the extreme number of a block sets the
//! scale.

use super::decode::TASK;
use super::{BLOCK, BlockType, QuantError, check_size, encode_k};
use crate::pool;
use half::{bf16, f16};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Writes `x` to `out` in blocks of `ty`, any number of whole blocks or rows, on all threads.
///
/// # Errors
/// When `x` is no whole number of blocks, `out` has another size than they need, a number to be rounded
/// to integers is not finite, or a finite number or a scale of some leaves the range of the type that holds it.
pub fn quantize(ty: BlockType, x: &[f32], out: &mut [u8]) -> Result<(), QuantError> {
    check_size(ty, x.len(), out.len())?;
    if !ty.is_float()
        && let Some(index) = x.iter().position(|v| !v.is_finite())
    {
        return Err(QuantError::NotFinite { ty, index, value: x[index].to_string() });
    }
    let task = TASK / ty.block_len();
    let first_misfit = AtomicUsize::new(usize::MAX);
    pool::parallel_chunks_mut(out, task * ty.block_bytes(), |t, out| {
        let x = &x[t * task * ty.block_len()..];
        for (i, (x, b)) in x.chunks_exact(ty.block_len()).zip(out.chunks_exact_mut(ty.block_bytes())).enumerate() {
            if !block(ty, x, b) {
                first_misfit.fetch_min(t * task + i, Ordering::Relaxed);
            }
        }
    });
    match first_misfit.into_inner() {
        usize::MAX => Ok(()),
        block => Err(QuantError::Range { ty, block }),
    }
}

/// Writes one block; whether the floats in it are in range. Those that were not finite before stay as they are.
fn block(ty: BlockType, x: &[f32], b: &mut [u8]) -> bool {
    match ty {
        BlockType::F32 => put(b, 0, x[0].to_le_bytes()),
        BlockType::F16 => put_half(b, 0, x[0]) || !x[0].is_finite(),
        BlockType::Bf16 => {
            let rounded = bf16::from_f32(x[0]);
            put(b, 0, rounded.to_le_bytes()) && (rounded.is_finite() || !x[0].is_finite())
        }
        BlockType::Q4_0 => centred(x, b, 8.0),
        BlockType::Q5_0 => centred(x, b, 16.0),
        BlockType::Q4_1 => affine(x, b, 15.0),
        BlockType::Q5_1 => affine(x, b, 31.0),
        BlockType::Q8_0 => q8_0(x, b),
        _ => encode_k::block(ty, x, b),
    }
}

fn put<const N: usize>(b: &mut [u8], at: usize, bytes: [u8; N]) -> bool {
    b[at..at + N].copy_from_slice(&bytes);
    true
}

/// Writes a half-precision number; whether it is finite.
pub(super) fn put_half(b: &mut [u8], at: usize, x: f32) -> bool {
    let h = f16::from_f32(x);
    put(b, at, h.to_le_bytes());
    h.is_finite()
}

/// 1/d, and 0 for 0.
pub(super) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Nibbles side by side, fifth bits (where the block has room for them) before them.
fn put_integers(b: &mut [u8], q: &[u8; BLOCK]) {
    let nibbles = b.len() - 16;
    for j in 0..16 {
        b[nibbles + j] = (q[j] & 15) | (q[j + 16] << 4);
    }
    let high: u32 = (0..BLOCK).map(|j| (q[j] as u32 >> 4) << j).sum();
    // Blocks of 22 and 24 bytes hold fifth bits.
    if b.len() > 20 {
        put(b, nibbles - 4, high.to_le_bytes());
    }
}

/// d·(q − half) with the number of largest size at −half.
fn centred(x: &[f32], b: &mut [u8], half: f32) -> bool {
    // The first of equals decides the sign of the scale.
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    let d = extreme / -half;
    let id = inverse(d);
    let q = std::array::from_fn(|j| (x[j] * id + (half + 0.5)).min(2.0 * half - 1.0) as u8);
    put_integers(b, &q);
    put_half(b, 0, d)
}

/// d·q + m from the smallest to the largest number.
fn affine(x: &[f32], b: &mut [u8], top: f32) -> bool {
    let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let d = (max - min) / top;
    let id = inverse(d);
    let q = std::array::from_fn(|j| ((x[j] - min) * id + 0.5).min(top) as u8);
    put_integers(b, &q);
    put_half(b, 0, d) && put_half(b, 2, min)
}

fn q8_0(x: &[f32], b: &mut [u8]) -> bool {
    let d = x.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
    let id = inverse(d);
    for (b, v) in b[2..].iter_mut().zip(x) {
        *b = (v * id).round() as i8 as u8;
    }
    put_half(b, 0, d)
}

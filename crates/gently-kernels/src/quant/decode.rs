//! From blocks to numbers, plainly: the definition of every format.
//!
//! Each decoder fills one block; a caller has checked the sizes. The order of operations is the one of
//! the format's reference, so that the numbers are equal bit for bit.

use super::{BlockType, QuantError, check_size};
use crate::{cast, pool};
use half::{bf16, f16};

/// Writes the numbers of `bytes` to `out`, any number of blocks or rows, on all threads.
///
/// # Errors
/// When `out` is no whole number of blocks, or `bytes` has another size than they need.
pub fn dequantize(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    check_size(ty, out.len(), bytes.len())?;
    match ty {
        BlockType::F32 => match bytemuck::try_cast_slice(bytes) {
            Ok(x) => out.copy_from_slice(x),
            Err(_) => blocks(ty, bytes, out, |b, x| x[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        },
        BlockType::F16 => match bytemuck::try_cast_slice(bytes) {
            Ok(x) => cast::widen_f16(x, out),
            Err(_) => blocks(ty, bytes, out, |b, x| x[0] = half_at(b, 0)),
        },
        BlockType::Bf16 => match bytemuck::try_cast_slice::<u8, bf16>(bytes) {
            Ok(x) => cast::cast(x, out),
            Err(_) => blocks(ty, bytes, out, |b, x| x[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        },
        BlockType::Q4_0 => blocks(ty, bytes, out, q4_0),
        BlockType::Q4_1 => blocks(ty, bytes, out, q4_1),
        BlockType::Q5_0 => blocks(ty, bytes, out, q5_0),
        BlockType::Q5_1 => blocks(ty, bytes, out, q5_1),
        BlockType::Q8_0 => blocks(ty, bytes, out, q8_0),
        BlockType::Q2K => blocks(ty, bytes, out, q2k),
        BlockType::Q3K => blocks(ty, bytes, out, q3k),
        BlockType::Q4K => blocks(ty, bytes, out, q4k),
        BlockType::Q5K => blocks(ty, bytes, out, q5k),
        BlockType::Q6K => blocks(ty, bytes, out, q6k),
    }
    Ok(())
}

/// Numbers of a task: tens of µs.
pub(super) const TASK: usize = 16 * 1024;

/// Decodes block by block.
fn blocks(ty: BlockType, bytes: &[u8], out: &mut [f32], block: impl Fn(&[u8], &mut [f32]) + Sync) {
    let task = TASK / ty.block_len();
    pool::parallel_chunks_mut(out, task * ty.block_len(), |i, out| {
        let bytes = &bytes[i * task * ty.block_bytes()..];
        for (b, x) in bytes.chunks_exact(ty.block_bytes()).zip(out.chunks_exact_mut(ty.block_len())) {
            block(b, x);
        }
    });
}

/// The half-precision number at byte `at`.
pub(super) fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Numbers j and j + 16 share byte j: the low and the high nibble.
fn nibbles(qs: &[u8], x: &mut [f32], value: impl Fn(usize, u8) -> f32) {
    for j in 0..16 {
        x[j] = value(j, qs[j] & 15);
        x[j + 16] = value(j + 16, qs[j] >> 4);
    }
}

fn q4_0(b: &[u8], x: &mut [f32]) {
    let d = half_at(b, 0);
    nibbles(&b[2..], x, |_, q| d * (q as f32 - 8.0));
}

fn q4_1(b: &[u8], x: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    nibbles(&b[4..], x, |_, q| d * q as f32 + m);
}

/// Bit j of the 32 bits at `at`, as the fifth bit.
fn fifth(b: &[u8], at: usize, j: usize) -> u8 {
    (b[at + j / 8] >> (j % 8) & 1) << 4
}

fn q5_0(b: &[u8], x: &mut [f32]) {
    let d = half_at(b, 0);
    nibbles(&b[6..], x, |j, q| d * ((q | fifth(b, 2, j)) as f32 - 16.0));
}

fn q5_1(b: &[u8], x: &mut [f32]) {
    let (d, m) = (half_at(b, 0), half_at(b, 2));
    nibbles(&b[8..], x, |j, q| d * (q | fifth(b, 4, j)) as f32 + m);
}

fn q8_0(b: &[u8], x: &mut [f32]) {
    let d = half_at(b, 0);
    for (x, &q) in x.iter_mut().zip(&b[2..]) {
        *x = q as i8 as f32 * d;
    }
}

/// The integers of run `run` of a block of a K type, before their zero point is taken off: 32 numbers, four in a word, the first
/// in its lowest byte.
///
/// Runs lie side by side; a byte holds the same place of 2 or 4 of them.
pub(super) fn k_run(ty: BlockType, b: &[u8], run: usize) -> [u32; 8] {
    let word = |from: usize, t: usize| {
        let at = from + 4 * t;
        u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
    };
    // The bits from `shift` on of the bytes from `from` on, as many as `mask` has; a word's bytes are shifted as one, and the mask
    // takes off what came from the next.
    let bits = |from: usize, shift: usize, mask: u32| -> [u32; 8] {
        std::array::from_fn(|t| word(from, t) >> shift & (mask * 0x0101_0101))
    };
    // Two bits: four runs share 32 bytes. Four bits: two runs do.
    let two = |from: usize| bits(from + run / 4 * 32, 2 * (run % 4), 3);
    let four = |from: usize| bits(from + run / 2 * 32, 4 * (run % 2), 15);
    let join = |low: [u32; 8], high: [u32; 8], by: usize| std::array::from_fn(|t| low[t] | high[t] << by);
    match ty {
        BlockType::Q2K => two(16),
        BlockType::Q3K => join(two(32), bits(0, run, 1), 2),
        BlockType::Q4K => four(16),
        BlockType::Q5K => join(four(48), bits(16, run, 1), 4),
        // Here the two runs that share a byte are 64 numbers apart.
        BlockType::Q6K => join(bits(run / 4 * 64 + run % 2 * 32, 4 * (run % 4 / 2), 15), two(128), 4),
        _ => unreachable!("{ty} is no K type"),
    }
}

/// The integer scale and minimum of part j, and the block's scale and minimum scale.
pub(super) fn k_scales(ty: BlockType, b: &[u8], j: usize) -> (i8, u8, f32, f32) {
    match ty {
        BlockType::Q2K => ((b[j] & 15) as i8, b[j] >> 4, half_at(b, 80), half_at(b, 82)),
        BlockType::Q3K => {
            // 16 scales of 6 bits: low nibbles in 8 bytes, then the two high bits in 4.
            let s = &b[96..108];
            let low = s[j % 8] >> (4 * (j / 8)) & 15;
            let high = s[8 + j % 4] >> (2 * (j / 4)) & 3;
            ((low | high << 4) as i8 - 32, 0, half_at(b, 108), 0.0)
        }
        BlockType::Q4K | BlockType::Q5K => {
            let s = &b[4..16];
            let (scale, min) = if j < 4 {
                (s[j] & 63, s[j + 4] & 63)
            } else {
                (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
            };
            (scale as i8, min, half_at(b, 0), half_at(b, 2))
        }
        BlockType::Q6K => (b[192 + j] as i8, 0, half_at(b, 208), 0.0),
        _ => unreachable!("{ty} is no K type"),
    }
}

fn q2k(b: &[u8], x: &mut [f32]) {
    affine_parts(BlockType::Q2K, 16, b, x);
}

fn q3k(b: &[u8], x: &mut [f32]) {
    centred_parts(BlockType::Q3K, 4, b, x);
}

fn q4k(b: &[u8], x: &mut [f32]) {
    affine_parts(BlockType::Q4K, 32, b, x);
}

fn q5k(b: &[u8], x: &mut [f32]) {
    affine_parts(BlockType::Q5K, 32, b, x);
}

fn q6k(b: &[u8], x: &mut [f32]) {
    centred_parts(BlockType::Q6K, 32, b, x);
}

/// (d·s)·q − dmin·m in parts of `part` numbers.
fn affine_parts(ty: BlockType, part: usize, b: &[u8], x: &mut [f32]) {
    for (run, x) in x.chunks_exact_mut(32).enumerate() {
        let q = k_run(ty, b, run).map(u32::to_le_bytes);
        for (j, (x, q)) in x.chunks_exact_mut(part).zip(q.as_flattened().chunks_exact(part)).enumerate() {
            let (s, m, d, dmin) = k_scales(ty, b, run * (32 / part) + j);
            let (scale, min) = (d * s as f32, dmin * m as f32);
            for (x, &q) in x.iter_mut().zip(q) {
                *x = scale * q as f32 - min;
            }
        }
    }
}

/// (d·s)·(q − zero) in 16 parts.
fn centred_parts(ty: BlockType, zero: i8, b: &[u8], x: &mut [f32]) {
    for (run, x) in x.chunks_exact_mut(32).enumerate() {
        let q = k_run(ty, b, run).map(u32::to_le_bytes);
        for (j, (x, q)) in x.chunks_exact_mut(16).zip(q.as_flattened().chunks_exact(16)).enumerate() {
            let (s, _, d, _) = k_scales(ty, b, 2 * run + j);
            let scale = d * s as f32;
            for (x, &q) in x.iter_mut().zip(q) {
                *x = scale * (q as i8 - zero) as f32;
            }
        }
    }
}

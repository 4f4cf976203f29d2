//! Rounding to the K types: a scale (and minimum) for each part of a block, found by least squares.
//!
//! The reference leaves the search free; ours tries some scales near the obvious one, rounds, solves for
//! the best real scale (and minimum) of those integers, and keeps the fit of the smallest weighted error.
//! Errors weigh more on larger numbers, which matter more in a product.

use super::encode::{inverse, put_half};
use super::{BlockType, SUPER};

/// Writes one block of 256; whether its scales fit half precision.
pub(super) fn block(ty: BlockType, x: &[f32], b: &mut [u8]) -> bool {
    match ty {
        BlockType::Q2K => affine_block::<16>(ty, 3, 15, x, b),
        BlockType::Q4K => affine_block::<32>(ty, 15, 63, x, b),
        BlockType::Q5K => affine_block::<32>(ty, 31, 63, x, b),
        BlockType::Q3K => centred_block(ty, 4, 32, x, b),
        BlockType::Q6K => centred_block(ty, 32, 128, x, b),
        _ => unreachable!("{ty} is no K type"),
    }
}

/// Nearest integer in 0..=top.
fn level(v: f32, top: i32) -> i32 {
    // `as` saturates, and sends the NaN of 0/0 to 0.
    (v.round() as i32).clamp(0, top)
}

/// s ≥ 0 and m ≥ 0 such that s·q − m is near x with q in 0..=top.
fn fit_affine(x: &[f32], top: i32) -> (f32, f32) {
    let min = x.iter().fold(0.0f32, |m, &v| m.min(v));
    let max = x.iter().fold(f32::MIN, |m, &v| m.max(v));
    if max <= min {
        return (0.0, -min);
    }
    let mean_square = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let weight = |v: f32| mean_square.sqrt() + v.abs();
    let error = |s: f32, m: f32| -> f32 {
        let id = inverse(s);
        x.iter().map(|&v| weight(v) * (s * level((v + m) * id, top) as f32 - m - v).powi(2)).sum()
    };
    let mut best = ((max - min) / top as f32, -min);
    let mut least = error(best.0, best.1);
    for step in -6..=12 {
        let id = (top as f32 + 0.1 * step as f32) / (max - min);
        // Weighted least squares for x ≈ s·q + c.
        let (mut w0, mut wq, mut wqq, mut wx, mut wqx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for &v in x {
            let (q, w) = (level((v - min) * id, top) as f32, weight(v));
            w0 += w;
            wq += w * q;
            wqq += w * q * q;
            wx += w * v;
            wqx += w * q * v;
        }
        let det = w0 * wqq - wq * wq;
        if det <= 0.0 {
            continue;
        }
        let (mut s, mut c) = ((w0 * wqx - wq * wx) / det, (wqq * wx - wq * wqx) / det);
        // The format has no positive offset.
        if c > 0.0 {
            (s, c) = (wqx / wqq, 0.0);
        }
        let e = error(s, -c);
        if s > 0.0 && e < least {
            (best, least) = ((s, -c), e);
        }
    }
    best
}

/// s, of either sign, such that s·q is near x with q in −half..half.
fn fit_centred(x: &[f32], half: i32) -> f32 {
    let extreme = x.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if extreme == 0.0 {
        return 0.0;
    }
    let (mut best, mut most) = (extreme / -half as f32, 0.0);
    for step in -9..=9 {
        let id = (-half as f32 + 0.1 * step as f32) / extreme;
        let (mut qx, mut qq) = (0.0f32, 0.0f32);
        for &v in x {
            let q = (v * id).round().clamp(-half as f32, half as f32 - 1.0);
            qx += v * v * q * v;
            qq += v * v * q * q;
        }
        // The error of the best scale for these integers is Σwx² − (Σwqx)²/Σwq².
        if qq > 0.0 && qx * qx > most * qq {
            (best, most) = (qx / qq, qx * qx / qq);
        }
    }
    best
}

fn affine_block<const PART: usize>(ty: BlockType, top: i32, scale_top: i32, x: &[f32], b: &mut [u8]) -> bool {
    let parts: Vec<(f32, f32)> = x.chunks_exact(PART).map(|x| fit_affine(x, top)).collect();
    let largest = |f: fn(&(f32, f32)) -> f32| parts.iter().map(f).fold(0.0f32, f32::max);
    let (d, dmin) = (largest(|p| p.0) / scale_top as f32, largest(|p| p.1) / scale_top as f32);
    let (at_d, at_min) = if ty == BlockType::Q2K { (80, 82) } else { (0, 2) };
    let fits = put_half(b, at_d, d) & put_half(b, at_min, dmin);
    let (d, dmin) = (super::decode::half_at(b, at_d), super::decode::half_at(b, at_min));
    let mut q = [0u8; SUPER];
    for (j, &(s, m)) in parts.iter().enumerate() {
        let (si, mi) = (level(s * inverse(d), scale_top), level(m * inverse(dmin), scale_top));
        put_affine_scale(ty, b, j, si as u8, mi as u8);
        let (s, m) = (d * si as f32, dmin * mi as f32);
        for i in j * PART..(j + 1) * PART {
            q[i] = level((x[i] + m) * inverse(s), top) as u8;
        }
    }
    put_integers(ty, b, &q);
    fits
}

fn put_affine_scale(ty: BlockType, b: &mut [u8], j: usize, s: u8, m: u8) {
    if ty == BlockType::Q2K {
        b[j] = s | m << 4;
        return;
    }
    // Parts 0–3 keep 6 bits in bytes of their own; the two high bits of parts 4–7 fill those bytes up.
    let t = &mut b[4..16];
    if j < 4 {
        (t[j], t[j + 4]) = (s, m);
    } else {
        t[j + 4] = s & 15 | m << 4;
        t[j - 4] |= s >> 4 << 6;
        t[j] |= m >> 4 << 6;
    }
}

fn centred_block(ty: BlockType, half: i32, scale_half: i32, x: &[f32], b: &mut [u8]) -> bool {
    let parts: Vec<f32> = x.chunks_exact(16).map(|x| fit_centred(x, half)).collect();
    let extreme = parts.iter().fold(0.0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    let at = if ty == BlockType::Q3K { 108 } else { 208 };
    let fits = put_half(b, at, extreme / -scale_half as f32);
    let d = super::decode::half_at(b, at);
    if ty == BlockType::Q3K {
        b[96..108].fill(0);
    }
    let mut q = [0u8; SUPER];
    for (j, &s) in parts.iter().enumerate() {
        let si = (s * inverse(d)).round().clamp(-scale_half as f32, scale_half as f32 - 1.0) as i32;
        if ty == BlockType::Q3K {
            let u = (si + 32) as u8;
            b[96 + j % 8] |= (u & 15) << (4 * (j / 8));
            b[104 + j % 4] |= u >> 4 << (2 * (j / 4));
        } else {
            b[192 + j] = si as u8;
        }
        let id = inverse(d * si as f32);
        for i in j * 16..(j + 1) * 16 {
            q[i] = level(x[i] * id + half as f32, 2 * half - 1) as u8;
        }
    }
    put_integers(ty, b, &q);
    fits
}

/// The integers, spread as [`super::decode::k_run`] reads them.
fn put_integers(ty: BlockType, b: &mut [u8], q: &[u8; SUPER]) {
    let place = match ty {
        BlockType::Q2K => 16..80,
        BlockType::Q3K => 0..96,
        BlockType::Q4K => 16..144,
        BlockType::Q5K => 16..176,
        _ => 0..192,
    };
    b[place].fill(0);
    for (i, &q) in q.iter().enumerate() {
        let (run, place) = (i / 32, i % 32);
        let two = run / 4 * 32 + place;
        let four = run / 2 * 32 + place;
        match ty {
            BlockType::Q2K => b[16 + two] |= q << (2 * (run % 4)),
            BlockType::Q3K => {
                b[32 + two] |= (q & 3) << (2 * (run % 4));
                b[place] |= (q >> 2) << run;
            }
            BlockType::Q4K => b[16 + four] |= q << (4 * (run % 2)),
            BlockType::Q5K => {
                b[48 + four] |= (q & 15) << (4 * (run % 2));
                b[16 + place] |= (q >> 4) << run;
            }
            _ => {
                b[run / 4 * 64 + run % 2 * 32 + place] |= (q & 15) << (4 * (run % 4 / 2));
                b[128 + two] |= (q >> 4) << (2 * (run % 4));
            }
        }
    }
}

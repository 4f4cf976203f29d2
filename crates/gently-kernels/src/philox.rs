//! Counter-based random numbers: Philox4x32-10.
//!
//! Here: the generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
//! (SC 2011), and fills with uniform and normal numbers. A number is a pure function of a key and its
//! place in the stream, so any part of a stream can be made by any thread, in any order, again. Not
//! here: named streams and their state (see the tensor crate's `Rng`).
//!
//! A stream has 2⁶⁴ places and begins again behind the last. Place `e` of stream `key` is word `e % 4` of `philox([e / 4 low, e / 4 high, 0, 0], key)`. Counters
//! whose third word is not zero are left to kernels that index randomness by coordinates instead.
//!
//! ```
//! use gently_kernels::philox;
//! let mut all = [0.0; 10];
//! philox::fill_uniform([1, 2], 0, &mut all);
//! let mut tail = [0.0; 3];
//! philox::fill_uniform([1, 2], 7, &mut tail);
//! assert_eq!(all[7..], tail);
//! ```

use crate::cpu::{self, Path};
use crate::pool;

/// Multipliers of the two halves of a round.
pub(crate) const ROUND_MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What each round adds to the key: the golden ratio and √3 − 1.
pub(crate) const ROUND_KEY: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// The last of the 2⁶² blocks of four places: behind it a stream begins again.
pub(crate) const BLOCKS: u64 = u64::MAX / 4;
/// Counters made at a time by the fills.
const LANES: usize = 16;
/// Numbers made by one task of a fill; a multiple of 4 · LANES.
const CHUNK: usize = 1 << 14;

/// The four words of Philox4x32-10 at `counter` under `key`.
#[inline]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [c0, c1, c2, c3] = counter;
    philox_lanes([[c0], [c1], [c2], [c3]], key).map(|[word]| word)
}

/// [`philox`] on `N` counters side by side: `counters[w][lane]` to `words[w][lane]`.
#[inline(always)]
pub fn philox_lanes<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counters;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        for l in 0..N {
            let p0 = ROUND_MUL[0] as u64 * c0[l] as u64;
            let p1 = ROUND_MUL[1] as u64 * c2[l] as u64;
            c0[l] = (p1 >> 32) as u32 ^ c1[l] ^ k0;
            c1[l] = p1 as u32;
            c2[l] = (p0 >> 32) as u32 ^ c3[l] ^ k1;
            c3[l] = p0 as u32;
        }
        k0 = k0.wrapping_add(ROUND_KEY[0]);
        k1 = k1.wrapping_add(ROUND_KEY[1]);
    }
    [c0, c1, c2, c3]
}

/// The uniform number in [0, 1) at place `offset` of stream `key`: a multiple of 2⁻²⁴.
#[inline]
pub fn uniform(key: [u32; 2], offset: u64) -> f32 {
    to_uniform(word(key, offset))
}

/// The 32 random bits at place `offset` of stream `key`.
#[inline]
pub fn word(key: [u32; 2], offset: u64) -> u32 {
    let block = offset / 4;
    philox([block as u32, (block >> 32) as u32, 0, 0], key)[(offset % 4) as usize]
}

#[inline(always)]
fn to_uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Fills `out` with uniform numbers in [0, 1): places `offset ..` of stream `key`.
pub fn fill_uniform(key: [u32; 2], offset: u64, out: &mut [f32]) {
    fill(cpu::path(), key, offset, out, false);
}

/// Fills `out` with numbers of mean 0 and variance 1: places `offset ..` of stream `key`.
///
/// Box–Muller on places `2i` and `2i + 1`, which become the cosine and the sine of one pair; the
/// largest magnitude is √(2 ln 2³²) ≈ 6.66. Only additions, multiplications, divisions and square roots
/// are used, so the bits are the same on every machine.
pub fn fill_normal(key: [u32; 2], offset: u64, out: &mut [f32]) {
    fill(cpu::path(), key, offset, out, true);
}

fn fill(path: Path, key: [u32; 2], offset: u64, out: &mut [f32], normal: bool) {
    path.check();
    pool::parallel_chunks_mut(out, CHUNK, |i, part| {
        // SAFETY: the processor has the path (checked above).
        unsafe { fill_part(path, key, offset.wrapping_add((i * CHUNK) as u64), part, normal) }
    });
}

/// # Safety
/// The processor must have the path.
unsafe fn fill_part(path: Path, key: [u32; 2], offset: u64, out: &mut [f32], normal: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        /// The portable code, compiled for wider registers.
        #[target_feature(enable = "avx2")]
        fn avx2(key: [u32; 2], offset: u64, out: &mut [f32], normal: bool) {
            fill_lanes(key, offset, out, normal);
        }
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
        fn avx512(key: [u32; 2], offset: u64, out: &mut [f32], normal: bool) {
            fill_lanes(key, offset, out, normal);
        }
        if path >= Path::Avx512 {
            // SAFETY: the caller's promise.
            return unsafe { avx512(key, offset, out, normal) };
        }
        if path >= Path::Avx2 {
            // SAFETY: as above.
            return unsafe { avx2(key, offset, out, normal) };
        }
    }
    let _ = path;
    fill_lanes(key, offset, out, normal);
}

#[inline(always)]
#[allow(clippy::needless_range_loop)] // lanes of several arrays at once
fn fill_lanes(key: [u32; 2], offset: u64, out: &mut [f32], normal: bool) {
    const N: usize = 4 * LANES;
    let mut block = offset / 4;
    let mut skip = (offset % 4) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let mut counters = [[0; LANES]; 4];
        for l in 0..LANES {
            let b = (block + l as u64) & BLOCKS;
            (counters[0][l], counters[1][l]) = (b as u32, (b >> 32) as u32);
        }
        let words = philox_lanes(counters, key);
        let mut made = [[0.0f32; LANES]; 4];
        if normal {
            for pair in 0..2 {
                for l in 0..LANES {
                    let (c, s) = box_muller(words[2 * pair][l], words[2 * pair + 1][l]);
                    (made[2 * pair][l], made[2 * pair + 1][l]) = (c, s);
                }
            }
        } else {
            for w in 0..4 {
                for l in 0..LANES {
                    made[w][l] = to_uniform(words[w][l]);
                }
            }
        }
        let mut ordered = [0.0; N];
        for l in 0..LANES {
            for w in 0..4 {
                ordered[4 * l + w] = made[w][l];
            }
        }
        let n = (N - skip).min(rest.len());
        rest[..n].copy_from_slice(&ordered[skip..skip + n]);
        rest = &mut rest[n..];
        block += LANES as u64;
        skip = 0;
    }
}

/// Two independent normal numbers from two random words.
#[inline(always)]
fn box_muller(a: u32, b: u32) -> (f32, f32) {
    // (0, 1], so that the logarithm is finite.
    let u = (a as f32 + 1.0) * (1.0 / 4_294_967_296.0);
    let r = (-2.0 * ln(u)).max(0.0).sqrt();
    let (sin, cos) = sin_cos_turn(to_uniform(b));
    (r * cos, r * sin)
}

/// ln of a normal positive number: exponent · ln 2 + 2 artanh((m − 1)/(m + 1)) with m in [√½, √2).
#[inline(always)]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits().wrapping_sub(0x3F35_04F3);
    let exponent = (bits as i32) >> 23;
    let m = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    exponent as f32 * std::f32::consts::LN_2 + 2.0 * s * series
}

/// (sin 2πu, cos 2πu) for u in [0, 1): Taylor series in the nearest quarter turn.
#[inline(always)]
fn sin_cos_turn(u: f32) -> (f32, f32) {
    let quarters = (u * 4.0 + 0.5) as i32;
    let r = (u * 4.0 - quarters as f32) * std::f32::consts::FRAC_PI_2;
    let q = r * r;
    let sin = r * (1.0 - q * (1.0 / 6.0 - q * (1.0 / 120.0 - q * (1.0 / 5040.0 - q * (1.0 / 362_880.0)))));
    let cos = 1.0 - q * (0.5 - q * (1.0 / 24.0 - q * (1.0 / 720.0 - q * (1.0 / 40_320.0 - q * (1.0 / 3_628_800.0)))));
    let odd = quarters & 1 == 1;
    let (s, c) = if odd { (cos, sin) } else { (sin, cos) };
    let s = if quarters & 2 != 0 { -s } else { s };
    let c = if (quarters + 1) & 2 != 0 { -c } else { c };
    (s, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_random123_paper() {
        let ones = u32::MAX;
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn fills_are_pure_functions_of_place_on_every_path() {
        let key = [7, 9];
        for normal in [false, true] {
            let mut want = vec![0.0; 40_000];
            fill(Path::Plain, key, 3, &mut want, normal);
            for path in cpu::available() {
                for (at, len) in [(0, 40_000), (1, 1), (5, 130), (16_383, 20_000)] {
                    let mut got = vec![0.0; len];
                    fill(path, key, 3 + at as u64, &mut got, normal);
                    assert_eq!(got, want[at..at + len], "{path:?} from {at}");
                }
            }
            if !normal {
                assert!(want.iter().enumerate().all(|(i, &u)| u == uniform(key, 3 + i as u64)));
            }
        }
        // A stream that passes 2³² blocks carries into the second word.
        let far = 4 * (u32::MAX as u64) - 4;
        let mut got = [0.0; 16];
        fill_uniform(key, far, &mut got);
        assert!((0..16).all(|i| got[i] == uniform(key, far + i as u64)));
        // The end of a stream, before, inside and at the border of a task's part.
        for before in [5, 20_001, CHUNK as u64] {
            let end = u64::MAX - before + 1;
            let mut got = vec![0.0; 40_000];
            fill_uniform(key, end, &mut got);
            assert!((0..40_000).all(|i| got[i] == uniform(key, end.wrapping_add(i as u64))), "{before}");
        }
    }

    #[test]
    fn a_path_that_is_not_there_is_refused() {
        cpu::assert_refused_elsewhere(|path| fill(path, [1, 2], 0, &mut [0.0; 4], true));
    }

    #[test]
    fn moments_and_range() {
        let mut x = vec![0.0; 400_000];
        fill_uniform([1, 0], 0, &mut x);
        assert!(x.iter().all(|u| (0.0..1.0).contains(u)));
        let mean = x.iter().map(|&u| u as f64).sum::<f64>() / x.len() as f64;
        assert!((mean - 0.5).abs() < 2e-3, "{mean}");
        fill_normal([1, 1], 0, &mut x);
        let moment = |p: i32| x.iter().map(|&z| (z as f64).powi(p)).sum::<f64>() / x.len() as f64;
        assert!(moment(1).abs() < 6e-3 && (moment(2) - 1.0).abs() < 1e-2, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 3e-2 && (moment(4) - 3.0).abs() < 8e-2, "{} {}", moment(3), moment(4));
        let pairs = x.chunks(2).map(|p| p[0] as f64 * p[1] as f64).sum::<f64>() / 200_000.0;
        assert!(pairs.abs() < 1e-2, "{pairs}");
    }

    #[test]
    fn logarithm_and_circle_are_accurate() {
        for i in 0..20_000u32 {
            let w = i.wrapping_mul(2_654_435_761);
            let u = (w as f32 + 1.0) / 4_294_967_296.0;
            assert!((ln(u) as f64 - (u as f64).ln()).abs() <= 2e-7 * (1.0 + (u as f64).ln().abs()));
            let v = to_uniform(w);
            let (s, c) = sin_cos_turn(v);
            let turn = v as f64 * std::f64::consts::TAU;
            assert!((s as f64 - turn.sin()).abs() < 3e-7 && (c as f64 - turn.cos()).abs() < 3e-7, "{v}");
        }
    }
}

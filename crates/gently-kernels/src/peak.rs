//! What this machine can do at most: multiply-add rate and memory bandwidth.
//!
//! Here: short measurements (about 50 ms each) of one core's f32, bf16 and int8 rate and of all threads'
//! read bandwidth. Not here: what the kernels reach of it.
//!
//! ```no_run
//! let one_core = gently_kernels::peak::f32_gflops();
//! println!("{one_core:.0} GFLOP/s for each core");
//! ```

use crate::buffer::AlignedBuf;
use crate::cpu::{self, Path};
use crate::pool;
use crate::simd::{Kernel, Simd, dispatch};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long one measurement takes.
const SPAN: Duration = Duration::from_millis(50);

/// The best rate of `work`, repeated for [`SPAN`], in units of `amount` per nanosecond.
fn best_rate(amount: f64, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < SPAN {
        let t = Instant::now();
        work();
        best = best.min(t.elapsed().as_secs_f64());
    }
    amount / best / 1e9
}

/// Independent chains of multiply-adds: more than latency × issue width of any processor here.
const CHAINS: usize = 12;
const ROUNDS: usize = 20_000;

/// Chains of the plain path, whose 8 lanes are two registers of 4: with more they would lie in memory.
const PLAIN_CHAINS: usize = 6;

struct Fma<const N: usize>;
impl<const N: usize> Kernel for Fma<N> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut acc = [s.splat(1.0); N];
        for _ in 0..ROUNDS {
            for x in &mut acc {
                *x = s.fma(*x, a, b);
            }
        }
        let mut sum = acc[0];
        for &x in &acc[1..] {
            sum = s.add(sum, x);
        }
        s.sum(sum)
    }
}

fn lanes(path: Path) -> usize {
    match path {
        Path::Avx512 | Path::Avx512Bf16 => 16,
        _ => 8,
    }
}

/// f32 multiply-add rate of one core on the chosen path, in GFLOP/s (a multiply-add is two operations).
pub fn f32_gflops() -> f64 {
    let path = cpu::path();
    let flops = |chains: usize| (2 * chains * ROUNDS * lanes(path)) as f64;
    match path {
        Path::Plain => best_rate(flops(PLAIN_CHAINS), || {
            black_box(dispatch(path, Fma::<PLAIN_CHAINS>));
        }),
        _ => best_rate(flops(CHAINS), || {
            black_box(dispatch(path, Fma::<CHAINS>));
        }),
    }
}

/// bf16 multiply-add rate of one core in GFLOP/s, or `None` where the path does not multiply bf16.
pub fn bf16_gflops() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if cpu::path() == Path::Avx512Bf16 {
        let flops = 2 * 2 * CHAINS * ROUNDS * 16;
        return Some(best_rate(flops as f64, || {
            // SAFETY: the chosen path is one this processor has.
            black_box(unsafe { dot_bf16() });
        }));
    }
    None
}

/// # Safety
/// The processor must have the features named here.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot_bf16() -> f32 {
    use std::arch::x86_64::*;
    // SAFETY: both types are 64 bytes of plain bits.
    let pair: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(black_box(0x3f80_3f80))) };
    let mut acc = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..ROUNDS {
        for x in &mut acc {
            *x = _mm512_dpbf16_ps(*x, pair, pair);
        }
    }
    let sum = acc.into_iter().fold(_mm512_setzero_ps(), |s, x| _mm512_add_ps(s, x));
    _mm512_reduce_add_ps(sum)
}

/// int8 multiply-add rate of one core in Gop/s (a multiply-add is two operations): with VNNI, else with AVX2's pairs of
/// bytes, else that of f32.
pub fn int8_gops() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if cpu::path() >= Path::Avx512 && cpu::has_vnni() {
            return best_rate((2 * CHAINS * ROUNDS * 64) as f64, || {
                // SAFETY: the processor has the features.
                black_box(unsafe { dot_vnni() });
            });
        }
        if cpu::path() >= Path::Avx2 {
            return best_rate((2 * CHAINS * ROUNDS * 32) as f64, || {
                // SAFETY: the processor has the features.
                black_box(unsafe { dot_bytes() });
            });
        }
    }
    f32_gflops()
}

/// # Safety
/// The processor must have the features named here.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dot_vnni() -> i32 {
    use std::arch::x86_64::*;
    let x = _mm512_set1_epi8(black_box(1));
    let mut acc = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..ROUNDS {
        for a in &mut acc {
            *a = _mm512_dpbusd_epi32(*a, x, x);
        }
    }
    let sum = acc.into_iter().fold(_mm512_setzero_si512(), |s, x| _mm512_add_epi32(s, x));
    _mm512_reduce_add_epi32(sum)
}

/// # Safety
/// The processor must have the features named here.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn dot_bytes() -> i16 {
    use std::arch::x86_64::*;
    let x = _mm256_set1_epi8(black_box(1));
    let mut acc = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..ROUNDS {
        for a in &mut acc {
            // The product depends on the sum, so that it is not computed once for all.
            *a = _mm256_add_epi16(*a, _mm256_maddubs_epi16(x, _mm256_xor_si256(x, *a)));
        }
    }
    let sum = acc.into_iter().fold(_mm256_setzero_si256(), |s, x| _mm256_add_epi16(s, x));
    _mm256_extract_epi16::<0>(sum) as i16
}

struct Read<'a>(&'a [f32]);
impl Kernel for Read<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut acc = [s.splat(0.0); 4];
        for part in self.0.chunks_exact(4 * S::LANES) {
            for (i, x) in acc.iter_mut().enumerate() {
                *x = s.add(*x, s.load(&part[i * S::LANES..]));
            }
        }
        s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
    }
}

/// Floats that are read for the bandwidth: 256 MiB, more than caches hold.
const READ: usize = 64 << 20;

/// Memory read bandwidth of all threads together, in GB/s; `None` where there is no memory for 256 MiB. With less it would be
/// that of a cache.
pub fn read_gbps() -> Option<f64> {
    read_rate(READ)
}

/// The bandwidth over a buffer of `floats`.
fn read_rate(floats: usize) -> Option<f64> {
    let mut buf = AlignedBuf::<f32>::try_zeroed(floats).ok()?;
    // Untouched pages would all be the one zero page.
    pool::parallel_chunks_mut(&mut buf, 1 << 18, |_, part| part.fill(1.0));
    Some(best_rate((buf.len() * 4) as f64, || {
        pool::parallel(buf.len() >> 18, |i| {
            black_box(dispatch(cpu::path(), Read(&buf[i << 18..][..1 << 18])));
        });
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_plausible() {
        assert!(f32_gflops() > 0.1);
        assert!(int8_gops() > 0.1);
        assert!(read_gbps().is_none_or(|rate| rate > 0.1));
        assert_eq!(bf16_gflops().is_some(), cpu::path() == Path::Avx512Bf16);
    }

    #[test]
    fn what_there_is_no_memory_for_is_not_measured() {
        assert_eq!(read_rate(1 << 46), None);
    }
}

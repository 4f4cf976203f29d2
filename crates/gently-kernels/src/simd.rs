//! One vector interface over AVX-512, AVX2 and portable code, so that a kernel is written once.
//!
//! Here: [`Simd`] (tokens whose existence proves that the instructions may run), [`Kernel`],
//! [`dispatch`], and which instructions a path is compiled for. Not here: mathematical functions (see [`crate::simd_math`]).
//!
//! A kernel's `run` must be `#[inline(always)]`, and so must what it calls: it is inlined into a
//! function compiled for the path's instructions, and only there do the vectors stay in registers.
//!
//! ```
//! use gently_kernels::{cpu, simd::{Kernel, Simd, dispatch}};
//! struct Sum<'a>(&'a [f32]);
//! impl Kernel for Sum<'_> {
//!     type Out = f32;
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) -> f32 {
//!         let mut sum = s.splat(0.0);
//!         for part in self.0.chunks(S::LANES) {
//!             sum = s.add(sum, s.load_part(part));
//!         }
//!         s.sum(sum)
//!     }
//! }
//! assert_eq!(dispatch(cpu::path(), Sum(&[1.0, 2.0, 3.0])), 6.0);
//! ```

use crate::cpu::Path;

/// Vectors of f32 of one instruction set. A value of the implementing type can be had only through
/// [`dispatch`], after the processor was asked; that is what makes the methods safe.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector register.
    type V: Copy;
    /// f32 lanes in a vector.
    const LANES: usize;
    /// Vector registers there are.
    const REGISTERS: usize;

    /// All lanes the same.
    fn splat(self, x: f32) -> Self::V;
    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the path has FMA
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// c − a · b, rounded once where the path has FMA
    fn nfma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller; b where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; b where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// √a
    fn sqrt(self, a: Self::V) -> Self::V;
    /// |a|
    fn abs(self, a: Self::V) -> Self::V;
    /// |a| with the sign of b
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V;
    /// Lane by lane: `yes` where a < b, else `no` (also for NaN).
    fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// Nearest integer, ties to even, for |a| < 2²².
    fn round(self, a: Self::V) -> Self::V;
    /// a · 2ⁿ for integral n in −252..=254, with gradual underflow and overflow to ∞.
    fn ldexp(self, a: Self::V, n: Self::V) -> Self::V;
    /// p · 2ⁿ for integral n in −127..=0 and p in [½, 2], where n = −127 gives 0.
    fn scale_down(self, p: Self::V, n: Self::V) -> Self::V;
    /// Sum of the lanes, in a fixed order.
    fn sum(self, a: Self::V) -> f32;
    /// Largest lane.
    fn max_lane(self, a: Self::V) -> f32;

    /// Asks for the cache line at `p`, which may be any address, to be brought to L1.
    fn prefetch(self, p: *const f32);
    /// The same for the second cache.
    fn prefetch_far(self, p: *const f32);
    /// Loads a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` floats.
    unsafe fn load_ptr(self, p: *const f32) -> Self::V;
    /// Loads a whole vector of half-precision numbers.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` numbers of 16 bits.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// Loads a whole vector of bf16 numbers.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` numbers of 16 bits.
    unsafe fn load_bf16(self, p: *const u16) -> Self::V;
    /// Loads a whole vector of signed bytes.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` bytes.
    unsafe fn load_i8(self, p: *const i8) -> Self::V;
    /// Stores a whole vector as half-precision numbers, rounded to nearest even.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` numbers of 16 bits.
    unsafe fn store_f16(self, p: *mut u16, a: Self::V);
    /// Stores a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` floats.
    unsafe fn store_ptr(self, p: *mut f32, a: Self::V);
    /// Loads the first `n` lanes (at most `LANES`); the others are 0.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` floats.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n` lanes (at most `LANES`).
    ///
    /// # Safety
    /// `p` must be valid for writing `n` floats.
    unsafe fn store_n(self, p: *mut f32, n: usize, a: Self::V);

    /// Runs a kernel in a function of its own with the same instructions: what several places need is compiled once.
    fn apart<K: Kernel>(self, kernel: K) -> K::Out;

    /// Loads a vector from the start of a slice.
    ///
    /// # Panics
    /// When the slice is shorter than a vector.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.load_ptr(x.as_ptr()) }
    }
    /// Stores a vector to the start of a slice.
    ///
    /// # Panics
    /// When the slice is shorter than a vector.
    #[inline(always)]
    fn store(self, x: &mut [f32], a: Self::V) {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the length was checked.
        unsafe { self.store_ptr(x.as_mut_ptr(), a) }
    }
    /// Loads a slice of at most one vector; missing lanes are 0.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        if x.len() >= Self::LANES {
            return self.load(x);
        }
        // SAFETY: no more lanes than the slice has.
        unsafe { self.load_n(x.as_ptr(), x.len()) }
    }
    /// Stores as many lanes as the slice holds, at most all.
    #[inline(always)]
    fn store_part(self, x: &mut [f32], a: Self::V) {
        if x.len() >= Self::LANES {
            return self.store(x, a);
        }
        // SAFETY: no more lanes than the slice has.
        unsafe { self.store_n(x.as_mut_ptr(), x.len(), a) }
    }
}

/// Work written once for all instruction sets.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// Does the work. Mark the implementation `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs a kernel with the instructions of `path`.
///
/// # Panics
/// When this processor does not support the path.
#[inline]
pub fn dispatch<K: Kernel>(path: Path, kernel: K) -> K::Out {
    dispatch_work(path, kernel)
}

/// Work with a form for each instruction set: every [`Kernel`], and what asks more of vectors than [`Simd`] has. All forms
/// must be `#[inline(always)]`, as a kernel's `run`.
pub(crate) trait Work {
    /// What it returns.
    type Out;
    fn plain(self, s: plain::Plain) -> Self::Out;
    #[cfg(target_arch = "x86_64")]
    fn avx2(self, s: avx2::Avx2) -> Self::Out;
    #[cfg(target_arch = "x86_64")]
    fn avx512(self, s: avx512::Avx512) -> Self::Out;
}

impl<K: Kernel> Work for K {
    type Out = K::Out;
    #[inline(always)]
    fn plain(self, s: plain::Plain) -> K::Out {
        self.run(s)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn avx2(self, s: avx2::Avx2) -> K::Out {
        self.run(s)
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn avx512(self, s: avx512::Avx512) -> K::Out {
        self.run(s)
    }
}

/// [`dispatch`] of any [`Work`].
///
/// # Panics
/// When this processor does not support the path.
#[inline]
pub(crate) fn dispatch_work<W: Work>(path: Path, work: W) -> W::Out {
    path.check();
    match path {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the processor has the features (checked above).
        Path::Avx512 | Path::Avx512Bf16 => unsafe { run_avx512(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Path::Avx2 => unsafe { run_avx2(work) },
        _ => work.plain(plain::Plain::TOKEN),
    }
}

/// Compiles a function for the instructions of a path, those that its token of [`Simd`] stands for. The attribute takes nothing
/// but a literal, so these lists are a macro. Functions that use a few instructions by name ask for those alone.
macro_rules! for_path {
    (plain: $($function:tt)*) => {
        $($function)*
    };
    (avx2: $($function:tt)*) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        $($function)*
    };
    (avx512: $($function:tt)*) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        $($function)*
    };
    (avx512bf16: $($function:tt)*) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
        $($function)*
    };
}
pub(crate) use for_path;

#[cfg(target_arch = "x86_64")]
for_path! { avx512:
    /// # Safety
    /// The processor must have the features of the path.
    #[inline(never)]
    pub(crate) unsafe fn run_avx512<W: Work>(work: W) -> W::Out {
        work.avx512(avx512::Avx512::TOKEN)
    }
}

#[cfg(target_arch = "x86_64")]
for_path! { avx2:
    /// # Safety
    /// The processor must have the features of the path.
    #[inline(never)]
    pub(crate) unsafe fn run_avx2<W: Work>(work: W) -> W::Out {
        work.avx2(avx2::Avx2::TOKEN)
    }
}

/// Portable vectors: arrays of 8 that the compiler maps to what the target has.
pub(crate) mod plain {
    use super::{Kernel, Simd};

    /// Always available.
    #[derive(Clone, Copy)]
    pub struct Plain(());

    impl Plain {
        pub(crate) const TOKEN: Plain = Plain(());
    }

    #[inline(always)]
    fn map2(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
        std::array::from_fn(|i| f(a[i], b[i]))
    }

    impl Simd for Plain {
        type V = [f32; 8];
        const LANES: usize = 8;
        const REGISTERS: usize = 16;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            [x; 8]
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, |a, b| a + b)
        }
        #[inline(always)]
        fn sub(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, |a, b| a - b)
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, |a, b| a * b)
        }
        #[inline(always)]
        fn div(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, |a, b| a / b)
        }
        // Without hardware FMA `f32::mul_add` is a library call; two roundings are good enough here.
        #[inline(always)]
        fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
        #[inline(always)]
        fn nfma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            std::array::from_fn(|i| c[i] - a[i] * b[i])
        }
        #[inline(always)]
        fn min(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, |a, b| if a < b { a } else { b })
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, |a, b| if a > b { a } else { b })
        }
        #[inline(always)]
        fn sqrt(self, a: Self::V) -> Self::V {
            a.map(f32::sqrt)
        }
        #[inline(always)]
        fn abs(self, a: Self::V) -> Self::V {
            a.map(f32::abs)
        }
        #[inline(always)]
        fn copysign(self, a: Self::V, b: Self::V) -> Self::V {
            map2(a, b, f32::copysign)
        }
        #[inline(always)]
        fn select_lt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
            std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
        }
        #[inline(always)]
        fn round(self, a: Self::V) -> Self::V {
            // Adding 1.5·2²³ pushes the fraction out of the mantissa, rounding to nearest even.
            a.map(|x| (x + 12_582_912.0) - 12_582_912.0)
        }
        #[inline(always)]
        fn scale_down(self, p: Self::V, n: Self::V) -> Self::V {
            std::array::from_fn(|i| p[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
        }
        #[inline(always)]
        fn ldexp(self, a: Self::V, n: Self::V) -> Self::V {
            // In two steps, because 2ⁿ itself may lie outside the range of normal numbers.
            map2(a, n, |a, n| {
                let n = n as i32;
                let half = n >> 1;
                let pow2 = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
                a * pow2(half) * pow2(n - half)
            })
        }
        #[inline(always)]
        fn sum(self, a: Self::V) -> f32 {
            ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
        }
        #[inline(always)]
        fn max_lane(self, a: Self::V) -> f32 {
            a.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
        }
        #[inline(never)]
        fn apart<K: Kernel>(self, kernel: K) -> K::Out {
            kernel.run(self)
        }
        #[inline(always)]
        fn prefetch(self, _p: *const f32) {}
        #[inline(always)]
        fn prefetch_far(self, _p: *const f32) {}
        #[inline(always)]
        unsafe fn load_ptr(self, p: *const f32) -> Self::V {
            // SAFETY: the caller promises LANES readable floats.
            unsafe { p.cast::<[f32; 8]>().read_unaligned() }
        }
        #[inline(always)]
        unsafe fn load_f16(self, p: *const u16) -> Self::V {
            // SAFETY: the caller promises LANES readable numbers.
            std::array::from_fn(|i| half::f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
        }
        #[inline(always)]
        unsafe fn load_bf16(self, p: *const u16) -> Self::V {
            // SAFETY: the caller promises LANES readable numbers.
            std::array::from_fn(|i| f32::from_bits((unsafe { p.add(i).read_unaligned() } as u32) << 16))
        }
        #[inline(always)]
        unsafe fn load_i8(self, p: *const i8) -> Self::V {
            // SAFETY: the caller promises LANES readable bytes.
            std::array::from_fn(|i| unsafe { *p.add(i) } as f32)
        }
        #[inline(always)]
        unsafe fn store_f16(self, p: *mut u16, a: Self::V) {
            for (i, &x) in a.iter().enumerate() {
                // SAFETY: the caller promises LANES writable numbers.
                unsafe { p.add(i).write_unaligned(half::f16::from_f32(x).to_bits()) }
            }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut f32, a: Self::V) {
            // SAFETY: the caller promises LANES writable floats.
            unsafe { p.cast::<[f32; 8]>().write_unaligned(a) }
        }
        #[inline(always)]
        unsafe fn load_n(self, p: *const f32, n: usize) -> Self::V {
            // SAFETY: the caller promises n readable floats.
            std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize, a: Self::V) {
            for (i, &x) in a.iter().enumerate().take(n) {
                // SAFETY: the caller promises n writable floats.
                unsafe { *p.add(i) = x }
            }
        }
    }
}

/// Asks for the cache lines of `n` floats ahead of their use: into the first cache where they are needed soon (`NEAR`), else the second.
/// Any address may be asked for.
#[inline(always)]
pub(crate) fn prefetch<const NEAR: bool>(from: *const f32, n: usize) {
    #[cfg(target_arch = "x86_64")]
    for i in (0..n).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        let at = from.wrapping_add(i).cast();
        // SAFETY: a prefetch never faults, whatever the address.
        match NEAR {
            true => unsafe { _mm_prefetch::<_MM_HINT_T0>(at) },
            false => unsafe { _mm_prefetch::<_MM_HINT_T1>(at) },
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, n);
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;

//! Random numbers that are a pure function of seed, stream name and place.
//!
//! A [`Rng`] is a Philox key and an offset; drawing moves the offset by the number of values drawn. Streams are named,
//! so adding a use of randomness somewhere does not change the numbers drawn elsewhere. The numbers are those of
//! `gently_kernels::philox` (Salmon et al. 2011) and do not depend on threads or on the CPU's instruction sets.
//!
//! ```
//! use gently_tensor::{Device, DType, Rng};
//! let mut init = Rng::new(1337).stream("init");
//! let w = init.normal([4, 4], 0.0, 0.02, DType::F32, &Device::Cpu)?;
//! let state = init.clone(); // two numbers and a key: enough to continue exactly
//! assert_eq!(init.uniform([3], 0.0, 1.0, DType::F32, &Device::Cpu)?.to_vec::<f32>()?,
//!            state.clone().uniform([3], 0.0, 1.0, DType::F32, &Device::Cpu)?.to_vec::<f32>()?);
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::storage::Buffer;
use crate::{DType, Device, Element, Error, Result, Tensor, ToShape, backend, bf16};
use serde::{Deserialize, Serialize};

/// A stream of random numbers and the place in it. Serialise it to continue exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rng {
    key: [u32; 2],
    offset: u64,
}

/// One round of mixing by splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The root stream of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng::from_key(mix(seed))
    }

    fn from_key(key: u64) -> Rng {
        Rng { key: [key as u32, (key >> 32) as u32], offset: 0 }
    }

    /// The stream of this name below this one, from its start. The place of this stream does not matter.
    pub fn stream(&self, name: &str) -> Rng {
        let mut hash = mix(u64::from(self.key[0]) | u64::from(self.key[1]) << 32);
        for &byte in name.as_bytes() {
            hash = mix(hash ^ u64::from(byte));
        }
        Rng::from_key(mix(hash ^ name.len() as u64))
    }

    /// The stream of this number below this one: layers, workers, steps.
    pub fn substream(&self, index: u64) -> Rng {
        let hash = mix(u64::from(self.key[0]) | u64::from(self.key[1]) << 32);
        Rng::from_key(mix(hash ^ mix(index).rotate_left(17)))
    }

    /// The Philox key of this stream.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The number of values drawn so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves to a place in the stream, which begins again behind its last place, 2⁶⁴ − 1.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Reserves `n` places of the stream and returns the first.
    pub(crate) fn advance(&mut self, n: usize) -> u64 {
        let at = self.offset;
        self.offset = self.offset.wrapping_add(n as u64);
        at
    }

    /// One random 32-bit word.
    pub fn next_u32(&mut self) -> u32 {
        let at = self.advance(1);
        gently_kernels::philox::word(self.key, at)
    }

    /// One random 64-bit word.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// One number in [0, 1), a multiple of 2⁻⁵³.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One number below `n` without bias; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        // Rejection of the incomplete last run of n (Lemire 2019, §2).
        let zone = u64::MAX - u64::MAX % n;
        loop {
            let v = self.next_u64();
            if v < zone {
                return v % n;
            }
        }
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }

    /// Uniform numbers in [low, high) of `shape`: `F64` too has 2²⁴ different ones. Where the dtype has no number in that range,
    /// as between a number and itself, they are the nearest to it.
    ///
    /// # Errors
    /// A dtype that is not a float; bounds, or a distance between them, that are not finite; no memory.
    pub fn uniform(
        &mut self,
        shape: impl ToShape,
        low: f64,
        high: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        const OP: &str = "uniform";
        check_finite(OP, dtype, "low", low)?;
        check_finite(OP, dtype, "high", high)?;
        let span = high - low;
        if !span.is_finite() {
            return Err(Error::BadArgument { op: OP, name: "high − low", value: span, why: "it must be finite" });
        }
        // Scaling and rounding may leave the range by a little.
        let within = [-at_most(-low, dtype), at_most(high.next_down(), dtype)];
        self.draw(OP, shape, dtype, device, false, [span, low], Some(within))
    }

    /// Normal numbers of this mean and standard deviation, of `shape`.
    ///
    /// # Errors
    /// A dtype that is not a float; a mean or a deviation that is not finite in it; no memory.
    pub fn normal(
        &mut self,
        shape: impl ToShape,
        mean: f64,
        std: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        const OP: &str = "normal";
        check_finite(OP, dtype, "mean", mean)?;
        check_finite(OP, dtype, "std", std)?;
        self.draw(OP, shape, dtype, device, true, [std, mean], None)
    }

    #[allow(clippy::too_many_arguments)]
    fn draw(
        &mut self,
        op: &'static str,
        shape: impl ToShape,
        dtype: DType,
        device: &Device,
        normal: bool,
        [scale, shift]: [f64; 2],
        within: Option<[f64; 2]>,
    ) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        let at = self.advance(shape.numel());
        // A bf16 is drawn as f32 and rounded. The distance of two f32 may be more than f32 can hold.
        let made = if dtype == DType::F64 || !(scale as f32).is_finite() { DType::F64 } else { DType::F32 };
        let mut buffer = Buffer::alloc(op, *device, made, shape)?;
        backend::random(&mut buffer, self.key, at, normal, scale, shift);
        // Few if any are changed; on Meta there are none.
        if let Some([least, most]) = within.filter(|[least, most]| least <= most) {
            match made {
                DType::F64 => buffer.slice_mut::<f64>().iter_mut().for_each(|v| *v = v.clamp(least, most)),
                _ => {
                    let (least, most) = (least as f32, most as f32);
                    buffer.slice_mut::<f32>().iter_mut().for_each(|v| *v = v.clamp(least, most));
                }
            }
        }
        Tensor::from_buffer(buffer, shape, None).to_dtype(dtype)
    }
}

/// Refuses what is not finite in a float dtype, and other dtypes.
fn check_finite(op: &'static str, dtype: DType, name: &'static str, value: f64) -> Result<()> {
    let finite = match dtype {
        DType::F64 => value.is_finite(),
        DType::F32 => (value as f32).is_finite(),
        DType::Bf16 => <bf16 as Element>::from_f64(value).is_finite(),
        _ => return Err(Error::UnsupportedDType { op, dtype, takes: "floats" }),
    };
    match finite {
        true => Ok(()),
        false => Err(Error::BadArgument { op, name, value, why: "it must be finite in the dtype asked for" }),
    }
}

/// The largest number of a float dtype that is at most `x`.
fn at_most(x: f64, dtype: DType) -> f64 {
    if dtype == DType::F64 {
        return x;
    }
    let nearest = x as f32;
    let single = if f64::from(nearest) <= x { nearest } else { nearest.next_down() };
    if dtype != DType::Bf16 {
        return f64::from(single);
    }
    // A bf16 is the upper half of an f32. Rounding down goes away from 0 where the sign is set.
    let bits = single.to_bits();
    let bits = if single.is_sign_negative() { bits.saturating_add(0xFFFF) } else { bits };
    f64::from(f32::from_bits(bits & 0xFFFF_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_up_to_another_is_found() {
        for x in [1.0f64, 0.1, 1.5, 3.0, 1e-45, 0.0, -0.1, -1.0, -3.0, 1e30] {
            let below = x.next_down();
            for limit in [x, below] {
                let single = at_most(limit, DType::F32);
                assert_eq!(f64::from(single as f32), single, "{limit}: {single} is no f32");
                assert!(single <= limit && f64::from((single as f32).next_up()) > limit, "{limit}: {single}");
                let half = at_most(limit, DType::Bf16);
                assert_eq!(bf16::from_f32(half as f32).to_f64(), half, "{limit}: {half} is no bf16");
                assert!(half <= limit, "{limit}: {half}");
                let bits = (half as f32).to_bits();
                let next = match half.is_sign_negative() && half != 0.0 {
                    true => f32::from_bits(bits - 0x1_0000),
                    false => f32::from_bits((bits & 0x7FFF_FFFF) + 0x1_0000),
                };
                assert!(f64::from(next) > limit, "{limit}: {next} is not above");
                assert_eq!(at_most(limit, DType::F64), limit);
            }
        }
    }

    fn draw(dtype: DType, low: f64, high: f64) -> Vec<f64> {
        let drawn = Rng::new(3).uniform([40_000], low, high, dtype, &Device::Cpu).unwrap();
        drawn.to_f64_vec().unwrap()
    }

    #[test]
    fn uniform_numbers_stay_below_their_end() {
        for (low, high) in [(0.0, 1.0), (-2.0, -1.0), (0.05, 0.1)] {
            let (single, half) = (draw(DType::F32, low, high), draw(DType::Bf16, low, high));
            let most = at_most(high.next_down(), DType::Bf16);
            let mut reached = 0;
            for (s, h) in single.iter().zip(&half) {
                let rounded = bf16::from_f32(*s as f32).to_f64();
                reached += usize::from(rounded >= high);
                // What was in range is as it was.
                assert_eq!(*h, if rounded >= high { most } else { rounded });
            }
            assert!(reached > 0, "the test needs numbers that round to {high}");
        }
        // Nothing lies between: the end is all there is.
        assert_eq!(draw(DType::F32, 0.5, 0.5)[..2], [0.5; 2]);
    }

    #[test]
    fn uniform_numbers_fill_ranges_of_any_size() {
        let wide = [(1e40, 2e40), (-1e300, 1e300), (1e-50, 2e-50), (0.7, 0.70001), (-3.0, -2.9999)];
        let narrow = [(-3e38, 3e38), (0.7, 0.70001), (-0.70001, -0.7), (1.0, 1.0 + 1e-6)];
        let cases = wide.map(|r| (DType::F64, r)).into_iter().chain(narrow.map(|r| (DType::F32, r)));
        for (dtype, (low, high)) in cases.chain([(DType::Bf16, (-3e38, 3e38)), (DType::Bf16, (0.7, 0.8))]) {
            let drawn = draw(dtype, low, high);
            assert!(drawn.iter().all(|v| (low..high).contains(v)), "{dtype} [{low:e}, {high:e})");
            let mean = drawn.iter().map(|v| v / 40_000.0).sum::<f64>();
            // As far from the middle as rounding to few numbers and forty thousand draws leave it.
            let off = (mean - (low / 2.0 + high / 2.0)).abs();
            assert!(off < 0.03 * (high - low), "{dtype} [{low:e}, {high:e}): {mean:e}");
        }
    }

    #[test]
    fn doubles_are_scaled_and_shifted_as_doubles() {
        let n = 40_000;
        let drawn = Rng::new(3).normal([n], 1e9, 1e-3, DType::F64, &Device::Cpu).unwrap().to_f64_vec().unwrap();
        let unit = Rng::new(3).normal([n], 0.0, 1.0, DType::F32, &Device::Cpu).unwrap().to_f64_vec().unwrap();
        assert!(drawn.iter().zip(&unit).all(|(d, u)| *d == u * 1e-3 + 1e9));
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut rng = Rng::new(3);
        let mut uniform = |low, high, dtype| rng.uniform([2], low, high, dtype, &Device::Cpu);
        let most = f64::MAX;
        for (low, high, dtype) in [
            (0.0, f64::INFINITY, DType::F64),
            (f64::NAN, 1.0, DType::F64),
            (-most, most, DType::F64),
            (0.0, 1e40, DType::F32),
            (0.0, 3.4e38, DType::Bf16),
        ] {
            assert!(matches!(uniform(low, high, dtype), Err(Error::BadArgument { .. })), "{dtype} [{low:e}, {high:e})");
        }
        assert!(matches!(uniform(0.0, 1.0, DType::U8), Err(Error::UnsupportedDType { .. })));
        for (mean, std, dtype) in [(0.0, f64::INFINITY, DType::F64), (1e40, 1.0, DType::F32)] {
            let refused = rng.normal([2], mean, std, dtype, &Device::Cpu);
            assert!(matches!(refused, Err(Error::BadArgument { .. })), "{dtype} {mean:e} {std:e}");
        }
        assert_eq!(rng.offset(), 0, "what is refused draws nothing");
    }

    #[test]
    fn a_stream_begins_again_behind_its_last_place() {
        for dtype in [DType::F32, DType::F64] {
            let at = |offset: u64, n: usize| {
                let mut rng = Rng::new(3);
                rng.seek(offset);
                let drawn = rng.uniform([n], 0.0, 1.0, dtype, &Device::Cpu).unwrap().to_f64_vec().unwrap();
                (drawn, rng.offset())
            };
            let (around, end) = at(u64::MAX - 19_999, 50_000);
            assert_eq!(end, 30_000);
            assert!(around[20_000..] == at(0, 30_000).0);
            let mut rng = Rng::new(3);
            rng.seek(u64::MAX - 1);
            rng.normal([5], 0.0, 1.0, dtype, &Device::Cpu).unwrap();
            rng.seek(u64::MAX - 1);
            let x = Tensor::ones([40_000], dtype, &Device::Cpu).unwrap();
            assert_eq!(x.dropout(0.5, &mut rng).unwrap().dims(), x.dims());
        }
    }
}

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
use crate::{DType, Device, Error, Result, Tensor, ToShape, backend};
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

    /// Moves to a place in the stream.
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

    /// Uniform numbers in [low, high) of `shape`. Errors: a dtype that is not a float.
    pub fn uniform(
        &mut self,
        shape: impl ToShape,
        low: f64,
        high: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        // Between two neighbours of the dtype there is nothing below `high` to be had.
        let most = if low < high { below(high, dtype) } else { f32::INFINITY };
        let most = if f64::from(most) < low { f32::INFINITY } else { most };
        self.draw("uniform", shape, dtype, device, false, [high - low, low], most)
    }

    /// Normal numbers of this mean and standard deviation, of `shape`. Errors: a dtype that is not a float.
    pub fn normal(
        &mut self,
        shape: impl ToShape,
        mean: f64,
        std: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.draw("normal", shape, dtype, device, true, [std, mean], f32::INFINITY)
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
        most: f32,
    ) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        if !dtype.is_float() {
            return Err(Error::UnsupportedDType { op, dtype, takes: "floats" });
        }
        let at = self.advance(shape.numel());
        let mut buffer = Buffer::alloc(op, *device, DType::F32, shape)?;
        backend::random(&mut buffer, self.key, at, normal, scale as f32, shift as f32);
        if most < f32::INFINITY {
            // Few if any are changed; on Meta there are none.
            buffer.slice_mut::<f32>().iter_mut().filter(|v| **v > most).for_each(|v| *v = most);
        }
        Tensor::from_buffer(buffer, shape, None).to_dtype(dtype)
    }
}

/// The largest number below `high` of a float dtype, as f32: scaling and rounding may reach `high` itself. `F64` numbers are
/// drawn as f32 too.
fn below(high: f64, dtype: DType) -> f32 {
    let nearest = high as f32;
    let single = if f64::from(nearest) < high { nearest } else { nearest.next_down() };
    if dtype != DType::Bf16 {
        return single;
    }
    // A bf16 is the upper half of an f32. Rounding down goes away from 0 where the sign is set.
    let bits = single.to_bits();
    let bits = if single.is_sign_negative() { bits.saturating_add(0xFFFF) } else { bits };
    f32::from_bits(bits & 0xFFFF_0000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn the_largest_number_below_is_found() {
        for high in [1.0, 0.1, 1.5, 3.0, 1e-45, 0.0, -0.1, -1.0, -3.0, 1e30] {
            let single = below(high, DType::F32);
            assert!(f64::from(single) < high && f64::from(single.next_up()) >= high, "{high}: {single}");
            let half = below(high, DType::Bf16);
            assert_eq!(bf16::from_f32(half).to_f32(), half, "{high}: {half} is no bf16");
            assert!(f64::from(half) < high, "{high}: {half}");
            let bits = half.to_bits();
            let next = f32::from_bits(if half.is_sign_negative() { bits - 0x1_0000 } else { bits + 0x1_0000 });
            assert!(f64::from(next) >= high, "{high}: {next} is below too");
        }
    }

    #[test]
    fn uniform_numbers_stay_below_their_end() {
        let draw = |dtype, low, high| {
            let drawn = Rng::new(3).uniform([40_000], low, high, dtype, &Device::Cpu).unwrap();
            drawn.to_f64_vec().unwrap()
        };
        for (low, high) in [(0.0, 1.0), (-2.0, -1.0), (0.05, 0.1)] {
            let (single, half) = (draw(DType::F32, low, high), draw(DType::Bf16, low, high));
            let most = f64::from(below(high, DType::Bf16));
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
        assert_eq!(
            Rng::new(3).uniform([2], 0.5, 0.5, DType::F32, &Device::Cpu).unwrap().to_f64_vec().unwrap(),
            [0.5; 2]
        );
    }
}

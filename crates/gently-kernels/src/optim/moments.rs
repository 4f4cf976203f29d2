//! How moments are kept: in f32, or in bf16 at half the memory.
//!
//! A moment moves by a hundredth or a thousandth of itself in a step, and a bf16 number's neighbours lie 0.4 to 0.8 % away: rounded
//! to nearest, many would never move. So they are rounded up or down at random, up as often as they lie near (Gupta et al. 2015,
//! arXiv:1502.02551 §3): the mean is the number itself. DeepSeek-V3 keeps AdamW's moments in bf16 (arXiv:2412.19437 §3.3.3), with
//! weights and gradients in f32, as here.

use crate::philox;
use half::bf16;

/// Where the random bits of an update of one parameter come from: a key of its own for each parameter and step.
pub type Noise = [u32; 2];

/// A moment, in the type in which it is kept.
// No type parameter: a step would be compiled in the crate that calls it, with that crate's optimisation.
#[derive(Debug)]
pub enum Moment<'a> {
    /// As it is computed.
    F32(&'a mut [f32]),
    /// Rounded up or down at random after each step.
    Bf16(&'a mut [bf16]),
}

impl Moment<'_> {
    /// Numbers.
    pub(super) fn len(&self) -> usize {
        match self {
            Moment::F32(x) => x.len(),
            Moment::Bf16(x) => x.len(),
        }
    }
}

impl<'a> From<&'a mut [f32]> for Moment<'a> {
    fn from(x: &'a mut [f32]) -> Self {
        Moment::F32(x)
    }
}

impl<'a> From<&'a mut [bf16]> for Moment<'a> {
    fn from(x: &'a mut [bf16]) -> Self {
        Moment::Bf16(x)
    }
}

/// Numbers that are widened, updated and rounded together, so that they stay in the first cache meanwhile.
pub(super) const BLOCK: usize = 1024;

/// `to[i] = from[i]`, exactly.
#[inline(always)]
pub(super) fn widen(from: &[bf16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32::from_bits((from.to_bits() as u32) << 16);
    }
}

/// `to[i]` is one of the two neighbours of `from[i]`, at random; `block` names this stretch among those of `noise`. Numbers that bf16
/// has stay what they are, infinities and NaN too.
#[inline(always)]
pub(super) fn round(from: &[f32], to: &mut [bf16], noise: Noise, block: usize) {
    let start = philox::word(noise, block as u64);
    for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
        *to = round_by(*from, scatter(start ^ i as u32) & 0xffff);
    }
}

/// [`round`] for two moments of the same numbers: the halves of a random word serve one each.
#[inline(always)]
pub(super) fn round_both([m, v]: [&[f32]; 2], to_m: &mut [bf16], to_v: &mut [bf16], noise: Noise, block: usize) {
    let start = philox::word(noise, block as u64);
    for (i, ((m, v), (to_m, to_v))) in m.iter().zip(v).zip(to_m.iter_mut().zip(to_v)).enumerate() {
        let word = scatter(start ^ i as u32);
        *to_m = round_by(*m, word & 0xffff);
        *to_v = round_by(*v, word >> 16);
    }
}

/// Up where the 16 random bits are more than what is missing to the next number away from 0. Of a NaN only the upper half is taken.
#[inline(always)]
fn round_by(x: f32, random: u32) -> bf16 {
    let bits = x.to_bits();
    let (moved, quiet) = (bits.wrapping_add(random), bits | 0x0040_0000);
    bf16::from_bits(((if x.is_nan() { quiet } else { moved }) >> 16) as u16)
}

/// Numbers that differ in one bit to numbers that differ in about half of them: a bijection of 32 bits found by search
/// (Wellons 2018, <https://nullprogram.com/blog/2018/07/31/>). Philox for each number would take longer than the whole update.
#[inline(always)]
fn scatter(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

//! Which attention probabilities dropout keeps, as a pure function of where they stand.
//!
//! Here: the mapping from (batch, head, query, key) to bits of Philox, and masks of 64 keys at a time.
//! Because randomness is indexed by coordinates, the backward makes the same mask again, whatever the
//! blocks and threads.
//!
//! One call of Philox yields eight 16-bit numbers. The counter is `[16·⌊j/64⌋ + j mod 16, ⌊i/2⌋,
//! 2³¹ + b·H + h, offset]` for key j and query position i; its word is `⌊j/16⌋ mod 4`, its half `i mod 2`.
//! So the masks of two queries over 64 keys are sixteen calls side by side, with no shuffle.

use crate::dropout::Dropout;
use crate::philox::philox_lanes;

impl Dropout {
    /// 16-bit numbers below this are dropped.
    #[inline]
    fn threshold_16(&self) -> u32 {
        (self.p as f64 * 65536.0).round().min(65535.0) as u32
    }

    /// What kept probabilities are multiplied by.
    #[inline]
    pub(super) fn gain(&self) -> f64 {
        65536.0 / (65536 - self.threshold_16()) as f64
    }

    /// The key with the high half of the offset, which has no place in the counter.
    #[inline]
    fn key_of_call(&self) -> [u32; 2] {
        [self.key[0], self.key[1].wrapping_add((self.offset >> 32) as u32)]
    }

    /// Whether head `bh` = b·H + h keeps key `j` for the query at position `i`.
    pub(super) fn keeps(&self, bh: usize, i: usize, j: usize) -> bool {
        self.masks(bh, i / 2, j / 64)[i % 2] >> (j % 64) & 1 == 1
    }

    /// Masks of the queries at positions `2·pair` and `2·pair + 1` over keys `64·tile ..`; bit set: kept.
    #[inline(always)]
    pub(super) fn masks(&self, bh: usize, pair: usize, tile: usize) -> [u64; 2] {
        let mut counters = [[0; 16], [pair as u32; 16], [1 << 31 | bh as u32; 16], [self.offset as u32; 16]];
        for (lane, c) in counters[0].iter_mut().enumerate() {
            *c = (16 * tile + lane) as u32;
        }
        let words = philox_lanes(counters, self.key_of_call());
        let threshold = self.threshold_16();
        let mut masks = [0; 2];
        for (w, word) in words.iter().enumerate() {
            let mut halves = [0u16; 2];
            for (lane, x) in word.iter().enumerate() {
                halves[0] |= ((x & 0xFFFF >= threshold) as u16) << lane;
                halves[1] |= ((x >> 16 >= threshold) as u16) << lane;
            }
            masks[0] |= (halves[0] as u64) << (16 * w);
            masks[1] |= (halves[1] as u64) << (16 * w);
        }
        masks
    }
}

/// [`Dropout::masks`] with all sixteen calls in one register for each word.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use crate::dropout::Dropout;
    use crate::philox::{ROUND_KEY, ROUND_MUL};
    use std::arch::x86_64::*;

    /// High and low halves of the sixteen products x · m.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn product(x: __m512i, m: __m512i) -> (__m512i, __m512i) {
        let even = _mm512_mul_epu32(x, m);
        let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(x), m);
        let high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd);
        let low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64::<32>(odd));
        (high, low)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn masks(d: &Dropout, bh: usize, pair: usize, tile: usize) -> [u64; 2] {
        let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let all = |x: u32| _mm512_set1_epi32(x as i32);
        let mut c0 = _mm512_add_epi32(all(16 * tile as u32), lanes);
        let (mut c1, mut c2, mut c3) = (all(pair as u32), all(1 << 31 | bh as u32), all(d.offset as u32));
        let [mut k0, mut k1] = d.key_of_call();
        let m = ROUND_MUL.map(all);
        for _ in 0..10 {
            let (high0, low0) = product(c0, m[0]);
            let (high1, low1) = product(c2, m[1]);
            // 0x96: the exclusive or of three.
            c0 = _mm512_ternarylogic_epi32::<0x96>(high1, c1, all(k0));
            c2 = _mm512_ternarylogic_epi32::<0x96>(high0, c3, all(k1));
            (c1, c3) = (low1, low0);
            k0 = k0.wrapping_add(ROUND_KEY[0]);
            k1 = k1.wrapping_add(ROUND_KEY[1]);
        }
        let threshold = all(d.threshold_16());
        let mut masks = [0; 2];
        for (w, word) in [c0, c1, c2, c3].into_iter().enumerate() {
            let low = _mm512_cmpge_epu32_mask(_mm512_and_si512(word, all(0xFFFF)), threshold);
            let high = _mm512_cmpge_epu32_mask(_mm512_srli_epi32::<16>(word), threshold);
            masks[0] |= (low as u64) << (16 * w);
            masks[1] |= (high as u64) << (16 * w);
        }
        masks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn sixteen_lanes_equal_the_portable_masks() {
        if !crate::cpu::Path::Avx512.supported() {
            return;
        }
        for i in 0..200usize {
            let (p, offset) = (i as f32 / 200.0, (i as u64) << (i % 60));
            let d = Dropout { p, key: [i as u32, u32::MAX - i as u32], offset };
            let at = (i * 77, i * 1001, i % 9);
            // SAFETY: the processor has the instructions.
            assert_eq!(unsafe { avx512::masks(&d, at.0, at.1, at.2) }, d.masks(at.0, at.1, at.2));
        }
    }

    #[test]
    fn keeps_the_wanted_share_and_nothing_repeats() {
        for p in [0.0, 0.1, 0.5, 0.999] {
            let d = Dropout { p, key: [3, 4], offset: 77 };
            let n = 64 * 2 * 500;
            let kept: u32 = (0..500).flat_map(|i| d.masks(i % 7, i / 7, i % 5)).map(u64::count_ones).sum();
            let share = kept as f64 / n as f64;
            assert!((share - (1.0 - p as f64)).abs() < 0.01, "{p}: {share}");
            assert!((share * d.gain() - 1.0).abs() < 0.3);
        }
        let d = Dropout { p: 0.5, key: [3, 4], offset: 0 };
        let mut seen = std::collections::HashSet::new();
        for bh in 0..4 {
            for pair in 0..8 {
                for tile in 0..4 {
                    for m in d.masks(bh, pair, tile) {
                        assert!(seen.insert(m));
                    }
                }
            }
        }
        for other in [Dropout { offset: 1, ..d }, Dropout { offset: 1 << 32, ..d }, Dropout { key: [3, 5], ..d }] {
            assert_ne!(d.masks(0, 0, 0), other.masks(0, 0, 0));
        }
    }
}

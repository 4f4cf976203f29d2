//! Which attention probabilities dropout keeps, as a pure function of where they stand.
//!
//! Here: the mapping from (batch, head, query, key) to bits of Philox, and masks of 64 keys at a time.
//! Because randomness is indexed by coordinates, the backward makes the same mask again, whatever the
//! blocks and threads.
//!
//! One call of Philox yields eight 16-bit numbers. The counter is `[16·⌊j/64⌋ + j mod 16, ⌊i/2⌋,
//! 2³¹ + b·H + h, offset]` for key j and query position i; its word is `⌊j/16⌋ mod 4`, its half `i mod 2`.
//! So the masks of two queries over 64 keys are sixteen calls side by side, with no shuffle.

use crate::philox::philox_lanes;

/// Dropout of attention probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that a weight is dropped, in [0, 1); used to the nearest 2⁻¹⁶.
    pub p: f32,
    /// Key of the random stream.
    pub key: [u32; 2],
    /// Place in the random stream: two calls with the same key must not share it.
    pub offset: u64,
}

impl Dropout {
    /// 16-bit numbers below this are dropped.
    #[inline]
    pub(super) fn threshold(&self) -> u32 {
        (self.p as f64 * 65536.0).round().min(65535.0) as u32
    }

    /// What kept probabilities are multiplied by.
    #[inline]
    pub fn gain(&self) -> f64 {
        65536.0 / (65536 - self.threshold()) as f64
    }

    #[inline]
    fn key(&self) -> [u32; 2] {
        [self.key[0], self.key[1].wrapping_add((self.offset >> 32) as u32)]
    }

    /// Whether head `bh` = b·H + h keeps key `j` for the query at position `i`.
    pub fn keeps(&self, bh: usize, i: usize, j: usize) -> bool {
        self.masks(bh, i / 2, j / 64)[i % 2] >> (j % 64) & 1 == 1
    }

    /// Masks of the queries at positions `2·pair` and `2·pair + 1` over keys `64·tile ..`; bit set: kept.
    #[inline(always)]
    pub(super) fn masks(&self, bh: usize, pair: usize, tile: usize) -> [u64; 2] {
        let mut counters = [[0; 16], [pair as u32; 16], [1 << 31 | bh as u32; 16], [self.offset as u32; 16]];
        for (lane, c) in counters[0].iter_mut().enumerate() {
            *c = (16 * tile + lane) as u32;
        }
        let words = philox_lanes(counters, self.key());
        let threshold = self.threshold();
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

#[cfg(test)]
mod tests {
    use super::*;

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

//! Shuffles that need no memory: a keyed permutation of 0..n, computed for one index at a time, so that a loader's
//! place in an epoch is a number.
//!
//! A balanced Feistel network on the next even number of bits, walked until it lands inside (Black and Rogaway,
//! "Ciphers with arbitrary finite domains", 2002, cycle walking).

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Enough for a shuffle; this is no cipher.
const ROUNDS: usize = 6;

/// A permutation of 0..n.
#[derive(Debug, Clone)]
pub(crate) struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of 0..n that belongs to `seed` and `words`.
    pub fn new(n: u64, seed: u64, words: &[u64]) -> Self {
        let bits = (64 - n.saturating_sub(1).leading_zeros()).max(2);
        let key = draw(seed, words);
        Self { n, half: bits.div_ceil(2), keys: std::array::from_fn(|r| mix(key.wrapping_add(r as u64))) }
    }

    /// Where index `i` < n goes.
    pub fn get(&self, i: u64) -> u64 {
        debug_assert!(i < self.n);
        let mut x = i;
        loop {
            x = self.round_trip(x);
            if x < self.n {
                return x;
            }
        }
    }

    fn round_trip(&self, x: u64) -> u64 {
        let low = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & low);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & low));
        }
        left << self.half | right
    }
}

/// A number that depends on all of `seed` and `words`.
pub(crate) fn draw(seed: u64, words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    xxh3_64_with_seed(&bytes, seed)
}

/// A number in 0..n, n > 0, by multiplication (the bias, n/2⁶⁴, is far below notice).
pub(crate) fn draw_below(n: u64, seed: u64, words: &[u64]) -> u64 {
    ((u128::from(draw(seed, words)) * u128::from(n)) >> 64) as u64
}

/// splitmix64's finaliser (Steele, Lea and Flood 2014).
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_once_for_every_size() {
        for n in (1..70).chain([255, 256, 257, 1000, 4097]) {
            let p = Permutation::new(n, 7, &[n]);
            let mut seen = vec![false; n as usize];
            for i in 0..n {
                assert!(!std::mem::replace(&mut seen[p.get(i) as usize], true), "{n}");
            }
        }
    }

    #[test]
    fn keys_give_other_orders_and_neighbours_part() {
        let (a, b) = (Permutation::new(10_000, 1, &[0]), Permutation::new(10_000, 1, &[1]));
        let same = (0..10_000).filter(|&i| a.get(i) == b.get(i)).count();
        assert!(same < 10, "{same}");
        let near = (1..10_000).filter(|&i| a.get(i).abs_diff(a.get(i - 1)) < 10).count();
        assert!(near < 60, "{near}");
    }
}

//! What dropout is of: a probability and a place in a random stream.
//!
//! Here: [`Dropout`]. Not here: what is dropped. That is a pure function of this and of where a number stands, so the backward
//! makes the same mask again and nothing is stored: numbers of a tensor have 32 random bits each, by their place
//! ([`Dropout::apply`]); probabilities of attention have 16, by batch, head, query and key (`attention::dropout`).

/// Which numbers are dropped (Srivastava et al. 2014).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability that a number becomes 0, in [0, 1); attention uses it to the nearest 2⁻¹⁶.
    pub p: f32,
    /// Key of the random stream.
    pub key: [u32; 2],
    /// Place in the random stream. A tensor takes as many places as it has numbers, a call of attention takes one: calls with
    /// the same key must not share places.
    pub offset: u64,
}

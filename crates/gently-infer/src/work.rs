//! The memory of a pass: allocated once, used again.

use crate::error::{Result, no_memory};
use crate::matrix::Inputs;
use gently_kernels::buffer::AlignedBuf;

/// What the rows of a pass are called where there is no memory for them.
pub(crate) const ROWS: &str = "a pass's rows";

/// Buffers of a pass. One belongs to whoever runs passes; it grows to the largest pass and stays.
#[derive(Default)]
pub struct Work {
    pub(crate) stream: Stream,
    /// Queries, keys and values, `[N, (H+2Hk)·D]`.
    pub(crate) qkv: Buffer,
    /// Heads on their way through a norm, `[N·H, D]`, and normalised.
    pub(crate) heads: Buffer,
    pub(crate) heads_normed: Buffer,
    /// Attention's output, `[N, H·D]`.
    pub(crate) mixed: Buffer,
    /// Statistics of attention's rows, which a pass over documents leaves unread, `[H, N, 2]`.
    pub(crate) stats: Buffer,
    /// Hidden rows of the MLP, `[N, M]`, and those of a gate with a matrix of its own.
    pub(crate) hidden: Buffer,
    pub(crate) up: Buffer,
    /// Rows in the forms that matrices want.
    pub(crate) inputs: Inputs,
    /// What goes into the head, `[R, C]`, R the rows whose logits are wanted.
    pub(crate) features: Buffer,
    pub(crate) features_len: usize,
    /// `[R, V]`
    pub(crate) logits: Buffer,
    /// Position of each row, `[N]`.
    pub(crate) at: Vec<u32>,
}

/// The residual stream and what norms need beside it.
#[derive(Default)]
pub(crate) struct Stream {
    /// `[N, C]`
    pub x: Buffer,
    /// Normalised rows, `[N, C]`.
    pub h: Buffer,
    /// A branch's output on its way through a norm, `[N, C]`.
    pub y: Buffer,
    /// Statistics of norms, `[N·H]` each.
    pub mean: Buffer,
    pub rstd: Buffer,
}

impl Work {
    /// Buffers that are made as they are needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// What went into the head for each of the logits that the last pass gave, `[R, C]`.
    pub fn features(&self) -> &[f32] {
        self.features.0.as_deref().map_or(&[], |f| &f[..self.features_len])
    }

    /// Bytes held, between passes as well.
    pub fn bytes(&self) -> usize {
        let s = &self.stream;
        let stream = [&s.x, &s.h, &s.y, &s.mean, &s.rstd];
        let rest = [
            &self.qkv,
            &self.heads,
            &self.heads_normed,
            &self.mixed,
            &self.stats,
            &self.hidden,
            &self.up,
            &self.features,
            &self.logits,
        ];
        let buffers: usize = stream.iter().chain(&rest).map(|b| b.0.as_ref().map_or(0, |b| 4 * b.len())).sum();
        buffers + self.inputs.bytes() + 4 * self.at.capacity()
    }
}

/// A buffer that grows.
#[derive(Default)]
pub(crate) struct Buffer(Option<AlignedBuf<f32>>);

impl Buffer {
    /// The first `len` numbers, contents unspecified.
    ///
    /// # Errors
    /// [`crate::Error::NoMemory`]; the buffer is then empty.
    pub fn take(&mut self, len: usize) -> Result<&mut [f32]> {
        if self.0.as_ref().is_none_or(|b| b.len() < len) {
            // Given back first: the old one and the new one need no room together.
            self.0 = None;
            self.0 = Some(AlignedBuf::try_zeroed(len).map_err(no_memory(ROWS))?);
        }
        Ok(match &mut self.0 {
            Some(buf) => &mut buf[..len],
            None => &mut [],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn what_no_machine_has_is_refused_by_name() {
        let mut buffer = Buffer::default();
        buffer.take(3).unwrap().fill(1.0);
        let said = buffer.take(1 << 46).unwrap_err();
        assert!(matches!(said, Error::NoMemory { bytes, .. } if bytes == 4 << 46), "{said}");
        assert_eq!(buffer.take(5).unwrap().len(), 5);
    }
}

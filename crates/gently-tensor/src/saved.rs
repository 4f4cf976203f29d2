//! What a backward keeps of its operation's input: the values, or the way to make them again.
//!
//! A norm, an activation and a gate keep their own input for their own backward, and one pass over it gives their result
//! again, bit for bit. So a product that reads such a result does not keep it too: its backward asks the input's node, which
//! is older and still has all it needs. Of an MLP that halves what is kept. Results under [`LEAST`] are kept: they may
//! still lie in a cache, and there are few bytes to gain.

use crate::tape::Node;
use crate::tensor::View;
use crate::{Result, Tensor, profile};
use std::sync::Arc;

/// Bytes from which a result is made again.
const LEAST: usize = 2 << 20;

/// An input as the backward will read it.
pub(crate) enum Saved {
    /// Its values.
    Kept(View),
    /// The node that can make them.
    Again(Arc<Node>),
}

impl Saved {
    /// Saves `view`, the dense values of `t`.
    pub fn new(t: &Tensor, view: View) -> Saved {
        match t.node().filter(|node| view.bytes() >= LEAST && node.can_repeat() && t.is_as_made()) {
            Some(node) => Saved::Again(node.clone()),
            None => Saved::Kept(view),
        }
    }

    /// The values. Errors: there is no memory to make them again.
    pub fn view(self) -> Result<View> {
        match self {
            Saved::Kept(view) => Ok(view),
            Saved::Again(node) => {
                let _again = profile::recompute();
                node.repeat()
            }
        }
    }
}

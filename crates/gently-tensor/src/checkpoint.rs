//! Recomputation: a block whose intermediates are not kept but computed again in the backward
//! (Chen et al. 2016, arXiv:1604.06174).
//!
//! ```
//! use gently_tensor::{checkpoint, Device, Rng, Tensor};
//! let w = Tensor::from_slice(&[2.0f32, 3.0], [2], &Device::Cpu)?.param()?;
//! let mut rng = Rng::new(0).stream("dropout");
//! let block = { let w = w.clone(); move |xs: &[Tensor], _: &mut Rng| xs[0].mul(&w)?.exp() };
//! let x = Tensor::from_slice(&[0.1f32, 0.2], [2], &Device::Cpu)?.param()?;
//! let grads = checkpoint(&[&x], &mut rng, block)?.sum_all()?.backward()?;
//! assert!(grads.get(&w).is_some() && grads.get(&x).is_some());
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::tape::{Node, is_recording, with_recording};
use crate::{Op, Result, Rng, Tensor, TensorId, no_grad, profile};

/// Runs `block` keeping only `inputs`; the backward runs it again, recording, and differentiates that.
///
/// Randomness must come from the `rng` that the block is given: the second run starts at the same place of the same
/// stream, so dropout falls on the same elements. Parameters may be captured by the block and get their gradients as
/// usual; tracked intermediates must be passed as inputs (capturing one is an error in the backward). Outside a
/// recording tape this just runs the block.
///
/// # Errors
/// What the block refuses.
pub fn checkpoint(
    inputs: &[&Tensor],
    rng: &mut Rng,
    block: impl Fn(&[Tensor], &mut Rng) -> Result<Tensor> + Send + 'static,
) -> Result<Tensor> {
    if !is_recording() {
        return block(&Vec::from_iter(inputs.iter().map(|t| t.detach())), rng);
    }
    // The second run must read what the first one read.
    let owned = inputs.iter().map(|t| t.snapshot(Op::Checkpoint.name())).collect::<Result<Vec<_>>>()?;
    let start = rng.clone();
    let out = no_grad(|| block(&owned, rng))?;
    let node = Node::new(Op::Checkpoint, inputs, move |sink, g| {
        // Nodes of the second run are newer than this number; meeting an older one means a captured intermediate.
        let floor = TensorId::next().number();
        let leaves = Vec::from_iter(owned.into_iter().map(|t| t.detach()));
        for (i, leaf) in leaves.iter().enumerate() {
            if sink.needs(i) {
                leaf.set_requires_grad(true)?;
            }
        }
        let again = profile::recompute();
        let out = with_recording(true, || block(&leaves, &mut start.clone()))?;
        drop(again);
        if !out.is_tracked() {
            return Ok(());
        }
        sink.nested(&out, g, floor)?;
        for (i, leaf) in leaves.iter().enumerate() {
            if let Some(grad) = sink.take_leaf(leaf) {
                sink.give(i, grad)?;
            }
        }
        Ok(())
    });
    Ok(out.detach().attach(node))
}

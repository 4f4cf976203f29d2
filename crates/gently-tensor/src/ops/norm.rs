//! Layer norm and RMS norm over the last dimension.

use super::{dense, need_float, need_same, need_shape};
use crate::backend::{self, NormGrads, NormKind};
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::tensor::View;
use crate::{Error, Op, Result, Shape, Tensor, profile};

impl Tensor {
    /// (x − mean)/√(var + eps)·w + b over the last dimension, `[…, C]`; w and b `[C]`
    /// (Ba et al. 2016, arXiv:1607.06450). Errors: shapes, dtypes other than f32 and f64.
    pub fn layer_norm(&self, w: &Tensor, b: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        self.norm(Op::LayerNorm, NormKind::Layer, Some(w), b, eps)
    }

    /// x/√(mean(x²) + eps)·w over the last dimension, `[…, C]`; w `[C]`
    /// (Zhang and Sennrich 2019, arXiv:1910.07467). Errors as [`Tensor::layer_norm`].
    pub fn rms_norm(&self, w: &Tensor, eps: f64) -> Result<Tensor> {
        self.norm(Op::RmsNorm, NormKind::Rms, Some(w), None, eps)
    }

    /// [`Tensor::rms_norm`] without a gain.
    ///
    /// # Errors
    /// A single value, rows of no elements, a dtype that is not f32 or f64, no memory.
    #[doc(hidden)]
    pub fn rms_norm_plain(&self, eps: f64) -> Result<Tensor> {
        self.norm(Op::RmsNorm, NormKind::Rms, None, None, eps)
    }

    /// [`Tensor::layer_norm`] without gain and shift.
    ///
    /// # Errors
    /// As [`Tensor::rms_norm_plain`].
    #[doc(hidden)]
    pub fn layer_norm_plain(&self, eps: f64) -> Result<Tensor> {
        self.norm(Op::LayerNorm, NormKind::Layer, None, None, eps)
    }

    fn norm(&self, op: Op, kind: NormKind, w: Option<&Tensor>, b: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let name = op.name();
        let _op = profile::op(name);
        need_float(name, self)?;
        let width = self.shape().last();
        if self.rank() == 0 || width == 0 {
            return Err(Error::BadShape {
                op: name,
                shape: Box::new(*self.shape()),
                why: "there is no row to normalise",
            });
        }
        for t in [w, b].into_iter().flatten() {
            need_same(name, self, t)?;
            need_shape(name, t, &[width], "gain and shift are [C], C the last dimension of x")?;
        }
        let (shape, device, dtype) = (*self.shape(), self.device(), self.dtype());
        let rows = shape.numel() / width;
        let x = dense(name, self)?;
        let wv = w.map(|t| dense(name, t)).transpose()?;
        let bv = b.map(|t| dense(name, t)).transpose()?;
        let mean_len = if kind == NormKind::Layer { rows } else { 0 };
        let (from, gain) = (x.clone(), wv.clone());
        let make = move || {
            let mut out = Buffer::alloc(name, device, dtype, shape)?;
            let mut mean = Buffer::alloc(name, device, dtype, Shape::raw(&[mean_len]))?;
            let mut rstd = Buffer::alloc(name, device, dtype, Shape::raw(&[rows]))?;
            backend::norm(&mut out, kind, &from, gain.as_ref(), bv.as_ref(), eps, &mut mean, &mut rstd);
            Ok((out, mean, rstd))
        };
        let (out, mean, rstd) = make()?;
        let mut inputs = vec![self];
        inputs.extend(w);
        inputs.extend(b);
        let (w_at, b_at) = (w.map(|_| 1), b.map(|_| 1 + usize::from(w.is_some())));
        let node = recording(&inputs).then(|| {
            let again = move || Ok(View::of(make()?.0, shape));
            Node::later(op, &inputs).repeated_by(again).with(move |s, g| {
                let dy = dense(name, &g)?;
                drop(g);
                let mut dx = s.open(0)?;
                let mut dw = w_at.map(|i| s.open(i)).transpose()?.flatten();
                let mut db = b_at.map(|i| s.open(i)).transpose()?.flatten();
                // One kernel writes all three; a gradient of parameters that is fresh beside one that is not starts at 0.
                let accumulate_params = [&dw, &db].into_iter().flatten().any(|a| a.accumulate);
                if accumulate_params {
                    [&mut dw, &mut db].into_iter().flatten().for_each(|a| a.make_additive());
                }
                let mut unused = None;
                let accumulate_dx = dx.as_ref().is_some_and(|a| a.accumulate);
                let dx_buffer = match &mut dx {
                    Some(acc) => acc.buffer(),
                    None => unused.insert(Buffer::alloc(name, device, dtype, shape)?),
                };
                backend::norm_backward(
                    device,
                    kind,
                    &x,
                    wv.as_ref(),
                    eps,
                    &mean,
                    &rstd,
                    &dy,
                    NormGrads {
                        dx: dx_buffer,
                        accumulate_dx,
                        dw: dw.as_mut().map(|a| a.buffer()),
                        db: db.as_mut().map(|a| a.buffer()),
                        accumulate_params,
                    },
                );
                s.close(0, dx)?;
                if let Some(i) = w_at {
                    s.close(i, dw)?;
                }
                if let Some(i) = b_at {
                    s.close(i, db)?;
                }
                Ok(())
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }
}

//! Arithmetic, element by element: two operands with broadcasting, or one.
//!
//! Sizes are aligned at the last dimension and must be equal or 1. `f32` and `f64` compute as they are; `bf16` goes
//! through `f32` and is rounded once at the end.

use super::{dense, need_float, need_same};
use crate::backend::{self, Binary, Unary, UnaryOp};
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::{DType, Error, Op, Result, Tensor, profile};

impl Tensor {
    /// a + b. Errors: shapes that do not broadcast, different dtypes or devices, integers.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(Op::Add, Binary::Add, other)
    }

    /// a − b; errors as [`Tensor::add`].
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(Op::Sub, Binary::Sub, other)
    }

    /// a · b, element by element; errors as [`Tensor::add`].
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(Op::Mul, Binary::Mul, other)
    }

    /// a / b; errors as [`Tensor::add`].
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(Op::Div, Binary::Div, other)
    }

    /// The larger of two; where equal the gradient goes to `self`. Errors as [`Tensor::add`].
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(Op::Maximum, Binary::Max, other)
    }

    /// The smaller of two; where equal the gradient goes to `self`. Errors as [`Tensor::add`].
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        self.binary(Op::Minimum, Binary::Min, other)
    }

    fn binary(&self, op: Op, f: Binary, other: &Tensor) -> Result<Tensor> {
        let _op = profile::op(op.name());
        need_same(op.name(), self, other)?;
        if self.dtype() == DType::Bf16 {
            let (a, b) = (self.to_dtype(DType::F32)?, other.to_dtype(DType::F32)?);
            return a.binary(op, f, &b)?.to_dtype(DType::Bf16);
        }
        need_float(op.name(), self)?;
        let shape = self.shape().broadcast(other.shape(), op.name())?;
        let (mut a, mut b) = (self.view(op.name())?, other.view(op.name())?);
        a.layout = a.layout.broadcast_to(shape);
        b.layout = b.layout.broadcast_to(shape);
        let mut out = Buffer::alloc(op.name(), self.device(), self.dtype(), shape)?;
        backend::binary(&mut out, f, &shape, &a, &b);
        if !recording(&[self, other]) {
            return Ok(Tensor::from_buffer(out, shape, None));
        }
        let (sa, sb) = (*self.shape(), *other.shape());
        let inputs = &[self, other];
        let node = match f {
            Binary::Add => Node::new(op, inputs, move |s, g| {
                if s.needs(0) {
                    s.give(0, g.sum_to(sa)?)?;
                }
                if s.needs(1) {
                    s.give(1, g.sum_to(sb)?)?;
                }
                Ok(())
            }),
            Binary::Sub => Node::new(op, inputs, move |s, g| {
                if s.needs(0) {
                    s.give(0, g.sum_to(sa)?)?;
                }
                if s.needs(1) {
                    s.give(1, g.sum_to(sb)?.neg()?)?;
                }
                Ok(())
            }),
            Binary::Mul => {
                // Keep only what the other side's gradient needs.
                let keep = |t: &Tensor, of: &Tensor| of.is_tracked().then(|| t.snapshot(op.name())).transpose();
                let (ta, tb) = (keep(self, other)?, keep(other, self)?);
                Node::new(op, inputs, move |s, g| {
                    if let Some(tb) = tb {
                        s.give(0, g.mul(&tb)?.sum_to(sa)?)?;
                    }
                    if let Some(ta) = ta {
                        s.give(1, g.mul(&ta)?.sum_to(sb)?)?;
                    }
                    Ok(())
                })
            }
            Binary::Div => {
                let (ta, tb) = (self.snapshot(op.name())?, other.snapshot(op.name())?);
                Node::new(op, inputs, move |s, g| {
                    let da = g.div(&tb)?;
                    if s.needs(1) {
                        // d(a/b)/db = −a/b²
                        let db = da.mul(&ta)?.div(&tb)?.neg()?;
                        s.give(1, db.sum_to(sb)?)?;
                    }
                    if s.needs(0) {
                        s.give(0, da.sum_to(sa)?)?;
                    }
                    Ok(())
                })
            }
            Binary::Max | Binary::Min => {
                let (ta, tb) = (self.snapshot(op.name())?, other.snapshot(op.name())?);
                Node::new(op, inputs, move |s, g| {
                    let a = dense("maximum", &ta.broadcast_to(shape)?)?;
                    let b = dense("maximum", &tb.broadcast_to(shape)?)?;
                    let g = dense("maximum", &g)?;
                    for (i, to) in [(0, sa), (1, sb)] {
                        if s.needs(i) {
                            let mut d = Buffer::alloc(op.name(), ta.device(), ta.dtype(), shape)?;
                            backend::binary_choice(&mut d, f, &a, &b, &g, i == 1);
                            s.give(i, Tensor::from_buffer(d, shape, None).sum_to(to)?)?;
                        }
                    }
                    Ok(())
                })
            }
        };
        Ok(Tensor::from_buffer(out, shape, Some(node)))
    }

    /// −x.
    ///
    /// # Errors
    /// Integers; no memory.
    pub fn neg(&self) -> Result<Tensor> {
        self.unary(Op::Neg, Unary::Neg)
    }

    /// eˣ.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn exp(&self) -> Result<Tensor> {
        self.unary(Op::Exp, Unary::Exp)
    }

    /// The natural logarithm.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn ln(&self) -> Result<Tensor> {
        self.unary(Op::Ln, Unary::Ln)
    }

    /// √x.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn sqrt(&self) -> Result<Tensor> {
        self.unary(Op::Sqrt, Unary::Sqrt)
    }

    /// x².
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn sqr(&self) -> Result<Tensor> {
        self.unary(Op::Sqr, Unary::Sqr)
    }

    /// 1/x.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn recip(&self) -> Result<Tensor> {
        self.unary(Op::Recip, Unary::Recip)
    }

    /// |x|; gradient 0 at 0.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn abs(&self) -> Result<Tensor> {
        self.unary(Op::Abs, Unary::Abs)
    }

    /// The hyperbolic tangent.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn tanh(&self) -> Result<Tensor> {
        self.unary(Op::Tanh, Unary::Tanh)
    }

    /// 1/(1 + e⁻ˣ).
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn sigmoid(&self) -> Result<Tensor> {
        self.unary(Op::Sigmoid, Unary::Sigmoid)
    }

    /// sin x.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn sin(&self) -> Result<Tensor> {
        self.unary(Op::Sin, Unary::Sin)
    }

    /// cos x.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn cos(&self) -> Result<Tensor> {
        self.unary(Op::Cos, Unary::Cos)
    }

    /// x to the power `p`.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn powf(&self, p: f64) -> Result<Tensor> {
        self.unary(Op::Powf, Unary::Powf(p))
    }

    /// scale·x + shift.
    ///
    /// # Errors
    /// As [`Tensor::neg`].
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Tensor> {
        self.unary(Op::Affine, Unary::Affine { scale, shift })
    }

    fn unary(&self, op: Op, f: UnaryOp) -> Result<Tensor> {
        let _op = profile::op(op.name());
        if self.dtype() == DType::Bf16 {
            let wide = self.to_dtype(DType::F32)?.unary(op, f)?;
            return wide.to_dtype(DType::Bf16);
        }
        need_float(op.name(), self)?;
        let x = dense(op.name(), self)?;
        let shape = *self.shape();
        let mut out = Buffer::alloc(op.name(), self.device(), self.dtype(), shape)?;
        backend::unary(&mut out, f, &x);
        let y = Tensor::from_buffer(out, shape, None);
        if !recording(&[self]) {
            return Ok(y);
        }
        // Each derivative reads the input or the result, never both: keep that one.
        let node = match f {
            Unary::Neg => Node::new(op, &[self], |s, g| s.give(0, g.neg()?)),
            Unary::Affine { scale, .. } => Node::new(op, &[self], move |s, g| s.give(0, g.affine(scale, 0.0)?)),
            _ => {
                let by_result = matches!(f, Unary::Exp | Unary::Sqrt | Unary::Recip | Unary::Tanh | Unary::Sigmoid);
                let kept = if by_result { y.view(op.name())? } else { x };
                Node::new(op, &[self], move |s, g| {
                    let dy = dense(op.name(), &g)?;
                    let mut dx = Buffer::alloc(op.name(), g.device(), g.dtype(), shape)?;
                    backend::unary_backward(&mut dx, f, &kept, &kept, &dy);
                    s.give(0, Tensor::from_buffer(dx, shape, None))
                })
            }
        };
        Ok(y.attach(node))
    }

    /// Refuses what is no probability of dropout: kernels take it as f32, in which the numbers just below 1 are 1.
    pub(crate) fn check_probability(op: &'static str, p: f64) -> Result<()> {
        if (0.0..1.0).contains(&p) && (p as f32) < 1.0 {
            return Ok(());
        }
        Err(Error::BadArgument { op, name: "p", value: p, why: "a dropout probability lies in [0, 1), as f32 too" })
    }
}

//! The key/value cache of a sequence, in pages, and attention over it.
//!
//! Here: [`Page`], room for the keys and values of [`PAGE`] tokens in all layers, as f32, f16 or scaled bytes; and
//! [`Attend`], softmax attention of new tokens over the pages of their sequences. Not here: which pages a sequence
//! has, sharing and copying (they belong to the inference engine), and attention while training (see
//! [`crate::attention`]).
//!
//! Keys lie transposed, `[D, PAGE]`, values as `[PAGE, D]`: both products of attention read whole vectors as they
//! lie, and a page is never packed again. **A query has the same bits** whatever queries are computed beside it, and
//! however the work is cut: pages are joined in chunks that depend on positions alone.
//!
//! A NaN that a query sees reaches its output, and so does a value that is infinite. An infinite key does where its score is +∞ or
//! NaN: a score of −∞ has no weight, and a soft cap makes it finite. Values that a query does not see count 0 times, they are not
//! left out: one that is not finite also spoils queries computed beside those that see it, and then bits depend on the cut.
//! Keys spoil only who sees them.
//!
//! ```
//! use gently_kernels::kv::{Attend, Elem, Page, PageShape, Rows, Span, Spec};
//! let shape = PageShape { layers: 1, kv_heads: 1, d: 1, elem: Elem::F32 };
//! let mut page = Page::new(shape);
//! // Two tokens; each row holds a query, a key and a value.
//! let qkv = [0.0, 1.0, 10.0, 0.0, 2.0, 20.0];
//! page.write(0, 0, Rows { data: &qkv, stride: 3, k: 1, v: 2, count: 2 });
//! let spec = Spec { heads: 1, scale: 1.0, window: None, alibi: None, softcap: None };
//! let mut out = [0.0; 2];
//! let mut attend = Attend::new(spec, shape, &[Span { first_row: 0, rows: 2, start: 0 }]);
//! attend.run(0, &[&[page.into()]], &qkv, 3, &mut out);
//! assert_eq!(out, [10.0, 15.0]);
//! ```

mod attend;
#[cfg(test)]
mod tests;
mod tile;

pub use attend::{Attend, Span, Spec};

use crate::buffer::{AlignedBuf, OutOfMemory};
use crate::cast::narrow_f16;
use half::f16;

/// Tokens in a page.
pub const PAGE: usize = 64;

/// What keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 32-bit floats.
    F32,
    /// Half precision: two bytes a number. Finite numbers beyond ±65504 are kept as ±65504.
    F16,
    /// Signed bytes with one f32 scale for each head of each token: NaN where one of its numbers is not finite.
    I8,
}

/// What a page has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageShape {
    /// Layers of the model.
    pub layers: usize,
    /// Hk, key and value heads of a layer.
    pub kv_heads: usize,
    /// D, channels of a head.
    pub d: usize,
    /// What numbers are kept as.
    pub elem: Elem,
}

impl PageShape {
    /// Channels of a value row: D rounded up so that vectors are whole.
    pub(crate) fn padded(&self) -> usize {
        self.d.next_multiple_of(16)
    }

    /// Numbers of one head of one layer: keys `[D, PAGE]`, then values `[PAGE, padded D]`.
    pub(crate) fn head(&self) -> usize {
        PAGE * (self.d + self.padded())
    }

    fn heads(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Bytes of a page.
    pub fn bytes(&self) -> usize {
        let numbers = self.heads() * self.head();
        match self.elem {
            Elem::F32 => 4 * numbers,
            Elem::F16 => 2 * numbers,
            Elem::I8 => numbers + 4 * self.heads() * 2 * PAGE,
        }
    }
}

#[derive(Debug)]
pub(crate) enum Data {
    F32(AlignedBuf<f32>),
    F16(AlignedBuf<f16>),
    /// Scales are `[layers, Hk, 2, PAGE]`: of keys, then of values.
    I8(AlignedBuf<i8>, AlignedBuf<f32>),
}

/// Keys and values of up to [`PAGE`] tokens in all layers. Which of them are there is the owner's to know.
#[derive(Debug)]
pub struct Page {
    shape: PageShape,
    data: Data,
}

/// Keys and values of `count` tokens inside packed rows: token i's keys `[Hk, D]` begin at `i·stride + k`, its values
/// at `i·stride + v`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The rows.
    pub data: &'a [f32],
    /// Numbers from one token to the next.
    pub stride: usize,
    /// Place of the keys in a row.
    pub k: usize,
    /// Place of the values in a row.
    pub v: usize,
    /// Tokens.
    pub count: usize,
}

impl Page {
    /// An empty page, where there is memory for it: a caller that can be asked for any number of them takes
    /// [`Page::try_new`].
    ///
    /// # Panics
    /// When there is no memory for it.
    pub fn new(shape: PageShape) -> Self {
        Self::try_new(shape).unwrap_or_else(|e| panic!("{e}"))
    }

    /// An empty page.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn try_new(shape: PageShape) -> Result<Self, OutOfMemory> {
        let numbers = shape.heads() * shape.head();
        let data = match shape.elem {
            Elem::F32 => Data::F32(AlignedBuf::try_zeroed(numbers)?),
            Elem::F16 => Data::F16(AlignedBuf::try_zeroed(numbers)?),
            Elem::I8 => Data::I8(AlignedBuf::try_zeroed(numbers)?, AlignedBuf::try_zeroed(shape.heads() * 2 * PAGE)?),
        };
        Ok(Self { shape, data })
    }

    /// A page of its own with the same tokens.
    ///
    /// # Errors
    /// As [`Page::try_new`].
    pub fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let data = match &self.data {
            Data::F32(d) => Data::F32(d.try_clone()?),
            Data::F16(d) => Data::F16(d.try_clone()?),
            Data::I8(d, scales) => Data::I8(d.try_clone()?, scales.try_clone()?),
        };
        Ok(Self { shape: self.shape, data })
    }

    /// What the page has room for.
    pub fn shape(&self) -> PageShape {
        self.shape
    }

    pub(crate) fn data(&self) -> &Data {
        &self.data
    }

    /// Writes tokens into the places from `slot` on.
    ///
    /// # Panics
    /// When the tokens do not fit the page, or the rows do not hold them.
    pub fn write(&mut self, layer: usize, slot: usize, rows: Rows<'_>) {
        let PageShape { layers, kv_heads, d, .. } = self.shape;
        assert!(layer < layers && slot + rows.count <= PAGE, "page: {} tokens at place {slot}", rows.count);
        let (dp, head) = (self.shape.padded(), self.shape.head());
        for h in 0..kv_heads {
            let at = (layer * kv_heads + h) * head;
            for i in 0..rows.count {
                let t = slot + i;
                let k = &rows.data[i * rows.stride + rows.k + h * d..][..d];
                let v = &rows.data[i * rows.stride + rows.v + h * d..][..d];
                match &mut self.data {
                    Data::F32(data) => {
                        let (keys, values) = data[at..at + head].split_at_mut(d * PAGE);
                        for (c, k) in k.iter().enumerate() {
                            keys[c * PAGE + t] = *k;
                        }
                        values[t * dp..][..d].copy_from_slice(v);
                    }
                    Data::F16(data) => {
                        let (keys, values) = data[at..at + head].split_at_mut(d * PAGE);
                        for (part, k) in k.chunks(PAGE).enumerate() {
                            let mut halves = [f16::ZERO; PAGE];
                            to_halves(k, &mut halves[..k.len()]);
                            for (c, k) in halves[..k.len()].iter().enumerate() {
                                keys[(part * PAGE + c) * PAGE + t] = *k;
                            }
                        }
                        to_halves(v, &mut values[t * dp..][..d]);
                    }
                    Data::I8(data, scales) => {
                        let (keys, values) = data[at..at + head].split_at_mut(d * PAGE);
                        let scales = &mut scales[(layer * kv_heads + h) * 2 * PAGE..][..2 * PAGE];
                        let (scale, inverse) = byte_scale(k);
                        scales[t] = scale;
                        for (c, k) in k.iter().enumerate() {
                            keys[c * PAGE + t] = byte(*k, inverse);
                        }
                        let (scale, inverse) = byte_scale(v);
                        scales[PAGE + t] = scale;
                        for (o, v) in values[t * dp..].iter_mut().zip(v) {
                            *o = byte(*v, inverse);
                        }
                    }
                }
            }
        }
    }

    /// The page as bytes, for a file: layout as described in this module, numbers as they lie, which is little-endian wherever
    /// this crate compiles.
    pub fn to_bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::F32(d) => bytemuck::cast_slice(d).to_vec(),
            Data::F16(d) => bytemuck::cast_slice(d).to_vec(),
            Data::I8(d, scales) => [bytemuck::cast_slice(d), bytemuck::cast_slice(scales)].concat(),
        }
    }

    /// The page that [`Page::to_bytes`] made, or `None` for another number of bytes.
    ///
    /// # Errors
    /// As [`Page::try_new`].
    pub fn from_bytes(shape: PageShape, bytes: &[u8]) -> Result<Option<Self>, OutOfMemory> {
        if bytes.len() != shape.bytes() {
            return Ok(None);
        }
        let mut page = Self::try_new(shape)?;
        match &mut page.data {
            Data::F32(d) => bytemuck::cast_slice_mut::<f32, u8>(d).copy_from_slice(bytes),
            Data::F16(d) => bytemuck::cast_slice_mut::<f16, u8>(d).copy_from_slice(bytes),
            Data::I8(d, scales) => {
                let (values, rest) = bytes.split_at(d.len());
                bytemuck::cast_slice_mut::<i8, u8>(d).copy_from_slice(values);
                bytemuck::cast_slice_mut::<f32, u8>(scales).copy_from_slice(rest);
            }
        }
        Ok(Some(page))
    }
}

/// Rounds to half precision. What is finite stays so: an infinite value would make NaN of every query beside those that see it.
fn to_halves(x: &[f32], to: &mut [f16]) {
    const MOST: f32 = 65_504.0;
    for (x, to) in x.chunks(PAGE).zip(to.chunks_mut(PAGE)) {
        let mut near = [0.0; PAGE];
        for (o, v) in near.iter_mut().zip(x) {
            *o = if v.is_finite() { v.clamp(-MOST, MOST) } else { *v };
        }
        narrow_f16(&near[..x.len()], to);
    }
}

/// The scale of a head's numbers as bytes, and its inverse; NaN and 0 where one of them is not finite.
fn byte_scale(x: &[f32]) -> (f32, f32) {
    // Bits of floats without their sign are ordered as integers, with NaN on top: it is not lost.
    let top = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    let most = f32::from_bits(top);
    if !most.is_finite() {
        return (f32::NAN, 0.0);
    }
    if most > 0.0 { (most / 127.0, 127.0 / most) } else { (0.0, 0.0) }
}

/// To the nearest, at most 127 in size.
fn byte(x: f32, inverse: f32) -> i8 {
    (x * inverse).round_ties_even() as i8
}

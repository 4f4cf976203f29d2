//! Weight matrices as products want them, and rows in the forms that matrices want.
//!
//! Here: one matrix of the plan, of one or several packed parts. Files may keep queries, keys and values in different
//! types: each part then is a product of its own into its columns. Not here: whose matrix it is (see
//! [`crate::weights`]), and the products themselves (`gently_kernels::quant`).

use crate::error::{Error, Result, no_memory, no_parameter};
use crate::work::ROWS;
use gently_kernels::activation::Activation;
use gently_kernels::quant::{BlockType, Epilogue, PackArena, PackedMatrix, PackedRows, RowKind, product};
use std::borrow::Cow;

/// Rows of a matrix as they are stored.
pub(crate) struct Stored<'a> {
    pub ty: BlockType,
    pub rows: usize,
    pub bytes: Cow<'a, [u8]>,
}

/// What happens to a product: `y = (y if add) + activation(x·Wᵀ + bias)`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Finish {
    pub activation: Activation,
    /// Add to what y holds: a residual stream.
    pub add: bool,
}

/// A weight matrix `[rows, cols]` with its bias, ready for products.
pub(crate) struct Matrix {
    /// With the column of y where each begins.
    parts: Vec<(PackedMatrix, usize)>,
    /// `[rows]`; of a gated matrix `[2, rows]`.
    bias: Option<Vec<f32>>,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Packs parts that lie below each other; neighbours of the same type become one.
    pub fn pack(
        arena: &mut PackArena,
        name: &str,
        parts: &[Stored<'_>],
        cols: usize,
        bias: Option<Vec<f32>>,
    ) -> Result<Self> {
        let rows = parts.iter().map(|p| p.rows).sum();
        let mut packed = Vec::new();
        let mut at = 0;
        for same in parts.chunk_by(|a, b| a.ty == b.ty) {
            let pieces: Vec<&[u8]> = same.iter().map(|p| &*p.bytes).collect();
            let n = same.iter().map(|p| p.rows).sum();
            packed.push((arena.pack(same[0].ty, &pieces, n, cols).map_err(no_parameter(name))?, at));
            at += n;
        }
        if bias.as_ref().is_some_and(|b| b.len() != rows) {
            return Err(Error::Lowering { what: format!("the bias of {name} is not {rows} numbers") });
        }
        Ok(Self { parts: packed, bias, rows, cols })
    }

    /// Packs gate and up, `[rows, cols]` each, so that a product gives `activation(gate)·up`.
    pub fn gated(
        arena: &mut PackArena,
        name: &str,
        [gate, up]: [Stored<'_>; 2],
        cols: usize,
        bias: Option<Vec<f32>>,
    ) -> Result<Self> {
        let rows = gate.rows;
        if up.rows != rows || bias.as_ref().is_some_and(|b| b.len() != 2 * rows) {
            return Err(Error::Lowering { what: format!("gate, up and bias of {name} differ in size") });
        }
        let packed = arena.pack_gated(gate.ty, &gate.bytes, &up.bytes, rows, cols);
        Ok(Self { parts: vec![(packed.map_err(no_parameter(name))?, 0)], bias, rows, cols })
    }

    /// One row of the matrix: a token's embedding.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        if let Some((part, at)) = self.parts.iter().rev().find(|(_, at)| *at <= r) {
            part.row(r - at, out);
        }
    }

    /// Bytes held, which are the bytes read by a product.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| p.0.bytes()).sum::<usize>() + self.bias.as_ref().map_or(0, |b| 4 * b.len())
    }

    /// Names of the types of its parts.
    pub fn types(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.parts.iter().map(|(p, _)| (p.block_type().name(), p.bytes()))
    }

    /// `y[N, rows] = finish(x[N, cols])`.
    ///
    /// # Errors
    /// [`Error::NoMemory`] for the rows in the form that the matrix wants.
    pub fn product(&self, inputs: &mut Inputs, x: &[f32], y: &mut [f32], finish: Finish) -> Result<()> {
        let n = x.len() / self.cols.max(1);
        let mut filled = [false; 2];
        for (part, at) in &self.parts {
            let kind = part.row_kind();
            let rows = inputs.get(kind, n, self.cols)?;
            if !std::mem::replace(&mut filled[usize::from(kind == RowKind::Int8)], true) {
                rows.fill(n, x, self.cols);
            }
            // A gated matrix has one part and takes both of its biases.
            let end = if part.is_gated() { 2 * part.n() } else { at + part.n() };
            let bias = self.bias.as_ref().map(|b| &b[*at..end]);
            let epilogue = Epilogue { bias, activation: finish.activation, accumulate: finish.add };
            product(part, rows, &mut y[*at..], self.rows, &epilogue);
        }
        Ok(())
    }
}

/// Rows on their way into products of one width, in each of the forms; they grow to the largest pass.
#[derive(Default)]
pub(crate) struct Inputs([Vec<PackedRows>; 2]);

impl Inputs {
    /// Room for `n` rows of `k` numbers.
    fn get(&mut self, kind: RowKind, n: usize, k: usize) -> Result<&mut PackedRows> {
        let kept = &mut self.0[usize::from(kind == RowKind::Int8)];
        let at = match kept.iter().position(|r| r.k() == k) {
            Some(at) if kept[at].capacity() >= n => at,
            small => {
                // Given back first, as a buffer's memory is.
                if let Some(at) = small {
                    kept.swap_remove(at);
                }
                kept.push(PackedRows::try_new(kind, n, k).map_err(no_memory(ROWS))?);
                kept.len() - 1
            }
        };
        Ok(&mut kept[at])
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.iter().flatten().map(PackedRows::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Work;
    use gently_kernels::buffer::AlignedBuf;
    use gently_kernels::quant::{dequantize, quantize};

    fn ramp(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    fn stored(ty: BlockType, rows: usize, cols: usize, seed: usize) -> Stored<'static> {
        let mut bytes = vec![0; rows * ty.row_bytes(cols).unwrap()];
        quantize(ty, &ramp(rows * cols, seed), &mut bytes).unwrap();
        Stored { ty, rows, bytes: Cow::Owned(bytes) }
    }

    fn values(part: &Stored<'_>, cols: usize) -> Vec<f32> {
        let mut values = vec![0.0; part.rows * cols];
        dequantize(part.ty, &part.bytes, &mut values).unwrap();
        values
    }

    #[test]
    fn parts_of_different_types_are_one_matrix() {
        let (n, cols) = (5, 64);
        let types = [BlockType::Q8_0, BlockType::Q8_0, BlockType::F32, BlockType::Q4_0, BlockType::F16];
        let parts: Vec<_> = types.iter().enumerate().map(|(i, ty)| stored(*ty, 7 + 13 * i, cols, i)).collect();
        let w: Vec<f32> = parts.iter().flat_map(|p| values(p, cols)).collect();
        let rows = w.len() / cols;
        let bias = ramp(rows, 50);
        let matrix = Matrix::pack(&mut PackArena::new(), "w", &parts, cols, Some(bias.clone())).unwrap();
        assert_eq!((matrix.rows, matrix.types().count()), (rows, 4), "neighbours of a type are one");

        let x = ramp(n * cols, 60);
        let mut y = vec![1.0; n * rows];
        let finish = Finish { activation: Activation::Relu, add: true };
        matrix.product(&mut Inputs::default(), &x, &mut y, finish).unwrap();
        for (i, y) in y.iter().enumerate() {
            let (x, w) = (&x[i / rows * cols..][..cols], &w[i % rows * cols..][..cols]);
            let dot: f32 = x.iter().zip(w).map(|(a, b)| a * b).sum::<f32>() + bias[i % rows];
            // Rows are rounded to bytes for the integer parts.
            assert!((y - 1.0 - dot.max(0.0)).abs() < 0.08, "{i}: {y} and {dot}");
        }
        let mut row = vec![0.0; cols];
        for r in [0, 26, 27, 60, rows - 1] {
            matrix.row(r, &mut row);
            assert_eq!(row, w[r * cols..][..cols]);
        }
    }

    #[test]
    fn a_matrix_that_no_machine_has_room_for_is_refused_by_name() {
        // The same rows many times over: all that processors of today can address, nothing of which is read.
        let bytes = AlignedBuf::<u8>::zeroed(1 << 29);
        let part = || Stored { ty: BlockType::F32, rows: 1 << 9, bytes: Cow::Borrowed(&bytes[..]) };
        let parts: Vec<_> = std::iter::repeat_with(part).take(1 << 19).collect();
        let said = Matrix::pack(&mut PackArena::new(), "w", &parts, 1 << 18, None).err().unwrap();
        assert!(matches!(said, Error::NoMemory { bytes, .. } if bytes == 1 << 48), "{said}");
        assert!(said.to_string().contains("weights (w)"), "{said}");
    }

    #[test]
    fn rows_of_a_width_are_held_once_and_counted() {
        let mut work = Work::new();
        assert_eq!(work.bytes(), 0);
        for n in [1, 12, 3] {
            work.inputs.get(RowKind::F32, n, 32).unwrap();
        }
        // Two columns more for each tile of 12.
        assert_eq!(work.bytes(), 4 * 14 * 32);
        work.inputs.get(RowKind::Int8, 1, 32).unwrap();
        assert_eq!(work.bytes(), 4 * 14 * 32 + 32 + 7 * 4);
        work.at.reserve(5);
        assert!(work.bytes() >= 4 * 14 * 32 + 32 + 7 * 4 + 4 * 5);
    }

    #[test]
    fn gates_have_both_biases() {
        let (rows, cols) = (20, 32);
        let [gate, up] = [1, 2].map(|seed| stored(BlockType::F32, rows, cols, seed));
        let (g, u, bias) = (values(&gate, cols), values(&up, cols), ramp(2 * rows, 3));
        let matrix = Matrix::gated(&mut PackArena::new(), "w", [gate, up], cols, Some(bias.clone())).unwrap();
        let x = ramp(cols, 4);
        let mut y = vec![0.0; rows];
        let finish = Finish { activation: Activation::Silu, add: false };
        matrix.product(&mut Inputs::default(), &x, &mut y, finish).unwrap();
        for (r, y) in y.iter().enumerate() {
            let dot = |w: &[f32]| x.iter().zip(&w[r * cols..]).map(|(a, b)| a * b).sum::<f32>();
            let (a, b) = (dot(&g) + bias[r], dot(&u) + bias[rows + r]);
            assert!((y - a / (1.0 + (-a).exp()) * b).abs() < 1e-4);
        }
    }
}

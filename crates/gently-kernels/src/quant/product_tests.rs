//! Products against double precision, and the promise that their bits depend on nothing but their operands.

use super::product::product_on;
use super::*;
use crate::activation::Activation;
use crate::buffer::AlignedBuf;
use crate::cpu::{self, Path};
use crate::lanes::testing::random;
use crate::pool;
use std::sync::Mutex;

/// Tests that set the number of threads take turns.
static THREADS: Mutex<()> = Mutex::new(());

fn bytes_of(ty: BlockType, w: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; ty.row_bytes(w.len()).unwrap()];
    quantize(ty, w, &mut bytes).unwrap();
    bytes
}

struct Case {
    w: PackedMatrix,
    /// The weights' values, `[N, K]`.
    wide: Vec<f32>,
    /// `[M, K]`
    x: Vec<f32>,
    m: usize,
}

fn case(ty: BlockType, m: usize, n: usize, k: usize) -> Case {
    let bytes = bytes_of(ty, &random(1, n * k));
    let mut wide = vec![0.0; n * k];
    dequantize(ty, &bytes, &mut wide).unwrap();
    let mut x = random(2, m * k);
    // Rows and blocks of different sizes.
    for (i, x) in x.chunks_mut(16).enumerate() {
        let size = 2f32.powi(i as i32 % 7 - 3);
        x.iter_mut().for_each(|x| *x *= size);
    }
    Case { w: PackedMatrix::pack(ty, &bytes, n, k).unwrap(), wide, x, m }
}

fn rows_on(path: Path, kind: RowKind, x: &[f32], m: usize, k: usize) -> PackedRows {
    let mut rows = PackedRows::new(kind, m, k);
    rows.fill_on(path, m, x, k);
    rows
}

impl Case {
    fn rows(&self, path: Path) -> PackedRows {
        rows_on(path, self.w.row_kind(), &self.x, self.m, self.w.k())
    }

    fn run(&self, path: Path) -> Vec<f32> {
        let (n, m) = (self.w.n(), self.m);
        let mut y = vec![f32::NAN; m * n];
        product_on(path, &self.w, &self.rows(path), &mut y, n, &Epilogue::default());
        y
    }

    /// With the rows as they are, in double precision.
    fn exact(&self) -> Vec<f64> {
        let (n, k) = (self.w.n(), self.w.k());
        let mut y = Vec::new();
        for x in self.x.chunks_exact(k) {
            for w in self.wide.chunks_exact(k).take(n) {
                y.push(w.iter().zip(x).map(|(&w, &x)| w as f64 * x as f64).sum());
            }
        }
        y
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
#[should_panic(expected = "more than can be counted")]
fn more_rows_than_can_be_counted_are_refused() {
    // With the spare columns, 32 times these are a multiple of all the numbers there are.
    let rows = 3 << (usize::BITS - 4);
    PackedRows::new(RowKind::Int8, rows, 32).fill(rows, &[0.0; 32], 0);
}

#[test]
fn rows_that_no_machine_has_room_for_are_refused() {
    for kind in [RowKind::Int8, RowKind::F32] {
        assert!(PackedRows::try_new(kind, 1 << 46, 32).is_err(), "{kind:?}");
    }
}

#[test]
#[should_panic(expected = "rows leave x")]
fn rows_that_end_past_what_can_be_counted_are_refused() {
    PackedRows::new(RowKind::F32, 2, 32).fill(2, &[0.0; 32], usize::MAX);
}

#[test]
fn packed_rows_are_the_file_s_numbers() {
    // Floats also with a rest of 16 and of 8 numbers.
    let odd = [BlockType::F32, BlockType::F16, BlockType::Bf16].map(|ty| (ty, 45));
    for (ty, k) in BlockType::ALL.map(|ty| (ty, 512)).into_iter().chain(odd) {
        let c = case(ty, 1, 37, k);
        for (r, wanted) in c.wide.chunks_exact(k).enumerate() {
            let mut row = vec![0.0; k];
            c.w.row(r, &mut row);
            assert_eq!(row, wanted, "{ty} row {r}");
        }
    }
}

/// Sums of 16 bits hold the largest integers there are: no path saturates where others do not.
#[test]
fn the_largest_integers_do_not_overflow() {
    let (n, k) = (16, 512);
    // Few rows, and so many that weights are unpacked beforehand.
    for (ty, m) in BlockType::ALL.into_iter().filter(|ty| !ty.is_float()).flat_map(|ty| [(ty, 7), (ty, 50)]) {
        let halves: &[usize] = match ty {
            BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => &[0],
            BlockType::Q2K => &[80, 82],
            BlockType::Q3K => &[108],
            BlockType::Q6K => &[208],
            _ => &[0, 2],
        };
        // Of Q8_0 the byte that is largest in size is −128.
        let top = if ty == BlockType::Q8_0 { 0x80 } else { 0xff };
        let mut bytes = vec![top; n * ty.row_bytes(k).unwrap()];
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            for &at in halves {
                block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
            }
        }
        // All at the most, up in one row and down in the next.
        let x: Vec<f32> = (0..m * k).map(|i| if i / k % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let c = Case { w: PackedMatrix::pack(ty, &bytes, n, k).unwrap(), wide: Vec::new(), x, m };
        let wanted = c.run(Path::Plain);
        for path in [Path::Avx2, Path::Avx512].into_iter().filter(|p| p.supported()) {
            assert_eq!(bits(&c.run(path)), bits(&wanted), "{ty} on {}", path.name());
        }
    }
}

#[test]
fn an_arena_s_matrices_keep_to_themselves() {
    let mut arena = PackArena::new();
    let made: Vec<(Case, PackedMatrix)> = [(37, 256), (5, 32), (16, 64), (100, 96)]
        .into_iter()
        .flat_map(|(n, k)| [BlockType::Q4_0, BlockType::F16, BlockType::Q8_0].map(|ty| (ty, n, k)))
        .map(|(ty, n, k)| {
            let bytes = bytes_of(ty, &random(1, n * k));
            let (above, below) = bytes.split_at(n / 3 * ty.row_bytes(k).unwrap());
            let w = arena.pack(ty, &[above, below], n, k).unwrap();
            (case(ty, 1, n, k), w)
        })
        .collect();
    // The chunks outlive the arena.
    drop(arena);
    for (c, w) in &made {
        assert_eq!(w.packed(), c.w.packed());
    }
    let mut arena = PackArena::new();
    assert!(arena.pack(BlockType::Q8_0, &[&[0; 3]], usize::MAX / 32 * 32, 32).is_err());
    assert!(arena.pack(BlockType::Q8_0, &[&[0; 3], &[0; 65]], 2, 32).is_err());
    assert_eq!(arena.pack(BlockType::Q8_0, &[&[]], 0, 32).unwrap().bytes(), 0);
}

#[test]
fn a_matrix_that_no_machine_has_room_for_is_refused() {
    // The same rows many times over: all that processors of today can address, nothing of which is read.
    let (n, k) = (1 << 28, 1 << 18);
    let rows = AlignedBuf::<u8>::zeroed(1 << 28);
    let pieces = vec![&rows[..]; 1 << 20];
    let refused = QuantError::Memory(OutOfMemory { bytes: 1 << 48 });
    let mut arena = PackArena::new();
    assert_eq!(arena.pack(BlockType::F32, &pieces, n, k).unwrap_err(), refused);
    assert_eq!(PackedMatrix::arrange(None, BlockType::F32, &[&pieces[..]], n, k).unwrap_err(), refused);
    // What there is room for is still had.
    assert_eq!(arena.pack(BlockType::F32, &[&[0; 64]], 1, 16).unwrap().n(), 1);
}

#[test]
fn products_are_right_on_every_path() {
    for ty in BlockType::ALL {
        let c = case(ty, 13, 37, 512);
        let exact = c.exact();
        for path in cpu::available() {
            let y = c.run(path);
            // Rounding activations to 8 bits moves a sum of 512 terms by about √512 · 1 % of a term.
            let limit = if ty.is_float() { 2e-3 } else { 3.0 };
            let (mut error, mut size) = (0.0, 0.0);
            for (&y, &e) in y.iter().zip(&exact) {
                assert!((y as f64 - e).abs() < limit, "{ty} {path:?}: {y} should be {e}");
                error += (y as f64 - e).powi(2);
                size += e * e;
            }
            let relative = (error / size).sqrt();
            assert!(relative < if ty.is_float() { 1e-6 } else { 8e-3 }, "{ty} {path:?}: {relative:e}");
        }
    }
}

#[test]
fn integer_products_have_the_same_bits_on_every_path() {
    for ty in BlockType::ALL.into_iter().filter(|t| !t.is_float()) {
        // The last has so many rows that weights are unpacked beforehand.
        for (m, n, k) in [(1, 16, 256), (5, 33, 256), (12, 16, 512), (7, 40, 768), (53, 40, 512)] {
            let c = case(ty, m, n, k);
            let plain = bits(&c.run(Path::Plain));
            for path in cpu::available() {
                assert_eq!(bits(&c.run(path)), plain, "{ty} {path:?} {m} {n} {k}");
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_mates_threads_or_cuts() {
    let _turn = THREADS.lock().unwrap_or_else(|e| e.into_inner());
    let (most, n, k) = (40, 70, 256);
    for ty in BlockType::ALL {
        let c = case(ty, most, n, k);
        for path in cpu::available() {
            let mut alone = Vec::new();
            pool::set_threads(1);
            for x in c.x.chunks_exact(k) {
                let mut y = vec![0.0; n];
                let rows = rows_on(path, c.w.row_kind(), x, 1, k);
                product_on(path, &c.w, &rows, &mut y, n, &Epilogue::default());
                alone.extend(bits(&y));
            }
            // Stale numbers of a larger batch stay in the buffers.
            let mut rows = c.rows(path);
            for (threads, m) in
                [(2, 40), (2, 2), (1, 3), (2, 4), (2, 5), (1, 7), (2, 9), (2, 11), (2, 12), (1, 13), (2, 25)]
            {
                pool::set_threads(threads);
                rows.fill_on(path, m, &c.x, k);
                let mut y = vec![f32::NAN; m * (n + 3)];
                product_on(path, &c.w, &rows, &mut y, n + 3, &Epilogue::default());
                for (r, y) in y.chunks_exact(n + 3).enumerate() {
                    assert_eq!(bits(&y[..n]), alone[r * n..(r + 1) * n], "{ty} {path:?} {m} rows, row {r}");
                    assert!(y[n..].iter().all(|y| y.is_nan()), "written between the rows");
                }
            }
        }
    }
    pool::set_threads(0);
}

#[test]
fn many_rows_have_the_bits_of_one() {
    // Enough of both for several tasks of outputs and several parts of the rows, with what is left over at both ends.
    let (m, n, k) = (230, 16 * 43 + 3, 256);
    for ty in [BlockType::F32, BlockType::F16, BlockType::Bf16, BlockType::Q5_1, BlockType::Q8_0, BlockType::Q3K] {
        let c = case(ty, m, n, k);
        let bytes = bytes_of(ty, &random(1, n * k));
        let gated = PackedMatrix::pack_gated(ty, &bytes, &bytes, n, k).unwrap();
        for path in cpu::available() {
            let epilogue = Epilogue { activation: Activation::Silu, ..Epilogue::default() };
            let on = |w: &PackedMatrix, x: &[f32], m: usize| {
                let mut y = vec![f32::NAN; m * n];
                product_on(path, w, &rows_on(path, w.row_kind(), x, m, k), &mut y, n, &epilogue);
                bits(&y)
            };
            for w in [&c.w, &gated] {
                let all = on(w, &c.x, m);
                for row in [0, 7, 95, 100, 191, 192, 193, m - 1] {
                    let alone = on(w, &c.x[row * k..(row + 1) * k], 1);
                    assert_eq!(all[row * n..(row + 1) * n], alone, "{ty} {path:?} row {row}, gated: {}", w.is_gated());
                }
            }
        }
    }
}

#[test]
fn rows_are_arranged_the_same_on_every_path() {
    let bits = |x: &[f32]| x.iter().map(|v| if v.is_nan() { 1 } else { v.to_bits() }).collect::<Vec<_>>();
    for kind in [RowKind::Int8, RowKind::F32] {
        for k in [32, 96, 544] {
            for m in [1, 2, 3, 5, 7, 12, 13, 29] {
                let mut x = random((m * k) as u32, m * (k + 3));
                // Blocks of zeros, of numbers with no normal inverse, of the largest, and of what is no number.
                x[..32].fill(0.0);
                x[k + 2] = f32::NAN;
                x[m * k - 1] = f32::NEG_INFINITY;
                x[(m - 1) * (k + 3)..][..31].fill(1e-44);
                x[m / 2 * (k + 3)..][..7].fill(f32::MAX);
                let made = |path| {
                    let mut rows = PackedRows::new(kind, m, k);
                    rows.fill_on(path, m, &x, k + 3);
                    let width = rows.width();
                    // Columns past the last row hold anything.
                    let places: Vec<usize> = (0..m)
                        .flat_map(|r| (0..k / 32).map(move |b| (r / width * (k / 32) + b) * width + r % width))
                        .collect();
                    let numbers: Vec<usize> =
                        (0..m).flat_map(|r| (0..k).map(move |i| (r / width * k + i) * width + r % width)).collect();
                    let integers = match kind {
                        RowKind::F32 => Vec::new(),
                        RowKind::Int8 => {
                            // The integers of a block that is NaN do not matter.
                            let seen = |&p: &&usize| !rows.scale[*p].is_nan();
                            let of = |p: usize| [rows.half_sum[0][p], rows.half_sum[1][p], rows.start[2][p]];
                            places.iter().filter(seen).map(|&p| (rows.ints[p * 32..][..32].to_vec(), of(p))).collect()
                        }
                    };
                    let floats = match kind {
                        RowKind::F32 => bits(&numbers.iter().map(|&i| rows.floats[i]).collect::<Vec<_>>()),
                        RowKind::Int8 => {
                            bits(&places.iter().flat_map(|&p| [rows.scale[p], rows.scaled_sum[p]]).collect::<Vec<_>>())
                        }
                    };
                    (integers, floats)
                };
                let plain = made(Path::Plain);
                for path in cpu::available() {
                    assert_eq!(made(path), plain, "{kind:?} {m} rows of {k} on {path:?}");
                }
            }
        }
    }
}

#[test]
fn activations_round_to_the_nearest_of_255() {
    let x: Vec<f32> = random(3, 64);
    for path in cpu::available() {
        let rows = rows_on(path, RowKind::Int8, &x, 1, 64);
        for (b, x) in x.chunks_exact(32).enumerate() {
            let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!((rows.scale[b] - top / 127.0).abs() < 1e-9);
            let q = &rows.ints[b * 32..][..32];
            for (&q, &x) in q.iter().zip(x) {
                assert!((q as f32 * rows.scale[b] - x).abs() <= rows.scale[b] * 0.5001);
            }
            let sum: i32 = q.iter().map(|&q| q as i32).sum();
            assert_eq!(rows.start[0][b], -8 * sum);
            assert_eq!(rows.half_sum[0][b] + rows.half_sum[1][b], sum);
            assert_eq!(rows.scaled_sum[b], rows.scale[b] * sum as f32);
        }
    }
}

#[test]
fn what_is_not_finite_is_not_lost() {
    for ty in [BlockType::Q4_0, BlockType::Q4_1, BlockType::Q8_0, BlockType::Q6K, BlockType::F16] {
        for bad in [f32::NAN, f32::INFINITY, -f32::NAN] {
            let mut c = case(ty, 2, 16, 256);
            c.x[256 + 70] = bad;
            for path in cpu::available() {
                let y = c.run(path);
                assert!(y[..16].iter().all(|y| y.is_finite()), "{ty} {path:?}");
                assert!(y[16..].iter().all(|y| !y.is_finite()), "{ty} {path:?}");
            }
        }
    }
    // Zeros and the smallest numbers are zeros.
    let rows = rows_on(cpu::path(), RowKind::Int8, &[1e-44; 32], 1, 32);
    assert_eq!((rows.scale[0], rows.ints[0]), (0.0, 0));
}

#[test]
fn epilogues_are_done_in_order() {
    for ty in [BlockType::F32, BlockType::Q4_0, BlockType::Q8_0] {
        for m in [1, 14] {
            let (n, k) = (37, 64);
            let c = case(ty, m, n, k);
            let up = random(7, n * k);
            let both =
                PackedMatrix::pack_gated(ty, &bytes_of(ty, &random(1, n * k)), &bytes_of(ty, &up), n, k).unwrap();
            let up = PackedMatrix::pack(ty, &bytes_of(ty, &up), n, k).unwrap();
            let bias = random(8, 2 * n);
            for path in cpu::available() {
                let rows = c.rows(path);
                let (plain, mut second) = (c.run(path), vec![0.0; m * n]);
                product_on(path, &up, &rows, &mut second, n, &Epilogue::default());
                let (mut one, mut two) = (vec![2.0; m * n], vec![2.0; m * n]);
                let ep = Epilogue { bias: Some(&bias[..n]), activation: Activation::GeluTanh, accumulate: true };
                product_on(path, &c.w, &rows, &mut one, n, &ep);
                let ep = Epilogue { bias: Some(&bias), activation: Activation::Silu, accumulate: true };
                product_on(path, &both, &rows, &mut two, n, &ep);
                for i in 0..m * n {
                    let (g, u) = (plain[i] + bias[i % n], second[i] + bias[n + i % n]);
                    let gelu = 2.0 + Activation::GeluTanh.apply(g as f64);
                    assert!((one[i] as f64 - gelu).abs() < 1e-4 * (1.0 + gelu.abs()), "{ty} {path:?}");
                    let gated = 2.0 + Activation::Silu.apply(g as f64) * u as f64;
                    assert!((two[i] as f64 - gated).abs() < 1e-4 * (1.0 + gated.abs()), "{ty} {path:?}");
                }
            }
        }
    }
}

#[test]
fn empty_products_do_nothing() {
    let w = PackedMatrix::pack(BlockType::Q8_0, &[], 0, 32).unwrap();
    let rows = rows_on(cpu::path(), RowKind::Int8, &[1.0; 32], 1, 32);
    product(&w, &rows, &mut [], 0, &Epilogue::default());
    let w = PackedMatrix::pack(BlockType::F32, &[], 5, 0).unwrap();
    let mut y = [7.0; 5];
    product(&w, &rows_on(cpu::path(), RowKind::F32, &[], 1, 0), &mut y, 5, &Epilogue::default());
    assert_eq!(y, [0.0; 5]);
    let c = case(BlockType::Q4_0, 1, 16, 32);
    let none = PackedRows::new(RowKind::Int8, 4, 32);
    product(&c.w, &none, &mut [], 16, &Epilogue::default());
}

#[test]
fn misuse_is_refused() {
    let e = PackedMatrix::pack(BlockType::Q4_0, &[0; 18], 1, 33).unwrap_err();
    assert_eq!(e.to_string(), "33 numbers are no whole number of Q4_0 blocks of 32");
    let e = PackedMatrix::pack(BlockType::Q4_0, &[0; 18], 2, 32).unwrap_err();
    assert_eq!(e.to_string(), "Q4_0 data of 18 bytes where 36 are needed");
    assert!(PackedMatrix::pack(BlockType::F32, &[], usize::MAX, 4).is_err());
    let c = case(BlockType::Q4_0, 1, 16, 32);
    let floats = rows_on(cpu::path(), RowKind::F32, &[0.0; 32], 1, 32);
    let mut y = [0.0; 16];
    let r = std::panic::catch_unwind(move || product(&c.w, &floats, &mut y, 16, &Epilogue::default()));
    assert!(r.is_err());
}

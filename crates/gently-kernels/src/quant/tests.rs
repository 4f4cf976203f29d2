//! The formats against the independent numpy code of the `gguf` package, and rounding against its bounds.

use super::*;
use crate::lanes::testing::random;
use proptest::prelude::*;

macro_rules! golden {
    ($($ty:ident $file:literal),*) => {
        [$((BlockType::$ty, &include_bytes!(concat!("../../tests/golden/quant/", $file, ".bin"))[..])),*]
    };
}

/// Blocks and the numbers they mean.
fn fixture(ty: BlockType, file: &[u8]) -> (&[u8], Vec<f32>) {
    let blocks = file.len() / (ty.block_bytes() + 4 * ty.block_len());
    let (bytes, numbers) = file.split_at(blocks * ty.block_bytes());
    (bytes, floats(numbers))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn decoded(ty: BlockType, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut x = vec![f32::NAN; len];
    dequantize(ty, bytes, &mut x).unwrap();
    x
}

fn encoded(ty: BlockType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0xAA; ty.row_bytes(x.len()).unwrap()];
    quantize(ty, x, &mut bytes).unwrap();
    bytes
}

#[test]
fn blocks_mean_what_the_reference_says() {
    let files = golden!(Bf16 "BF16", Q4_0 "Q4_0", Q4_1 "Q4_1", Q5_0 "Q5_0", Q5_1 "Q5_1", Q8_0 "Q8_0",
        Q2K "Q2_K", Q3K "Q3_K", Q4K "Q4_K", Q5K "Q5_K", Q6K "Q6_K");
    for (ty, file) in files {
        let (bytes, numbers) = fixture(ty, file);
        assert!(numbers.len() >= 256);
        assert_eq!(decoded(ty, bytes, numbers.len()), numbers, "{ty}");
    }
}

#[test]
fn simple_types_round_as_the_reference_does() {
    let x = floats(include_bytes!("../../tests/golden/quant/values.bin"));
    let files = golden!(Bf16 "BF16", Q4_0 "Q4_0", Q4_1 "Q4_1", Q5_0 "Q5_0", Q5_1 "Q5_1", Q8_0 "Q8_0");
    for (ty, file) in files {
        assert_eq!(encoded(ty, &x), fixture(ty, file).0, "{ty}");
    }
}

#[test]
fn names_and_numbers_go_both_ways() {
    for ty in BlockType::ALL {
        assert_eq!(BlockType::from_name(ty.name()), Some(ty));
        assert_eq!(BlockType::from_ggml_id(ty.ggml_id()), Some(ty));
        assert_eq!(ty.row_bytes(ty.block_len() * 3), Some(ty.block_bytes() * 3));
    }
    assert_eq!(BlockType::Q4K.row_bytes(576), None);
    assert_eq!(BlockType::F32.row_bytes(usize::MAX), None);
    assert_eq!(BlockType::from_ggml_id(9), None);
}

/// Root mean square error of rounding normal numbers, over their standard deviation.
fn relative_error(ty: BlockType) -> f64 {
    let x: Vec<f32> = random(3, 64 * 256).iter().map(|u| u * 0.05).collect();
    let y = decoded(ty, &encoded(ty, &x), x.len());
    let square = |v: f64| v * v;
    let error: f64 = x.iter().zip(&y).map(|(a, b)| square((a - b) as f64)).sum();
    (error / x.iter().map(|a| square(*a as f64)).sum::<f64>()).sqrt()
}

#[test]
fn more_bits_lose_less() {
    let limits = [
        (BlockType::F16, 3e-4),
        (BlockType::Bf16, 3e-3),
        (BlockType::Q8_0, 7e-3),
        (BlockType::Q6K, 2e-2),
        (BlockType::Q5K, 3.8e-2),
        (BlockType::Q5_1, 4.5e-2),
        (BlockType::Q5_0, 6e-2),
        (BlockType::Q4K, 8e-2),
        (BlockType::Q4_1, 0.1),
        (BlockType::Q4_0, 0.12),
        (BlockType::Q3K, 0.2),
        (BlockType::Q2K, 0.4),
    ];
    for (ty, limit) in limits {
        let e = relative_error(ty);
        assert!(e < limit && e > limit / 4.0, "{ty}: {e}");
    }
}

#[test]
fn a_second_rounding_changes_nothing_for_simple_types() {
    let x = random(5, 1024);
    for ty in [BlockType::F32, BlockType::F16, BlockType::Bf16, BlockType::Q8_0] {
        let once = encoded(ty, &x);
        assert_eq!(encoded(ty, &decoded(ty, &once, x.len())), once, "{ty}");
    }
}

#[test]
fn long_and_unaligned_runs_are_their_blocks() {
    let x = random(8, 40 * 1024);
    for ty in BlockType::ALL {
        let mut bytes = vec![0; 1 + ty.row_bytes(x.len()).unwrap()];
        quantize(ty, &x, &mut bytes[1..]).unwrap();
        let whole = decoded(ty, &bytes[1..], x.len());
        for (i, (x, y)) in x.chunks(256).zip(whole.chunks(256)).enumerate().step_by(7) {
            let part = encoded(ty, x);
            assert_eq!(part, bytes[1..][i * part.len()..][..part.len()], "{ty}");
            assert_eq!(decoded(ty, &part, 256), y, "{ty}");
        }
    }
    let mut x = vec![0.5; 40 * 1024];
    (x[33_000], x[20_000]) = (3e38, 3e38);
    let r = quantize(BlockType::Q8_0, &x, &mut vec![0; 34 * 1280]);
    assert_eq!(r, Err(QuantError::Range { ty: BlockType::Q8_0, block: 625 }));
}

#[test]
fn refusals_name_what_is_wrong() {
    let e = dequantize(BlockType::Q4K, &[0; 144], &mut [0.0; 100]).unwrap_err();
    assert_eq!(e.to_string(), "100 numbers are no whole number of Q4_K blocks of 256");
    let e = dequantize(BlockType::Q8_0, &[0; 33], &mut [0.0; 32]).unwrap_err();
    assert_eq!(e.to_string(), "Q8_0 data of 33 bytes where 34 are needed");
    let mut x = [1.0; 256];
    x[40] = f32::NAN;
    for ty in BlockType::ALL {
        let mut bytes = vec![0; ty.row_bytes(256).unwrap()];
        let r = quantize(ty, &x, &mut bytes);
        assert_eq!(r.is_err(), !ty.is_float());
        if let Err(e) = r {
            assert_eq!(e.to_string(), format!("number 40 is NaN, which {ty} cannot hold"));
        }
    }
    let r = quantize(BlockType::Q8_0, &[3e38; 32], &mut [0; 34]);
    assert_eq!(r, Err(QuantError::Range { ty: BlockType::Q8_0, block: 0 }));
    // The largest numbers, those that are rounded down to them, and those that would be infinite.
    for (ty, most, beyond) in [(BlockType::F16, 65_519.0, 65_520.0), (BlockType::Bf16, 3.395e38, f32::MAX)] {
        quantize(ty, &[1.0, most, -most, f32::INFINITY, f32::NAN], &mut [0; 10]).unwrap();
        let r = quantize(ty, &[1.0, most, -beyond], &mut [0; 6]);
        assert_eq!(r, Err(QuantError::Range { ty, block: 2 }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_bytes_decode(bytes in prop::collection::vec(any::<u8>(), 210)) {
        for ty in BlockType::ALL {
            let mut x = vec![0.0; ty.block_len()];
            dequantize(ty, &bytes[..ty.block_bytes()], &mut x).unwrap();
        }
    }

    #[test]
    fn any_numbers_stay_near(seed in 0u32..1000, exponent in -12i32..12, shift in -3.0f32..3.0) {
        let x: Vec<f32> = random(seed, 256).iter().map(|v| (v + shift) * 2f32.powi(exponent)).collect();
        let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for ty in BlockType::ALL {
            let y = decoded(ty, &encoded(ty, &x), 256);
            // Two bits with a shared 4-bit minimum are coarse; the rest is finer.
            let limit = top * if ty == BlockType::Q2K { 0.5 } else { 0.35 } + 1e-4;
            for (a, b) in x.iter().zip(&y) {
                prop_assert!((a - b).abs() <= limit, "{} {} became {}", ty, a, b);
            }
        }
    }
}

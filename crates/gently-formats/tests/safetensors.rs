//! Weights out and in, against the reference crate, and damaged files.

use gently_formats::safetensors::{Dtype, Header, SafeTensors, Spec, Writer};
use gently_formats::{Error, Limits};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> Spec {
    Spec { name: name.into(), dtype, shape: shape.into() }
}

fn sample(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("m.safetensors");
    let specs = [
        spec("w", Dtype::F32, &[2, 3]),
        spec("h", Dtype::F16, &[4]),
        spec("b", Dtype::Bf16, &[2]),
        spec("scalar", Dtype::F32, &[]),
        spec("none", Dtype::F32, &[0, 5]),
        spec("ids", Dtype::U32, &[2]),
    ];
    let meta = BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("maker".into(), "gently".into())]);
    let mut w = Writer::create(&path, &specs, &meta).unwrap();
    w.write_f32(&[1.0, -2.0, 3.5, 0.0, f32::MIN_POSITIVE, 1e30]).unwrap();
    w.write_elements(&[0.5, -1.5, 65504.0, 6e-8].map(half::f16::from_f32)).unwrap();
    w.write_elements(&[1.0, -3.0].map(half::bf16::from_f32)).unwrap();
    w.write_f32(&[7.0]).unwrap();
    w.write_elements(&[9u32, 8]).unwrap();
    w.finish().unwrap();
    path
}

#[test]
fn written_files_read_back_here_and_in_the_reference_crate() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let ours = SafeTensors::open(&path, &Limits::default()).unwrap();
    assert_eq!(ours.tensors()["w"].shape, [2, 3]);
    assert_eq!(ours.to_f32("w").unwrap(), [1.0, -2.0, 3.5, 0.0, f32::MIN_POSITIVE, 1e30]);
    assert_eq!(ours.to_f32("h").unwrap()[..3], [0.5, -1.5, 65504.0]);
    assert_eq!(ours.to_f32("b").unwrap(), [1.0, -3.0]);
    assert_eq!(ours.to_f32("scalar").unwrap(), [7.0]);
    assert!(ours.to_f32("none").unwrap().is_empty());
    assert_eq!(ours.to_vec::<u32>("ids").unwrap(), [9, 8]);
    assert_eq!(ours.metadata()["format"], "pt");
    assert!(matches!(ours.to_f32("ids"), Err(Error::Tensor { .. })));
    assert!(matches!(ours.to_f32("model.w"), Err(Error::NoTensor { near: Some(_), .. })));

    let bytes = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (name, entry) in ours.tensors() {
        let tensor = theirs.tensor(name).unwrap();
        assert_eq!((tensor.shape(), tensor.data()), (&entry.shape[..], ours.bytes(name).unwrap()));
    }
    // Equal content, equal bytes.
    assert_eq!(std::fs::read(sample(tempfile::tempdir().unwrap().path())).unwrap(), bytes);
}

#[test]
fn files_of_the_reference_crate_read_here() {
    let data: Vec<u8> = (0..24).collect();
    let view = |dtype, shape: &[usize]| {
        let n: usize = shape.iter().product();
        safetensors::tensor::TensorView::new(dtype, shape.into(), &data[..n * 4]).unwrap()
    };
    let tensors = [("b", view(safetensors::Dtype::F32, &[2, 3])), ("a", view(safetensors::Dtype::I32, &[1]))];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let file = SafeTensors::open(&path, &Limits::default()).unwrap();
    assert_eq!(file.bytes("b").unwrap(), data);
    assert_eq!(file.to_vec::<i32>("a").unwrap(), [i32::from_le_bytes([0, 1, 2, 3])]);
}

fn with_header(json: &str, data: usize) -> Vec<u8> {
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend(json.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

#[test]
fn impossible_headers_are_named() {
    let w = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |second: &str| {
        format!(
            r#"{{"w":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"{second}":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}}}"#
        )
    };
    let cases = [
        (w("F32", "[2]", "[0,8]"), 4, "outside"),
        (w("F32", "[2]", "[0,8]"), 12, "asks for"),
        (w("F32", "[3]", "[0,8]"), 8, "needs 12 bytes"),
        (w("F31", "[2]", "[0,8]"), 8, "F31"),
        (w("F32", "[2]", "[8,0]"), 8, "outside"),
        (w("U8", "[18446744073709551615,2]", "[0,8]"), 8, "overflows"),
        (w("U8", "[18446744073709551615]", "[0,18446744073709551615]"), 8, "outside"),
        (two("v"), 4, "starts at"),
        (two("w"), 4, "twice"),
        (w("U8", "[4]", "[4,8]"), 8, "starts at"),
        (w("U8", "[-4]", "[0,4]"), 4, "bad header"),
        (w("U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "dimensions"),
    ];
    for (json, data, expected) in cases {
        let e = Header::parse(&with_header(&json, data), &Limits::default(), "x".as_ref()).unwrap_err().to_string();
        assert!(e.contains(expected), "{json}: {e}");
    }
    let mut huge = with_header("{}", 0);
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(Header::parse(&huge, &Limits::default(), "x".as_ref()), Err(Error::Limit { .. })));
}

#[test]
fn missing_data_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let mut w = Writer::create(&path, &[spec("w", Dtype::F32, &[2])], &BTreeMap::new()).unwrap();
    w.write_f32(&[1.0]).unwrap();
    assert!(w.write_elements(&[1u32]).is_err());
    let e = w.finish().unwrap_err().to_string();
    assert!(e.contains("\"w\" has 4 of its 8 bytes"), "{e}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_does_not_fit_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let specs = [
        spec("f", Dtype::F32, &[2]),
        spec("none", Dtype::U8, &[0]),
        spec("g", Dtype::F32, &[1]),
        spec("u", Dtype::U32, &[2]),
    ];
    let mut w = Writer::create(&path, &specs, &BTreeMap::new()).unwrap();
    // They would reach into u, which is of another type.
    let said = w.write_elements(&[1f32, 2.0, 3.0, 4.0]).unwrap_err();
    assert!(matches!(&said, Error::Tensor { name, .. } if name == "u"), "{said}");
    // Of one type they may go on into the next tensor.
    w.write_elements(&[1f32, 2.0, 3.0]).unwrap();
    // One number too many, and one beyond it: none of them is kept.
    let said = w.write_elements(&[7u32, 8, 9, 10]).unwrap_err();
    assert!(matches!(&said, Error::Request { reason, .. } if reason == "8 bytes more than announced"), "{said}");
    assert!(w.write(&[0; 9]).is_err());
    w.write_elements(&[7u32]).unwrap();
    w.write(&8u32.to_le_bytes()).unwrap();
    assert!(w.write(&[0]).is_err());
    w.finish().unwrap();
    let file = SafeTensors::open(&path, &Limits::default()).unwrap();
    assert_eq!((file.to_f32("f").unwrap(), file.to_f32("g").unwrap()), (vec![1.0, 2.0], vec![3.0]));
    assert_eq!(file.to_vec::<u32>("u").unwrap(), [7, 8]);
}

proptest! {
    /// Any damage gives an error or a header that is consistent with the file; never a panic.
    #[test]
    fn damage_does_not_panic(at in 0usize..600, byte in any::<u8>(), keep in 0usize..700) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(sample(dir.path())).unwrap();
        let n = bytes.len();
        bytes[at % n] = byte;
        bytes.truncate(keep.max(1));
        if let Ok(header) = Header::parse(&bytes, &Limits::default(), "x".as_ref()) {
            for entry in header.tensors.values() {
                prop_assert!(entry.bytes.end <= bytes.len());
            }
        }
    }
}

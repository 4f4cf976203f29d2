//! GGUF files out and in, and each known class of hostile file.

use gently_formats::gguf::{Array, Gguf, HEADER_FACTOR, Header, Spec, TensorType, Texts, Value, Writer};
use gently_formats::{Error, Limits};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn spec(name: &str, kind: TensorType, shape: &[usize]) -> Spec {
    Spec { name: name.into(), kind, shape: shape.into() }
}

fn all_values() -> Vec<(String, Value)> {
    let texts: Texts = ["a", "", "日本"].into_iter().collect();
    let nested = Array::Arrays(vec![Array::U8(vec![1, 2]), Array::Texts(texts.clone()), Array::Arrays(vec![])]);
    [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-3)),
        ("u16", Value::U16(60000)),
        ("i16", Value::I16(-300)),
        ("u32", Value::U32(1 << 31)),
        ("i32", Value::I32(-1 << 30)),
        ("f32", Value::F32(0.5)),
        ("bool", Value::Bool(true)),
        ("text", Value::Text("llama".into())),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(1e300)),
        ("ints", Value::Array(Array::I32(vec![1, -1]))),
        ("shorts", Value::Array(Array::U16(vec![7]))),
        ("reals", Value::Array(Array::F32(vec![0.25, -1.0]))),
        ("flags", Value::Array(Array::Bool(vec![true, false]))),
        ("texts", Value::Array(Array::Texts(texts))),
        ("nested", Value::Array(nested)),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .to_vec()
}

fn sample(dir: &Path) -> PathBuf {
    let path = dir.join("m.gguf");
    let specs = [
        spec("w", TensorType::F32, &[2, 3]),
        spec("q", TensorType::Q4_0, &[3, 64]),
        spec("none", TensorType::F32, &[0, 5]),
        spec("h", TensorType::F16, &[5]),
        spec("scalar", TensorType::F32, &[]),
    ];
    let mut w = Writer::create(&path, &all_values(), &specs).unwrap();
    let bytes: Vec<u8> = (0..24 + 3 * 36 + 10 + 4).map(|i| i as u8).collect();
    bytes.chunks(7).for_each(|c| w.write(c).unwrap());
    w.finish().unwrap();
    path
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    let file = Gguf::open(&path, &Limits::default()).unwrap();
    assert_eq!(file.version(), 3);
    for (key, value) in all_values() {
        assert_eq!(file.metadata().get(&key), Some(&value), "{key}");
    }
    assert_eq!((file.entry("q").unwrap().shape.as_slice(), file.entry("q").unwrap().len()), (&[3, 64][..], 192));
    assert_eq!(file.bytes("w").unwrap(), Vec::from_iter(0..24));
    assert_eq!(file.bytes("q").unwrap(), Vec::from_iter(24..132));
    assert_eq!(file.bytes("h").unwrap(), Vec::from_iter(132..142));
    assert!(file.bytes("none").unwrap().is_empty());
    assert!(matches!(file.entry("model.w"), Err(Error::NoTensor { near: Some(_), .. })));
    let again = tempfile::tempdir().unwrap();
    assert_eq!(std::fs::read(sample(again.path())).unwrap(), std::fs::read(&path).unwrap(), "equal bytes");
}

#[test]
fn typed_access_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = Gguf::open(sample(dir.path()), &Limits::default()).unwrap();
    let m = file.metadata();
    for key in ["u8", "u16", "u32"] {
        assert!(m.size(key).unwrap() >= 200, "{key}");
    }
    assert_eq!((m.real("f32").unwrap(), m.real("u8").unwrap()), (0.5, 200.0));
    assert_eq!(m.ints_if("shorts").unwrap().unwrap(), [7]);
    assert_eq!(m.reals_if("reals").unwrap().unwrap(), [0.25, -1.0]);
    assert_eq!(m.texts_if("texts").unwrap().unwrap().iter().collect::<Vec<_>>(), ["a", "", "日本"]);
    assert_eq!(m.flag_if("bool").unwrap(), Some(true));
    assert_eq!(m.text_if("absent").unwrap(), None);
    for (said, wanted) in [
        (m.size("i8").unwrap_err(), "\"i8\""),
        (m.text("u8").unwrap_err(), "not text"),
        (m.size("text").unwrap_err(), "it is text"),
        (m.texts_if("ints").map(drop).unwrap_err(), "an array of 2 integers"),
        (m.ints_if("reals").map(drop).unwrap_err(), "\"reals\""),
        (m.text("absent").unwrap_err(), "missing"),
    ] {
        assert!(said.to_string().contains(wanted), "{said}");
    }
}

/// A file made byte by byte, to say what a writer never would.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, keys: u64) -> Self {
        let mut raw = Self(b"GGUF\x03\0\0\0".to_vec());
        raw.u64(tensors).u64(keys);
        raw
    }
    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn text(&mut self, t: &str) -> &mut Self {
        self.u64(t.len() as u64);
        self.0.extend(t.as_bytes());
        self
    }
    fn tensor(&mut self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> &mut Self {
        self.text(name).u32(sizes.len() as u32);
        for &d in sizes {
            self.u64(d);
        }
        self.u32(kind).u64(offset)
    }
    fn data(&mut self, n: usize) -> &mut Self {
        let n = self.0.len().next_multiple_of(32) + n;
        self.0.resize(n, 0);
        self
    }
    fn parse(&self) -> Result<Header, Error> {
        Header::parse(&self.0, &Limits::default(), "x.gguf".as_ref())
    }
    #[track_caller]
    fn refused(&self, part: &str) {
        let e = self.parse().unwrap_err().to_string();
        assert!(e.contains(part) && e.contains("x.gguf"), "{e}");
    }
}

#[test]
fn huge_counts_are_held_to_the_bytes_left() {
    for huge in [1 << 20, 1 << 40, u64::MAX, u64::MAX / 24] {
        Raw::new(huge, 0).data(64).refused("the number of tensors");
        Raw::new(0, huge).data(64).refused("the number of keys");
        Raw::new(0, 1).u64(huge).data(64).refused("the length of a key");
        Raw::new(0, 1).text("k").u32(8).u64(huge).data(64).refused("the length of \"k\"");
        for element in [0, 3, 8, 9, 12] {
            Raw::new(0, 1).text("k").u32(9).u32(element).u64(huge).data(64).refused("number of elements of \"k\"");
        }
        Raw::new(1, 0).u64(huge).data(64).refused("a tensor's name");
        Raw::new(1, 0).tensor("t", &[huge, huge], 0, 0).data(64).refused("\"t\"");
    }
    Raw::new(1, 0).text("t").u32(u32::MAX).data(64).refused("dimensions");
}

#[test]
fn huge_counts_are_held_to_the_longest_header() {
    // There are bytes enough, but those behind a header are weights.
    let limits = Limits { header_bytes: 100, ..Limits::default() };
    for (element, n) in [(0, 500), (3, 300), (7, 500), (8, 100), (9, 80), (12, 100)] {
        let mut raw = Raw::new(0, 1);
        raw.text("k").u32(9).u32(element).u64(n).data(1000);
        // The number refused is where the whole array would end, not where the first element over the limit does.
        let said = Header::parse(&raw.0, &limits, "x.gguf".as_ref());
        assert!(matches!(said, Err(Error::Limit { found, limit: 100, .. }) if found > 500), "{said:?}");
    }
}

#[test]
fn bombs_of_arrays_hold_little_memory() {
    // The most memory for the fewest bytes: empty arrays in an array, and empty strings.
    let mut arrays = Raw::new(0, 1);
    arrays.text("k").u32(9).u32(9).u64(50_000);
    for _ in 0..50_000 {
        arrays.u32(0).u64(0);
    }
    let mut strings = Raw::new(0, 1);
    strings.text("k").u32(9).u32(8).u64(50_000);
    for _ in 0..50_000 {
        strings.u64(0);
    }
    let mut keys = Raw::new(0, 5_000);
    for i in 0..5_000u32 {
        keys.text(&i.to_string()).u32(4).u32(i);
    }
    let mut tensors = Raw::new(5_000, 0);
    for i in 0..5_000u32 {
        tensors.tensor(&i.to_string(), &[], 0, u64::from(i) * 32);
    }
    tensors.data(5_000 * 32);
    for raw in [arrays, strings, keys, tensors] {
        let header = raw.parse().unwrap();
        let bytes = raw.0.len();
        assert!(header.held_bytes() <= HEADER_FACTOR * bytes, "{} for {bytes}", header.held_bytes());
    }
}

#[test]
fn arrays_in_arrays_have_a_bottom() {
    let mut raw = Raw::new(0, 1);
    raw.text("k").u32(9);
    for _ in 0..100_000 {
        raw.u32(9).u64(1);
    }
    raw.u32(0).u64(0).refused("more than 4 deep");
}

#[test]
fn each_tensor_begins_where_the_one_before_it_ends() {
    let two = |kind: u32, at: u64| {
        let mut raw = Raw::new(2, 0);
        raw.tensor("a", &[32], kind, 0).tensor("b", &[16], 0, at).data(256);
        raw
    };
    two(0, 128).parse().unwrap();
    for at in [0, 64, 96, 160] {
        two(0, at).refused("\"b\": its data begins at byte");
    }
    // F32 damaged to Q4_0 and to F16: both take less.
    two(2, 32).parse().unwrap();
    two(2, 128).refused("byte 128 of all, but \"a\" before it ends at byte 32");
    two(1, 128).refused("ends at byte 64");
    Raw::new(1, 0).tensor("a", &[8], 0, 32).data(64).refused("it is the first");
    // One without elements stands between the others all the same.
    let mut raw = Raw::new(3, 0);
    raw.tensor("a", &[8], 0, 0).tensor("none", &[0, 8], 0, 32).tensor("b", &[8], 0, 32).data(64);
    raw.parse().unwrap();
}

#[test]
fn offsets_may_not_wrap_or_leave_the_file() {
    let at = |offset: u64, sizes: &[u64]| {
        let mut raw = Raw::new(1, 0);
        raw.tensor("a", sizes, 0, offset).data(64);
        raw
    };
    at(0, &[8]).parse().unwrap();
    at(64, &[8]).refused("outside");
    at(0, &[17]).refused("outside");
    at(u64::MAX - 31, &[8]).refused("overflow");
    at(u64::MAX - 127, &[8]).refused("a");
    at(0, &[1 << 62, 1 << 2]).refused("overflow");
    at(0, &[1 << 62]).refused("overflow");
    at(0, &[1 << 32, 1 << 31]).refused("overflow");
    at(8, &[8]).refused("multiple of the alignment");
    // A size of zero makes no others legal.
    at(0, &[0, u64::MAX, u64::MAX]).parse().map(drop).unwrap();
}

#[test]
fn alignments_are_powers_of_two() {
    let with = |kind: u32, value: &[u8]| {
        let mut raw = Raw::new(1, 1);
        raw.text("general.alignment").u32(kind);
        raw.0.extend(value);
        raw.tensor("a", &[2], 0, 0).data(4096);
        raw
    };
    for good in [1u32, 8, 32, 64, 4096] {
        with(4, &good.to_le_bytes()).parse().unwrap();
    }
    for bad in [0u32, 3, 24, 1 << 17, 1 << 31, u32::MAX] {
        with(4, &bad.to_le_bytes()).refused("general.alignment");
    }
    with(10, &(1u64 << 63).to_le_bytes()).refused("general.alignment");
    with(5, &(-32i32).to_le_bytes()).refused("general.alignment");
    with(6, &32f32.to_le_bytes()).refused("not a power of two");
}

#[test]
fn types_are_not_confused() {
    Raw::new(0, 1).text("k").u32(13).data(64).refused("type 13");
    Raw::new(0, 1).text("k").u32(9).u32(13).u64(1).data(64).refused("type 13");
    let mut flag = Raw::new(0, 1);
    flag.text("k").u32(7).0.push(2);
    flag.refused("is 2, not 0 or 1");
    let mut text = Raw::new(0, 1);
    text.text("k").u32(8).u64(2).0.extend([0xff, 0xfe]);
    text.refused("not UTF-8");
    for (kind, said) in [(20, "IQ4_NL"), (39, "MXFP4"), (33, "Q4_0_8_8"), (9, "Q8_1"), (77, "type 77")] {
        let mut raw = Raw::new(1, 0);
        raw.tensor("blk.0.x", &[256], kind, 0).data(4096);
        raw.refused(said);
        let e = raw.parse().unwrap_err();
        assert!(e.to_string().contains("blk.0.x") && e.hint().is_some(), "{e}");
    }
    let mut raw = Raw::new(1, 0);
    raw.tensor("q", &[48, 2], 2, 0).data(4096).refused("no whole number of Q4_0 blocks");
}

#[test]
fn names_and_keys_are_there_once() {
    Raw::new(2, 0).tensor("a", &[1], 0, 0).tensor("a", &[1], 0, 32).data(64).refused("\"a\": it is there twice");
    let mut two = Raw::new(0, 2);
    assert_eq!(two.text("k").u32(4).u32(1).text("l").u32(4).u32(2).parse().unwrap().metadata.size("l").unwrap(), 2);
    let mut raw = Raw::new(0, 2);
    raw.text("k").u32(4).u32(1).text("k").u32(4).u32(2).refused("\"k\": it is there twice");
    let long = "n".repeat(5000);
    Raw::new(1, 0).tensor(&long, &[1], 0, 0).data(64).refused("a tensor's name");
    Raw::new(0, 1).text(&"k".repeat(65536)).u32(4).u32(1).refused("length of a key");
}

#[test]
fn other_files_are_named() {
    let parse = |bytes: &[u8]| Header::parse(bytes, &Limits::default(), "x.gguf".as_ref()).unwrap_err().to_string();
    assert!(parse(b"PK\x03\x04aaaaaaaaaaaaaaaa").contains("not a GGUF file"));
    assert!(parse(b"").contains("asks for"));
    assert!(parse(b"GGUF\x01\0\0\0aaaaaaaaaaaaaaaaaaa").contains("version 1"));
    assert!(parse(b"GGUF\0\0\0\x03aaaaaaaaaaaaaaaaaaa").contains("big-endian"));
    let small = Limits { header_bytes: 40, ..Limits::default() };
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(sample(dir.path())).unwrap();
    assert!(Header::parse(&bytes, &small, "x".as_ref()).unwrap_err().to_string().contains("header's length"));
}

#[test]
fn every_beginning_of_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(sample(dir.path())).unwrap();
    let whole = Header::parse(&bytes, &Limits::default(), "x".as_ref()).unwrap();
    let end = whole.tensors.values().map(|e| e.bytes.end).max().unwrap();
    for n in 0..end {
        assert!(Header::parse(&bytes[..n], &Limits::default(), "x".as_ref()).is_err(), "{n} of {end} bytes");
    }
    // Padding behind the last tensor may be missing.
    assert!(Header::parse(&bytes[..end], &Limits::default(), "x".as_ref()).is_ok());
}

#[test]
fn parts_are_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let part = |n: u16, count: u16, tensor: &str| {
        let keys = [
            ("general.architecture".to_owned(), Value::Text(format!("part {n}"))),
            ("split.no".to_owned(), Value::U16(n)),
            ("split.count".to_owned(), Value::U16(count)),
        ];
        let path = dir.path().join(format!("m-{:05}-of-{count:05}.gguf", n + 1));
        let mut w = Writer::create(&path, &keys, &[spec(tensor, TensorType::I8, &[3])]).unwrap();
        w.write(&[n as u8; 3]).unwrap();
        w.finish().unwrap();
        path
    };
    let (first, second) = (part(0, 2, "a"), part(1, 2, "b"));
    for path in [&first, &second] {
        let file = Gguf::open(path, &Limits::default()).unwrap();
        assert_eq!(file.metadata().text("general.architecture").unwrap(), "part 0");
        assert_eq!((file.bytes("a").unwrap(), file.bytes("b").unwrap()), (&[0; 3][..], &[1; 3][..]));
        assert_eq!(file.parts().count(), 2);
    }
    part(1, 2, "a");
    assert!(Gguf::open(&first, &Limits::default()).unwrap_err().to_string().contains("an earlier part"));
    std::fs::copy(&first, &second).unwrap();
    assert!(Gguf::open(&first, &Limits::default()).unwrap_err().to_string().contains("split.no"));
    std::fs::remove_file(&second).unwrap();
    let e = Gguf::open(&first, &Limits::default()).unwrap_err().to_string();
    assert!(e.contains("m-00002-of-00002.gguf"), "{e}");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let key = |k: &str| (k.to_owned(), Value::U8(1));
    type Case<'a> = (&'a [(String, Value)], &'a [Spec]);
    let cases: [Case; 5] = [
        (&[key("a"), key("a")], &[]),
        (&[key("general.alignment")], &[]),
        (&[], &[spec("t", TensorType::F32, &[1]), spec("t", TensorType::F32, &[1])]),
        (&[], &[spec("t", TensorType::Q8_0, &[2, 33])]),
        (&[], &[spec("t", TensorType::F32, &[usize::MAX, 2])]),
    ];
    for (keys, specs) in cases {
        let refused = Writer::create(&path, keys, specs).unwrap_err();
        assert!(matches!(refused, Error::Request { .. }) && refused.hint().is_some(), "{specs:?}");
    }
    let mut w = Writer::create(&path, &[], &[spec("t", TensorType::F32, &[2])]).unwrap();
    w.write(&[0; 4]).unwrap();
    assert!(w.finish().unwrap_err().to_string().contains("\"t\" has 4 of its 8 bytes"));
    let mut w = Writer::create(&path, &[], &[spec("t", TensorType::F32, &[2])]).unwrap();
    assert!(w.write(&[0; 9]).is_err());
    drop(w);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

proptest! {
    /// Any damage gives an error or a header that is consistent with the file; never a panic.
    #[test]
    fn damage_does_not_panic(edits in prop::collection::vec((0usize..4000, any::<u8>()), 1..6), keep in 0usize..2000) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(sample(dir.path())).unwrap();
        let n = bytes.len();
        edits.iter().for_each(|&(at, byte)| bytes[at % n] = byte);
        bytes.truncate(keep.max(1));
        if let Ok(header) = Header::parse(&bytes, &Limits::default(), "x".as_ref()) {
            prop_assert!(header.held_bytes() <= HEADER_FACTOR * bytes.len());
            for entry in header.tensors.values() {
                prop_assert!(entry.bytes.end <= bytes.len());
                prop_assert_eq!(entry.len(), if entry.bytes.is_empty() { 0 } else { entry.shape.iter().product() });
            }
        }
    }
}

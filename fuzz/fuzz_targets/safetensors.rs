//! A safetensors header: never a panic, never a tensor outside the file.
#![no_main]
use gently_formats::Limits;
use gently_formats::safetensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes, &Limits::default(), "fuzz".as_ref()) else { return };
    for entry in header.tensors.values() {
        assert!(entry.bytes.end <= bytes.len());
        assert_eq!(entry.shape.iter().product::<usize>() * entry.dtype.size(), entry.bytes.len());
    }
});

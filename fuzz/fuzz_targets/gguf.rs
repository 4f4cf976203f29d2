//! A GGUF header: never a panic, never a tensor outside the file, never more memory than stated.
#![no_main]
use gently_formats::Limits;
use gently_formats::gguf::{HEADER_FACTOR, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes, &Limits::default(), "fuzz".as_ref()) else { return };
    assert!(header.held_bytes() <= HEADER_FACTOR * bytes.len());
    for entry in header.tensors.values() {
        assert!(entry.bytes.end <= bytes.len());
    }
});

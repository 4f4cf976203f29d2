//! A token shard whose checksums are right, as those of somebody who means harm would be.
#![no_main]
use gently_formats::shard::Shard;
use gently_fuzz::Place;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use xxhash_rust::xxh3::xxh3_64;

const HEADER: usize = 128;
static PLACE: LazyLock<Place> = LazyLock::new(|| Place::new("shard"));

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER {
        bytes[..8].copy_from_slice(b"GNTLYTOK");
        let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let width = u64::from(bytes[12]);
        let tokens = number(&bytes, 16).saturating_mul(width).saturating_add(HEADER as u64);
        // The sum of the only block of a small file, that of the tables, that of the header.
        if tokens.saturating_add(8) <= bytes.len() as u64 {
            let (sum, last) = (xxh3_64(&bytes[HEADER..tokens as usize]), bytes.len() - 8);
            bytes[last..].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = xxh3_64(bytes.get(tokens.min(1 << 40) as usize..).unwrap_or(&[]));
        bytes[56..64].copy_from_slice(&sum.to_le_bytes());
        let sum = xxh3_64(&bytes[..HEADER - 8]);
        bytes[HEADER - 8..HEADER].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(shard) = Shard::open(PLACE.write("shard", &bytes)) else { return };
    let mut tokens = Vec::new();
    for i in 0..shard.documents() {
        let range = shard.document(i);
        assert_eq!(shard.document_of(range.start), i);
        let _ = shard.counts(range.start);
        if shard.read(range, &mut tokens).is_err() {
            return;
        }
    }
    assert_eq!(tokens.len() as u64, shard.len());
    assert!(tokens.iter().all(|t| u64::from(*t) < shard.vocab()));
    let _ = (shard.document(u64::MAX), shard.document_of(u64::MAX), shard.counts(u64::MAX));
    assert!(shard.read(0..u64::MAX, &mut tokens).is_err());
});

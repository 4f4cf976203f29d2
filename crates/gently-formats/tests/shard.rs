//! Shards out and in, and damaged ones.

use gently_formats::Error;
use gently_formats::shard::{BLOCK, Shard, ShardInfo, ShardWriter};
use proptest::prelude::*;

fn write(path: &std::path::Path, vocab: u64, docs: &[(Vec<u32>, bool)], masked: bool) {
    let mut w = ShardWriter::create(path, ShardInfo { vocab, tokenizer: 42, masked }).unwrap();
    for (doc, counts) in docs {
        w.push(doc, *counts).unwrap();
        w.end_document();
    }
    w.finish(false, true).unwrap();
}

#[test]
fn a_flipped_bit_is_found_when_its_block_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let tokens: Vec<u32> = (0..BLOCK as u32 * 2 + 100).map(|i| i % 50_000).collect();
    write(&path, 50_257, &[(tokens.clone(), true)], false);
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    damaged[128 + BLOCK as usize * 2 + 777] ^= 4;
    std::fs::write(&path, &damaged).unwrap();
    let shard = Shard::open(&path).unwrap();
    let mut out = Vec::new();
    shard.read(0..BLOCK, &mut out).unwrap();
    assert_eq!(out, &tokens[..BLOCK as usize]);
    let e = shard.read(BLOCK - 1..BLOCK + 1, &mut out).unwrap_err();
    assert!(matches!(&e, Error::Checksum { part, .. } if part.contains("block 1")), "{e}");
    assert!(e.hint().is_some());
    assert!(shard.verify_all().is_err());
    shard.read(2 * BLOCK..2 * BLOCK + 100, &mut out).unwrap();
    // Every other part is verified on opening.
    for at in [0, 9, 14, 20, 30, 45, 50, 53, 60, 100, 125, good.len() - 1, good.len() - 20, good.len() - 30] {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(Shard::open(&path).is_err(), "byte {at}");
    }
    for keep in [0, 5, 50, 128, 1000, good.len() - 1] {
        std::fs::write(&path, &good[..keep]).unwrap();
        let e = Shard::open(&path).unwrap_err();
        assert!(matches!(e, Error::Size { .. } | Error::Magic { .. }), "{keep}: {e}");
    }
}

#[test]
fn other_files_and_versions_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    std::fs::write(&path, b"PK\x03\x04 and so on").unwrap();
    assert!(matches!(Shard::open(&path), Err(Error::Magic { format: "token shard", .. })));
    write(&path, 65, &[(vec![1, 2, 3], true)], false);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 9;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(Shard::open(&path), Err(Error::Version { found: 9, known: 1, .. })));
    assert!(matches!(Shard::open(dir.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let info = ShardInfo { vocab: 65, tokenizer: 0, masked: false };
    let mut w = ShardWriter::create(dir.path().join("s"), info).unwrap();
    let e = w.push(&[64, 65], true).unwrap_err().to_string();
    assert!(e.contains("token 65"), "{e}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_documents_survive(
        docs in prop::collection::vec((prop::collection::vec(0u32..70_000, 0..50), any::<bool>()), 0..30),
        wide in any::<bool>(), masked in any::<bool>(),
    ) {
        let vocab = if wide { 70_000 } else { 300 };
        let docs: Vec<(Vec<u32>, bool)> =
            docs.into_iter().map(|(d, c)| (d.into_iter().map(|t| t % vocab).collect(), c)).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        write(&path, vocab.into(), &docs, masked);
        let shard = Shard::open(&path).unwrap();
        let full: Vec<_> = docs.iter().filter(|(d, _)| !d.is_empty()).collect();
        prop_assert_eq!(shard.documents() as usize, full.len());
        prop_assert_eq!((shard.vocab(), shard.tokenizer(), shard.goes_on()), (vocab.into(), 42, true));
        for (i, (doc, counts)) in full.iter().enumerate() {
            let range = shard.document(i as u64);
            let mut out = Vec::new();
            shard.read(range.clone(), &mut out).unwrap();
            prop_assert_eq!(&out, doc);
            for at in range {
                prop_assert_eq!(shard.document_of(at), i as u64);
                prop_assert_eq!(shard.counts(at), *counts || !masked);
            }
        }
        let past = shard.len() + 1;
        prop_assert!(shard.read(0..past, &mut Vec::new()).is_err());
    }
}

//! Loaders: each token once, the same again after a seek.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// A corpus in which each token says where it is: document d's token t is d * 1000 + t.
fn numbered(lengths: &[usize]) -> Arc<Corpus> {
    let documents = lengths.iter().enumerate().map(|(d, &n)| (0..n).map(|t| (d * 1000 + t) as u32).collect());
    Arc::new(Corpus::from_documents("train", documents.collect::<Vec<_>>(), 1_000_000, 0).unwrap())
}

fn options(batch: usize, block: usize, seed: u64, mode: Mode) -> LoaderOptions {
    LoaderOptions { mode, ..LoaderOptions::new(batch, block, seed) }
}

fn row(batch: &Batch, r: usize) -> (&[u32], &[u32]) {
    let at = r * batch.block..(r + 1) * batch.block;
    (&batch.ids[at.clone()], &batch.targets[at])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// In a stream epoch no token is seen twice, and all but less than a block at each end are seen.
    #[test]
    fn stream_epoch_visits_each_window_once(n in 20usize..900, block in 1usize..18, seed in any::<u64>(), epoch in 0u64..3) {
        let corpus = numbered(&[n]);
        let mut loader = Loader::new(corpus, options(1, block, seed, Mode::Stream)).unwrap();
        while loader.state().cursors[0].epoch < epoch {
            loader.next_batch().unwrap();
        }
        let mut starts = Vec::new();
        while loader.state().cursors[0].epoch == epoch {
            let batch = loader.next_batch().unwrap();
            let (ids, targets) = row(&batch, 0);
            for t in 0..block {
                prop_assert_eq!(ids[t] as usize, ids[0] as usize + t);
                prop_assert_eq!(targets[t], ids[t] + 1);
            }
            starts.push(ids[0] as usize);
        }
        starts.sort_unstable();
        let first = starts[0];
        prop_assert!(first < block);
        for (i, start) in starts.iter().enumerate() {
            prop_assert_eq!(*start, first + i * block);
        }
        prop_assert!(n - 1 - (first + starts.len() * block) < block);
    }

    /// From any place, in any mode, a loader that seeks there goes on as the first did.
    #[test]
    fn seeking_continues_identically(
        lengths in prop::collection::vec(1usize..60, 2..30), batch in 1usize..5, block in 1usize..12, seed in any::<u64>(),
        before in 0usize..60, which in 0usize..4, mask in any::<bool>(),
    ) {
        let mode = [Mode::Stream, Mode::Replacement, Mode::Documents, Mode::Sequential][which];
        let mut lengths = lengths;
        lengths.push(30);
        let corpora = || [(numbered(&lengths), 2.0), (numbered(&lengths[1..]), 1.0)];
        let o = LoaderOptions { doc_mask: mask, ..options(batch, block, seed, mode) };
        let mut first = Loader::mixture(corpora(), o.clone()).unwrap();
        for _ in 0..before {
            first.next_batch().unwrap();
        }
        let json = serde_json::to_string(&first.state()).unwrap();
        let mut second = Loader::mixture(corpora(), o).unwrap();
        second.seek(&serde_json::from_str(&json).unwrap()).unwrap();
        for _ in 0..20 {
            prop_assert_eq!(first.next_batch().unwrap(), second.next_batch().unwrap());
        }
        prop_assert_eq!(first.state(), second.state());
    }

    /// In an epoch of packed documents each token is placed once, followed by its own document's next.
    #[test]
    fn packing_places_each_token_once(lengths in prop::collection::vec(1usize..90, 1..60), block in 2usize..33, seed in any::<u64>()) {
        prop_assume!(lengths.iter().sum::<usize>() > 1);
        // Tokens from 1 on: 0 is padding.
        let documents: Vec<Vec<u32>> =
            lengths.iter().enumerate().map(|(d, &n)| (0..n).map(|t| (d * 1000 + t + 1) as u32).collect()).collect();
        let corpus = Corpus::from_documents("train", documents, 1_000_000, 0).unwrap();
        let mut loader = Loader::new(Arc::new(corpus), options(1, block, seed, Mode::Documents)).unwrap();
        for _epoch in 0..2 {
            let epoch = loader.state().cursors[0].epoch;
            let mut seen: HashMap<u32, u32> = HashMap::new();
            while loader.state().cursors[0].epoch == epoch {
                let batch = loader.next_batch().unwrap();
                let docs = batch.docs.as_ref().unwrap();
                for t in 0..block {
                    let (id, target) = (batch.ids[t], batch.targets[t]);
                    if id == 0 {
                        prop_assert_eq!(target, IGNORE);
                        prop_assert!(t > 0 && batch.ids[t..].iter().all(|&i| i == 0));
                        prop_assert!(docs[t] != docs[0]);
                        continue;
                    }
                    let (d, at) = (id as usize / 1000, id as usize % 1000 - 1);
                    prop_assert_eq!(seen.insert(id, target), None, "token {} twice", id);
                    prop_assert_eq!(target, if at + 1 < lengths[d] { id + 1 } else { IGNORE });
                    if t > 0 && docs[t] == docs[t - 1] {
                        prop_assert_eq!(id, batch.ids[t - 1] + 1);
                    }
                }
            }
            prop_assert_eq!(seen.len(), lengths.iter().sum::<usize>());
        }
    }

    /// An evaluation set over all has each token but the first as a target once, in order.
    #[test]
    fn evaluation_covers_the_split(n in 2usize..300, batch in 1usize..6, block in 1usize..20) {
        let set = EvalSet::new(numbered(&[n]), batch, block, None, false).unwrap();
        let mut targets = Vec::new();
        for b in set.iter() {
            let b = b.unwrap();
            prop_assert_eq!(b.ids.len(), batch * block);
            targets.extend(b.targets.into_iter().filter(|&t| t != IGNORE));
        }
        prop_assert_eq!(targets, (1..n as u32).collect::<Vec<_>>());
        let few = EvalSet::new(numbered(&[n]), batch, block, Some(2), false).unwrap();
        prop_assert!(few.len() <= 2 && !few.is_empty());
        prop_assert_eq!(few.batch(0).unwrap(), few.batch(0).unwrap());
    }
}

/// Documents of one token that do not see each other have no target.
#[test]
fn evaluation_moves_on_to_windows_with_a_target() {
    let settled = |lengths: &[usize], limit| {
        let mut set = EvalSet::new(numbered(lengths), 1, 4, limit, true).unwrap();
        let found = set.settle(&mut || Ok(())).unwrap();
        let ids: Vec<u32> = set.iter().map(|batch| batch.unwrap().ids[0]).collect();
        (found, ids)
    };
    // Windows of four of 46 tokens; the 10th holds the beginning of a longer document.
    let lengths = [&[1; 40][..], &[6]].concat();
    assert_eq!(settled(&lengths, Some(1)), (true, vec![40_000]));
    assert_eq!(settled(&lengths, Some(2)), (true, vec![16_000, 40_000]));
    // All of them, and those that hold a target where they are, stay.
    assert_eq!(settled(&lengths, None).1.len(), 12);
    assert_eq!(settled(&[30], Some(2)), (true, vec![0, 16]));
    assert!(!settled(&[1; 40], Some(3)).0);
    let mut set = EvalSet::new(numbered(&[1; 40]), 1, 4, None, true).unwrap();
    assert!(matches!(set.settle(&mut || Err(Error::Stopped)), Err(Error::Stopped)));
}

#[test]
fn mixtures_keep_their_shares_at_every_moment() {
    let a = numbered(&[500]);
    let b = Arc::new(Corpus::from_documents("b", [vec![999_999; 300]], 1_000_000, 0).unwrap());
    let mut loader = Loader::mixture([(a, 3.0), (b, 1.0)], options(1, 4, 5, Mode::Stream)).unwrap();
    let mut from_b = 0;
    for i in 1..=400 {
        from_b += i32::from(loader.next_batch().unwrap().ids[0] == 999_999);
        assert!((f64::from(from_b) - f64::from(i) / 4.0).abs() <= 1.0, "{from_b} of {i}");
    }
}

#[test]
fn epochs_differ_and_seeds_differ() {
    let order = |seed, epoch| -> Vec<u32> {
        let mut loader = Loader::new(numbered(&[900]), options(1, 10, seed, Mode::Stream)).unwrap();
        let mut starts = Vec::new();
        while loader.state().cursors[0].epoch <= epoch {
            let now = loader.state().cursors[0].epoch;
            let batch = loader.next_batch().unwrap();
            if now == epoch {
                starts.push(batch.ids[0]);
            }
        }
        starts
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert!(order(1, 0).windows(2).any(|w| w[0] > w[1]));
}

#[test]
fn document_masks_number_documents_and_stop_targets() {
    let corpus = numbered(&[3, 4, 5]);
    let o = LoaderOptions { doc_mask: true, ..options(1, 11, 1, Mode::Sequential) };
    let batch = Loader::new(corpus, o).unwrap().next_batch().unwrap();
    assert_eq!(batch.docs.as_deref().unwrap(), [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    let x = IGNORE;
    assert_eq!(batch.targets, [1, 2, x, 1001, 1002, 1003, x, 2001, 2002, 2003, 2004]);
    assert_eq!(batch.counted(), 9);
}

#[test]
fn replacement_stays_inside_and_reaches_all() {
    let mut loader = Loader::new(numbered(&[40]), options(8, 7, 3, Mode::Replacement)).unwrap();
    let mut starts = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let batch = loader.next_batch().unwrap();
        for r in 0..8 {
            let (ids, targets) = row(&batch, r);
            assert!(targets.iter().zip(ids).all(|(t, i)| *t == i + 1));
            starts.insert(ids[0]);
        }
    }
    // nanoGPT's range: torch.randint(len(data) - block_size).
    assert_eq!(starts.into_iter().collect::<Vec<_>>(), (0..33).collect::<Vec<_>>());
}

#[test]
fn corpora_of_one_tokenizer_mix_in_any_order() {
    let corpus = |vocab: u64, tokenizer: u64| {
        let documents = [(0..40).collect::<Vec<u32>>()];
        Corpus::from_documents(&format!("of {vocab}"), documents, vocab, tokenizer).unwrap()
    };
    for (first, second) in [(50, 60), (60, 50)] {
        let all = Corpus::merge([corpus(first, 7), corpus(second, 7)]).unwrap();
        assert_eq!((all.vocab(), all.tokens()), (60, 80));
        all.expect_tokenizer(7, 60).unwrap();
        assert!(matches!(all.expect_tokenizer(7, 59), Err(Error::OtherTokenizer { .. })), "the largest is the bound");
        let parts = |tokenizer: u64| [(Arc::new(corpus(first, 7)), 1.0), (Arc::new(corpus(second, tokenizer)), 1.0)];
        Loader::mixture(parts(7), LoaderOptions::new(1, 4, 0)).unwrap();
        assert!(matches!(
            Loader::mixture(parts(8), LoaderOptions::new(1, 4, 0)),
            Err(Error::OtherTokenizer { found: 8, expected: 7, .. })
        ));
        assert!(matches!(Corpus::merge([corpus(first, 7), corpus(second, 8)]), Err(Error::OtherTokenizer { .. })));
    }
}

#[test]
fn content_is_all_tokens_and_all_ends() {
    fn content(documents: &[&[u32]]) -> u64 {
        let documents = documents.iter().map(|document| document.to_vec());
        Corpus::from_documents("train", documents, 1 << 20, 0).unwrap().content()
    }
    let long: Vec<u32> = (0..3000).collect();
    let mut other = long.clone();
    other[2047] = 9;
    // Documents that are cut elsewhere, tokens that look like ends, and more tokens than are hashed at a time.
    let all = [
        content(&[&[1, 2, 3]]),
        content(&[&[1, 2], &[3]]),
        content(&[&[1], &[2, 3]]),
        content(&[&[1, 2, 3, 3, 0]]),
        content(&[&[1, 2, 3, 3, 0, 5, 0]]),
        content(&[&long]),
        content(&[&other]),
        content(&[&long[..2048], &long[2048..]]),
        content(&[]),
    ];
    let different: std::collections::BTreeSet<u64> = all.into_iter().collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(content(&[&long]), all[5]);
}

#[test]
fn sets_that_evaluate_otherwise_are_others() {
    let of = |first: u32, batch: usize, block: usize, limit: Option<usize>, mask: bool| {
        let documents = [(first..first + 200).collect::<Vec<u32>>()];
        let corpus = Corpus::from_documents("val", documents, 1000, 0).unwrap();
        EvalSet::new(corpus.into(), batch, block, limit, mask).unwrap().identity()
    };
    let one = of(0, 4, 8, Some(2), false);
    assert_eq!(one, of(0, 4, 8, Some(2), false));
    let others = [
        of(1, 4, 8, Some(2), false),
        of(0, 4, 8, Some(3), false),
        of(0, 4, 9, Some(2), false),
        of(0, 4, 8, None, false),
        of(0, 4, 8, Some(2), true),
    ];
    assert!(!others.contains(&one));
}

#[test]
fn what_a_corpus_does_not_have_is_an_error_or_nothing() {
    let corpus = Corpus::from_documents("train", [vec![1, 2, 3], vec![4]], 5, 0).unwrap();
    assert_eq!((corpus.part_len(1), corpus.part_documents(1)), (0, 0));
    assert_eq!([0, 1, 2, u64::MAX].map(|n| corpus.document(0, n)), [0..3, 3..4, 4..4, 4..4]);
    assert_eq!((corpus.document(7, 0), corpus.document_of(7, 0), corpus.counts(7, 0)), (0..0, 0, false));
    let mut out = vec![9];
    let backwards = std::ops::Range { start: 3, end: 2 };
    for (part, range) in [(0, 2..5), (0, backwards), (0, 0..u64::MAX), (1, 0..0)] {
        let error = corpus.read(part, range, &mut out).unwrap_err();
        assert!(matches!(error, Error::Option { option: "tokens", .. }), "{error}");
    }
    corpus.read(0, 1..4, &mut out).unwrap();
    assert_eq!(out, [9, 2, 3, 4]);
}

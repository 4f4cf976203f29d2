//! Tokens and back, for every kind of tokenizer, on hard strings.

use gently_text::{BpeOptions, Error, Kind, StreamDecoder, Tokenizer, safe_cut, train_bpe};
use proptest::prelude::*;
use std::sync::LazyLock;

const CORPUS: &str = "It was the best of times, it was the worst of times.\n\nIt was the age of wisdom; \
    we'll say it wasn't.\r\n\tTabs\t and  double  spaces, numbers 1234 and <|endoftext|> in plain sight.\n";

static BPE: LazyLock<Tokenizer> = LazyLock::new(|| train_bpe([CORPUS; 4].iter(), &BpeOptions::new(300)).unwrap());

const HARD: [&str; 12] = [
    "",
    " ",
    "\n\n\n",
    "\r\n \t\u{a0}\u{3000}x",
    "naïve café ü ß ﬁ",
    "e\u{301}\u{323} combining",
    "日本語のテキスト。",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u{0}\u{1}\u{7f}\u{feff}",
    "مرحبا بالعالم",
    "<|endoftext|> spelled out",
    "a\u{fffd}b ▁ Ġ Ċ",
];

#[test]
fn hard_strings_survive() {
    for text in HARD {
        for tokenizer in [&Tokenizer::bytes(), &Tokenizer::characters(text.chars()), &*BPE] {
            let ids = tokenizer.encode(text).unwrap();
            assert!(ids.iter().all(|&i| (i as usize) < tokenizer.vocab_size()));
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{:?}", tokenizer.kind());
            assert_eq!(tokenizer.decode_bytes(&ids).unwrap(), text.as_bytes());
        }
    }
}

#[test]
fn specials_are_text_unless_asked() {
    let end = BPE.end_of_text().unwrap();
    assert!(!BPE.encode("a<|endoftext|>b").unwrap().contains(&end));
    assert!(BPE.encode_with_specials("a<|endoftext|>b").unwrap().contains(&end));
    let chars = Tokenizer::characters("ab<|endoftx>".chars()).with_end_of_text("<|endoftext|>");
    let end = chars.end_of_text().unwrap();
    assert_eq!(end as usize, chars.vocab_size() - 1);
    assert!(!chars.encode("a<|endoftext|>b").unwrap().contains(&end));
    let ids = chars.encode_with_specials("a<|endoftext|>b<|endoftext|>").unwrap();
    assert_eq!(ids, [chars.encode("a").unwrap()[0], end, chars.encode("b").unwrap()[0], end]);
    assert_eq!(chars.decode(&ids).unwrap(), "a<|endoftext|>b<|endoftext|>");
}

#[test]
fn saved_and_loaded_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        Tokenizer::bytes(),
        Tokenizer::bytes().with_end_of_text("<|endoftext|>"),
        Tokenizer::characters(HARD.concat().chars()),
        Tokenizer::characters("abc".chars()).with_end_of_text("<end>"),
        BPE.clone(),
    ];
    for (i, tokenizer) in kinds.iter().enumerate() {
        let at = dir.path().join(i.to_string());
        tokenizer.save(&at).unwrap();
        let loaded = Tokenizer::load(&at).unwrap();
        assert_eq!(loaded.kind(), tokenizer.kind());
        assert_eq!(loaded.hash(), tokenizer.hash());
        assert_eq!(loaded.end_of_text(), tokenizer.end_of_text());
        assert_eq!(loaded.vocab_size(), tokenizer.vocab_size());
        let text: String = if tokenizer.kind() == Kind::Characters { "abc".into() } else { HARD.concat() };
        assert_eq!(loaded.encode(&text).ok(), tokenizer.encode(&text).ok());
    }
}

#[cfg(unix)]
#[test]
fn saving_keeps_links_and_permissions() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("real"), "old").unwrap();
    std::fs::set_permissions(at("real"), std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink("real", at("tokenizer.json")).unwrap();
    Tokenizer::bytes().save(dir.path()).unwrap();
    assert_eq!(std::fs::read_link(at("tokenizer.json")).unwrap(), std::path::Path::new("real"));
    assert_eq!(std::fs::metadata(at("real")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Tokenizer::load(at("real")).unwrap().hash(), Tokenizer::bytes().hash());
}

#[test]
fn files_that_cannot_be_read_or_written_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let told = |e: Error, words: &str| {
        assert!(e.to_string().contains("tokenizer.json") && e.to_string().contains(words), "{e}");
        assert!(e.hint().is_some(), "{e}");
    };
    told(Tokenizer::load(&path).unwrap_err(), "cannot read");
    std::fs::create_dir(&path).unwrap();
    told(Tokenizer::load(dir.path()).unwrap_err(), "cannot read");
    told(Tokenizer::bytes().save(dir.path()).unwrap_err(), "cannot write");
    std::fs::remove_dir(&path).unwrap();
    // What it says of its length is enough.
    std::fs::File::create(&path).unwrap().set_len(1 << 33).unwrap();
    told(Tokenizer::load(&path).unwrap_err(), "268435456");
    std::fs::write(&path, b"{\xff}").unwrap();
    told(Tokenizer::load(&path).unwrap_err(), "offset 1");
    told(Tokenizer::bytes().save(&path).unwrap_err(), "cannot create");
}

/// The direct code of bytes and characters agrees with the pipeline that others will run from the file.
#[test]
fn files_mean_the_same_to_the_reference_crate() {
    let text = HARD.concat();
    for tokenizer in [Tokenizer::bytes(), Tokenizer::characters(text.chars())] {
        let reference: tokenizers::Tokenizer = tokenizer.to_json().parse().unwrap();
        let ids = reference.encode(text.as_str(), false).unwrap();
        assert_eq!(ids.get_ids(), tokenizer.encode(&text).unwrap());
        assert_eq!(reference.decode(ids.get_ids(), false).unwrap(), text);
    }
}

#[test]
fn training_is_repeatable_and_of_the_size_asked() {
    let again = train_bpe([CORPUS; 4].iter(), &BpeOptions::new(300)).unwrap();
    assert_eq!(again.hash(), BPE.hash());
    assert_eq!(again.vocab_size(), 300);
    let few = BPE.encode(CORPUS).unwrap().len();
    assert!(few < CORPUS.len() * 3 / 4, "{few} tokens for {} bytes", CORPUS.len());
    assert!(matches!(
        train_bpe([CORPUS].iter(), &BpeOptions::new(10)),
        Err(Error::VocabTooSmall { asked: 10, least: 257 })
    ));
    // Refused before memory for it is asked for.
    assert!(matches!(
        train_bpe([CORPUS].iter(), &BpeOptions::new(usize::MAX)),
        Err(Error::VocabTooLarge { asked: usize::MAX, .. })
    ));
    assert!(matches!(train_bpe([""].iter(), &BpeOptions::new(300)), Err(Error::EmptyText { .. })));
}

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = StreamDecoder::new(tokenizer);
    let mut out = String::new();
    for &id in ids {
        out += &decoder.push(id).unwrap();
    }
    out + &decoder.finish().unwrap()
}

proptest! {
    #[test]
    fn any_text_survives(text in any::<String>()) {
        for tokenizer in [&Tokenizer::bytes(), &Tokenizer::characters(text.chars()), &*BPE] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &text);
            prop_assert_eq!(&stream(tokenizer, &ids), &text);
        }
    }

    #[test]
    fn streaming_any_tokens_gives_the_decoded_text(ids in prop::collection::vec(0u32..256, 0..40)) {
        let bytes = Tokenizer::bytes();
        prop_assert_eq!(stream(&bytes, &ids), bytes.decode(&ids).unwrap());
        prop_assert_eq!(stream(&BPE, &ids), BPE.decode(&ids).unwrap());
    }

    #[test]
    fn cuts_keep_the_tokens(words in prop::collection::vec("[a-z',.]{0,5}[ \n\r\t]{0,3}", 0..60), from in 0usize..200) {
        let text = words.concat();
        for tokenizer in [&Tokenizer::bytes(), &*BPE] {
            if let Some(cut) = safe_cut(tokenizer, &text, from).unwrap() {
                prop_assert!(cut >= from && cut < text.len());
                let mut parts = tokenizer.encode(&text[..cut]).unwrap();
                parts.extend(tokenizer.encode(&text[cut..]).unwrap());
                prop_assert_eq!(parts, tokenizer.encode(&text).unwrap());
            }
        }
    }
}

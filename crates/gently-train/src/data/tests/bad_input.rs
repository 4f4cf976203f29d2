//! Each wrong input is a named error, and nothing is left behind.

use super::*;
use gently_formats::Error as Refused;
use std::fs;

fn prepare_bytes(dir: &Path, name: &str, bytes: &[u8]) -> Error {
    let file = dir.join(name);
    fs::write(&file, bytes).unwrap();
    let out = dir.join("out");
    let e = run(&Prepare::new([file.into()]), &out).unwrap_err();
    assert!(!out.exists(), "something was left");
    // A folder that was there before stays.
    fs::create_dir(&out).unwrap();
    run(&Prepare::new([dir.join(name).into()]), &out).unwrap_err();
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "something was left in the folder");
    fs::remove_dir(&out).unwrap();
    e
}

#[test]
fn empty_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.txt", "a.jsonl"] {
        let e = prepare_bytes(dir.path(), name, b"");
        assert!(matches!(&e, Error::Empty { source_name } if source_name.ends_with(name)), "{e}");
        assert!(e.hint().is_some());
    }
    let e = prepare_bytes(dir.path(), "bom.txt", b"\xef\xbb\xbf");
    assert!(matches!(e, Error::Empty { .. }), "{e}");
}

#[test]
fn an_empty_text_for_validation_is_told_before_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut prepare = Prepare::new([Input::text("long", "some text")]);
    prepare.val_inputs = vec![Input::text("short", "")];
    let mut read = 0;
    let e = prepare.run(dir.path(), &mut |now| {
        read = now.done;
        Ok(())
    });
    let e = e.unwrap_err();
    assert!(matches!(&e, Error::Empty { source_name } if source_name == "short"), "{e}");
    assert_eq!(read, 0);
}

#[test]
fn not_utf8_names_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let e = prepare_bytes(dir.path(), "a.txt", b"caf\xe9 au lait");
    assert!(matches!(e, Error::NotUtf8 { offset: 3, byte: 0xe9, .. }), "{e}");
    assert!(e.hint().unwrap().contains("iconv"));
    let mut long = vec![b'a'; 3 << 20];
    long[(2 << 20) + 17] = 0xff;
    let e = prepare_bytes(dir.path(), "b.txt", &long);
    assert!(matches!(e, Error::NotUtf8 { offset, .. } if offset == (2 << 20) + 17), "{e}");
    // A character that the file's end cuts off.
    let e = prepare_bytes(dir.path(), "c.txt", "naï".as_bytes().split_last().unwrap().1);
    assert!(matches!(e, Error::NotUtf8 { offset: 2, .. }), "{e}");
    let e = prepare_bytes(dir.path(), "d.jsonl", b"{\"text\":\"ok\"}\n{\"text\":\"\xff\"}\n");
    assert!(matches!(e, Error::NotUtf8 { offset: 23, .. }), "{e}");
}

#[test]
fn bad_lines_are_numbered() {
    let dir = tempfile::tempdir().unwrap();
    let e = prepare_bytes(dir.path(), "a.jsonl", b"{\"text\":\"ok\"}\n{\"text\":");
    assert!(matches!(&e, Error::Line { line: 2, .. }), "{e}");
    // One place alone: the parser has its own, in which each line is the first.
    assert!(e.to_string().ends_with("a.jsonl: line 2: column 8: EOF while parsing a value"), "{e}");
    let e = prepare_bytes(dir.path(), "a.jsonl", b"{\"body\":\"ok\",\"id\":1}");
    assert!(e.to_string().contains("body, id"), "{e}");
    let e = prepare_bytes(dir.path(), "a.jsonl", b"[1]");
    assert!(matches!(&e, Error::Line { line: 1, .. }), "{e}");
}

#[test]
fn missing_paths_and_folders_without_texts() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let e = run(&Prepare::new([dir.path().join("none.txt").into()]), &out).unwrap_err();
    assert!(matches!(&e, Error::File(Refused::Io { path, .. }) if path.ends_with("none.txt")), "{e}");
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let e = run(&Prepare::new([folder.into()]), &out).unwrap_err();
    assert!(matches!(e, Error::NoFiles { .. }), "{e}");
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_names_its_feature() {
    let dir = tempfile::tempdir().unwrap();
    let e = prepare_bytes(dir.path(), "a.parquet", b"PAR1");
    assert!(matches!(e, Error::Feature { feature: "parquet", .. }), "{e}");
}

#[test]
fn texts_shorter_than_a_block() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = prepare_texts(dir.path(), &["short text"], |p| p.val_fraction = 0.0).unwrap();
    let corpus = Arc::new(dataset.train().unwrap());
    for mode in [Mode::Stream, Mode::Replacement, Mode::Sequential] {
        let o = LoaderOptions { mode, ..LoaderOptions::new(1, 10, 0) };
        let e = Loader::new(corpus.clone(), o).unwrap_err();
        assert!(matches!(&e, Error::TooShort { tokens: 10, block: 10, .. }), "{e}");
        assert!(e.hint().unwrap().contains("at most 9"));
        let o = LoaderOptions { mode, ..LoaderOptions::new(1, 9, 0) };
        assert!(Loader::new(corpus.clone(), o).unwrap().next_batch().is_ok());
    }
    // More batches than there are numbers are all that there is.
    let few = Arc::new(Corpus::from_documents("val", [vec![1; 30]], 2, 0).unwrap());
    assert_eq!(EvalSet::new(few, 4, 4, Some(1 << 62), false).unwrap().len(), 2);
    let one = Arc::new(Corpus::from_documents("val", [vec![1]], 2, 0).unwrap());
    let e = Loader::new(one.clone(), LoaderOptions::new(1, 8, 0)).unwrap_err();
    assert_eq!(e.hint().unwrap(), "use more text", "no block is short enough");
    // Nothing was made with no tokenizer.
    let none = Arc::new(Corpus::open("part", Vec::<std::path::PathBuf>::new()).unwrap());
    let full = Arc::new(Corpus::from_documents("train", [vec![1; 30]], 2, 7).unwrap());
    let e = Loader::mixture([(full, 1.0), (none, 1.0)], LoaderOptions::new(1, 4, 0)).unwrap_err();
    assert!(matches!(&e, Error::TooShort { split, tokens: 0, .. } if split == "part"), "{e}");
    assert!(matches!(EvalSet::new(one, 1, 8, None, false), Err(Error::TooShort { .. })));
}

#[test]
fn characters_outside_a_given_vocabulary_are_placed() {
    let dir = tempfile::tempdir().unwrap();
    let e = prepare_texts(dir.path(), &["abc", "abé"], |p| {
        p.tokenizer = TokenizerSpec::Ready(gently_text::Tokenizer::characters("abc".chars()));
    })
    .unwrap_err();
    assert!(e.to_string().contains("texts: character 'é'"), "{e}");
    assert!(e.hint().is_some());
}

#[test]
fn damaged_shards_are_found_in_the_loader() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = prepare_texts(dir.path(), &["some text to be damaged"], |p| p.val_fraction = 0.0).unwrap();
    let shard = dir.path().join("train-00000.tok");
    let good = fs::read(&shard).unwrap();
    let mut bytes = good.clone();
    bytes[130] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let mut loader = Loader::new(Arc::new(dataset.train().unwrap()), LoaderOptions::new(1, 4, 0)).unwrap();
    let e = loader.next_batch().unwrap_err();
    assert!(e.to_string().contains("train-00000.tok") && e.to_string().contains("block 0"), "{e}");
    assert!(dataset.train().unwrap().verify().is_err());
    fs::write(&shard, &good[..good.len() - 3]).unwrap();
    assert!(matches!(dataset.train(), Err(Error::File(Refused::Size { .. }))));
    fs::write(&shard, b"something else altogether").unwrap();
    assert!(matches!(dataset.train(), Err(Error::File(Refused::Magic { .. }))));
    fs::remove_file(&shard).unwrap();
    assert!(matches!(dataset.train(), Err(Error::File(Refused::Io { .. }))));
}

#[test]
fn another_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = prepare_texts(dir.path(), &["some text"], |_| {}).unwrap();
    let e = dataset.train().unwrap().expect_tokenizer(7, 300).unwrap_err();
    assert!(matches!(&e, Error::OtherTokenizer { expected_vocab: 300, .. }), "{e}");
    // Its own, but with fewer tokens than the shard says that there are.
    let (hash, vocab) = (dataset.tokenizer().hash(), dataset.tokenizer().vocab_size());
    dataset.train().unwrap().expect_tokenizer(hash, vocab).unwrap();
    assert!(matches!(dataset.train().unwrap().expect_tokenizer(hash, vocab - 1), Err(Error::OtherTokenizer { .. })));
    gently_text::Tokenizer::bytes().save(dir.path()).unwrap();
    assert!(matches!(Dataset::open(dir.path()), Err(Error::OtherTokenizer { .. })));
}

#[test]
fn broken_dataset_files() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Dataset::open(dir.path()), Err(Error::NotDataset { .. })));
    prepare_texts(dir.path(), &["some text"], |_| {}).unwrap();
    let json = dir.path().join("dataset.json");
    let text = fs::read_to_string(&json).unwrap();
    for (from, to) in [("train-00000.tok", "../../etc/passwd"), ("\"version\": 1", "\"version\": 99"), ("{", "[")] {
        fs::write(&json, text.replacen(from, to, 1)).unwrap();
        let e = Dataset::open(dir.path()).unwrap_err();
        assert!(matches!(e, Error::NotDataset { .. }), "{e}");
    }
}

#[test]
fn places_of_other_data_are_refused() {
    let corpus = |n| Arc::new(Corpus::from_documents("train", [vec![1; n]], 2, 0).unwrap());
    let mut a = Loader::new(corpus(100), LoaderOptions::new(2, 4, 0)).unwrap();
    for other in [
        Loader::new(corpus(101), LoaderOptions::new(2, 4, 0)).unwrap(),
        Loader::new(corpus(100), LoaderOptions::new(2, 4, 1)).unwrap(),
        Loader::new(corpus(100), LoaderOptions::new(2, 5, 0)).unwrap(),
    ] {
        let e = a.seek(&other.state()).unwrap_err();
        assert!(matches!(e, Error::State { .. }) && e.hint().is_some());
    }
    let mut far = a.state();
    far.cursors[0].position = 1 << 40;
    assert!(matches!(a.seek(&far), Err(Error::State { .. })));
    far.cursors.clear();
    assert!(matches!(a.seek(&far), Err(Error::State { .. })));
    let mut far = a.state();
    far.batches = u64::MAX;
    assert!(matches!(a.seek(&far), Err(Error::State { .. })));
    // As many tokens, but others; a place that was saved before Gently noted what the data holds is taken.
    let mut tokens = vec![1; 100];
    tokens[50] = 0;
    let changed = Arc::new(Corpus::from_documents("train", [tokens], 2, 0).unwrap());
    let mut changed = Loader::new(changed, LoaderOptions::new(2, 4, 0)).unwrap();
    let e = changed.seek(&a.state()).unwrap_err();
    assert!(e.to_string().contains("not the same ones"), "{e}");
    changed.seek(&LoaderState { content: None, ..a.state() }).unwrap();
}

#[test]
fn impossible_options() {
    let dir = tempfile::tempdir().unwrap();
    for change in [
        (|p: &mut Prepare| p.val_fraction = 1.0) as fn(&mut Prepare),
        |p| p.val_fraction = f64::NAN,
        |p| p.shard_tokens = 0,
        |p| p.inputs.clear(),
        |p| p.split = SplitRule::Documents,
        |p| p.tokenizer = TokenizerSpec::Bpe(100),
    ] {
        assert!(prepare_texts(dir.path(), &["text"], change).is_err());
    }
    let corpus = Arc::new(Corpus::from_documents("train", [vec![1; 50]], 2, 0).unwrap());
    assert!(matches!(
        Loader::new(corpus.clone(), LoaderOptions::new(0, 4, 0)),
        Err(Error::Option { option: "batch", .. })
    ));
    assert!(matches!(
        Loader::new(corpus.clone(), LoaderOptions::new(4, 0, 0)),
        Err(Error::Option { option: "block", .. })
    ));
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let e = Loader::mixture([(corpus.clone(), weight)], LoaderOptions::new(1, 4, 0)).unwrap_err();
        assert!(matches!(e, Error::Option { option: "weight", .. }));
    }
    assert!(Loader::mixture([], LoaderOptions::new(1, 4, 0)).is_err());
}

/// The superuser may write anywhere, so the test needs a place that is not writable for it either.
#[cfg(target_os = "linux")]
#[test]
fn folders_that_cannot_be_written() {
    let e = run(&Prepare::new([Input::text("t", "text")]), Path::new("/proc/gently")).unwrap_err();
    assert!(matches!(&e, Error::File(Refused::Io { path, .. }) if path == Path::new("/proc/gently")), "{e}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let e = run(&Prepare::new([Input::text("t", "text")]), &file.path().join("out")).unwrap_err();
    assert!(matches!(e, Error::File(Refused::Io { .. })), "{e}");
}

//! From texts to shards.

use super::*;
use std::fs;

const POEM: &str = "Tyger Tyger, burning bright,\nIn the forests of the night;\n";

#[test]
fn one_text_is_split_by_characters_as_nanogpt_does() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = "añb∂c\n".repeat(101);
    let file = dir.path().join("t.txt");
    fs::write(&file, &text).unwrap();
    let dataset = run(&Prepare::new([file.into()]), &dir.path().join("out")).unwrap();
    let (train, val) = (dataset.train().unwrap(), dataset.val().unwrap().unwrap());
    let cut = (606.0 * 0.9) as usize;
    let chars: Vec<char> = text.chars().collect();
    assert_eq!(texts(&dataset, &train), [chars[..cut].iter().collect::<String>()]);
    assert_eq!(texts(&dataset, &val), [chars[cut..].iter().collect::<String>()]);
    assert_eq!(dataset.tokenizer().vocab_size(), 6);
    assert_eq!(dataset.info().sources[0].characters, 606);
}

#[test]
fn a_few_texts_give_each_its_tail() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = prepare_texts(dir.path(), &["0123456789", "abcdefghijklmnopqrst"], |p| {
        (p.tokenizer, p.end_of_text) = (TokenizerSpec::Bytes, Some(true));
    })
    .unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), ["012345678", "abcdefghijklmnopqr"]);
    let val = texts(&dataset, &dataset.val().unwrap().unwrap());
    assert_eq!(val, ["9<|endoftext|>", "st<|endoftext|>"]);
}

/// A text of several pieces gives the tokens that encoding it whole gives, whatever the threads and shards.
#[test]
fn long_texts_are_cut_where_tokens_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for i in 0..20_000u32 {
        text += &format!(
            "line {i}, {} words.{}",
            i.wrapping_mul(2_654_435_761) >> 20,
            ["\n", "\n\n", " ", "\r\n"][i as usize % 4]
        );
    }
    text += &"no place to cut ".repeat(20_000);
    text += "\nbut here.\n";
    let file = dir.path().join("t.txt");
    fs::write(&file, &text).unwrap();
    let mut prepare = Prepare::new([file.into()]);
    prepare.val_fraction = 0.0;
    prepare.tokenizer = TokenizerSpec::Bpe(400);
    let mut first = None;
    for (threads, shard_tokens) in [(1, 1 << 30), (2, 50_001), (5, 1 << 30)] {
        (prepare.threads, prepare.shard_tokens) = (threads, shard_tokens);
        let dataset = run(&prepare, &dir.path().join(format!("out{threads}"))).unwrap();
        let corpus = dataset.train().unwrap();
        let mut tokens = Vec::new();
        for part in 0..corpus.parts() {
            corpus.read(part, 0..corpus.part_len(part), &mut tokens).unwrap();
        }
        assert_eq!(corpus.parts() > 1, threads == 2);
        assert_eq!(dataset.info().train.documents, 1);
        assert!(dataset.val().unwrap().is_none());
        let first = first.get_or_insert_with(|| dataset.tokenizer().encode(&text).unwrap());
        assert!(tokens == *first, "{threads} threads");
        assert_eq!(dataset.tokenizer().decode(&tokens).unwrap(), text);
    }
}

#[test]
fn folders_are_read_in_order_and_split_by_document() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in");
    fs::create_dir_all(from.join("b/.hidden")).unwrap();
    for i in 0..20 {
        fs::write(from.join(format!("b/{i:02}.txt")), format!("document {i}\n")).unwrap();
    }
    fs::write(from.join("a.jsonl"), "{\"text\":\"first\"}\n\n{\"text\":\"second\"}\n").unwrap();
    fs::write(from.join("b/.hidden/x.txt"), "hidden").unwrap();
    fs::write(from.join("b/empty.txt"), "").unwrap();
    fs::write(from.join("c.bin"), [0xff, 0xfe]).unwrap();
    let mut prepare = Prepare::new([from.into()]);
    prepare.tokenizer = TokenizerSpec::Bytes;
    prepare.end_of_text = Some(true);
    prepare.split = SplitRule::Documents;
    prepare.val_fraction = 0.2;
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    let train = texts(&dataset, &dataset.train().unwrap());
    let val = texts(&dataset, &dataset.val().unwrap().unwrap());
    assert_eq!(train.len() + val.len(), 22);
    assert!(!val.is_empty() && val.len() < 12, "{}", val.len());
    assert!(train.iter().chain(&val).all(|t| t.ends_with("<|endoftext|>")));
    let numbers: Vec<_> = train.iter().filter(|t| t.starts_with("doc")).collect();
    assert!(numbers.iter().any(|t| t.contains(" 19")) || val.iter().any(|t| t.contains(" 19")));
    let mut all: Vec<String> = train.into_iter().chain(val).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 22);
}

#[test]
fn gzip_is_read_as_what_it_holds() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl.gz");
    let mut gz = flate2::write::GzEncoder::new(fs::File::create(&file).unwrap(), flate2::Compression::fast());
    gz.write_all(b"{\"text\":\"zipped\"}\n").unwrap();
    gz.finish().unwrap();
    let mut prepare = Prepare::new([file.clone().into()]);
    prepare.val_fraction = 0.0;
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), ["zipped"]);
    let bytes = fs::read(&file).unwrap();
    for wrong in [&bytes[..bytes.len() - 6], &bytes[..bytes.len() / 2], b"not packed at all"] {
        fs::write(&file, wrong).unwrap();
        let e = run(&prepare, &dir.path().join("out")).unwrap_err();
        assert!(matches!(&e, Error::File(gently_formats::Error::Io { path, .. }) if *path == file), "{e}");
        assert!(e.hint().is_some_and(|hint| hint.contains("gzip")), "{e}: {:?}", std::error::Error::source(&e));
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_have_an_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (from, elsewhere) = (dir.path().join("in"), dir.path().join("elsewhere.txt"));
    let deep = (0..40).fold(from.join("deep"), |folder, _| folder.join("d"));
    fs::create_dir_all(&deep).unwrap();
    for (file, text) in [
        (deep.join("w.txt"), "one"),
        (from.join("deep/x.txt"), "two"),
        (from.join("y.txt"), "three"),
        (elsewhere.clone(), "four"),
    ] {
        fs::write(file, text).unwrap();
    }
    // Two that lead back to where they stand double what is seen at every level.
    for (to, link) in [(".", "a"), (".", "b"), ("..", "deep/up"), ("deep", "zz"), ("y.txt", "z.txt")] {
        symlink(to, from.join(link)).unwrap();
    }
    symlink(&elsewhere, from.join("c.txt")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(from.join("pipe.txt")).status().unwrap().success());
    let mut prepare = Prepare::new([from.clone().into()]);
    (prepare.tokenizer, prepare.val_fraction) = (TokenizerSpec::Bytes, 0.0);
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), ["four", "one", "two", "three"]);

    // Somebody who has had enough is heard at each entry.
    let mut looks = 0;
    let stopped = crate::data::read::resolve(&[from.into()], None, &mut |_| {
        looks += 1;
        if looks == 9 { Err(Error::Stopped) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && looks == 9);
    // A link that leads nowhere is told by its name.
    symlink("nowhere.txt", dir.path().join("lost.txt")).unwrap();
    let e = run(&Prepare::new([dir.path().to_path_buf().into()]), &dir.path().join("none")).unwrap_err();
    assert!(matches!(&e, Error::File(gently_formats::Error::Io { path, .. }) if path.ends_with("lost.txt")), "{e}");
}

#[test]
fn a_text_tells_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, empty) = (dir.path().join("t.jsonl"), dir.path().join("e.txt"));
    fs::write(&lines, "{\"text\":\"añb\"}\n{\"text\":\"cd\"}\nnot read").unwrap();
    fs::write(&empty, "").unwrap();
    let beginning = |most| Input::Path(lines.clone()).beginning(most);
    assert_eq!((beginning(2), beginning(4)), (Some("añ".into()), Some("añbc".into())));
    assert_eq!(beginning(6), None, "the third line is wrong");
    for none in [Input::Path(empty), Input::Path(dir.path().join("absent")), Input::named("-"), Input::named("kjv")] {
        assert_eq!(none.beginning(5), None);
    }
    assert_eq!(Input::text("t", "some words").beginning(4).as_deref(), Some("some"));
}

#[test]
fn separators_make_documents() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.txt");
    fs::write(&file, "one\n<|endoftext|>\ntwo\n<|endoftext|><|endoftext|>\nthree").unwrap();
    let mut prepare = Prepare::new([file.into()]);
    prepare.layout.separator = Some("<|endoftext|>".into());
    prepare.val_fraction = 0.0;
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), ["one\n", "two\n", "three"]);
}

#[test]
fn prompts_do_not_count_in_the_loss() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl");
    fs::write(&file, "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n{\"text\":\"xyz\"}\n").unwrap();
    let mut prepare = Prepare::new([file.into()]);
    prepare.tokenizer = TokenizerSpec::Bytes;
    prepare.end_of_text = Some(true);
    prepare.val_fraction = 0.0;
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    let corpus = Arc::new(dataset.train().unwrap());
    assert!(corpus.is_masked());
    let set = EvalSet::new(corpus, 1, 16, None, true).unwrap();
    let batch = set.batch(0).unwrap();
    let (x, end) = (IGNORE, 256);
    let ids: Vec<u32> = "abcd".bytes().map(u32::from).chain([end]).chain("xyz".bytes().map(u32::from)).collect();
    assert_eq!(batch.ids[..8], ids);
    // b is prompt; c follows the prompt and counts; the end token has no successor in its document.
    assert_eq!(batch.targets[..8], [x, ids[2], ids[3], end, x, ids[6], ids[7], end]);
}

/// The last tenth of each of these documents is all of its completion.
#[test]
fn completions_stay_with_their_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.jsonl");
    let line = |n: usize| format!("{{\"prompt\":\"{}\",\"completion\":\"{n:020}\"}}\n", "q".repeat(200));
    fs::write(&file, (0..50).map(line).collect::<String>()).unwrap();
    let mut prepare = Prepare::new([file.clone().into()]);
    prepare.tokenizer = TokenizerSpec::Bytes;
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    let (train, val) = (dataset.train().unwrap(), dataset.val().unwrap().unwrap());
    let all = [texts(&dataset, &train), texts(&dataset, &val)].concat();
    assert!(all.len() == 50 && all.iter().all(|text| text.len() == 220), "{:?}", dataset.info());
    assert!(train.documents() > val.documents());

    let only_prompts = |prepare: &Prepare, name: &str| {
        let e = run(prepare, &dir.path().join(name)).unwrap_err();
        assert!(matches!(&e, Error::OnlyPrompts { source_name } if source_name.ends_with("t.jsonl")), "{e}");
        assert!(e.hint().unwrap().contains("val_fraction") && !dir.path().join(name).exists());
    };
    prepare.split = SplitRule::Tail;
    only_prompts(&prepare, "tails");
    prepare.split = SplitRule::Auto;
    fs::write(&file, line(0)).unwrap();
    only_prompts(&prepare, "one");
    prepare.val_fraction = 0.0;
    run(&prepare, &dir.path().join("one")).unwrap();
    fs::write(&file, "{\"prompt\":\"a question\",\"completion\":\"\"}\n".repeat(3)).unwrap();
    only_prompts(&prepare, "none");
}

#[test]
fn preparing_again_is_skipped_until_something_changes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let texts = [POEM, "another document", "a third"];
    assert!(!prepare_texts(&out, &texts, |_| {}).unwrap().was_reused());
    assert!(prepare_texts(&out, &texts, |_| {}).unwrap().was_reused());
    assert!(!prepare_texts(&out, &texts[..2], |_| {}).unwrap().was_reused());
    assert!(!prepare_texts(&out, &texts[..2], |p| p.seed = 2).unwrap().was_reused());
    let shard = out.join("train-00000.tok");
    fs::write(&shard, &fs::read(&shard).unwrap()[..140]).unwrap();
    assert!(!prepare_texts(&out, &texts[..2], |p| p.seed = 2).unwrap().was_reused());
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|n| !n.starts_with('.')), "{names:?}");
}

#[test]
fn a_dataset_of_other_texts_or_settings_is_replaced_only_where_that_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let (out, json) = (dir.path().join("out"), dir.path().join("out/dataset.json"));
    let prepare = |text: &str, seed, replace| prepare_texts(&out, &[text], |p| (p.seed, p.replace) = (seed, replace));
    let kept = |text, seed, name: &str| {
        let before = fs::read(&json).unwrap();
        let e = prepare(text, seed, Replace::Nothing).unwrap_err();
        assert!(matches!(&e, Error::Occupied { made_from, .. } if made_from.contains(name)), "{e}");
        assert!(e.hint().unwrap().contains("--replace") && fs::read(&json).unwrap() == before);
    };
    prepare("the first text", 1, Replace::Nothing).unwrap();
    assert!(prepare("the first text", 1, Replace::Nothing).unwrap().was_reused());
    kept("another text", 1, "texts");
    kept("the first text", 2, "texts");
    // Its own shards may be made anew; a description that cannot be read may be of use to somebody else.
    fs::remove_file(out.join("train-00000.tok")).unwrap();
    assert!(!prepare("the first text", 1, Replace::Nothing).unwrap().was_reused());
    fs::write(&json, "{").unwrap();
    kept("the first text", 1, "dataset.json");
    assert!(!prepare("another text", 1, Replace::Any).unwrap().was_reused());
}

#[test]
fn a_run_learns_from_the_part_that_it_was_begun_with() {
    let dir = tempfile::tempdir().unwrap();
    let prepare = |text: &str, val: &[&str]| {
        prepare_texts(dir.path(), &[text], |p| {
            p.val_inputs = val.iter().map(|text| Input::text("other", *text)).collect();
            p.replace = Replace::SameTokens;
        })
    };
    prepare(POEM, &[]).unwrap();
    // With texts for validation no part is kept.
    let e = prepare(POEM, &[POEM]).unwrap_err();
    assert!(matches!(e, Error::OtherPart) && e.hint().unwrap().contains("data.val_path"), "{e}");
    let e = prepare(&POEM.repeat(2), &[]).unwrap_err();
    assert!(matches!(e, Error::State { .. }), "{e}");
}

#[test]
fn the_same_bytes_read_in_another_way_are_prepared_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, plain) = (dir.path().join("t.jsonl"), dir.path().join("t.txt"));
    for path in [&lines, &plain] {
        fs::write(path, "{\"text\":\"one\"}\n{\"text\":\"two\"}\n").unwrap();
    }
    let out = dir.path().join("out");
    for (path, documents) in [(lines, 2), (plain, 1)] {
        let mut prepare = Prepare::new([path.into()]);
        prepare.val_fraction = 0.0;
        let dataset = run(&prepare, &out).unwrap();
        assert!(!dataset.was_reused());
        assert_eq!(dataset.info().train.documents, documents);
        assert!(run(&prepare, &out).unwrap().was_reused());
    }
}

/// Many documents in a piece that is read at once, and documents that are longer than one.
#[test]
fn separators_are_found_wherever_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.txt");
    let mut documents: Vec<String> = (0..5000).map(|i| format!("number {i}\nand ∂ more")).collect();
    documents.insert(2500, "a long line \n".repeat(200_000));
    fs::write(&file, documents.join("<|end|>")).unwrap();
    let mut prepare = Prepare::new([file.clone().into()]);
    prepare.layout.separator = Some("<|end|>".into());
    prepare.val_fraction = 0.0;
    let dataset = run(&prepare, &dir.path().join("out")).unwrap();
    assert!(texts(&dataset, &dataset.train().unwrap()) == documents);

    // Wherever a reading of a mebibyte ends: before, in and behind a separator and the end of its line.
    for line_end in ["", "\n", "\r\n"] {
        for shift in 0..12 {
            let long = "a".repeat((1 << 20) - shift);
            let expected = [long.as_str(), "b\r\nc", "\rd"];
            fs::write(&file, expected.map(|document| format!("{document}<|end|>{line_end}")).concat()).unwrap();
            let (sources, _) = crate::data::read::resolve(&[file.clone().into()], None, &mut |_| Ok(())).unwrap();
            let mut read = vec![String::new()];
            let all = sources[0].read(&prepare.layout, &mut |chunk| {
                read.last_mut().unwrap().push_str(chunk.text);
                if chunk.last {
                    read.push(String::new());
                }
                Ok(())
            });
            all.unwrap();
            assert_eq!(read.pop().as_deref(), Some(""));
            assert!(read == expected, "{line_end:?} {shift}");
        }
    }
}

#[test]
fn validation_can_come_from_its_own_texts() {
    let dir = tempfile::tempdir().unwrap();
    let mut prepare = Prepare::new([Input::text("a", "train text")]);
    prepare.val_inputs = vec![Input::text("b", "väl")];
    let dataset = run(&prepare, dir.path()).unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), ["train text"]);
    assert_eq!(texts(&dataset, &dataset.val().unwrap().unwrap()), ["väl"]);
}

#[test]
fn few_documents_still_leave_one_for_validation_and_one_for_training() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let dataset = prepare_texts(dir.path(), &["one", "two", "three"], |p| {
            (p.seed, p.split) = (seed, SplitRule::Documents);
        })
        .unwrap();
        assert!(dataset.info().train.documents >= 1 && dataset.info().val.documents >= 1);
    }
}

#[test]
fn progress_ends_at_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = None;
    let dataset = Prepare::new([Input::text("t", POEM)]).run(dir.path(), &mut |p| {
        last = Some(p);
        Ok(())
    });
    let dataset = dataset.unwrap();
    let last = last.unwrap();
    assert_eq!((last.stage, last.done, last.total), ("encoding", POEM.len() as u64, POEM.len() as u64));
    assert_eq!(last.tokens, dataset.info().train.tokens + dataset.info().val.tokens);
}

#[test]
fn a_preparation_that_is_called_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "some words\n".repeat(300_000)).unwrap();
    for stage in ["scanning", "training the tokenizer", "encoding"] {
        let out = folder.path().join("out");
        let mut prepare = Prepare::new([Input::Path(text.clone())]);
        prepare.tokenizer = TokenizerSpec::Bpe(300);
        let error = prepare.run(&out, &mut |now| if now.stage == stage { Err(Error::Stopped) } else { Ok(()) });
        assert!(matches!(error, Err(Error::Stopped)), "{stage}");
        assert!(!out.exists(), "{stage}");
    }
}

#[test]
fn what_a_killed_preparation_left_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    let (dead, alive) = (folder.path().join(".preparing-2"), folder.path().join(".preparing-1"));
    for left in [&dead, &alive] {
        std::fs::create_dir(left).unwrap();
        std::fs::write(left.join("train-00000.tok"), "half").unwrap();
    }
    let _held = crate::folder::Lock::take(&alive).unwrap();
    prepare_texts(folder.path(), &["a text that is long enough"], |_| {}).unwrap();
    assert!(!dead.exists() && alive.exists());
}

/// Processes in two containers may have one number, and two threads do.
#[test]
fn a_workspace_belongs_to_one_preparation() {
    let folder = tempfile::tempdir().unwrap();
    let name = |n: u32| format!(".preparing-{}-{n}", std::process::id());
    let theirs = folder.path().join(name(0));
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("train-00000.tok"), "half").unwrap();
    let held = crate::folder::Lock::take(&theirs).unwrap();
    // One more that nobody holds, under the name that comes next.
    fs::create_dir(folder.path().join(name(1))).unwrap();
    let text = "a text that is long enough";
    let dataset = prepare_texts(folder.path(), &[text], |p| p.val_fraction = 0.0).unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), [text]);
    assert_eq!(fs::read_to_string(theirs.join("train-00000.tok")).unwrap(), "half");
    let hidden = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect::<Vec<_>>()
    };
    assert_eq!(hidden(), [name(0)]);
    // What it held is swept once it is gone.
    drop(held);
    prepare_texts(folder.path(), &[text], |_| {}).unwrap();
    assert!(hidden().is_empty());
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_like_a_file_and_a_device_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.txt");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::write(pipe, "the text that comes through a pipe"))
    };
    let mut prepare = Prepare::new([Input::Path(pipe.clone())]);
    prepare.val_fraction = 0.0;
    let dataset = run(&prepare, &folder.path().join("out")).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(texts(&dataset, &dataset.train().unwrap()), ["the text that comes through a pipe"]);
    assert_eq!(dataset.info().sources[0].name, pipe.display().to_string());
    // Twice is one time too many.
    let error = prepare.tokenizer(&mut |_| Ok(())).unwrap_err();
    assert!(matches!(&error, Error::Unreadable { source_name, .. } if source_name.ends_with("pipe.txt")), "{error}");
    let error = run(&Prepare::new([Input::Path("/dev/zero".into())]), &folder.path().join("none")).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }) && error.hint().is_some(), "{error}");
}

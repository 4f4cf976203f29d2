//! `gently embed` on a tiny encoder that is made here.

use crate::run::{Said, command, fail, gently as program, succeed};
use gently::embed::{EmbedOptions, Embedder, Error, Settings};
use gently::models::config::{DecoderConfig, Family, MlpKind, NormPlace};
use gently::models::families::Layout;
use gently::prelude::*;
use gently::text::Vocabulary;
use gently_infer::Pooling;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

const WIDTH: usize = 32;
const TEXTS: [&str; 4] = ["the sea is grey", "The SEA is grey", "we sail under old stars", ""];

/// A BERT of a few words in `dir`, with the files that `settings` make.
fn encoder(dir: &Path, settings: Option<&Settings>) -> PathBuf {
    let words = ["the", "sea", "is", "grey", "we", "sail", "under", "old", "star", "night"];
    let marked: Vec<String> = words.iter().map(|w| format!("▁{w}")).collect();
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let tokens: Vec<&str> = specials.into_iter().chain(marked.iter().map(String::as_str)).chain(["s", "ing"]).collect();
    let types = (0..tokens.len()).map(|i| if i < 4 { 3 } else { 1 }).collect();
    let vocabulary = Vocabulary { model: "bert", tokens, types, ..Vocabulary::default() };
    encoder_of(dir, &Tokenizer::from_vocabulary(&vocabulary, Path::new("x")).unwrap(), settings)
}

/// The same with another tokenizer.
fn encoder_of(dir: &Path, tokenizer: &Tokenizer, settings: Option<&Settings>) -> PathBuf {
    let cfg = DecoderConfig {
        vocab: tokenizer.vocab_size(),
        context: 24,
        layers: 2,
        heads: 2,
        width: WIDTH,
        init_std: 0.3,
        norm_place: NormPlace::Post,
        norm_eps: 1e-12,
        mlp: MlpKind::GeluErf,
        embed_norm: true,
        bidirectional: true,
        ..DecoderConfig::preset(Family::Gpt2)
    };
    assert_eq!(Layout::of(&cfg), Layout::Bert);
    let path = dir.join("encoder");
    Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap().save_pretrained(&path).unwrap();
    tokenizer.save(&path).unwrap();
    if let Some(settings) = settings {
        settings.save(&path, WIDTH).unwrap();
    }
    path
}

fn vector(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The vectors of lines of JSON.
fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_become_vectors_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_tokens: Some(6), pooling: vec![Pooling::Cls], ..Settings::default() };
    let model = encoder(dir.path(), Some(&settings));
    let model = model.to_str().unwrap();
    let known = Embedder::open(model).unwrap();
    assert_eq!((known.width(), known.max_tokens(), known.settings()), (WIDTH, 6, &settings));
    let rows = known.embed(&TEXTS).unwrap();
    assert_eq!(rows.row(0), rows.row(1), "WordPiece makes lower case");
    assert_ne!(rows.row(0), rows.row(2));
    // [CLS] … [SEP], where the third is one token longer than six: its end is cut.
    assert_eq!((rows.tokens(), rows.cut()), (&[6, 6, 6, 2][..], &[false, false, true, false][..]));

    let said = succeed(&[&["embed", model][..], &TEXTS].concat());
    assert!(said.err.contains("1 of 4 texts"), "{}", said.err);
    let found = lines(&said.out);
    assert_eq!(found.len(), 4);
    for (i, line) in found.iter().enumerate() {
        assert_eq!((line["text"].as_str(), line["tokens"].as_u64()), (Some(TEXTS[i]), Some(rows.tokens()[i] as u64)));
        assert_eq!(line["cut"], rows.cut()[i]);
        assert_eq!(vector(&line["embedding"]), rows.row(i), "numbers survive being written");
        let length: f32 = rows.row(i).iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }

    // From a file and from standard input: the same lines, one text each.
    let file = dir.path().join("texts.txt");
    fs::write(&file, format!("{}\r\n{}\n{}\n\n", TEXTS[0], TEXTS[1], TEXTS[2])).unwrap();
    assert_eq!(succeed(&["embed", model, "--file", file.to_str().unwrap()]).out, said.out);
    let mut child = command(&["embed", model, "--file", "-", "--threads", "1"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(),
        said.out,
        "threads change nothing"
    );

    let whole: Value = serde_json::from_str(&succeed(&[&["embed", model, "--json"][..], &TEXTS].concat()).out).unwrap();
    assert_eq!((whole["dimension"].as_u64(), whole["max_tokens"].as_u64()), (Some(WIDTH as u64), Some(6)));
    assert_eq!((&whole["pooling"][0], &whole["normalized"]), (&"cls".into(), &true.into()));
    assert_eq!(whole["embeddings"].as_array().unwrap(), &found);
    assert_eq!(whole["model"], model, "as it was given");

    let npy = dir.path().join("vectors.npy");
    let out = succeed(&["embed", model, "--file", file.to_str().unwrap(), "--npy", npy.to_str().unwrap()]);
    assert_eq!(out.out, "");
    let bytes = fs::read(&npy).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (4, 32), }"));
    let numbers: Vec<f32> = bytes[128..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(numbers, rows.values());

    let alike = succeed(&[&["embed", model, "--similarity"][..], &TEXTS[..3]].concat()).out;
    let table: Vec<&str> = alike.lines().collect();
    assert_eq!(table.len(), 4);
    assert!(table[1].starts_with("1  the sea is grey") && table[1].contains("1.0000  1.0000"), "{alike}");
    assert!(table[3].ends_with(&format!("{:.4}  1.0000", rows.cosine(2, 1))), "{alike}");
    let alike: Value =
        serde_json::from_str(&succeed(&[&["embed", model, "--similarity", "--json"][..], &TEXTS[..3]].concat()).out)
            .unwrap();
    assert_eq!(vector(&alike["similarity"][0])[2], rows.cosine(0, 2));

    let mean = lines(&succeed(&["embed", model, TEXTS[0], "--pooling", "mean"]).out);
    let options = EmbedOptions { pooling: Some(Pooling::Mean), pass_tokens: 1, ..EmbedOptions::default() };
    let own = Embedder::open_with(model, options).unwrap();
    assert_eq!(vector(&mean[0]["embedding"]), own.embed(&TEXTS).unwrap().row(0));
    assert_ne!(own.embed(&TEXTS).unwrap().row(0), rows.row(0));
}

#[test]
fn vectors_take_the_place_of_nothing_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), Some(&Settings::default()));
    let at = |name: &str| model.join(name).to_str().unwrap().to_owned();
    let name = model.to_str().unwrap();
    let lines = dir.path().join("lines.txt");
    fs::write(&lines, "the sea\n").unwrap();
    let file = lines.to_str().unwrap();
    let read = ["config.json", "model.safetensors", "1_Pooling/config.json", "../lines.txt"];
    for output in read.map(at) {
        let before = fs::read(&output).unwrap();
        fail(&["embed", name, "--file", file, "--npy", &output], &[&output, "both read and written", "hint:"]);
        assert_eq!(fs::read(&output).unwrap(), before);
    }
    if cfg!(target_os = "linux") {
        let mut given = command(&["embed", name, "--file", "-", "--npy", file]);
        let said: Said = given.stdin(fs::File::open(&lines).unwrap()).output().unwrap().into();
        assert!(said.code == Some(1) && said.err.contains("both read and written"), "{}", said.err);
    }
    // What is no model's and is not read is replaced, as before.
    let other = dir.path().join("other.npy");
    fs::write(&other, "old").unwrap();
    succeed(&["embed", name, "--file", file, "--npy", other.to_str().unwrap()]);
    assert!(fs::read(&other).unwrap().starts_with(b"\x93NUMPY"));
}

#[cfg(target_os = "linux")]
#[test]
fn vectors_go_to_standard_output_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), None);
    // The name that /dev/stdout is a link to; the program must not touch that one, should it ever replace what it writes to.
    let (out, known) = (dir.path().join("out"), dir.path().join("known.npy"));
    std::os::unix::fs::symlink("/proc/self/fd/1", &out).unwrap();
    let args =
        |npy: &Path| ["embed", model.to_str().unwrap(), TEXTS[0], "--npy", npy.to_str().unwrap()].map(str::to_owned);
    succeed(&args(&known));
    let known = fs::read(known).unwrap();
    assert_eq!(command(&args(&out)).output().unwrap().stdout, known);
    // A file that the shell opened to write at its end keeps what is in it.
    let file = dir.path().join("file");
    fs::write(&file, "before").unwrap();
    let open = fs::File::options().append(true).open(&file).unwrap();
    assert!(command(&args(&out)).stdout(open).status().unwrap().success());
    assert_eq!(fs::read(&file).unwrap(), [b"before", &known[..]].concat());
    assert!(fs::symlink_metadata(&out).unwrap().is_symlink());
}

#[cfg(unix)]
#[test]
fn a_signal_leaves_nothing_half_written() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), None);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let files = || fs::read_dir(&out).unwrap().count();
    let npy = out.join("v.npy");
    for (signal, number) in [("-INT", 2), ("-TERM", 15)] {
        let args = ["embed", model.to_str().unwrap(), "--file", "-", "--npy", npy.to_str().unwrap()];
        let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
        // It waits for texts, with its file begun; they do not end before it does.
        let texts = child.stdin.take();
        while files() == 0 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was asked to");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let kill = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        drop(texts);
        assert_eq!(files(), 0);
    }
}

#[test]
fn a_prompt_is_in_lower_case_too_and_nothing_stands_around_both() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |name: &str, lowercase: bool, prompt: &str, text: &str| {
        let settings = Settings { lowercase, prompt: prompt.into(), ..Settings::default() };
        // Of bytes: each letter and each space is seen.
        let model = encoder_of(&dir.path().join(name), &Tokenizer::bytes(), Some(&settings));
        Embedder::open(model).unwrap().embed(&[text]).unwrap()
    };
    let known = rows("plain", false, "", "query: the sea");
    assert_eq!(rows("around", false, "", "\u{a0}query: the sea\x1f\n"), known);
    assert_eq!(rows("prompt", false, " query:", " the sea "), known);
    assert_eq!(rows("lower", true, "Query: ", "The SEA"), known);
    assert_ne!(rows("cases", false, "Query: ", "The SEA"), known);
}

#[test]
fn what_a_model_says_survives_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), Some(&Settings { pooling: vec![Pooling::Cls], ..Settings::default() }));
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, file, folder, small) = (model.to_str().unwrap(), at("e.gguf"), at("again"), at("small.gguf"));
    succeed(&["convert", model, &file]);
    succeed(&["convert", &file, &folder]);
    succeed(&["quantize", &file, &small, "--type", "q8_0"]);
    let rows = |path: &str| Embedder::open(path).unwrap().embed(&TEXTS).unwrap();
    let first = rows(model);
    assert_eq!(rows(&file), first);
    assert_eq!(rows(&folder), first);
    assert_eq!(Embedder::open(&folder).unwrap().settings().pooling, [Pooling::Cls]);
    let coarse = rows(&small);
    for i in 0..TEXTS.len() {
        let cosine: f32 = coarse.row(i).iter().zip(first.row(i)).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.99 && cosine < 1.0 - 1e-7, "{i}: {cosine}");
    }
    // Without a chat template, too, its special tokens are named.
    succeed(&["convert", model, &at("copy")]);
    for copy in [&at("copy"), &folder] {
        let said = fs::read_to_string(Path::new(copy).join("tokenizer_config.json")).unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        for (key, token) in [("pad", "[PAD]"), ("unk", "[UNK]"), ("cls", "[CLS]"), ("sep", "[SEP]")] {
            assert_eq!(said[format!("{key}_token")], token, "{said}");
        }
        // So that transformers cuts what the model has no positions for.
        assert_eq!(said["model_max_length"], 24, "{said}");
        assert!(said.get("bos_token").is_none(), "{said}");
    }
    // It is named by its family, and foretells no text: nothing is written for a perplexity without meaning.
    for place in [model, &file] {
        assert!(succeed(&["inspect", place]).out.contains("Bert: 2 layers"));
        let seen: Value = serde_json::from_str(&succeed(&["inspect", place, "--json"]).out).unwrap();
        assert_eq!(seen["layout"], "bert");
        // It keeps no keys and values, and has files in either format.
        assert!(seen.as_object().unwrap().keys().all(|key| !key.starts_with("kv_bytes")), "{seen}");
        assert!(seen["files"][0]["bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{seen}");
    }
    let (text, none) = (dir.path().join("text.txt"), at("none.gguf"));
    fs::write(&text, "the sea is grey").unwrap();
    let measure = ["--type", "q8_0", "--measure", text.to_str().unwrap()];
    fail(&[&["quantize", &file, &none][..], &measure[..]].concat(), &["is an encoder", "hint:"]);
    assert!(!Path::new(&none).exists());
    // Without a word about pooling: the mean, of length one.
    let plain = tempfile::tempdir().unwrap();
    let plain = Embedder::open(encoder(plain.path(), None)).unwrap();
    assert_eq!((plain.settings(), plain.max_tokens()), (&Settings::default(), 24));
}

#[test]
fn what_a_file_cannot_say_of_vectors_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = |name: &str, settings: Settings| {
        let model = encoder(&dir.path().join(name), Some(&settings));
        let (model, at) = (model.to_str().unwrap(), |to: &str| dir.path().join(format!("{name}{to}")));
        let [file, copy] = ["e.gguf", "copy"].map(|to| at(to).to_str().unwrap().to_owned());
        assert!(!succeed(&["convert", model, &copy]).err.contains("warning:"));
        assert_eq!(Embedder::open(&copy).unwrap().settings(), &settings, "a folder keeps all");
        let said = succeed(&["convert", model, &file]).err;
        assert_eq!(succeed(&["quantize", model, &file, "--type", "q8_0"]).err, said);
        (said, Embedder::open(&file).unwrap().settings().pooling.clone())
    };
    let cls = Settings { pooling: vec![Pooling::Cls], ..Settings::default() };
    assert_eq!(said("all", Settings { max_tokens: Some(24), ..cls.clone() }), (String::new(), cls.pooling.clone()));
    let (long, way) = said("long", Settings { normalize: false, max_tokens: Some(20), ..cls.clone() });
    assert!(long.contains("no Normalize") && long.contains("max_seq_length = 20"), "{long}");
    assert!(long.contains("a Hugging Face folder keeps it") && !long.contains("pooling"), "{long}");
    assert_eq!(way, cls.pooling);
    let (max, way) = said("max", Settings { pooling: vec![Pooling::Max], ..Settings::default() });
    assert!(max.contains("pooling by max") && !max.contains("Normalize"), "{max}");
    assert_eq!(way, [Pooling::Mean]);
}

#[test]
fn what_cannot_be_embedded_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let folder = encoder(dir.path(), Some(&Settings::default()));
    let model = folder.to_str().unwrap();
    assert_eq!(program(&["embed", model]).code, Some(2));
    assert_eq!(program(&["embed", model, "x", "--pooling", "median"]).code, Some(2));
    for text in ["- x", "-5 degrees", "--a text"] {
        let said = program(&["embed", model, text]);
        assert_eq!(said.code, Some(2), "{text}");
        assert!(said.err.contains("put -- before a text that begins with a hyphen"), "{text}: {}", said.err);
    }
    // What is nearly an option is none.
    assert!(program(&["embed", model, "x", "--jsno"]).err.contains("'--json'"));
    assert_eq!(succeed(&["embed", model, "--", "- x"]).out.lines().count(), 1);
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    fail(&["embed", "/nonexistent-gently", "x"], &["nonexistent", "hint:"]);
    fail(&["embed", model, "--file", &write("empty.txt", b"")], &["empty.txt", "no lines", "hint:"]);
    fail(&["embed", model, "--file", &write("latin.txt", b"ok\ncaf\xe9\n")], &["latin.txt, line 2", "UTF-8", "hint:"]);
    let long = [&b"ok\n"[..], &vec![b'a'; (16 << 20) + 1]].concat();
    fail(&["embed", model, "--file", &write("long.txt", &long)], &["long.txt, line 2", "longer than 16 MiB", "hint:"]);
    fail(&["embed", model, "--file", "/nonexistent-gently"], &["cannot read /nonexistent-gently", "hint:"]);
    fail(&["embed", model, "x", "--npy", "/nonexistent-gently/x.npy"], &["/nonexistent-gently/x.npy", "hint:"]);
    fail(&["generate", model, "--prompt", "x"], &["encoder: it is an encoder", "hint:", "gently embed"]);

    let pooling = folder.join("1_Pooling/config.json");
    let good = fs::read_to_string(&pooling).unwrap();
    fs::write(&pooling, good.replace(": 32", ": 33")).unwrap();
    fail(&["embed", model, "x"], &["1_Pooling/config.json", "33", "hint:"]);
    succeed(&["embed", model, "x", "--pooling", "mean"]);
    fs::write(&pooling, &good[..good.len() / 2]).unwrap();
    fail(&["embed", model, "x"], &["1_Pooling/config.json", "not JSON", "hint:"]);
    fs::write(&pooling, &good).unwrap();
    fs::write(folder.join("sentence_bert_config.json"), "{\"max_seq_length\": 2}").unwrap();
    fail(&["embed", model, "x"], &["no room", "hint:"]);
    fs::remove_file(folder.join("sentence_bert_config.json")).unwrap();
    let weights = folder.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 9]).unwrap();
    fail(&["embed", model, "x"], &["model.safetensors"]);
    // Weights that are no numbers: not a line of NaN.
    let mut broken = bytes.clone();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    broken[header..].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&f32::NAN.to_le_bytes()));
    fs::write(&weights, broken).unwrap();
    let said = fail(&["embed", model, "the sea"], &["text 1 of the command", "not finite", "hint:"]);
    assert_eq!(said.out, "");
    let opened = Embedder::open(model).unwrap().embed(&["the", "sea"]);
    assert!(matches!(opened, Err(Error::NotFinite { index: 0 | 1 })));
}

//! The vocabulary of a GGUF file: lines of the input are its tokens, some of them merges.
#![no_main]
use gently_text::{Tokenizer, Vocabulary};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [kind, flags, rest @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let tokens: Vec<&str> = text.split('\n').take(4096).collect();
    let n = tokens.len();
    let vocabulary = Vocabulary {
        model: ["gpt2", "llama", "t5", "bert"][usize::from(kind % 4)],
        pre: Some(["gpt-2", "smollm", "llama-bpe", "qwen2"][usize::from(kind / 4 % 4)]),
        types: tokens.iter().map(|t| (t.len() % 7) as i64).collect(),
        scores: tokens.iter().enumerate().map(|(i, t)| -((i + t.len()) as f64)).collect(),
        merges: tokens.iter().copied().filter(|t| t.contains(' ')).collect(),
        bos: Some(u32::from(*flags)),
        ends: vec![u32::from(flags / 2)],
        unknown: Some(0),
        add_bos: Some(flags & 1 == 1),
        add_space_prefix: Some(flags & 2 == 2),
        charsmap: if flags & 4 == 4 { rest.to_vec() } else { Vec::new() },
        tokens,
        ..Vocabulary::default()
    };
    let Ok(tokenizer) = Tokenizer::from_vocabulary(&vocabulary, "fuzz".as_ref()) else { return };
    if let Ok(ids) = tokenizer.encode(&text[..text.floor_char_boundary(64.min(text.len()))]) {
        assert!(ids.iter().all(|&id| (id as usize) < n));
        let _ = tokenizer.decode(&ids);
        let _ = tokenizer.export(n);
    }
});

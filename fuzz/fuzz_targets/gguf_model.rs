//! A whole GGUF file, as a model's: its sizes, its tokenizer and its chat template.
#![no_main]
use gently::gguf::{chat_template, tokenizer, tokenizer_keys};
use gently_formats::Limits;
use gently_formats::gguf::Gguf;
use gently_fuzz::Place;
use gently_models::families::read_gguf_config;
use gently_text::{ChatOptions, Message};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static PLACE: LazyLock<Place> = LazyLock::new(|| Place::new("gguf_model"));

fuzz_target!(|bytes: &[u8]| {
    let path = PLACE.write("model.gguf", bytes);
    let Ok(file) = Gguf::open(&path, &Limits::default()) else { return };
    if let Ok((_, config)) = read_gguf_config(&file) {
        assert!(config.validate().is_ok());
    }
    if let Ok(tokenizer) = tokenizer(&file) {
        if let Ok(ids) = tokenizer.encode("The cat’s 12 naïve\r\n <|x|>") {
            let _ = tokenizer.decode(&ids);
        }
        let _ = tokenizer_keys(&tokenizer, tokenizer.vocab_size(), None);
    }
    if let Ok(Some(text)) = chat_template(&file)
        && let Ok(template) = text.template()
    {
        let _ = template.render(&[Message::user("u")], &ChatOptions::default());
    }
});

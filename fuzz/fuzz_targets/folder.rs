//! A model folder: the input is cut at its zero bytes into the small files beside the weights.
#![no_main]
use gently::embed::Settings;
use gently_fuzz::Place;
use gently_models::WeightSource;
use gently_text::{ChatOptions, ChatTemplate, Message, Tokenizer};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const FILES: [&str; 8] = [
    "config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
];

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let place = Place::new("folder");
    std::fs::create_dir_all(place.path("1_Pooling")).unwrap();
    place
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|b| *b == 0);
    for name in FILES {
        match parts.next() {
            Some(part) if !part.is_empty() => drop(PLACE.write(name, part)),
            _ => PLACE.remove(name),
        }
    }
    let folder = PLACE.path("");
    let _ = WeightSource::open(&folder).map(|w| w.config().clone());
    let _ = Settings::of_folder(&folder);
    let _ = Tokenizer::load(&folder);
    if let Ok(Some(template)) = ChatTemplate::load(&folder) {
        let _ = template.render(&[Message::user("u")], &ChatOptions::default());
    }
});

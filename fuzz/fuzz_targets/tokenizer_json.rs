//! A `tokenizer.json`: what loads can encode and decode.
#![no_main]
use gently_text::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(tokenizer) = Tokenizer::from_json(text.to_owned(), "fuzz".as_ref()) else { return };
    if let Ok(ids) = tokenizer.encode("The cat’s 12 naïve\r\n👩‍👩‍👧 <|x|>") {
        let _ = tokenizer.decode(&ids);
        let _ = tokenizer.encode_prompt("a");
    }
});

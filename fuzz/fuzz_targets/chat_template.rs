//! A chat template and a conversation: rendering ends within its budget.
#![no_main]
use gently_text::{ChatOptions, ChatTemplate, Message, TemplateTokens};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (source, conversation) = text.split_once('\0').unwrap_or((text, "[]"));
    let Ok(template) = ChatTemplate::new(source, TemplateTokens::new(), "fuzz".as_ref()) else { return };
    let options = ChatOptions { tools: Some("[{\"name\": \"f\"}]".into()), ..ChatOptions::default() };
    let _ = template.render(&[Message::system("s"), Message::user("u\n")], &options);
    if let Ok(text) = template.render_json(conversation, &ChatOptions::default()) {
        // The budget: instructions and units of 64 bytes.
        assert!(text.len() <= 64 * (400_000 + 4 * bytes.len()));
    }
});

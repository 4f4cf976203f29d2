//! What a token stands for inside a text, byte for byte.
//!
//! Here: how a pipeline's spelling of a token (`Ġthe`, `▁the`, `<0x0A>`) becomes its bytes, read from the decoder that the
//! file names. Not here: what happens only at a text's beginning or end, such as the space that SentencePiece strips there.

use serde_json::Value;

/// How spellings become bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Each letter is a byte (GPT-2); the pipeline has them in a table.
    ByteLevel,
    /// Steps in order.
    Steps(Vec<Step>),
    /// A decoder under which tokens have no bytes of their own; its name.
    Unknown(String),
}

/// A step from spelling to bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// This text is written as that.
    Replace(String, String),
    /// `<0x0A>` is a byte.
    Bytes,
}

impl Spelling {
    /// From the `decoder` of a `tokenizer.json`.
    pub fn of(decoder: &Value) -> Self {
        let one = std::slice::from_ref(decoder);
        let parts = match decoder["type"].as_str() {
            Some("Sequence") => decoder["decoders"].as_array().map_or(one, Vec::as_slice),
            _ => one,
        };
        if let [part] = parts
            && part["type"] == "ByteLevel"
        {
            return Self::ByteLevel;
        }
        let mut steps = Vec::new();
        for part in parts {
            let replace = |from: &Value, to: &str| Some(Step::Replace(from.as_str()?.to_owned(), to.to_owned()));
            let step = match part["type"].as_str() {
                Some("Replace") => part["content"].as_str().and_then(|to| replace(&part["pattern"]["String"], to)),
                Some("Metaspace") => replace(&part["replacement"], " "),
                Some("ByteFallback") => Some(Step::Bytes),
                // These join tokens, or cut what stands at a text's ends.
                Some("Fuse" | "Strip") => continue,
                _ => None,
            };
            match step {
                Some(step) => steps.push(step),
                None => return Self::Unknown(part["type"].as_str().unwrap_or("none").to_owned()),
            }
        }
        Self::Steps(steps)
    }
}

/// The bytes of a token spelled `token`.
pub(crate) fn apply(steps: &[Step], token: &str) -> Vec<u8> {
    let mut text = token.to_owned();
    for step in steps {
        match step {
            Step::Replace(from, to) => text = text.replace(from.as_str(), to),
            Step::Bytes => {
                if let Some(byte) = byte_of(&text) {
                    return vec![byte];
                }
            }
        }
    }
    text.into_bytes()
}

/// The byte that `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decoders_say_how_tokens_are_written() {
        let llama = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let Spelling::Steps(steps) = Spelling::of(&llama) else { panic!("not steps") };
        assert_eq!(apply(&steps, "▁the"), b" the");
        assert_eq!(apply(&steps, "<0x0A>"), b"\n");
        assert_eq!(apply(&steps, "<0xG0>"), b"<0xG0>");
        let Spelling::Steps(steps) = Spelling::of(&json!({"type": "Metaspace", "replacement": "▁"})) else {
            panic!("not steps")
        };
        assert_eq!(apply(&steps, "▁a▁"), b" a ");
        assert_eq!(Spelling::of(&json!({"type": "ByteLevel"})), Spelling::ByteLevel);
        assert_eq!(Spelling::of(&json!({"type": "WordPiece"})), Spelling::Unknown("WordPiece".into()));
        assert_eq!(Spelling::of(&Value::Null), Spelling::Unknown("none".into()));
        let regex = json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"});
        assert_eq!(Spelling::of(&regex), Spelling::Unknown("Replace".into()));
    }
}

//! GPT-2's own two files, a vocabulary and a list of merges, as one pipeline. What they are called:
//! [`gently_formats::files::GPT2`].

use crate::{END_OF_TEXT, Error, Result};
use std::path::Path;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Builds the pipeline from the two files' texts.
pub(crate) fn pipeline(
    vocab_text: &str,
    vocab_path: &Path,
    merges_text: &str,
    merges_path: &Path,
) -> Result<Tokenizer> {
    let vocab: std::collections::HashMap<String, u32> = serde_json::from_str(vocab_text).map_err(|e| Error::Json {
        path: vocab_path.into(),
        line: e.line(),
        column: e.column(),
        reason: e.to_string(),
    })?;
    let mut merges = Vec::new();
    for (i, line) in merges_text.lines().enumerate() {
        if line.is_empty() || (i == 0 && line.starts_with("#version")) {
            continue;
        }
        let bad = |reason: String| Error::Merges { path: merges_path.into(), line: i + 1, reason };
        let mut parts = line.split(' ');
        let (Some(a), Some(b), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad(format!("{line:?} is not two entries with one space between them")));
        };
        for entry in [a, b, &format!("{a}{b}")] {
            if !vocab.contains_key(entry) {
                return Err(bad(format!("{entry:?} is not in {}", vocab_path.display())));
            }
        }
        merges.push((a.to_owned(), b.to_owned()));
    }
    let has_end = vocab.contains_key(END_OF_TEXT);
    let bpe = BPE::builder()
        .vocab_and_merges(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .build()
        .map_err(|e| Error::Invalid { path: vocab_path.into(), reason: e.to_string() })?;
    let mut tokenizer = Tokenizer::new(bpe);
    byte_level(&mut tokenizer);
    if has_end {
        tokenizer.add_special_tokens([AddedToken::from(END_OF_TEXT, true)]).map_err(Error::pipeline)?;
    }
    Ok(tokenizer)
}

/// GPT-2's splitting and spelling around a BPE model.
pub(crate) fn byte_level(tokenizer: &mut Tokenizer) {
    let level = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(level)).with_decoder(Some(level));
}

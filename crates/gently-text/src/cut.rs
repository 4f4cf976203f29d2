//! Places where a long text may be cut into pieces that are encoded apart.

use crate::{Result, Tokenizer};

/// Bytes on each side of a cut that are encoded to try it.
const TRIAL: usize = 512;
/// Candidates tried in one call.
const TRIES: usize = 64;

/// The first place at or after byte `from` where `text` may be cut so that the tokens of the two parts, put
/// together, are the tokens of the whole. `None` when there is none in sight: then read on and ask again.
///
/// For byte and character vocabularies that is any character boundary. For others it is after a newline
/// between two visible characters (GPT-2's and its successors' splitting never joins across it), and each candidate
/// is tried on its surroundings, because a `tokenizer.json` may do anything.
///
/// # Errors
/// As [`Tokenizer::encode`].
pub fn safe_cut(tokenizer: &Tokenizer, text: &str, from: usize) -> Result<Option<usize>> {
    let from = ceil(text, from);
    if from >= text.len() {
        return Ok(None);
    }
    if tokenizer.is_local() {
        return Ok(Some(from));
    }
    let bytes = text.as_bytes();
    let mut at = from.max(2);
    let mut tries = 0;
    while let Some(n) = bytes.get(at - 1..).and_then(|rest| rest.iter().position(|&b| b == b'\n')) {
        let cut = at + n;
        at = cut + 1;
        let visible = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_graphic());
        if !visible(bytes.get(cut - 2)) || !visible(bytes.get(cut)) {
            continue;
        }
        if holds(tokenizer, text, cut)? {
            return Ok(Some(cut));
        }
        tries += 1;
        if tries == TRIES {
            break;
        }
    }
    Ok(None)
}

/// Whether cutting at `cut` leaves the tokens of its surroundings as they are.
fn holds(tokenizer: &Tokenizer, text: &str, cut: usize) -> Result<bool> {
    let start = ceil(text, cut.saturating_sub(TRIAL));
    let end = ceil(text, (cut + TRIAL).min(text.len()));
    let mut parts = tokenizer.encode(&text[start..cut])?;
    parts.extend(tokenizer.encode(&text[cut..end])?);
    Ok(parts == tokenizer.encode(&text[start..end])?)
}

fn ceil(text: &str, mut at: usize) -> usize {
    while at < text.len() && !text.is_char_boundary(at) {
        at += 1;
    }
    at.min(text.len())
}

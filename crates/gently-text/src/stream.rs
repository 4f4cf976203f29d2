//! Decoding of tokens one by one, as a model makes them.

use crate::{Result, Tokenizer};

/// Turns tokens into text as they come. A character whose bytes are spread over several tokens is held back
/// until it is whole, so that each piece given out can be printed.
///
/// ```
/// use gently_text::{StreamDecoder, Tokenizer};
///
/// let bytes = Tokenizer::bytes();
/// let mut out = StreamDecoder::new(&bytes);
/// assert_eq!(out.push(0xC3).unwrap(), "");
/// assert_eq!(out.push(0xBC).unwrap(), "ü");
/// assert_eq!(out.finish().unwrap(), "");
/// ```
#[derive(Debug, Clone)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// The bytes of a character that is not yet whole.
    Bytes(Vec<u8>),
    /// As `Bytes`, of tokens as they are inside a text. At a text's beginning also the tokens so far, all stripped; `begins` says
    /// whether a text starts at one.
    Within { pending: Vec<u8>, stripped: Option<Vec<u32>>, begins: bool },
    /// Tokens whose text depends on their neighbours: a window of tokens, its text when something was last given out, and
    /// for how many tokens nothing was.
    Window { ids: Vec<u32>, given: String, waited: usize },
}

/// Windows are shortened at a good place once they are this long.
const WINDOW: usize = 32;
/// A character has at most four bytes: after as many tokens what is none will not become one.
const WAIT: usize = 3;

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let state = if tokenizer.is_byte_exact() {
            State::Bytes(Vec::new())
        } else if tokenizer.has_bytes_within() {
            State::Within { pending: Vec::new(), stripped: Some(Vec::new()), begins: true }
        } else {
            State::Window { ids: Vec::new(), given: String::new(), waited: 0 }
        };
        Self { tokenizer: tokenizer.clone(), state }
    }

    /// A decoder in the middle of a text, where a first token's leading space counts. Special tokens appear by name. As
    /// [`Self::new`] where tokens have no bytes of their own.
    pub fn within(tokenizer: &Tokenizer) -> Self {
        let mut decoder = Self::new(tokenizer);
        if let State::Within { stripped, begins, .. } = &mut decoder.state {
            (*stripped, *begins) = (None, false);
        }
        decoder
    }

    /// Takes one token and returns the text that is now certain, often empty in the middle of a character.
    ///
    /// # Errors
    /// [`crate::Error::UnknownId`] for a token outside the vocabulary; the decoder is unchanged.
    pub fn push(&mut self, id: u32) -> Result<String> {
        match &mut self.state {
            State::Bytes(pending) => {
                self.tokenizer.push_bytes(&[id], pending)?;
                Ok(take_whole(pending))
            }
            State::Within { pending, stripped, .. } => {
                let name = || self.tokenizer.token(id).unwrap_or_default().into_bytes();
                let mut bytes = self.tokenizer.bytes_within(id)?.unwrap_or_else(name);
                // What a text's beginning loses, mostly one space, the decoded text shows; later tokens lose nothing.
                if let Some(before) = stripped
                    && !bytes.is_empty()
                {
                    let ids = [before.as_slice(), &[id]].concat();
                    let text = self.tokenizer.decode(&ids)?;
                    if text.is_empty() && ids.len() < WINDOW {
                        *before = ids;
                        return Ok(String::new());
                    }
                    if bytes.ends_with(text.as_bytes()) {
                        bytes.drain(..bytes.len() - text.len());
                    }
                    *stripped = None;
                }
                pending.extend(bytes);
                Ok(take_whole(pending))
            }
            State::Window { ids, given, waited } => {
                ids.push(id);
                let text = match self.tokenizer.decode(ids) {
                    Ok(text) => text,
                    Err(e) => {
                        ids.pop();
                        return Err(e);
                    }
                };
                // An unfinished character decodes to replacement characters at the end: wait.
                if text.ends_with('\u{FFFD}') && *waited < WAIT {
                    *waited += 1;
                    return Ok(String::new());
                }
                let new = beyond(given, &text).to_owned();
                (*given, *waited) = (text, 0);
                if ids.len() >= WINDOW {
                    // Keep a few tokens as context (a leading space is stripped only at a text's start).
                    ids.drain(..ids.len() - 4);
                    *given = self.tokenizer.decode(ids)?;
                }
                Ok(new)
            }
        }
    }

    /// Ends the text: returns what was held back, with U+FFFD for bytes that are no character. What is pushed next is another
    /// text, which begins as the decoder did.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let whole = |pending: &mut Vec<u8>| String::from_utf8_lossy(&std::mem::take(pending)).into_owned();
        match &mut self.state {
            State::Bytes(pending) => Ok(whole(pending)),
            State::Within { pending, stripped, begins } => {
                *stripped = begins.then(Vec::new);
                Ok(whole(pending))
            }
            State::Window { ids, given, waited } => {
                let text = self.tokenizer.decode(ids)?;
                let rest = beyond(given, &text).to_owned();
                ids.clear();
                given.clear();
                *waited = 0;
                Ok(rest)
            }
        }
    }
}

/// What of a text is still to be given out. A later token may change the text before it, mostly by taking spaces away: what was
/// given out stays, and as many letters are passed over, so that none comes twice.
fn beyond<'t>(given: &str, text: &'t str) -> &'t str {
    if let Some(rest) = text.strip_prefix(given) {
        return rest;
    }
    let letter = |c: &char| !c.is_whitespace();
    let mut rest = text.chars();
    for _ in 0..given.chars().filter(letter).count() {
        let _ = rest.find(letter);
    }
    rest.as_str()
}

/// Takes from `bytes` all that is decided: whole characters, and U+FFFD for what can no longer become one.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut used = 0;
    loop {
        match std::str::from_utf8(&bytes[used..]) {
            Ok(rest) => {
                out.push_str(rest);
                used = bytes.len();
                break;
            }
            Err(e) => {
                let valid = used + e.valid_up_to();
                out.push_str(&String::from_utf8_lossy(&bytes[used..valid]));
                used = valid;
                match e.error_len() {
                    Some(n) => {
                        out.push('\u{FFFD}');
                        used += n;
                    }
                    None => break,
                }
            }
        }
    }
    bytes.drain(..used);
    out
}

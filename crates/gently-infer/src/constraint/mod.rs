//! What a text must be: a regular expression, a JSON schema, a grammar in Lark or GBNF, or one of some strings.
//!
//! Here: [`Constraint`], what is wanted; [`Grammars`], which makes [`Grammar`]s of them for one vocabulary; [`Guide`], which
//! follows one text and says which tokens may come next. The grammars, their matcher and the masks are the `llguidance`
//! crate's. Not here: when masks are computed and forced tokens are taken (see [`crate::Scheduler`]).
//!
//! A grammar fails closed: what cannot be compiled, or would have the matcher take back what was written, is an error before
//! anything is written, and a matcher that cannot go on ends its request with an error. No text that the grammar does not allow is
//! ever given out, though a text may be cut short by its limit of tokens.
//!
//! ```
//! use gently_infer::{Constraint, Grammars};
//! use gently_text::Tokenizer;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokenizer = Tokenizer::bytes();
//! let grammar = Grammars::new(&tokenizer)?.compile(&Constraint::choice(["yes", "yellow"])?)?;
//! let mut guide = grammar.guide();
//! // Both begin alike: nothing is left to choose.
//! let forced: Vec<u32> = std::iter::from_fn(|| guide.forced().ok().flatten()).collect();
//! assert_eq!(tokenizer.decode(&forced)?, "ye");
//! # Ok(()) }
//! ```

mod ahead;
mod forces;
mod gbnf;
mod grammars;
mod guide;
mod lark;
mod schema;

pub(crate) use ahead::Ahead;
pub use grammars::{Grammar, Grammars};
pub use guide::Guide;

use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Most bytes of a grammar's text.
const MOST_TEXT: usize = 64 << 10;
/// Most strings to choose among, and most bytes of them.
const MOST_CHOICES: usize = 10_000;
const MOST_CHOICE_BYTES: usize = 256 << 10;

/// What kind of thing describes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A regular expression that the whole text matches.
    Regex,
    /// A JSON schema that the text, read as JSON, satisfies.
    JsonSchema,
    /// A grammar in `llguidance`'s dialect of Lark.
    Lark,
    /// A grammar in GBNF, as `llama.cpp` reads it.
    Gbnf,
    /// One of some strings.
    Choice,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Regex => "the regular expression",
            Self::JsonSchema => "the JSON schema",
            Self::Lark => "the grammar",
            Self::Gbnf => "the GBNF grammar",
            Self::Choice => "the choice",
        })
    }
}

/// What a text must be. Its words are checked when a [`Grammar`] is made of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    kind: Kind,
    /// A regular expression, a schema's JSON, or Lark (of GBNF and choices, too).
    text: Arc<str>,
}

impl Constraint {
    /// The whole text matches this regular expression, in the syntax of the Rust `regex` crate without anchors and
    /// look-around.
    ///
    /// # Errors
    /// [`ConstraintError::Compile`] for an empty or an oversized one.
    pub fn regex(expression: &str) -> Result<Self, ConstraintError> {
        Self::of(Kind::Regex, expression)
    }

    /// The text is JSON that satisfies this schema (drafts 4 to 2020-12, as far as `llguidance` implements them; a keyword
    /// that it does not implement is an error). It is written in one line, as Python's `json.dumps` does, unless an
    /// `x-guidance` object in the schema says otherwise: by `whitespace_flexible`, `item_separator` and `key_separator`.
    ///
    /// # Errors
    /// [`ConstraintError::Compile`] for text that is no JSON, with line and column; for an oversized one, and for numbers and
    /// patterns in it that would be; for anything else in `x-guidance`.
    pub fn json_schema(schema: &str) -> Result<Self, ConstraintError> {
        let kind = Kind::JsonSchema;
        bounded(kind, schema)?;
        let value: Value = serde_json::from_str(schema).map_err(|e| ConstraintError::of(kind, e))?;
        if !value.is_object() && !value.is_boolean() {
            return Err(ConstraintError::of(kind, "a schema is a JSON object, or true or false"));
        }
        schema::check(&value).map_err(|e| ConstraintError::of(kind, e))?;
        Self::of(kind, schema)
    }

    /// The text is what this grammar's rule `start` derives, in `llguidance`'s dialect of Lark.
    ///
    /// # Errors
    /// [`ConstraintError::Compile`] for an empty or an oversized one; for a schema in it with `multipleOf`, or with numbers and
    /// patterns that would be too large in a schema of its own. [`ConstraintError::Attribute`] for a rule with `stop=` other than
    /// the empty one, which takes back what was written, or with `temperature=`.
    pub fn lark(grammar: &str) -> Result<Self, ConstraintError> {
        bounded(Kind::Lark, grammar)?;
        lark::check(grammar)?;
        Ok(Self { kind: Kind::Lark, text: grammar.into() })
    }

    /// The text is what this grammar's rule `root` derives, in GBNF, the notation of `llama.cpp`. Its language is kept to the
    /// character: however a text may be read, it is allowed. A special token may be named, as in `<|im_end|>`; tokens by number and
    /// by exclusion are errors.
    ///
    /// ```
    /// # use gently_infer::Constraint;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let list = Constraint::gbnf("root ::= (\"- \" [^\\n]+ \"\\n\"){3}")?;
    /// let wrong = Constraint::gbnf("root ::= item+\nitem ::= \"- \" text").unwrap_err();
    /// assert!(wrong.to_string().contains("line 2, column 15: there is no rule text"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ConstraintError::Compile`] for what is no GBNF, with line and column; for an empty or an oversized one.
    pub fn gbnf(grammar: &str) -> Result<Self, ConstraintError> {
        let kind = Kind::Gbnf;
        bounded(kind, grammar)?;
        let lark = gbnf::to_lark(grammar).map_err(|e| ConstraintError::of(kind, e))?;
        Ok(Self { kind, text: lark.into() })
    }

    /// The text is one of these strings.
    ///
    /// # Errors
    /// [`ConstraintError::Compile`] for no strings, an empty one, or too many.
    pub fn choice<S: AsRef<str>>(among: impl IntoIterator<Item = S>) -> Result<Self, ConstraintError> {
        let wrong = |what: String| Err(ConstraintError::of(Kind::Choice, what));
        let mut text = String::from("start: ONE\nONE: ");
        let (mut count, mut bytes) = (0, 0);
        for one in among {
            let one = one.as_ref();
            if one.is_empty() {
                return wrong("one of the strings is empty".into());
            }
            bytes += one.len();
            if count == MOST_CHOICES || bytes > MOST_CHOICE_BYTES {
                return wrong(format!("more than {MOST_CHOICES} strings, or {MOST_CHOICE_BYTES} bytes of them"));
            }
            text.push_str(if count == 0 { "" } else { " | " });
            // A JSON string, in which Lark's lexer wants this control character escaped too.
            text.push_str(&Value::from(one).to_string().replace('\x7f', "\\u007f"));
            count += 1;
        }
        match count {
            0 => wrong("there are no strings to choose among".into()),
            _ => Ok(Self { kind: Kind::Choice, text: text.into() }),
        }
    }

    fn of(kind: Kind, text: &str) -> Result<Self, ConstraintError> {
        bounded(kind, text)?;
        Ok(Self { kind, text: text.into() })
    }

    /// What kind of thing describes the text.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

fn bounded(kind: Kind, text: &str) -> Result<(), ConstraintError> {
    if text.trim().is_empty() {
        return Err(ConstraintError::of(kind, "it is empty"));
    }
    if text.len() > MOST_TEXT {
        let what = format!("it has {} bytes; {MOST_TEXT} are allowed", text.len());
        return Err(ConstraintError::of(kind, what));
    }
    Ok(())
}

/// Why a text cannot be held to a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// It cannot be compiled, is too large, or allows no text at all.
    #[error("{kind} cannot be used: {reason}")]
    Compile {
        /// What was to be compiled.
        kind: Kind,
        /// Why, with the place where there is one.
        reason: String,
    },
    /// A rule of a Lark grammar has an attribute that no text is held to.
    #[error("the grammar cannot be used: line {line}, column {column}: the attribute {attribute}= is not kept to")]
    Attribute {
        /// Its name.
        attribute: &'static str,
        /// Where it stands, from 1.
        line: usize,
        /// Characters before it in its line, and one.
        column: usize,
    },
    /// The matcher could not go on in the middle of a text.
    #[error("{kind} cannot go on after {tokens} tokens: {reason}")]
    Stuck {
        /// What the text was held to.
        kind: Kind,
        /// Tokens written.
        tokens: usize,
        /// Why.
        reason: String,
    },
    /// The request rules out all that may come next.
    #[error("{kind} cannot go on after {tokens} tokens: {} is ruled out by the request", next(*token))]
    RuledOut {
        /// What the text was held to.
        kind: Kind,
        /// Tokens written.
        tokens: usize,
        /// The only token that may come next, where that is known.
        token: Option<u32>,
        /// Whether the request has biases of minus infinity.
        biased: bool,
    },
    /// A vocabulary that no grammar can be held to.
    #[error("constraints cannot be used with this vocabulary: {reason}")]
    Vocabulary {
        /// Why.
        reason: String,
    },
}

impl ConstraintError {
    fn of(kind: Kind, reason: impl fmt::Display) -> Self {
        Self::Compile { kind, reason: sentence(&reason.to_string()) }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Compile { kind: Kind::Regex, .. } => {
                "the whole text must match, so ^ and $ are left out; look-around and back-references are not known".into()
            }
            Self::Compile { kind: Kind::JsonSchema, .. } => {
                "give a JSON schema such as {\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}}}".into()
            }
            Self::Compile { kind: Kind::Lark, .. } => {
                "rules are lower case, terminals upper case, and the first rule is start, as in: start: \"yes\" | /[0-9]+/"
                    .into()
            }
            Self::Compile { kind: Kind::Gbnf, .. } => {
                "rules are written name ::= what it derives, and the text is what root derives, as in: root ::= \"yes\" | [0-9]+".into()
            }
            Self::Compile { kind: Kind::Choice, .. } => "give one or more strings that are not empty".into(),
            Self::Attribute { attribute: "stop", .. } => {
                "use suffix=, with which what ends the rule stays in the text, and say in the rule above what follows it".into()
            }
            Self::Attribute { .. } => "leave it out: how tokens are chosen is the same for all of a text".into(),
            Self::Stuck { .. } => {
                "make the grammar simpler, or bound its repetitions; what it asks for must be in the model's vocabulary"
                    .into()
            }
            Self::RuledOut { biased: true, .. } => {
                "a bias of minus infinity (--logit-bias TOKEN=-inf) may be what rules it out: take it back, or allow other texts"
                    .into()
            }
            Self::RuledOut { .. } => "let the request choose among more tokens, or allow other texts".into(),
            Self::Vocabulary { .. } => return None,
        })
    }
}

/// What may come next, in words.
fn next(token: Option<u32>) -> String {
    token.map_or("all that may come next".into(), |id| format!("what may come next, token {id},"))
}

/// The first line of a message, its place in words.
fn sentence(message: &str) -> String {
    let mut lines = message.lines().map(str::trim).filter(|l| !l.is_empty());
    let line = lines.next().unwrap_or("no reason is known");
    // `at 3(14): …` or `3(14): …`
    let place = line.strip_prefix("at ").unwrap_or(line);
    let located = place.split_once("): ").and_then(|(place, rest)| {
        let (l, c) = place.split_once('(')?;
        let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        (number(l) && number(c)).then(|| format!("line {l}, column {c}: {}", short(rest)))
    });
    let line = located.unwrap_or_else(|| short(line));
    // Parsers of regular expressions draw a picture, and say what it shows at its end.
    let why =
        line.strip_suffix(':').and_then(|l| Some(format!("{l}: {}", lines.find_map(|m| m.strip_prefix("error: "))?)));
    why.unwrap_or(line)
}

/// What a grammar's author wrote may be in a message, at any length: its beginning and its end.
fn short(text: &str) -> String {
    let count = text.chars().count();
    if count <= 300 {
        return text.to_owned();
    }
    let (first, last) = (text.chars().take(150), text.chars().skip(count - 100));
    first.chain(['…']).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_become_sentences() {
        assert_eq!(sentence("at 3(14): no rule\n   3 | x\n"), "line 3, column 14: no rule");
        assert_eq!(sentence("2(1): lexer error"), "line 2, column 1: lexer error");
        assert_eq!(sentence("f(x): y"), "f(x): y");
        assert_eq!(sentence("\n\n"), "no reason is known");
        assert_eq!(sentence(&"ä".repeat(400)).chars().count(), 251);
        assert_eq!(sentence("bad regex:\n  (a\n  ^\nerror: unclosed group"), "bad regex: unclosed group");
    }

    #[test]
    fn what_is_wrong_at_once_is_said_at_once() {
        let said = |r: Result<Constraint, ConstraintError>| r.unwrap_err().to_string();
        assert!(said(Constraint::json_schema("{\"a\": }")).contains("line 1 column 7"));
        assert!(said(Constraint::json_schema("[]")).contains("a JSON object"));
        let divisor = said(Constraint::json_schema("{\"items\": [{\"multipleOf\": 1000003}]}"));
        assert!(divisor.contains("multipleOf") && divisor.contains("1000003"), "{divisor}");
        assert!(said(Constraint::json_schema("{\"maximum\": 1e300}")).contains("maximum"));
        let pattern = format!("{{\"pattern\": \"{}\"}}", "a".repeat(2000));
        assert!(said(Constraint::json_schema(&pattern)).contains("pattern of 2000 bytes"));
        assert!(Constraint::json_schema("{\"const\": {\"multipleOf\": 1000003}}").is_ok());
        assert!(said(Constraint::json_schema("{\"const\": 9007199254740993}")).contains("9007199254740993 in const"));
        assert!(said(Constraint::json_schema("{\"x-guidance\": {\"lenient\": true}}")).contains("lenient"));
        assert!(said(Constraint::lark("start: %json {\"x-guidance\": {\"lenient\": true}}")).contains("lenient"));
        assert!(said(Constraint::lark("start: %json {\"multipleOf\": 1000003}")).contains("multipleOf"));
        let stop = Constraint::lark("start: a\na[stop=\"x\"]: /[a-z]+/").unwrap_err();
        assert!(stop.hint().is_some_and(|hint| hint.contains("suffix=")), "{stop}");
        assert!(said(Constraint::regex(" ")).contains("regular expression cannot be used: it is empty"));
        assert!(said(Constraint::lark(&"x".repeat(MOST_TEXT + 1))).contains("bytes"));
        assert!(said(Constraint::choice(["a", ""])).contains("empty"));
        assert!(said(Constraint::choice::<&str>([])).contains("no strings"));
        assert!(said(Constraint::choice((0..=MOST_CHOICES).map(|i| i.to_string()))).contains("10000"));
    }
}

//! Grammars of one vocabulary.

use super::forces::{Forces, MOST_TERMINAL};
use super::{Constraint, ConstraintError, Guide, Kind, schema};
use crate::error::Result;
use gently_text::Tokenizer;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::lexerspec::LexerSpec;
use llguidance::toktrie::{INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Logger, Matcher, ParserFactory};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest token that a grammar may write; the trie has room for a little more.
const MOST_TOKEN: usize = 1000;
/// Most bytes of all tokens, as the trie numbers its nodes.
const MOST_BYTES: usize = (1 << 22) - 1;
/// Grammars kept for a next request.
const KEPT: usize = 8;
/// Most terminals of the shortest text that a grammar allows, each a byte at least: no model writes as many.
const MOST_SHORTEST: u64 = 1 << 20;
/// Room for grammars that are nested deeply.
const STACK: usize = 64 << 20;

/// What a grammar may cost; beyond it there is an error, never a wait.
fn limits(kind: Kind) -> ParserLimits {
    ParserLimits {
        // A few seconds and some hundred megabytes at worst. Repetitions in a row cost the square of their number, and a
        // grammar's names can multiply them; strings to choose among and a schema's parts do not.
        initial_lexer_fuel: match kind {
            Kind::Regex | Kind::Lark => 10_000,
            Kind::JsonSchema => 100_000,
            // What of GBNF may be a terminal was counted.
            Kind::Choice | Kind::Gbnf => 1_000_000,
        },
        // 1 to 2 KiB each, for every text that is held to it: tens of megabytes.
        max_lexer_states: MOST_TERMINAL as usize,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// Makes grammars for one vocabulary. Building it looks at every token; make it once for a model and share it.
pub struct Grammars {
    factory: ParserFactory,
    ends: Arc<[u32]>,
    /// Those made last, the latest first.
    kept: Mutex<Vec<Grammar>>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").field("vocab", &self.vocab()).finish_non_exhaustive()
    }
}

impl Grammars {
    /// Grammars over a tokenizer's tokens, each with its bytes as they are inside a text. Special tokens are no text, and
    /// those that end one may come wherever a grammar can end.
    ///
    /// # Errors
    /// [`crate::Error::Text`] for a tokenizer whose tokens have no bytes of their own; [`ConstraintError::Vocabulary`] for an
    /// oversized one.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let (vocab, choosable) = (tokenizer.vocab_size(), tokenizer.choosable());
        let ends: Arc<[u32]> = tokenizer.ends().iter().copied().filter(|&id| (id as usize) < vocab).collect();
        let mut words = Vec::with_capacity(vocab);
        let mut bytes = 0usize;
        for id in 0..vocab as u32 {
            let own = tokenizer.bytes_within(id)?.filter(|_| !ends.contains(&id));
            let word = match own {
                // Padding is spelled, and is no text.
                _ if id as usize >= choosable => Vec::new(),
                Some(word) if word.len() <= MOST_TOKEN && word.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER) => word,
                // Never chosen.
                Some(_) => Vec::new(),
                None => match tokenizer.token(id).filter(|name| name.len() < MOST_TOKEN) {
                    Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                    None => Vec::new(),
                },
            };
            bytes += word.len();
            if bytes > MOST_BYTES {
                let reason = format!("its tokens have more than {MOST_BYTES} bytes together");
                return Err(ConstraintError::Vocabulary { reason }.into());
            }
            words.push(word);
        }
        let info = TokRxInfo::new(vocab as u32, ends.first().copied().unwrap_or(INVALID_TOKEN));
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let env: TokEnv = Arc::new(Words { trie, tokenizer: tokenizer.clone() });
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|e| ConstraintError::Vocabulary { reason: super::sentence(&e.to_string()) })?;
        Ok(Self { factory, ends, kept: Mutex::default() })
    }

    /// Number of tokens.
    pub fn vocab(&self) -> usize {
        self.factory.tok_env().tok_trie().vocab_size()
    }

    /// Compiles a constraint, or gives what was made of the same one lately.
    ///
    /// # Errors
    /// [`crate::Error::Constraint`] for one that cannot be compiled within its bounds, or that no text of this vocabulary
    /// satisfies.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().position(|g| g.0.constraint == *constraint) {
            let known = kept.remove(at);
            kept.insert(0, known.clone());
            return Ok(known);
        }
        drop(kept);
        let failed = |reason: &dyn fmt::Display| ConstraintError::of(constraint.kind(), reason);
        let matcher = std::thread::scope(|scope| {
            let work = || self.matcher(constraint);
            let thread = std::thread::Builder::new().name("gently-grammar".into()).stack_size(STACK);
            match thread.spawn_scoped(scope, work) {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err(failed(&"the compiler failed"))),
                Err(e) => Err(failed(&e)),
            }
        })?;
        let grammar = Grammar(Arc::new(Compiled {
            constraint: constraint.clone(),
            vocab: self.vocab(),
            ends: self.ends.clone(),
            matcher: Mutex::new(matcher),
        }));
        // A grammar that allows nothing is told now rather than when a prompt was read.
        grammar.guide().try_out().map_err(|e| match e {
            ConstraintError::Stuck { kind, reason, .. } => ConstraintError::Compile { kind, reason },
            e => e,
        })?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(0, grammar.clone());
        kept.truncate(KEPT);
        Ok(grammar)
    }

    fn matcher(&self, constraint: &Constraint) -> Result<Matcher, ConstraintError> {
        let text = &*constraint.text;
        let failed = |e: &dyn fmt::Display| ConstraintError::of(constraint.kind, e);
        let grammar = match constraint.kind {
            Kind::Regex => TopLevelGrammar::from_regex(text),
            Kind::Lark | Kind::Gbnf | Kind::Choice => TopLevelGrammar::from_lark(text.to_owned()),
            Kind::JsonSchema => {
                let mut wanted: Value = serde_json::from_str(text).map_err(|e| failed(&e))?;
                if wanted == Value::Bool(true) {
                    wanted = json!({});
                }
                if let Some(object) = wanted.as_object_mut() {
                    schema::space(object);
                }
                TopLevelGrammar::from_json_schema(wanted)
            }
        };
        let parse = |init: GrammarInit| {
            let caps = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
            self.factory.create_parser_from_init_ext(init, Logger::new(0, 0), caps, limits(constraint.kind))
        };
        let init = GrammarInit::Serialized(grammar);
        let mut parser = parse(init.clone());
        let forces = parser.as_ref().ok().map(|p| Forces::of(p.parser.grammar()));
        if let Some(Forces { shortest, little }) = forces {
            match shortest {
                None => return Err(failed(&"it allows no text that has an end")),
                Some(most) if most > MOST_SHORTEST => {
                    return Err(failed(&format!("each text that it allows is longer than {MOST_SHORTEST} bytes")));
                }
                // The matcher would follow a forced text to its end before its first token. Without that its masks still allow
                // nothing else, token by token.
                Some(_) if !little => {
                    let env = self.factory.tok_env().clone();
                    parser = init.to_internal(Some(env), limits(constraint.kind)).and_then(|(rules, mut lexer)| {
                        lexer.no_forcing = true;
                        parse(GrammarInit::Internal(rules, lexer))
                    });
                }
                Some(_) => {}
            }
        }
        if parser.as_ref().is_ok_and(|p| takes_back(p.parser.grammar().lexer_spec())) {
            return Err(failed(&"a rule of it takes back what was written: suffix= in place of stop= does not"));
        }
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            // The library asks for one before it looks for the name.
            Some(e) if e.contains("missing special token prefix") => {
                Err(failed(&"it names a token in < >, and the vocabulary has no special token"))
            }
            // The place is one in what was made of it.
            Some(e) if matches!(constraint.kind, Kind::Regex | Kind::Gbnf | Kind::Choice) => {
                Err(failed(&in_our_words(e.split_once("): ").map_or(e.as_str(), |(_, rest)| rest))))
            }
            Some(e) => Err(failed(&in_our_words(&e))),
            None => Ok(matcher),
        }
    }
}

/// What the library says, without advice that cannot be taken here: options that constraints refuse, features that it was built
/// without, and a list of tokens that is cut in its middle.
fn in_our_words(said: &str) -> Cow<'_, str> {
    if said.contains("coerce_one_of") {
        return "oneOf with schemas that may hold together is not supported; anyOf is".into();
    }
    if let Some((_, reference)) = said.split_once("without 'referencing' feature; ref ") {
        return format!("$ref {reference} leads out of the schema; only those that begin with #/ are followed").into();
    }
    match said.split_once("; following special tokens are available") {
        Some((unknown, _)) => unknown.into(),
        None => said.into(),
    }
}

/// Whether some lexeme, when it is found, is cut before its last bytes, as those of rules with `stop=` are. The matcher then goes
/// on as if these had not been written; but they were, and it does not tell. A suffix is not cut. Constraints refuse such rules by
/// name; this holds whatever a grammar is spelled like.
fn takes_back(spec: &LexerSpec) -> bool {
    // There is no other way to see a suffix than the text for people, whose end it is.
    spec.lazy_lexemes().iter().any(|lexeme| !spec.lexeme_spec(lexeme).to_string(0, None).ends_with(" suffix"))
}

/// The tokens for `llguidance`.
struct Words {
    trie: TokTrie,
    tokenizer: Tokenizer,
}

impl Words {
    fn spells(&self, ids: &[u32], text: &[u8]) -> bool {
        self.trie.decode_raw(ids) == text
    }
}

impl TokenizerEnv for Words {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// The tokenizer's own tokens of a text inside another one; where they do not spell it, the longest that do.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(Some(ids)) = self.tokenizer.encode_inside(text, false)
            && self.spells(&ids, bytes)
        {
            return ids;
        }
        self.trie.greedy_tokenize(bytes)
    }
}

/// A constraint made ready for one vocabulary. A clone is cheap; any number of texts may be held to it.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    constraint: Constraint,
    vocab: usize,
    ends: Arc<[u32]>,
    /// At its beginning: each text has a copy.
    matcher: Mutex<Matcher>,
}

impl Grammar {
    /// Follows a text from its beginning.
    pub fn guide(&self) -> Guide {
        // With a lexer of its own: what one text costs is not counted against another.
        let matcher = self.0.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Guide::new(self.0.constraint.kind, self.0.vocab, matcher, self.0.ends.clone())
    }

    /// What it was made of.
    pub fn constraint(&self) -> &Constraint {
        &self.0.constraint
    }

    /// Number of tokens of its vocabulary.
    pub fn vocab(&self) -> usize {
        self.0.vocab
    }
}

impl PartialEq for Grammar {
    /// Whether both are the same compiled grammar.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grammar").field(&self.0.constraint).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_taken_back_is_seen_in_what_was_compiled() {
        let grammars = Grammars::new(&Tokenizer::bytes().with_end_of_text("<end>")).unwrap();
        // As if no one had looked at its words.
        let compile = |rules: &str| {
            let text = format!("start: a \"!\"\n{rules}");
            grammars.compile(&Constraint { kind: Kind::Lark, text: text.into() })
        };
        for rules in [
            "a[stop=\"x\"]: /[a-z]+/",
            "a[stop=X, capture=\" suffix\"]: /[a-z]+/\nX: /[x-z]/",
            "a: %lark {\n start: b\n b[stop=\"x\"]: /[a-z]+/\n}",
        ] {
            let said = compile(rules).unwrap_err().to_string();
            assert!(said.contains("takes back what was written"), "{rules}: {said}");
        }
        for rules in ["a[suffix=\"x\"]: /[a-z]+/", "a[lazy]: /[a-z]+/", "a[stop=\"\"]: /[a-z]+/", "a: /[a-z]+/"] {
            compile(rules).unwrap();
        }
    }
}

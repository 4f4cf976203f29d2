//! Texts that are held to a grammar: whatever the seed, the vocabulary, the sampler and the batch mates, they are what was
//! asked for; and what cannot be had is said.

mod common;

use common::options;
use gently_infer::{
    Constraint, ConstraintError, Elem, End, Engine, EngineOptions, Error, Event, Failure, Grammar, Grammars, Lookup,
    Plan, PlanOptions, Request, Scheduler, Ticket, Work,
};
use gently_models::Decoder;
use gently_models::config::{DecoderConfig, Family};
use gently_models::sampling::{Mirostat, Sampler, SamplingParams};
use gently_tensor::{Device, Rng};
use gently_text::{BpeOptions, Tokenizer, Vocabulary, train_bpe};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Counts what is allocated and not freed, to the byte.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a grammar that means harm, and a text held to it, may take, with whatever tests run beside.
const MOST: usize = 1 << 30;

/// A tiny random model with its tokenizer, and grammars over it.
struct Tiny {
    plan: Arc<Plan>,
    tokenizer: Tokenizer,
    grammars: Grammars,
}

impl Tiny {
    fn new(tokenizer: Tokenizer) -> Self {
        let cfg = DecoderConfig {
            // Padded, as published models are.
            vocab: tokenizer.vocab_size() + 3,
            context: 256,
            layers: 1,
            heads: 2,
            kv_heads: Some(1),
            width: 16,
            mlp_width: Some(16),
            init_std: 0.6,
            ..DecoderConfig::preset(Family::Llama)
        };
        let model = Decoder::new(&cfg, &Rng::new(5), &Device::Cpu).unwrap();
        let plan = Arc::new(Plan::new(&model, PlanOptions { cache: Elem::F16 }).unwrap());
        Self { plan, grammars: Grammars::new(&tokenizer).unwrap(), tokenizer }
    }

    fn grammar(&self, constraint: Result<Constraint, ConstraintError>) -> Grammar {
        self.grammars.compile(&constraint.unwrap()).unwrap()
    }

    fn request(&self, grammar: &Grammar, seed: u64) -> Request {
        Request {
            max_tokens: 150,
            below: Some(self.tokenizer.vocab_size()),
            sampling: SamplingParams { seed, temperature: 1.5, ..SamplingParams::default() },
            grammar: Some(grammar.clone()),
            ..Request::new(vec![3, 1, 4, 1, 5])
        }
    }

    fn text(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.tokenizer.bytes_within(id).unwrap().unwrap()).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// Runs requests together: what each wrote and how it ended, and how many passes that took.
    fn run(&self, requests: Vec<Request>, options: EngineOptions) -> (Vec<Written>, usize) {
        let mut scheduler = Scheduler::new(self.plan.clone(), options);
        let tickets: Vec<Ticket> = requests.into_iter().map(|r| scheduler.submit(r).unwrap()).collect();
        let mut written: HashMap<u64, Written> = HashMap::new();
        let mut passes = 0;
        while !scheduler.is_idle() {
            passes += 1;
            for (ticket, event) in scheduler.step(&|| true) {
                let of = written.entry(ticket.id()).or_default();
                match event {
                    Event::Token(token) => of.ids.push(token.id),
                    Event::Error(error) => of.error = Some(error),
                    Event::End(end) => of.end = Some(end),
                }
            }
        }
        (tickets.iter().map(|t| written.remove(&t.id()).unwrap()).collect(), passes)
    }

    /// A text that is written to its grammar's end.
    fn whole(&self, request: Request) -> String {
        let (mut written, _) = self.run(vec![request], options());
        let written = written.remove(0);
        assert_eq!(written.error, None);
        let text = self.text(&written.ids);
        assert!(matches!(written.end, Some(End::Complete | End::Stop(_))), "{:?} after {text:?}", written.end);
        text
    }
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Written {
    ids: Vec<u32>,
    error: Option<Failure>,
    end: Option<End>,
}

fn bytes() -> &'static Tiny {
    static TINY: OnceLock<Tiny> = OnceLock::new();
    TINY.get_or_init(|| Tiny::new(Tokenizer::bytes().with_end_of_text("<end>")))
}

/// Byte-level BPE that has seen JSON: tokens of several characters, quotes and letters together.
fn bpe() -> &'static Tiny {
    static TINY: OnceLock<Tiny> = OnceLock::new();
    TINY.get_or_init(|| {
        let seen = [r#"{"name": "Ada", "age": 36, "tags": ["one", "two"], "ok": true} "#, "yes no yellow 2026-11-23 "];
        Tiny::new(train_bpe(seen.map(|s| s.repeat(8)).iter(), &BpeOptions::new(360)).unwrap())
    })
}

/// SentencePiece with bytes to fall back on, which puts a space in front of a text.
fn pieces() -> &'static Tiny {
    static TINY: OnceLock<Tiny> = OnceLock::new();
    TINY.get_or_init(|| {
        let byte_names: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
        let mut tokens = vec!["<unk>", "<s>", "</s>"];
        tokens.extend(byte_names.iter().map(String::as_str));
        let bytes = tokens.len();
        let own = ["▁", "a", "e", "g", "m", "n", "s", "y", "0", "1", "2", "\"", ":", "{", "}", "ye", "na", "me"];
        tokens.extend(own);
        tokens.extend(["name", "{\"", "\":", "▁1", "12", "▁y", "▁ye", "yes", "▁yes", "ag", "age"]);
        let types = (0..tokens.len()).map(|i| [2, 3, 3].get(i).copied().unwrap_or(if i < bytes { 6 } else { 1 }));
        let vocabulary = Vocabulary {
            model: "llama",
            types: types.collect(),
            scores: (0..tokens.len()).map(|i| -(i as f64)).collect(),
            bos: Some(1),
            ends: vec![2],
            unknown: Some(0),
            tokens,
            ..Vocabulary::default()
        };
        Tiny::new(Tokenizer::from_vocabulary(&vocabulary, "test".as_ref()).unwrap())
    })
}

/// Ways of choosing that must not undo a mask.
fn samplings() -> Vec<SamplingParams> {
    let all = SamplingParams::default();
    vec![
        SamplingParams { temperature: 0.0, ..all.clone() },
        SamplingParams { temperature: 1.7, top_p: 0.9, ..all.clone() },
        SamplingParams { top_k: 3, min_p: 0.1, ..all.clone() },
        SamplingParams { typical: 0.7, ..all.clone() },
        SamplingParams { mirostat: Some(Mirostat { tau: 3.0, eta: 0.1 }), ..all.clone() },
        SamplingParams { repetition_penalty: 1.4, frequency_penalty: 0.5, presence_penalty: -0.5, ..all },
    ]
}

#[test]
fn any_seed_gives_what_was_asked_for() {
    let date = |t: &str| {
        t.len() == 10
            && t.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() })
    };
    let sum =
        |t: &str| t.split_once(" = ").is_some_and(|(a, b)| a.split(" + ").chain([b]).all(|n| n.parse::<u32>().is_ok()));
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer",
        "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": false}"#;
    let person = |t: &str| {
        let Ok(value) = serde_json::from_str::<Value>(t) else { return false };
        value["name"].as_str().is_some_and(|n| n.chars().count() <= 6)
            && value["age"].as_u64().is_some_and(|a| a <= 150)
    };
    let lark = "start: NUMBER (\" + \" NUMBER)~0..4 \" = \" NUMBER\nNUMBER: /[0-9]{1,3}/";
    type Check<'a> = &'a dyn Fn(&str) -> bool;
    let cases: [(Result<Constraint, ConstraintError>, Check<'_>); 5] = [
        (Constraint::regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), &date),
        (Constraint::regex(r"(ja|nein)?é{0,3}"), &|t| t.trim_end_matches('é').len() <= 4 && !t.contains('x')),
        (Constraint::choice(["yes", "yellow", " ye\n\"\u{7f}", "日本"]), &|t| {
            ["yes", "yellow", " ye\n\"\u{7f}", "日本"].contains(&t)
        }),
        (Constraint::lark(lark), &sum),
        (Constraint::json_schema(schema), &person),
    ];
    for tiny in [bytes(), bpe(), pieces()] {
        for (constraint, holds) in &cases {
            let grammar = tiny.grammar(constraint.clone());
            for (seed, sampling) in (0..12).zip(samplings().into_iter().cycle()) {
                let sampling = SamplingParams { seed, ..sampling };
                let text = tiny.whole(Request { sampling, ..tiny.request(&grammar, seed) });
                assert!(holds(&text), "{:?}, seed {seed}: {text:?}", constraint.as_ref().unwrap().kind());
            }
        }
    }
}

/// A schema and what it says, checked without the engine that holds texts to it.
#[derive(Debug, Clone)]
enum Shape {
    Null,
    Bool,
    Int(i64, i64),
    Str(usize),
    Enum(Vec<String>),
    Array(Box<Shape>, usize),
    Object(Vec<(Shape, bool)>),
}

impl Shape {
    fn schema(&self) -> Value {
        match self {
            Self::Null => json!({"type": "null"}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Int(a, b) => json!({"type": "integer", "minimum": a, "maximum": b}),
            Self::Str(n) => json!({"type": "string", "maxLength": n}),
            Self::Enum(among) => json!({"enum": among}),
            Self::Array(of, most) => json!({"type": "array", "items": of.schema(), "maxItems": most}),
            Self::Object(fields) => {
                let named = |(i, f): (usize, &(Shape, bool))| (format!("field{i}"), f.0.schema());
                let properties: serde_json::Map<String, Value> = fields.iter().enumerate().map(named).collect();
                let required: Vec<String> =
                    (0..fields.len()).filter(|&i| fields[i].1).map(|i| format!("field{i}")).collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Bool => value.is_boolean(),
            Self::Int(a, b) => value.as_i64().is_some_and(|n| (*a..=*b).contains(&n)),
            Self::Str(n) => value.as_str().is_some_and(|s| s.chars().count() <= *n),
            Self::Enum(among) => value.as_str().is_some_and(|s| among.iter().any(|a| a == s)),
            Self::Array(of, most) => {
                value.as_array().is_some_and(|all| all.len() <= *most && all.iter().all(|v| of.holds(v)))
            }
            Self::Object(fields) => value.as_object().is_some_and(|object| {
                let names: Vec<String> = (0..fields.len()).map(|i| format!("field{i}")).collect();
                let known = object.keys().all(|k| names.contains(k));
                known
                    && fields.iter().zip(&names).all(|((shape, required), name)| match object.get(name) {
                        Some(value) => shape.holds(value),
                        None => !required,
                    })
            }),
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Null),
        Just(Shape::Bool),
        (-300i64..300, 0i64..500).prop_map(|(a, n)| Shape::Int(a, a + n)),
        (0usize..4).prop_map(Shape::Str),
        prop::collection::vec("[a-zé\"\\\\ ]{1,6}", 1..4).prop_map(Shape::Enum),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), 0usize..3).prop_map(|(of, most)| Shape::Array(Box::new(of), most)),
            prop::collection::vec((inner, any::<bool>()), 0..4).prop_map(Shape::Object),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn small_schemas_are_satisfied(shape in shape(), seed in 0u64..1000, words in any::<bool>()) {
        let tiny = if words { bpe() } else { bytes() };
        let grammar = tiny.grammar(Constraint::json_schema(&shape.schema().to_string()));
        // Long ones slide beyond the context.
        let text = tiny.whole(Request { max_tokens: 2000, slide: true, ..tiny.request(&grammar, seed) });
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert!(shape.holds(&value), "{} for {}", text, shape.schema());
    }
}

const FORCED: &str = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer",
    "minimum": 0, "maximum": 9}, "ok": {"const": true}}, "required": ["name", "age", "ok"], "additionalProperties": false}"#;

/// Token by token through the guide alone, a pass for each.
fn one_by_one(tiny: &Tiny, request: &Request) -> (Vec<u32>, usize) {
    let mut guide = request.grammar.as_ref().unwrap().guide();
    let mut sampler = Sampler::new(request.sampling.clone()).unwrap();
    let (mut work, mut state) = (Work::new(), tiny.plan.state());
    let (mut tokens, mut masked) = (request.prompt.clone(), Vec::new());
    let mut passes = 0;
    while !guide.is_complete() {
        let logits = tiny.plan.read(&mut work, &mut state, &tokens[state_len(passes, request)..]).unwrap();
        passes += 1;
        let id = match guide.forced().unwrap() {
            Some(id) => id,
            None => {
                assert!(guide.mask(&logits[..request.below.unwrap()], &mut masked).unwrap());
                let id = sampler.sample(&masked, &tokens);
                guide.take(id).unwrap();
                id
            }
        };
        if guide.ends(id) {
            break;
        }
        tokens.push(id);
    }
    (tokens.split_off(request.prompt.len()), passes)
}

/// Tokens read after some passes: the prompt, then one each.
fn state_len(passes: usize, request: &Request) -> usize {
    passes.checked_sub(1).map_or(0, |more| request.prompt.len() + more)
}

#[test]
fn forced_tokens_give_the_same_text_in_fewer_passes() {
    for tiny in [bytes(), bpe(), pieces()] {
        let grammar = tiny.grammar(Constraint::json_schema(FORCED));
        for seed in 0..8 {
            let request = tiny.request(&grammar, seed);
            let (want, slow) = one_by_one(tiny, &request);
            let (written, fast) = tiny.run(vec![request.clone()], options());
            assert_eq!(written[0].ids, want, "seed {seed}");
            assert!(2 * fast < slow, "{fast} passes in place of {slow}");
            // With log-probabilities each token is asked for; guesses from the text change nothing.
            let (written, asked) = tiny.run(vec![Request { logprobs: Some(2), ..request.clone() }], options());
            assert_eq!((&written[0].ids, asked), (&want, slow));
            let lookup = Some(Lookup { longest: 3, shortest: 1, draft: 4 });
            let (written, _) = tiny.run(vec![request], EngineOptions { lookup, ..options() });
            assert_eq!(written[0].ids, want, "seed {seed}, with lookup");
        }
    }
}

#[test]
fn while_a_token_is_forced_no_other_is_taken() {
    let mut guide = bytes().grammar(Constraint::choice(["yes", "yellow"])).guide();
    assert_eq!(guide.forced().unwrap(), Some(u32::from(b'y')));
    // `e` is forced as well, and was not given out.
    let said = guide.take(b's'.into()).unwrap_err();
    assert!(matches!(said, ConstraintError::Stuck { tokens: 1, .. }), "{said}");
    guide.take(b'e'.into()).unwrap();
    assert_eq!(guide.forced().unwrap(), None);
    guide.take(b's'.into()).unwrap();
    assert!(guide.is_complete());
}

#[test]
fn a_text_without_choices_needs_no_model() {
    let tiny = bpe();
    let grammar = tiny.grammar(Constraint::choice(["yes, {\"name\": 2026}"]));
    let (written, passes) = tiny.run(vec![tiny.request(&grammar, 0)], options());
    assert_eq!((tiny.text(&written[0].ids).as_str(), written[0].end), ("yes, {\"name\": 2026}", Some(End::Complete)));
    assert_eq!(passes, 1, "one that admits and ends it");
    // The limit of tokens cuts it all the same.
    let short = Request { max_tokens: 2, ..tiny.request(&grammar, 0) };
    let (written, _) = tiny.run(vec![short], options());
    assert_eq!((written[0].ids.len(), written[0].end), (2, Some(End::Length)));
}

#[test]
fn batch_mates_change_nothing() {
    let tiny = bpe();
    let grammars = [
        tiny.grammar(Constraint::json_schema(FORCED)),
        tiny.grammar(Constraint::regex("([a-f]{2} ){1,9}")),
        tiny.grammar(Constraint::choice(["yes", "no", "yellow"])),
    ];
    let request = |i: u64| {
        let grammar = grammars.get(i as usize % 4).cloned();
        let prompt = (0..3 + i as u32 % 30).map(|t| (t * t + i as u32 % 3) % 300).collect();
        let logprobs = i.is_multiple_of(5).then_some(1);
        let sampling = SamplingParams { seed: i, ..SamplingParams::default() };
        Request { prompt, grammar, logprobs, sampling, max_tokens: 40, ..tiny.request(&grammars[0], i) }
    };
    let alone: Vec<Written> = (0..24).map(|i| tiny.run(vec![request(i)], options()).0.remove(0)).collect();
    for (batch, chunk, draft) in [(24, 256, 0), (5, 7, 3), (3, 1, 7)] {
        let lookup = (draft > 0).then_some(Lookup { longest: 3, shortest: 1, draft });
        let options = EngineOptions { batch, chunk, lookup, prefix_bytes: 1 << 20, ..options() };
        let (together, _) = tiny.run((0..24).map(request).collect(), options);
        assert_eq!(together, alone, "batch {batch}, chunk {chunk}, draft {draft}");
    }
}

#[test]
fn guesses_outside_the_tokenizers_vocabulary_are_not_asked_of_the_grammar() {
    let tiny = bytes();
    let padding = tiny.tokenizer.vocab_size() as u32 + 1;
    let grammar = tiny.grammar(Constraint::regex("[ab]{30}"));
    // What followed these letters before is a token that only the model has.
    let prompt = [97, 97, padding, 98, 97, padding, 97, 98, padding, 98, 98, padding, 97, 97].to_vec();
    for seed in 0..8 {
        let request = Request { prompt: prompt.clone(), ..tiny.request(&grammar, seed) };
        let (alone, _) = tiny.run(vec![request.clone()], options());
        assert_eq!((alone[0].ids.len(), &alone[0].error), (30, &None));
        let lookup = Some(Lookup { longest: 2, shortest: 1, draft: 4 });
        let (guessed, _) = tiny.run(vec![request], EngineOptions { lookup, ..options() });
        assert_eq!(guessed, alone, "seed {seed}");
    }
}

#[test]
fn tokens_that_end_a_text_come_where_it_can_end() {
    let tiny = bytes();
    let grammar = tiny.grammar(Constraint::regex("(ab)*"));
    let mut ended = 0;
    for seed in 0..20 {
        let (written, _) = tiny.run(vec![tiny.request(&grammar, seed)], options());
        let text = tiny.text(&written[0].ids);
        match written[0].end {
            Some(End::Stop(256)) => {
                assert!(text.len().is_multiple_of(2), "{text}");
                ended += 1;
            }
            end => assert_eq!((end, text.len()), (Some(End::Length), 150)),
        }
        assert!("ab".repeat(80).starts_with(&text), "{text}");
    }
    assert!(ended > 0);
}

#[test]
fn tokens_that_end_a_text_may_be_named_in_the_middle_of_a_grammar() {
    let tiny = bytes();
    for (text, ids, end) in [
        ("root ::= \"a\" <end> \"b\"", vec![97, 256, 98], End::Complete),
        ("root ::= \"a\" <end>", vec![97], End::Stop(256)),
        // Where it may stand and a text may end, nothing else may come: the text has ended.
        ("root ::= \"a\" (<end> \"b\")?", vec![97], End::Complete),
    ] {
        let grammar = tiny.grammar(Constraint::gbnf(text));
        // Forced tokens are written with the prompt, or one by one with their log-probabilities.
        for logprobs in [None, Some(1)] {
            let request = Request { stop: vec![256], logprobs, ..tiny.request(&grammar, 1) };
            let (written, _) = tiny.run(vec![request], options());
            assert_eq!((&written[0].ids, written[0].end), (&ids, Some(end)), "{text}: {:?}", written[0].error);
        }
    }
}

#[test]
fn a_text_that_must_be_empty_is_complete() {
    for tiny in [bytes(), bpe(), pieces(), &Tiny::new(Tokenizer::characters("ab".chars()))] {
        for constraint in [Constraint::regex("a{0}"), Constraint::gbnf("root ::= \"\"")] {
            let grammar = tiny.grammar(constraint);
            for logprobs in [None, Some(1)] {
                let request = Request { prompt: vec![1, 0], logprobs, ..tiny.request(&grammar, 1) };
                let stop = tiny.tokenizer.ends().to_vec();
                let (written, _) = tiny.run(vec![Request { stop, ..request }], options());
                let empty = Written { ids: vec![], error: None, end: Some(End::Complete) };
                assert_eq!(written[0], empty, "{:?}", grammar.constraint().kind());
            }
        }
    }
    // Where a vocabulary has no more for it, and no token that ends a text.
    let letters = Tiny::new(Tokenizer::characters("ab".chars()));
    for (expression, text) in [("é*", ""), ("aé*", "a"), ("ab?é*", "ab")] {
        let grammar = letters.grammar(Constraint::regex(expression));
        let bias = [(1, 1e4)].into();
        let sampling = SamplingParams { logit_bias: bias, ..SamplingParams::default() };
        let request = Request { prompt: vec![1, 0], sampling, ..letters.request(&grammar, 1) };
        assert_eq!(letters.whole(request), text, "{expression}");
    }
}

#[test]
fn numbers_are_written_as_the_schema_has_them() {
    let tiny = bytes();
    for number in ["9007199254740992", "-9007199254740992"] {
        for schema in [
            format!("{{\"const\": {number}}}"),
            format!("{{\"type\": \"integer\", \"minimum\": {number}, \"maximum\": {number}}}"),
        ] {
            let text = tiny.whole(tiny.request(&tiny.grammar(Constraint::json_schema(&schema)), 3));
            assert_eq!(text, number, "{schema}");
        }
    }
    refused(tiny, Constraint::json_schema("{\"enum\": [1, 9007199254740993]}"), &["9007199254740993 in enum"]);
}

#[test]
fn what_ends_a_rule_stays_in_the_text_or_is_refused() {
    let tiny = bytes();
    let grammar = tiny.grammar(Constraint::lark("start: name \"!\"\nname[suffix=\",\"]: /[a-z]{1,5}/"));
    for seed in 0..8 {
        let text = tiny.whole(tiny.request(&grammar, seed));
        let name = text.strip_suffix(",!").unwrap_or_else(|| panic!("{text}"));
        assert!((1..=5).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase()), "{text}");
    }
    let stop = Constraint::lark("start: name \"!\"\nname[stop=\",\"]: /[a-z]{1,5}/").unwrap_err();
    assert!(matches!(stop, ConstraintError::Attribute { attribute: "stop", line: 2, column: 6 }), "{stop}");
}

#[test]
fn what_a_request_rules_out_is_not_written_for_a_grammar() {
    let letters = Tiny::new(Tokenizer::characters("ab".chars()));
    let bias = |ids: &[u32]| SamplingParams {
        logit_bias: ids.iter().map(|id| (*id, f32::NEG_INFINITY)).collect(),
        ..SamplingParams::default()
    };
    let forced = letters.grammar(Constraint::choice(["ab"]));
    let either = letters.grammar(Constraint::regex("[ab]{3}"));
    let plain = |grammar| Request { prompt: vec![1, 0], ..letters.request(grammar, 1) };
    for (request, ids) in [
        (Request { sampling: bias(&[1]), ..plain(&forced) }, vec![0]),
        (Request { below: Some(1), ..plain(&forced) }, vec![0]),
        (Request { sampling: bias(&[0, 1]), ..plain(&either) }, vec![]),
    ] {
        for logprobs in [None, Some(1)] {
            let (written, _) = letters.run(vec![Request { logprobs, ..request.clone() }], options());
            assert_eq!((&written[0].ids, written[0].end), (&ids, Some(End::Failed)));
            let error = written[0].error.as_ref().unwrap();
            let Failure::Constraint(out @ ConstraintError::RuledOut { tokens, token, .. }) = error else {
                panic!("{error}")
            };
            // What is forced is known; where nothing is left to choose, no token is to blame.
            assert_eq!((*tokens, *token), (ids.len(), (!ids.is_empty()).then_some(1)));
            assert!(error.to_string().contains("ruled out by the request"), "{error}");
            let biased = request.sampling.logit_bias.values().any(|bias| *bias == f32::NEG_INFINITY);
            assert_eq!(out.hint().unwrap().contains("--logit-bias"), biased, "{error}");
        }
    }
    let fine = Request { sampling: bias(&[0]), ..plain(&either) };
    let (written, _) = letters.run(vec![fine], options());
    assert_eq!((&written[0].ids[..], &written[0].error), (&[1, 1, 1][..], &None));
}

fn refused(tiny: &Tiny, constraint: Result<Constraint, ConstraintError>, parts: &[&str]) {
    let error = match constraint {
        Ok(constraint) => tiny.grammars.compile(&constraint).unwrap_err(),
        Err(error) => error.into(),
    };
    let said = error.to_string();
    assert!(matches!(error, Error::Constraint(ConstraintError::Compile { .. })), "{error:?}");
    assert!(parts.iter().all(|p| said.contains(p)), "{said}");
    assert!(error.hint().is_some() && !said.contains('\n') && said.len() < 1000, "{said}");
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let tiny = bytes();
    let re = Constraint::regex;
    refused(tiny, re("(a"), &["the regular expression", "unclosed group"]);
    refused(tiny, re("a$b"), &["the regular expression", "a$b"]);
    refused(tiny, re(r"[^\s\S]"), &["no token"]);
    let js = |s: &str| Constraint::json_schema(s);
    refused(tiny, js(r#"{"type": "objekt"}"#), &["the JSON schema", "objekt"]);
    refused(tiny, js("false"), &["the JSON schema", "false"]);
    refused(tiny, js(r#"{"type": "array", "uniqueItems": true}"#), &["uniqueItems"]);
    refused(tiny, js(r#"{"type": "integer", "minimum": 3, "maximum": 2}"#), &["minimum (3)"]);
    refused(tiny, js(r#"{"$ref": "https://example.com/a.json"}"#), &["https://example.com/a.json"]);
    refused(tiny, js(r##"{"$ref": "#"}"##), &["no text that has an end"]);
    let lark = Constraint::lark;
    refused(tiny, lark("start: \"a\"\n  | b"), &["the grammar", "line 1, column 8", "\"b\""]);
    refused(tiny, lark("start: ((("), &["the grammar", "line 1"]);
    refused(tiny, lark("start: start"), &["no text that has an end"]);
    // Without advice that cannot be taken.
    let one = r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#;
    refused(tiny, js(one), &["oneOf with schemas that may hold together", "anyOf"]);
    refused(tiny, Constraint::gbnf("root ::= <think> \"a\""), &["<think>"]);

    // A model of letters has no braces, and no é.
    let letters = Tiny::new(Tokenizer::characters("ab".chars()));
    refused(&letters, js("{\"type\": \"object\"}"), &["no token"]);
    refused(&letters, Constraint::choice(["é", "è"]), &["no token"]);
    let word = Vocabulary { model: "bert", tokens: vec!["[UNK]", "[CLS]", "[SEP]", "▁a"], ..Vocabulary::default() };
    let word = Tokenizer::from_vocabulary(&word, "test".as_ref()).unwrap();
    let error = Grammars::new(&word).unwrap_err();
    assert!(error.to_string().contains("WordPiece") && error.hint().is_some(), "{error}");
    // Grammars belong to a vocabulary.
    let grammar = tiny.grammar(re("a*"));
    let request = Request { grammar: Some(grammar), ..Request::new(vec![1]) };
    let said = Scheduler::new(letters.plan.clone(), options()).submit(request).unwrap_err().to_string();
    assert!(said.contains("257") && said.contains("5"), "{said}");
}

#[test]
fn a_grammar_that_gets_stuck_ends_its_own_request_with_an_error() {
    let letters = Tiny::new(Tokenizer::characters("ab".chars()));
    let stuck = letters.grammar(Constraint::regex("[ab]{3}é"));
    let fine = letters.grammar(Constraint::regex("[ab]{5}"));
    let requests = vec![letters.request(&stuck, 1), letters.request(&fine, 1)];
    let requests: Vec<Request> = requests.into_iter().map(|r| Request { prompt: vec![1, 0], ..r }).collect();
    let (written, _) = letters.run(requests.clone(), options());
    assert_eq!((written[0].ids.len(), written[0].end), (3, Some(End::Failed)));
    let said = written[0].error.as_ref().unwrap().to_string();
    assert!(said.contains("the regular expression cannot go on after 3 tokens"), "{said}");
    assert_eq!((written[1].ids.len(), written[1].end, &written[1].error), (5, Some(End::Complete), &None));
    // Nothing finite is left of what the grammar allows: `b` and the end.
    let fine = letters.grammar(Constraint::regex("a{2}b{1,3}"));
    let requests = [requests[0].clone(), Request { grammar: Some(fine), ..requests[1].clone() }];
    let bias = [(1, f32::NEG_INFINITY)].into();
    let sampling = SamplingParams { logit_bias: bias, ..SamplingParams::default() };
    let none = Request { sampling, ..requests[1].clone() };
    let engine = Engine::new(letters.plan.clone(), options());
    for (request, ruled_out) in [(requests[0].clone(), false), (none, true)] {
        let mut stream = engine.submit(request).unwrap();
        let last = stream.by_ref().last().unwrap();
        let right = match &last {
            Err(Error::Constraint(ConstraintError::Stuck { .. })) => !ruled_out,
            Err(Error::Constraint(ConstraintError::RuledOut { .. })) => ruled_out,
            _ => false,
        };
        assert!(right, "{last:?}");
        assert_eq!(stream.end(), Some(End::Failed));
    }
    let mut stream = engine.submit(requests[1].clone()).unwrap();
    assert!((3..=5).contains(&stream.by_ref().filter(Result::is_ok).count()), "the engine goes on");
}

/// What leaves no choice is forced as far as its length has a bound; beyond it the mask alone says so.
#[test]
fn long_texts_are_not_forced() {
    let tiny = bytes();
    let all = |rules: &str| {
        let mut guide = tiny.grammar(Constraint::lark(rules)).guide();
        let forced: Vec<u32> = std::iter::from_fn(|| guide.forced().unwrap()).collect();
        let mut masked = Vec::new();
        let more = guide.mask(&vec![0.0; tiny.grammars.vocab()], &mut masked).unwrap();
        (forced.len(), masked.iter().filter(|&&logit| more && logit == 0.0).count())
    };
    let word = |count: usize| format!("start: A{{{count}}} /[bc]/\nA: \"{}\"", "a".repeat(1000));
    assert_eq!(all(&word(50)), (50_000, 2));
    assert_eq!(all(&word(1000)), (0, 1));
    // Strings count as the shortest that they may be.
    let text = "start: (\"(\" S \")\"){1000}\nS: /\"[a-z]{0,500}\"/";
    assert_eq!(all(text), (2, 27));
}

/// Grammars that would take hours or gigabytes: an error comes, when they are compiled or while a text is written.
#[test]
fn hostile_grammars_end_with_an_error() {
    let tiny = bytes();
    let deep =
        |open: &str, middle: &str, close: &str, n: usize| [open.repeat(n), middle.into(), close.repeat(n)].concat();
    let powers = |rule: &str, last: &str| {
        let rules: String = (0..40).map(|i| format!("{rule}{i}: {rule}{} {rule}{}\n", i + 1, i + 1)).collect();
        format!("start: {rule}0\n{rules}{rule}40: {last}")
    };
    let product: Vec<String> = (0..8)
        .map(|t| {
            let one = |i| format!("{{\"type\":\"object\",\"properties\":{{\"p{t}_{i}\":{{\"type\":\"string\"}}}},\"required\":[\"p{t}_{i}\"]}}");
            format!("{{\"anyOf\":[{}]}}", (0..10).map(one).collect::<Vec<_>>().join(","))
        })
        .collect();
    let never_compile = [
        Constraint::regex("a{1000000}"),
        Constraint::regex(&deep("(", "a", ")", 10_000)),
        Constraint::regex(&"(\\w*x)*".repeat(3000)),
        Constraint::regex(&"a".repeat(70_000)),
        Constraint::lark(&deep("start: (", "\"a\"", ")", 5000)),
        Constraint::lark(&powers("R", "/\\w/*")),
        Constraint::lark(&powers("r", "\"a\"")),
        Constraint::lark(&powers("r", "A\nA: /(a{144}){12}/")),
        Constraint::lark("start: \"a\" start"),
        Constraint::lark("start: %json {\"multipleOf\": 1000003}"),
        Constraint::json_schema(&deep("{\"type\":\"array\",\"items\":", "{}", "}", 300)),
        Constraint::json_schema(&format!("{{\"allOf\":[{}]}}", product.join(","))),
        Constraint::json_schema(r#"{"type": "integer", "multipleOf": 1000003}"#),
        Constraint::json_schema(r#"{"type": "integer", "minimum": -1e300}"#),
    ];
    let cheap = |what: &str, run: &mut dyn FnMut()| {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        run();
        let taken = HEAP.peak_usage().saturating_sub(before);
        assert!(taken < MOST, "{what}: {taken} bytes");
    };
    for (case, constraint) in never_compile.into_iter().enumerate() {
        cheap(&format!("case {case}"), &mut || refused(tiny, constraint.clone(), &["cannot be used"]));
    }
    // Megabytes that leave no choice: each token is as cheap as if it had been one among others.
    for text in [
        "start: (A{100}){100}\nA: /a{5000}/",
        "start: \"b\" | (A{100}){100}\nA: /a{5000}/",
        "start: \"a\" start t | \"b\"\nt: (A{50}){3}\nA: /a{5000}/",
    ] {
        cheap(text, &mut || {
            let grammar = tiny.grammar(Constraint::lark(text));
            let (written, _) = tiny.run(vec![Request { max_tokens: 20, ..tiny.request(&grammar, 0) }], options());
            let text = tiny.text(&written[0].ids);
            assert!(text == "b" || text.len() == 20, "{text}");
        });
    }
    for constraint in [Constraint::regex("(a{1,1000}){1,1000}"), Constraint::lark("start: start start | \"a\" | \"b\"")]
    {
        let grammar = tiny.grammar(constraint);
        let (written, _) = tiny.run(vec![Request { max_tokens: 300, ..tiny.request(&grammar, 0) }], options());
        let text = tiny.text(&written[0].ids);
        assert!(text.bytes().all(|b| b == b'a' || b == b'b'), "{text}");
        assert!(
            written[0].end == Some(End::Failed) || text.len() == 300 || matches!(written[0].end, Some(End::Stop(_)))
        );
    }
    // Ten thousand strings are no trouble.
    let many: Vec<String> = (0..9000).map(|i| format!("n{i}")).collect();
    let text = tiny.whole(tiny.request(&tiny.grammar(Constraint::choice(&many)), 7));
    assert!(many.contains(&text), "{text}");
}

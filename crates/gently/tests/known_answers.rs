//! Published weights give the published answers. `scripts/fetch-assets.sh` fetches them; without them the tests say that
//! they are skipped.

use gently::prelude::*;
use gently_formats::gguf::TensorType;
use gently_infer::{Pooling, Work, unit_length};
use gently_models::WeightSource;
use gently_models::generate::Generator;
use gently_models::weights::Storage;
use std::path::{Path, PathBuf};

fn asset(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/assets").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there; scripts/fetch-assets.sh fetches it", path.display());
    None
}

#[test]
fn smollm2_answers_from_its_file() {
    let Some(path) = asset("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let folder = ModelFolder::open(&path).unwrap();
    let cfg = folder.model.config();
    assert_eq!((cfg.layers, cfg.width, cfg.heads, cfg.kv_heads(), cfg.mlp_width()), (30, 576, 9, 3, 1536));
    assert_eq!((cfg.vocab, cfg.context, cfg.rope_theta, cfg.tied_head), (49152, 8192, 1e5, true));
    assert_eq!(folder.model.num_params(), 134_515_008);

    // The template without its own system message, which the known answers are for.
    let prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    let ids = folder.tokenizer.encode_prompt(prompt).unwrap();
    assert_eq!(ids, [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]);

    let model = &folder.model;
    let logits = model.step(&model.ids(&ids, 1).unwrap(), &mut model.init_state(1)).unwrap().to_vec::<f32>().unwrap();
    let known = [(504, 27.859), (60, 26.13), (38634, 26.102), (15319, 25.962), (7026, 25.181)];
    for (id, value) in known {
        assert!((logits[id] - value).abs() <= 0.02, "token {id}: {}, known {value}", logits[id]);
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    assert_eq!(order[..5], known.map(|(id, _)| id));

    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let mut generator = Generator::new(model, &ids, greedy.clone(), ForwardCx::default()).unwrap();
    let written: Vec<u32> = (0..8).map(|_| generator.next_token().unwrap()).collect();
    assert_eq!(written, [504, 3575, 282, 4649, 314, 7042, 30, 2]);
    let options = WriteOptions { max_tokens: 30, sampling: greedy, answer: true, ..WriteOptions::default() };
    // The engine computes on the file's own blocks, with rows rounded to bytes.
    let speaking = TextModel::open(&path).unwrap();
    let text = Writer::of_tokens(&speaking, ids.clone(), &options).unwrap().collect_text().unwrap();
    assert_eq!(text, "The capital of France is Paris.");
    let plan = speaking.engine().plan();
    let quantized = plan.read(&mut Work::new(), &mut plan.state(), &ids).unwrap().to_vec();
    // Rounding rows to bytes moves logits; by how much hangs on the last bits of every sum before. A shift of all of them says
    // nothing, the rest is 0.12 to 0.14 with kernels that differ in such bits alone.
    let moved = quantized.iter().zip(&logits).map(|(a, b)| f64::from(a - b));
    let count = logits.len() as f64;
    let (sum, squares) = moved.fold((0.0, 0.0), |(sum, squares), d| (sum + d, squares + d * d));
    let error = (squares / count - (sum / count).powi(2)).sqrt();
    assert!(error < 0.2, "{error}");
    // The farthest of 49 thousand: some five times the spread.
    let worst = quantized.iter().zip(&logits).map(|(a, b)| (f64::from(a - b) - sum / count).abs()).fold(0.0, f64::max);
    assert!(worst < 0.8, "{worst}");

    // The template of the file puts its system message in front.
    let template = folder.chat_template().unwrap().unwrap();
    let rendered =
        template.render(&[Message::user("What is the capital of France?")], &ChatOptions::default()).unwrap();
    assert!(rendered.starts_with("<|im_start|>system\nYou are a helpful AI assistant named SmolLM"), "{rendered}");
    assert!(rendered.ends_with(prompt), "{rendered}");
}

#[test]
fn smollm2_is_held_to_a_schema() {
    let Some(path) = asset("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let model = TextModel::open(&path).unwrap();
    let schema = r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"], "additionalProperties": false}"#;
    let ask = |question: &str, constraint: Result<Constraint, _>, temperature: f32, seed: u64| {
        let template = model.chat_template().unwrap().unwrap();
        let prompt = model.encode_chat(template, &[Message::user(question)]).unwrap();
        let sampling = SamplingParams { temperature, seed, top_p: 0.9, ..SamplingParams::default() };
        let constraint = Some(constraint.unwrap());
        let options = WriteOptions { sampling, constraint, max_tokens: 120, answer: true, ..WriteOptions::default() };
        let mut writer = Writer::of_tokens(&model, prompt, &options).unwrap();
        let text: String = writer.by_ref().map(Result::unwrap).collect();
        (text, writer.end().unwrap())
    };
    for (temperature, seed) in [(0.0, 0), (0.8, 1), (0.8, 2)] {
        let question = "Ada Lovelace was 36 years old. Answer in JSON with her name and age.";
        let (text, end) = ask(question, Constraint::json_schema(schema), temperature, seed);
        assert_eq!(end, gently::write::End::Complete, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["name"].is_string() && value["age"].is_i64(), "{text}");
        assert_eq!(value.as_object().unwrap().len(), 2);
        if temperature == 0.0 {
            assert_eq!(text, r#"{"name": "Ada Lovelace", "age": 36}"#);
        }
    }
    let (text, _) = ask("Is the sky green? Answer yes or no.", Constraint::choice(["yes", "no"]), 1.0, 3);
    assert!(["yes", "no"].contains(&text.as_str()), "{text}");
    let (text, _) = ask("When was Ada Lovelace born?", Constraint::regex(r"1[0-9]{3}-[01][0-9]"), 1.0, 4);
    assert!(text.len() == 7 && text.starts_with('1') && text.as_bytes()[4] == b'-', "{text}");
}

#[test]
fn minilm_embeds_as_published() {
    let Some(path) = asset("minilm") else { return };
    let embedder = Embedder::open(&path).unwrap();
    let eating = "A man is eating food.";
    // WordPiece through tokenizer.json, whose own padding to 128 tokens is left out.
    let ids = embedder.tokenizer().encode_whole(eating).unwrap();
    assert_eq!(ids, [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]);
    assert_eq!(embedder.settings().pooling, [Pooling::Mean]);
    assert!(embedder.settings().normalize);
    // Without sentence_bert_config.json, which older copies of the files lack, it is the model's context.
    let most = if path.join("sentence_bert_config.json").exists() { 256 } else { 512 };
    assert_eq!((embedder.width(), embedder.max_tokens()), (384, most));

    let texts = [
        eating,
        "A man is eating a piece of bread.",
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ];
    let rows = embedder.embed(&texts).unwrap();
    let known = [0.03324157, 0.00440607, -0.00627695, 0.04837871, -0.13870225, -0.03361741];
    for (found, known) in rows.row(0).iter().zip(known) {
        assert!((found - known).abs() <= 1e-5, "{found}, known {known}");
    }
    for (a, b, known) in [(0, 1, 0.7553), (2, 3, 0.6660), (2, 4, 0.1046), (3, 4, 0.1411)] {
        let found = rows.cosine(a, b);
        assert!((found - known).abs() <= 0.002, "{:?} and {:?}: {found}, known {known}", texts[a], texts[b]);
    }
    // The model on the tape says the same of all 384 numbers.
    let folder = ModelFolder::open(&path).unwrap();
    let states = folder.model.features(&folder.model.ids(&ids, 1).unwrap(), None, &ForwardCx::default()).unwrap();
    let mut mean = vec![0.0; 384];
    Pooling::Mean.pool(&states.to_vec::<f32>().unwrap(), &mut mean);
    unit_length(&mut mean);
    let worst = rows.row(0).iter().zip(&mean).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 1e-6, "{worst}");
    // Alone, and beside a text that is cut.
    let long = "word ".repeat(1000);
    let beside = embedder.embed(&[long.as_str(), eating]).unwrap();
    assert_eq!(beside.row(1), rows.row(0));
    assert_eq!((beside.tokens(), beside.cut()), (&[most, 8][..], &[true, false][..]));
}

/// Bytes instead of floats: nearly the same vectors, and the same likeness.
#[test]
fn minilm_in_eight_bits_is_close() {
    let Some(path) = asset("minilm") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("minilm.gguf");
    let source = WeightSource::open(&path).unwrap();
    let text = gently::gguf::tokenizer_keys(&Tokenizer::load(&path).unwrap(), source.config().vocab, None).unwrap();
    assert!(text.lost.is_empty(), "{:?}", text.lost);
    source.write_gguf(&file, Storage::new(TensorType::Q8_0), &text.keys, |_, _| ()).unwrap();
    let (exact, eight) = (Embedder::open(&path).unwrap(), Embedder::open(&file).unwrap());
    assert!(eight.encoder().weight_types().contains_key("Q8_0"));
    let texts = ["A man is eating food.", "A man is eating a piece of bread.", "Ünïcödé — 你好, naïve café №5!"];
    let (a, b) = (exact.embed(&texts).unwrap(), eight.embed(&texts).unwrap());
    assert_eq!(a.tokens(), b.tokens());
    for (i, text) in texts.iter().enumerate() {
        let cosine: f32 = a.row(i).iter().zip(b.row(i)).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{text}: {cosine}");
        assert_eq!(eight.tokenizer().encode_whole(text).unwrap(), exact.tokenizer().encode_whole(text).unwrap());
    }
    assert!((b.cosine(0, 1) - 0.7553).abs() < 0.01, "{}", b.cosine(0, 1));
}

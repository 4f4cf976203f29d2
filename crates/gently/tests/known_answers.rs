//! Published weights give the published answers. `scripts/fetch-assets.sh` fetches them; without them the tests say that
//! they are skipped.

use gently::prelude::*;
use gently_infer::Work;
use gently_models::generate::Generator;
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
    let options = WriteOptions { max_tokens: 30, sampling: greedy, stop: Vec::new() };
    // The engine computes on the file's own blocks, with rows rounded to bytes.
    let speaking = TextModel::open(&path).unwrap();
    let text = Writer::after_template(&speaking, prompt, &options).unwrap().collect_text().unwrap();
    assert_eq!(text, "The capital of France is Paris.");
    let plan = speaking.engine().plan();
    let quantized = plan.read(&mut Work::new(), &mut plan.state(), &ids).unwrap().to_vec();
    let worst = quantized.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1.5, "{worst}");

    // The template of the file puts its system message in front.
    let template = folder.chat_template().unwrap().unwrap();
    let rendered =
        template.render(&[Message::user("What is the capital of France?")], &ChatOptions::default()).unwrap();
    assert!(rendered.starts_with("<|im_start|>system\nYou are a helpful AI assistant named SmolLM"), "{rendered}");
    assert!(rendered.ends_with(prompt), "{rendered}");
}

/// Mean of the last hidden states, of length one, as sentence-transformers has it for this model.
fn embed(folder: &ModelFolder, text: &str) -> (Vec<u32>, Vec<f32>) {
    let ids = folder.tokenizer.encode_whole(text).unwrap();
    let model = &folder.model;
    let states = model.features(&model.ids(&ids, 1).unwrap(), None, &ForwardCx::default()).unwrap();
    let (width, states) = (model.config().width, states.to_vec::<f32>().unwrap());
    let mut mean = vec![0.0f32; width];
    states.chunks(width).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / ids.len() as f32));
    let norm = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
    mean.iter_mut().for_each(|v| *v /= norm);
    (ids, mean)
}

#[test]
fn minilm_embeds_as_published() {
    let Some(path) = asset("minilm") else { return };
    let folder = ModelFolder::open(&path).unwrap();
    let (ids, eating) = embed(&folder, "A man is eating food.");
    assert_eq!(ids, [101, 1037, 2158, 2003, 5983, 2833, 1012, 102]);
    let known = [0.03324157, 0.00440607, -0.00627695, 0.04837871, -0.13870225, -0.03361741];
    for (found, known) in eating.iter().zip(known) {
        assert!((found - known).abs() <= 1e-5, "{found}, known {known}");
    }
    let cosine = |a: &str, b: &str| {
        let (a, b) = (embed(&folder, a).1, embed(&folder, b).1);
        a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>()
    };
    let (lovely, sunny, stadium) =
        ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.");
    let pairs = [
        ("A man is eating food.", "A man is eating a piece of bread.", 0.7553),
        (lovely, sunny, 0.6660),
        (lovely, stadium, 0.1046),
        (sunny, stadium, 0.1411),
    ];
    for (a, b, known) in pairs {
        let found = cosine(a, b);
        assert!((found - known).abs() <= 0.002, "{a:?} and {b:?}: {found}, known {known}");
    }
}

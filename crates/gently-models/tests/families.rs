//! Every family against Python transformers, from a Hugging Face folder and from a GGUF file with the same weights: the
//! fixtures in `golden/` (see `golden/make_families.py`).

use gently_formats::gguf::{Spec, TensorType, Value, Writer};
use gently_formats::safetensors::SafeTensors;
use gently_models::families::{Entry, FAMILIES, Layout};
use gently_models::{Decoder, Error, ForwardCx, WeightSource, pretrained};
use gently_tensor::{Device, Tensor};
use std::path::PathBuf;

const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn relative(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    ours.iter().zip(theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

fn answer(model: &Decoder, ids: &Tensor) -> Tensor {
    let cx = ForwardCx::default();
    // An encoder has no head of ours: its answer is the last hidden state.
    let answer = if model.config().bidirectional { model.features(ids, None, &cx) } else { model.logits(ids, &cx) };
    answer.unwrap()
}

fn check(name: &str, layout: Layout) {
    let dir = folder(name);
    let expected = SafeTensors::open(dir.join("expected.safetensors"), &Default::default()).unwrap();
    let ids: Vec<u32> = expected.to_vec::<i32>("ids").unwrap().into_iter().map(|v| v as u32).collect();
    let logits = expected.to_f32("logits").unwrap();

    let source = WeightSource::open(&dir).unwrap();
    assert_eq!(source.layout(), layout, "{name}");
    let model = source.decoder(&Device::Cpu).unwrap();
    let ids = model.ids(&ids, 2).unwrap();
    let off = relative(&answer(&model, &ids).to_vec::<f32>().unwrap(), &logits);
    assert!(off <= TOLERANCE, "{name}, folder: {off:e}");

    // Step by step with a state: windows, positions and norms in the state's path too.
    if !model.config().bidirectional {
        let mut state = model.init_state(2);
        let cx = ForwardCx::default();
        let whole = answer(&model, &ids);
        let (v, t) = (model.config().vocab, ids.dims()[1]);
        for i in 0..t {
            let step = model.extend(&ids.narrow(1, i, 1).unwrap(), &mut state, &cx).unwrap().reshape([2, v]).unwrap();
            let at = whole.narrow(1, i, 1).unwrap().reshape([2, v]).unwrap();
            let off = relative(&step.to_vec::<f32>().unwrap(), &at.to_vec::<f32>().unwrap());
            assert!(off <= TOLERANCE, "{name}, step {i}: {off:e}");
        }
    }

    let file = WeightSource::open(dir.join("model.gguf")).unwrap();
    let from_file = file.decoder(&Device::Cpu).unwrap();
    let off = relative(&answer(&from_file, &ids).to_vec::<f32>().unwrap(), &logits);
    // The window of Mistral is lost in its GGUF architecture, as every writer has it.
    assert!(layout == Layout::Mistral || off <= TOLERANCE, "{name}, GGUF: {off:e}");
    // The same parameters, bit for bit.
    for (a, b) in model.params().iter().zip(from_file.params()) {
        assert_eq!(a.name, b.name);
        let (a, b) = (a.tensor.to_vec::<f32>().unwrap(), b.tensor.to_vec::<f32>().unwrap());
        assert!(a == b, "{name}: a parameter differs");
    }

    // Out again and back: the same layout, and the same numbers.
    let out = tempfile::tempdir().unwrap();
    model.save_pretrained(out.path()).unwrap();
    let again = Decoder::load_pretrained(out.path(), &Device::Cpu).unwrap();
    let exact = model.config().rope_factors.is_none();
    let (found, _) = pretrained::read_config(out.path()).unwrap();
    assert_eq!(found, if exact { layout } else { Layout::Native }, "{name}");
    let off = relative(&answer(&again, &ids).to_vec::<f32>().unwrap(), &logits);
    assert!(off <= TOLERANCE, "{name}, written and read: {off:e}");
}

macro_rules! families {
    ($($test:ident $folder:literal $layout:ident;)*) => { $(
        #[test]
        fn $test() {
            check($folder, Layout::$layout);
        }
    )* };
}

families! {
    gpt2 "gpt2-gguf" Gpt2;
    llama_stretched "llama3-scaled" Llama;
    mistral "mistral" Mistral;
    qwen2 "qwen2" Qwen2;
    qwen3 "qwen3" Qwen3;
    gemma "gemma" Gemma;
    gemma2 "gemma2" Gemma2;
    gemma3 "gemma3" Gemma3;
    phi3 "phi3" Phi3;
    olmo2 "olmo2" Olmo2;
    gpt_neox "gpt-neox" NeoX;
    gpt_neox_serial "gpt-neox-serial" NeoX;
    bert "bert" Bert;
}

#[test]
fn the_registry_has_each_name_once() {
    for (i, a) in FAMILIES.iter().enumerate() {
        for name in a.model_types {
            assert_eq!(Entry::of_model_type(name).unwrap().layout, a.layout);
        }
        for name in a.architectures {
            assert_eq!(Entry::of_architecture(name).unwrap().layout, a.layout);
        }
        assert!(FAMILIES[i + 1..].iter().all(|b| a.layout != b.layout));
    }
}

/// What a test changes of a file's keys and tensors before it is written.
type Change<'a> = &'a dyn Fn(&mut Vec<(String, Value)>, &mut Vec<Spec>);

/// A GGUF file of the smallest Llama, with one thing changed.
fn tiny(change: impl Fn(&mut Vec<(String, Value)>, &mut Vec<Spec>)) -> Result<WeightSource, Error> {
    let key = |k: &str, v: Value| (k.to_owned(), v);
    let mut keys = vec![
        key("general.architecture", Value::Text("llama".into())),
        key("llama.context_length", Value::U32(8)),
        key("llama.embedding_length", Value::U64(4)),
        key("llama.block_count", Value::U16(1)),
        key("llama.feed_forward_length", Value::U32(4)),
        key("llama.attention.head_count", Value::U32(2)),
        key("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let spec = |name: &str, shape: &[usize]| Spec { name: name.into(), kind: TensorType::F32, shape: shape.into() };
    let mut specs = vec![spec("token_embd.weight", &[6, 4]), spec("output_norm.weight", &[4])];
    for name in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        specs.push(spec(&format!("blk.0.{name}.weight"), &[4, 4]));
    }
    for name in ["attn_norm", "ffn_norm"] {
        specs.push(spec(&format!("blk.0.{name}.weight"), &[4]));
    }
    change(&mut keys, &mut specs);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let mut writer = Writer::create(&path, &keys, &specs).unwrap();
    for spec in &specs {
        let bytes = spec.kind.row_bytes(1).unwrap_or(4) * spec.shape.iter().product::<usize>();
        writer.write(&vec![0; bytes]).unwrap();
    }
    writer.finish().unwrap();
    WeightSource::open(&path)
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    tiny(|_, _| ()).unwrap();
    fn set(keys: &mut [(String, Value)], name: &str, value: Value) {
        keys.iter_mut().find(|(k, _)| k == name).unwrap().1 = value;
    }
    let refused = |part: &str, change: Change<'_>| {
        let e = tiny(change).map(drop).unwrap_err().to_string();
        assert!(e.contains(part) && e.contains("tiny.gguf"), "{part}: {e}");
    };
    refused("mamba", &|k, _| set(k, "general.architecture", Value::Text("mamba".into())));
    refused("general.architecture", &|k, _| set(k, "general.architecture", Value::U32(3)));
    refused("general.architecture", &|k, _| drop(k.remove(0)));
    refused("llama.block_count", &|k, _| set(k, "llama.block_count", Value::I32(-1)));
    refused("layers", &|k, _| set(k, "llama.block_count", Value::U32(1 << 20)));
    refused("llama.attention.head_count", &|k, _| set(k, "llama.attention.head_count", Value::Text("2".into())));
    refused("has shape", &|k, _| set(k, "llama.embedding_length", Value::U64(1 << 14)));
    refused("ffn_gate.weight has shape", &|k, _| set(k, "llama.feed_forward_length", Value::U32(1 << 27)));
    refused("rope.scaling.type", &|k, _| k.push(("llama.rope.scaling.type".into(), Value::Text("yarn".into()))));
    refused("blk.0.attn_v.weight is missing", &|_, s| s.retain(|s| s.name != "blk.0.attn_v.weight"));
    refused("blk.1.attn_v.weight has no place", &|_, s| {
        s.push(Spec { name: "blk.1.attn_v.weight".into(), kind: TensorType::F32, shape: vec![4, 4] });
    });
    refused("token_embd.weight", &|_, s| s[0].shape = vec![6]);
    refused("I32, which is not read as numbers", &|_, s| s[1].kind = TensorType::I32);
    // Sizes that contradict each other, without the file's name: they are the configuration's.
    let heads = tiny(|k, _| set(k, "llama.attention.head_count", Value::U32(0))).map(drop).unwrap_err();
    assert!(heads.to_string().contains("model.heads"), "{heads}");
    let wide = tiny(|k, _| set(k, "llama.attention.head_count", Value::U32(3))).map(drop).unwrap_err();
    assert!(wide.to_string().contains("model.heads"), "{wide}");
}

//! Every family against Python transformers, from a Hugging Face folder and from a GGUF file with the same weights: the
//! fixtures in `golden/` (see `golden/make_families.py`).

use gently_formats::gguf::{Spec, TensorType, Value, Writer};
use gently_formats::safetensors::SafeTensors;
use gently_models::families::{Entry, FAMILIES, Layout};
use gently_models::weights::Storage;
use gently_models::{Decoder, DecoderConfig, Error, ForwardCx, WeightSource, pretrained};
use gently_tensor::{Device, Tensor};
use std::path::{Path, PathBuf};

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
    // llama.cpp's converter, which the fixture follows, loses the window of Mistral.
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
    assert_eq!(pretrained::read_config(out.path()).unwrap().0, layout, "{name}");
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
    qwen2_yarn "qwen2-yarn" Qwen2;
    qwen3 "qwen3" Qwen3;
    gemma "gemma" Gemma;
    gemma2 "gemma2" Gemma2;
    gemma3 "gemma3" Gemma3;
    phi3 "phi3" Phi3;
    phi3_long "phi3-long" Phi3;
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

const FLOATS: Storage = Storage { matrices: TensorType::F32, tables: TensorType::F32 };

fn write(source: &WeightSource, path: &Path) -> Result<(), Error> {
    source.write_gguf(path, FLOATS, &[], |_, _| ())
}

#[test]
fn what_is_written_as_gguf_is_read_as_the_same_model() {
    let out = tempfile::tempdir().unwrap();
    let names = ["llama3-scaled", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "olmo2"];
    let others = ["gpt2-gguf", "gpt-neox", "gpt-neox-serial", "bert", "qwen2-yarn", "phi3-long"];
    for name in names.into_iter().chain(others) {
        let source = WeightSource::open(folder(name)).unwrap();
        let path = out.path().join(format!("{name}.gguf"));
        write(&source, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let model = source.decoder(&Device::Cpu).unwrap();
        let file = WeightSource::open(&path).unwrap();
        // Mistral's is a Llama with a window there.
        assert_eq!(Some(file.layout()), source.layout().gguf_entry().map(|e| e.layout), "{name}");
        let again = file.decoder(&Device::Cpu).unwrap();
        let ids: Vec<u32> = (1..=16).collect();
        let ids = model.ids(&ids, 1).unwrap();
        let [a, b] = [&model, &again].map(|m| answer(m, &ids).to_vec::<f32>().unwrap());
        let off = relative(&b, &a);
        assert!(off <= TOLERANCE, "{name}: {off:e}");
        assert_eq!(model.config().window, again.config().window, "{name}");
    }
}

#[test]
fn what_gguf_cannot_say_is_refused_and_named() {
    type Case<'a> = (&'a str, &'a str, serde_json::Value, &'a str);
    let cases: [Case; 5] = [
        ("gpt-neox", "hidden_act", "gelu_fast".into(), "mlp = \"gelu\""),
        ("gpt2-gguf", "activation_function", "relu".into(), "mlp = \"relu\""),
        ("bert", "hidden_act", "relu".into(), "mlp = \"relu\""),
        // What it can say is written.
        ("gpt2-gguf", "n_head", 2.into(), ""),
        ("bert", "hidden_act", "gelu".into(), ""),
    ];
    for (name, key, value, said) in cases {
        let dir = edited(name, &[(key, value)]);
        let out = dir.path().join("out.gguf");
        let written = write(&WeightSource::open(dir.path()).unwrap(), &out);
        assert_eq!(out.exists(), said.is_empty(), "{name}: {key}");
        match written {
            Ok(()) => assert!(said.is_empty(), "{name}: {said}"),
            Err(e) => assert!(e.to_string().contains(said) && e.hint().is_some(), "{name}: {e}"),
        }
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
        let e = tiny(change).map(drop).unwrap_err();
        assert!(e.hint().is_some(), "{part}: {e}");
        let e = e.to_string();
        assert!(e.contains(part) && e.contains("tiny.gguf"), "{part}: {e}");
    };
    refused("mamba", &|k, _| set(k, "general.architecture", Value::Text("mamba".into())));
    refused("general.architecture", &|k, _| set(k, "general.architecture", Value::U32(3)));
    refused("general.architecture", &|k, _| drop(k.remove(0)));
    refused("llama.block_count", &|k, _| set(k, "llama.block_count", Value::I32(-1)));
    refused("between 1 and 16384", &|k, _| set(k, "llama.block_count", Value::U32(1 << 20)));
    refused("layers, but the files hold", &|k, _| set(k, "llama.block_count", Value::U32(1 << 14)));
    refused("llama.attention.head_count", &|k, _| set(k, "llama.attention.head_count", Value::Text("2".into())));
    refused("llama.rope.dimension_count", &|k, _| k.push(("llama.rope.dimension_count".into(), Value::U32(1))));
    refused("has shape", &|k, _| set(k, "llama.embedding_length", Value::U64(1 << 14)));
    refused("ffn_gate.weight has shape", &|k, _| set(k, "llama.feed_forward_length", Value::U32(1 << 27)));
    refused("rope.scaling.type", &|k, _| k.push(("llama.rope.scaling.type".into(), Value::Text("dynamic".into()))));
    refused("blk.0.attn_v.weight is missing", &|_, s| s.retain(|s| s.name != "blk.0.attn_v.weight"));
    refused("blk.1.attn_v.weight has no place", &|_, s| {
        s.push(Spec { name: "blk.1.attn_v.weight".into(), kind: TensorType::F32, shape: vec![4, 4] });
    });
    refused("token_embd.weight", &|_, s| s[0].shape = vec![6]);
    refused("I32, which is not read as numbers", &|_, s| s[1].kind = TensorType::I32);
    // Sizes that contradict each other.
    refused("llama.attention.head_count\": 0 must be", &|k, _| set(k, "llama.attention.head_count", Value::U32(0)));
    refused("llama.attention.head_count\": 3 must", &|k, _| set(k, "llama.attention.head_count", Value::U32(3)));
}

/// The keys of another architecture.
fn rename(keys: &mut [(String, Value)], architecture: &str) {
    for (key, value) in keys {
        match key.strip_prefix("llama.") {
            Some(rest) => *key = format!("{architecture}.{rest}"),
            None => *value = Value::Text(architecture.into()),
        }
    }
}

/// The configuration of the smallest file of an architecture with these keys more, and these norms.
fn with(architecture: &str, more: &[(&str, Value)], norms: &[&str]) -> Result<DecoderConfig, Error> {
    let source = tiny(|keys, specs| {
        keys.extend(more.iter().map(|(key, value)| (format!("llama.{key}"), value.clone())));
        rename(keys, architecture);
        let name = |norm: &&str| format!("blk.0.{norm}.weight");
        specs.extend(norms.iter().map(|n| Spec { name: name(n), kind: TensorType::F32, shape: vec![4] }));
    });
    Ok(source?.config().clone())
}

#[test]
fn a_window_is_kept_or_refused() {
    let window = |architecture, n| with(architecture, &[("attention.sliding_window", Value::U32(n))], &[]);
    assert_eq!(window("llama", 4).unwrap().window, Some(4));
    assert_eq!(window("llama", 0).unwrap().window, None);
    for architecture in ["gemma", "olmo2", "qwen2", "qwen3", "gptneox", "gpt2", "bert"] {
        let e = window(architecture, 4).unwrap_err().to_string();
        assert!(e.contains(&format!("{architecture}.attention.sliding_window")) && e.contains("tiny.gguf"), "{e}");
    }
    // As long as the context, it leaves nothing out.
    assert_eq!(window("gemma", 8).unwrap().window, None);
    assert_eq!(window("gemma", 0).unwrap().window, None);
}

#[test]
fn soft_caps_are_gemmas_alone() {
    let families = ["llama", "gemma", "gemma3", "phi3", "olmo2", "qwen2", "qwen3", "gptneox", "gpt2", "bert"];
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        for architecture in families.into_iter().filter(|a| *a != "gemma3" || key == "attn_logit_softcapping") {
            let e = with(architecture, &[(key, Value::F32(30.0))], &[]).unwrap_err().to_string();
            assert!(e.contains(&format!("{architecture}.{key}")) && e.contains("tiny.gguf"), "{e}");
        }
        let none = with("llama", &[(key, Value::F32(0.0))], &[]).unwrap();
        assert_eq!((none.attention_softcap, none.logit_softcap), (None, None));
    }
}

/// What llama.cpp passes over, or does otherwise.
#[test]
fn scales_and_masks_of_other_models_are_refused() {
    let families = ["llama", "gemma", "phi3", "olmo2", "qwen2", "qwen3", "gptneox", "gpt2"];
    let refused = |architecture: &str, key: &str, value: Value| {
        let e = with(architecture, &[(key, value)], &[]).unwrap_err().to_string();
        assert!(e.contains(&format!("{architecture}.{key}")) && e.contains("tiny.gguf"), "{e}");
    };
    for architecture in families {
        refused(architecture, "attention.scale", Value::F32(0.123));
        refused(architecture, "attention.causal", Value::Bool(false));
    }
    refused("bert", "attention.causal", Value::Bool(true));
    let natural = with("llama", &[], &[]).unwrap().attention_scale();
    for said in [0.0, natural as f32] {
        let more = [("attention.scale", Value::F32(said)), ("attention.causal", Value::Bool(true))];
        assert_eq!(with("llama", &more, &[]).unwrap().attention_scale(), natural);
    }
}

#[test]
fn a_gemma2_file_without_its_keys_has_the_published_sizes() {
    let gemma2 = |more: &[(&str, Value)]| {
        let cfg = with("gemma2", more, &["post_attention_norm", "post_ffw_norm"]).unwrap();
        (cfg.attention_softcap, cfg.logit_softcap, cfg.window, cfg.window_skip)
    };
    assert_eq!(gemma2(&[]), (Some(50.0), Some(30.0), Some(4096), Some(2)));
    let none = [
        ("attn_logit_softcapping", Value::F32(0.0)),
        ("final_logit_softcapping", Value::F32(0.0)),
        ("attention.sliding_window", Value::U32(0)),
        ("attention.sliding_window_pattern", Value::U32(3)),
    ];
    assert_eq!(gemma2(&none), (None, None, None, Some(3)));
    assert_eq!(gemma2(&none[2..]), (Some(50.0), Some(30.0), None, Some(3)));
    assert_eq!(gemma2(&[("attention.sliding_window_pattern", Value::U32(0))]).3, None);
}

#[test]
fn stretched_positions_are_read_whole_or_refused() {
    let number = Value::F32;
    let text = |t: &str| Value::Text(t.into());
    let factors = |more: &[(&str, Value)]| with("llama", more, &[]).unwrap().rope_factors;
    // llama.cpp takes a factor without a type as linear.
    assert_eq!(factors(&[("rope.scaling.factor", number(4.0))]), Some(vec![4.0]));
    assert_eq!(factors(&[("rope.scale_linear", number(4.0))]), Some(vec![4.0]));
    for off in [number(0.0), number(1.0)] {
        assert_eq!(factors(&[("rope.scaling.factor", off.clone())]), None);
        assert_eq!(factors(&[("rope.scaling.type", text("linear")), ("rope.scaling.factor", off)]), None);
    }
    assert_eq!(factors(&[("rope.scaling.factor", number(4.0)), ("rope.scaling.type", text("none"))]), None);
    assert_eq!(factors(&[("rope.scaling.attn_factor", number(1.0))]), None);
    let freqs = |keys: &mut Vec<(String, Value)>, specs: &mut Vec<Spec>, more: &[(&str, Value)]| {
        specs.push(Spec { name: "rope_freqs.weight".into(), kind: TensorType::F32, shape: vec![1] });
        keys.extend(more.iter().map(|(key, value)| (format!("llama.{key}"), value.clone())));
    };
    let refused = |said: &str, more: &[(&str, Value)]| {
        let e = tiny(|k, s| freqs(k, s, more)).map(drop).unwrap_err().to_string();
        assert!(e.contains(said), "{said}: {e}");
    };
    refused("rope.scaling.factor", &[("rope.scaling.type", text("yarn")), ("rope.scaling.factor", number(4.0))]);
    refused("rope.scaling.factor", &[("rope.scaling.type", text("linear")), ("rope.scaling.factor", number(4.0))]);
    refused("rope.scaling.factor", &[("rope.scaling.factor", number(4.0))]);
    // Alone the tensor is read; the smallest file's is zero, which is no divisor.
    refused("rope_factors = 0 must", &[("rope.scaling.type", text("linear")), ("rope.scaling.factor", number(1.0))]);

    let scale = |more: &[(&str, Value)]| with("llama", more, &[]).unwrap().rope_scale;
    assert_eq!(scale(&[("rope.scaling.attn_factor", number(1.5))]), Some(1.5));
    assert_eq!(scale(&[("rope.scaling.attn_factor", number(1.0))]), None);
    let yarn = |more: &[(&'static str, Value)]| {
        [&[("rope.scaling.type", text("yarn")), ("rope.scaling.factor", number(4.0))][..], more].concat()
    };
    let usual = 1.0 + 0.1 * 4f64.ln();
    assert_eq!(scale(&yarn(&[])), Some(usual));
    assert_eq!(scale(&yarn(&[("rope.scaling.attn_factor", number(0.5))])), Some(0.5 * usual));
    assert_eq!(scale(&yarn(&[("rope.scaling.yarn_attn_factor", number(usual as f32))])), Some(usual));
    let refused = |architecture: &str, said: &str, more: &[(&str, Value)]| {
        let e = with(architecture, more, &["post_attention_norm", "post_ffw_norm"]).unwrap_err().to_string();
        assert!(e.contains(&format!("{architecture}.{said}")), "{said}: {e}");
    };
    // llama.cpp takes no notice of these, and the model would be another with them.
    for key in ["rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier"] {
        refused("llama", key, &yarn(&[(key, number(0.25))]));
    }
    refused("llama", "rope.scaling.factor", &[("rope.scaling.type", text("yarn"))]);
    refused("llama", "rope.scaling.type", &[("rope.scaling.type", text("longrope"))]);
    // It would be that of the layers with a window too.
    refused("gemma3", "rope.scaling.attn_factor", &[("rope.scaling.attn_factor", number(1.5))]);
    let long = |_: &mut Vec<(String, Value)>, specs: &mut Vec<Spec>| {
        specs.push(Spec { name: "rope_factors_long.weight".into(), kind: TensorType::F32, shape: vec![1] });
    };
    let e = tiny(long).map(drop).unwrap_err().to_string();
    assert!(e.contains("without rope_factors_short.weight"), "{e}");
}

/// The folder of a fixture with other keys in its configuration.
fn edited(name: &str, keys: &[(&str, serde_json::Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    keys.iter().for_each(|(key, value)| json[*key] = value.clone());
    std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    dir
}

#[test]
fn stretched_positions_are_written_as_llama_cpp_reads_them() {
    use serde_json::json;
    let linear = json!({ "rope_type": "linear", "factor": 8.0, "rope_theta": 1e4 });
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "rope_theta": 100.0, "original_max_position_embeddings": 64,
                       "attention_factor": 1.5 });
    let llama3 = json!({ "rope_type": "llama3", "factor": 4.0, "rope_theta": 100.0, "partial_rotary_factor": 1.0,
                         "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let local = json!({ "rope_type": "default", "rope_theta": 1e4 });
    let gemma3 = json!({ "full_attention": linear, "sliding_attention": local });
    let (none, freqs): (&[&str], &[&str]) = (&[], &["rope_freqs.weight"]);
    let long: &[&str] = &["rope_factors_long.weight", "rope_factors_short.weight"];
    // The fixture, its positions, the type that the file says, its tensors of divisors, and whether llama.cpp refuses these.
    let cases = [
        ("llama3-scaled", &linear, Some("linear"), none, false),
        ("qwen2", &linear, Some("linear"), none, false),
        ("qwen3", &linear, Some("linear"), none, false),
        ("gemma2", &linear, Some("linear"), none, false),
        ("gemma3", &gemma3, Some("linear"), none, false),
        ("olmo2", &linear, Some("linear"), none, false),
        ("gpt-neox", &linear, Some("linear"), none, false),
        ("qwen3", &yarn, Some("yarn"), none, false),
        ("llama3-scaled", &llama3, None, freqs, false),
        ("gpt-neox", &llama3, None, freqs, true),
        ("phi3-long", &serde_json::Value::Null, Some("longrope"), long, false),
    ];
    for (name, rope, kind, tensors, ours_alone) in cases {
        let keys = [("rope_parameters", rope.clone())];
        let dir = edited(name, if rope.is_null() { &[] } else { &keys });
        let source = WeightSource::open(dir.path()).unwrap();
        assert!(source.config().rope_factors.as_ref().is_some_and(|f| f.iter().any(|f| *f != 1.0)), "{name}");
        assert_eq!(source.gguf_is_ours_alone(), ours_alone, "{name}");
        let path = dir.path().join("out.gguf");
        write(&source, &path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = WeightSource::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let gguf = file.gguf().unwrap();
        let key = format!("{}.rope.scaling.type", gguf.metadata().text("general.architecture").unwrap());
        assert_eq!(gguf.metadata().text_if(&key).unwrap(), kind, "{name}");
        let mut found: Vec<_> = gguf.tensors().keys().filter(|name| name.starts_with("rope_")).collect();
        found.sort();
        assert_eq!(found, tensors, "{name}");
        let ids: Vec<u32> = (1..=16).collect();
        let of = |source: &WeightSource| {
            let model = source.decoder(&Device::Cpu).unwrap();
            answer(&model, &model.ids(&ids, 1).unwrap()).to_vec::<f32>().unwrap()
        };
        let off = relative(&of(&file), &of(&source));
        assert!(off <= TOLERANCE, "{name}: {off:e}");
        // From the file to a folder of the family.
        let out = tempfile::tempdir().unwrap();
        file.decoder(&Device::Cpu).unwrap().save_pretrained(out.path()).unwrap();
        assert_eq!(pretrained::read_config(out.path()).unwrap().0, source.layout(), "{name}");
    }
}

#[test]
fn yarn_without_a_factor_goes_to_gguf_and_back() {
    use serde_json::json;
    for factor in [2.0, 4.0, 8.0, 16.0, 32.0, 40.0] {
        let yarn = json!({ "rope_type": "yarn", "factor": factor, "rope_theta": 100.0,
                           "original_max_position_embeddings": 64, "attention_factor": 1.0 });
        let dir = edited("qwen3", &[("rope_parameters", yarn)]);
        let source = WeightSource::open(dir.path()).unwrap();
        let path = dir.path().join("out.gguf");
        write(&source, &path).unwrap_or_else(|e| panic!("{factor}: {e}"));
        let file = WeightSource::open(&path).unwrap();
        assert_eq!((source.config().rope_scale, file.config().rope_scale), (None, None), "{factor}");
        assert_eq!(file.config().rope_factors, source.config().rope_factors, "{factor}");
    }
}

#[test]
fn a_soft_cap_of_gemma3s_logits_goes_to_gguf_and_back() {
    let dir = edited("gemma3", &[("final_logit_softcapping", serde_json::json!(30.0))]);
    let source = WeightSource::open(dir.path()).unwrap();
    let path = dir.path().join("out.gguf");
    write(&source, &path).unwrap();
    let file = WeightSource::open(&path).unwrap();
    assert_eq!((source.config().logit_softcap, file.config().logit_softcap), (Some(30.0), Some(30.0)));
}

#[test]
fn what_llama_cpp_computes_otherwise_is_known() {
    use serde_json::{Value, json};
    let ignored = |name: &str, key: &str, value: Value| {
        let dir = edited(name, &[(key, value)]);
        WeightSource::open(dir.path()).unwrap().gguf_ignored().join(", ")
    };
    assert_eq!(ignored("mistral", "sliding_window", json!(3)), "the window of 3 tokens");
    assert_eq!(ignored("mistral", "sliding_window", Value::Null), "");
    assert_eq!(ignored("phi3", "sliding_window", json!(3)), "the window of 3 tokens");
    assert_eq!(ignored("gemma3", "query_pre_attn_scalar", json!(4)), "the factor 0.5 of the scores");
    assert!(ignored("gemma2", "attn_logit_softcapping", Value::Null).contains("the absence of a soft cap"));

    // Gemma 3 has no form for a factor of the turned channels.
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64,
                       "attention_factor": 0.7 });
    let local = json!({ "rope_type": "default", "rope_theta": 1e4 });
    let both = json!({ "full_attention": yarn, "sliding_attention": local });
    let dir = edited("gemma3", &[("rope_parameters", both)]);
    let error = write(&WeightSource::open(dir.path()).unwrap(), &dir.path().join("out.gguf")).unwrap_err();
    assert!(matches!(&error, Error::NoGgufForm { key, .. } if key == "rope_scale"), "{error}");
}

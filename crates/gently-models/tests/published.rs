//! Model folders as other people write them: keys that are left out, old names of tensors, models without or with other heads. The
//! folders are the fixtures in `golden/`, changed.

use gently_formats::gguf::TensorType;
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_models::families::Layout;
use gently_models::weights::Storage;
use gently_models::{Decoder, DecoderConfig, Error, WeightSource, pretrained};
use gently_tensor::Device;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Keys = Map<String, Value>;
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn read_json(dir: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
}

/// A fixture with other keys in its `config.json`.
fn edited(name: &str, edit: impl FnOnce(&mut Keys)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut json = read_json(&folder(name));
    edit(json.as_object_mut().unwrap());
    std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    dir
}

fn config(name: &str, edit: impl FnOnce(&mut Keys)) -> Result<DecoderConfig, Error> {
    Ok(pretrained::read_config(edited(name, edit).path())?.1)
}

/// The configuration with these keys set.
fn with(name: &str, keys: &[(&str, Value)]) -> Result<DecoderConfig, Error> {
    config(name, |json| json.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))))
}

fn without(name: &str, keys: &[&str]) -> DecoderConfig {
    let removed = config(name, |json| keys.iter().for_each(|key| drop(json.remove(*key))));
    removed.unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn refused(result: Result<DecoderConfig, Error>, said: &str) {
    let e = result.map(drop).unwrap_err();
    assert!(e.to_string().contains(said) && e.hint().is_some(), "{said}: {e}");
}

/// A tensor's name, type, shape and numbers.
type Tensor<'a> = (&'a str, Dtype, Vec<usize>, Vec<u8>);

/// Writes the folder's tensors anew: those that keep a name, and `more`.
fn rename(dir: &Path, name: impl Fn(&str) -> Option<String>, more: &[Tensor<'_>]) {
    let path = dir.join("model.safetensors");
    let file = SafeTensors::open(&path, &Default::default()).unwrap();
    let kept: Vec<(String, &String)> = file.tensors().keys().filter_map(|old| Some((name(old)?, old))).collect();
    let mut tensors: Vec<Tensor<'_>> = more.to_vec();
    for (new, old) in &kept {
        let entry = file.entry(old).unwrap();
        tensors.push((new.as_str(), entry.dtype, entry.shape.clone(), file.bytes(old).unwrap().to_vec()));
    }
    let specs: Vec<Spec> = tensors
        .iter()
        .map(|(name, dtype, shape, _)| Spec { name: (*name).to_owned(), dtype: *dtype, shape: shape.clone() })
        .collect();
    let mut writer = Writer::create(&path, &specs, &Default::default()).unwrap();
    tensors.iter().for_each(|(.., bytes)| writer.write(bytes).unwrap());
    writer.finish().unwrap();
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Both have the same parameters, bit for bit.
fn assert_same(a: &WeightSource, b: &WeightSource) {
    assert!(a.params().eq(b.params()));
    for (name, _) in a.params() {
        assert_eq!(a.to_f32(name).unwrap(), b.to_f32(name).unwrap(), "{name}");
    }
}

#[test]
fn keys_left_out_say_what_transformers_takes() {
    let caps = ["attn_logit_softcapping", "final_logit_softcapping", "sliding_window"];
    let gemma2 = without("gemma2", &caps);
    assert_eq!((gemma2.attention_softcap, gemma2.logit_softcap, gemma2.window), (Some(50.0), Some(30.0), Some(4096)));
    // Null is said, and says none.
    let none = with("gemma2", &caps.map(|key| (key, Value::Null))).unwrap();
    assert_eq!((none.attention_softcap, none.logit_softcap, none.window), (None, None, None));
    assert_eq!(without("gemma3", &["sliding_window"]).window, Some(4096));
    assert_eq!(without("gemma3", &["final_logit_softcapping"]).logit_softcap, None);
    for name in ["gemma2", "gemma3"] {
        let e = with(name, &[("final_logit_softcapping", json!(0.0))]).unwrap_err();
        assert!(e.to_string().contains("final_logit_softcapping = 0"), "{name}: {e}");
    }
    assert_eq!(without("mistral", &["sliding_window"]).window, Some(4096));
    assert_eq!(with("mistral", &[("sliding_window", Value::Null)]).unwrap().window, None);
    assert_eq!(without("phi3", &["sliding_window"]).window, None);

    for (name, eps) in [("llama3-scaled", 1e-6), ("qwen2", 1e-6), ("gemma", 1e-6), ("olmo2", 1e-5), ("phi3", 1e-5)] {
        assert_eq!(without(name, &["rms_norm_eps"]).norm_eps, eps, "{name}");
    }
    let contexts = [
        ("llama3-scaled", 2048),
        ("mistral", 131_072),
        ("qwen2", 32_768),
        ("qwen3", 32_768),
        ("gemma", 8192),
        ("gemma2", 8192),
        ("gemma3", 131_072),
        ("phi3", 4096),
        ("olmo2", 2048),
        ("gpt-neox", 2048),
        ("gpt2-gguf", 1024),
        ("bert", 512),
    ];
    for (name, context) in contexts {
        let keys = ["max_position_embeddings", "n_positions", "n_ctx"];
        assert_eq!(without(name, &keys).context, context, "{name}");
    }
    for (name, heads) in [("mistral", 8), ("qwen2", 32), ("qwen3", 32), ("gemma", 16), ("gemma2", 4), ("gemma3", 4)] {
        let cfg = |null: bool| {
            let edit = |json: &mut Keys| {
                json.insert("num_attention_heads".into(), json!(64));
                json.insert("head_dim".into(), json!(8));
                match null {
                    true => json.insert("num_key_value_heads".into(), Value::Null),
                    false => json.remove("num_key_value_heads"),
                };
            };
            config(name, edit).unwrap()
        };
        assert_eq!((cfg(false).kv_heads(), cfg(true).kv_heads()), (heads, 64), "{name}");
    }
    assert_eq!(without("qwen3", &["head_dim"]).head_width(), 128);
    assert_eq!(without("gemma", &["head_dim"]).head_width(), 256);
    let tied = |name: &str| without(name, &["tie_word_embeddings"]).tied_head;
    assert_eq!(["gemma3", "gpt2-gguf", "qwen2", "gpt-neox"].map(tied), [true, true, false, false]);
}

#[test]
fn the_scale_of_scores_stays_a_whole_number() {
    for (name, layout) in [("gemma2", Layout::Gemma2), ("gemma3", Layout::Gemma3)] {
        let dir = edited(name, |json| {
            json.insert("query_pre_attn_scalar".into(), json!(7));
            if name == "gemma3" {
                json.remove("rope_parameters");
            }
        });
        let gguf = dir.path().join("model.gguf");
        let floats = Storage { matrices: TensorType::F32, tables: TensorType::F32 };
        WeightSource::open(dir.path()).unwrap().write_gguf(&gguf, floats, &[], |_, _| ()).unwrap();
        for path in [dir.path(), gguf.as_path()] {
            let out = tempfile::tempdir().unwrap();
            Decoder::load_pretrained(path, &Device::Cpu).unwrap().save_pretrained(out.path()).unwrap();
            assert_eq!(read_json(out.path())["query_pre_attn_scalar"], json!(7), "{}", path.display());
            assert_eq!(pretrained::read_config(out.path()).unwrap().0, layout);
        }
    }
}

#[test]
fn gemmas_have_one_activation_and_whole_heads() {
    for name in ["gelu", "gelu_new", "gelu_pytorch_tanh"] {
        with("gemma", &[("hidden_act", json!(name))]).unwrap();
    }
    for name in ["silu", "relu"] {
        refused(with("gemma", &[("hidden_act", json!(name))]), "hidden_act");
    }
    // The later families have another key, and this one is not looked at.
    with("gemma2", &[("hidden_act", json!("silu"))]).unwrap();
    for name in ["gemma", "gemma2", "gemma3"] {
        refused(with(name, &[("partial_rotary_factor", json!(0.5))]), "partial_rotary_factor = 0.5");
        refused(with(name, &[("use_bidirectional_attention", json!(true))]), "use_bidirectional_attention");
    }
    let rope = json!({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5});
    for name in ["gemma", "qwen3"] {
        refused(with(name, &[("rope_parameters", rope.clone())]), "partial_rotary_factor = 0.5");
    }
}

#[test]
fn lists_of_layers_with_a_window_are_followed_or_refused() {
    let mistral = |kinds: &[&str]| with("mistral", &[("layer_types", json!(kinds))]);
    let windows = |cfg: DecoderConfig| (cfg.window, cfg.window_skip);
    assert_eq!(windows(mistral(&[SLIDING, SLIDING]).unwrap()), (Some(5), None));
    assert_eq!(windows(mistral(&[FULL, FULL]).unwrap()), (None, None));
    refused(mistral(&[SLIDING, FULL]), "layer_types");
    refused(mistral(&[FULL, SLIDING]), "layer_types");
    refused(mistral(&[SLIDING]), "layer_types");
    refused(mistral(&[SLIDING, "chunked_attention"]), "layer_types");
    refused(with("gemma2", &[("layer_types", json!([SLIDING, FULL, SLIDING]))]), "layer_types");

    for name in ["qwen2", "qwen3"] {
        let read = |on: bool, first: usize, kinds: Value| {
            let (on, first) = (("use_sliding_window", json!(on)), ("max_window_layers", json!(first)));
            with(name, &[on, first, ("layer_types", kinds), ("sliding_window", json!(6))])
        };
        let windows = |on, first, kinds| windows(read(on, first, kinds).unwrap_or_else(|e| panic!("{name}: {e}")));
        // From a layer on that is not there.
        assert_eq!(windows(true, 2, Value::Null), (None, None));
        assert_eq!(windows(true, 0, Value::Null), (Some(6), None));
        assert_eq!(windows(false, 0, Value::Null), (None, None));
        // The list counts before the number.
        assert_eq!(windows(true, 0, json!([FULL, FULL])), (None, None));
        assert_eq!(windows(true, 2, json!([SLIDING, FULL])), (Some(6), Some(2)));
        assert_eq!(windows(true, 2, json!([SLIDING, SLIDING])), (Some(6), None));
        refused(read(true, 1, Value::Null), "use_sliding_window");
        refused(read(true, 2, json!([FULL, SLIDING])), "layer_types");
        refused(read(false, 2, json!([SLIDING, SLIDING])), "layer_types");
    }

    // What is read is written, and not where it would be lost.
    let keys = [("use_sliding_window", json!(true)), ("sliding_window", json!(6))];
    let dir = edited("qwen3", |json| {
        json.extend(keys.map(|(key, value)| (key.to_owned(), value)));
        json.insert("layer_types".into(), json!([SLIDING, FULL]));
    });
    let source = WeightSource::open(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    source.decoder(&Device::Cpu).unwrap().save_pretrained(out.path()).unwrap();
    let (layout, again) = pretrained::read_config(out.path()).unwrap();
    assert_eq!((layout, windows(again)), (Layout::Qwen3, (Some(6), Some(2))));
    let written = read_json(out.path());
    assert_eq!((&written["layer_types"], &written["use_sliding_window"]), (&json!([SLIDING, FULL]), &json!(true)));
    let gguf = source.write_gguf(out.path().join("m.gguf"), Storage::new(TensorType::F32), &[], |_, _| ());
    assert!(matches!(gguf, Err(Error::NoGgufForm { .. })), "{gguf:?}");
}

#[test]
fn a_head_that_is_not_the_table_counts() {
    for (name, head) in [("qwen2", "lm_head.weight"), ("gpt2-gguf", "lm_head.weight"), ("gpt-neox", "embed_out.weight")]
    {
        let dir = edited(name, |json| drop(json.insert("tie_word_embeddings".into(), json!(true))));
        let plain = WeightSource::open(folder(name)).unwrap();
        let table = plain.to_f32("embed.tokens").unwrap();
        let shape = vec![plain.config().vocab, plain.config().width];
        let put = |kind: Dtype, bytes: Vec<u8>| {
            let kept = |old: &str| (old != head).then(|| old.to_owned());
            rename(dir.path(), kept, &[(head, kind, shape.clone(), bytes)]);
            WeightSource::open(dir.path())
        };
        let wide = table.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        // The table a second time, also in another type.
        for (kind, same) in [(Dtype::F32, bytes(&table)), (Dtype::F64, wide)] {
            let source = put(kind, same).unwrap();
            assert!(source.config().tied_head, "{name}: {kind:?}");
            assert_eq!(source.to_f32("head.weight").unwrap(), table);
        }
        // Resuming takes the configuration's word, so it must hold.
        let tied = WeightSource::open(dir.path()).unwrap().decoder(&Device::Cpu).unwrap();
        tied.load_weights(dir.path()).unwrap();

        let other: Vec<f32> = table.iter().map(|v| v + 1.0).collect();
        for (kind, bytes) in [
            (Dtype::F32, bytes(&other)),
            (Dtype::F64, other.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect()),
        ] {
            let source = put(kind, bytes).unwrap();
            assert!(!source.config().tied_head, "{name}: {kind:?}");
            assert_eq!(source.to_f32("head.weight").unwrap(), other, "{name}");
            assert_eq!(source.to_f32("embed.tokens").unwrap(), table, "{name}");
            let e = tied.load_weights(dir.path()).unwrap_err();
            assert!(matches!(e, Error::UntiedHead { .. }) && e.hint().unwrap().contains("tie_word_embeddings"), "{e}");
        }
    }
}

#[test]
fn models_saved_without_their_head_are_read() {
    // Tied: nothing is lacking.
    for (name, prefix) in [("qwen2", "model."), ("gemma3", "model."), ("gpt2-gguf", "transformer.")] {
        let dir = edited(name, |_| ());
        rename(dir.path(), |old| Some(old.strip_prefix(prefix)?.to_owned()), &[]);
        let (whole, bare) = (WeightSource::open(folder(name)).unwrap(), WeightSource::open(dir.path()).unwrap());
        assert_same(&whole, &bare);
        bare.check_head().unwrap();
        assert_eq!(whole.config(), bare.config());
    }
    for (name, prefix) in [("qwen3", "model."), ("gpt-neox", "gpt_neox.")] {
        let dir = edited(name, |_| ());
        rename(dir.path(), |old| Some(old.strip_prefix(prefix)?.to_owned()), &[]);
        let (whole, bare) = (WeightSource::open(folder(name)).unwrap(), WeightSource::open(dir.path()).unwrap());
        for (name, _) in bare.params() {
            assert_eq!(whole.to_f32(name).unwrap(), bare.to_f32(name).unwrap(), "{name}");
        }
        assert!(!bare.has("head.weight") && whole.has("head.weight"));
        let gguf = bare.write_gguf(dir.path().join("m.gguf"), Storage::new(TensorType::F32), &[], |_, _| ());
        for e in [bare.check_head().unwrap_err(), bare.decoder(&Device::Cpu).map(drop).unwrap_err(), gguf.unwrap_err()]
        {
            assert!(matches!(e, Error::NoHead { .. }) && e.hint().is_some(), "{e}");
        }
        // With its names whole it is damaged.
        let dir = edited(name, |_| ());
        rename(dir.path(), |old| old.starts_with(prefix).then(|| old.to_owned()), &[]);
        let e = WeightSource::open(dir.path()).map(drop).unwrap_err();
        assert!(matches!(e, Error::MissingTensor { .. }), "{e}");
    }
}

#[test]
fn old_names_and_other_heads_of_encoders_are_read() {
    let dir = edited("bert", |_| ());
    let old = |name: &str| {
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        Some(format!("bert.{name}"))
    };
    let heads = ["cls.predictions.bias", "cls.seq_relationship.weight", "classifier.weight", "qa_outputs.bias"];
    let heads = heads.map(|name| (name, Dtype::F32, vec![1], bytes(&[1.0])));
    rename(dir.path(), old, &heads);
    assert_same(&WeightSource::open(folder("bert")).unwrap(), &WeightSource::open(dir.path()).unwrap());
    // Nothing else is left out.
    rename(dir.path(), |name| Some(name.to_owned()), &[("adapter.weight", Dtype::F32, vec![1], bytes(&[1.0]))]);
    let e = WeightSource::open(dir.path()).map(drop).unwrap_err();
    assert!(matches!(e, Error::UnexpectedTensor { .. }), "{e}");
}

#[test]
fn impossible_settings_are_told_by_the_files_keys() {
    let rope = json!({"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5});
    let e = with("phi3", &[("rope_parameters", rope)]).unwrap_err();
    let said = "partial_rotary_factor = 0.5 turns 3 channels of a head, which must be even, and at most 6";
    assert!(e.to_string().contains(said) && e.to_string().contains("config.json"), "{e}");
    assert!(!e.hint().unwrap().contains("damaged"), "{:?}", e.hint());
    let e = config("mistral", |json| drop(json.remove("num_key_value_heads"))).unwrap_err();
    assert!(e.to_string().contains("num_key_value_heads, which is left out, makes kv_heads = 8"), "{e}");
}

#[test]
fn weights_as_a_pickle_are_named() {
    for file in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        let dir = edited("qwen2", |_| ());
        std::fs::rename(dir.path().join("model.safetensors"), dir.path().join(file)).unwrap();
        let e = WeightSource::open(dir.path()).map(drop).unwrap_err();
        assert!(e.to_string().contains(file) && e.to_string().contains("pickle"), "{e}");
        assert!(e.hint().unwrap().contains("save_pretrained"), "{:?}", e.hint());
    }
}

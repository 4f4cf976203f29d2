//! Model folders: what is written is read back bit for bit, and what is wrong with a folder is named.

use gently_models::config::{DecoderConfig, Family, MlpKind, NormPlace};
use gently_models::families::Layout;
use gently_models::{Decoder, Error, Param, pretrained};
use gently_tensor::{Device, Rng};
use serde_json::{Value, json};
use std::path::Path;

fn tiny(family: Family) -> DecoderConfig {
    DecoderConfig {
        vocab: 19,
        context: 16,
        layers: 2,
        heads: 2,
        kv_heads: None,
        width: 12,
        ..DecoderConfig::preset(family)
    }
}

fn model(cfg: &DecoderConfig) -> Decoder {
    let rng = Rng::new(3);
    let model = Decoder::new(cfg, &rng, &Device::Cpu).unwrap();
    for p in model.params() {
        let noise: Vec<f32> = (0..p.tensor.numel()).map(|i| ((i * 37) % 11) as f32 * 0.01).collect();
        p.tensor.with_data_mut(|d: &mut [f32]| d.iter_mut().zip(noise).for_each(|(d, n)| *d += n)).unwrap();
    }
    model
}

fn assert_same(a: &Decoder, b: &Decoder) {
    assert_eq!(a.config(), b.config());
    for (a, b) in a.params().iter().zip(b.params()) {
        assert_eq!(a.name, b.name);
        assert_eq!(a.tensor.to_vec::<f32>().unwrap(), b.tensor.to_vec::<f32>().unwrap(), "{}", a.name);
    }
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join("config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
}

fn load(dir: &Path) -> Result<Decoder, Error> {
    Decoder::load_pretrained(dir, &Device::Cpu)
}

#[test]
fn folders_come_back_bit_for_bit() {
    let (gpt2, llama) = (tiny(Family::Gpt2), tiny(Family::Llama));
    let cases = [
        (Layout::Gpt2, gpt2.clone()),
        // GPT-2's layout holds models without biases as models with biases of zero.
        (
            Layout::Gpt2,
            DecoderConfig { attention_bias: false, mlp_bias: false, norm_bias: false, dropout: 0.2, ..gpt2.clone() },
        ),
        (Layout::Gpt2, DecoderConfig { tied_head: false, mlp_width: Some(20), family: Family::Llama, ..gpt2.clone() }),
        (Layout::Llama, llama.clone()),
        (Layout::Llama, DecoderConfig { kv_heads: Some(1), head_width: Some(10), dropout: 0.1, ..llama.clone() }),
        (Layout::Llama, DecoderConfig { tied_head: true, attention_bias: true, mlp_bias: true, ..llama.clone() }),
        (Layout::Native, DecoderConfig { qk_norm: true, logit_softcap: Some(20.0), ..llama.clone() }),
        (Layout::Native, DecoderConfig { norm_place: NormPlace::Both, window: Some(5), ..gpt2 }),
    ];
    for (layout, cfg) in cases {
        assert_eq!(Layout::of(&cfg), layout);
        let model = model(&cfg);
        let dir = tempfile::tempdir().unwrap();
        model.save_pretrained(dir.path()).unwrap();
        assert_same(&model, &load(dir.path()).unwrap());

        let shards = tempfile::tempdir().unwrap();
        model.save_sharded(shards.path(), 2000).unwrap();
        assert!(!shards.path().join("model.safetensors").exists());
        assert_same(&model, &load(shards.path()).unwrap());

        let fresh = Decoder::new(&cfg, &Rng::new(9), &Device::Cpu).unwrap();
        fresh.load_weights(dir.path()).unwrap();
        assert_same(&model, &fresh);
    }
}

#[test]
fn parameters_that_a_layout_rounds_are_named() {
    const ROUNDED: &str = "blocks.1.mlp_norm.weight";
    let gemma =
        DecoderConfig { mlp: MlpKind::Geglu, tied_head: true, embed_scale: Some(12f64.sqrt()), ..tiny(Family::Llama) };
    for (cfg, layout, rounded) in [(tiny(Family::Gpt2), Layout::Gpt2, vec![]), (gemma, Layout::Gemma, vec![ROUNDED])] {
        assert_eq!(Layout::of(&cfg), layout);
        let model = model(&cfg);
        for p in model.params() {
            let first = match (layout, p.name.as_str()) {
                // Less one it has a bit more than f32 holds.
                (Layout::Gemma, ROUNDED) => 10_066_331.0 / 33_554_432.0,
                (Layout::Gemma, name) if name.contains("norm") => 0.5,
                // A number of its own, also in matrices that are written turned.
                _ => -0.0,
            };
            p.tensor.with_data_mut(|d: &mut [f32]| d[0] = first).unwrap();
        }
        let named: Vec<_> = model.rounded_when_saved().unwrap().iter().map(|p| p.name.as_str()).collect();
        assert_eq!(named, rounded, "{layout:?}");
        let dir = tempfile::tempdir().unwrap();
        model.save_pretrained(dir.path()).unwrap();
        let again = load(dir.path()).unwrap();
        let bits = |p: &Param| p.tensor.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let pairs = model.params().iter().zip(again.params());
        let differ: Vec<_> = pairs.filter(|(a, b)| bits(a) != bits(b)).map(|(a, _)| a.name.as_str()).collect();
        assert_eq!(differ, rounded, "{layout:?}");
    }
}

#[test]
fn equal_models_write_equal_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&a, &b] {
        model(&tiny(Family::Llama)).save_pretrained(dir.path()).unwrap();
    }
    for file in ["config.json", "model.safetensors"] {
        assert_eq!(std::fs::read(a.path().join(file)).unwrap(), std::fs::read(b.path().join(file)).unwrap());
    }
}

#[test]
fn published_keys_win_over_our_own_entry() {
    let cfg = DecoderConfig { attention_bias: false, mlp_bias: false, norm_bias: false, ..tiny(Family::Gpt2) };
    let dir = tempfile::tempdir().unwrap();
    model(&cfg).save_pretrained(dir.path()).unwrap();
    edit_config(dir.path(), |json| json["layer_norm_epsilon"] = json!(1e-3));
    let loaded = load(dir.path()).unwrap();
    assert_eq!(loaded.config().norm_eps, 1e-3);
    assert!(loaded.config().mlp_bias, "without our entry it is a GPT-2 with biases, which are zero");
}

#[test]
fn what_is_wrong_is_named() {
    type Edit = fn(&mut Value);
    let config_cases: [(Family, Edit, &str); 13] = [
        (Family::Gpt2, |j| j["model_type"] = json!("mamba"), "mamba"),
        (Family::Gpt2, |j| j["scale_attn_by_inverse_layer_idx"] = json!(true), "scale_attn_by_inverse_layer_idx"),
        (Family::Gpt2, |j| j["activation_function"] = json!("mish"), "mish"),
        (Family::Gpt2, |j| j["n_head"] = json!("two"), "n_head"),
        (Family::Gpt2, |j| j["n_layer"] = json!(1u64 << 27), "n_layer = 134217728"),
        (Family::Gpt2, |j| j["n_embd"] = json!(1u64 << 14), "wte.weight"),
        (Family::Gpt2, |j| j["vocab_size"] = json!(1u64 << 28), "wte.weight"),
        (Family::Llama, |j| j["rope_parameters"] = json!({"rope_type": "dynamic"}), "rope_parameters"),
        (Family::Llama, |j| j["hidden_act"] = json!("gelu"), "hidden_act"),
        (Family::Llama, |j| j["num_key_value_heads"] = json!(0), "num_key_value_heads = 0"),
        (Family::Llama, |j| j["num_hidden_layers"] = json!(0), "num_hidden_layers = 0"),
        (Family::Gpt2, |j| j["n_layer"] = json!(0), "n_layer = 0"),
        (Family::Gpt2, |j| j["layer_norm_epsilon"] = json!(-1.0), "layer_norm_epsilon = -1"),
    ];
    for (family, edit, named) in config_cases {
        let dir = tempfile::tempdir().unwrap();
        model(&tiny(family)).save_pretrained(dir.path()).unwrap();
        edit_config(dir.path(), edit);
        let error = load(dir.path()).err().unwrap_or_else(|| panic!("{named} was accepted"));
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.to_string().contains(dir.path().to_str().unwrap()) && error.hint().is_some(), "{error}");
    }

    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path()).err().unwrap();
    assert!(error.to_string().contains("config.json") && error.hint().is_some(), "{error}");
    for deep in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 20)] {
        std::fs::write(dir.path().join("config.json"), deep).unwrap();
        let error = load(dir.path()).err().unwrap();
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    // Weights of another model.
    let other = tempfile::tempdir().unwrap();
    model(&DecoderConfig { layers: 1, ..tiny(Family::Gpt2) }).save_pretrained(other.path()).unwrap();
    model(&tiny(Family::Gpt2)).save_pretrained(dir.path()).unwrap();
    std::fs::copy(other.path().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert!(matches!(load(dir.path()), Err(Error::MissingTensor { .. })));
    edit_config(dir.path(), |j| j["n_layer"] = json!(1));
    load(dir.path()).unwrap();
    model(&tiny(Family::Gpt2)).save_pretrained(other.path()).unwrap();
    std::fs::copy(other.path().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert!(matches!(load(dir.path()), Err(Error::UnexpectedTensor { .. })));

    // A bias that our entry denies.
    let biased = model(&tiny(Family::Gpt2));
    biased.save_pretrained(dir.path()).unwrap();
    edit_config(dir.path(), |j| j["gently"]["mlp_bias"] = json!(false));
    let error = load(dir.path()).err().unwrap();
    assert!(matches!(error, Error::NonZeroBias { .. }), "{error}");
    assert!(error.hint().unwrap().contains("gently"));
    edit_config(dir.path(), |j| j["gently"] = Value::Null);
    assert_same(&biased, &load(dir.path()).unwrap());
}

#[test]
fn finite_numbers_are_not_written_as_infinite_ones() {
    use gently_formats::gguf::TensorType;
    use gently_formats::safetensors::Dtype;
    use gently_models::WeightSource;
    use gently_models::weights::Storage;
    let dir = tempfile::tempdir().unwrap();
    let (whole, out, file) = (dir.path().join("whole"), dir.path().join("out"), dir.path().join("out.gguf"));
    let model = model(&tiny(Family::Gpt2));
    let tokens = model.params().iter().find(|p| p.name == "embed.tokens").unwrap();
    let with = |value: f32| {
        tokens.tensor.with_data_mut(|d: &mut [f32]| d[3] = value).unwrap();
        model.save_pretrained(&whole).unwrap();
    };
    let folder = |dtype| model.save_as(&out, dtype);
    let gguf = |kind| WeightSource::open(&whole)?.write_gguf(&file, Storage::new(kind), &[], |_, _| ());
    let refused = |done: Result<(), Error>, tensor: &str, kind: &str| {
        let error = done.unwrap_err();
        let said = error.to_string();
        assert!(said.contains(tensor) && said.contains(&format!("the range of {kind}")), "{said}");
        assert!(error.hint().is_some_and(|hint| hint.contains("choose a format")), "{said}");
        assert!(!out.join("model.safetensors").exists() && !file.exists());
    };
    with(-1e5);
    refused(folder(Dtype::F16), "wte.weight", "F16");
    refused(gguf(TensorType::F16), "token_embd.weight", "F16");
    with(f32::MAX);
    refused(folder(Dtype::Bf16), "wte.weight", "BF16");
    refused(gguf(TensorType::Bf16), "token_embd.weight", "BF16");
    // What was infinite before is as it was.
    with(f32::INFINITY);
    for (dtype, kind) in [(Dtype::F16, TensorType::F16), (Dtype::Bf16, TensorType::Bf16)] {
        folder(dtype).unwrap();
        gguf(kind).unwrap();
    }
    assert_eq!(WeightSource::open(&out).unwrap().to_f32("embed.tokens").unwrap()[3], f32::INFINITY);
}

#[test]
fn the_first_published_files_have_no_prefix() {
    use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
    let cfg = tiny(Family::Gpt2);
    let model = model(&cfg);
    let dir = tempfile::tempdir().unwrap();
    model.save_pretrained(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let file = SafeTensors::open(&path, &Default::default()).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = file
        .tensors()
        .iter()
        .map(|(n, e)| (n.replace("transformer.", ""), e.shape.clone(), file.to_f32(n).unwrap()))
        .collect();
    // The causal mask that those files carry.
    tensors.push(("h.0.attn.bias".into(), vec![1, 1, 16, 16], vec![1.0; 256]));
    let specs: Vec<Spec> =
        tensors.iter().map(|(n, s, _)| Spec { name: n.clone(), dtype: Dtype::F32, shape: s.clone() }).collect();
    let mut writer = Writer::create(&path, &specs, &Default::default()).unwrap();
    for (_, _, values) in &tensors {
        writer.write_f32(values).unwrap();
    }
    writer.finish().unwrap();
    assert_same(&model, &load(dir.path()).unwrap());
}

#[test]
fn reading_the_configuration_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = tiny(Family::Llama);
    model(&cfg).save_pretrained(dir.path()).unwrap();
    assert_eq!(pretrained::read_config(dir.path()).unwrap(), (Layout::Llama, cfg));
}

//! The pass over documents against the model on the tape, published files, and any company.

mod common;

use common::model;
use gently_formats::gguf::TensorType;
use gently_formats::safetensors::{SafeTensors, Spec, Writer};
use gently_infer::{Encoder, Error, Plan, PlanOptions, Work};
use gently_models::config::{DecoderConfig, Family, MlpKind, NormPlace, Position};
use gently_models::weights::Storage;
use gently_models::{Decoder, ForwardCx, WeightSource};
use gently_tensor::{Device, Rng};
use std::path::{Path, PathBuf};

const VOCAB: usize = 29;

/// BERT's choices, small.
fn bert() -> DecoderConfig {
    DecoderConfig {
        vocab: VOCAB,
        context: 300,
        layers: 2,
        heads: 4,
        width: 32,
        init_std: 0.2,
        norm_place: NormPlace::Post,
        mlp: MlpKind::GeluErf,
        embed_norm: true,
        bidirectional: true,
        ..DecoderConfig::preset(Family::Gpt2)
    }
}

/// Documents of these lengths.
fn documents(lengths: &[usize], vocab: usize) -> Vec<Vec<u32>> {
    let mut rng = Rng::new(3);
    lengths.iter().map(|n| (0..*n).map(|_| rng.below(vocab as u64) as u32).collect()).collect()
}

fn encode(encoder: &Encoder, documents: &[Vec<u32>]) -> Vec<f32> {
    let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
    encoder.encode(&mut Work::new(), &documents).unwrap().to_vec()
}

/// The rows of each document from the model on the tape.
fn features(model: &Decoder, documents: &[Vec<u32>]) -> Vec<f32> {
    let rows = |d: &Vec<u32>| model.features(&model.ids(d, 1).unwrap(), None, &ForwardCx::default()).unwrap();
    documents.iter().flat_map(|d| rows(d).to_vec::<f32>().unwrap()).collect()
}

/// The largest difference over the largest number.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-9f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

#[test]
fn rows_are_the_models_for_encoders_and_decoders() {
    let decoder = DecoderConfig { vocab: VOCAB, context: 300, layers: 2, heads: 4, width: 32, init_std: 0.2, ..bert() };
    let llama = DecoderConfig {
        kv_heads: Some(2),
        tied_head: false,
        ..DecoderConfig { family: Family::Llama, ..DecoderConfig::preset(Family::Llama) }
    };
    let llama = DecoderConfig { vocab: VOCAB, context: 300, layers: 2, heads: 4, width: 32, init_std: 0.2, ..llama };
    let configs = [
        bert(),
        DecoderConfig { position: Position::Rotary, norm_place: NormPlace::Pre, mlp: MlpKind::Geglu, ..bert() },
        DecoderConfig { position: Position::Alibi, kv_heads: Some(1), embed_norm: false, ..bert() },
        DecoderConfig { norm_place: NormPlace::Out, attention_softcap: Some(2.0), qk_norm: true, ..bert() },
        DecoderConfig { bidirectional: false, ..decoder },
        DecoderConfig { window: Some(9), window_skip: Some(2), ..llama.clone() },
        DecoderConfig { parallel: true, ..llama },
    ];
    let documents = documents(&[1, 9, 64, 70, 2, 200], VOCAB);
    for cfg in configs {
        let model = model(&cfg);
        let encoder = Encoder::new(&model).unwrap();
        let off = apart(&encode(&encoder, &documents), &features(&model, &documents));
        assert!(off <= 1e-4, "{off:e}: {cfg:?}");
    }
}

/// The answers that Python's transformers gave, from both kinds of file.
#[test]
fn bert_answers_as_published() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gently-models/tests/golden/bert");
    let expected = SafeTensors::open(dir.join("expected.safetensors"), &Default::default()).unwrap();
    let ids: Vec<u32> = expected.to_vec::<i32>("ids").unwrap().into_iter().map(|v| v as u32).collect();
    let known = expected.to_f32("logits").unwrap();
    let documents: Vec<Vec<u32>> = ids.chunks(ids.len() / 2).map(<[u32]>::to_vec).collect();
    for path in [dir.clone(), dir.join("model.gguf")] {
        let source = WeightSource::open(&path).unwrap();
        let encoder = Encoder::of_files(&source).unwrap();
        let rows = encode(&encoder, &documents);
        let off = apart(&rows, &known);
        assert!(off <= 1e-4, "{}: {off:e}", path.display());
        let tape = features(&source.decoder(&Device::Cpu).unwrap(), &documents);
        assert!(apart(&rows, &tape) <= 1e-4, "{}", path.display());
    }
}

/// A model saved without its head embeds as the whole one does, and writes nothing.
#[test]
fn without_a_head_texts_are_embedded_only() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gently-models/tests/golden/qwen3");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(golden.join("config.json"), dir.path().join("config.json")).unwrap();
    let file = SafeTensors::open(golden.join("model.safetensors"), &Default::default()).unwrap();
    let names: Vec<&str> = file.tensors().keys().filter_map(|name| name.strip_prefix("model.")).collect();
    let entry = |name: &str| file.entry(&format!("model.{name}")).unwrap();
    let spec =
        |name: &&str| Spec { name: (*name).to_owned(), dtype: entry(name).dtype, shape: entry(name).shape.clone() };
    let specs: Vec<Spec> = names.iter().map(spec).collect();
    let mut writer = Writer::create(dir.path().join("model.safetensors"), &specs, &Default::default()).unwrap();
    for name in names {
        writer.write(file.bytes(&format!("model.{name}")).unwrap()).unwrap();
    }
    writer.finish().unwrap();

    let [whole, bare] = [golden.as_path(), dir.path()].map(|path| WeightSource::open(path).unwrap());
    let documents = documents(&[5, 17], whole.config().vocab);
    let [a, b] = [&whole, &bare].map(|source| encode(&Encoder::of_files(source).unwrap(), &documents));
    assert_eq!(a, b);
    Plan::of_files(&whole, PlanOptions::default()).map(drop).unwrap();
    let e = Plan::of_files(&bare, PlanOptions::default()).map(drop).unwrap_err();
    assert!(e.to_string().contains("lm_head.weight") && e.hint().is_some(), "{e}");
}

fn quantized(dir: &Path, model: &Decoder, kind: TensorType) -> PathBuf {
    let folder = dir.join("folder");
    model.save_pretrained(&folder).unwrap();
    let path = dir.join(format!("{}.gguf", kind.name()));
    WeightSource::open(&folder).unwrap().write_gguf(&path, Storage::new(kind), &[], |_, _| ()).unwrap();
    path
}

/// Any neighbours, any order, any number of passes: the same bits, with floats and with blocks of integers.
#[test]
fn company_does_not_matter() {
    let cfg = DecoderConfig { tied_head: true, norm_eps: 1e-12, ..bert() };
    let (model, dir) = (model(&cfg), tempfile::tempdir().unwrap());
    let encoders = [
        Encoder::new(&model).unwrap(),
        Encoder::of_files(&WeightSource::open(quantized(dir.path(), &model, TensorType::Q8_0)).unwrap()).unwrap(),
        Encoder::of_files(&WeightSource::open(quantized(dir.path(), &model, TensorType::Q4_0)).unwrap()).unwrap(),
    ];
    assert!(encoders[2].weight_types().contains_key("Q4_0"), "{:?}", encoders[2].weight_types());
    let mut documents = documents(&[1, 300, 17, 64, 65, 5, 128, 2, 33, 250, 17], VOCAB);
    let exact = features(&model, &documents);
    for (encoder, allowed) in encoders.iter().zip([1e-4, 0.03, 0.4]) {
        let off = apart(&encode(encoder, &documents), &exact);
        assert!(off <= allowed, "{off}");
    }
    for encoder in &encoders {
        for _ in 0..3 {
            let together = encode(encoder, &documents);
            let alone: Vec<f32> = documents.iter().flat_map(|d| encode(encoder, std::slice::from_ref(d))).collect();
            assert_eq!(together, alone);
            documents.rotate_left(4);
        }
    }
    // Memory that a larger pass left behind changes nothing.
    let mut work = Work::new();
    let all: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
    encoders[0].encode(&mut work, &all).unwrap();
    let again = encoders[0].encode(&mut work, &all[3..5]).unwrap().to_vec();
    assert_eq!(again, encode(&encoders[0], &documents[3..5]));
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let encoder = Encoder::new(&model(&bert())).unwrap();
    let said = |documents: &[&[u32]]| match encoder.encode(&mut Work::new(), documents) {
        Err(Error::Tokens { what }) => what,
        other => panic!("{:?}", other.map(<[f32]>::len)),
    };
    assert!(said(&[&[1], &[]]).contains("document 1 has no tokens"));
    assert!(said(&[&[1, 29]]).contains("token 29"));
    assert!(said(&[&[1; 301]]).contains("301 tokens"));
    assert_eq!(encoder.encode(&mut Work::new(), &[]).unwrap().len(), 0);
    assert_eq!(encoder.room(), Some(300));
}

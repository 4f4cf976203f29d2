//! Models against Python transformers: the fixtures in `golden/` (see `golden/make.py`) hold weights, logits, loss and
//! all gradients.

use gently_formats::safetensors::SafeTensors;
use gently_models::families::{Layout, Rows};
use gently_models::{Batch, Decoder, ForwardCx};
use gently_tensor::{Device, Tensor};
use std::path::PathBuf;

const TOLERANCE: f32 = 1e-4;

struct Golden {
    name: &'static str,
    model: Decoder,
    layout: Layout,
    expected: SafeTensors,
}

impl Golden {
    fn open(name: &'static str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let model = Decoder::load_pretrained(&dir, &Device::Cpu).unwrap();
        let (layout, _) = gently_models::pretrained::read_config(&dir).unwrap();
        let expected = SafeTensors::open(dir.join("expected.safetensors"), &Default::default()).unwrap();
        Self { name, model, layout, expected }
    }

    /// A `[2,T]` table of ids; -1 becomes the target that does not count.
    fn ids(&self, name: &str) -> Tensor {
        let ids: Vec<u32> = self.expected.to_vec::<i32>(name).unwrap().into_iter().map(|v| v as u32).collect();
        self.model.ids(&ids, 2).unwrap()
    }

    fn compare(&self, name: &str, ours: &[f32]) {
        let theirs = self.expected.to_f32(name).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{}: {name}", self.name);
        let scale = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
            assert!((a - b).abs() <= TOLERANCE * scale, "{}: {name}[{i}] is {a}, not {b}", self.name);
        }
    }

    fn check(&self) {
        let cx = ForwardCx::default();
        let (ids, targets) = (self.ids("ids"), self.ids("targets"));
        let logits = self.model.logits(&ids, &cx).unwrap();
        self.compare("logits", &logits.to_vec::<f32>().unwrap());

        let counted = targets.to_vec::<u32>().unwrap().iter().filter(|t| **t != gently_tensor::IGNORE).count();
        let batch = Batch { ids: &ids, targets: &targets, docs: None };
        let loss = self.model.loss(&batch, 1.0 / counted as f64, &cx).unwrap();
        self.compare("loss", &loss.to_vec::<f32>().unwrap());

        // Each published tensor's gradient is some rows of one of ours.
        let grads = loss.backward().unwrap();
        let table = self.layout.names(self.model.config(), self.model.params());
        let mut compared = 0;
        for mapping in &table.mappings {
            let param = self.model.params().iter().find(|p| p.name == mapping.ours).unwrap();
            let grad = grads.get(&param.tensor).unwrap();
            let mut row = 0;
            for Rows { name, rows, transposed, .. } in &mapping.theirs {
                let part = grad.narrow(0, row, *rows).unwrap();
                let part = if *transposed { part.t().unwrap() } else { part };
                self.compare(&format!("grad.{name}"), &part.to_vec::<f32>().unwrap());
                row += rows;
                compared += 1;
            }
        }
        let theirs = self.expected.tensors().keys().filter(|k| k.starts_with("grad.")).count();
        assert_eq!(compared, theirs, "every published parameter was compared");
    }
}

#[test]
fn gpt2() {
    let golden = Golden::open("gpt2");
    assert_eq!(golden.layout, Layout::Gpt2);
    assert!(golden.model.config().tied_head);
    golden.check();
}

#[test]
fn gpt2_untied_in_shards() {
    let golden = Golden::open("gpt2-untied-sharded");
    assert!(!golden.model.config().tied_head);
    golden.check();
}

#[test]
fn llama_with_grouped_heads() {
    let golden = Golden::open("llama");
    assert_eq!(golden.layout, Layout::Llama);
    assert_eq!((golden.model.config().heads, golden.model.config().kv_heads()), (4, 2));
    golden.check();
}

#[test]
fn llama_tied_in_bf16_and_shards() {
    let golden = Golden::open("llama-tied-bf16-sharded");
    assert!(golden.model.config().tied_head);
    golden.check();
}

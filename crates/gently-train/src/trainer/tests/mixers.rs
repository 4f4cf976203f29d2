//! Runs of models whose mixers no configuration says.

use gently_models::mixers::SoftmaxAttention;
use gently_models::params::Builder;

use super::*;
use crate::checkpoint::Checkpoints;

/// Attention whose parameters have names that no layout knows.
fn build(cfg: &DecoderConfig, rng: &Rng, device: &Device) -> gently_models::Result<Decoder> {
    Decoder::with_mixers(cfg, Builder::new(Some(rng), device), |b, layer| {
        let path = format!("{}.attention", b.path());
        Ok(Box::new(SoftmaxAttention::of_layer(b.scope(path), cfg, layer, None)?))
    })
}

#[test]
fn they_go_on_where_they_were() {
    // By its configuration the first is a GPT-2, and the second in no published layout.
    for position in ["learned", "alibi"] {
        let position = format!("model.position={position}");
        let run = |folder: &Path| trainer(tiny(&[&position]), folder).model(build);
        let (whole, watch) = (tempfile::tempdir().unwrap(), Watch::default());
        run(whole.path()).observe(watch.clone()).run().unwrap();

        let folder = tempfile::tempdir().unwrap();
        let crash = Watch { fail_at: Some(watch.events().len() * 3 / 4), ..Watch::default() };
        run(folder.path()).observe(crash).run().unwrap_err();
        let steps = Checkpoints::of_run(folder.path()).steps().unwrap();
        assert!(!steps.is_empty() && !steps.contains(&12), "{steps:?}");
        run(folder.path()).resume(true).run().unwrap();
        assert_eq!(outcome(folder.path()), outcome(whole.path()), "{position}");
    }
}

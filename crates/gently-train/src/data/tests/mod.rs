//! Data as a whole: from files to batches.

mod bad_input;
mod loading;
mod preparing;

use super::*;
use std::path::Path;
use std::sync::Arc;

/// Prepares without words.
fn run(prepare: &Prepare, dir: &Path) -> Result<Dataset> {
    prepare.run(dir, &mut |_| Ok(()))
}

/// Prepares texts, one document each.
fn prepare_texts(dir: &Path, texts: &[&str], change: impl FnOnce(&mut Prepare)) -> Result<Dataset> {
    let documents = Arc::new(texts.iter().map(|t| t.to_string()).collect());
    let mut prepare = Prepare::new([Input::Documents { name: "texts".into(), documents }]);
    change(&mut prepare);
    run(&prepare, dir)
}

/// All of a corpus as text, a string for each document.
fn texts(dataset: &Dataset, corpus: &Corpus) -> Vec<String> {
    let mut all = Vec::new();
    for part in 0..corpus.parts() {
        for document in 0..corpus.part_documents(part) {
            let mut tokens = Vec::new();
            corpus.read(part, corpus.document(part, document), &mut tokens).unwrap();
            all.push(dataset.tokenizer().decode(&tokens).unwrap());
        }
    }
    all
}

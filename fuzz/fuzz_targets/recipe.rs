//! A recipe: what resolves is in range, and reads again as what it was written as.
#![no_main]
use gently_train::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(mut recipe) = Recipe::parse(text, "fuzz.toml") else { return };
    let _ = recipe.resolve();
    if let Some(line) = text.lines().next_back() {
        let _ = recipe.set(line);
        let _ = recipe.resolve();
    }
});

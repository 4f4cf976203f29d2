//! Which files of a repository make a model.
//!
//! A repository with `config.json` and safetensors is a Hugging Face folder: weights, configuration, tokenizer, and the files of
//! sentence-transformers, without copies in other formats. Otherwise it is a GGUF file, or the parts of one.

use super::error::{Error, Result};
use super::listing::Entry;
use super::name::{Name, is_safe_path};
use gently_formats::files::{self, CONFIG, INDEX, TOKENIZER, WEIGHTS};

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The files, in the order of fetching.
    pub files: Vec<Entry>,
    /// The one that is the model; `None`: the folder is.
    pub model: Option<String>,
}

/// Files that a model's folder may have beside its weights.
const BESIDE: [&str; 14] = [
    files::GENERATION,
    TOKENIZER,
    files::TOKENIZER_CONFIG,
    files::SPECIAL_TOKENS,
    files::ADDED_TOKENS,
    files::WORDS,
    files::CHAT_TEMPLATE,
    files::CHAT_TEMPLATE_JSON,
    files::MODULES,
    files::SENTENCE,
    files::PROMPTS,
    files::POOLING_CONFIG,
    "LICENSE",
    "LICENSE.txt",
];

/// Vocabularies in other forms, for where there is no tokenizer.json.
fn vocabularies() -> impl Iterator<Item = &'static str> {
    files::GPT2.into_iter().flat_map(|(vocabulary, merges)| [vocabulary, merges])
}

/// The files that `name` means, of those that a repository has. `config.json` is fetched last: a folder that has it has
/// everything.
///
/// # Errors
/// [`Error::NoModel`], [`Error::Several`] GGUF files and none named, [`Error::NoFile`], and [`Error::Path`] for a file that is
/// wanted under a name that is not safe.
pub fn choose(name: &Name, entries: &[Entry]) -> Result<Choice> {
    let find = |path: &str| entries.iter().find(|e| e.path == path);
    let ggufs: Vec<&Entry> = entries.iter().filter(|e| e.path.to_ascii_lowercase().ends_with(".gguf")).collect();
    let choice = if let Some(file) = name.file() {
        let Some(entry) = find(file) else {
            let near = entries.iter().map(|e| (strsim::jaro_winkler(file, &e.path), &e.path));
            let near = near.filter(|n| n.0 > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|n| n.1.clone());
            return Err(Error::NoFile { name: name.to_string(), near, has: listed(&ggufs) });
        };
        of_file(entry, entries)
    } else if let (Some(config), Some(weights)) = (find(CONFIG), weights(entries)) {
        let has_tokenizer = find(TOKENIZER).is_some();
        let beside = BESIDE.into_iter().chain(vocabularies().filter(|_| !has_tokenizer));
        let mut files: Vec<Entry> = beside.filter_map(|path| find(path).cloned()).collect();
        files.extend(weights);
        files.push(config.clone());
        Choice { files, model: None }
    } else {
        let first: Vec<&Entry> = ggufs.iter().copied().filter(|e| part(&e.path).is_none_or(|p| p.1 == 1)).collect();
        match first[..] {
            [] => return Err(Error::NoModel { name: name.to_string(), other: other_weights(entries) }),
            [one] => of_file(one, entries),
            _ => return Err(Error::Several { name: name.to_string(), has: listed(&first) }),
        }
    };
    match choice.files.iter().find(|f| !is_safe_path(&f.path)) {
        Some(file) => Err(Error::Path { name: name.to_string(), path: file.path.clone() }),
        None => Ok(choice),
    }
}

/// One file, with its other parts.
fn of_file(entry: &Entry, entries: &[Entry]) -> Choice {
    let files = match part(&entry.path) {
        None => vec![entry.clone()],
        Some((stem, _, of)) => {
            let same = |e: &&Entry| part(&e.path).is_some_and(|p| p.0 == stem && p.2 == of);
            let mut files: Vec<Entry> = entries.iter().filter(same).cloned().collect();
            files.sort_by(|a, b| a.path.cmp(&b.path));
            files
        }
    };
    Choice { model: files.first().map(|f| f.path.clone()), files }
}

/// Stem, number and count of `STEM-00001-of-00003.gguf`.
fn part(path: &str) -> Option<(&str, usize, usize)> {
    let (rest, of) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((stem, five(number)?, five(of)?))
}

/// The safetensors of a folder: one file, or an index and its parts.
fn weights(entries: &[Entry]) -> Option<Vec<Entry>> {
    if let Some(index) = entries.iter().find(|e| e.path == INDEX) {
        let mut parts: Vec<Entry> = entries.iter().filter(|e| is_shard(&e.path)).cloned().collect();
        parts.sort_by(|a, b| a.path.cmp(&b.path));
        parts.push(index.clone());
        return (parts.len() > 1).then_some(parts);
    }
    entries.iter().find(|e| e.path == WEIGHTS).map(|e| vec![e.clone()])
}

/// Whether a file is one of the parts that an index names.
fn is_shard(path: &str) -> bool {
    path.starts_with("model-") && path.contains("-of-") && path.ends_with(".safetensors")
}

/// Whether a folder's choice may have a file of this path.
pub(super) fn is_of_folder(path: &str) -> bool {
    let named = [CONFIG, WEIGHTS, INDEX].contains(&path) || BESIDE.contains(&path) || vocabularies().any(|v| v == path);
    (named || is_shard(path)) && is_safe_path(path)
}

/// The names that change how a folder is read, but for `config.json`; other vocabularies are not looked at where there is a
/// `tokenizer.json`.
pub(crate) fn fixed_names(has_tokenizer: bool) -> impl Iterator<Item = &'static str> {
    let vocabularies = vocabularies().filter(move |_| !has_tokenizer);
    BESIDE.into_iter().filter(|path| !path.starts_with("LICENSE")).chain(vocabularies).chain([WEIGHTS, INDEX])
}

/// Weights of a kind that is not read.
fn other_weights(entries: &[Entry]) -> Option<String> {
    let kinds = [".bin", ".safetensors", ".pth", ".onnx", ".h5", ".msgpack"];
    entries.iter().find(|e| kinds.iter().any(|k| e.path.ends_with(k))).map(|e| e.path.clone())
}

/// Paths with their sizes.
fn listed(entries: &[&Entry]) -> Vec<(String, u64)> {
    entries.iter().map(|e| (e.path.clone(), e.size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(paths: &[&str]) -> Vec<Entry> {
        paths.iter().map(|p| Entry { path: p.to_string(), size: 1, sha256: None }).collect()
    }

    fn chosen(name: &str, paths: &[&str]) -> Result<Vec<String>> {
        let choice = choose(&name.parse().unwrap(), &entries(paths))?;
        Ok(choice.files.into_iter().map(|f| f.path).collect())
    }

    #[test]
    fn folders_are_fetched_without_copies() {
        let all = [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "onnx/model.onnx",
            "tokenizer.json",
            "vocab.json",
            "README.md",
            "../x",
            "original/model.safetensors",
            "model.gguf",
        ];
        assert_eq!(chosen("a/b", &all).unwrap(), ["tokenizer.json", "model.safetensors", "config.json"]);
        let parts = [
            "config.json",
            INDEX,
            "model-00002-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
            "merges.txt",
        ];
        let expected = ["merges.txt", parts[3], parts[2], INDEX, "config.json"];
        assert_eq!(chosen("a/b", &parts).unwrap(), expected);
    }

    #[test]
    fn of_gguf_files_one_is_fetched() {
        assert_eq!(chosen("a/b", &["x.gguf", "README.md", "config.json"]).unwrap(), ["x.gguf"]);
        let e = chosen("a/b", &["x-q4.gguf", "x-q8.gguf"]).unwrap_err();
        assert!(e.hint().unwrap().contains("a/b:x-q4.gguf"), "{:?}", e.hint());
        assert!(e.to_string().contains("x-q8.gguf"), "{e}");
        assert_eq!(chosen("a/b:x-q8.gguf", &["x-q4.gguf", "x-q8.gguf"]).unwrap(), ["x-q8.gguf"]);
        let parts = ["q/x-00002-of-00002.gguf", "q/x-00001-of-00002.gguf", "q/x-00001-of-00003.gguf"];
        assert_eq!(chosen("a/b:q/x-00002-of-00002.gguf", &parts).unwrap(), [parts[1], parts[0]]);
        assert_eq!(chosen("a/b", &parts[..2]).unwrap(), [parts[1], parts[0]]);
        let e = chosen("a/b:x-q5.gguf", &["x-q4.gguf"]).unwrap_err();
        assert!(e.hint().unwrap().contains("x-q4.gguf"), "{:?}", e.hint());
        let e = chosen("a/b", &["pytorch_model.bin", "config.json"]).unwrap_err();
        assert!(e.to_string().contains("pytorch_model.bin"), "{e}");
        assert!(chosen("a/b", &[]).is_err());
    }

    #[test]
    fn wanted_files_with_unsafe_names_are_refused() {
        for path in
            ["../x.gguf", "/etc/x.gguf", "a/../x.gguf", "x\n.gguf", "x y.gguf", "con.gguf", "a\\x.gguf", "%2e.gguf"]
        {
            let e = chosen("a/b", &[path]).unwrap_err();
            assert!(matches!(e, Error::Path { .. }), "{path:?}: {e}");
        }
    }
}

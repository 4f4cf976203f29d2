//! What a model's own files say about the vectors it was trained to give.
//!
//! Here: [`Settings`], read from and written to the files of `sentence-transformers` (`modules.json`, the pooling module's
//! `config.json`, `sentence_bert_config.json`, `config_sentence_transformers.json`) and the `pooling_type` key of GGUF
//! (llama.cpp's `llama_pooling_type`). Not here: what is computed by them (`gently_infer::Pooling`).
//!
//! ```
//! use gently::embed::Settings;
//! let dir = std::env::temp_dir().join(format!("gently-doc-settings-{}", std::process::id()));
//! Settings { max_tokens: Some(256), ..Settings::default() }.save(&dir, 384)?;
//! let (_, found) = Settings::of_folder(&dir)?;
//! assert_eq!(found.unwrap().max_tokens, Some(256));
//! # std::fs::remove_dir_all(&dir).ok();
//! # Ok::<(), gently::embed::Error>(())
//! ```

use super::Error;
use gently_formats::files::{CONFIG, MODULES, POOLING, PROMPTS, SENTENCE};
use gently_formats::gguf::{Gguf, Value as Meta};
use gently_infer::Pooling;
use serde_json::{Map, Value, json};
use std::path::{Component, Path, PathBuf};

/// These files have some hundred bytes.
const LONGEST: u64 = 1 << 20;

/// How a text becomes a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How the rows of its tokens become one vector; of several, the vectors stand one after another.
    pub pooling: Vec<Pooling>,
    /// Whether vectors are made of length one.
    pub normalize: bool,
    /// A text's most tokens, with those put around it; the rest of the text is cut. `None`: the model's context.
    pub max_tokens: Option<usize>,
    /// Whether texts, with the prompt in front, become lower case before they become tokens.
    pub lowercase: bool,
    /// What is put in front of every text. White space around both together is left out.
    pub prompt: String,
}

impl Default for Settings {
    /// Where files say nothing: the mean of all tokens, of length one.
    fn default() -> Self {
        Self {
            pooling: vec![Pooling::Mean],
            normalize: true,
            max_tokens: None,
            lowercase: false,
            prompt: String::new(),
        }
    }
}

impl Settings {
    /// The folder of the transformer's own files, and what the folder's files say; `None` where they say nothing.
    ///
    /// # Errors
    /// [`Error::Settings`] for files that are damaged or contradict each other; [`Error::Unsupported`] for modules and
    /// options that are not known, which would be silently wrong.
    pub fn of_folder(dir: &Path) -> Result<(PathBuf, Option<Self>), Error> {
        let path = dir.join(MODULES);
        let Some(modules) = read(&path)? else {
            let mut settings = Self::default();
            return Ok((dir.into(), settings.read_sentence(dir)?.then_some(settings)));
        };
        let wrong = |what: String| Error::Settings { path: path.clone(), what };
        let Some(modules) = modules.as_array() else { return Err(wrong("it is not a list of modules".into())) };
        let mut settings = Self { pooling: Vec::new(), normalize: false, ..Self::default() };
        let mut transformer = None;
        for (i, module) in modules.iter().enumerate() {
            let Some(module) = module.as_object() else { return Err(wrong(format!("module {i} is not an object"))) };
            let keys = Keys { map: module, path: &path };
            let kind = keys.text("type")?;
            let place = below(dir, keys.text("path")?)
                .ok_or_else(|| wrong(format!("the path of module {i} leads out of the folder: {}", module["path"])))?;
            match kind.rsplit('.').next().unwrap_or(kind) {
                "Transformer" if i == 0 => transformer = Some(place),
                "Pooling" if i > 0 && settings.pooling.is_empty() && !settings.normalize => {
                    settings.pooling = pooling(&place.join(CONFIG))?;
                }
                "Normalize" if !settings.pooling.is_empty() => settings.normalize = true,
                _ => {
                    return Err(Error::Unsupported {
                        path: path.clone(),
                        what: format!("module {i}, {kind:?}, is not supported here"),
                    });
                }
            }
        }
        let Some(transformer) = transformer.filter(|_| !settings.pooling.is_empty()) else {
            return Err(wrong("it names no Transformer and Pooling".into()));
        };
        settings.read_sentence(&transformer)?;
        settings.read_prompt(dir)?;
        Ok((transformer, Some(settings)))
    }

    /// What a GGUF file says; `None` where it says nothing.
    ///
    /// # Errors
    /// [`Error::Settings`] for a key of the wrong type, [`Error::Unsupported`] for a kind of pooling that gives no vector.
    pub fn of_gguf(file: &Gguf) -> Result<Option<Self>, Error> {
        let architecture = file.metadata().text("general.architecture")?;
        let key = format!("{architecture}.pooling_type");
        let Some(kind) = file.metadata().size_if(&key)? else { return Ok(None) };
        let pooling = match kind {
            1 => Pooling::Mean,
            2 => Pooling::Cls,
            3 => Pooling::Last,
            0 => return Err(Error::Unsupported { path: file.path().into(), what: format!("{key} is 0, none") }),
            4 => return Err(Error::Unsupported { path: file.path().into(), what: format!("{key} is 4, a ranker") }),
            n => {
                return Err(Error::Settings {
                    path: file.path().into(),
                    what: format!("{key} is {n}, which is no kind"),
                });
            }
        };
        Ok(Some(Self { pooling: vec![pooling], ..Self::default() }))
    }

    /// The key of a GGUF file of an architecture that says how rows become a vector; `None` for several ways beside each other, or
    /// one that llama.cpp does not have. What else has no form there: [`Self::lost_in_gguf`].
    pub fn to_gguf(&self, architecture: &str) -> Option<(String, Meta)> {
        let kind = match self.pooling[..] {
            [Pooling::Mean] => 1,
            [Pooling::Cls] => 2,
            [Pooling::Last] => 3,
            _ => return None,
        };
        Some((format!("{architecture}.pooling_type"), Meta::U32(kind)))
    }

    /// What a GGUF file of a model of this context, in tokens, does not say of it; each by the name that the files of
    /// `sentence-transformers` have for it.
    pub fn lost_in_gguf(&self, context: usize) -> Vec<String> {
        let mut lost = Vec::new();
        if self.to_gguf("").is_none() {
            let ways: Vec<&str> = self.pooling.iter().map(|way| way.name()).collect();
            lost.push(format!("pooling by {}", ways.join(" and ")));
        }
        if !self.normalize {
            lost.push("that there is no Normalize (its vectors are of length one)".into());
        }
        if let Some(most) = self.max_tokens.filter(|most| *most < context) {
            lost.push(format!("max_seq_length = {most}"));
        }
        if self.lowercase {
            lost.push("do_lower_case = true".into());
        }
        if !self.prompt.is_empty() {
            lost.push(format!("the prompt {:?}", self.prompt));
        }
        lost
    }

    /// Writes the files of `sentence-transformers` into a model's folder; `width` is the model's.
    ///
    /// # Errors
    /// [`Error::Format`] for files that cannot be written.
    pub fn save(&self, dir: &Path, width: usize) -> Result<(), Error> {
        let kind = |name: &str| format!("sentence_transformers.models.{name}");
        let mut modules = vec![
            json!({"idx": 0, "name": "0", "path": "", "type": kind("Transformer")}),
            json!({"idx": 1, "name": "1", "path": POOLING, "type": kind("Pooling")}),
        ];
        if self.normalize {
            modules.push(json!({"idx": 2, "name": "2", "path": "2_Normalize", "type": kind("Normalize")}));
        }
        let mut pooling = json!({"word_embedding_dimension": width, "include_prompt": true});
        for p in Pooling::ALL {
            pooling[flag(p)] = self.pooling.contains(&p).into();
        }
        let sentence = json!({"max_seq_length": self.max_tokens, "do_lower_case": self.lowercase});
        let folder = dir.join(POOLING);
        std::fs::create_dir_all(&folder).map_err(gently_formats::Error::io(&folder, "create"))?;
        let mut files = vec![
            (dir.join(MODULES), Value::Array(modules)),
            (folder.join(CONFIG), pooling),
            (dir.join(SENTENCE), sentence),
        ];
        if !self.prompt.is_empty() {
            let prompts = json!({"prompts": {"default": self.prompt}, "default_prompt_name": "default"});
            files.push((dir.join(PROMPTS), prompts));
        }
        for (path, value) in files {
            gently_formats::atomic::write(path, format!("{value:#}\n").as_bytes())?;
        }
        Ok(())
    }

    /// Whether the file about the transformer's texts is there.
    fn read_sentence(&mut self, dir: &Path) -> Result<bool, Error> {
        let path = dir.join(SENTENCE);
        let Some(file) = read(&path)? else { return Ok(false) };
        let keys = Keys::of(&file, &path)?;
        self.max_tokens = keys.size_if("max_seq_length")?;
        self.lowercase = keys.flag("do_lower_case")?;
        Ok(true)
    }

    fn read_prompt(&mut self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(PROMPTS);
        let Some(file) = read(&path)? else { return Ok(()) };
        let keys = Keys::of(&file, &path)?;
        let Some(name) = keys.text_if("default_prompt_name")? else { return Ok(()) };
        let prompt = keys.map.get("prompts").and_then(|p| p.get(name)).and_then(Value::as_str);
        let Some(prompt) = prompt else {
            let what = format!("it has no prompt {name:?}, its default_prompt_name");
            return Err(Error::Settings { path: path.clone(), what });
        };
        self.prompt = prompt.into();
        Ok(())
    }
}

/// The key of a pooling module's older form.
fn flag(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Cls => "pooling_mode_cls_token",
        Pooling::Max => "pooling_mode_max_tokens",
        Pooling::Mean => "pooling_mode_mean_tokens",
        Pooling::MeanSqrtLength => "pooling_mode_mean_sqrt_len_tokens",
        Pooling::WeightedMean => "pooling_mode_weightedmean_tokens",
        Pooling::Last => "pooling_mode_lasttoken",
    }
}

/// A pooling module's ways: the flags that are true, or the newer `pooling_mode`, a name or several.
fn pooling(path: &Path) -> Result<Vec<Pooling>, Error> {
    let wrong = |what: String| Error::Settings { path: path.into(), what };
    let Some(file) = read(path)? else { return Err(wrong("it is missing, and modules.json names its module".into())) };
    let keys = Keys::of(&file, path)?;
    if keys.map.get("include_prompt").is_some_and(|v| *v == Value::Bool(false)) {
        let what = "include_prompt = false is not supported here".into();
        return Err(Error::Unsupported { path: path.into(), what });
    }
    let mut ways = Vec::new();
    match keys.map.get("pooling_mode") {
        None | Some(Value::Null) => {
            for p in Pooling::ALL {
                if keys.flag(flag(p))? {
                    ways.push(p);
                }
            }
        }
        Some(said) => {
            let one = std::slice::from_ref(said);
            for name in said.as_array().map_or(one, Vec::as_slice) {
                let way = name.as_str().and_then(Pooling::named);
                let way = way.ok_or_else(|| wrong(format!("pooling_mode = {name} is no way of pooling known here")))?;
                if ways.contains(&way) {
                    return Err(wrong(format!("pooling_mode has {name} twice")));
                }
                ways.push(way);
            }
        }
    }
    if ways.is_empty() {
        return Err(wrong("it says no way of pooling".into()));
    }
    Ok(ways)
}

/// The width that a folder's pooling module was made for, where it says one.
pub(super) fn stated_width(dir: &Path) -> Result<Option<(PathBuf, usize)>, Error> {
    let Some(modules) = read(&dir.join(MODULES))? else { return Ok(None) };
    let is_pooling = |m: &&Value| m["type"].as_str().is_some_and(|t| t.rsplit('.').next() == Some("Pooling"));
    let module = modules.as_array().and_then(|m| m.iter().find(is_pooling));
    let Some(place) = module.and_then(|m| below(dir, m["path"].as_str()?)) else { return Ok(None) };
    let path = place.join(CONFIG);
    let Some(file) = read(&path)? else { return Ok(None) };
    let keys = Keys::of(&file, &path)?;
    let width = match keys.size_if("word_embedding_dimension")? {
        Some(width) => Some(width),
        None => keys.size_if("embedding_dimension")?,
    };
    Ok(width.map(|w| (path, w)))
}

/// A path below `dir`: no way out of it.
fn below(dir: &Path, path: &str) -> Option<PathBuf> {
    let inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    // Joined to nothing, a folder's name would end in a slash.
    inside.then(|| if path.is_empty() { dir.to_owned() } else { dir.join(path) })
}

/// A small JSON file; `None` where it is not there.
fn read(path: &Path) -> Result<Option<Value>, Error> {
    let wrong = |what: String| Error::Settings { path: path.into(), what };
    let bytes = match gently_formats::bounded::read(path, LONGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Err(wrong(e.to_string())),
        Err(e) => return Err(gently_formats::Error::io(path, "read")(e).into()),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| wrong(format!("it is not JSON: {e}")))
}

/// Typed access with errors that name file and key.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    fn of(value: &'a Value, path: &'a Path) -> Result<Self, Error> {
        let what = "it is not a JSON object".to_owned();
        value.as_object().map(|map| Self { map, path }).ok_or(Error::Settings { path: path.into(), what })
    }

    fn get<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.map.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
        let wrong = || Error::Settings { path: self.path.into(), what: format!("{key} = {value} is not {what}") };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn text_if(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.get(key, "a text", Value::as_str)
    }

    fn text(&self, key: &str) -> Result<&'a str, Error> {
        let what = format!("{key} is missing");
        self.text_if(key)?.ok_or(Error::Settings { path: self.path.into(), what })
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        Ok(self.get(key, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    fn size_if(&self, key: &str) -> Result<Option<usize>, Error> {
        self.get(key, "a count", |v| v.as_u64().filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gently_formats::files::POOLING_CONFIG;
    use std::fs;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn modules(kinds: &[(&str, &str)]) -> String {
        let one =
            |(kind, path): &(&str, &str)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
        Value::Array(kinds.iter().map(one).collect()).to_string()
    }

    fn usual() -> String {
        modules(&[("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")])
    }

    #[test]
    fn the_files_of_sentence_transformers_are_read() {
        let dir = folder(&[
            (MODULES, &usual()),
            (
                POOLING_CONFIG,
                r#"{"word_embedding_dimension": 384, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}"#,
            ),
            (SENTENCE, r#"{"max_seq_length": 256, "do_lower_case": false}"#),
            (PROMPTS, r#"{"prompts": {"query": "q: "}, "default_prompt_name": null}"#),
        ]);
        let (transformer, found) = Settings::of_folder(dir.path()).unwrap();
        assert_eq!(transformer.as_os_str(), dir.path().as_os_str(), "as it was given");
        assert_eq!(found.unwrap(), Settings { max_tokens: Some(256), ..Settings::default() });
        assert_eq!(stated_width(dir.path()).unwrap().unwrap().1, 384);

        let dir = folder(&[
            (MODULES, &modules(&[("Transformer", "0_Transformer"), ("Pooling", "1_Pooling")])),
            (POOLING_CONFIG, r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#),
            ("0_Transformer/sentence_bert_config.json", r#"{"max_seq_length": null, "do_lower_case": true}"#),
            (PROMPTS, r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query"}"#),
        ]);
        let (transformer, found) = Settings::of_folder(dir.path()).unwrap();
        assert_eq!(transformer, dir.path().join("0_Transformer"));
        let pooling = vec![Pooling::Cls, Pooling::Max];
        let known = Settings { pooling, normalize: false, max_tokens: None, lowercase: true, prompt: "q: ".into() };
        assert_eq!(found.unwrap(), known);

        for (said, way) in [("\"lasttoken\"", Pooling::Last), ("[\"mean_sqrt_len\"]", Pooling::MeanSqrtLength)] {
            let text = format!("{{\"pooling_mode\": {said}, \"embedding_dimension\": 8}}");
            let dir = folder(&[(MODULES, &usual()), (POOLING_CONFIG, &text)]);
            assert_eq!(Settings::of_folder(dir.path()).unwrap().1.unwrap().pooling, [way]);
            assert_eq!(stated_width(dir.path()).unwrap().unwrap().1, 8);
        }
        assert_eq!(Settings::of_folder(folder(&[]).path()).unwrap().1, None);
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        let all = [
            Settings::default(),
            Settings { pooling: vec![Pooling::Cls, Pooling::WeightedMean], normalize: false, ..Settings::default() },
            Settings { max_tokens: Some(7), lowercase: true, prompt: "search: ".into(), ..Settings::default() },
        ];
        for settings in all {
            let dir = tempfile::tempdir().unwrap();
            settings.save(dir.path(), 24).unwrap();
            assert_eq!(Settings::of_folder(dir.path()).unwrap(), (dir.path().into(), Some(settings)));
            assert_eq!(stated_width(dir.path()).unwrap().unwrap().1, 24);
        }
        let key = |s: Settings| s.to_gguf("bert");
        assert_eq!(key(Settings::default()), Some(("bert.pooling_type".into(), Meta::U32(1))));
        assert_eq!(key(Settings { pooling: vec![Pooling::Max], ..Settings::default() }), None);
        let lost = |s: &Settings| s.lost_in_gguf(24);
        assert!(lost(&Settings { max_tokens: Some(24), ..Settings::default() }).is_empty());
        let all = Settings {
            pooling: vec![Pooling::Cls, Pooling::Max],
            normalize: false,
            max_tokens: Some(23),
            lowercase: true,
            prompt: "a: ".into(),
        };
        let names = ["cls and max", "Normalize", "max_seq_length = 23", "do_lower_case = true", "prompt \"a: \""];
        assert_eq!(lost(&all).len(), names.len());
        assert!(lost(&all).iter().zip(names).all(|(said, name)| said.contains(name)), "{:?}", lost(&all));
        assert!(key(Settings { pooling: vec![Pooling::Cls], ..all }).is_some(), "the rest costs no pooling");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |files: &[(&str, &str)], words: &[&str]| {
            let e = Settings::of_folder(folder(files).path()).unwrap_err();
            let said = e.to_string();
            words.iter().for_each(|w| assert!(said.contains(w), "{w}: {said}"));
            assert!(e.hint().is_some(), "{said}");
        };
        let mean = r#"{"pooling_mode_mean_tokens": true}"#;
        refused(&[(MODULES, "[{")], &["modules.json", "not JSON"]);
        refused(&[(MODULES, "{}")], &["modules.json", "list of modules"]);
        refused(&[(MODULES, "[3]")], &["module 0"]);
        refused(&[(MODULES, "[]")], &["no Transformer"]);
        refused(&[(MODULES, "[{\"path\": \"\"}]")], &["type is missing"]);
        refused(&[(MODULES, &modules(&[("Transformer", "../elsewhere")]))], &["out of the folder", "elsewhere"]);
        refused(&[(MODULES, &modules(&[("Transformer", "/etc")]))], &["out of the folder"]);
        refused(&[(MODULES, &modules(&[("Transformer", "")]))], &["no Transformer and Pooling"]);
        let dense = modules(&[("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]);
        refused(&[(MODULES, &dense), (POOLING_CONFIG, mean)], &["Dense", "not supported"]);
        let late = modules(&[("Pooling", "1_Pooling"), ("Transformer", "")]);
        refused(&[(MODULES, &late), (POOLING_CONFIG, mean)], &["module 0"]);
        refused(&[(MODULES, &usual())], &[POOLING_CONFIG, "missing"]);
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, "[]")], &[POOLING_CONFIG, "object"]);
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, "{}")], &[POOLING_CONFIG, "no way of pooling"]);
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, "{\"pooling_mode\": \"median\"}")], &["median"]);
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, "{\"pooling_mode\": [\"cls\", \"cls\"]}")], &["twice"]);
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, "{\"pooling_mode_cls_token\": 1}")], &["cls_token = 1"]);
        let without = r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#;
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, without)], &["include_prompt"]);
        for size in ["0", "-3", "\"long\"", "1e300", "2.5"] {
            let text = format!("{{\"max_seq_length\": {size}}}");
            refused(&[(MODULES, &usual()), (POOLING_CONFIG, mean), (SENTENCE, &text)], &[SENTENCE, "max_seq_length"]);
        }
        let prompt = r#"{"prompts": {}, "default_prompt_name": "query"}"#;
        refused(&[(MODULES, &usual()), (POOLING_CONFIG, mean), (PROMPTS, prompt)], &[PROMPTS, "query"]);
        let long = " ".repeat(LONGEST as usize + 1);
        refused(&[(MODULES, &long)], &["has more than"]);
    }
}

//! One tokenizer type over all kinds.

use crate::characters::CharTable;
use crate::json::{self, Recognised};
use crate::names::{self, Names};
use crate::pipeline::Pipeline;
use crate::{Error, Result, TemplateTokens, gpt2};
use gently_formats::{atomic, bounded, files};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// No published tokenizer file is near this.
const MAX_FILE: u64 = 256 << 20;

/// What a tokenizer's tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// 256 bytes.
    Bytes,
    /// Characters of one text.
    Characters,
    /// Anything that a `tokenizer.json` describes: BPE, WordPiece, Unigram …
    Pipeline,
}

/// Text to tokens and back. A clone is cheap and shares the tables.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    /// Tokens that end a text or an answer, the end of text first.
    ends: Arc<[u32]>,
    /// What the files say beside.
    names: Names,
    /// Where the unused tokens begin that pad the vocabulary at its end, in a file that says which are unused.
    padding: Option<usize>,
}

#[derive(Debug)]
struct Inner {
    model: Model,
    /// Found when first wanted.
    hash: OnceLock<u64>,
}

#[derive(Debug)]
enum Model {
    Bytes(Vec<(String, u32)>),
    Characters(CharTable, Vec<(String, u32)>),
    Pipeline(Box<Pipeline>),
}

impl Tokenizer {
    /// Each byte is a token: 256 tokens, any text, no special tokens.
    pub fn bytes() -> Self {
        Self::direct(Model::Bytes(Vec::new()))
    }

    /// Each distinct character is a token, in code-point order.
    pub fn characters(chars: impl IntoIterator<Item = char>) -> Self {
        Self::direct(Model::Characters(CharTable::from_chars(chars), Vec::new()))
    }

    /// The same tokenizer with `token` as an additional special token that ends texts, if it has none yet.
    /// Only byte and character tokenizers can be extended; others keep what their file says.
    #[must_use]
    pub fn with_end_of_text(&self, token: &str) -> Self {
        if !self.ends.is_empty() {
            return self.clone();
        }
        let special = vec![(token.to_owned(), self.vocab_size() as u32)];
        match &self.inner.model {
            Model::Bytes(s) if s.is_empty() => Self::direct(Model::Bytes(special)),
            Model::Characters(t, s) if s.is_empty() => Self::direct(Model::Characters(t.clone(), special)),
            _ => self.clone(),
        }
    }

    fn direct(model: Model) -> Self {
        let names = match &model {
            // These kinds have at most one special token, the end of text, whatever its name.
            Model::Bytes(specials) | Model::Characters(_, specials) => {
                Names { end: specials.first().map(|&(_, id)| id), ..Names::default() }
            }
            Model::Pipeline(p) => Names::usual(&p.special_ids),
        };
        let inner = Arc::new(Inner { model, hash: OnceLock::new() });
        Self { inner, ends: names.end.into_iter().collect(), names, padding: None }
    }

    /// Of a pipeline that was put together here; `path` is for messages.
    pub(crate) fn built(pipeline: tokenizers::Tokenizer, path: &Path) -> Result<Self> {
        Ok(Self::of_pipeline(Pipeline::built(pipeline, path)?))
    }

    pub(crate) fn of_pipeline(pipeline: Pipeline) -> Self {
        Self::direct(Model::Pipeline(Box::new(pipeline)))
    }

    /// The same tokenizer, its texts and answers ended by these tokens, the end of text first. An empty list changes
    /// nothing.
    #[must_use]
    pub fn with_ends(mut self, ends: &[u32]) -> Self {
        if !ends.is_empty() {
            let mut distinct: Vec<u32> = Vec::with_capacity(ends.len());
            ends.iter().for_each(|&id| {
                if !distinct.contains(&id) {
                    distinct.push(id)
                }
            });
            self.ends = distinct.into();
        }
        self
    }

    /// The same tokenizer, which [`Self::save`] writes with this length of the longest text, in tokens, where its own files say
    /// none: transformers cuts texts there.
    pub fn with_longest(mut self, tokens: usize) -> Self {
        self.names.longest = self.names.longest.or(Some(tokens as u64));
        self
    }

    /// The same tokenizer, whose files say this of it.
    pub(crate) fn with_names(mut self, names: Names) -> Self {
        self.names = names.within(self.vocab_size(), self.names);
        self
    }

    /// The same tokenizer, whose tokens from this number on are padding.
    pub(crate) fn with_padding(mut self, from: usize) -> Self {
        self.padding = Some(from);
        self
    }

    /// What the files say of it.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// From the text of a `tokenizer.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Json`] or [`Error::Invalid`] with the parser's reason.
    pub fn from_json(text: String, path: &Path) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::Json {
            path: path.into(),
            line: e.line(),
            column: e.column(),
            reason: e.to_string(),
        })?;
        let model = match json::recognise(&value) {
            Recognised::Bytes(s) => Model::Bytes(s),
            Recognised::Characters(chars, s) => Model::Characters(CharTable::from_ordered(chars), s),
            Recognised::Other => Model::Pipeline(Box::new(Pipeline::read(text, value, path)?)),
        };
        Ok(Self::direct(model))
    }

    /// From GPT-2's two files: `vocab.json` and `merges.txt`, or `encoder.json` and `vocab.bpe`.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Merges`] with file and line, [`Error::File`].
    pub fn from_gpt2_files(vocab: impl AsRef<Path>, merges: impl AsRef<Path>) -> Result<Self> {
        let (vocab, merges) = (vocab.as_ref(), merges.as_ref());
        Self::built(gpt2::pipeline(&read(vocab)?, vocab, &read(merges)?, merges)?, vocab)
    }

    /// From a file of `tokenizer.json`'s format, or from a folder with `tokenizer.json`, `vocab.json` and
    /// `merges.txt`, or `encoder.json` and `vocab.bpe`. A folder's `tokenizer_config.json` or `special_tokens_map.json` names the
    /// special tokens, its `generation_config.json` all that end a text or an answer; where that file is not there, `config.json`.
    ///
    /// # Errors
    /// [`Error::Missing`] when nothing of that is there, and those of the formats.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Self::from_json(read(path)?, path);
        }
        let file = path.join(files::TOKENIZER);
        let loaded = if file.exists() {
            Self::from_json(read(&file)?, &file)?
        } else {
            let (vocab, merges) = files::GPT2
                .iter()
                .map(|(v, m)| (path.join(v), path.join(m)))
                .find(|(v, m)| v.exists() && m.exists())
                .ok_or_else(|| Error::Missing {
                    path: path.into(),
                    tried: vec![files::TOKENIZER, "vocab.json + merges.txt", "encoder.json + vocab.bpe"],
                })?;
            Self::from_gpt2_files(vocab, merges)?
        };
        let config = optional(&path.join(files::TOKENIZER_CONFIG));
        let spelled = names::spelled(&config, path);
        let found = Names::find(|key| loaded.token_to_id(spelled.get(key)?));
        // Some have 10^30 there, for none.
        let names = Names { longest: config["model_max_length"].as_u64(), ..found };
        let mut ends: Vec<u32> = names.end.or(loaded.end_of_text()).into_iter().collect();
        ends.extend(generation_ends(path));
        ends.retain(|&id| (id as usize) < loaded.vocab_size());
        Ok(loaded.with_ends(&ends).with_names(names))
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`, which names the special tokens, into the folder, and
    /// `generation_config.json` where a token ends a text, so that Python's `tokenizers` and `transformers` load it. Each file is
    /// complete or absent.
    ///
    /// # Errors
    /// [`Error::File`] naming the file.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<PathBuf> {
        self.save_with(dir, &TemplateTokens::new())
    }

    /// As [`Self::save`], with the special tokens that a chat template uses by name ([`crate::ChatTemplate::tokens`]): they need
    /// not be tokens of the vocabulary.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_with(&self, dir: impl AsRef<Path>, tokens: &TemplateTokens) -> Result<PathBuf> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(gently_formats::Error::io(dir, "create"))?;
        let path = dir.join(files::TOKENIZER);
        atomic::write(&path, self.to_json().as_bytes())?;
        let mut config = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        // An ordinary token that a file has as an end is named below alone: here transformers would take it out of every text.
        let is_named = |id: &u32| self.is_special(*id) || self.names.end == Some(*id);
        let names = Names { end: self.end_of_text().filter(is_named), ..self.names };
        for (key, id) in names.ids() {
            if let Some(token) = self.token(id) {
                config[key] = token.into();
            }
        }
        if let Some(longest) = names.longest {
            config["model_max_length"] = longest.into();
        }
        for (key, token) in tokens {
            config[key.as_str()] = token.as_str().into();
        }
        atomic::write(dir.join(files::TOKENIZER_CONFIG), format!("{config:#}\n").as_bytes())?;
        let generation = dir.join(files::GENERATION);
        // One that is there already would add the ends of another tokenizer.
        if !self.ends.is_empty() || generation.exists() {
            let mut said = serde_json::json!({});
            match self.ends() {
                [] => {}
                [end] => said["eos_token_id"] = (*end).into(),
                ends => said["eos_token_id"] = ends.into(),
            }
            if let Some(start) = names.start {
                said["bos_token_id"] = start.into();
            }
            atomic::write(&generation, format!("{said:#}\n").as_bytes())?;
        }
        Ok(path)
    }

    /// The text of this tokenizer's `tokenizer.json`.
    pub fn to_json(&self) -> String {
        match &self.inner.model {
            Model::Bytes(s) => json::bytes_json(s).to_string(),
            Model::Characters(t, s) => json::characters_json(t.chars(), s).to_string(),
            Model::Pipeline(p) => p.text().to_owned(),
        }
    }

    /// What the tokens are.
    pub fn kind(&self) -> Kind {
        match self.inner.model {
            Model::Bytes(_) => Kind::Bytes,
            Model::Characters(..) => Kind::Characters,
            Model::Pipeline(_) => Kind::Pipeline,
        }
    }

    /// The tokens of `text`, with nothing added. Special tokens spelled out in it are plain text, so that
    /// a corpus cannot smuggle them in.
    ///
    /// # Errors
    /// [`Error::UnknownCharacter`] with the character and its position, for character vocabularies.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.inner.model {
            Model::Bytes(_) => Ok(text.bytes().map(u32::from).collect()),
            Model::Characters(table, _) => {
                let mut out = Vec::new();
                table.encode(text, (0, 0), &mut out)?;
                Ok(out)
            }
            Model::Pipeline(p) => p.encode(text, false),
        }
    }

    /// As [`Self::encode`], but special tokens spelled out in `text` become those tokens: for prompts and
    /// templates of one's own, never for text from elsewhere.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>> {
        let specials = match &self.inner.model {
            Model::Pipeline(p) => return p.encode(text, true),
            Model::Bytes(s) | Model::Characters(_, s) => s,
        };
        let mut out = Vec::new();
        let (mut done, mut position) = (0, 0);
        let mut plain = |part: &str, at: usize, out: &mut Vec<u32>| match &self.inner.model {
            Model::Characters(table, _) => {
                table.encode(part, (at, position), out)?;
                position += part.chars().count();
                Ok::<_, Error>(())
            }
            _ => {
                out.extend(part.bytes().map(u32::from));
                Ok(())
            }
        };
        while let Some((at, name, id)) = specials
            .iter()
            .filter_map(|(name, id)| Some((done + text[done..].find(name.as_str())?, name, *id)))
            .min_by_key(|&(at, name, _)| (at, std::cmp::Reverse(name.len())))
        {
            if name.is_empty() {
                break;
            }
            plain(&text[done..at], done, &mut out)?;
            out.push(id);
            done = at + name.len();
        }
        plain(&text[done..], done, &mut out)?;
        Ok(out)
    }

    /// The text of the tokens; special tokens appear by name, and bytes that are no character as U+FFFD.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for a token outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(match String::from_utf8(self.decode_bytes(ids)?) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        })
    }

    /// The exact bytes of the tokens, which need not be whole characters. Where the pipeline is not byte-level
    /// the bytes are those of its decoded text.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for a token outside the vocabulary.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(ids.len() * 4);
        self.push_bytes(ids, &mut out)?;
        Ok(out)
    }

    /// The bytes that a token stands for inside a text, where nothing is stripped as at a text's beginning: `▁the` is
    /// always ` the`. None for special tokens and for numbers without a token.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for a token outside the vocabulary; [`Error::NoBytes`] where the bytes of tokens depend on their
    /// neighbours (WordPiece).
    pub fn bytes_within(&self, id: u32) -> Result<Option<Vec<u8>>> {
        let model = &self.inner.model;
        let own = match model {
            Model::Pipeline(p) => return p.bytes_within(id),
            Model::Bytes(_) => u8::try_from(id).ok().map(|b| vec![b]),
            Model::Characters(table, _) => table.chars().get(id as usize).map(|c| c.to_string().into_bytes()),
        };
        match own {
            None if id as usize >= self.vocab_size() => Err(Error::UnknownId { id, vocab: self.vocab_size() }),
            own => Ok(own),
        }
    }

    /// The text that a token stands for inside a text, so that the pieces of whole characters join to it: special tokens by
    /// name, and bytes that are no character as U+FFFD. Of WordPiece, whose tokens have no such text, the token decoded alone.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for a token outside the vocabulary.
    pub fn piece(&self, id: u32) -> Result<String> {
        if !self.has_bytes_within() {
            return self.decode(&[id]);
        }
        Ok(match self.bytes_within(id)? {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => self.token(id).unwrap_or_default(),
        })
    }

    /// Whether [`Self::bytes_within`] knows the bytes of tokens.
    pub(crate) fn has_bytes_within(&self) -> bool {
        !matches!(&self.inner.model, Model::Pipeline(p) if !p.has_bytes_within())
    }

    pub(crate) fn push_bytes(&self, ids: &[u32], out: &mut Vec<u8>) -> Result<()> {
        let special = |list: &[(String, u32)], id: u32| -> Result<String> {
            list.iter()
                .find(|(_, i)| *i == id)
                .map(|(name, _)| name.clone())
                .ok_or(Error::UnknownId { id, vocab: self.vocab_size() })
        };
        match &self.inner.model {
            Model::Bytes(specials) => {
                for &id in ids {
                    match u8::try_from(id) {
                        Ok(b) => out.push(b),
                        Err(_) => out.extend_from_slice(special(specials, id)?.as_bytes()),
                    }
                }
            }
            Model::Characters(table, specials) => {
                for &id in ids {
                    match table.chars().get(id as usize) {
                        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                        None => out.extend_from_slice(special(specials, id)?.as_bytes()),
                    }
                }
            }
            Model::Pipeline(p) => {
                p.check(ids)?;
                if !p.push_bytes(ids, out) {
                    out.extend_from_slice(p.decode(ids)?.as_bytes());
                }
            }
        }
        Ok(())
    }

    /// Whether each token has bytes of its own, whatever its neighbours.
    pub(crate) fn is_byte_exact(&self) -> bool {
        !matches!(&self.inner.model, Model::Pipeline(p) if !p.is_byte_level())
    }

    /// Whether a text may be cut between any two characters.
    pub(crate) fn is_local(&self) -> bool {
        !matches!(self.inner.model, Model::Pipeline(_))
    }

    /// The number of token numbers: one more than the greatest.
    pub fn vocab_size(&self) -> usize {
        match &self.inner.model {
            Model::Bytes(s) => 256 + s.len(),
            Model::Characters(t, s) => t.len() + s.len(),
            Model::Pipeline(p) => p.vocab,
        }
    }

    /// The number below which tokens may be chosen: [`Self::vocab_size`], less the unused tokens at the end of a GGUF file's
    /// vocabulary, which are there because the model's is padded.
    pub fn choosable(&self) -> usize {
        let size = self.vocab_size();
        self.padding.map_or(size, |from| from.min(size))
    }

    /// The token that ends a text, if there is one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.ends.first().copied()
    }

    /// All tokens that end a text or an answer: the end of text, of a turn, of a message.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The tokens of a prompt: special tokens spelled out in `text` are those tokens, and in front stands what the tokenizer
    /// puts in front of every text, unless the text has it already.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode_with_specials(text)?;
        let (front, _) = self.around()?;
        Ok(if ids.starts_with(&front) { ids } else { [front, ids].concat() })
    }

    /// The tokens of a whole text with all that the tokenizer puts around it (`[CLS]` and `[SEP]` of BERT): for
    /// encoders. Special tokens spelled out in the text are plain text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_within(text, usize::MAX)?.0)
    }

    /// As [`Self::encode_whole`], of at most `most` tokens: the text loses its end, never what stands around it, which is there
    /// even where it alone is more than `most`. Also says whether anything was cut.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_within(&self, text: &str, most: usize) -> Result<(Vec<u32>, bool)> {
        let (front, behind) = self.around()?;
        let inner = self.encode(text)?;
        let kept = most.saturating_sub(front.len() + behind.len()).min(inner.len());
        Ok(([&front, &inner[..kept], &behind].concat(), kept < inner.len()))
    }

    /// What is put in front of a text, and behind it.
    pub(crate) fn around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        match &self.inner.model {
            Model::Pipeline(p) => p.around(),
            _ => Ok((Vec::new(), Vec::new())),
        }
    }

    /// The tokens that the model of a pipeline makes of a piece, without what the pipeline does to a text before; none of other
    /// kinds.
    pub(crate) fn tokens_of_piece(&self, piece: &str) -> Result<Vec<u32>> {
        match &self.inner.model {
            Model::Pipeline(p) => p.tokens_of_piece(piece),
            _ => Ok(Vec::new()),
        }
    }

    /// The special tokens, by name and number.
    pub fn specials(&self) -> &[(String, u32)] {
        match &self.inner.model {
            Model::Bytes(s) | Model::Characters(_, s) => s,
            Model::Pipeline(p) => &p.special_ids,
        }
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.specials().iter().any(|&(_, i)| i == id)
    }

    /// The number of the token spelled `token` in the file's own spelling (`Ġthe`, `<|endoftext|>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        if let Some(&(_, id)) = self.specials().iter().find(|(name, _)| name == token) {
            return Some(id);
        }
        let mut chars = token.chars();
        match &self.inner.model {
            Model::Pipeline(p) => p.token_to_id(token),
            Model::Characters(t, _) => match (chars.next(), chars.next()) {
                (Some(c), None) => t.get(c),
                _ => None,
            },
            Model::Bytes(_) => match (chars.next(), chars.next()) {
                (Some(c), None) => json::byte_letters().iter().position(|&l| l == c).map(|b| b as u32),
                _ => None,
            },
        }
    }

    /// A token's spelling in the file, `None` for a number with no token.
    pub fn token(&self, id: u32) -> Option<String> {
        if let Some((name, _)) = self.specials().iter().find(|&&(_, i)| i == id) {
            return Some(name.clone());
        }
        match &self.inner.model {
            Model::Pipeline(p) => p.id_to_token(id),
            Model::Characters(t, _) => t.chars().get(id as usize).map(char::to_string),
            Model::Bytes(_) => json::byte_letters().get(id as usize).map(char::to_string),
        }
    }

    /// A number that is the same for the same tokenizer, whatever the layout of its file. Shards and
    /// checkpoints carry it, so that tokens of another tokenizer are refused.
    pub fn hash(&self) -> u64 {
        *self.inner.hash.get_or_init(|| match &self.inner.model {
            Model::Bytes(s) => json::content_hash(&json::bytes_json(s)),
            Model::Characters(t, s) => json::content_hash(&json::characters_json(t.chars(), s)),
            Model::Pipeline(p) => p.hash(),
        })
    }
}

/// A file of settings. It is optional and so are its parts: what cannot be read is as good as absent.
pub(crate) fn optional(path: &Path) -> serde_json::Value {
    read(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// The end tokens of a folder's `generation_config.json`, which lists those of chats beside the end of text. Where it is not
/// there `config.json` says them, as `GenerationConfig.from_model_config` of transformers has it.
fn generation_ends(dir: &Path) -> Vec<u32> {
    let file = dir.join(files::GENERATION);
    let value = optional(&if file.exists() { file } else { dir.join(files::CONFIG) });
    let id = |v: &serde_json::Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match &value["eos_token_id"] {
        serde_json::Value::Array(all) => all.iter().filter_map(id).collect(),
        one => id(one).into_iter().collect(),
    }
}

/// Reads a text file with a limit on its size.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = bounded::read(path, MAX_FILE).map_err(|e| match bounded::is_too_long(&e) {
        true => Error::TooLarge { path: path.into(), limit: MAX_FILE },
        false => gently_formats::Error::io(path, "read")(e).into(),
    })?;
    String::from_utf8(bytes).map_err(|e| Error::NotUtf8 { path: path.into(), offset: e.utf8_error().valid_up_to() })
}

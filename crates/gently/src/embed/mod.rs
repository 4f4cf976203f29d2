//! Texts as vectors: an encoder, its tokenizer, and what the model's files say of pooling.
//!
//! Here: [`Embedder`], which takes any number of texts of any length and gives a row of numbers for each. Not here: the pass
//! over tokens (`gently_infer::Encoder`).
//!
//! Texts are read longest first, in passes of a bounded number of tokens, without padding. A text's numbers have the same
//! bits whatever texts stand beside it.
//!
//! ```no_run
//! use gently::prelude::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let embedder = Embedder::open("all-MiniLM-L6-v2")?;
//! let rows = embedder.embed(&["A man is eating food.", "A man is eating a piece of bread."])?;
//! println!("{}", rows.cosine(0, 1)); // 0.7553
//! # Ok(()) }
//! ```

mod settings;

pub use gently_infer::Pooling;
pub use settings::Settings;

use crate::{folder, gguf};
use gently_infer::{Encoder, Work, unit_length};
use gently_kernels::pool;
use gently_models::WeightSource;
use gently_text::Tokenizer;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Why texts do not become vectors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model cannot be opened.
    #[error(transparent)]
    Open(#[from] folder::Error),
    /// A file about pooling is damaged, or does not fit the model.
    #[error("{}: {what}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file asks for something that is not computed here.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it asks for.
        what: String,
    },
    /// A text that cannot become tokens.
    #[error("text {index} cannot become tokens")]
    Text {
        /// Its place among the texts, from 0.
        index: usize,
        /// Why.
        source: gently_text::Error,
    },
    /// A text without a token.
    #[error("text {index} has no tokens")]
    Empty {
        /// Its place among the texts, from 0.
        index: usize,
    },
    /// A vector with numbers that are none.
    #[error("the vector of text {index} is not finite")]
    NotFinite {
        /// The text's place among the texts, from 0.
        index: usize,
    },
    /// A file's own structure, or one that cannot be read or written.
    #[error(transparent)]
    Format(#[from] gently_formats::Error),
    /// The pass failed.
    #[error(transparent)]
    Infer(#[from] gently_infer::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Open(e) => e.hint(),
            Self::Settings { .. } => {
                Some("take the file from where the model was published, or correct it by hand".into())
            }
            Self::Unsupported { .. } => {
                Some("take a model of Transformer, Pooling and Normalize, or choose the pooling yourself".into())
            }
            Self::Text { source, .. } => source.hint(),
            Self::Empty { .. } => Some("leave empty texts out".into()),
            Self::NotFinite { .. } => Some("the weights may be damaged, or too coarse".into()),
            Self::Format(e) => e.hint().map(str::to_owned),
            Self::Infer(e) => e.hint(),
        }
    }
}

/// Choices that stand before what a model's files say.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedOptions {
    /// How rows become a vector.
    pub pooling: Option<Pooling>,
    /// Whether vectors are made of length one.
    pub normalize: Option<bool>,
    /// A text's most tokens, with those put around it.
    pub max_tokens: Option<usize>,
    /// Tokens of a pass, which bound its memory; a longer text is a pass of its own. The default is 1024.
    pub pass_tokens: usize,
}

impl Default for EmbedOptions {
    fn default() -> Self {
        Self { pooling: None, normalize: None, max_tokens: None, pass_tokens: 1024 }
    }
}

/// A model that gives vectors for texts.
pub struct Embedder {
    path: PathBuf,
    encoder: Encoder,
    tokenizer: Tokenizer,
    settings: Settings,
    /// A text's most tokens, those put around it included.
    most: usize,
    pass_tokens: usize,
    /// Memory of the last pass; a second caller at the same time makes its own.
    work: Mutex<Option<Work>>,
}

/// The tokens of a text, and whether it was cut.
type Cut = gently_text::Result<(Vec<u32>, bool)>;

impl Embedder {
    /// Opens the model that `path` means: a GGUF file, or a folder with `config.json`, with or without the files of
    /// `sentence-transformers`. Quantized weights are computed with as they are stored.
    ///
    /// # Errors
    /// No model there; files that are damaged or do not fit each other; [`Error::Unsupported`] for modules that are not
    /// known.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, EmbedOptions::default())
    }

    /// As [`Embedder::open`], with choices of one's own.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(path: impl AsRef<Path>, options: EmbedOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        // A choice of one's own stands in for what the files say, also where they ask for what is not known here.
        let own = options.pooling.is_some();
        let (place, stated) = match path.is_dir().then(|| Settings::of_folder(path)) {
            Some(Err(_)) if own => (folder::locate(path)?, None),
            Some(said) => {
                let (transformer, stated) = said?;
                (folder::locate(&transformer)?, stated)
            }
            None => (folder::locate(path)?, None),
        };
        let weights = WeightSource::open(&place).map_err(folder::Error::from)?;
        let (tokenizer, stated) = match weights.gguf() {
            Some(file) if own => (gguf::tokenizer(file)?, None),
            Some(file) => (gguf::tokenizer(file)?, Settings::of_gguf(file)?),
            None => (Tokenizer::load(&place).map_err(folder::Error::from)?, stated),
        };
        let (size, cfg) = (tokenizer.vocab_size(), weights.config());
        if size > cfg.vocab {
            return Err(folder::Error::Vocabulary { tokenizer: size, model: cfg.vocab, path: place }.into());
        }
        if !own
            && place.is_dir()
            && let Some((path, width)) = settings::stated_width(path)?
            && width != cfg.width
        {
            let what = format!("it pools rows of {width} numbers, but the model's have {}", cfg.width);
            return Err(Error::Settings { path, what });
        }
        let mut settings = stated.unwrap_or_default();
        settings.pooling = options.pooling.map_or(settings.pooling, |p| vec![p]);
        settings.normalize = options.normalize.unwrap_or(settings.normalize);
        settings.max_tokens = options.max_tokens.or(settings.max_tokens);

        let encoder = Encoder::of_files(&weights)?;
        let most = encoder.room().unwrap_or(1 << 20).min(settings.max_tokens.unwrap_or(usize::MAX));
        let around = tokenizer.encode_within("", 0).map_err(folder::Error::from)?.0.len();
        if most <= around {
            let what = format!("texts of {most} tokens have no room beside the {around} put around each");
            return Err(Error::Settings { path: place, what });
        }
        let (pass_tokens, work) = (options.pass_tokens, Mutex::new(None));
        Ok(Self { path: place, encoder, tokenizer, settings, most, pass_tokens, work })
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What is done with texts and rows.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A text's most tokens, those put around it included.
    pub fn max_tokens(&self) -> usize {
        self.most
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        self.encoder.config().width * self.settings.pooling.len()
    }

    /// The vectors of texts, in their order.
    ///
    /// # Errors
    /// [`Error::Text`], [`Error::Empty`] and [`Error::NotFinite`] for a text of its number; [`Error::Infer`].
    pub fn embed<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Embeddings, Error> {
        let documents = self.tokens(texts)?;
        let mut order: Vec<usize> = (0..documents.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(documents[i].0.len()));
        let width = self.width();
        let mut values = vec![0.0; documents.len() * width];
        let kept = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut work = kept.unwrap_or_default();
        let mut rest = &order[..];
        while !rest.is_empty() {
            let (pass, after) = rest.split_at(self.pass(rest.iter().map(|&i| documents[i].0.len())));
            rest = after;
            let ids: Vec<&[u32]> = pass.iter().map(|&i| &documents[i].0[..]).collect();
            let mut rows = self.encoder.encode(&mut work, &ids)?;
            for (&i, ids) in pass.iter().zip(&ids) {
                let (document, behind) = rows.split_at(ids.len() * self.encoder.config().width);
                rows = behind;
                self.pool(i, document, &mut values[i * width..][..width])?;
            }
        }
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        let (tokens, cut) = documents.iter().map(|(ids, cut)| (ids.len(), *cut)).unzip();
        Ok(Embeddings { width, values, tokens, cut })
    }

    /// How many of the documents of these lengths are the next pass: one at least.
    fn pass(&self, lengths: impl Iterator<Item = usize>) -> usize {
        let mut tokens = 0usize;
        let fits = |n: &usize| {
            tokens = tokens.saturating_add(*n);
            tokens <= self.pass_tokens
        };
        lengths.take_while(fits).count().max(1)
    }

    /// What becomes tokens of a text, as `sentence-transformers` has it: the prompt is put in front, what Python takes for white
    /// space around both is left out, and then all becomes lower case.
    fn wording<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let text = match self.settings.prompt.as_str() {
            "" => Cow::Borrowed(text),
            prompt => Cow::Owned(format!("{prompt}{text}")),
        };
        let inner = text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
        match self.settings.lowercase {
            true => inner.to_lowercase().into(),
            false if inner.len() == text.len() => text,
            false => inner.to_owned().into(),
        }
    }

    /// Each text's tokens, and whether it was cut.
    fn tokens<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<(Vec<u32>, bool)>, Error> {
        let mut found: Vec<Option<Cut>> = texts.iter().map(|_| None).collect();
        const SHARE: usize = 8;
        pool::parallel_chunks_mut(&mut found, SHARE, |share, found| {
            for (found, text) in found.iter_mut().zip(&texts[share * SHARE..]) {
                *found = Some(self.tokenizer.encode_within(&self.wording(text.as_ref()), self.most));
            }
        });
        let checked = |(index, found): (usize, Option<Cut>)| match found {
            Some(Ok((ids, _))) if ids.is_empty() => Err(Error::Empty { index }),
            Some(Ok(tokens)) => Ok(tokens),
            Some(Err(source)) => Err(Error::Text { index, source }),
            None => Err(Error::Empty { index }),
        };
        found.into_iter().enumerate().map(checked).collect()
    }

    /// A document's rows `[T, C]` to its vector.
    fn pool(&self, index: usize, rows: &[f32], vector: &mut [f32]) -> Result<(), Error> {
        for (way, part) in self.settings.pooling.iter().zip(vector.chunks_exact_mut(self.encoder.config().width)) {
            way.pool(rows, part);
        }
        if vector.iter().any(|v| !v.is_finite()) {
            return Err(Error::NotFinite { index });
        }
        if self.settings.normalize {
            unit_length(vector);
        }
        Ok(())
    }
}

/// Vectors of texts, `[N, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    width: usize,
    values: Vec<f32>,
    tokens: Vec<usize>,
    cut: Vec<bool>,
}

impl Embeddings {
    /// Number of texts.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Numbers of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vector of a text.
    ///
    /// # Panics
    /// When there are not so many texts.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..][..self.width]
    }

    /// All vectors in order.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// All numbers, `[N, width]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Tokens of each text, those put around it included.
    pub fn tokens(&self) -> &[usize] {
        &self.tokens
    }

    /// Whether each text was longer than the model reads, and was cut.
    pub fn cut(&self) -> &[bool] {
        &self.cut
    }

    /// Cosine of the angle between two texts' vectors; 0 where one has no direction.
    ///
    /// # Panics
    /// As [`Embeddings::row`].
    pub fn cosine(&self, a: usize, b: usize) -> f32 {
        let (a, b) = (self.row(a), self.row(b));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let lengths = (dot(a, a) * dot(b, b)).sqrt();
        if lengths > 0.0 { (dot(a, b) / lengths) as f32 } else { 0.0 }
    }

    /// Puts more texts behind these.
    ///
    /// # Panics
    /// When their vectors have another width.
    pub fn extend(&mut self, more: &Embeddings) {
        assert_eq!(self.width, more.width, "vectors of different widths");
        self.values.extend_from_slice(&more.values);
        self.tokens.extend_from_slice(&more.tokens);
        self.cut.extend_from_slice(&more.cut);
    }
}

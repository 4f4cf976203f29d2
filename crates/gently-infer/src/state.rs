//! What a sequence has read: its tokens, and their keys and values in pages.
//!
//! Here: forking, cutting, saving, loading. A fork shares all pages; a page is copied when one of its sharers is
//! about to write into it. Not here: what is written (see [`crate::Plan`]).

use crate::error::{Error, Result};
use crate::plan::Plan;
use gently_formats::Limits;
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_kernels::kv::{Elem, PAGE, Page, PageShape};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Marks a file as a saved state, and its layout.
const KIND: &str = "gently paged state 1";

/// A sequence as the model has read it. `Clone` is a fork: nothing is copied until one of the two goes on, and then
/// at most one page.
#[derive(Debug, Clone)]
pub struct State {
    shape: PageShape,
    /// The model it belongs to.
    identity: u64,
    tokens: Vec<u32>,
    pages: Vec<Arc<Page>>,
}

impl State {
    pub(crate) fn new(shape: PageShape, identity: u64) -> Self {
        Self { shape, identity, tokens: Vec::new(), pages: Vec::new() }
    }

    /// Tokens read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens read.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token was read.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Bytes of its pages. Forks that share pages count them once each.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.shape.bytes()
    }

    /// Forgets the tokens from `len` on.
    ///
    /// # Errors
    /// [`Error::State`] for more tokens than were read; the state is unchanged.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        if len > self.len() {
            let what = format!("it has read {} tokens and cannot be cut to {len}", self.len());
            return Err(Error::State { what });
        }
        self.tokens.truncate(len);
        self.pages.truncate(len.div_ceil(PAGE));
        Ok(())
    }

    pub(crate) fn belongs(&self, shape: PageShape, identity: u64) -> bool {
        self.shape == shape && self.identity == identity
    }

    pub(crate) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// The pages that the next `n` tokens are written into, each ours alone, and the place of the first in the first.
    pub(crate) fn reserve(&mut self, n: usize) -> (&mut [Arc<Page>], usize) {
        // No more than these: a pass that was called off may have wanted more.
        self.pages.truncate((self.len() + n).div_ceil(PAGE));
        let first = self.len() / PAGE;
        for page in self.pages.iter_mut().skip(first) {
            // Copies the page if a fork shares it.
            Arc::make_mut(page);
        }
        while self.pages.len() * PAGE < self.len() + n {
            self.pages.push(Arc::new(Page::new(self.shape)));
        }
        (&mut self.pages[first..], self.tokens.len() % PAGE)
    }

    /// Gives back pages for tokens that were not read after all.
    pub(crate) fn release(&mut self) {
        self.pages.truncate(self.len().div_ceil(PAGE));
    }

    /// The tokens whose keys and values have been written.
    pub(crate) fn advance(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Writes the state to one safetensors file, complete or absent.
    ///
    /// # Errors
    /// [`Error::Format`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let spec = |name: &str, dtype, shape| Spec { name: name.into(), dtype, shape };
        let specs = [
            spec("tokens", Dtype::U32, vec![self.len()]),
            spec("pages", Dtype::U8, vec![self.pages.len(), self.shape.bytes()]),
        ];
        let mut file = Writer::create(path, &specs, &self.about())?;
        file.write_elements(&self.tokens)?;
        for page in &self.pages {
            file.write(&page.to_bytes())?;
        }
        Ok(file.finish()?)
    }

    /// What a file says of the state in it, besides the tokens.
    fn about(&self) -> BTreeMap<String, String> {
        let PageShape { layers, kv_heads, d, elem } = self.shape;
        let elem = match elem {
            Elem::F32 => "f32",
            Elem::F16 => "f16",
            Elem::I8 => "int8",
        };
        let pairs = [
            ("kind", KIND.to_owned()),
            ("model", format!("{:016x}", self.identity)),
            ("shape", format!("{layers} layers, {kv_heads} heads of {d}, {elem}")),
        ];
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    /// Reads the state that [`State::save`] wrote for the same model and cache type. Which model that was is
    /// told by its configuration and a sample of each tensor's bytes: one that differs in a few numbers only may be taken for it.
    ///
    /// # Errors
    /// [`Error::Format`] for a broken file; [`Error::StateFile`] for one that holds no state, or that of another model.
    pub fn load(path: impl AsRef<Path>, plan: &Plan) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |what: String| Error::StateFile { path: path.into(), what };
        let file = SafeTensors::open(path, &Limits::default())?;
        let mut state = plan.state();
        for (key, value) in state.about() {
            match file.metadata().get(&key) {
                Some(found) if *found == value => {}
                Some(found) => return Err(wrong(format!("{key} is {found:?}, this model needs {value:?}"))),
                None => return Err(wrong(format!("it says nothing of {key}"))),
            }
        }
        let tokens: Vec<u32> = file.to_vec("tokens")?;
        let vocab = plan.config().vocab;
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(wrong(format!("token {id} is outside the vocabulary of {vocab}")));
        }
        if plan.room().is_some_and(|room| tokens.len() > room) {
            return Err(wrong(format!("{} tokens do not fit into the model's context", tokens.len())));
        }
        let (count, size) = (tokens.len().div_ceil(PAGE), state.shape.bytes());
        let bytes = file.bytes("pages")?;
        if file.entry("pages")?.dtype != Dtype::U8 || Some(bytes.len()) != count.checked_mul(size) {
            return Err(wrong(format!("{} bytes of pages for {} tokens", bytes.len(), tokens.len())));
        }
        for page in bytes.chunks_exact(size) {
            let page = Page::from_bytes(state.shape, page).ok_or_else(|| wrong("a page of another size".into()))?;
            state.pages.push(Arc::new(page));
        }
        state.tokens = tokens;
        Ok(state)
    }
}

//! What a sequence has read: its tokens, and their keys and values in pages.
//!
//! Here: forking, cutting, saving, loading. A fork shares all pages; a page is copied when one of its sharers is
//! about to write into it. Not here: what is written (see [`crate::Plan`]).

use crate::error::{Error, Result, no_memory, outside};
use crate::plan::Plan;
use gently_formats::Limits;
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_kernels::buffer::OutOfMemory;
use gently_kernels::kv::{Elem, PAGE, Page, PageShape};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// What pages hold.
const PAGES: &str = "keys and values";
/// Marks a file as a saved state; the version of its layout follows.
const KIND: &str = "gently paged state ";
/// The layout that is written and read. The first had no checksum.
const VERSION: &str = "2";

/// A sequence as the model has read it. `Clone` is a fork: nothing is copied until one of the two goes on, and then
/// at most one page.
#[derive(Clone)]
pub struct State {
    shape: PageShape,
    /// The model it belongs to.
    identity: u64,
    tokens: Vec<u32>,
    pages: Vec<Arc<Page>>,
}

impl fmt::Debug for State {
    /// Without its numbers, of which there are millions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("tokens", &self.tokens).field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

impl PartialEq for State {
    /// Whether both have read the same tokens by the same model: then their numbers are the same.
    fn eq(&self, other: &Self) -> bool {
        self.alike(other) && self.tokens == other.tokens
    }
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
        self.cut(len);
        Ok(())
    }

    /// Forgets all but the longest beginning that it shares with `tokens`.
    pub fn keep_common(&mut self, tokens: &[u32]) {
        self.cut(self.common(tokens));
    }

    /// Tokens at its beginning that stand at that of `tokens` too.
    pub(crate) fn common(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    fn cut(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.pages.truncate(len.div_ceil(PAGE));
    }

    /// Whether another state is of the same model, and has the same cache type.
    pub(crate) fn alike(&self, other: &Self) -> bool {
        self.belongs(other.shape, other.identity)
    }

    pub(crate) fn belongs(&self, shape: PageShape, identity: u64) -> bool {
        self.shape == shape && self.identity == identity
    }

    pub(crate) fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Takes the pages that the next `n` tokens are written into, each ours alone.
    ///
    /// # Errors
    /// [`Error::NoMemory`]; the state is as it was.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<()> {
        let taken = self.take_pages(n);
        if taken.is_err() {
            self.release();
        }
        taken
    }

    fn take_pages(&mut self, n: usize) -> Result<()> {
        // No more than these, if a pass that was not made had more of them.
        self.pages.truncate((self.len() + n).div_ceil(PAGE));
        let first = self.len() / PAGE;
        for page in self.pages.iter_mut().skip(first) {
            // A fork shares it.
            if Arc::get_mut(page).is_none() {
                *page = new_page(|| page.try_clone())?;
            }
        }
        while self.pages.len() * PAGE < self.len() + n {
            self.pages.push(new_page(|| Page::try_new(self.shape))?);
        }
        Ok(())
    }

    /// The pages [reserved](Self::reserve) for the next `n` tokens, and the place of the first token in the first.
    pub(crate) fn reserved(&mut self, n: usize) -> (&mut [Arc<Page>], usize) {
        let (first, end) = (self.len() / PAGE, (self.len() + n).div_ceil(PAGE));
        let place = self.len() % PAGE;
        (&mut self.pages[first..end], place)
    }

    /// Gives back pages for tokens that were not read after all.
    pub(crate) fn release(&mut self) {
        self.pages.truncate(self.len().div_ceil(PAGE));
    }

    /// The tokens whose keys and values have been written.
    pub(crate) fn advance(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Writes the state to one safetensors file, complete or absent, with a checksum.
    ///
    /// # Errors
    /// [`Error::Format`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let spec = |name: &str, dtype, shape| Spec { name: name.into(), dtype, shape };
        let specs = [
            spec("tokens", Dtype::U32, vec![self.len()]),
            spec("pages", Dtype::U8, vec![self.pages.len(), self.shape.bytes()]),
            // As bytes, which lie anywhere: it is known when all others are written.
            spec("checksum", Dtype::U8, vec![size_of::<u64>()]),
        ];
        let mut sum = sum_of(&self.tokens);
        let mut file = Writer::create(path, &specs, &self.about())?;
        file.write_elements(&self.tokens)?;
        for page in &self.pages {
            let bytes = page.to_bytes();
            sum.update(&bytes);
            file.write(&bytes)?;
        }
        file.write(&sum.digest().to_le_bytes())?;
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
            ("kind", format!("{KIND}{VERSION}")),
            ("model", format!("{:016x}", self.identity)),
            ("shape", format!("{layers} layers, {kv_heads} heads of {d}, {elem}")),
        ];
        pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }

    /// Whether a file is a state that [`State::save`] wrote, of whatever model and version.
    pub fn is_saved_in(path: &Path) -> bool {
        let kind = |file: SafeTensors| file.metadata().get("kind").is_some_and(|kind| kind.starts_with(KIND));
        SafeTensors::open(path, &Limits::default()).is_ok_and(kind)
    }

    /// Reads the state that [`State::save`] wrote for the same model and cache type. Which model that was is
    /// told by its configuration and a sample of each tensor's bytes: one that differs in a few numbers only may be taken for it.
    ///
    /// # Errors
    /// [`Error::Format`] for a damaged file; [`Error::StateFile`] for one that holds no state, that of another model, or one that an
    /// earlier version of the program saved; [`Error::NoMemory`].
    pub fn load(path: impl AsRef<Path>, plan: &Plan) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |what: String| Error::StateFile { path: path.into(), what };
        let file = SafeTensors::open(path, &Limits::default())?;
        let mut state = plan.state();
        match file.metadata().get("kind").and_then(|kind| kind.strip_prefix(KIND)) {
            Some(VERSION) => {}
            Some(found) => return Err(wrong(format!("it is a saved state of version {found}, and {VERSION} is read"))),
            None => return Err(wrong("it is no saved state".into())),
        }
        for (key, value) in state.about() {
            match file.metadata().get(&key) {
                Some(found) if *found == value => {}
                Some(found) => return Err(wrong(format!("{key} is {found:?}, this model needs {value:?}"))),
                None => return Err(wrong(format!("it says nothing of {key}"))),
            }
        }
        let (tokens, bytes): (Vec<u32>, _) = (file.to_vec("tokens")?, file.bytes("pages")?);
        let mut sum = sum_of(&tokens);
        sum.update(bytes);
        let (expected, found): (Vec<u8>, u64) = (file.to_vec("checksum")?, sum.digest());
        if expected != found.to_le_bytes() {
            let expected = expected.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            let part = "saved state".to_owned();
            return Err(gently_formats::Error::Checksum { path: path.into(), part, expected, found }.into());
        }
        // It is no proof of good will: the numbers are checked as if it were not there.
        let vocab = plan.config().vocab;
        if let Some(what) = outside(vocab, &tokens) {
            return Err(wrong(what));
        }
        if tokens.len() > plan.most() {
            return Err(wrong(format!("{} tokens do not fit into the model's context", tokens.len())));
        }
        let (count, size) = (tokens.len().div_ceil(PAGE), state.shape.bytes());
        if file.entry("pages")?.dtype != Dtype::U8 || Some(bytes.len()) != count.checked_mul(size) {
            return Err(wrong(format!("{} bytes of pages for {} tokens", bytes.len(), tokens.len())));
        }
        for page in bytes.chunks_exact(size) {
            let page = Page::from_bytes(state.shape, page).map_err(no_memory(PAGES))?;
            state.pages.push(Arc::new(page.ok_or_else(|| wrong("a page of another size".into()))?));
        }
        state.tokens = tokens;
        Ok(state)
    }
}

/// The checksum of a file's tokens, before its pages are added.
fn sum_of(tokens: &[u32]) -> Xxh3 {
    let mut sum = Xxh3::new();
    tokens.iter().for_each(|id| sum.update(&id.to_le_bytes()));
    sum
}

fn new_page(make: impl FnOnce() -> Result<Page, OutOfMemory>) -> Result<Arc<Page>> {
    #[cfg(test)]
    left::take_one()?;
    make().map(Arc::new).map_err(no_memory(PAGES))
}

/// How many pages this thread may still take: a test cannot use up a machine's memory.
#[cfg(test)]
pub(crate) mod left {
    use super::{Error, PAGES, Result};
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub fn set(pages: usize) {
        LEFT.set(pages);
    }

    pub fn take_one() -> Result<()> {
        let left = LEFT.get().checked_sub(1).ok_or(Error::NoMemory { of: PAGES.into(), bytes: 0 })?;
        LEFT.set(left);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_cannot_be_had_leave_a_state_as_it_was() {
        let mut state = State::new(PageShape { layers: 1, kv_heads: 1, d: 4, elem: Elem::F32 }, 0);
        state.reserve(PAGE + 1).unwrap();
        state.advance(&[1; PAGE + 1]);
        let fork = state.clone();
        // One for the page that is shared, none for the next.
        left::set(1);
        let said = state.reserve(PAGE).unwrap_err();
        left::set(usize::MAX);
        assert!(matches!(said, Error::NoMemory { .. }), "{said}");
        assert_eq!((state.len(), state.pages.len()), (PAGE + 1, 2));
        state.reserve(PAGE).unwrap();
        let (pages, place) = state.reserved(PAGE);
        assert_eq!((pages.len(), place), (2, 1));
        assert!(pages.iter_mut().all(|page| Arc::get_mut(page).is_some()), "its own alone");
        assert!(!Arc::ptr_eq(&pages[0], &fork.pages[1]));
    }
}

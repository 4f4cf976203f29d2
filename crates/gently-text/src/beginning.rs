//! What stands in front of a text.
//!
//! Here: the token that begins texts, by what a tokenizer does and by what its files name, and texts with it in front, once.
//! Not here: what stands around a text for encoders ([`Tokenizer::encode_whole`]).

use crate::{Result, TemplateTokens, Tokenizer};

impl Tokenizer {
    /// The tokens that are put in front of every text; most tokenizers put none.
    ///
    /// # Errors
    /// [`crate::Error::Pipeline`] if the tokenizer refuses a text of one letter.
    pub fn front(&self) -> Result<Vec<u32>> {
        Ok(self.around()?.0)
    }

    /// The token that begins texts, as lm-evaluation-harness chooses it: the one that is put in front of every text, else the
    /// one that the files name as the beginning, else the end of text, which stood between the texts that a model learned
    /// from.
    ///
    /// # Errors
    /// As [`Self::front`].
    pub fn beginning(&self) -> Result<Option<u32>> {
        Ok(self.named_beginning()?.or(self.end_of_text()))
    }

    fn named_beginning(&self) -> Result<Option<u32>> {
        Ok(self.front()?.first().copied().or(self.start()))
    }

    /// The tokens of a text that is read for its likelihood: as [`Self::encode_prompt`], after the token that begins texts even
    /// where none is put in front of prompts.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_begun(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode_prompt(text)?;
        if let Some(id) = self.beginning()?
            && ids.first() != Some(&id)
        {
            ids.insert(0, id);
        }
        Ok(ids)
    }

    /// The beginning and the end of a text by the names that chat templates use, for a template that came without names of
    /// its own.
    ///
    /// # Errors
    /// As [`Self::front`].
    pub fn template_tokens(&self) -> Result<TemplateTokens> {
        let ids = [("bos_token", self.named_beginning()?), ("eos_token", self.end_of_text())];
        let named = ids.into_iter().filter_map(|(key, id)| Some((key.to_owned(), self.token(id?)?)));
        Ok(named.collect())
    }
}

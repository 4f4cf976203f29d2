//! What stands in front of a text.
//!
//! Here: the token that begins texts, by what a tokenizer does and by what its files name, and texts with it in front, once; and
//! texts that stand inside others, with nothing in front.
//! Not here: what stands around a text for encoders ([`Tokenizer::encode_whole`]).

use crate::{Result, StreamDecoder, TemplateTokens, Tokenizer};

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
        Ok(self.front()?.first().copied().or(self.names().start))
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

    /// The tokens of a text that stands inside another one: nothing is put in front of it, not the space either that SentencePiece
    /// puts before a text's first word. With `specials` as [`Self::encode_with_specials`], else as [`Self::encode`]. `None` where
    /// tokens that spell it so were not found.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_inside(&self, text: &str, specials: bool) -> Result<Option<Vec<u32>>> {
        let encode = |text: &str| if specials { self.encode_with_specials(text) } else { self.encode(text) };
        let plain = encode(text)?;
        if self.spells(&plain, text)? {
            return Ok(Some(plain));
        }
        // What stands behind a control character is no text's beginning.
        let before = "\u{2}";
        let (Ok(front), Ok(all)) = (encode(before), encode(&[before, text].concat())) else { return Ok(None) };
        match all.strip_prefix(&front[..]) {
            Some(ids) if self.spells(ids, text)? => Ok(Some(ids.to_vec())),
            _ => Ok(None),
        }
    }

    /// Whether these tokens are this text where they stand inside another one.
    fn spells(&self, ids: &[u32], text: &str) -> Result<bool> {
        let (mut decoder, mut said) = (StreamDecoder::within(self), String::new());
        for id in ids {
            said.push_str(&decoder.push(*id)?);
        }
        said.push_str(&decoder.finish()?);
        Ok(said == text)
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

//! The character vocabulary: each distinct character of a text is one token, in code-point order
//! (nanoGPT's `sorted(list(set(data)))`).

use crate::{Error, Result};

const NONE: u32 = u32::MAX;

/// Characters in token order, with a direct table for ASCII.
#[derive(Debug, Clone)]
pub(crate) struct CharTable {
    /// Token number to character.
    chars: Vec<char>,
    /// Characters and their tokens, by character, for what is not ASCII.
    wide: Vec<(char, u32)>,
    ascii: Box<[u32; 128]>,
}

impl CharTable {
    /// The vocabulary of a text's characters: sorted and without repeats.
    pub fn from_chars(chars: impl IntoIterator<Item = char>) -> Self {
        let distinct: std::collections::BTreeSet<char> = chars.into_iter().collect();
        Self::from_ordered(distinct.into_iter().collect())
    }

    /// A vocabulary whose token `i` is `chars[i]`. The characters must be distinct.
    pub fn from_ordered(chars: Vec<char>) -> Self {
        let mut ascii = Box::new([NONE; 128]);
        let mut wide = Vec::new();
        for (i, &c) in chars.iter().enumerate() {
            match ascii.get_mut(c as usize) {
                Some(slot) => *slot = i as u32,
                None => wide.push((c, i as u32)),
            }
        }
        wide.sort_unstable();
        Self { chars, wide, ascii }
    }

    pub fn len(&self) -> usize {
        self.chars.len()
    }

    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    pub fn get(&self, c: char) -> Option<u32> {
        match self.ascii.get(c as usize) {
            Some(&id) => (id != NONE).then_some(id),
            None => self.wide.binary_search_by_key(&c, |&(k, _)| k).ok().map(|i| self.wide[i].1),
        }
    }

    /// Appends the tokens of `text`, which starts at byte `byte0` and character `position0` of what
    /// the caller calls the text.
    pub fn encode(&self, text: &str, at: (usize, usize), out: &mut Vec<u32>) -> Result<()> {
        out.reserve(text.len());
        for (n, (byte, c)) in text.char_indices().enumerate() {
            let id = self.get(c).ok_or_else(|| Error::UnknownCharacter {
                character: c,
                position: at.1 + n,
                byte: at.0 + byte,
                vocab: self.chars.len(),
            })?;
            out.push(id);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_and_total_on_its_text() {
        let text = "zebra über 日本 abc\n";
        let table = CharTable::from_chars(text.chars());
        assert!(table.chars().windows(2).all(|w| w[0] < w[1]));
        let mut ids = Vec::new();
        table.encode(text, (0, 0), &mut ids).unwrap();
        let back: String = ids.iter().map(|&i| table.chars()[i as usize]).collect();
        assert_eq!(back, text);
    }

    #[test]
    fn unknown_character_is_named_with_its_place() {
        let table = CharTable::from_chars("abé".chars());
        let e = table.encode("éaQ", (0, 0), &mut Vec::new()).unwrap_err();
        assert!(matches!(e, Error::UnknownCharacter { character: 'Q', position: 2, byte: 3, vocab: 3 }), "{e}");
    }
}

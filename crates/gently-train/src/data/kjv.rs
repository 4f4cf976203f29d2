//! The King James Bible, which comes with the program: real text with no network.
//!
//! ```
//! let chapters = gently_train::data::kjv::chapters()?;
//! assert_eq!(chapters.len(), 1189);
//! assert!(chapters[0].starts_with("Genesis 1\n1 In the beginning God created the heaven and the earth.\n"));
//! # Ok::<(), gently_train::data::Error>(())
//! ```

use super::{Error, Result};
use bible_lib::{Bible, BibleLookup, Translation};

/// All chapters in the usual order, each a heading, its numbered verses a line each, and an empty line. The marks of
/// the edition (brackets around words the translators supplied, quotation marks around Jesus' words) are left out.
///
/// # Errors
/// [`Error::Option`] if the crate's text is not what it should be.
pub fn chapters() -> Result<Vec<String>> {
    let wrong = |e: bible_lib::error::BibleLibError| Error::Option { option: "kjv", reason: e.to_string() };
    let bible = Bible::new(Translation::KingJames).map_err(wrong)?;
    let mut chapters = Vec::new();
    for book in bible.get_sorted_books() {
        let title = BibleLookup::capitalize_book(&book).replace(" Of ", " of ");
        let mut numbers = bible.get_chapters(&book).map_err(wrong)?;
        numbers.sort_unstable();
        for chapter in numbers {
            let mut text = format!("{title} {chapter}\n");
            let mut verses = bible.get_verses(&book, chapter).map_err(wrong)?;
            verses.sort_unstable();
            for verse in verses {
                let line = bible.get_verse(BibleLookup::new(&book, chapter, verse), false).map_err(wrong)?;
                text += &format!("{verse} ");
                text.extend(line.trim().chars().filter(|c| !matches!(c, '[' | ']' | '‹' | '›')));
                text.push('\n');
            }
            text.push('\n');
            chapters.push(text);
        }
    }
    Ok(chapters)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_whole_book_is_there_in_order() {
        let chapters = super::chapters().unwrap();
        let bytes: usize = chapters.iter().map(String::len).sum();
        assert!((4_000_000..4_700_000).contains(&bytes), "{bytes}");
        assert!(chapters[50].starts_with("Exodus 1\n1 Now these are the names"));
        assert!(chapters.iter().any(|c| c.starts_with("Song of Solomon 1\n")));
        assert!(chapters[1188].starts_with("Revelation 22\n"));
        assert!(chapters[1188].ends_with("with you all. Amen.\n\n"));
        let alphabet: std::collections::BTreeSet<char> = chapters.iter().flat_map(|c| c.chars()).collect();
        assert!(alphabet.iter().all(char::is_ascii), "{alphabet:?}");
        let verses: usize = chapters.iter().map(|c| c.lines().count() - 2).sum();
        assert_eq!(verses, 31_102);
    }
}

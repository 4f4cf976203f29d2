//! The King James Bible, which comes with the program: real text with no network.
//!
//! ```
//! let chapters = gently_train::data::kjv::chapters();
//! assert_eq!(chapters.len(), 1189);
//! assert!(chapters[0].starts_with("Genesis 1\n1 In the beginning God created the heaven and the earth.\n"));
//! ```

use std::io::Read;

/// A line for each verse, such as `Genesis 1:1 In the beginning …`, compressed by the build script.
static VERSES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kjv.txt.gz"));

/// All chapters in the usual order, each a heading, its numbered verses a line each, and an empty line. The marks of
/// the edition (brackets around words the translators supplied, quotation marks around Jesus' words) are left out.
pub fn chapters() -> Vec<String> {
    let mut verses = String::new();
    // The build script has just written it; damage would show in the test below.
    let _ = flate2::read::GzDecoder::new(VERSES).read_to_string(&mut verses);
    let mut chapters: Vec<String> = Vec::new();
    let mut heading = "";
    for line in verses.lines() {
        let Some((chapter, rest)) = line.split_once(':') else { continue };
        if chapter != heading {
            if let Some(last) = chapters.last_mut() {
                last.push('\n');
            }
            heading = chapter;
            chapters.push(format!("{chapter}\n"));
        }
        if let Some(text) = chapters.last_mut() {
            text.extend(rest.chars().filter(|c| !matches!(c, '[' | ']' | '‹' | '›')));
            text.push('\n');
        }
    }
    if let Some(last) = chapters.last_mut() {
        last.push('\n');
    }
    chapters
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_whole_book_is_there_in_order() {
        let chapters = super::chapters();
        let bytes: usize = chapters.iter().map(String::len).sum();
        assert!((4_000_000..4_500_000).contains(&bytes), "{bytes}");
        assert!(chapters[0].contains("\n3 And God said, Let there be light: and there was light.\n"));
        assert!(chapters[50].starts_with("Exodus 1\n1 Now these are the names"));
        assert!(chapters.iter().any(|c| c.starts_with("Song of Solomon 1\n")));
        assert!(chapters[1188].starts_with("Revelation 22\n"));
        assert!(chapters[1188].ends_with("with you all. Amen.\n\n"), "{:?}", chapters[1188]);
        let alphabet: std::collections::BTreeSet<char> = chapters.iter().flat_map(|c| c.chars()).collect();
        assert!(alphabet.iter().all(char::is_ascii), "{alphabet:?}");
        let verses: usize = chapters.iter().map(|c| c.lines().count() - 2).sum();
        assert_eq!(verses, 31_102);
    }
}

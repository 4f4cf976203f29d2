//! Puts the King James Bible, which the crate `bible-lib` carries, into the output folder as a compressed file.
//!
//! Why not by the crate's functions: they cut each verse at its first colon ("And God said, Let there be light: and
//! there was light."), and would put three other translations into the program. They serve when the crate's file is not
//! found.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "kjv")]
    kjv::write();
}

#[cfg(feature = "kjv")]
mod kjv {
    use std::path::PathBuf;
    use std::process::Command;

    const VERSES: usize = 31_102;

    /// Writes `kjv.txt.gz` with a line for each verse: `Genesis 1:1 In the beginning …`.
    pub fn write() {
        let text = from_file().unwrap_or_else(|| {
            println!("cargo::warning=bible-lib's text was not found; verses end at their first colon");
            from_functions()
        });
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kjv.txt.gz");
        let file = std::fs::File::create(out).expect("OUT_DIR can be written");
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::best());
        std::io::Write::write_all(&mut gz, text.as_bytes()).expect("OUT_DIR can be written");
        gz.finish().expect("OUT_DIR can be written");
    }

    /// The text in the crate's sources, wherever cargo keeps them.
    fn from_file() -> Option<String> {
        let cargo = std::env::var_os("CARGO")?;
        // Asked through a package that depends on nothing else: what has not been downloaded, such as crates that only tests want,
        // would make cargo's answer about our own package an error.
        let asked = PathBuf::from(std::env::var_os("OUT_DIR")?).join("bible");
        std::fs::create_dir_all(&asked).ok()?;
        let manifest = asked.join("Cargo.toml");
        let text = "[package]\nname = \"asks\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n\
            [dependencies]\nbible-lib = { version = \"*\", default-features = false, features = [\"kjv\"] }\n";
        std::fs::write(&manifest, text).ok()?;
        std::fs::write(asked.join("lib.rs"), "").ok()?;
        // The version that the workspace is locked to.
        let ours = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?).join("../../Cargo.lock");
        let _ = std::fs::copy(ours, asked.join("Cargo.lock"));
        let listed = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
            .arg(std::env::var_os("HOST")?)
            .arg("--manifest-path")
            .arg(manifest)
            .output()
            .ok()?;
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).ok()?;
        let package = listed["packages"].as_array()?.iter().find(|p| p["name"] == "bible-lib")?;
        let root = PathBuf::from(package["manifest_path"].as_str()?);
        let text = std::fs::read_to_string(root.with_file_name("src").join("bible_translations/kjv.txt")).ok()?;
        // Genesis 1:17 is there twice.
        let mut lines: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
        lines.dedup_by_key(|line| reference(line));
        (lines.len() == VERSES).then(|| lines.join("\n"))
    }

    /// `Genesis 1:17` of a verse's line.
    fn reference(line: &str) -> &str {
        let colon = line.find(':').unwrap_or(line.len());
        let end = line[colon..].find(' ').map_or(line.len(), |n| colon + n);
        &line[..end]
    }

    fn from_functions() -> String {
        use bible_lib::{Bible, BibleLookup, Translation};
        let bible = Bible::new(Translation::KingJames).expect("the text is in the crate");
        let mut text = String::new();
        for book in bible.get_sorted_books() {
            let mut chapters = bible.get_chapters(&book).unwrap_or_default();
            chapters.sort_unstable();
            for chapter in chapters {
                let mut verses = bible.get_verses(&book, chapter).unwrap_or_default();
                verses.sort_unstable();
                for verse in verses {
                    let line = bible.get_verse(BibleLookup::new(&book, chapter, verse), false).unwrap_or_default();
                    text += &format!("{} {chapter}:{verse} {line}\n", BibleLookup::capitalize_book(&book));
                }
            }
        }
        text
    }
}

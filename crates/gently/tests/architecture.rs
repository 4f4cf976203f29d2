//! Holds ARCHITECTURE.md to the truth: layering, where `unsafe` may be, where names of files stand, the size of files,
//! and links between pages; SECURITY.md to the tests that it names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Crates from the lowest to the highest; a crate may use only crates of an earlier layer.
const LAYERS: &[&[&str]] = &[
    &["gently-kernels"],
    &["gently-tensor", "gently-formats"],
    &["gently-text"],
    &["gently-models"],
    &["gently-train", "gently-infer"],
    &["gently"],
];

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&name))
}

fn crates() -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root().join("crates")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The Rust files below a folder, but for what is hidden or built.
fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let (path, name) = entry.map(|e| (e.path(), e.file_name())).unwrap();
        if path.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                sources(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn a_crate_uses_only_crates_below_it() {
    for name in crates() {
        let here =
            layer(&name).unwrap_or_else(|| panic!("{name} is not in the layers of this test and ARCHITECTURE.md"));
        let manifest = fs::read_to_string(root().join("crates").join(&name).join("Cargo.toml")).unwrap();
        // Normal dependencies only: tests may look anywhere.
        let normal = manifest.split("[dev-dependencies]").next().unwrap();
        for used in normal.lines().filter_map(|l| l.split(['.', ' ', '=']).next()).filter(|d| d.starts_with("gently-"))
        {
            let there = layer(used).unwrap_or_else(|| panic!("{name} uses unknown crate {used}"));
            assert!(there < here, "{name} may not use {used}: it is not below it");
        }
    }
}

#[test]
fn every_crate_is_on_the_map() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for name in crates() {
        assert!(page.contains(&name), "{name} is missing in ARCHITECTURE.md");
    }
}

#[test]
fn unsafe_lives_in_the_kernels_alone() {
    for name in crates().iter().filter(|n| *n != "gently-kernels") {
        let src = root().join("crates").join(name).join("src");
        for top in ["lib.rs", "main.rs"].iter().map(|f| src.join(f)).filter(|p| p.exists()) {
            let text = fs::read_to_string(&top).unwrap();
            assert!(text.contains("#![forbid(unsafe_code)]"), "{} does not forbid unsafe code", top.display());
        }
    }
}

#[test]
fn every_unsafe_block_of_the_kernels_is_argued() {
    let mut files = Vec::new();
    sources(&root().join("crates/gently-kernels/src"), &mut files);
    let mut missing = BTreeMap::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if code.contains("unsafe {") || code.contains("unsafe impl") {
                // An argument close by, or one for all the blocks of an item: above it, with no end of an item between.
                let near = lines[n.saturating_sub(12)..=n].iter().any(|l| l.contains("SAFETY"));
                let of_all = lines[..n].iter().rposition(|l| l.contains("SAFETY of all blocks"));
                let covered = of_all.is_some_and(|at| lines[at..n].iter().all(|l| !l.starts_with('}')));
                if !near && !covered {
                    missing.insert(format!("{}:{}", path.display(), n + 1), line.to_string());
                }
            }
        }
    }
    assert!(missing.is_empty(), "unsafe without a SAFETY argument nearby: {missing:#?}");
}

#[test]
fn files_stay_short() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for top in ["benches", "crates", "examples", "fuzz"] {
        assert!(files.iter().any(|path| path.starts_with(root().join(top))), "no file of {top} was seen");
    }
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 800, "{} has {lines} lines: where is the seam?", path.display());
    }
}

#[test]
fn names_of_a_models_files_stand_in_one_list() {
    let list = root().join("crates/gently-formats/src/files.rs");
    let text = fs::read_to_string(&list).unwrap();
    let constants = text.lines().filter(|line| line.starts_with("pub const"));
    let names: Vec<String> =
        constants.flat_map(|line| line.split('"').skip(1).step_by(2)).map(|name| format!("{name:?}")).collect();
    assert!(names.iter().any(|name| name == "\"1_Pooling\"") && names.len() > 15, "{names:?}");
    for name in crates() {
        let mut files = Vec::new();
        sources(&root().join("crates").join(name).join("src"), &mut files);
        // Tests say what they expect in their own words.
        let is_test = |path: &Path| path.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "tests.rs");
        for path in files.iter().filter(|path| **path != list && !is_test(path)) {
            let code = code(&fs::read_to_string(path).unwrap());
            let found = names.iter().find(|name| code.contains(name.as_str()));
            assert!(found.is_none(), "{} has {found:?}, which stands in {}", path.display(), list.display());
        }
    }
}

/// What a source says before its tests, without its comments.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Files that the Markdown file `page` links to, relative to its folder.
fn links(page: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(page).unwrap();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let local = targets.filter(|t| !t.is_empty() && !t.contains("://") && !t.contains(char::is_whitespace));
    local.map(|t| page.parent().unwrap().join(t)).collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    let book = root().join("docs/src");
    let is_page = |path: &PathBuf| path.extension().is_some_and(|e| e == "md");
    pages.extend(fs::read_dir(&book).unwrap().map(|e| e.unwrap().path()).filter(is_page));
    let mut seen = 0;
    for page in &pages {
        for target in links(page) {
            assert!(target.exists(), "{} links to {}, which is not there", page.display(), target.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen} links were found");
    let summary = links(&book.join("SUMMARY.md"));
    for page in pages.iter().filter(|p| p.starts_with(&book) && !p.ends_with("SUMMARY.md")) {
        assert!(summary.contains(page), "{} is not in the book's summary", page.display());
    }
}

#[test]
fn the_tests_that_the_security_page_names_are_there() {
    let page = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ")).filter_map(|line| line.split(" | ").nth(1));
    // In code spans; names of files and the like have other characters.
    let is_name = |text: &&str| {
        text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: Vec<&str> = rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(is_name).collect();
    assert!(named.len() > 40, "{named:?}");
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    let mut tests = BTreeSet::new();
    for path in files {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            // Other attributes may stand between.
            let begins = (line == "#[test]").then(|| lines.find_map(|line| line.strip_prefix("fn "))).flatten();
            tests.extend(begins.and_then(|name| name.split('(').next()).map(str::to_owned));
        }
    }
    for name in named {
        assert!(tests.contains(name), "SECURITY.md names the test {name}, which is not there");
    }
}

//! Holds ARCHITECTURE.md to the truth: layering, where `unsafe` may be, and the size of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Crates from the lowest to the highest; a crate may use only crates of an earlier layer.
const LAYERS: &[&[&str]] = &[
    &["gently-kernels"],
    &["gently-tensor", "gently-formats", "gently-text"],
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

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
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
    for top in ["crates", "examples", "xtask"] {
        sources(&root().join(top), &mut files);
    }
    for path in files {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 800, "{} has {lines} lines: where is the seam?", path.display());
    }
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

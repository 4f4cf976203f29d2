//! What the Hub says about a repository, believed only as far as it is checked.

use serde_json::Value;
use std::collections::BTreeSet;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, as the Hub says it: not safe to join before it is checked.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Its SHA-256 in small hex, where the Hub knows it: for files of any weight.
    pub sha256: Option<String>,
}

/// Entries of a page of the Hub's list, which is cut there.
const PAGE: usize = 1000;

/// The commit in an answer about a revision.
pub(super) fn commit(answer: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    let sha = answer["sha"].as_str()?;
    (sha.len() == 40 && is_hex(sha)).then(|| sha.to_owned())
}

/// The files in a list of a commit's tree.
pub(super) fn entries(answer: &str) -> Result<Vec<Entry>, String> {
    let all: Vec<Value> = serde_json::from_str(answer).map_err(|e| format!("it is no list of files: {e}"))?;
    if all.len() >= PAGE {
        return Err(format!("it lists {PAGE} files or more, of which the rest is not shown"));
    }
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in all.iter().filter(|e| e["type"] != "directory") {
        let path = entry["path"].as_str().ok_or("a file has no path")?;
        let lfs = &entry["lfs"];
        let size = lfs["size"].as_u64().or(entry["size"].as_u64()).ok_or_else(|| format!("{path:?} has no size"))?;
        let sha256 = match lfs["oid"].as_str().map(|s| s.trim_start_matches("sha256:").to_ascii_lowercase()) {
            Some(digest) if digest.len() != 64 || !is_hex(&digest) => {
                return Err(format!("{path:?} has the digest {digest:?}, which is no SHA-256"));
            }
            digest => digest,
        };
        // Some disks do not tell large letters from small ones.
        if !seen.insert(path.to_lowercase()) {
            return Err(format!("{path:?} is listed twice"));
        }
        found.push(Entry { path: path.to_owned(), size, sha256 });
    }
    Ok(found)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(commit(&format!("{{\"sha\": \"{sha}\"}}")).as_deref(), Some(sha));
        for answer in [
            "",
            "{}",
            "{\"sha\": \"main\"}",
            "{\"sha\": 3}",
            "{\"sha\": \"../../../../../../../../../../../../../xx\"}",
        ] {
            assert_eq!(commit(answer), None, "{answer}");
        }
        let list = "[{\"type\": \"directory\", \"path\": \"d\"}, {\"type\": \"file\", \"path\": \"a\", \"size\": 5}]";
        assert_eq!(entries(list).unwrap(), [Entry { path: "a".into(), size: 5, sha256: None }]);
        for (list, word) in [
            ("{}", "no list"),
            ("[{\"path\": 1}]", "no path"),
            ("[{\"path\": \"a\", \"size\": -1}]", "no size"),
            ("[{\"path\": \"a\", \"size\": 1, \"lfs\": {\"oid\": \"xyz\"}}]", "no SHA-256"),
            ("[{\"path\": \"a\", \"size\": 1}, {\"path\": \"A\", \"size\": 1}]", "twice"),
            (&format!("[{}0]", "0,".repeat(1000)), "rest"),
        ] {
            assert!(entries(list).unwrap_err().contains(word), "{list}");
        }
    }
}

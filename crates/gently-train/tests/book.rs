//! The book's table of configuration keys says what the program does.

use gently_train::Recipe;
use gently_train::recipe::Source;

/// Key, default and meaning of each row of the book's tables.
fn rows() -> Vec<(String, String)> {
    let book = include_str!("../../../docs/src/config.md");
    book.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let key = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
            Some((key.to_owned(), cells.get(2)?.to_string()))
        })
        .filter(|(key, _)| key.contains('.'))
        .collect()
}

#[test]
fn the_book_has_every_key_with_its_default() {
    let rows = rows();
    let resolved = Recipe::new("defaults").resolve().unwrap();
    let lines = resolved.lines();
    for line in &lines {
        let Some((_, told)) = rows.iter().find(|(key, _)| *key == line.key) else {
            panic!("docs/src/config.md does not know {}", line.key);
        };
        let first = told.split_once("` (").map_or(told.as_str(), |(first, _)| first).trim_matches('`');
        if line.key == "model.vocab" {
            continue; // It is the tokenizer's, which there is none of here.
        }
        let fits = match (&line.source, line.value.as_str()) {
            (Source::Derived(how), _) => first == how,
            (_, "") => first == "unset" || first.starts_with("unset ("),
            // A key's name as default stands for that key's value.
            (_, value) => first == value || lines.iter().any(|other| other.key == first && other.value == value),
        };
        assert!(fits, "{}: the book says {told}, the program {} ({})", line.key, line.value, line.source);
    }
    for (key, _) in &rows {
        assert!(lines.iter().any(|line| line.key == *key), "docs/src/config.md names {key}, which does not exist");
    }
}

//! Numbers beyond reason: every option and every key of a recipe does its work with them or refuses them, and nothing else.

use crate::run::{Said, command, succeed, text, train_args};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// None, fewer than none, more than there is memory for, more than an f32 holds, and none at all.
const ODD: [&str; 6] = ["0", "-1", "18446744073709551615", "99999999999", "1e308", "nan"];

/// Runs the program in `dir` with something to read.
fn run(dir: &Path, args: &[String]) -> Said {
    let mut child = command(args).current_dir(dir).stdin(Stdio::piped()).spawn().unwrap();
    // A program that refuses its options does not read.
    let _ = child.stdin.take().unwrap().write_all(b"the sea\n");
    child.wait_with_output().unwrap().into()
}

/// Insists that the program ended by itself, with an error that it tells or with none.
fn sane(said: &Said, args: &[String]) {
    assert!(matches!(said.code, Some(0..=2)), "{args:?} ended with {:?}\n{}", said.code, said.err);
    assert!(!said.err.contains("panicked"), "{args:?}\n{}", said.err);
    assert!(said.ok || said.err.contains("error:"), "{args:?} fails without a word\n{}", said.err);
}

/// The options of a command that take a value, by its own help.
fn options(command: &[&str]) -> Vec<String> {
    let help = succeed(&[command, &["--help"]].concat()).out;
    let options: Vec<String> = help
        .split_whitespace()
        .zip(help.split_whitespace().skip(1))
        .filter(|(name, value)| name.starts_with("--") && (value.starts_with('<') || value.starts_with("[<")))
        .map(|(name, _)| name.to_owned())
        .collect();
    assert!(!options.is_empty(), "{command:?} has options");
    options
}

#[test]
fn every_option_takes_or_refuses_odd_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    succeed(&train_args(&data, &dir.path().join("run"), &["--set", "train.steps=2"]));
    fs::write(dir.path().join("template"), "{% for m in messages %}{{ m.content }} {% endfor %}").unwrap();

    let short = |args: &[&str]| args.iter().map(|a| a.to_string()).collect::<Vec<_>>();
    let commands = [
        (&["generate"][..], short(&["run", "--prompt", "the", "--max-tokens", "4"])),
        (&["chat"], short(&["run", "--template", "template", "--max-tokens", "4"])),
        (&["score"], short(&["run", "--text", "the sea"])),
        (&["bench", "infer"], short(&["run", "--prefill", "4", "--decode", "2", "--rounds", "1"])),
        (&["data", "prepare"], short(&["text.txt", "--tokenizer", "bpe"])),
    ];
    for (name, base) in commands {
        for option in options(name) {
            for (n, odd) in ODD.iter().enumerate() {
                // A model of our own writes on beyond its context: as long as is asked for.
                if option == "--max-tokens" && odd.len() > 5 {
                    continue;
                }
                let mut args: Vec<String> = name.iter().map(|a| a.to_string()).chain(base.clone()).collect();
                // An option of the base gives way, to another of its meaning too.
                let same = |a: &str| a == option || option == "--tokenizer-file" && a == "--tokenizer";
                if let Some(at) = args.iter().position(|a| same(a)) {
                    args.drain(at..at + 2);
                }
                args.push(format!("{option}={odd}"));
                if name == ["data", "prepare"] && option != "--out" {
                    args.push(format!("--out=made{option}{n}"));
                }
                sane(&run(dir.path(), &args), &args);
            }
        }
    }
}

#[test]
fn every_key_of_a_recipe_takes_or_refuses_odd_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    // A test of the library holds this page to the program.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/config.md");
    let page = fs::read_to_string(page).unwrap();
    let keys: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key).collect();
    assert!(keys.len() > 60, "{keys:?}");
    for key in keys {
        for (n, odd) in ODD.iter().enumerate() {
            // As many steps as are asked for are made.
            if key == "train.steps" && odd.len() > 5 {
                continue;
            }
            let out = dir.path().join(format!("{key}-{n}"));
            let args = train_args(&data, &out, &["--set", "train.steps=2", "--set", &format!("{key}={odd}")]);
            sane(&run(dir.path(), &args), &args);
            let _ = fs::remove_dir_all(out);
        }
    }
}

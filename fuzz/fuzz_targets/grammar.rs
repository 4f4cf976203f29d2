//! A regular expression, a schema, a Lark or GBNF grammar or a choice, and tokens chosen among those that it allows: it ends with
//! an error or with a text, and a whole JSON text is JSON.
#![no_main]
use gently_infer::{Constraint, Grammars};
use gently_text::Tokenizer;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const END: u32 = 256;

static GRAMMARS: LazyLock<Grammars> =
    LazyLock::new(|| Grammars::new(&Tokenizer::bytes().with_end_of_text("<end>")).unwrap());

fuzz_target!(|bytes: &[u8]| {
    let [kind, seed, rest @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    // GBNF came later: what was found before keeps its meaning, mostly.
    let kind = if *kind >= 128 { 4 } else { kind % 4 };
    let constraint = match kind {
        0 => Constraint::regex(text),
        1 => Constraint::json_schema(text),
        2 => Constraint::lark(text),
        3 => Constraint::choice(text.split('\n')),
        _ => Constraint::gbnf(text),
    };
    let Ok(grammar) = constraint.map_err(gently_infer::Error::from).and_then(|c| GRAMMARS.compile(&c)) else { return };
    let mut guide = grammar.guide();
    let (mut written, mut masked, mut draw) = (Vec::new(), Vec::new(), u32::from(*seed));
    while written.len() < 64 && !guide.is_complete() {
        let Ok(forced) = guide.forced() else { return };
        let id = match forced {
            Some(id) => id,
            None => {
                match guide.mask(&[0.0; 257], &mut masked) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => return,
                }
                let allowed: Vec<u32> = (0..257).filter(|&id| masked[id as usize] == 0.0).collect();
                assert!(!allowed.is_empty(), "nothing may come next, and the text is not complete");
                draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let id = allowed[(draw >> 16) as usize % allowed.len()];
                if guide.take(id).is_err() {
                    return;
                }
                id
            }
        };
        if id == END {
            break;
        }
        written.push(id as u8);
    }
    if kind == 1 && written.len() < 64 {
        let parsed = serde_json::from_slice::<serde_json::Value>(&written);
        // A number's exponent may be beyond what a reader has room for.
        assert!(parsed.is_ok() || written.contains(&b'e') || written.contains(&b'E'), "not JSON");
    }
    if kind == 3 && written.len() < 64 {
        assert!(text.split('\n').any(|one| one.as_bytes() == written), "not one of the choices");
    }
});

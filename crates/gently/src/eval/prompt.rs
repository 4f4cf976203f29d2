//! Prompts of items: templates filled in, solved examples in front, the right answer beside.
//!
//! The texts are those of lm-evaluation-harness, byte for byte; which examples are drawn is not (its draws are Python's). Not
//! here: tokens.

use super::error::{Error, Result};
use super::metric::Kind;
use super::sources::{Items, Sampler};
use super::task::{Source, Task};
use gently_tensor::Rng;
use serde_json::Value;

/// What is asked about an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prompt {
    /// The text before the answer.
    pub context: String,
    /// The answers to choose from; empty where the answer is written.
    pub choices: Vec<String>,
    /// Which of them are right.
    pub gold: Vec<usize>,
    /// Written answers that are right, or the text to read.
    pub targets: Vec<String>,
    /// Where the choices are prompts, each after the context: what follows each of them.
    pub continuation: Option<String>,
}

/// A question with its answers, before it is laid out.
struct Solved {
    question: String,
    choices: Vec<String>,
    target: Target,
}

enum Target {
    /// Choices by number.
    Index(Vec<usize>),
    /// Texts, any of which is right.
    Texts(Vec<String>),
    /// The right one of choices that are prompts, and what follows each.
    Prompts(usize, String),
}

/// An item of a list, for messages.
#[derive(Clone, Copy)]
struct Place<'a> {
    items: &'a Items,
    index: usize,
}

impl Place<'_> {
    fn wrong(&self, reason: impl std::fmt::Display) -> Error {
        Error::item(&self.items.path, self.index, reason.to_string())
    }

    fn fields(&self) -> &Value {
        &self.items.all[self.index]
    }

    fn field(&self, name: &str) -> Result<&Value> {
        self.fields().get(name).ok_or_else(|| self.wrong(format!("there is no field {name:?}")))
    }

    /// A template's failure at this item: the reason alone, which names the template.
    fn failed(&self, e: gently_text::Error) -> Error {
        match e {
            gently_text::Error::TextTemplate { what, reason, .. } => self.wrong(format!("{what}: {reason}")),
            other => other.into(),
        }
    }
}

/// What to ask about item `index`, with `shots` solved examples.
///
/// # Errors
/// [`Error::Item`] with the item's number: a field that is not there, a template that fails, an answer that is none of the
/// choices.
pub(super) fn prompt(task: &Task, index: usize, shots: usize, seed: u64) -> Result<Prompt> {
    let place = Place { items: &task.items, index };
    let mut context = match &task.description {
        Some(source) => text(source, place)?,
        None => String::new(),
    };
    for (items, shown) in examples(task, index, shots, seed)? {
        let solved = solve(task, Place { items, index: shown })?;
        context.push_str(&solved.question);
        let answer = match solved.target {
            Target::Index(all) => solved.choices[all[0]].clone(),
            Target::Texts(all) => all.first().cloned().unwrap_or_default(),
            Target::Prompts(right, follows) => {
                context.push_str(&solved.choices[right]);
                follows
            }
        };
        if !answer.is_empty() {
            context.push_str(&task.target_delimiter);
            context.push_str(&answer);
            context.push_str(&task.fewshot_delimiter);
        }
    }
    let Solved { question, choices, target } = solve(task, place)?;
    context.push_str(&question);
    Ok(match target {
        Target::Index(gold) if task.kind == Kind::Generate => {
            let targets = gold.iter().map(|g| choices[*g].clone()).collect();
            Prompt { context, choices: Vec::new(), gold: Vec::new(), targets, continuation: None }
        }
        Target::Index(gold) => Prompt { context, choices, gold, targets: Vec::new(), continuation: None },
        Target::Prompts(right, follows) => {
            Prompt { context, choices, gold: vec![right], targets: Vec::new(), continuation: Some(follows) }
        }
        Target::Texts(targets) if task.kind == Kind::Rolling && targets.len() != 1 => {
            return Err(place.wrong(format!("doc_to_target gives {} texts, not one", targets.len())));
        }
        Target::Texts(targets) => {
            Prompt { context, choices: Vec::new(), gold: Vec::new(), targets, continuation: None }
        }
    })
}

/// Which solved examples stand before an item.
fn examples(task: &Task, index: usize, shots: usize, seed: u64) -> Result<Vec<(&Items, usize)>> {
    if shots == 0 {
        return Ok(Vec::new());
    }
    let (items, own) = match &task.examples {
        Some(examples) => (examples.items()?, None),
        None => (&task.items, Some(index)),
    };
    let available = items.all.len() - usize::from(own.is_some());
    if shots > available {
        return Err(Error::Examples { path: items.path.clone(), asked: shots, available });
    }
    let mut chosen: Vec<usize> = Vec::with_capacity(shots);
    match task.sampler {
        Sampler::First => chosen.extend((0..items.all.len()).filter(|i| Some(*i) != own).take(shots)),
        Sampler::Random => {
            // Floyd's sampling: each set of examples is as likely as any other, and no list of all items is made.
            let mut draws = Rng::new(seed).stream("fewshot").substream(index as u64);
            for top in available - shots..available {
                let drawn = draws.below(top as u64 + 1) as usize;
                chosen.push(if chosen.contains(&drawn) { top } else { drawn });
            }
            draws.shuffle(&mut chosen);
            // Numbers from the item's own on stand for the one after.
            chosen.iter_mut().for_each(|i| *i += usize::from(own.is_some_and(|own| *i >= own)));
        }
    }
    Ok(chosen.into_iter().map(|i| (items, i)).collect())
}

/// A source as one text.
fn text(source: &Source, place: Place<'_>) -> Result<String> {
    match source {
        Source::Template(template) => template.render(place.fields()).map_err(|e| place.failed(e)),
        Source::Field(name) => match place.field(name)? {
            Value::String(text) => Ok(text.clone()),
            _ => Err(place.wrong(format!("the field {name:?} is not a text"))),
        },
        Source::Number(n) => Ok(n.to_string()),
        Source::Texts(all) => Ok(all.first().cloned().unwrap_or_default()),
    }
}

/// A question with its answers.
fn solve(task: &Task, place: Place<'_>) -> Result<Solved> {
    let choices = match &task.choice {
        Some(source) => choices(source, place)?,
        None => Vec::new(),
    };
    let question = match question(task, place)? {
        Question::Text(question) => question,
        Question::Number(n) if task.prompts => {
            let count = choices.len();
            let right = usize::try_from(n).ok().filter(|n| *n < count).ok_or_else(|| {
                place.wrong(format!("doc_to_text gives {n}, but the {count} choices are 0 to {}", count - 1))
            })?;
            let follows = match &task.target {
                Source::Field(name) => plain(place.field(name)?),
                other => Some(text(other, place)?),
            };
            let follows = follows.ok_or_else(|| place.wrong("doc_to_target gives no text"))?;
            return Ok(Solved { question: String::new(), choices, target: Target::Prompts(right, follows) });
        }
        Question::Number(n) => {
            return Err(place.wrong(format!("doc_to_text gives the number {n}, where it gave the first item a text")));
        }
    };
    if task.prompts {
        return Err(place.wrong("doc_to_text gives a text, where it gave the first item the number of a choice"));
    }
    let target = target(&task.target, &choices, task.choice.is_some(), place)?;
    Ok(Solved { question, choices, target })
}

/// What `doc_to_text` gives.
enum Question {
    Text(String),
    /// Of a task with choices: these are the prompts, and this one is right.
    Number(i64),
}

fn question(task: &Task, place: Place<'_>) -> Result<Question> {
    let chosen = task.kind == Kind::MultipleChoice && task.choice.is_some();
    Ok(match &task.text {
        Source::Number(n) => Question::Number(*n),
        Source::Field(name) => match place.field(name)?.as_i64() {
            Some(n) if chosen => Question::Number(n),
            _ => Question::Text(text(&task.text, place)?),
        },
        source => {
            let text = text(source, place)?;
            match text.parse() {
                Ok(n) if chosen && is_number(&text) => Question::Number(n),
                _ => Question::Text(text),
            }
        }
    })
}

/// Whether a task's choices are prompts: `doc_to_text` gives the first item a number.
pub(super) fn of_prompts(task: &Task) -> bool {
    matches!(question(task, Place { items: &task.items, index: 0 }), Ok(Question::Number(_)))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The list of choices.
fn choices(source: &Source, place: Place<'_>) -> Result<Vec<String>> {
    let value = match source {
        Source::Texts(all) => return Ok(all.clone()),
        Source::Field(name) => place.field(name)?.clone(),
        Source::Template(template) => {
            let value = template.value(place.fields()).map_err(|e| place.failed(e))?;
            let hint = "doc_to_choice is not one {{ expression }}, as a list of choices must be";
            value.ok_or_else(|| place.wrong(hint))?
        }
        Source::Number(_) => Value::Null,
    };
    let found: Option<Vec<String>> = match &value {
        Value::Array(all) => all.iter().map(plain).collect(),
        _ => None,
    };
    match found {
        Some(found) if !found.is_empty() => Ok(found),
        _ => Err(place.wrong("doc_to_choice gives no list of texts")),
    }
}

/// A text or number as Python prints it.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// The right answer: among choices by number or by its text, else as texts.
fn target(source: &Source, choices: &[String], chosen: bool, place: Place<'_>) -> Result<Target> {
    let value = match source {
        Source::Number(n) => Value::from(*n),
        Source::Texts(all) => all.iter().map(String::as_str).collect(),
        Source::Field(name) => place.field(name)?.clone(),
        Source::Template(template) => {
            let value = template.value(place.fields()).map_err(|e| place.failed(e))?;
            match value {
                Some(Value::Array(all)) => Value::Array(all),
                _ => {
                    let text = template.render(place.fields()).map_err(|e| place.failed(e))?;
                    match text.parse::<i64>() {
                        Ok(n) if chosen && is_number(&text) => Value::from(n),
                        _ => Value::String(text),
                    }
                }
            }
        }
    };
    let all = match &value {
        Value::Array(all) if all.is_empty() => return Err(place.wrong("doc_to_target gives an empty list")),
        Value::Array(all) => &all[..],
        one => std::slice::from_ref(one),
    };
    if !chosen {
        let texts: Option<Vec<String>> = all.iter().map(plain).collect();
        return texts.map(Target::Texts).ok_or_else(|| place.wrong("doc_to_target gives no text"));
    }
    let index = |value: &Value| -> Result<usize> {
        let n = choices.len();
        match value {
            Value::Number(i) => {
                let at = i.as_u64().and_then(|i| usize::try_from(i).ok()).filter(|i| *i < n);
                at.ok_or_else(|| {
                    place.wrong(format!("doc_to_target gives {i}, but the {n} choices are 0 to {}", n - 1))
                })
            }
            Value::String(text) => {
                let at = choices.iter().position(|c| c == text);
                at.ok_or_else(|| place.wrong(format!("doc_to_target gives {text:?}, which is none of the {n} choices")))
            }
            _ => Err(place.wrong("doc_to_target gives neither a choice's number nor its text")),
        }
    };
    all.iter().map(index).collect::<Result<_>>().map(Target::Index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const HEAD: &str = "output_type: multiple_choice\ndoc_to_text: 'Q: {{q}}'\ndoc_to_choice: '{{c}}'\n";
    const ITEMS: &str =
        "items:\n- {q: a, c: [x, y], t: 1}\n- {q: b, c: [x, z], t: z}\n- {q: c, c: [v, 2], t: [0, 1]}\n";

    fn task(more: &str) -> Task {
        Task::parse(&format!("{HEAD}{ITEMS}{more}"), Path::new("t.yaml")).unwrap()
    }

    #[test]
    fn prompts_are_the_harness_texts() {
        let task = task("doc_to_target: t\ndescription: \"Say.\\n\"\nfewshot_config: {sampler: first_n}\n");
        let made = prompt(&task, 1, 2, 0).unwrap();
        // One's own item is no example; of several right choices the first is shown.
        assert_eq!(made.context, "Say.\nQ: a y\n\nQ: c v\n\nQ: b");
        assert_eq!((made.choices, made.gold), (vec!["x".into(), "z".into()], vec![1]));
        assert_eq!(prompt(&task, 2, 0, 0).unwrap().gold, [0, 1]);
        let e = prompt(&task, 0, 3, 0).unwrap_err().to_string();
        assert!(e.contains("3 solved examples") && e.contains("there are 2"), "{e}");
    }

    #[test]
    fn draws_depend_on_seed_and_item_alone() {
        let task = task("doc_to_target: t\n");
        let drawn = |seed, index| prompt(&task, index, 2, seed).unwrap().context;
        assert_eq!(drawn(1, 0), drawn(1, 0));
        assert!((2..40).any(|seed| drawn(seed, 0) != drawn(1, 0)));
        for seed in 0..40 {
            assert!(!drawn(seed, 1).contains("Q: b z"), "its own answer is not shown");
        }
    }

    #[test]
    fn wrong_targets_name_the_item() {
        for (target, word) in [
            ("2", "gives 2, but the 2 choices are 0 to 1"),
            ("nothing", "\"nothing\", which is none"),
            ("'{{t.x}}'", "there is no field \"t.x\""),
            ("'{{q}}'", "\"a\", which is none"),
            ("'{{[]}}'", "empty list"),
        ] {
            let e = prompt(&task(&format!("doc_to_target: {target}\n")), 0, 0, 0).unwrap_err().to_string();
            assert!(e.starts_with("t.yaml: item 1: ") && e.contains(word), "{e}");
        }
        assert_eq!(prompt(&task("doc_to_target: '{{1}}'\n"), 0, 0, 0).unwrap().gold, [1]);
    }

    #[test]
    fn choices_may_be_prompts() {
        let text = |a: &str, b: &str| {
            format!(
                "output_type: multiple_choice\nitems:\n- {{c: [x, y], t: end, n: {a}}}\n- {{c: [v, w], t: stop, n: {b}}}\n\
                doc_to_text: n\ndoc_to_choice: c\ndoc_to_target: t\nfewshot_config: {{sampler: first_n}}\n"
            )
        };
        let parse = |text: &str| Task::parse(text, Path::new("t.yaml")).unwrap();
        let task = parse(&text("1", "0"));
        let made = prompt(&task, 0, 1, 0).unwrap();
        assert_eq!((made.context.as_str(), &made.choices[..]), ("v stop\n\n", &["x".to_owned(), "y".into()][..]));
        assert_eq!((made.continuation.as_deref(), &made.gold[..]), (Some("end"), &[1][..]));
        let rendered = parse(&text("1", "0").replace("doc_to_text: n", "doc_to_text: '{{n}}'"));
        assert_eq!(prompt(&rendered, 0, 1, 0).unwrap(), made);
        let says = |task: &Task, item| prompt(task, item, 0, 0).unwrap_err().to_string();
        assert!(says(&parse(&text("2", "0")), 0).contains("doc_to_text gives 2, but the 2 choices are 0 to 1"));
        assert!(says(&parse(&text("1", "why")), 1).contains("the first item the number of a choice"));
        assert!(says(&parse(&text("why", "1")), 1).contains("the first item a text"));
    }
}

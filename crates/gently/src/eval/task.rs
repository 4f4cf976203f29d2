//! Tasks: what is asked of a model, read from a YAML file.
//!
//! Here: the keys of a task file, which are those of lm-evaluation-harness. Not here: where items are from (see
//! [`super::sources`]), what is measured (see [`super::metric`]), making prompts of items (see [`super::prompt`]).

use super::EvalOptions;
use super::answer::{ExactMatch, Filter, Pipeline};
use super::error::{Error, Result};
use super::keys::{Keys, wrong};
use super::metric::{Kind, Metric, metrics};
use super::prompt::of_prompts;
use super::sources::{Examples, Items, Sampler, fewshot_config, files, named};
use super::yaml::{self, Node, Value};
use gently_text::Template;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where a text or a target is from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A field of the item.
    Field(String),
    /// A template over its fields.
    Template(Box<Template>),
    /// The same number for all items.
    Number(i64),
    /// The same texts for all items.
    Texts(Vec<String>),
}

/// How an answer is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Generation {
    pub until: Vec<String>,
    pub max_tokens: usize,
}

/// A task.
#[derive(Debug, Clone)]
pub struct Task {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The files that it names.
    pub(super) named: Vec<PathBuf>,
    pub(super) kind: Kind,
    pub(super) description: Option<Source>,
    pub(super) text: Source,
    /// Whether the choices are prompts, of which `text` gives the right one's number.
    pub(super) prompts: bool,
    pub(super) choice: Option<Source>,
    pub(super) target: Source,
    pub(super) target_delimiter: String,
    pub(super) fewshot_delimiter: String,
    pub(super) metrics: Vec<Metric>,
    pub(super) exact: ExactMatch,
    /// At least one.
    pub(super) filters: Vec<Pipeline>,
    pub(super) num_fewshot: usize,
    pub(super) sampler: Sampler,
    pub(super) generation: Generation,
    pub(super) items: Items,
    /// Where solved examples are from; `None`: the items themselves, without the one that is asked.
    pub(super) examples: Option<Examples>,
}

const KEYS: [&str; 32] = [
    "task",
    "name",
    "kind",
    "output_type",
    "data",
    "items",
    "dataset_path",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "fewshot_data",
    "fewshot_items",
    "fewshot_config",
    "num_fewshot",
    "description",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "target_delimiter",
    "fewshot_delimiter",
    "generation_kwargs",
    "metric_list",
    "filter_list",
    "repeats",
    // What says nothing about scores.
    "task_alias",
    "tag",
    "group",
    "metadata",
    "should_decontaminate",
    "doc_to_decontamination_query",
];

/// Keys of lm-evaluation-harness that are refused by name.
const ELSEWHERE: [(&str, &str); 12] = [
    ("dataset_name", "items are read from files"),
    ("custom_dataset", "it is Python code"),
    ("process_docs", "it is Python code; process the items first"),
    ("process_results", "it is Python code; use metric_list and filter_list"),
    ("doc_to_image", "models here read text"),
    ("doc_to_audio", "models here read text"),
    ("use_prompt", "write the prompt in doc_to_text"),
    ("gen_prefix", "write the prefix at the end of doc_to_text"),
    ("include", "write the keys of the other file into this one"),
    ("unsafe_code", "no code is run"),
    ("class", "it is Python code"),
    ("group_alias", "groups are not formed"),
];

/// Most solved examples before an item.
const MOST_EXAMPLES: i64 = 1000;
/// Most tokens of an answer.
const MOST_TOKENS: i64 = 1 << 20;

impl Task {
    /// Reads a task file and its items.
    ///
    /// # Errors
    /// A file that cannot be read, is not YAML, has an unknown key or an impossible value (with the line), or names items that
    /// are not there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { path: path.into(), named_by_task: false, source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(io)?;
        file.take(yaml::MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let valid = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
            wrong(path, line, "it is not UTF-8", Some("convert it with iconv first"))
        })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a task file; paths in it are relative to the folder of `path`.
    ///
    /// # Errors
    /// As [`Task::open`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let root = Node::parse(text).map_err(|e| wrong(path, e.line, e.reason, e.hint))?;
        let keys = Keys::of(path, "", &root, &KEYS, &ELSEWHERE)?;
        let missing = |key: &str, why: &str| wrong(path, root.line, format!("{key} is missing"), Some(why));

        let kind = match (keys.get("kind"), keys.get("output_type")) {
            (Some(_), Some(node)) => return Err(keys.wrong("output_type", node, "kind says the same already")),
            (Some(_), None) => keys.choice("kind", &["multiple_choice", "generate", "perplexity"])?,
            _ => keys.choice("output_type", &["multiple_choice", "generate_until", "loglikelihood_rolling"])?,
        };
        let kind = match kind {
            Some(0) => Kind::MultipleChoice,
            Some(1) => Kind::Generate,
            Some(_) => Kind::Rolling,
            None => {
                let known = "it is multiple_choice, generate_until or loglikelihood_rolling";
                return Err(missing("output_type", known));
            }
        };
        if kind == Kind::Rolling {
            // Texts are read as they are, with nothing in front and nothing to choose.
            for key in
                ["doc_to_choice", "description", "num_fewshot", "fewshot_config", "fewshot_data", "fewshot_items"]
            {
                if let Some(node) = keys.get(key).filter(|n| n.value != Value::Int(0)) {
                    return Err(keys.wrong(key, node, "a task of loglikelihood_rolling has none"));
                }
            }
        }
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = keys.text("task")?.or(keys.text("name")?).map_or_else(stem, str::to_owned);

        if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            let line = keys.get("task").or(keys.get("name")).map_or(root.line, |n| n.line);
            return Err(wrong(path, line, format!("{name:?} is no name for a task"), Some("such as my_task")));
        }

        let (items, examples) = files(&keys)?;
        let mut fields: Vec<&str> =
            items.all.iter().filter_map(|i| i.as_object()).flat_map(|o| o.keys().map(String::as_str)).collect();
        fields.sort_unstable();
        fields.dedup();

        let source = |key: &str| -> Result<Option<Source>> {
            let Some(node) = keys.get(key) else { return Ok(None) };
            Ok(Some(match &node.value {
                Value::Int(n) => Source::Number(*n),
                Value::Text(t) if fields.binary_search(&t.as_str()).is_ok() => Source::Field(t.clone()),
                Value::Text(t) => Source::Template(Box::new(Template::new(t, key, path)?)),
                Value::List(_) => Source::Texts(keys.texts(key)?.unwrap_or_default()),
                Value::Map(all) if key == "doc_to_choice" => {
                    let text = |n: &Node| match &n.value {
                        Value::Text(t) => Ok(t.clone()),
                        _ => Err(keys.wrong(key, n, format!("it is {}, not a text", n.kind()))),
                    };
                    Source::Texts(all.iter().map(|e| text(&e.node)).collect::<Result<_>>()?)
                }
                _ => return Err(keys.wrong(key, node, format!("it is {}, not a template", node.kind()))),
            }))
        };
        let text = match kind {
            // What is before the text plays no part.
            Kind::Rolling => Some(Source::Texts(Vec::new())),
            _ => source("doc_to_text")?,
        };
        let text =
            text.ok_or_else(|| missing("doc_to_text", "it is the prompt, such as \"Question: {{question}}\""))?;
        let target = source("doc_to_target")?;
        let target =
            target.ok_or_else(|| missing("doc_to_target", "it is the right answer, such as \"{{answer}}\""))?;
        let choice = source("doc_to_choice")?;
        match (&choice, kind) {
            (None, Kind::MultipleChoice) => {
                return Err(missing(
                    "doc_to_choice",
                    "it is the list of answers, such as \"{{choices}}\" or [A, B, C]",
                ));
            }
            (Some(Source::Number(_)), _) => return Err(missing("doc_to_choice", "a number is no list of answers")),
            _ => {}
        }
        let unfit = match text {
            Source::Number(_) => kind != Kind::MultipleChoice,
            Source::Texts(_) => kind != Kind::Rolling,
            _ => false,
        };
        if let (true, Some(node)) = (unfit, keys.get("doc_to_text")) {
            return Err(keys.wrong("doc_to_text", node, format!("it is {}, not a template", node.kind())));
        }

        let fewshot_delimiter = keys.text("fewshot_delimiter")?.unwrap_or("\n\n").to_owned();
        keys.only("repeats", &[Value::Int(1)])?;
        let (metrics, exact) = metrics(&keys, kind)?;
        let (sampler, shown) = fewshot_config(&keys)?;
        let named_too = ["fewshot_data", "fewshot_items", "fewshot_split"].iter().any(|key| keys.get(key).is_some());
        if let (Some(_), Some(_), true, Some(node)) = (&shown, &examples, named_too, keys.get("fewshot_config")) {
            return Err(keys.wrong("fewshot_config", node, "samples, and another key that names examples"));
        }
        let examples = shown.map(Examples::from).or(examples);
        let num_fewshot = keys.count("num_fewshot", MOST_EXAMPLES)?.unwrap_or(0);
        // What the task asks for is read with it.
        if let (Some(examples), true) = (&examples, named_too || num_fewshot > 0) {
            examples.items()?;
        }
        let mut task = Self {
            name,
            path: path.into(),
            named: named(&keys)?,
            kind,
            description: source("description")?,
            text,
            prompts: false,
            choice,
            target,
            target_delimiter: keys.text("target_delimiter")?.unwrap_or(" ").to_owned(),
            metrics,
            exact,
            filters: filters(&keys, kind)?,
            num_fewshot,
            sampler,
            generation: generation(&keys, kind, &fewshot_delimiter)?,
            fewshot_delimiter,
            items,
            examples,
        };
        task.prompts = of_prompts(&task);
        Ok(task)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The task file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The task file, and the files of items and of solved examples that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.path).chain(&self.named).map(PathBuf::as_path)
    }

    /// How it is answered.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many items it has.
    pub fn len(&self) -> usize {
        self.items.all.len()
    }

    /// Whether it has no items; never, once read.
    pub fn is_empty(&self) -> bool {
        self.items.all.is_empty()
    }

    /// How many solved examples stand before an item, if nothing else is asked for.
    pub fn num_fewshot(&self) -> usize {
        self.num_fewshot
    }

    /// Whether it can be asked with these options, so far as files say it: the solved examples that they ask for are read now.
    ///
    /// # Errors
    /// [`Error::NoExamples`]; a file of examples that cannot be read.
    pub fn check(&self, options: &EvalOptions) -> Result<()> {
        let asked = options.num_fewshot.unwrap_or(self.num_fewshot);
        if asked == 0 {
            return Ok(());
        }
        if self.kind == Kind::Rolling {
            return Err(Error::NoExamples { path: self.path.clone(), asked });
        }
        self.examples.as_ref().map_or(Ok(()), |examples| examples.items().map(|_| ()))
    }

    /// The names of what is measured: metric and, where answers go through filters, the filters' name.
    pub fn measures<'t>(&'t self) -> Vec<(Metric, Option<&'t str>)> {
        match self.kind {
            Kind::MultipleChoice | Kind::Rolling => self.metrics.iter().map(|m| (*m, None)).collect(),
            Kind::Generate => {
                let name = |p: &'t Pipeline| Some(p.name.as_str()).filter(|name| *name != NO_FILTER);
                self.filters.iter().map(|p| (Metric::ExactMatch, name(p))).collect()
            }
        }
    }
}

/// The name of no filters.
const NO_FILTER: &str = "none";

fn filters(keys: &Keys<'_>, kind: Kind) -> Result<Vec<Pipeline>> {
    let mut found: Vec<Pipeline> = Vec::new();
    for node in keys.list("filter_list")? {
        let entry = Keys::of(keys.path, "filter_list", node, &["name", "filter"], &[])?;
        let name = entry.text("name")?.unwrap_or(NO_FILTER).to_owned();
        if found.iter().any(|p| p.name == name) {
            return Err(entry.wrong("name", node, format!("{name} is given twice")));
        }
        let mut filters = Vec::new();
        for node in entry.list("filter")? {
            const OPTIONS: [&str; 4] = ["function", "regex_pattern", "group_select", "fallback"];
            const NAMES: [&str; 5] = ["regex", "remove_whitespace", "lowercase", "uppercase", "take_first"];
            let step = Keys::of(keys.path, "filter", node, &OPTIONS, &[])?;
            let function = step.choice("function", &NAMES)?;
            if let Some(key) = OPTIONS[1..].iter().find(|k| function != Some(0) && step.get(k).is_some()) {
                return Err(step.wrong(key, node, "it is an option of the filter regex"));
            }
            match function {
                Some(0) => {
                    let default = Node { line: node.line, value: Value::Text(r"#### (\-?[0-9\.\,]+)".into()) };
                    filters.push(Filter::Regex {
                        pattern: step.regex("regex_pattern", step.get("regex_pattern").unwrap_or(&default))?,
                        select: step.whole("group_select")?.unwrap_or(0),
                        fallback: step.text("fallback")?.unwrap_or("[invalid]").to_owned(),
                    });
                }
                Some(1) => filters.push(Filter::RemoveWhitespace),
                Some(2) => filters.push(Filter::Lowercase),
                Some(3) => filters.push(Filter::Uppercase),
                // There is one answer to an item, and it is taken.
                Some(_) => {}
                None => return Err(step.wrong("function", node, "it is missing")),
            }
        }
        found.push(Pipeline { name, filters });
    }
    if let (false, true, Some(node)) = (found.is_empty(), kind != Kind::Generate, keys.get("filter_list")) {
        return Err(keys.wrong("filter_list", node, "it is for written answers"));
    }
    if found.is_empty() {
        found.push(Pipeline { name: NO_FILTER.into(), filters: Vec::new() });
    }
    Ok(found)
}

fn generation(keys: &Keys<'_>, kind: Kind, fewshot_delimiter: &str) -> Result<Generation> {
    let mut found = Generation { until: vec![fewshot_delimiter.to_owned()], max_tokens: 256 };
    let Some(node) = keys.get("generation_kwargs") else { return Ok(found) };
    if kind != Kind::Generate {
        let reason = format!("nothing is written in a task of {}", kind.name());
        return Err(keys.wrong("generation_kwargs", node, reason));
    }
    let known = ["until", "max_gen_toks", "do_sample", "temperature"];
    let kwargs = Keys::of(keys.path, "generation_kwargs", node, &known, &[])?;
    kwargs.only("do_sample", &[Value::Bool(false)])?;
    kwargs.only("temperature", &[Value::Int(0), Value::Float(0.0)])?;
    if let Some(until) = kwargs.texts("until")? {
        found.until = until;
    }
    if let Some(n) = kwargs.count("max_gen_toks", MOST_TOKENS)? {
        found.max_tokens = n.max(1);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "task: t\noutput_type: generate_until\nitems:\n- {q: 'a: b', a: [x, \"y\\n\"]}\n- q: |\n    long\n  a: >-\n    c\n\
        doc_to_text: \"{{q}}\"\ndoc_to_target: a\nnum_fewshot: 1\nfewshot_config: {sampler: first_n}\n\
        generation_kwargs:\n  until: [\"\\n\"]\nfilter_list:\n- name: n\n  filter:\n  - {function: regex, regex_pattern: '(a|b)'}\n";

    #[test]
    fn files_cut_or_changed_anywhere_end_well() {
        assert_eq!(Task::parse(WHOLE, Path::new("t")).unwrap().len(), 2);
        let mut state = 7u64;
        let mut refused = 0;
        for at in 0..WHOLE.len() {
            refused += usize::from(Task::parse(&WHOLE[..at], Path::new("t")).is_err());
            for _ in 0..20 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let mut bytes = WHOLE.as_bytes().to_vec();
                bytes[at] = b"\t\n !&*-:[]{}|>'\"%@?,#0aZ~<"[(state >> 33) as usize % 26];
                let text = String::from_utf8(bytes).unwrap();
                if let Err(e) = Task::parse(&text, Path::new("t")) {
                    assert!(!e.to_string().is_empty());
                    refused += 1;
                }
            }
        }
        assert!(refused > 1000, "{refused}");
    }
}

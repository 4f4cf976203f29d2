//! Chat templates: a conversation as the one text that a model was taught to answer.
//!
//! Here: Jinja templates from a folder or a GGUF file, rendered as `transformers` renders them, with a budget: a hostile
//! template costs a bounded time and memory. Not here: turning the text into tokens (see [`crate::Tokenizer`]).
//!
//! ```
//! use gently_text::{ChatOptions, ChatTemplate, Message, TemplateTokens};
//! let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}\
//!     {% if add_generation_prompt %}<assistant>{% endif %}";
//! let template = ChatTemplate::new(source, TemplateTokens::default(), "doc".as_ref())?;
//! let text = template.render(&[Message::user("Hello")], &ChatOptions::default())?;
//! assert_eq!(text, "<user>Hello\n<assistant>");
//! # Ok::<(), gently_text::Error>(())
//! ```

use crate::python::{self, dates::strftime};
use crate::running::Program;
use crate::template::{environment, fuel, told};
use crate::tokenizer::read;
use crate::{Error, Result, filters, names, source};
use gently_formats::files;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, State};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, …
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// What a person says.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into() }
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into() }
    }

    /// How the model is to behave.
    pub fn system(content: impl Into<String>) -> Self {
        Self { role: "system".into(), content: content.into() }
    }
}

/// Spellings of special tokens that a template may use by name: `bos_token`, `eos_token`, …
pub type TemplateTokens = BTreeMap<String, String>;

/// What surrounds a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// Whether the text ends where the answer begins.
    pub add_generation_prompt: bool,
    /// Descriptions of tools, a JSON array.
    pub tools: Option<String>,
    /// What `strftime_now` says; absent: the clock, in UTC.
    pub now: Option<SystemTime>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, tools: None, now: None }
    }
}

/// What a model has for a chat template: its text, which may be no template. Whoever passes it on need not understand it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateText {
    /// The text.
    pub source: String,
    /// Special tokens by the names that the template uses.
    pub tokens: TemplateTokens,
    /// Where it stands, for messages.
    pub path: PathBuf,
}

impl TemplateText {
    /// That of a model folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Json`] for unreadable files.
    pub fn load(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        let dir = dir.as_ref();
        let path = dir.join(files::TOKENIZER_CONFIG);
        let config: serde_json::Value = match path.exists() {
            false => serde_json::Value::Null,
            true => serde_json::from_str(&read(&path)?).map_err(|e| Error::Json {
                path: path.clone(),
                line: e.line(),
                column: e.column(),
                reason: e.to_string(),
            })?,
        };
        let tokens = names::spelled(&config, dir);
        let file = dir.join(files::CHAT_TEMPLATE);
        if file.exists() {
            return Ok(Some(Self { source: read(&file)?, tokens, path: file }));
        }
        let source = match &config["chat_template"] {
            serde_json::Value::String(source) => Some(source.as_str()),
            // Several by name: the one for plain conversations.
            serde_json::Value::Array(all) => {
                all.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str())
            }
            _ => None,
        };
        Ok(source.map(|source| Self { source: source.into(), tokens, path }))
    }

    /// The template.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn template(self) -> Result<ChatTemplate> {
        ChatTemplate::new(&self.source, self.tokens, &self.path)
    }
}

/// A template, read once and rendered often.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    program: Program,
    tokens: TemplateTokens,
    path: PathBuf,
}

impl ChatTemplate {
    /// Reads a template; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Template`] with the line, also for one that is too long or too deep.
    pub fn new(source: &str, tokens: TemplateTokens, path: &Path) -> Result<Self> {
        let fail = |reason: String| Error::Template { path: path.into(), reason };
        let plain = source::prepared(source, true).map_err(&fail)?;
        let mut environment = environment();
        // As transformers sets Jinja up.
        environment.add_filter("tojson", filters::tojson);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        let syntax = syntax.map_err(|e| fail(e.to_string()))?;
        environment.set_syntax(syntax.clone());
        environment.add_function(
            "raise_exception",
            |state: &State, message: &Value| -> Result<Value, minijinja::Error> {
                Err(python::refused(python::text(message, &|fuel| state.consume_fuel(fuel))?.into_owned()))
            },
        );
        let program = Program::new(&mut environment, NAME, plain, syntax).map_err(|e| fail(told(&e)))?;
        Ok(Self { environment, program, tokens, path: path.into() })
    }

    /// The [template](TemplateText::load) of a model folder; `None` where there is none.
    ///
    /// # Errors
    /// As [`TemplateText::load`] and [`ChatTemplate::new`].
    pub fn load(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        TemplateText::load(dir)?.map(TemplateText::template).transpose()
    }

    /// Special tokens by the names that the template uses.
    pub fn tokens(&self) -> &TemplateTokens {
        &self.tokens
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::Template`] with what the template says (many refuse roles that do not alternate), and when it exceeds its
    /// budget.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let size = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let message = |m: &Message| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]);
        self.render_value(messages.iter().map(message).collect(), size, options)
    }

    /// The text of a conversation given as a JSON array of messages, which may have more than role and content (calls of
    /// tools, parts). The order of keys is kept.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], and for text that is not such an array.
    pub fn render_json(&self, messages: &str, options: &ChatOptions) -> Result<String> {
        let value = self.parse(messages, "the messages")?;
        self.render_value(value, messages.len(), options)
    }

    fn parse(&self, text: &str, what: &str) -> Result<Value> {
        let value: Value = serde_json::from_str(text).map_err(|e| self.fail(format!("{what}: {e}")))?;
        if value.kind() != ValueKind::Seq {
            return Err(self.fail(format!("{what} are not a JSON array")));
        }
        Ok(value)
    }

    fn render_value(&self, messages: Value, size: usize, options: &ChatOptions) -> Result<String> {
        let tools = match &options.tools {
            Some(text) => self.parse(text, "the tools")?,
            None => Value::from(()),
        };
        let token = |(name, text): (&String, &String)| (Value::from(name.as_str()), Value::from(text.as_str()));
        let mut values: BTreeMap<Value, Value> = self.tokens.iter().map(token).collect();
        values.insert("messages".into(), messages);
        values.insert("tools".into(), tools);
        values.insert("documents".into(), Value::from(()));
        values.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        let mut environment = self.environment.clone();
        let now = options.now;
        environment.add_function("strftime_now", move |state: &State, format: &str| {
            // Directives stand for more than they are.
            state.consume_fuel(format.len() as u64 / 4)?;
            strftime(now.unwrap_or_else(SystemTime::now), format)
        });
        // Long conversations are paid for by their length.
        let size = size + options.tools.as_ref().map_or(0, String::len);
        environment.set_fuel(Some(fuel(size)));
        self.program.render(&environment, Value::from(values)).map_err(|e| self.fail(told(&e)))
    }

    fn fail(&self, reason: String) -> Error {
        Error::Template { path: self.path.clone(), reason }
    }
}

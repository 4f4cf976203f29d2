//! Options of what a text must be, shared by the commands that write.

use super::input;
use anyhow::Result;
use clap::Args;
use gently::text_model::TextModel;
use gently_infer::Constraint as Constrained;
use std::path::{Path, PathBuf};

/// What the text must be; one of these.
#[derive(Args, Clone)]
#[group(id = "constraint", multiple = false)]
pub struct Constraint {
    /// The text is JSON that satisfies this schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
    /// The whole text matches this regular expression
    #[arg(long, value_name = "EXPRESSION", allow_hyphen_values = true)]
    regex: Option<String>,
    /// The text is derived by the grammar in this file: GBNF if its name ends in .gbnf, else Lark
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// The text is one of these; give it several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    choice: Vec<String>,
}

/// Longest file; what is too long for a grammar is said by its own reader.
const LONGEST: u64 = 16 << 20;

impl Constraint {
    /// The constraint that was asked for.
    pub fn read(&self) -> Result<Option<Constrained>> {
        let file = self.file();
        let option = if self.json_schema.is_some() { "--json-schema" } else { "--grammar" };
        let text = file.map(|file| input::text(file, LONGEST, option)).transpose()?;
        let made = if let Some(schema) = &self.json_schema {
            Constrained::json_schema(text.as_deref().unwrap_or(schema))
        } else if let (Some(file), Some(text)) = (file, &text) {
            let gbnf = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gbnf"));
            if gbnf { Constrained::gbnf(text) } else { Constrained::lark(text) }
        } else if let Some(expression) = &self.regex {
            Constrained::regex(expression)
        } else if !self.choice.is_empty() {
            Constrained::choice(&self.choice)
        } else {
            return Ok(None);
        };
        self.named(made).map(Some)
    }

    /// Compiles what was read for a model, which keeps it for the texts: what cannot be is told before any is begun.
    pub fn compile(&self, read: Option<&Constrained>, model: &TextModel) -> Result<()> {
        match read {
            Some(constraint) => self.named(model.grammars()?.compile(constraint)).map(drop),
            None => Ok(()),
        }
    }

    /// The file that has it.
    pub fn file(&self) -> Option<&Path> {
        let Some(schema) = &self.json_schema else { return self.grammar.as_deref() };
        // No file's name begins as a schema does, or is empty.
        let given = schema.trim();
        let itself = given.is_empty() || given.starts_with(['{', '[']) || matches!(given, "true" | "false");
        (!itself).then_some(Path::new(schema))
    }

    /// Errors name the file.
    fn named<T, E: Into<anyhow::Error>>(&self, made: Result<T, E>) -> Result<T> {
        made.map_err(|error| {
            let error: anyhow::Error = error.into();
            match self.file() {
                Some(file) => error.context(file.display().to_string()),
                None => error,
            }
        })
    }
}

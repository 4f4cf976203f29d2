//! Options of what a text must be, shared by the commands that write.

use super::input;
use anyhow::{Context, Result};
use clap::Args;
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
    #[arg(long, value_name = "EXPRESSION")]
    regex: Option<String>,
    /// The text is derived by the grammar in this file: GBNF if its name ends in .gbnf, else Lark
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// The text is one of these; give it several times
    #[arg(long, value_name = "TEXT")]
    choice: Vec<String>,
}

/// Longest file; what is too long for a grammar is said by its own reader.
const LONGEST: u64 = 16 << 20;

impl Constraint {
    /// The constraint that was asked for.
    pub fn read(&self) -> Result<Option<Constrained>> {
        if let Some(schema) = &self.json_schema {
            // No file's name begins as a schema does, or is empty.
            let given = schema.trim();
            if given.is_empty() || given.starts_with(['{', '[']) || matches!(given, "true" | "false") {
                return Ok(Some(Constrained::json_schema(schema)?));
            }
            let text = input::text(Path::new(schema), LONGEST)?;
            return Ok(Some(Constrained::json_schema(&text).with_context(|| schema.clone())?));
        }
        if let Some(file) = &self.grammar {
            let text = input::text(file, LONGEST)?;
            let gbnf = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gbnf"));
            let constraint = if gbnf { Constrained::gbnf(&text) } else { Constrained::lark(&text) };
            return Ok(Some(constraint.with_context(|| file.display().to_string())?));
        }
        if let Some(expression) = &self.regex {
            return Ok(Some(Constrained::regex(expression)?));
        }
        Ok(match self.choice.is_empty() {
            true => None,
            false => Some(Constrained::choice(&self.choice)?),
        })
    }
}

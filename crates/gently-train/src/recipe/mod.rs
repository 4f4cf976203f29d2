//! Recipes.

mod source;

pub use source::{ConfigLine, Source};

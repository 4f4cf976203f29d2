//! The recipes that come with the program.
//!
//! Here: their texts by name, and finding the recipe that a person means. Not here: what a recipe may say
//! ([`gently_train::recipe`]).
//!
//! ```
//! let recipe = gently::recipes::find("shakespeare-cpu").unwrap();
//! assert_eq!(recipe.name(), "shakespeare-cpu");
//! ```

use gently_train::Recipe;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Name and text of each built-in recipe.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("quickstart", include_str!("../../../recipes/quickstart.toml")),
    ("shakespeare-cpu", include_str!("../../../recipes/shakespeare-cpu.toml")),
    ("shakespeare-baby", include_str!("../../../recipes/shakespeare-baby.toml")),
    ("gpt2-124m", include_str!("../../../recipes/gpt2-124m.toml")),
    ("tinystories-15m", include_str!("../../../recipes/tinystories-15m.toml")),
];

/// Why a recipe was not found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither a file nor a built-in name.
    #[error("there is no recipe {}", .name.display())]
    Unknown {
        /// What was asked for.
        name: PathBuf,
    },
    /// A folder where a recipe should be.
    #[error("{} is a folder, not a recipe", .name.display())]
    Folder {
        /// What was asked for.
        name: PathBuf,
    },
    /// The recipe cannot be read.
    #[error(transparent)]
    Train(#[from] gently_train::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unknown { .. } | Error::Folder { .. } => {
                let names: Vec<_> = BUILT_IN.iter().map(|r| r.0).collect();
                Some(format!("built-in recipes are {}; or give the path of a .toml file", names.join(", ")))
            }
            Error::Train(e) => e.hint(),
        }
    }
}

/// The recipe that `name` means: a file if there is one, otherwise a built-in recipe, with or without `recipes/` before
/// and `.toml` behind its name.
///
/// # Errors
/// [`Error::Unknown`], [`Error::Folder`], or a file that is no recipe.
pub fn find(name: impl AsRef<Path>) -> Result<Recipe, Error> {
    let path = name.as_ref();
    if path.is_file() {
        return Ok(Recipe::load(path)?);
    }
    let bare = match path.parent().map(|p| p.as_os_str()) {
        Some(parent) if parent.is_empty() || parent == "recipes" => path.file_name().and_then(|n| n.to_str()),
        _ => None,
    };
    let bare = bare.map(|n| n.strip_suffix(".toml").unwrap_or(n));
    match BUILT_IN.iter().find(|r| Some(r.0) == bare) {
        Some((name, text)) => Ok(Recipe::parse(text, name)?),
        None if path.is_dir() => Err(Error::Folder { name: path.into() }),
        None => Err(Error::Unknown { name: path.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_recipe_resolves() {
        for (name, _) in BUILT_IN {
            for spelling in [name.to_string(), format!("recipes/{name}.toml"), format!("{name}.toml")] {
                let mut recipe = find(&spelling).unwrap();
                // Recipes with a published vocabulary ask for its file; others refuse one.
                if *name == "gpt2-124m" {
                    recipe.set("tokenizer.path=gpt2").unwrap();
                }
                recipe.resolve().unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
    }

    #[test]
    fn unknown_names_list_the_known() {
        let error = find("shakespear").unwrap_err();
        assert!(error.to_string().contains("shakespear"));
        assert!(error.hint().unwrap().contains("shakespeare-cpu"));
        assert!(find("elsewhere/quickstart.toml").is_err());
        let error = find(std::env::temp_dir()).unwrap_err();
        assert!(error.to_string().ends_with("is a folder, not a recipe"), "{error}");
    }
}

//! What can go wrong with a model: one enum, each variant naming the key, file or tensor at fault.
//!
//! Here: [`Error`] with its hints. Not here: tensor errors, which arrive as [`Error::Tensor`].
//!
//! ```
//! let error = gently_models::DecoderConfig::named("gpt5").unwrap_err();
//! assert!(error.hint().unwrap().contains("gpt2"));
//! ```

use crate::config::NAMED;
use crate::families::FAMILIES;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the models crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration value breaks a rule.
    #[error("model.{key} = {value} {rule}")]
    Config {
        /// The key at fault.
        key: &'static str,
        /// Its value.
        value: String,
        /// What must hold.
        rule: String,
    },
    /// A configuration that cannot be read.
    #[error("model configuration: {message}")]
    ConfigText {
        /// What the parser says.
        message: String,
    },
    /// A sampling parameter out of range.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::SamplingError),
    /// A name that is no published size.
    #[error("no published size is called {name:?}")]
    UnknownPreset {
        /// The name given.
        name: String,
    },
    /// A path that is no model.
    #[error("{} is neither a model folder nor a GGUF file", path.display())]
    NoModel {
        /// The path.
        path: PathBuf,
    },
    /// A parameter that the model does not have.
    #[error("the model has no parameter {name:?}")]
    NoParameter {
        /// The name asked for.
        name: String,
    },
    /// A second parameter of a name.
    #[error("the model has a parameter {name:?} already")]
    NameTaken {
        /// The whole name.
        name: String,
    },
    /// A model with mixers that its configuration does not say.
    #[error("{}: the model has mixers from elsewhere, which only the code that made it has", path.display())]
    OtherMixers {
        /// The `config.json`.
        path: PathBuf,
    },
    /// The system has no memory for what is asked.
    #[error("there is no memory for {bytes} bytes of {of}")]
    NoMemory {
        /// What they were to hold.
        of: String,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A `config.json` or index that is not the JSON expected.
    #[error("{}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the key or line.
        message: String,
    },
    /// Settings of a file that do not go together, or are of a model that is not computed here.
    #[error("{}: {message}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The key, its value and what must hold.
        message: String,
    },
    /// A `model_type` this crate does not know.
    #[error("{}: model_type {model_type:?} is not supported", path.display())]
    UnknownModelType {
        /// The `config.json`.
        path: PathBuf,
        /// The type it names.
        model_type: String,
    },
    /// A published option that this model does not implement.
    #[error("{}: {key} = {value} is not supported", path.display())]
    UnsupportedOption {
        /// The `config.json`.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A GGUF file of the model would be read as another model.
    #[error("{}: {key} = {value} has no form in GGUF for this family: it would be read as {read}", path.display())]
    NoGgufForm {
        /// The model that was to be written.
        path: PathBuf,
        /// The configuration's key.
        key: String,
        /// Its value.
        value: String,
        /// What a reader would take it for.
        read: String,
    },
    /// A tensor the model needs is not in the files.
    #[error("{}: tensor {name} is missing", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The published name.
        name: String,
    },
    /// A tensor in the files that the model has no place for.
    #[error("{}: tensor {name} has no place in this model", path.display())]
    UnexpectedTensor {
        /// The file or folder.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A head of its own in the files of a model whose head is the embedding table.
    #[error("{}: tensor {name} is not the embedding table, but the configuration says so", path.display())]
    UntiedHead {
        /// The folder.
        path: PathBuf,
        /// The published name.
        name: String,
    },
    /// A model that was saved without its head.
    #[error("{}: the model was saved without its head ({name}): it embeds texts and writes none", path.display())]
    NoHead {
        /// The folder.
        path: PathBuf,
        /// The published name of the head.
        name: String,
    },
    /// Weights in a form that only Python reads.
    #[error("{}: weights as a Python pickle are not read", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A tensor of another shape than the configuration says.
    #[error("{}: tensor {name} has shape {found:?}, the configuration says {expected:?}", path.display())]
    TensorShape {
        /// The file or folder.
        path: PathBuf,
        /// Its name.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape of the model.
        expected: Vec<usize>,
    },
    /// A bias that the configuration leaves out holds values that are not zero.
    #[error("{}: tensor {name} is not zero, but the configuration has no such bias", path.display())]
    NonZeroBias {
        /// The file or folder.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// Tokens that do not fit the model or each other.
    #[error("{what}")]
    Tokens {
        /// What is wrong, with the numbers.
        what: String,
    },
    /// A state that cannot do what is asked, or belongs to another model.
    #[error("state: {what}")]
    State {
        /// What is wrong, with the numbers.
        what: String,
    },
    /// A file that cannot be read, written or believed.
    #[error(transparent)]
    Format(#[from] gently_formats::Error),
    /// From the tensor crate.
    #[error(transparent)]
    Tensor(#[from] gently_tensor::Error),
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownPreset { .. } => Some(format!("published sizes: {}", NAMED.join(", "))),
            Self::UnknownModelType { .. } => {
                let types: Vec<&str> = FAMILIES.iter().flat_map(|e| e.model_types).copied().collect();
                Some(format!("supported model types: {}, and gently (written by this program)", types.join(", ")))
            }
            Self::NameTaken { .. } => Some("give each part a scope of its own (Builder::scope)".to_owned()),
            Self::OtherMixers { .. } => {
                Some("build it with Decoder::with_mixers, and read the folder with Decoder::load_weights".to_owned())
            }
            Self::NoMemory { .. } => Some("take a smaller model, or stop other programs".to_owned()),
            Self::NonZeroBias { .. } => {
                Some("remove the \"gently\" entry from config.json to load the model with its biases".to_owned())
            }
            Self::Json { .. } => Some(
                "the file is damaged, was not fully copied, or is of a model that is not read here; make or fetch it again"
                    .to_owned(),
            ),
            Self::Setting { .. } => Some(
                "no such model is computed here: see whether the file was edited by hand, or take another model of the family"
                    .to_owned(),
            ),
            Self::UntiedHead { .. } => Some("set tie_word_embeddings to false in config.json".to_owned()),
            Self::NoHead { .. } => Some("use it with gently embed, or take the files of the whole model".to_owned()),
            Self::Pickle { .. } => Some(
                "write them as model.safetensors with Python: AutoModelForCausalLM (AutoModel for an encoder) of transformers, \
                 from_pretrained(FOLDER), then save_pretrained(NEW_FOLDER)"
                    .to_owned(),
            ),
            Self::UnsupportedOption { key: "layout (for GGUF)" | "dtype", .. } => {
                Some("keep the model as a folder, with weights in f32, f16 or bf16".to_owned())
            }
            Self::UnsupportedOption { .. } => {
                Some("without it the numbers would be others; take another model of the family that has it off".to_owned())
            }
            Self::MissingTensor { path, .. } | Self::UnexpectedTensor { path, .. } | Self::TensorShape { path, .. } => {
                let one_file = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
                let hint = match one_file {
                    true => "the file is damaged, or its keys are those of another model; make or fetch it again",
                    false => "the weights and config.json may come from different models",
                };
                Some(hint.to_owned())
            }
            Self::NoGgufForm { .. } => Some("keep the model as a folder, whose config.json says it".to_owned()),
            Self::NoModel { .. } => {
                Some("a folder has config.json and model.safetensors; a file ends in .gguf".to_owned())
            }
            Self::Format(e) => e.hint().map(str::to_owned),
            Self::Tensor(e) => e.hint().map(str::to_owned),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn a_single_file_is_not_held_against_a_config_json() {
        let hint = |path: &str| Error::MissingTensor { path: path.into(), name: "w".into() }.hint().unwrap();
        assert!(hint("model/model.safetensors").contains("config.json"));
        assert!(!hint("model.gguf").contains("config.json") && hint("m.GGUF").contains("the file is damaged"));
    }
}

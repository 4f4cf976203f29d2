//! Our own layout, for configurations that no published family covers and for models with mixers from elsewhere: parameters
//! under our own names.
//!
//! Here: its names and `config.json` head. The sizes and choices are the `gently` entry, see
//! [`super::read_config`].
//!
//! ```
//! use gently_models::{config::*, families::Layout};
//! let cfg = DecoderConfig { position: Position::Alibi, ..DecoderConfig::preset(Family::Llama) };
//! assert_eq!(Layout::of(&cfg), Layout::Native);
//! ```

use super::NameTable;
use crate::params::Param;
use serde_json::{Map, Value};

/// The `model_type` of `config.json`.
pub(crate) const MODEL_TYPE: &str = "gently";
/// The key of a `config.json` whose other keys do not say what the model's mixers compute.
const MIXERS: &str = "mixers";

/// Whether a `config.json` is of this layout.
pub(crate) fn is_native(json: &Value) -> bool {
    json.get("model_type").and_then(Value::as_str) == Some(MODEL_TYPE)
}

/// Whether a `config.json` is of a model whose mixers it does not say.
pub(crate) fn has_other_mixers(json: &Value) -> bool {
    is_native(json) && json.get(MIXERS).is_some()
}

/// Says so in a `config.json`.
pub(crate) fn put_other_mixers(json: &mut Value) {
    json[MIXERS] = "from elsewhere".into();
}

/// The `config.json` keys beside the `gently` entry.
pub fn to_json() -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("architectures".into(), Value::Array(vec!["GentlyDecoder".into()]));
    map.insert("model_type".into(), MODEL_TYPE.into());
    map.insert("dtype".into(), "float32".into());
    map
}

/// The name table: each parameter under its own name.
pub fn names(params: &[Param]) -> NameTable {
    let mut table = NameTable::default();
    for p in params {
        table.same(&p.name, &p.name, p.rows());
    }
    table
}

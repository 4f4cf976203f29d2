//! Our own layout, for configurations that no published family covers: parameters under our own names.
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

/// The `config.json` keys beside the `gently` entry.
pub fn to_json() -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("architectures".into(), Value::Array(vec!["GentlyDecoder".into()]));
    map.insert("model_type".into(), "gently".into());
    map.insert("dtype".into(), "float32".into());
    map
}

/// The name table: each parameter under its own name.
pub fn names(params: &[Param]) -> NameTable {
    let mut table = NameTable::default();
    for p in params {
        table.same(&p.name, &p.name, p.tensor.dims()[0]);
    }
    table
}

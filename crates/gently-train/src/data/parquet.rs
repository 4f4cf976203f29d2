//! Parquet files, behind the feature `parquet`.

use super::read::{Layout, Sink};
use super::{Error, Result};
use std::path::Path;

/// Without the feature: an error that says so.
#[cfg(not(feature = "parquet"))]
pub(crate) fn read(_: &Path, name: &str, _: &Layout, _: &mut Sink<'_>) -> Result<()> {
    Err(Error::Feature { what: format!("reading {name}"), feature: "parquet" })
}

/// Gives the text column's rows to `sink`, or the prompt and completion columns'.
#[cfg(feature = "parquet")]
pub(crate) fn read(path: &Path, name: &str, layout: &Layout, sink: &mut Sink<'_>) -> Result<()> {
    use super::read::Chunk;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use parquet::schema::types::Type;

    let bad = |reason: String| Error::Parquet { source_name: name.into(), reason };
    let file = std::fs::File::open(path).map_err(Error::io(path, "read"))?;
    let reader = SerializedFileReader::new(file).map_err(|e| bad(e.to_string()))?;
    let schema = reader.metadata().file_metadata().schema();
    let has = |field: &str| schema.get_fields().iter().any(|f| f.name() == field);
    let wanted: Vec<&str> = if has(&layout.field) {
        vec![&layout.field]
    } else if has(&layout.prompt) && has(&layout.completion) {
        vec![&layout.prompt, &layout.completion]
    } else {
        let names: Vec<_> = schema.get_fields().iter().take(12).map(|f| f.name()).collect();
        return Err(bad(format!("no column {:?}; its columns are {}", layout.field, names.join(", "))));
    };
    let fields = schema.get_fields().iter().filter(|f| wanted.contains(&f.name())).cloned().collect();
    let projection =
        Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(|e| bad(e.to_string()))?;
    let rows = reader.get_row_iter(Some(projection)).map_err(|e| bad(e.to_string()))?;
    for (n, row) in rows.enumerate() {
        let row = row.map_err(|e| bad(format!("row {n}: {e}")))?;
        for (i, field) in wanted.iter().enumerate() {
            let last = i + 1 == wanted.len();
            let value = row.get_column_iter().find(|(name, _)| name.as_str() == *field).map(|(_, value)| value);
            let text = match value {
                Some(Field::Str(text)) => text.as_str(),
                Some(Field::Null) => "",
                _ => return Err(bad(format!("row {n}: column {field:?} is not text"))),
            };
            sink(Chunk { text, counts: last, last })?;
        }
    }
    Ok(())
}

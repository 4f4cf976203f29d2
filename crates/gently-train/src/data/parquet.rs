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

#[cfg(all(test, feature = "parquet"))]
mod tests {
    use crate::data::{Error, Input, Prepare, TokenizerSpec};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    fn write(path: &std::path::Path, column: &str, texts: &[&str]) {
        let schema = format!("message m {{ REQUIRED INT32 id; REQUIRED BYTE_ARRAY {column} (UTF8); }}");
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let compression = parquet::basic::Compression::SNAPPY;
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut ids = group.next_column().unwrap().unwrap();
        let numbers: Vec<i32> = (0..texts.len() as i32).collect();
        ids.typed::<parquet::data_type::Int32Type>().write_batch(&numbers, None, None).unwrap();
        ids.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn rows_are_documents() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.parquet");
        write(&file, "text", &["first", "zweites ü"]);
        let mut prepare = Prepare::new([Input::Path(file.clone())]);
        prepare.tokenizer = TokenizerSpec::Bytes;
        prepare.val_fraction = 0.0;
        let out = dir.path().join("out");
        let dataset = prepare.run(&out, &mut |_| Ok(())).unwrap();
        let corpus = dataset.train().unwrap();
        let mut tokens = Vec::new();
        corpus.read(0, corpus.document(0, 1), &mut tokens).unwrap();
        assert_eq!(dataset.tokenizer().decode(&tokens).unwrap(), "zweites ü");
        write(&file, "body", &["first"]);
        let e = prepare.run(&out, &mut |_| Ok(())).unwrap_err();
        assert!(e.to_string().contains("id, body"), "{e}");
        std::fs::write(&file, b"PAR1 but no more").unwrap();
        assert!(matches!(prepare.run(&out, &mut |_| Ok(())), Err(Error::Parquet { .. })));
    }
}

//! A split being written as shards of bounded size.

use super::Result;
use super::dataset::SplitInfo;
use gently_formats::shard::{ShardInfo, ShardWriter};
use std::path::{Path, PathBuf};

/// Writes `NAME-00000.tok` and so on.
#[derive(Debug)]
pub(crate) struct SplitWriter {
    dir: PathBuf,
    name: &'static str,
    info: ShardInfo,
    limit: u64,
    current: Option<ShardWriter>,
    /// Whether the current shard's first document began in the shard before.
    continues: bool,
    /// Whether a document has begun and not ended.
    open: bool,
    done: SplitInfo,
}

impl SplitWriter {
    pub fn new(dir: &Path, name: &'static str, info: ShardInfo, limit: u64) -> Self {
        let done = SplitInfo::default();
        Self { dir: dir.into(), name, info, limit, current: None, continues: false, open: false, done }
    }

    /// Appends tokens of the current document.
    pub fn push(&mut self, mut tokens: &[u32], counts: bool) -> Result<()> {
        while !tokens.is_empty() {
            if self.current.as_ref().is_some_and(|w| w.len() >= self.limit) {
                self.roll()?;
            }
            let writer = match &mut self.current {
                Some(writer) => writer,
                none => {
                    let file = format!("{}-{:05}.tok", self.name, self.done.shards.len());
                    let writer = ShardWriter::create(self.dir.join(&file), self.info)?;
                    self.done.shards.push(file);
                    self.continues = self.open;
                    none.insert(writer)
                }
            };
            let room = usize::try_from(self.limit - writer.len()).unwrap_or(usize::MAX);
            let (now, later) = tokens.split_at(tokens.len().min(room));
            writer.push(now, counts)?;
            self.open = true;
            self.done.tokens += now.len() as u64;
            tokens = later;
        }
        Ok(())
    }

    /// Ends the current document.
    pub fn end_document(&mut self) {
        if std::mem::take(&mut self.open) {
            self.done.documents += 1;
            if let Some(writer) = &mut self.current {
                writer.end_document();
            }
        }
    }

    fn roll(&mut self) -> Result<()> {
        if let Some(writer) = self.current.take() {
            writer.finish(self.continues, self.open)?;
        }
        Ok(())
    }

    /// Ends the split.
    pub fn finish(mut self) -> Result<SplitInfo> {
        self.end_document();
        self.roll()?;
        Ok(self.done)
    }
}

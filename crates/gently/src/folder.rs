//! A model with its tokenizer, as a folder or a GGUF file on disk.
//!
//! Here: finding what a path means (a GGUF file, a Hugging Face folder, a checkpoint, or a run folder, of which the best or
//! the newest checkpoint is taken) and loading it; making a folder ready for another model. Not here: the formats themselves.

use crate::gguf;
use crate::hub::{RECORD, fixed_names, record_of_conversion};
use gently_formats::atomic::is_at;
use gently_formats::files::{self, CONFIG, POOLING};
use gently_formats::gguf::Gguf;
use gently_formats::unfinished::Unfinished;
use gently_formats::{Error as FormatError, Limits};
use gently_models::config::DecoderConfig;
use gently_models::{Decoder, WeightSource};
use gently_tensor::Device;
use gently_text::{ChatTemplate, TemplateText, Tokenizer};
use gently_train::checkpoint::Checkpoints;
use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a folder gives no model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The path does not exist.
    #[error("{} does not exist", .path.display())]
    Absent {
        /// The path given.
        path: PathBuf,
    },
    /// Nothing in it is a model.
    #[error("{} holds no model: there is no config.json and no complete checkpoint", .path.display())]
    NoModel {
        /// The path given.
        path: PathBuf,
    },
    /// The path is a device or another thing that is no file and no folder.
    #[error("{} is neither a file nor a folder", .path.display())]
    Neither {
        /// The path given.
        path: PathBuf,
    },
    /// Another program writes a model there.
    #[error("another program is writing a model into {}", .path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file that would be taken away with a model, where there is none.
    #[error("{} is in the way: a model takes its place, and without config.json it is of none", .path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// What could not be put back, of an exchange of models that was broken off.
    #[error("{} has files of the model that was in the folder before, which are not in their places", .path.display())]
    Aside {
        /// The folder with them, under their own names.
        path: PathBuf,
    },
    /// The tokenizer has more tokens than the model.
    #[error("{}: the tokenizer has {tokenizer} tokens, but the model's vocabulary is {model}", .path.display())]
    Vocabulary {
        /// The folder.
        path: PathBuf,
        /// Size of the tokenizer's vocabulary.
        tokenizer: usize,
        /// Size of the model's vocabulary.
        model: usize,
    },
    /// A model cannot guess what one of another vocabulary writes.
    #[error("{} cannot be the draft: its vocabulary is {theirs}, but the model's is {model}", .path.display())]
    DraftVocabulary {
        /// What was to guess.
        path: PathBuf,
        /// Size of its vocabulary.
        theirs: usize,
        /// Size of the model's vocabulary.
        model: usize,
    },
    /// From the model's files.
    #[error(transparent)]
    Model(#[from] gently_models::Error),
    /// From the tokenizer's files.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
    /// From a file's own structure.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// From the checkpoints of a run folder.
    #[error(transparent)]
    Train(#[from] gently_train::Error),
    /// The model cannot be lowered to a plan.
    #[error(transparent)]
    Infer(#[from] gently_infer::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Absent { .. } | Error::Neither { .. } => {
                Some("give a GGUF file, a run folder, a checkpoint, or a Hugging Face model folder".into())
            }
            Error::NoModel { .. } => Some(
                "a run folder has its first checkpoint after checkpoint.every steps; \
                 a Hugging Face folder has config.json and model.safetensors"
                    .into(),
            ),
            Error::Busy { .. } => Some("wait until it is done, or choose another folder".into()),
            Error::InTheWay { .. } => Some("move it away, or choose another folder".into()),
            Error::Aside { .. } => Some("move them back to the folder, or remove them".into()),
            Error::Vocabulary { .. } => Some("the tokenizer and the weights may come from different models".into()),
            Error::DraftVocabulary { .. } => {
                Some("a draft is a smaller model of the same family, with the same tokenizer".into())
            }
            Error::Format(e) => e.hint().map(str::to_owned),
            Error::Model(e) => e.hint(),
            Error::Text(e) => e.hint(),
            Error::Train(e) => e.hint(),
            Error::Infer(e) => e.hint(),
        }
    }
}

/// A loaded model, its tokenizer, and the folder or file they came from.
pub struct ModelFolder {
    /// The folder with `config.json`, or the GGUF file.
    pub path: PathBuf,
    /// The model.
    pub model: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl ModelFolder {
    /// Loads the model that `path` means: see [`locate`].
    ///
    /// # Errors
    /// No model there; files that are damaged or do not fit each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = locate(path.as_ref())?;
        let weights = WeightSource::open(&path)?;
        let tokenizer = match weights.gguf() {
            Some(file) => gguf::tokenizer(file)?,
            None => Tokenizer::load(&path)?,
        };
        let model = weights.decoder(&Device::Cpu)?;
        if tokenizer.vocab_size() > model.config().vocab {
            return Err(Error::Vocabulary { tokenizer: tokenizer.vocab_size(), model: model.config().vocab, path });
        }
        Ok(Self { path, model, tokenizer })
    }

    /// The model's chat template; `None` where it has none.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        chat_template(&self.path)
    }
}

/// The chat template of the folder or GGUF file that [`locate`] found; `None` where it has none.
///
/// # Errors
/// A template that cannot be read.
pub fn chat_template(path: &Path) -> Result<Option<ChatTemplate>, Error> {
    Ok(template_text(path)?.map(TemplateText::template).transpose()?)
}

/// The text of that template, as it stands there.
///
/// # Errors
/// Files that cannot be read.
pub fn template_text(path: &Path) -> Result<Option<TemplateText>, Error> {
    match path.is_file() {
        true => gguf::chat_template(&Gguf::open(path, &Limits::default())?),
        false => Ok(TemplateText::load(path)?),
    }
}

/// The folder with `config.json` that `path` means: itself, or the newest complete checkpoint of a run folder. A file means
/// itself.
///
/// # Errors
/// [`Error::Absent`], [`Error::Neither`], [`Error::NoModel`], or an unreadable folder.
pub fn locate(path: &Path) -> Result<PathBuf, Error> {
    if !path.exists() {
        return Err(Error::Absent { path: path.into() });
    }
    if path.is_file() || path.join(CONFIG).is_file() {
        return Ok(path.into());
    }
    if !path.is_dir() {
        return Err(Error::Neither { path: path.into() });
    }
    match Checkpoints::of_run(path).latest()? {
        Some(checkpoint) => Ok(checkpoint),
        None => Err(Error::NoModel { path: path.into() }),
    }
}

/// The configuration of the model that `path` means, without its weights.
///
/// # Errors
/// As [`locate`], and a `config.json` that cannot be read.
pub fn configuration(path: &Path) -> Result<(PathBuf, DecoderConfig), Error> {
    let path = locate(path)?;
    let (_, config) = gently_models::pretrained::read_config(&path)?;
    Ok((path, config))
}

/// The folder in which a new model is written.
pub const STAGE: &str = ".new-model.tmp";
/// The folder in it for the files of the model before.
const ASIDE: &str = "old";
/// The file in it that says that somebody writes.
const LOCK: &str = "lock";

/// A model's files on their way into a folder. They are written into a folder within it first, and take their places only when
/// all are there: a full disk or an error costs the model before nothing. Dropped, it leaves the folder as it was.
///
/// A program that a signal ends takes the inner folder away ([`gently_formats::unfinished`]). One that is killed leaves it, and the
/// next one for the same folder empties it; but what it has of the model before is for a person to judge.
pub struct NewModel {
    dir: PathBuf,
    stage: PathBuf,
    /// Whether the folder itself was made for it.
    made: bool,
    /// Whether the inner folder has what could not be put back.
    kept: bool,
    /// Until the models are exchanged.
    unfinished: Option<Unfinished>,
    /// Held while this program writes.
    _lock: File,
}

impl NewModel {
    /// Begins a model for a folder, which is made where it is not there.
    ///
    /// # Errors
    /// [`Error::Busy`]; [`Error::InTheWay`]; [`Error::Aside`]; [`Error::Format`] for a folder that cannot be written.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let stage = dir.join(STAGE);
        let (lock, made) = hold(dir, &stage)?;
        // Only now: what another program is about in the folder looks like what a killed one left.
        let aside = stage.join(ASIDE);
        let kept = std::fs::read_dir(&aside).is_ok_and(|mut entries| entries.next().is_some());
        let mut new = Self { dir: dir.into(), stage, made, kept, unfinished: None, _lock: lock };
        if kept {
            return Err(Error::Aside { path: aside });
        }
        let files = model_files(dir);
        // `config.json` is the first of them.
        if !files.first().is_some_and(|config| config.exists())
            && let Some(path) = files.into_iter().find(|path| path.exists())
        {
            return Err(Error::InTheWay { path });
        }
        let (left, folder) = (new.stage.clone(), dir.to_owned());
        new.unfinished = Some(Unfinished::new(move || remove_stage(&left, made.then_some(&*folder))));
        empty(&new.stage)?;
        Ok(new)
    }

    /// Where the files are to be written.
    pub fn path(&self) -> &Path {
        &self.stage
    }

    /// An error about a file in [`NewModel::path`], told of the place that the file was to take: the other is gone when it is read.
    pub fn named(&self, mut error: gently_models::Error) -> gently_models::Error {
        use FormatError::{Io, Request};
        if let gently_models::Error::Format(Io { path, .. } | Request { path, .. }) = &mut error
            && let Ok(name) = path.strip_prefix(&self.stage)
        {
            *path = self.dir.join(name);
        }
        error
    }

    /// Puts the files in their places, and takes the model that was there away; what is no model's file stays. `config.json` goes
    /// first and comes last, without which a folder is no model: one that lacks a part, or has one of the model before, is not
    /// taken for a whole one. After an error all is as before, if the files can be put back.
    ///
    /// # Errors
    /// [`Error::Format`] for a file that cannot be moved; [`Error::Aside`] where that could not be undone.
    pub fn commit(mut self) -> Result<(), Error> {
        let unfinished = self.unfinished.take();
        let mut exchange = || {
            let mut moves = Vec::new();
            let done = self.exchange(&mut moves);
            if done.is_err() {
                for (from, to) in moves.iter().rev() {
                    self.kept |= std::fs::rename(to, from).is_err();
                }
                // Only where nothing is in it.
                let _ = std::fs::remove_dir(self.dir.join(POOLING));
            }
            match self.kept {
                true => Err(Error::Aside { path: self.stage.join(ASIDE) }),
                false => done,
            }
        };
        match unfinished {
            // Files of two models in one folder are what a signal must not leave: it waits.
            Some(unfinished) => unfinished.finish(exchange),
            None => exchange(),
        }
    }

    /// The moves that exchange the models; `moves` has those that were made, from where and to where.
    fn exchange(&self, moves: &mut Vec<(PathBuf, PathBuf)>) -> Result<(), Error> {
        let mut put = |from: PathBuf, to: PathBuf, action: &'static str| {
            std::fs::rename(&from, &to)
                .map_err(FormatError::io(if action == "remove" { &from } else { &to }, action))?;
            moves.push((from, to));
            Ok::<_, Error>(())
        };
        // What a pull brought is no more here, and the next pull must not take this for it.
        let record = self.dir.join(RECORD);
        if record.exists() {
            let new = self.stage.join(RECORD);
            std::fs::write(&new, record_of_conversion()).map_err(FormatError::io(&new, "write"))?;
        }
        let mut staged = staged(&self.stage)?;
        staged.sort_by_key(|path| path.ends_with(CONFIG));
        let aside = self.stage.join(ASIDE);
        let old: Vec<PathBuf> = model_files(&self.dir).into_iter().chain([record]).collect();
        for from in old.into_iter().filter(|path| path.symlink_metadata().is_ok()) {
            if from.is_dir() {
                return Err(FormatError::io(&from, "remove")(ErrorKind::IsADirectory.into()).into());
            }
            let to = aside.join(from.strip_prefix(&self.dir).unwrap_or(&from));
            let folder = to.parent().unwrap_or(&aside);
            std::fs::create_dir_all(folder).map_err(FormatError::io(folder, "create"))?;
            put(from, to, "remove")?;
        }
        for from in staged {
            let to = self.dir.join(from.file_name().unwrap_or_default());
            if !from.is_dir() {
                put(from, to, "write")?;
                continue;
            }
            std::fs::create_dir_all(&to).map_err(FormatError::io(&to, "create"))?;
            for entry in std::fs::read_dir(&from).map_err(FormatError::io(&from, "read"))? {
                let entry = entry.map_err(FormatError::io(&from, "read"))?;
                put(entry.path(), to.join(entry.file_name()), "write")?;
            }
        }
        // Only where nothing else is in it.
        let _ = std::fs::remove_dir(self.dir.join(POOLING));
        gently_formats::atomic::sync_folder(&self.dir);
        Ok(())
    }
}

impl Drop for NewModel {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let unfinished = self.unfinished.take();
        let remove = || remove_stage(&self.stage, self.made.then_some(&*self.dir));
        match unfinished {
            // A signal after that must not take away what by then is another program's.
            Some(unfinished) => unfinished.finish(remove),
            None => remove(),
        }
    }
}

/// Makes a stage, with its folder, and takes its lock; says whether the folder was made.
fn hold(dir: &Path, stage: &Path) -> Result<(File, bool), Error> {
    // Others may be done with it, and take it away, before it is locked here: then it is made anew. By chance that happens once or
    // twice.
    const MOST: usize = 1000;
    let path = stage.join(LOCK);
    let open = || -> Result<File, Error> {
        std::fs::create_dir_all(dir).map_err(FormatError::io(dir, "create"))?;
        std::fs::create_dir_all(stage).map_err(FormatError::io(stage, "create"))?;
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        Ok(file.map_err(FormatError::io(&path, "write"))?)
    };
    let (mut made, mut last) = (false, Error::Busy { path: dir.into() });
    for _ in 0..MOST {
        made |= !dir.exists();
        let lock = match open() {
            Ok(lock) => lock,
            Err(e) if is_gone(&e) => {
                last = e;
                continue;
            }
            Err(e) => return Err(e),
        };
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: dir.into() }),
            // A system without locks has the file alone.
            Ok(()) | Err(TryLockError::Error(_)) if is_at(&lock, &path) => return Ok((lock, made)),
            _ => {}
        }
    }
    Err(last)
}

/// Whether something failed as it does where a folder is taken away meanwhile.
fn is_gone(e: &Error) -> bool {
    let Error::Format(FormatError::Io { source, .. }) = e else { return false };
    // A folder that is there when it is to be made, and then is not.
    matches!(source.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
}

/// What is in a stage beside its lock.
fn staged(stage: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(stage).map_err(FormatError::io(stage, "read"))? {
        let entry = entry.map_err(FormatError::io(stage, "read"))?;
        if entry.file_name() != LOCK {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Removes what is in a stage beside its lock, which is held.
fn empty(stage: &Path) -> Result<(), Error> {
    for entry in staged(stage)? {
        let done = match entry.is_dir() {
            true => std::fs::remove_dir_all(&entry),
            false => std::fs::remove_file(&entry),
        };
        done.map_err(FormatError::io(&entry, "remove"))?;
    }
    Ok(())
}

/// Removes a stage whose lock is held, and the folder around it if that was made for it. What cannot be removed is emptied by the
/// next one.
fn remove_stage(stage: &Path, made: Option<&Path>) {
    if empty(stage).is_err() {
        return;
    }
    // The lock last, and nothing after it but folders that are empty: as soon as it is gone another program may be at work there.
    let _ = std::fs::remove_file(stage.join(LOCK));
    let _ = std::fs::remove_dir(stage);
    if let Some(dir) = made {
        let _ = std::fs::remove_dir(dir);
    }
}

/// The files of a folder that are read with a model's, there or not: those that another model takes away. `config.json` is first.
pub fn model_files(dir: &Path) -> Vec<PathBuf> {
    // Parts are read where an index names them; left behind by a new model in one file they would only fill the disk.
    let parts = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let parts = parts.filter(|name| name.to_str().is_some_and(files::is_part));
    let fixed = [CONFIG].into_iter().chain(fixed_names(false)).map(OsString::from);
    fixed.chain(parts).map(|name| dir.join(name)).collect()
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_signal_ends_leaves_no_folder() {
        // In a process of its own: there, nothing else is unfinished.
        const CHILD: &str = "GENTLY_TEST_ABANDON";
        let Some(dir) = std::env::var_os(CHILD) else {
            let dir = tempfile::tempdir().unwrap();
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "folder::tests::what_a_signal_ends_leaves_no_folder"])
                .env(CHILD, dir.path())
                .output()
                .unwrap();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
            assert_eq!(names(dir.path()), ["there"], "the child ran");
            return;
        };
        let dir = PathBuf::from(dir);
        std::fs::create_dir(dir.join("there")).unwrap();
        let new = ["there", "fresh"].map(|name| NewModel::create(&dir.join(name)).unwrap());
        for one in &new {
            std::fs::write(one.path().join("config.json"), "half").unwrap();
        }
        gently_formats::unfinished::abandon(|| {
            assert_eq!(names(&dir), ["there"]);
            assert!(names(&dir.join("there")).is_empty());
        });
    }

    #[test]
    fn of_many_that_write_one_is_at_work() {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("model");
        let write = |turn: usize| {
            let new = match NewModel::create(&dir) {
                Ok(new) => new,
                Err(Error::Busy { .. }) => return,
                Err(e) => panic!("{e:?}"),
            };
            // Another one at work would have them already, or clear them away.
            for name in ["config.json", "vocab.txt"] {
                File::create_new(new.path().join(name)).unwrap();
            }
            match turn % 2 {
                0 => drop(new),
                _ => new.commit().unwrap(),
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || (0..50).for_each(|turn| write(thread + turn)));
            }
        });
        write(1);
        assert_eq!(names(&dir), ["config.json", "vocab.txt"]);
    }

    #[test]
    fn a_model_is_replaced_when_the_new_one_is_whole() {
        let out = tempfile::tempdir().unwrap();
        let put = |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        put(out.path(), "config.json", "old");
        put(out.path(), "vocab.txt", "old");
        put(out.path(), "notes.txt", "mine");
        // What a killed program left.
        std::fs::create_dir(out.path().join(STAGE)).unwrap();
        put(&out.path().join(STAGE), "merges.txt", "left");
        let before = ["config.json", "notes.txt", "vocab.txt"];

        let new = NewModel::create(out.path()).unwrap();
        assert!(matches!(NewModel::create(out.path()), Err(Error::Busy { .. })));
        put(new.path(), "config.json", "half");
        drop(new);
        assert_eq!(names(out.path()), before, "what is given up costs nothing");
        assert_eq!(std::fs::read(out.path().join("config.json")).unwrap(), b"old");

        let new = NewModel::create(out.path()).unwrap();
        put(new.path(), "config.json", "new");
        std::fs::create_dir(new.path().join("1_Pooling")).unwrap();
        put(new.path(), "1_Pooling/config.json", "new");
        new.commit().unwrap();
        assert_eq!(names(out.path()), ["1_Pooling", "config.json", "notes.txt"]);
        assert_eq!(std::fs::read(out.path().join("config.json")).unwrap(), b"new");
        assert_eq!(names(&out.path().join("1_Pooling")), ["config.json"]);

        // What an exchange that was broken off has of the model before is kept.
        let aside = out.path().join(STAGE).join(ASIDE);
        std::fs::create_dir_all(&aside).unwrap();
        put(&aside, "config.json", "old");
        assert!(matches!(NewModel::create(out.path()), Err(Error::Aside { path }) if path == aside));
        std::fs::remove_dir_all(out.path().join(STAGE)).unwrap();
        // A file of its name is no model's where there is none.
        std::fs::remove_file(out.path().join("config.json")).unwrap();
        std::fs::remove_dir_all(out.path().join("1_Pooling")).unwrap();
        put(out.path(), "vocab.txt", "mine");
        assert!(matches!(NewModel::create(out.path()), Err(Error::InTheWay { path }) if path.ends_with("vocab.txt")));

        let fresh = out.path().join("fresh");
        drop(NewModel::create(&fresh).unwrap());
        assert!(!fresh.exists());
    }
}

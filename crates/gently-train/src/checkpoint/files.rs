//! Files: checksums and making them last.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use gently_formats::bounded;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// What a file was when it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub bytes: u64,
    /// XXH3, 64 bits, as 16 hexadecimal digits.
    pub xxh3: String,
}

/// Reads a file once for its size and checksum.
pub(super) fn seal(path: &Path) -> io::Result<Seal> {
    let mut file = bounded::open(path)?;
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    let mut chunk = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        hash.update(&chunk[..n]);
    }
    Ok(Seal { bytes, xxh3: format!("{:016x}", hash.digest()) })
}

/// Makes a file or a folder's entries survive a loss of power.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

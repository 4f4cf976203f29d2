//! A small file that unpacks to a large text is read in bounded memory. Alone in its process, because the heap's account is the
//! process's.

use flate2::{Compression, write::GzEncoder};
use gently_train::data::{Input, Prepare, TokenizerSpec};
use peak_alloc::PeakAlloc;
use std::io::Write as _;

/// Counts what is allocated and not freed, to the byte.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

#[test]
fn a_bomb_of_compressed_text_is_read_in_bounded_memory() {
    const TEXT: usize = 48 << 20;
    let folder = tempfile::tempdir().unwrap();
    let bomb = folder.path().join("bomb.txt.gz");
    let mut packed = GzEncoder::new(std::fs::File::create(&bomb).unwrap(), Compression::fast());
    let line = [b'a'; 1 << 16];
    (0..TEXT / line.len()).for_each(|_| packed.write_all(&line).unwrap());
    packed.finish().unwrap();
    let size = std::fs::metadata(&bomb).unwrap().len();
    assert!(size < 1 << 20, "{size} bytes are no bomb");

    let mut prepare = Prepare::new([Input::Path(bomb)]);
    (prepare.tokenizer, prepare.val_fraction) = (TokenizerSpec::Bytes, 0.0);
    HEAP.reset_peak_usage();
    let dataset = prepare.run(folder.path().join("out"), &mut |_| Ok(())).unwrap();
    let peak = HEAP.peak_usage();
    assert_eq!(dataset.train().unwrap().tokens(), TEXT as u64);
    assert!(peak < 16 << 20, "{peak} bytes for a text of {TEXT}");
}

//! TFRecord framing: the envelope around each message of a TensorBoard event file.
//!
//! Here: the frame layout and its checksums (CRC-32C, masked). Not here: what is inside a frame
//! (see [`super::message`]) or where the file lies (see [`super`]).
//!
//! A frame is `length: u64 | masked_crc(length): u32 | bytes | masked_crc(bytes): u32`, all
//! little-endian.
//!
//! ```
//! use gently_train::watch::tensorboard::record;
//! let mut out = Vec::new();
//! record::append(&mut out, b"hello");
//! assert_eq!(record::split(&out).unwrap(), vec![b"hello".as_slice()]);
//! ```

/// The reversed Castagnoli polynomial, CRC-32C.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-32C of `bytes` (iSCSI, RFC 3720 appendix B.4).
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xff) as usize])
}

/// The masked form that event files store: a file that holds checksums of checksums would
/// otherwise meet CRC's fixed points.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Appends one framed message to `out`.
pub fn append(out: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(&masked_crc(message).to_le_bytes());
}

/// What is wrong with a record file, and at which byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The file ends inside a frame, as it does when its writer was killed.
    #[error("the event file ends inside the frame that starts at byte {offset}")]
    Truncated {
        /// Where the broken frame starts.
        offset: usize,
    },
    /// A stored checksum does not match the bytes it covers.
    #[error("the checksum of the frame at byte {offset} does not match its bytes")]
    Checksum {
        /// Where the broken frame starts.
        offset: usize,
    },
}

/// Cuts a whole file into its messages, checking every checksum.
///
/// # Errors
/// [`FrameError`] for a frame that is cut short or does not match its checksum.
pub fn split(bytes: &[u8]) -> Result<Vec<&[u8]>, FrameError> {
    let mut messages = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let truncated = FrameError::Truncated { offset };
        let rest = &bytes[offset..];
        let (length, rest) = rest.split_first_chunk::<8>().ok_or(truncated.clone())?;
        let (length_crc, rest) = rest.split_first_chunk::<4>().ok_or(truncated.clone())?;
        if masked_crc(length) != u32::from_le_bytes(*length_crc) {
            return Err(FrameError::Checksum { offset });
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| truncated.clone())?;
        let (message, rest) = rest.split_at_checked(length).ok_or(truncated.clone())?;
        let (message_crc, rest) = rest.split_first_chunk::<4>().ok_or(truncated)?;
        if masked_crc(message) != u32::from_le_bytes(*message_crc) {
            return Err(FrameError::Checksum { offset });
        }
        messages.push(message);
        offset = bytes.len() - rest.len();
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4.
    #[test]
    fn crc_matches_the_published_vectors() {
        assert_eq!(crc32c(&[0u8; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xffu8; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn frames_round_trip() {
        let messages: [&[u8]; 3] = [b"", b"one", &[7u8; 300]];
        let mut file = Vec::new();
        for message in messages {
            append(&mut file, message);
        }
        assert_eq!(split(&file).unwrap(), messages);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut file = Vec::new();
        append(&mut file, b"a message");
        for bit in 0..file.len() * 8 {
            let mut broken = file.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(split(&broken).is_err(), "bit {bit} went unnoticed");
        }
        for length in 1..file.len() {
            assert_eq!(split(&file[..length]), Err(FrameError::Truncated { offset: 0 }));
        }
    }
}

//! The few protocol-buffer messages an event file needs, encoded by hand.
//!
//! Here: `Event`, `Summary.Value`, `TensorProto`, `SummaryMetadata` and `SessionLog`, only the
//! fields that scalars and text use (tensorflow/core/util/event.proto and summary.proto). Not here:
//! a general encoder; these nine fields do not pay for a code generator at build time.
//!
//! ```
//! use gently_train::watch::tensorboard::message;
//! let event = message::scalar(0.0, 3, "loss", 1.5);
//! assert!(event.windows(4).any(|w| w == b"loss"));
//! ```

/// Wire types of the protocol-buffer encoding.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;
const FIXED32: u32 = 5;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u32, wire: u32) {
    varint(out, u64::from(field << 3 | wire));
}

fn uint(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, VARINT);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// The fields every `Event` starts with: `wall_time = 1`, `step = 2`.
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = Vec::new();
    key(&mut out, 1, FIXED64);
    out.extend_from_slice(&wall_time.to_le_bytes());
    uint(&mut out, 2, step);
    out
}

fn with_value(wall_time: f64, step: u64, value: &[u8]) -> Vec<u8> {
    let mut summary = Vec::new();
    bytes(&mut summary, 1, value);
    let mut out = event(wall_time, step);
    bytes(&mut out, 5, &summary);
    out
}

/// The first message of every file: `file_version = 3`, "brain.Event:2".
pub fn version(wall_time: f64) -> Vec<u8> {
    let mut out = event(wall_time, 0);
    bytes(&mut out, 3, b"brain.Event:2");
    out
}

/// `session_log { status: START }`: readers drop what earlier files of the folder say about `step`
/// and later, which is what a resumed run wants.
pub fn session_start(wall_time: f64, step: u64) -> Vec<u8> {
    let mut log = Vec::new();
    uint(&mut log, 1, 1);
    let mut out = event(wall_time, step);
    bytes(&mut out, 7, &log);
    out
}

/// One number: `Summary.Value { tag = 1, simple_value = 2 }`.
pub fn scalar(wall_time: f64, step: u64, tag: &str, number: f32) -> Vec<u8> {
    let mut value = Vec::new();
    bytes(&mut value, 1, tag.as_bytes());
    key(&mut value, 2, FIXED32);
    value.extend_from_slice(&number.to_le_bytes());
    with_value(wall_time, step, &value)
}

/// One text, for TensorBoard's text page (it renders Markdown).
pub fn text(wall_time: f64, step: u64, tag: &str, markdown: &str) -> Vec<u8> {
    const DT_STRING: u64 = 7;
    let mut plugin = Vec::new();
    bytes(&mut plugin, 1, b"text");
    let mut metadata = Vec::new();
    bytes(&mut metadata, 1, &plugin);

    let mut dimension = Vec::new();
    uint(&mut dimension, 1, 1);
    let mut shape = Vec::new();
    bytes(&mut shape, 2, &dimension);
    let mut tensor = Vec::new();
    uint(&mut tensor, 1, DT_STRING);
    bytes(&mut tensor, 2, &shape);
    bytes(&mut tensor, 8, markdown.as_bytes());

    let mut value = Vec::new();
    bytes(&mut value, 1, tag.as_bytes());
    bytes(&mut value, 8, &tensor);
    bytes(&mut value, 9, &metadata);
    with_value(wall_time, step, &value)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field as a reader sees it.
    #[derive(Debug, PartialEq, Clone)]
    pub enum Field {
        Varint(u64),
        Fixed64([u8; 8]),
        Bytes(Vec<u8>),
        Fixed32([u8; 4]),
    }

    fn read_varint(input: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = input[0];
            *input = &input[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// Reads any message into (field number, value) pairs: an independent reading of the format.
    pub fn fields(mut input: &[u8]) -> Vec<(u64, Field)> {
        let mut out = Vec::new();
        while !input.is_empty() {
            let key = read_varint(&mut input);
            let value = match key & 7 {
                0 => Field::Varint(read_varint(&mut input)),
                1 => {
                    let (head, rest) = input.split_first_chunk().unwrap();
                    input = rest;
                    Field::Fixed64(*head)
                }
                2 => {
                    let length = read_varint(&mut input) as usize;
                    let (head, rest) = input.split_at(length);
                    input = rest;
                    Field::Bytes(head.to_vec())
                }
                5 => {
                    let (head, rest) = input.split_first_chunk().unwrap();
                    input = rest;
                    Field::Fixed32(*head)
                }
                other => panic!("wire type {other}"),
            };
            out.push((key >> 3, value));
        }
        out
    }

    pub fn sub(message: &[(u64, Field)], number: u64) -> Vec<(u64, Field)> {
        match message.iter().find(|(n, _)| *n == number) {
            Some((_, Field::Bytes(b))) => fields(b),
            other => panic!("field {number}: {other:?}"),
        }
    }

    #[test]
    fn a_scalar_reads_back() {
        let event = fields(&scalar(12.5, 300, "loss/train", 1.75));
        assert_eq!(event[0], (1, Field::Fixed64(12.5f64.to_le_bytes())));
        assert_eq!(event[1], (2, Field::Varint(300)));
        let value = sub(&sub(&event, 5), 1);
        assert_eq!(value[0], (1, Field::Bytes(b"loss/train".to_vec())));
        assert_eq!(value[1], (2, Field::Fixed32(1.75f32.to_le_bytes())));
    }

    #[test]
    fn a_text_carries_the_plugin_name_and_its_bytes() {
        let long = "É".repeat(200);
        let event = fields(&text(0.0, 1, "samples/0", &long));
        let value = sub(&sub(&event, 5), 1);
        let tensor = sub(&value, 8);
        assert_eq!(tensor[0], (1, Field::Varint(7)));
        assert_eq!(tensor[2], (8, Field::Bytes(long.into_bytes())));
        let plugin = sub(&sub(&value, 9), 1);
        assert_eq!(plugin[0], (1, Field::Bytes(b"text".to_vec())));
    }

    #[test]
    fn a_session_start_names_its_step() {
        let event = fields(&session_start(1.0, 40));
        assert_eq!(event[1], (2, Field::Varint(40)));
        assert_eq!(sub(&event, 7), vec![(1, Field::Varint(1))]);
    }
}

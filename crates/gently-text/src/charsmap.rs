//! SentencePiece's compiled normalisation table: checked before the library follows its links.
//!
//! The table: u32 bytes of a double array, the array (u32 units, little-endian), then replacement texts, each ended by a zero
//! byte. The library walks from unit to unit by offsets in the table without asking whether they stay inside; a hostile table
//! must therefore be refused here. Source: Darts-clone's unit layout, as SentencePiece's `normalizer.cc` uses it.

use serde_json::Value;
use std::fmt::Write as _;

/// No published table is near this.
const MOST: usize = 16 << 20;

/// How many bytes the longest replacement has, or why the table would lead outside itself.
pub(crate) fn check(table: &[u8]) -> Result<usize, String> {
    if table.len() > MOST {
        return Err(format!("it has {} bytes, over the limit of {MOST}", table.len()));
    }
    let head = table.first_chunk::<4>().ok_or("it has no length")?;
    let bytes = u32::from_le_bytes(*head) as usize;
    let array = table.get(4..4 + bytes).ok_or_else(|| format!("its array of {bytes} bytes is cut off"))?;
    if !bytes.is_multiple_of(4) || bytes == 0 {
        return Err(format!("its array of {bytes} bytes is no whole number of units"));
    }
    let texts = std::str::from_utf8(&table[4 + bytes..]).map_err(|_| "its replacements are not UTF-8")?;
    let units: Vec<u32> = array.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let zeros: Vec<u32> = (0u32..).zip(texts.bytes()).filter(|(_, b)| *b == 0).map(|(i, _)| i).collect();
    let end = |from: usize| {
        let next = zeros.partition_point(|&zero| (zero as usize) < from);
        zeros.get(next).map_or(texts.len(), |&zero| zero as usize)
    };
    let mut longest = 0;
    // The library follows the root without asking whether it is a value, and then believes its top bit to be part of the way.
    if units[0] >> 31 == 1 {
        return Err("its root, unit 0, is marked as a value".into());
    }
    for (i, &unit) in units.iter().enumerate() {
        // The top bit marks a value: the place of a replacement.
        if unit >> 31 == 1 {
            let value = (unit & 0x7fff_ffff) as usize;
            if !texts.is_char_boundary(value) {
                return Err(format!("unit {i} names a replacement at {value}, which is none"));
            }
            longest = longest.max(end(value) - value);
            continue;
        }
        // The next unit is this place, the offset and a byte in exclusive or: all 256 must be inside.
        let offset = ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let next = i ^ offset;
        let last = next | 0xff;
        if last >= units.len() {
            return Err(format!("unit {i} leads to unit {last} of {}", units.len()));
        }
        // A unit with this bit ends a key: the one at byte 0 is taken for a value, whatever it is.
        if (unit >> 8) & 1 == 1 && units[next] >> 31 == 0 {
            return Err(format!("unit {i} takes unit {next} for a value, which it is not"));
        }
    }
    Ok(longest)
}

/// As [`check`], of a table in base64. Only what [`base64`] writes: the library panics at other padding.
pub(crate) fn check_text(text: &str) -> Result<usize, String> {
    check(&from_base64(text).filter(|table| base64(table) == text).ok_or("it is not base64")?)
}

/// Checks every table in the text of a `tokenizer.json`.
pub(crate) fn check_all(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(all) => all.iter().try_for_each(check_all),
        Value::Object(map) => match map.get("type") {
            // The library panics at one that is missing or no text.
            Some(Value::String(kind)) if kind == "Precompiled" => {
                let text = map.get("precompiled_charsmap").and_then(Value::as_str);
                check_text(text.ok_or("precompiled_charsmap is missing or no text")?).map(|_| ())
            }
            None | Some(Value::String(_)) => map.values().try_for_each(check_all),
            // The library would take {"Precompiled": null} for the name.
            Some(other) => Err(format!("the type {other} is no name")),
        },
        _ => Ok(()),
    }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in text.trim_end_matches('=').as_bytes().chunks(4) {
        let digit = |b: &u8| DIGITS.iter().position(|d| d == b);
        let n = chunk.iter().try_fold(0u32, |n, b| Some(n << 6 | digit(b)? as u32))? << (6 * (4 - chunk.len()));
        let bytes = n.to_be_bytes();
        out.extend_from_slice(bytes.get(1..chunk.len())?);
    }
    Some(out)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, &b| n << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        let digit = |i: usize| char::from(DIGITS[(n >> (18 - 6 * i)) as usize & 63]);
        for i in 0..4 {
            let _ = out.write_char(if i <= chunk.len() { digit(i) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_encodings() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(from_base64(coded).unwrap(), plain.as_bytes());
        }
        assert_eq!(from_base64("Zm9v!"), None);
    }

    fn table(units: &[u32], texts: &[u8]) -> Vec<u8> {
        let mut t = ((units.len() * 4) as u32).to_le_bytes().to_vec();
        units.iter().for_each(|u| t.extend(u.to_le_bytes()));
        t.extend(texts);
        t
    }

    #[test]
    fn links_stay_inside() {
        let mut units = vec![0u32; 256];
        assert!(check(&table(&units, b"ab\0")).is_ok());
        units[7] = 1 << 31 | 2;
        assert!(check(&table(&units, b"ab\0")).is_ok());
        units[7] = 1 << 31 | 9;
        assert!(check(&table(&units, b"ab\0")).unwrap_err().contains("replacement at 9"));
        units[7] = 1 << 20;
        assert!(check(&table(&units, b"ab\0")).unwrap_err().contains("leads to"));
        assert!(check(&[255, 255, 255, 255, 0]).unwrap_err().contains("cut off"));
        assert!(check(&table(&[], b"")).is_err());
        // The root is no value; where a key ends stands one.
        let mut units = vec![0u32; 256];
        units[0] = 1 << 31;
        assert!(check(&table(&units, b"ab\0")).unwrap_err().contains("root"));
        units[0] = 0;
        units[97] = 0x161;
        assert!(check(&table(&units, b"ab\0")).unwrap_err().contains("unit 97 takes unit 97 for a value"));
        units[97] |= 1 << 10;
        units[96] = 1 << 31 | 1;
        assert_eq!(check(&table(&units, b"ab\0")), Ok(1));
        units[96] = 1 << 31;
        assert_eq!(check(&table(&units, b"ab\0")), Ok(2));
        assert_eq!(check(&table(&units, b"abc")), Ok(3));
        assert!(check(b"ab").is_err());
        // Also where it stands in a tokenizer.json.
        let normalizer =
            serde_json::json!({"type": "Precompiled", "precompiled_charsmap": base64(&table(&[1 << 20; 256], b""))});
        let json = serde_json::json!({"normalizer": {"type": "Sequence", "normalizers": [normalizer]}});
        assert!(check_all(&json).unwrap_err().contains("leads to"));
        let good = base64(&table(&units, b"ab\0"));
        let one = |text: Value| check_all(&serde_json::json!({"type": "Precompiled", "precompiled_charsmap": text}));
        assert_eq!(one(good.as_str().into()), Ok(()));
        for bad in [Value::Null, 7.into(), "".into(), good.trim_end_matches('=').into(), (good.clone() + "=").into()] {
            assert!(one(bad.clone()).is_err(), "{bad}");
        }
        assert!(check_all(&serde_json::json!({"type": "Precompiled"})).unwrap_err().contains("missing"));
        assert!(check_all(&serde_json::json!({"type": {"Precompiled": null}})).unwrap_err().contains("no name"));
    }
}

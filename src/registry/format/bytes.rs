//! From a node's bytes to text: byte order mark, white space, Java's serialized strings.

use std::borrow::Cow;

use super::{DecodeError, quote};

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// `java.io.ObjectOutputStream`'s header: magic and version.
const JAVA_STREAM: &[u8] = b"\xAC\xED\x00\x05";

/// The text of a node's data, trimmed.
///
/// Old ZooKeeper clients for Java write strings serialized; those are unwrapped first.
pub(super) fn text(data: &[u8]) -> Result<&str, DecodeError> {
    let data = match data.strip_prefix(JAVA_STREAM) {
        Some(object) => java_string(object)?,
        None => data,
    };
    let data = data.strip_prefix(BOM).unwrap_or(data).trim_ascii();
    std::str::from_utf8(data).map_err(|e| DecodeError::syntax(format!("not UTF-8: {e}")))
}

/// [`text`], and where it is a JSON string literal, what the literal holds.
pub(super) fn unquoted(data: &[u8]) -> Result<Cow<'_, str>, DecodeError> {
    let text = text(data)?;
    if !text.starts_with('"') {
        return Ok(Cow::Borrowed(text));
    }
    match serde_json::from_str::<String>(text) {
        Ok(inner) => Ok(Cow::Owned(inner.trim_ascii().to_owned())),
        Err(_) => Err(DecodeError::syntax(format!("a broken JSON string: {}", quote(text)))),
    }
}

fn java_string(object: &[u8]) -> Result<&[u8], DecodeError> {
    let (length, rest) = match object {
        [0x74, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        _ => return Err(DecodeError::syntax("a serialized Java object that is no string")),
    };
    rest.get(..length).ok_or_else(|| DecodeError::syntax("a serialized Java string that is cut short"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_and_white_space_are_no_part_of_the_text() {
        assert_eq!(text(b"\xEF\xBB\xBF  a:1\r\n").unwrap(), "a:1");
        assert_eq!(text(b"").unwrap(), "");
    }

    #[test]
    fn serialized_java_strings_are_unwrapped_and_cut_ones_refused() {
        assert_eq!(text(b"\xAC\xED\x00\x05\x74\x00\x03a:1").unwrap(), "a:1");
        for bad in
            [&b"\xAC\xED\x00\x05\x74\x00\x04a:1"[..], b"\xAC\xED\x00\x05\x74", b"\xAC\xED\x00\x05\x73\x00"]
        {
            assert!(text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_json_string_is_unwrapped_once() {
        assert_eq!(unquoted(br#" "a:1" "#).unwrap(), "a:1");
        assert!(unquoted(br#""a:1"#).is_err());
    }
}

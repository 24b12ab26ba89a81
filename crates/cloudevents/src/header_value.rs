//! How an attribute's value is written into a header (HTTP binding 1.0.2, section 3.1.3.2; NATS binding alike).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

/// What must be encoded besides everything outside of ASCII: controls, space, double quote and percent.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Encodes a value: the result is printable ASCII without spaces and double quotes.
pub fn encode(value: &str) -> Cow<'_, str> {
    utf8_percent_encode(value, ENCODED).into()
}

/// The length of an encoded value.
pub fn encoded_len(value: &str) -> usize {
    utf8_percent_encode(value, ENCODED).map(str::len).sum()
}

/// Decodes a value: first double quotes and backslashes (older publishers send them), then one round of
/// percent-decoding. A percent sign that starts no escape stands for itself.
///
/// `None` if the result is not UTF-8.
pub fn decode(value: &[u8]) -> Option<String> {
    let unquoted = unquote(value);
    let decoded = percent_decode(&unquoted).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Removes the quotes of a quoted-string (RFC 9110, section 5.6.4); anything else stays as it is.
fn unquote(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return Cow::Borrowed(value);
    };
    let mut plain = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            byte => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(encode("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(decode(b"Euro%20%E2%82%AC%20%F0%9F%98%80").as_deref(), Some("Euro € 😀"));
        assert_eq!(encoded_len("Euro € 😀"), encode("Euro € 😀").len());
        assert_eq!(decode(b"%C0%A0"), None, "an overlong space is refused");
    }

    #[test]
    fn decoding_is_tolerant() {
        assert_eq!(decode(b"%e2%82%ac").as_deref(), Some("€"), "lower-case digits");
        assert_eq!(decode(b"%41").as_deref(), Some("A"), "encoded without need");
        assert_eq!(decode(b"\"a \\\"b\\\" %41\"").as_deref(), Some("a \"b\" A"), "quoted");
        assert_eq!(decode(b"50%").as_deref(), Some("50%"), "a lone percent sign");
        assert_eq!(decode(b"%2541").as_deref(), Some("%41"), "one round only");
        assert_eq!(decode("größe".as_bytes()).as_deref(), Some("größe"), "raw UTF-8");
        assert_eq!(decode(b"\xff"), None);
    }
}

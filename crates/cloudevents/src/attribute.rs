//! What a context attribute may be called and what it may hold (CloudEvents 1.0.2, sections 2 and 3).

use crate::Invalid;
use crate::media_type;

/// Longest attribute name. The specification advises 20 characters and sets no limit.
const MAX_NAME: usize = 64;

/// Checks an attribute's name: lower-case letters and digits of ASCII, and not `data`.
pub fn check_name(name: &str) -> Result<(), Invalid> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(Invalid::attribute(name, "is not a valid name: use only a-z and 0-9"));
    }
    if name.len() > MAX_NAME {
        return Err(Invalid::attribute(name, format!("has a name longer than {MAX_NAME} characters: shorten it")));
    }
    if name == "data" {
        return Err(Invalid::attribute(name, "has a reserved name: send data as the payload"));
    }
    Ok(())
}

/// Checks an attribute's value by the rules of all strings and by those of its name.
pub fn check_value(name: &str, value: &str) -> Result<(), Invalid> {
    let plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !plain && !value.chars().all(is_allowed) {
        return Err(Invalid::attribute(name, "holds a control character or a noncharacter: remove it"));
    }
    let problem = match name {
        "specversion" if value != "1.0" => Some("must be \"1.0\": other versions are not supported"),
        "id" | "source" | "type" | "subject" | "dataschema" if value.is_empty() => {
            Some("must not be empty: send a value, or leave an optional attribute out")
        }
        "source" if !is_uri_reference(value) => {
            Some("must be a URI-reference, for example \"/sensors/1\": percent-encode other characters")
        }
        "dataschema" if !(has_scheme(value) && is_uri_reference(value)) => {
            Some("must be an absolute URI, for example \"https://example.com/schema.json\"")
        }
        "time" if !is_timestamp(value) => Some("must be an RFC 3339 timestamp, for example \"2026-01-31T17:31:00Z\""),
        "datacontenttype" if !media_type::is_valid(value) => {
            Some("must be a media type in ASCII, for example \"application/json\"")
        }
        _ => None,
    };
    problem.map_or(Ok(()), |problem| Err(Invalid::attribute(name, problem)))
}

/// Whether a character may be in an attribute's value (section 2.4, type String): no control characters and no
/// Unicode noncharacters. (Surrogates are no `char`.)
pub fn is_allowed(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{FDD0}'..='\u{FDEF}') && u32::from(c) & 0xFFFE != 0xFFFE
}

/// The characters of RFC 3986 (and, as in RFC 3987, those beyond ASCII), with whole percent-escapes.
fn is_uri_reference(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
        byte => byte.is_ascii_graphic() || !byte.is_ascii(),
    }) && !value.chars().any(char::is_whitespace)
}

fn has_scheme(value: &str) -> bool {
    let Some((scheme, _)) = value.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// RFC 3339, section 5.6: any number of digits of a second, any year of four digits, 23:59 as the largest offset. The
/// value itself is text and stays as it is.
fn is_timestamp(value: &str) -> bool {
    let Some((main, mut rest)) = value.split_at_checked("0000-00-00T00:00:00".len()) else { return false };
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return false;
        }
        rest = &fraction[digits..];
    }
    let Some([year, month, day, hour, minute, second]) = numbers(main, "0000-00-00T00:00:00") else { return false };
    let offset = || {
        let offset = numbers(rest, "+00:00").or_else(|| numbers(rest, "-00:00"));
        offset.is_some_and(|[hour, minute]| hour < 24 && minute < 60)
    };
    (1..=12).contains(&month)
        && (1..=days(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        // 60 is a leap second.
        && second <= 60
        && (rest.eq_ignore_ascii_case("Z") || offset())
}

/// The numbers where the pattern has zeros, if everything else is as in it.
fn numbers<const N: usize>(text: &str, pattern: &str) -> Option<[u16; N]> {
    if text.len() != pattern.len() {
        return None;
    }
    let mut numbers = [0; N];
    let (mut at, mut within) = (0, false);
    for (byte, wanted) in text.bytes().zip(pattern.bytes()) {
        if wanted == b'0' && byte.is_ascii_digit() {
            let number = numbers.get_mut(at)?;
            *number = *number * 10 + u16::from(byte - b'0');
            within = true;
        } else if wanted != b'0' && byte.eq_ignore_ascii_case(&wanted) {
            at += usize::from(within);
            within = false;
        } else {
            return None;
        }
    }
    Some(numbers)
}

fn days(year: u16, month: u16) -> u16 {
    let leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["id", "traceparent", "a1", "1", "averyveryverylongextensionname"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "data", "data_base64", "Upper", "with-dash", "a b", "ü", "nats\r\n", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values() {
        let good = [
            ("specversion", "1.0"),
            ("source", "/sensors/1"),
            ("source", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66"),
            ("source", "https://example.com/a%20b?c=d#e"),
            ("source", "größe"),
            ("dataschema", "https://example.com/schema"),
            ("time", "2018-04-05T17:31:00Z"),
            ("time", "2018-04-05t17:31:00.123456789+05:30"),
            ("time", "1985-12-31T23:59:60Z"),
            ("time", "9999-12-31T23:59:59Z"),
            ("time", "0000-01-01t00:00:00z"),
            ("time", "2024-02-29T00:00:00.1234567890123456789-23:59"),
            ("datacontenttype", "text/plain; charset=utf-8"),
            ("subject", "a b \"c\" 😀"),
            ("anything", ""),
        ];
        for (name, value) in good {
            assert!(check_value(name, value).is_ok(), "{name} {value}");
        }
        let bad = [
            ("specversion", "0.3"),
            ("specversion", "1.0.2"),
            ("id", ""),
            ("source", ""),
            ("source", "a b"),
            ("source", "a\u{3000}b"),
            ("source", "50%"),
            ("source", "<a>"),
            ("type", ""),
            ("subject", ""),
            ("dataschema", "/relative"),
            ("dataschema", "1x:foo"),
            ("time", "yesterday"),
            ("time", "2018-04-05 17:31:00Z"),
            ("time", "2018-04-05T17:31:00"),
            ("time", "2018-04-05T17:31Z"),
            ("time", "2018-13-05T17:31:00Z"),
            ("time", "2018-00-05T17:31:00Z"),
            ("time", "2018-04-00T17:31:00Z"),
            ("time", "2018-04-31T17:31:00Z"),
            ("time", "2023-02-29T17:31:00Z"),
            ("time", "1900-02-29T17:31:00Z"),
            ("time", "2018-04-05T24:00:00Z"),
            ("time", "2018-04-05T17:60:00Z"),
            ("time", "2018-04-05T17:31:61Z"),
            ("time", "2018-04-05T17:31:00+25:00"),
            ("time", "2018-04-05T17:31:00+24:00"),
            ("time", "2018-04-05T17:31:00-00:60"),
            ("time", "2018-04-05T17:31:00+0100"),
            ("time", "2018-04-05T17:31:00,5Z"),
            ("time", "+018-04-05T17:31:00Z"),
            ("time", ""),
            ("time", "\u{1F600}018-04-05T17:31:00Z"),
            ("time", "2018-04-05T17:31:00.Z"),
            ("time", "2018-04-05T17:31:00Z[Europe/Berlin]"),
            ("datacontenttype", "json"),
            ("id", "a\r\nb"),
            ("id", "a\u{85}b"),
            ("x", "\u{FFFF}"),
            ("x", "\u{1FFFE}"),
            ("x", "\u{FDD0}"),
        ];
        for (name, value) in bad {
            assert!(check_value(name, value).is_err(), "{name} {value:?}");
        }
    }
}

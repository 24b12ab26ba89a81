//! Media types: those of CloudEvents, and the little that must be known of the others.

/// One event in the JSON format.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// An array of events in the JSON format.
pub const BATCH: &str = "application/cloudevents-batch+json";
/// What `data` is when a JSON event does not say.
pub const JSON: &str = "application/json";

/// The media type without its parameters, as it stands.
pub fn essence(value: &str) -> &str {
    value.split_once(';').map_or(value, |(essence, _)| essence).trim()
}

/// Whether this is `type/subtype`, perhaps with parameters, in printable ASCII.
pub fn is_valid(value: &str) -> bool {
    let printable = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    printable && essence(value).split_once('/').is_some_and(|(main, sub)| is_token(main) && is_token(sub))
}

/// Whether data of this type is JSON: subtype `json` or suffix `+json` (JSON format, section 3.1).
pub fn is_json(value: &str) -> bool {
    essence(value).split_once('/').is_some_and(|(_, sub)| {
        let suffix = sub.rfind('+').map(|plus| &sub[plus + 1..]);
        suffix.unwrap_or(sub).eq_ignore_ascii_case("json")
    })
}

/// Types of `application/` that are text by their registration, besides those with a suffix.
const TEXTUAL: [&str; 12] = [
    "ecmascript",
    "graphql",
    "javascript",
    "jsonl",
    "json-seq",
    "ndjson",
    "sql",
    "toml",
    "x-ndjson",
    "x-www-form-urlencoded",
    "xml",
    "yaml",
];

/// Whether data of this type is readable as a string in a JSON event: `text/…`, and what is text elsewhere (XML, YAML
/// and the like, with their suffixes).
pub fn is_text(value: &str) -> bool {
    essence(value).split_once('/').is_some_and(|(main, sub)| {
        let sub = sub.to_ascii_lowercase();
        main.eq_ignore_ascii_case("text")
            || sub.ends_with("+xml")
            || sub.ends_with("+yaml")
            || (main.eq_ignore_ascii_case("application") && TEXTUAL.contains(&&*sub))
    })
}

/// The `charset` parameter, if there is one.
pub fn charset(value: &str) -> Option<&str> {
    value.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    })
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json() {
        assert!(is_json("application/json"));
        assert!(is_json("Application/Vnd.Shop+JSON; charset=utf-8"));
        assert!(!is_json("application/jsonlines"));
        assert!(!is_json("json"));
    }

    #[test]
    fn what_is_text() {
        let text = ["text/csv", "Text/XML", "application/xml; charset=utf-8", "application/soap+XML", "image/svg+xml"];
        assert!(text.into_iter().all(is_text));
        for binary in ["application/octet-stream", "application/xmlx", "audio/xml", "xml", "image/png"] {
            assert!(!is_text(binary), "{binary}");
        }
    }

    #[test]
    fn parameters() {
        assert_eq!(essence("text/plain ; charset=\"utf-8\""), "text/plain");
        assert_eq!(charset("text/plain; x=y; Charset=\"UTF-8\""), Some("UTF-8"));
        assert_eq!(charset("text/plain"), None);
    }

    #[test]
    fn validity() {
        assert!(is_valid("text/plain; charset=utf-8"));
        for bad in ["", "text", "text/", "/plain", "te xt/plain", "text/plain; größe=1", "text/plain\r\n"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}

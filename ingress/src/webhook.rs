//! The handshake by which a sender of webhooks asks whether it may send (CloudEvents, "HTTP 1.1 Web Hooks for Event
//! Delivery" 1.0.2, section 4). Pure.
//!
//! The answer is always yes, at any rate, also where there is no such topic: it says nothing of the topic, and who may
//! publish is decided for each event by its credentials, which a sender need not show here. A sender that is too fast is
//! answered 429 or 503. Permission is given at once, so a callback is not called.

use bytes::Bytes;
use http::header::ALLOW;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::Full;

use crate::problem::{METHODS, Problem};

const REQUEST_ORIGIN: &str = "webhook-request-origin";
const REQUEST_RATE: &str = "webhook-request-rate";
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
/// The longest name in the DNS.
const MAX_ORIGIN: usize = 253;

/// The answer to OPTIONS. Without `WebHook-Request-Origin` it does not consent, and only says which methods there are.
///
/// # Errors
/// A header of the handshake is malformed.
pub fn answer(headers: &HeaderMap) -> Result<Response<Full<Bytes>>, Problem> {
    let mut response = Response::default();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    if let Some(origin) = only(headers, REQUEST_ORIGIN, is_origin, "there once, and the DNS name of the sender")? {
        only(headers, REQUEST_RATE, is_rate, "there once, and a positive number of requests a minute")?;
        response.headers_mut().insert(ALLOWED_ORIGIN, origin.clone());
        response.headers_mut().insert(ALLOWED_RATE, HeaderValue::from_static("*"));
    }
    Ok(response)
}

fn only<'a>(
    headers: &'a HeaderMap,
    name: &str,
    valid: fn(&[u8]) -> bool,
    rule: &str,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if valid(value.as_bytes()) => Ok(Some(value)),
        _ => Err(Problem::bad_webhook(name, rule)),
    }
}

/// An expression of the DNS; some senders give a port or a scheme with it.
fn is_origin(value: &[u8]) -> bool {
    (1..=MAX_ORIGIN).contains(&value.len()) && value.iter().all(|b| b.is_ascii_alphanumeric() || b"-._:/*".contains(b))
}

fn is_rate(value: &[u8]) -> bool {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u32>().ok());
    value == b"*" || number.is_some_and(|number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consent_is_given_to_those_that_ask_for_it() {
        let answered = |list: &[(&'static str, &'static str)]| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            let response = answer(&list.iter().map(pair).collect()).map_err(|problem| problem.detail.into_owned())?;
            let value = |name: HeaderName| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            Ok::<_, String>((value(ALLOWED_ORIGIN), value(ALLOWED_RATE), value(ALLOW)))
        };
        let allow = Some("POST, OPTIONS".to_owned());
        assert_eq!(answered(&[]), Ok((None, None, allow.clone())), "that there is OPTIONS is no consent");
        assert_eq!(answered(&[(REQUEST_RATE, "x")]), Ok((None, None, allow.clone())), "no handshake");
        let granted = Ok((Some("a.example.com".to_owned()), Some("*".to_owned()), allow));
        let origin = (REQUEST_ORIGIN, "a.example.com");
        assert_eq!(answered(&[origin]), granted);
        assert_eq!(answered(&[origin, (REQUEST_RATE, "120"), ("webhook-request-callback", "https://x/")]), granted);
        for bad in [
            &[(REQUEST_ORIGIN, "")][..],
            &[(REQUEST_ORIGIN, "a b")],
            &[origin, origin],
            &[origin, (REQUEST_RATE, "0")],
            &[origin, (REQUEST_RATE, "-1")],
            &[origin, (REQUEST_RATE, "many")],
        ] {
            assert!(answered(bad).unwrap_err().starts_with("webhook-request-"), "{bad:?}");
        }
    }
}

//! HTTP/1.1, as far as a publisher needs it.

use std::ops::Range;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};

use super::Scan;
use crate::events;

const END: &[u8] = b"\r\n\r\n";

/// One event in binary mode.
pub(super) fn binary(number: u64) -> anyhow::Result<Bytes> {
    let (headers, body) = events::binary(number)?;
    Ok(request(&headers, &body))
}

/// Several events as JSON.
pub(super) fn batch(numbers: Range<u64>) -> anyhow::Result<Bytes> {
    let media_type = HeaderValue::from_static("application/cloudevents-batch+json");
    Ok(request(&HeaderMap::from_iter([(CONTENT_TYPE, media_type)]), &events::batch(numbers)?))
}

fn request(headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut request = format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            request.extend_from_slice(part);
        }
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    request.into()
}

/// Responses with a success and without a body, which is what an ingress that stored an event says.
pub(super) fn scan(input: &mut BytesMut) -> anyhow::Result<Scan> {
    let mut scan = Scan::default();
    while let Some(end) = input.windows(END.len()).position(|window| window == END) {
        let head = std::str::from_utf8(&input[..end]).context("a response that is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        ensure!(status.starts_with("HTTP/1.1 202"), "the ingress says {status}");
        let mut headers = lines.filter_map(|line| line.split_once(':'));
        let empty = |(name, value): (&str, &str)| !name.eq_ignore_ascii_case("content-length") || value.trim() == "0";
        ensure!(headers.all(empty), "a success with a body");
        input.advance(end + END.len());
        scan.answered += 1;
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successes_are_counted_as_soon_as_they_are_whole() {
        let one = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\ntidegate-sequence: 7\r\n\r\n";
        let all = one.repeat(2);
        for cut in 0..all.len() {
            let mut input = BytesMut::from(&all.as_bytes()[..cut]);
            let first = scan(&mut input).unwrap().answered;
            input.extend_from_slice(&all.as_bytes()[cut..]);
            assert_eq!(first + scan(&mut input).unwrap().answered, 2, "{cut}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        for answer in ["HTTP/1.1 503 x\r\n\r\n", "HTTP/1.1 202 x\r\ncontent-length: 3\r\n\r\nabc", "\r\n\r\n"] {
            assert!(scan(&mut BytesMut::from(answer)).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_request_has_all_of_an_event() {
        let request = binary(7).unwrap();
        let text = std::str::from_utf8(&request).unwrap();
        assert!(text.starts_with("POST / HTTP/1.1\r\n") && text.contains("ce-id: 7\r\n"), "{text}");
        assert!(text.ends_with(&format!("\r\n\r\n{}", "x".repeat(events::SIZE))), "{text}");
    }
}

//! HTTP/1.1, as far as a publisher needs it.

use std::ops::Range;

use anyhow::{Context as _, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Connection, Scan};
use crate::events;

const END: &[u8] = b"\r\n\r\n";

/// One event in binary mode, to this path, with this token.
pub(super) fn binary(path: &str, number: u64, token: Option<&str>) -> anyhow::Result<Bytes> {
    let (mut headers, body) = events::binary(number)?;
    if let Some(token) = token {
        headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
    }
    Ok(request(path, &headers, &body))
}

/// One event in binary mode, to this path.
pub(crate) fn binary_to(path: &str, number: u64) -> anyhow::Result<Bytes> {
    binary(path, number, None)
}

/// Sends a request, and returns the status of its answer. `input`: what has come on the connection besides.
pub(crate) async fn exchange(stream: &mut Connection, input: &mut BytesMut, request: &[u8]) -> anyhow::Result<u16> {
    stream.write_all(request).await?;
    stream.flush().await?;
    loop {
        if let Some((status, length)) = response(input)? {
            input.advance(length);
            return Ok(status);
        }
        ensure!(stream.read_buf(input).await? > 0, "the ingress closed the connection");
    }
}

/// The status and the length of a response that is whole, whatever it says.
fn response(input: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = input.windows(END.len()).position(|window| window == END) else { return Ok(None) };
    let head = std::str::from_utf8(&input[..end]).context("a response that is no text")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let mut headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let body: usize = length.map_or(Ok(0), |(_, length)| length.trim().parse())?;
    let whole = end + END.len() + body;
    Ok((input.len() >= whole).then_some((status, whole)))
}

/// Several events as JSON.
pub(super) fn batch(numbers: Range<u64>) -> anyhow::Result<Bytes> {
    let media_type = HeaderValue::from_static("application/cloudevents-batch+json");
    Ok(request("/", &HeaderMap::from_iter([(CONTENT_TYPE, media_type)]), &events::batch(numbers)?))
}

fn request(path: &str, headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len()).into_bytes();
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
    fn a_response_is_read_whatever_it_says() {
        let refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nbusyHTTP/1.1";
        assert_eq!(response(refusal).unwrap(), Some((429, refusal.len() - 8)));
        assert_eq!(response(&refusal[..refusal.len() - 9]).unwrap(), None, "its body is not there");
        assert_eq!(response(b"HTTP/1.1 202 Accepted\r\n\r\n").unwrap(), Some((202, 25)));
        assert!(response(b"x\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_has_all_of_an_event() {
        let request = binary("/", 7, None).unwrap();
        let text = std::str::from_utf8(&request).unwrap();
        assert!(text.starts_with("POST / HTTP/1.1\r\n") && text.contains("ce-id: 7\r\n"), "{text}");
        assert!(text.ends_with(&format!("\r\n\r\n{}", "x".repeat(events::SIZE))), "{text}");
    }
}

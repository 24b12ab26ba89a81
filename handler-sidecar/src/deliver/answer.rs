//! What a response of the handler's container says, and as much of its body as somebody wants to know.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tidegate_wire::http::{Body, ExchangeError, Headers, Response};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ops::budget::{ByteBudget, Share};
use crate::settle::outcome::{Answer, retry_after};

/// Of a response's body this much is read, to keep the connection; a longer one costs its connection.
const BODY_LIMIT: usize = 64 * 1024;
/// What is kept of a body is kept in pieces of so many bytes.
const PIECE: usize = 64 * 1024;
const BODY_TIME: Duration = Duration::from_secs(1);
/// Of a failure's body this much is kept.
pub(super) const TEXT_LIMIT: usize = 512;

/// What a successful response brought, where somebody wants to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// No one wanted it, or the response was not a success.
    Ignored,
    /// What there is of it.
    Kept {
        /// The response's headers.
        headers: HeaderMap,
        /// Its body.
        body: Result<Bytes, TooLong>,
        /// What the body takes, to be kept as long as anything of it is.
        share: Share,
    },
}

impl Content {
    /// What its bytes take, for whoever keeps a part of them.
    pub fn take_share(&mut self) -> Option<Share> {
        match self {
            Self::Ignored => None,
            Self::Kept { share, .. } => Some(share.take()),
        }
    }
}

/// A response's body is longer than the caller can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is too long")]
pub struct TooLong;

/// An answer, and what came with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// What a 2xx brought.
    pub content: Content,
}

impl Answered {
    /// An answer of which nothing else is wanted.
    pub fn without_content(answer: Answer) -> Self {
        Self { answer, content: Content::Ignored }
    }
}

/// The answer that a response is. Its body is read as far as the bounds allow.
///
/// Of a 2xx the content is kept if it has at most `wanted` bytes (`None`: it is ignored); where it is wanted, a 2xx
/// without its whole body is no answer: no one knows what the rest would have said.
pub fn read(
    response: Response,
    end: Instant,
    wanted: Option<usize>,
    budget: &ByteBudget,
) -> impl Future<Output = Answered> {
    let code = response.status();
    let asked = response.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"retry-after"));
    let retry_after = retry_after(asked.map(|(_, value)| value), SystemTime::now());
    let status = move |text| Answer::Status { code, retry_after, text };
    // What is not the way of most answers, plain successes, is boxed.
    async move {
        match wanted.filter(|_| code.is_success()) {
            Some(limit) => match Box::pin(kept(response, end, limit, budget.share(0))).await {
                Ok(content) => Answered { answer: status(String::new()), content },
                Err(problem) => broken(code, &problem),
            },
            None if code.is_success() => {
                let (mut body, mut seen) = (response.into_body(), 0);
                // It usually came with the head. What does not come in time is not waited for.
                if read_to_end(&mut body, &mut seen, |_| ()).now_or_never().is_none() {
                    let _ = Box::pin(timeout(BODY_TIME, read_to_end(&mut body, &mut seen, |_| ()))).await;
                }
                Answered::without_content(status(String::new()))
            }
            None => Answered::without_content(status(Box::pin(text(response.into_body())).await)),
        }
    }
}

/// The whole content of a response, or what is wrong with it.
async fn kept(response: Response, end: Instant, limit: usize, mut share: Share) -> Result<Content, String> {
    let headers = to_map(response.headers());
    match timeout_at(end, whole(response.into_body(), limit, &mut share)).await {
        Ok(Ok(body)) => Ok(Content::Kept { headers, body, share }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not end in time".to_owned()),
    }
}

fn to_map(headers: Headers<'_>) -> HeaderMap {
    // What was read is a token and its value: nothing is left out.
    let valid = headers
        .filter_map(|(name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?)));
    let mut map = HeaderMap::new();
    for (name, value) in valid {
        map.append(name, value);
    }
    map
}

/// A body, read as it arrives: each piece waits until there is room for it, and the other side for us.
async fn whole(mut body: Body, limit: usize, share: &mut Share) -> Result<Result<Bytes, TooLong>, ExchangeError> {
    let mut read = Pieces::default();
    while let Some(piece) = body.next_piece().await? {
        if share.bytes() + piece.len() > limit {
            return Ok(Err(TooLong));
        }
        share.grow(piece.len()).await;
        read.push(piece);
    }
    Ok(Ok(read.into_bytes()))
}

/// What was read so far, in pieces that are not moved when more is read: a buffer that doubles leaves as much behind as
/// it holds.
#[derive(Debug, Default)]
struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    fn push(&mut self, data: &[u8]) {
        match self.0.last_mut() {
            Some(last) if last.capacity() - last.len() >= data.len() => last.extend_from_slice(data),
            last => {
                // The first is often all there is.
                let room = if last.is_some() { PIECE.max(data.len()) } else { data.len() };
                let mut piece = Vec::with_capacity(room);
                piece.extend_from_slice(data);
                self.0.push(piece);
            }
        }
    }

    fn into_bytes(mut self) -> Bytes {
        match self.0.pop() {
            Some(only) if self.0.is_empty() => only.into(),
            Some(last) => {
                self.0.push(last);
                self.0.concat().into()
            }
            None => Bytes::new(),
        }
    }
}

/// An answer of which a part is missing.
fn broken(code: StatusCode, problem: &str) -> Answered {
    Answered::without_content(Answer::Broken(format!("the body of a {} is incomplete: {problem}", code.as_u16())))
}

/// The beginning of a body.
async fn text(mut body: Body) -> String {
    let mut kept = Vec::new();
    let keep = |piece: &[u8]| kept.extend_from_slice(&piece[..piece.len().min(TEXT_LIMIT - kept.len())]);
    // What does not come in time is not waited for.
    let _ = timeout(BODY_TIME, read_to_end(&mut body, &mut 0, keep)).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// Reads a body, of which so many bytes were seen, to its end, as far as that is worth its connection. Can be
/// cancelled.
async fn read_to_end(body: &mut Body, seen: &mut usize, mut see: impl FnMut(&[u8])) {
    while let Ok(Some(piece)) = body.next_piece().await {
        see(piece);
        *seen += piece.len();
        if *seen > BODY_LIMIT {
            return;
        }
    }
}

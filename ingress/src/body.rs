//! The body of a request: bounded in size and time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use crate::problem::Problem;

/// What is read and thrown away of a body that is too large, so that its sender gets to read why.
/// (A connection that is closed with unread bytes is reset, and the answer with it.)
const DISCARD: usize = 16 * 1024 * 1024;

/// Reads a body of at most `limit` bytes within `time`.
///
/// # Errors
/// It is too large, takes too long, or ends early.
pub async fn read(mut body: Incoming, limit: usize, time: Duration) -> Result<Bytes, Problem> {
    let reading = async {
        if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
            discard(&mut body).await;
            return Err(Problem::request_too_large(limit));
        }
        match Limited::new(&mut body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                discard(&mut body).await;
                Err(Problem::request_too_large(limit))
            }
            Err(_) => Err(Problem::invalid("the body ended early: send all of it")),
        }
    };
    timeout(time, reading).await.unwrap_or_else(|_| Err(Problem::request_timeout()))
}

async fn discard(body: &mut Incoming) {
    let mut left = DISCARD;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

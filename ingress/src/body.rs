//! The body of a request: bounded in size, memory and time.

use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Limits;
use crate::problem::Problem;
use crate::share::Room;

/// What is read and thrown away of a body that is not taken, so that its sender gets to read why.
/// (A connection that is closed with unread bytes is reset, and the answer with it.)
const DISCARD: usize = 16 * 1024 * 1024;
/// The same of a publisher that may not publish.
const REFUSED: usize = 256 * 1024;

/// A body of at most this size is copied out of what it was read into: that is 8 KiB at least, which an event would
/// keep as long as it is under way, and which are not counted.
const COPIED: usize = 4096;

/// How fast something must arrive: its first bytes within a time, and then at least so many a second. What comes faster
/// earns no more than that time again: a sender that has sent much could otherwise rest on it, and hold the memory.
pub struct Pace {
    grace: Duration,
    rate: u32,
    deadline: Instant,
}

impl Pace {
    /// Of something that begins now.
    pub fn new(limits: &Limits, now: Instant) -> Self {
        Self { grace: limits.body, rate: limits.body_rate.max(1), deadline: now + limits.body }
    }

    /// So many bytes have come.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs_f64(f64::from(bytes) / f64::from(self.rate));
        self.deadline = (self.deadline + earned).min(now + self.grace);
    }

    /// Until when more must come.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Reads a body of at most `limit` bytes into `room`, in which the head is already.
///
/// # Errors
/// It is too large, comes too slowly, or ends early; or there is no memory for it.
pub async fn read(
    mut body: Incoming,
    headers: &HeaderMap,
    limit: usize,
    room: &mut Room,
    limits: &Limits,
) -> Result<Bytes, Problem> {
    let announced = body.size_hint().lower();
    if announced > u64::try_from(limit).unwrap_or(u64::MAX) {
        // A sender that asks before it sends has sent nothing, and is not asked for it (RFC 9110, section 10.1.1).
        if !waits(headers) {
            discard(&mut body, DISCARD, limits.body).await;
        }
        return Err(Problem::request_too_large(limit));
    }
    let read = collect(&mut body, size(headers), limit, room, Pace::new(limits, Instant::now())).await;
    match read {
        // It was given all the time there is.
        Err(problem) if problem.status != StatusCode::REQUEST_TIMEOUT => {
            room.cover(0)?;
            discard(&mut body, DISCARD, limits.body).await;
            Err(problem)
        }
        read => read,
    }
}

async fn collect(
    body: &mut Incoming,
    head: usize,
    limit: usize,
    room: &mut Room,
    mut pace: Pace,
) -> Result<Bytes, Problem> {
    let (mut first, mut rest) = (Bytes::new(), Vec::new());
    let mut received = 0;
    loop {
        let frame = timeout_at(pace.deadline(), body.frame()).await.map_err(|_| Problem::request_timeout())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Problem::invalid("the body ended early: send all of it"))?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len();
        pace.received(data.len(), Instant::now());
        if received > limit {
            return Err(Problem::request_too_large(limit));
        }
        if received == data.len() {
            room.cover(head + received)?;
            first = data;
            continue;
        }
        // Pieces are put together at once: many small ones would take many times their size.
        let capacity = grown(rest.capacity(), received, limit);
        room.cover(head + capacity)?;
        rest.reserve_exact(capacity - rest.len());
        rest.extend_from_slice(&std::mem::take(&mut first));
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() { detached(first) } else { rest.into() })
}

/// A body that does not keep much more than itself.
fn detached(body: Bytes) -> Bytes {
    if body.len() <= COPIED { Bytes::copy_from_slice(&body) } else { body }
}

/// Room for so many bytes: twice of what there was, so that little is copied, but no more than there can be.
fn grown(capacity: usize, needed: usize, most: usize) -> usize {
    if needed <= capacity { capacity } else { capacity.saturating_mul(2).min(most).max(needed) }
}

/// Bytes of the names and values.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn waits(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Reads a little of a body that is not taken, so that its sender gets to read why, who is nobody that much is done for.
pub async fn refuse(mut body: Incoming, headers: &HeaderMap, limits: &Limits) {
    if !waits(headers) {
        discard(&mut body, REFUSED, limits.body).await;
    }
}

async fn discard(body: &mut Incoming, mut left: usize, time: Duration) {
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // A sender that needs longer does not get to read the answer.
    let _ = timeout(time, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_gets_no_time_and_what_flows_gets_as_much_as_it_needs() {
        let limits = Limits { body: Duration::from_secs(10), body_rate: 1000, ..Limits::default() };
        let start = Instant::now();
        // What comes, each second so many bytes, and the second until which more must come after it.
        for (what, bytes, expected) in [
            ("nothing", vec![], 10),
            ("a trickle", vec![1; 9], 10),
            ("the least rate", vec![1000; 60], 69),
            ("half of it", vec![500; 18], 18),
            ("much at once", vec![60_000], 10),
            ("much, and a trickle", vec![60_000, 1, 1, 1], 10),
            ("a trickle, and much", vec![1, 1, 1, 1, 60_000], 14),
        ] {
            let mut pace = Pace::new(&limits, start);
            for (second, bytes) in (0..).zip(bytes) {
                pace.received(bytes, start + Duration::from_secs(second));
            }
            assert_eq!((pace.deadline() - start).as_secs(), expected, "{what}");
        }
        let mut none = Pace::new(&Limits { body_rate: 0, ..limits }, start);
        none.received(usize::MAX, start);
        assert!(none.deadline() > start, "nothing is divided by zero");
    }

    #[test]
    fn a_small_body_does_not_keep_what_it_was_read_into() {
        for (size, is_kept) in [(0, false), (256, false), (COPIED, false), (COPIED + 1, true)] {
            let read = Bytes::from(vec![7; 8192]);
            let body = detached(read.slice(..size));
            assert_eq!((body.len(), read.is_unique()), (size, !is_kept));
            assert!(body.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn pieces_never_take_more_than_the_largest_body() {
        assert_eq!(grown(0, 10, 100), 10);
        assert_eq!(grown(10, 9, 100), 10);
        assert_eq!(grown(10, 11, 100), 20);
        assert_eq!(grown(64, 65, 100), 100);
        assert_eq!(grown(64, 100, 100), 100);
    }
}

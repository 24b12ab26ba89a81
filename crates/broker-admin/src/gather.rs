//! One request, and the answers of several.

use std::time::Duration;

use tidegate_wire::nats::{Client, Publish};
use tokio::time::{Instant, sleep};

/// How long the rest is waited for, once enough have answered.
const STRAGGLERS: Duration = Duration::from_millis(300);

/// How many answer.
#[derive(Clone, Copy)]
pub(crate) struct Count {
    /// All that there are.
    pub all: usize,
    /// So many that the others need not be waited for much longer.
    pub enough: usize,
}

/// The answers that came in time. None at all are no error.
///
/// # Errors
/// The connection refuses the request.
pub(crate) async fn gather(
    client: &Client,
    subject: &str,
    payload: &[u8],
    count: Count,
    timeout: Duration,
) -> Result<Vec<String>, String> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(&inbox, None).map_err(|error| error.to_string())?;
    let request = Publish { subject, reply: Some(&inbox), payload, ..Publish::default() };
    let deadline = sleep(timeout);
    tokio::pin!(deadline);
    tokio::select! {
        sent = client.publish_connected(&request) => sent.map_err(|error| error.to_string())?,
        () = &mut deadline => return Ok(Vec::new()),
    }
    let mut answers = Vec::new();
    while answers.len() < count.all {
        tokio::select! {
            reply = replies.next() => match reply {
                Some(message) if message.status().is_none() => {
                    answers.push(String::from_utf8_lossy(message.payload()).into_owned());
                    if answers.len() == count.enough {
                        deadline.as_mut().reset(Instant::now() + STRAGGLERS);
                    }
                }
                // No responders, or the connection is gone.
                _ => break,
            },
            () = &mut deadline => break,
        }
    }
    Ok(answers)
}

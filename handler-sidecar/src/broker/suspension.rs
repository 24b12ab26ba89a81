//! Whether the handler is suspended: the operator has paused its consumers until [`layout::SUSPENDED_UNTIL`].
//!
//! The broker delivers nothing then, and with `order: None` that is all there is to it: what is here is being worked
//! on. A lane's owner has events besides that wait for others of their key and that it starts by itself. So it asks now
//! and then, and gives its lanes back, as if another sidecar were to have them.

use std::time::Duration;

use tidegate_broker_client::layout;
use tidegate_wire::nats::Publish;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::broker::pull;
use crate::consume::process::Context;

/// Between two questions while events are delivered.
const PERIOD: Duration = Duration::from_secs(5);
/// Between two questions while the handler is suspended: so long a lane may stand still after that is over.
const PERIOD_SUSPENDED: Duration = Duration::from_secs(1);
/// How long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks for the state of the first lane's consumer, and keeps the answer in `is_suspended`. Never returns.
pub async fn follow(context: &Context, is_suspended: &watch::Sender<bool>) {
    let handler = &context.config.handler;
    let subject = layout::local_info_subject(&layout::lane_consumer(handler, 0));
    let question = Publish { subject: &subject, ..Publish::default() };
    loop {
        let answer = context.client.request(&question, ANSWER_TIMEOUT).await;
        // Without an answer it stays as it was.
        if let Some(found) = answer.ok().and_then(|answer| pull::is_suspended(answer.payload()))
            && is_suspended.send_if_modified(|known| std::mem::replace(known, found) != found)
        {
            tracing::info!(handler, suspended = found, "the handler was suspended or resumed");
        }
        let period = if *is_suspended.borrow() { PERIOD_SUSPENDED } else { PERIOD };
        sleep(period).await;
    }
}

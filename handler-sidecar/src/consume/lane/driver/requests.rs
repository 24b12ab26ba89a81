//! What the owner wants done: commands to the connection, and requests whose answers it hears.

use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, Message, Request};
use bytes::Bytes;
use futures::future::FutureExt as _;
use futures::stream::StreamExt as _;
use tidegate_broker_client::layout;
use tidegate_telemetry::{Instrument as _, Span};
use tokio::time::{Instant, sleep, timeout};

use super::events::Event;
use super::{Happened, LINGER, Lane};
use crate::consume::in_hand::InHand;
use crate::consume::lane::owner::{Action, Id, Input};
use crate::consume::lane::pulls::Pin;
use crate::consume::lane::wire;

/// What one command to the connection may take, which waits only if its queue is full.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);
/// Between two requests of which the first failed at once.
const PAUSE: Duration = Duration::from_millis(50);

const ACKNOWLEDGE: Bytes = Bytes::from_static(b"+ACK");
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

impl Lane {
    /// Does one thing that the owner wants done.
    pub(super) async fn perform(&mut self, action: Action) {
        tracing::trace!(consumer = self.consumer, ?action, "lane");
        match action {
            Action::Pull { number, pin, batch } => self.pull(number, pin, batch).await,
            Action::Acknowledge(id) => {
                let span = self.events.get(id).map_or_else(Span::none, |event| self.settle(event));
                self.ask_about(id, ACKNOWLEDGE, Input::Acknowledged, span);
            }
            Action::Renew(id) => self.ask_about(id, IN_PROGRESS, Input::Renewed, Span::none()),
            Action::GiveBack(id) => {
                if let Some(event) = self.events.let_go(id) {
                    let span = self.settle(&event);
                    give_back(event.stored, self.owner.is_leaving()).instrument(span).await;
                }
            }
            Action::Drop(id) => {
                if let Some(event) = self.events.let_go(id) {
                    event.end();
                    forget(event.stored);
                }
            }
            Action::Done(id) => {
                forget(self.events.let_go(id).and_then(|event| event.stored));
            }
            Action::Ask => self.ask_state(),
            Action::Unpin => self.unpin(),
        }
    }

    /// The span of telling the broker about an event.
    fn settle(&self, event: &Event) -> Span {
        let headers = event.stored.as_ref().and_then(InHand::headers);
        self.shared.context.traces.settle(headers, event.how.name())
    }

    async fn pull(&mut self, number: u64, pin: Option<Pin>, batch: u32) {
        self.pulled = Instant::now();
        let Ok(body) = wire::pull_request(&self.terms, batch, pin.as_deref()) else { return };
        let sending = wire::send_pull(&self.shared.context.client, &self.consumer, body);
        let Ok(Ok(messages)) = timeout(COMMAND_LIMIT, sending).await else {
            return self.input(Input::PullRefused(number));
        };
        let over = sleep(Duration::from_millis(self.terms.pull_expires) + COMMAND_LIMIT);
        let messages = wire::until_used_up(messages, batch).take_until(over);
        self.messages.push(messages.map(move |message| (number, message)).boxed());
    }

    /// A request about an event in hand; the owner hears whether it was confirmed.
    fn ask_about(&mut self, id: Id, what: Bytes, tell: fn(Id, bool) -> Input, span: Span) {
        let Some(event) = self.events.get(id) else { return };
        let answer = self.request(event.reply.to_string(), what).instrument(span);
        self.under_way.push(async move { Happened::Input(tell(id, answer.await.is_some())) }.boxed());
    }

    fn ask_state(&mut self) {
        let answer = self.request(layout::local_info_subject(&self.consumer), Bytes::new());
        let tell = async move { answer.await.map_or(Input::NoState, |message| wire::state(&message.payload)) };
        self.under_way.push(tell.map(Happened::Input).boxed());
    }

    /// Asks how many events wait.
    pub(super) fn count_waiting(&mut self) {
        let answer = self.request(layout::local_info_subject(&self.consumer), Bytes::new());
        let count = async move { answer.await.and_then(|message| wire::waiting(&message.payload)) };
        self.under_way.push(count.map(Happened::Counted).boxed());
    }

    fn unpin(&mut self) {
        let body = wire::unpin_request().unwrap_or_default();
        let answer = self.request(layout::local_unpin_subject(&self.consumer), body);
        self.under_way.push(answer.map(|_| Happened::Input(Input::Unpinned)).boxed());
    }

    fn request(&self, subject: String, body: Bytes) -> impl Future<Output = Option<Message>> + use<> {
        let connected = self.shared.link.borrow().connected;
        let patience = Duration::from_millis(wire::patience(&self.terms));
        ask(self.shared.context.client.clone(), connected, subject, body, patience)
    }
}

async fn give_back(stored: Option<InHand>, is_leaving: bool) {
    let Some(stored) = stored else { return };
    if is_leaving {
        // At once, the broker would give it to our own pulls again, which are still open, and so on.
        stored.retry_in(LINGER * 2).await;
    } else {
        stored.give_back().await;
    }
}

/// There is nothing more to tell the broker of it.
fn forget(stored: Option<InHand>) {
    if let Some(stored) = stored {
        stored.settled_elsewhere();
    }
}

/// One request; `None`: there is no answer. Without a connection it is not even sent, or it would be later, when
/// nobody stands by it any more.
async fn ask(client: Client, connected: bool, subject: String, body: Bytes, patience: Duration) -> Option<Message> {
    if !connected {
        sleep(PAUSE).await;
        return None;
    }
    let request = Request::new().payload(body).timeout(Some(patience));
    match client.send_request(subject, request).await {
        Ok(message) => Some(message),
        Err(error) => {
            if error.kind() != RequestErrorKind::TimedOut {
                sleep(PAUSE).await;
            }
            None
        }
    }
}

//! What a handler may ask for beyond the delivery itself, made of its configuration: a filter, a rate, batches, and
//! other topics to publish to.

use http::uri::InvalidUri;
use tidegate_broker_client::contract::{Delivery, Format, Sidecar};
use tidegate_filter::Refused;
use tokio::sync::watch;

use crate::consume::rate::Limiter;
use crate::deliver::post::Handler;
use crate::event::batch::{BatchLimits, Batches};
use crate::event::filter::Filter;
use crate::ops::drain::Drain;
use crate::settle::topic_publisher::TopicPublisher;

/// Why there is none of it. The operator wrote the configuration, so nothing but another one helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The expression.
    #[error("filter.expression: {0}")]
    Filter(#[from] Refused),
    /// The address of the reply's topic.
    #[error("reply.url: {0}")]
    Reply(InvalidUri),
    /// The address of the dead letters' topic.
    #[error("deadLetter.url: {0}")]
    DeadLetter(InvalidUri),
}

/// All of it.
#[derive(Debug)]
pub struct Options {
    /// Which events the handler gets.
    pub filter: Filter,
    /// Maximum number per period; `None`: unlimited.
    pub limiter: Option<Limiter>,
    /// Where events are gathered; `None`: each is sent alone.
    pub batches: Option<Batches>,
    /// Where replies go; `None`: there are none.
    pub reply: Option<TopicPublisher>,
    /// Where dead letters go; `None`: beside the topic.
    pub letters: Option<TopicPublisher>,
    /// Whether nothing here has to take an event apart: it is sent as it is stored.
    pub passes_on: bool,
}

impl Options {
    /// Of this configuration; `members` says how many sidecars share a rate.
    ///
    /// # Errors
    /// Something of it cannot be used.
    pub fn new(
        config: &Sidecar,
        handler: &Handler,
        drain: &Drain,
        members: watch::Receiver<usize>,
    ) -> Result<Self, Error> {
        let Sidecar { filter, delivery, dead_letter, reply, .. } = config;
        let publisher = |to| TopicPublisher::new(to, config);
        let filter = Filter::new(filter)?;
        Ok(Self {
            passes_on: delivery.format == Format::Binary && reply.is_none() && filter.judges_in_place(),
            filter,
            limiter: delivery.rate.map(|rate| Limiter::new(rate, members)),
            batches: terms(delivery).map(|terms| Batches::start(handler.clone(), terms, drain.clone())),
            reply: reply.as_ref().map(publisher).transpose().map_err(Error::Reply)?,
            letters: dead_letter.as_ref().map(publisher).transpose().map_err(Error::DeadLetter)?,
        })
    }
}

fn terms(delivery: &Delivery) -> Option<BatchLimits> {
    let Format::Batch { max_events, max_wait } = delivery.format else { return None };
    let (max_events, concurrency) = (usize::from(max_events.max(1)), usize::from(delivery.concurrency));
    Some(BatchLimits { max_events, max_wait, concurrency })
}

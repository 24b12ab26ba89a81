//! Who a test's client is, and what it hears of its connection.

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker_admin::{Authority, LeafRequest};
use tidegate_broker_client::connect;
use tidegate_broker_client::identity::{Identity, Source};
use tidegate_wire::nats::{Client, Event, Options, Publish};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::timeout;

/// Longer than anything takes that is waited for.
pub const LONG: Duration = Duration::from_secs(60);

/// What the connection told, in order.
#[derive(Clone)]
pub struct Heard(watch::Sender<Vec<String>>);

impl Heard {
    /// Waits until something was told that contains this.
    pub async fn wait_for(&self, text: &str) {
        let mut heard = self.0.subscribe();
        let there = heard.wait_for(|heard| heard.iter().any(|one| one.contains(text)));
        let in_time = timeout(LONG, there).await.is_ok();
        assert!(in_time, "{text:?} was not told, but {:?}", *self.0.borrow());
    }
}

/// The identity of the operator, who may do everything in a topic's account.
pub fn operator(authority: &Authority) -> Identity {
    let now = OffsetDateTime::now_utc();
    let user = authority.operator_user(&tidegate_test_broker::topic_id(), now).unwrap();
    let request = LeafRequest::client("operator");
    let leaf = authority.leaf(&request, now).unwrap();
    let ca = authority.trusted_servers();
    Identity { ca, certificate: leaf.certificate, key: leaf.key, user_jwt: user.jwt, user_seed: user.seed }
}

pub fn fixed(identity: Identity) -> Source {
    Arc::new(move || Ok(identity.clone()))
}

pub fn options(servers: &[String], identity: Source) -> (Options, Heard) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let heard = Heard(watch::Sender::default());
    let told = heard.clone();
    let on_event = Arc::new(move |event: &Event| told.0.send_modify(|heard| heard.push(event.to_string())));
    (Options { on_event, ..connect::options("test", servers, identity).unwrap() }, heard)
}

pub async fn connected(client: &Client, epoch: u64) {
    let mut link = client.link();
    let there = link.wait_for(|link| link.connected && link.epoch >= epoch);
    timeout(LONG, there).await.expect("no connection").unwrap();
}

pub fn message<'a>(subject: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish { subject, payload, ..Publish::default() }
}

/// An endless wait is a failure.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(LONG, work).await.expect("it takes too long")
}

/// Bytes of this process in memory.
pub fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

//! What works for one topic as long as it is there.

use std::path::PathBuf;
use std::sync::Arc;

use tidegate_broker_client::contract::{Flush, KeyText, Routing, ServedTopic};
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::message_id::{BadKey, TopicKey};
use tidegate_telemetry::Server;
use tidegate_wire::nats::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::alarm::Alarm;
use crate::audit::Audit;
use crate::auth::Auth;
use crate::commit::{Committer, Pool};
use crate::config::Limits;
use crate::delay::{Delayer, Mover};
use crate::metrics::{Instruments, Metrics};
use crate::publish::{Queue, TopicPublisher};
use crate::trace::Destination;

/// What all topics of a broker have in common.
pub struct Shared {
    /// The connection that events leave by.
    pub client: Client,
    /// The broker's address.
    pub server: Option<Server>,
    /// What a server that is the broker's only one does before it acknowledges an event.
    pub flush_of_one: Flush,
    /// What the broker does now.
    pub flush: watch::Sender<Flush>,
    /// This pod's name.
    pub pod: Arc<str>,
    /// A folder on the broker's volume.
    pub volume: Option<PathBuf>,
    /// Bounds in time and number.
    pub limits: Limits,
    /// Which request is taken on.
    pub admission: Arc<Admission>,
    /// By what publishers are recognised.
    pub auth: Auth,
    /// What is counted.
    pub instruments: Arc<Instruments>,
    /// What may wait for the broker or be under way to it.
    pub pool: Arc<Pool>,
    /// Ends what moves delayed events.
    pub stop: CancellationToken,
    /// What moves delayed events.
    pub movers: TaskTracker,
}

/// What works for one topic: no topic waits for another one's events.
#[derive(Clone)]
pub struct Engine {
    /// Sends events.
    pub publisher: Arc<TopicPublisher>,
    /// Stores events until their time; `None` on a Direct topic.
    pub delayer: Option<Arc<Delayer>>,
    /// Verifies the message ids of handlers.
    pub message_ids: Arc<TopicKey>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is counted of each publisher.
    pub audit: Arc<Audit>,
}

/// An engine, what it was made for, and the way to stop it.
#[derive(Clone)]
pub struct RunningEngine {
    /// The engine.
    pub engine: Engine,
    routing: Routing,
    key: KeyText,
    stop: CancellationToken,
}

impl RunningEngine {
    /// Starts one.
    ///
    /// # Errors
    /// The topic has no key.
    pub fn start(shared: &Shared, topic: &ServedTopic) -> Result<Self, BadKey> {
        let message_ids = Arc::new(topic.message_id_key.key()?);
        let metrics = Arc::new(Metrics::new(Arc::clone(&shared.instruments), &topic.id));
        let (client, timeout) = (&shared.client, shared.limits.publish);
        let subjects = TopicSubjects::new(&topic.id, topic.routing);
        let place = Destination::new(&topic.id, shared.server.clone());
        let is_queued = topic.routing == Routing::Queued;
        let queue = is_queued.then(|| {
            let alarm = Alarm::new(client.clone(), subjects.report(), Arc::clone(&shared.pod), shared.volume.clone());
            let (alarm, flush, pool) = (Arc::new(alarm), shared.flush.subscribe(), Arc::clone(&shared.pool));
            let committer = Committer::new(client.clone(), flush, timeout, pool, Arc::clone(&alarm));
            Queue { committer, alarm }
        });
        let (place_of_delayed, counted) = (place.clone(), Arc::clone(&metrics));
        let publisher = Arc::new(TopicPublisher::new(
            client.clone(),
            subjects.clone(),
            queue,
            place,
            timeout,
            Arc::clone(&metrics),
        ));
        let stop = shared.stop.child_token();
        let delayer = is_queued.then(|| {
            let mover = Mover::new(client.clone(), subjects.clone(), Arc::clone(&publisher));
            shared.movers.spawn(mover.run(stop.clone()));
            let keys = Arc::clone(&message_ids);
            Arc::new(Delayer::new(client.clone(), subjects, keys, place_of_delayed, counted, timeout))
        });
        let audit = Arc::new(Audit::new(topic.id.clone(), Arc::clone(&metrics)));
        let engine = Engine { publisher, delayer, message_ids, metrics, audit };
        Ok(Self { engine, routing: topic.routing, key: topic.message_id_key.clone(), stop })
    }

    /// Whether it works for the topic as it is now.
    pub fn is_for(&self, topic: &ServedTopic) -> bool {
        self.routing == topic.routing && self.key == topic.message_id_key
    }

    /// Whether the other one is this one.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.engine.publisher, &other.engine.publisher)
    }

    /// No delayed event is moved any more; what is in progress ends.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

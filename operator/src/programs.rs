//! What the programs of a broker and of a handler are told (pure). It is the same in a pod, where the operator starts them,
//! and on a developer's machine, where `tidegate dev` does: only the place differs.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_admin::server::{Cluster, JetStream, Server};
use tidegate_broker_admin::{Authority, AuthorityError, streams};
use tidegate_broker_client::contract::{AccessCertificate, Ingress, Routing, Sidecar, TopicAddress};
use tidegate_crds::EventHandler;
use time::OffsetDateTime;

use crate::broker;
use crate::handler::settings::{ACK_WAIT, Settings};
use crate::handler::{probes, relocation};

/// Where a nats-server has its ports and files.
pub struct ServerPlace {
    /// The port of clients.
    pub port: u16,
    /// `host:port` of its monitoring, on loopback.
    pub monitor: String,
    /// `host:port` where its ingress wakes it, on loopback.
    pub wake: String,
    /// The folder of what it stores.
    pub data: String,
    /// The folder of its certificate for clients.
    pub tls: String,
    /// Where it writes its process id.
    pub pid_file: Option<String>,
    /// The servers of the broker.
    pub cluster: Cluster,
}

/// The configuration of a broker's server. The same input gives the same text: its claims carry a fixed time, so that a
/// server rolls only when something changed.
///
/// # Errors
/// The authority is damaged.
pub fn server(
    authority: &Authority,
    settings: &broker::settings::Settings,
    place: ServerPlace,
) -> Result<Server, AuthorityError> {
    let issued = OffsetDateTime::UNIX_EPOCH;
    let system = authority.system_account(issued)?;
    let ingress = authority.ingress_account(&[], issued)?;
    let wake = authority.wake_account(issued)?;
    let ServerPlace { port, monitor, wake: wake_address, data, tls, pid_file, cluster } = place;
    Ok(Server {
        port,
        monitor,
        data,
        tls,
        pid_file,
        // A topic's streams have its own bound.
        max_payload: usize::try_from(streams::MAX_MESSAGE_SIZE).unwrap_or(usize::MAX),
        jetstream: Some(JetStream { max_file_store: settings.file_store, sync_always: settings.sync_always }),
        cluster,
        wake: wake_address,
        operator_jwt: authority.operator_jwt(issued)?,
        accounts: vec![(system.id.clone(), system.jwt), (ingress.id, ingress.jwt), (wake.id, wake.jwt)],
        system_account: system.id,
    })
}

/// Where an ingress has its ports and files.
pub struct IngressPlace {
    /// The broker's namespace.
    pub namespace: String,
    /// The broker's name.
    pub broker: String,
    /// Addresses of the broker, in order of preference.
    pub servers: Vec<String>,
    /// The folder of its identity.
    pub identity: PathBuf,
    /// The folder of the file that says which topics there are.
    pub topics: PathBuf,
    /// A folder on the broker's volume.
    pub volume: PathBuf,
    /// The port of HTTPS.
    pub https_port: u16,
    /// The port of MQTT.
    pub mqtt_port: u16,
    /// The port of probes.
    pub admin_port: u16,
    /// `host:port` of the broker's monitoring.
    pub monitor: String,
    /// `host:port` where it wakes the broker.
    pub wake: String,
    /// Certificates of the ways from outside.
    pub certificates: Vec<AccessCertificate>,
}

/// The configuration of a broker's ingress.
pub fn ingress(settings: &broker::settings::Settings, place: IngressPlace) -> Ingress {
    Ingress {
        namespace: place.namespace,
        broker: place.broker,
        servers: place.servers,
        identity: place.identity,
        https_port: place.https_port,
        admin_port: place.admin_port,
        broker_monitor: format!("http://{}", place.monitor),
        broker_wake: place.wake,
        mqtt_port: place.mqtt_port,
        volume: Some(place.volume),
        topics: place.topics,
        capacity: settings.capacity,
        flush: settings.flush_of_one(),
        certificates: place.certificates,
    }
}

/// Where a sidecar has its ports and files, and under which name the broker knows its handler.
pub struct SidecarPlace<D> {
    /// The handler's namespace.
    pub namespace: String,
    /// The handler's name in its topic's account ([`crate::handler::reference::known_as`]).
    pub known_as: String,
    /// The handler's UID.
    pub uid: String,
    /// How the topic's events travel.
    pub routing: Routing,
    /// Addresses of the broker.
    pub servers: Vec<String>,
    /// The folder of its identity.
    pub identity: PathBuf,
    /// The port of probes and drain.
    pub admin_port: u16,
    /// How long it may be there after a drain before it works again.
    pub resume_after: Duration,
    /// The way to a topic that it publishes to.
    pub destination: D,
}

/// The configuration of a handler's sidecar.
pub fn sidecar<D: Fn(&str) -> TopicAddress>(
    handler: &EventHandler,
    settings: &Settings,
    place: SidecarPlace<D>,
) -> Sidecar {
    let spec = &handler.spec;
    let to = |topic: &String| (place.destination)(topic);
    Sidecar {
        topic: spec.topic.clone(),
        probes: probes::of(&spec.template),
        filter: settings.filter.clone(),
        delivery: settings.delivery.clone(),
        dead_letter: spec.dead_letter.as_ref().map(|dead_letter| to(&dead_letter.topic)),
        reply: spec.reply.as_ref().map(|reply| to(&reply.topic)),
        ack_wait: ACK_WAIT,
        relocation: relocation::of_sidecars(handler),
        namespace: place.namespace,
        handler: place.known_as,
        handler_uid: place.uid,
        routing: place.routing,
        servers: place.servers,
        identity: place.identity,
        admin_port: place.admin_port,
        resume_after: place.resume_after,
    }
}

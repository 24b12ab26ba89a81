//! One connection of MQTT, from its handshake to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::identity::proof_ending;
use super::clients::{Clients, ConnectedDevice};
use super::session::{Arrival, Bounds, Connected, Credentials, Refusal, Session, Step};
use crate::auth::{self, Identity, Peer, PeerCertificate};
use crate::body::Pace;
use crate::config::Limits;
use crate::intake::{Intake, PendingEvent};
use crate::meanwhile::meanwhile;
use crate::outcome::Stored;
use crate::problem::Problem;
use crate::server::Protocol;
use crate::share::{Client, Room, Shares};
use crate::slots::{End, Slot};
use crate::tls;
use crate::topics::{Shared, Topics};
use crate::trace::Context;

mod identity;

/// The name in metrics.
const PROTOCOL: &str = "mqtt";
/// What is read at a time: a TLS record at most.
const CHUNK: usize = 16 * 1024;
/// Bytes of an incomplete packet that are not counted: each connection has them.
const FREE: usize = 16 * 1024;

/// MQTT over TLS.
#[derive(Clone)]
pub struct Mqtt {
    topics: Arc<Topics>,
    tls: TlsAcceptor,
    clients: Arc<Clients>,
}

impl Mqtt {
    /// MQTT for these topics. The host name of the TLS handshake, or the user name, says which one a device means.
    pub fn new(topics: Arc<Topics>, tls: TlsAcceptor) -> Self {
        Self { topics, tls, clients: Arc::default() }
    }

    /// Of a connection whose packets may have so many bytes, and so many as long as it is not known who it is.
    fn bounds(&self, packet: usize, greeting: usize) -> Bounds {
        let limits = &self.topics.shared.limits;
        let receive_maximum = u16::try_from(limits.publishes_per_connection).unwrap_or(u16::MAX);
        Bounds { packet, greeting, receive_maximum, silence: limits.silence }
    }
}

/// What is still read and written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is read; what is in flight is answered.
    Leaving,
    /// Nothing more is read or written; what is in flight is only waited for.
    Closed,
}

/// How it went with a packet.
type PacketOutcome = (Option<u16>, Result<Stored, Problem>);

/// The slot of the connection; `None`: it has none and is refused.
type OwnSlot<'a> = Option<(&'a Slot, &'a Arc<Clients>)>;

struct Driver<'a> {
    topics: &'a Topics,
    /// As it was when the device named it; `None`: it has named none.
    topic: Option<Arc<Intake>>,
    place: OwnSlot<'a>,
    peer: Arc<Peer>,
    /// Whoever has connected, and until when that is proved.
    identity: Option<Arc<Identity>>,
    proved_until: Option<Instant>,
    /// What a CONNECT says that waits for its answer.
    authenticating: Option<Credentials>,
    session: Session,
    room: Room,
    /// Of the packet that is arriving.
    pace: Pace,
    output: Vec<u8>,
    phase: Phase,
    /// How long the client may be silent, and until when.
    silence: Duration,
    deadline: Instant,
    known: Option<ConnectedDevice>,
}

impl Protocol for Mqtt {
    async fn serve(self, stream: TcpStream, slot: Slot) {
        self.open(stream, slot.client.clone(), Some((&slot, &self.clients))).await;
    }

    async fn refuse(self, stream: TcpStream, client: Client) {
        self.open(stream, client, None).await;
    }
}

impl Mqtt {
    async fn open(&self, stream: TcpStream, client: Client, place: OwnSlot<'_>) {
        let Shared { admission, auth, limits, .. } = &*self.topics.shared;
        let share = admission.connection(client.clone());
        let Some(stream) = tls::handshake(&self.tls, stream, limits.handshake).await else { return };
        let connection = stream.get_ref().1;
        let topic = connection.server_name().and_then(|host| self.topics.current().by_host(host).cloned());
        let (session, topic) = match (place, topic) {
            (None, _) => (Session::refusing(self.bounds(FREE, FREE), Refusal::Busy), None),
            // It may name any topic when it greets.
            (_, None) => (Session::new(self.bounds(self.topics.current().largest_request().max(FREE), FREE)), None),
            (_, Some(topic)) => {
                let limit = topic.share.request_limit;
                (Session::new(self.bounds(limit, limit)), Some(topic))
            }
        };
        let certificate = PeerCertificate::of(connection, &auth.client_cas);
        let seat = place.map(|(slot, _)| Arc::clone(slot.seat()));
        let peer = Arc::new(Peer { client, share, certificate, seat });
        Driver::new(&self.topics, topic, session, peer, place).run(stream).await;
    }
}

impl<'a> Driver<'a> {
    fn new(
        topics: &'a Topics,
        topic: Option<Arc<Intake>>,
        session: Session,
        peer: Arc<Peer>,
        place: OwnSlot<'a>,
    ) -> Self {
        let limits = &topics.shared.limits;
        let silence = limits.handshake;
        let share = &peer.share;
        let shares =
            topic.as_ref().map_or_else(|| Shares::new(Arc::clone(share), None), |topic| topic.share.with(share));
        Self {
            topics,
            topic,
            place,
            room: Room::new(shares),
            peer,
            identity: None,
            proved_until: None,
            authenticating: None,
            session,
            pace: Pace::new(limits, Instant::now()),
            output: Vec::new(),
            phase: Phase::Open,
            silence,
            deadline: Instant::now() + silence,
            known: None,
        }
    }

    fn limits(&self) -> &'a Limits {
        &self.topics.shared.limits
    }

    fn refused(&self, problem: &Problem) {
        match &self.topic {
            Some(topic) => topic.metrics.refused(PROTOCOL, problem),
            None => self.topics.shared.instruments.without_topic(PROTOCOL, problem),
        }
    }

    async fn run(mut self, mut stream: TlsStream<TcpStream>) {
        let most = self.limits().publishes_per_connection;
        let mut in_flight = FuturesOrdered::new();
        let mut input = BytesMut::new();
        let (topics, mut topic) = (self.topics, self.topic.as_ref().map(|topic| topic.id.to_string()));
        let (peer, place) = (Arc::clone(&self.peer), self.place);
        loop {
            while !input.is_empty() && in_flight.len() < most && self.phase == Phase::Open {
                let arrivals = self.read(&mut input);
                if let Some(credentials) = self.authenticating.take() {
                    self.authenticate(credentials).await;
                    topic = self.topic.as_ref().map(|topic| topic.id.to_string());
                }
                for arrival in arrivals {
                    let taking = take(topics, topic.as_deref(), &peer, self.identity.clone(), arrival);
                    let taken = meanwhile(taking, &mut in_flight, |settled| self.settle(settled)).await;
                    in_flight.push_back(settled(taken));
                }
            }
            // All acknowledgements that are there go out together.
            while let Some(Some(settled)) = in_flight.next().now_or_never() {
                self.settle(settled);
            }
            while !self.output.is_empty() {
                let mut ended = Vec::new();
                meanwhile(self.write(&mut stream), &mut in_flight, |settled| ended.push(settled)).await;
                ended.into_iter().for_each(|settled| self.settle(settled));
            }
            if self.phase != Phase::Open && in_flight.is_empty() {
                break;
            }
            let reading = self.phase == Phase::Open && in_flight.len() < most;
            input.reserve(CHUNK);
            tokio::select! {
                Some(settled) = in_flight.next() => self.settle(settled),
                read = stream.read_buf(&mut input), if reading => {
                    if !read.is_ok_and(|bytes| bytes > 0) {
                        self.phase = Phase::Closed;
                    }
                }
                () = sleep_until(self.deadline), if reading => {
                    let steps = self.session.silent();
                    self.perform(steps);
                }
                () = ending(place), if self.phase == Phase::Open => self.phase = Phase::Leaving,
                () = proof_ending(self.proved_until), if self.phase == Phase::Open => self.phase = Phase::Leaving,
            }
        }
        if self.phase == Phase::Leaving {
            let is_over = self.proved_until.is_some_and(|until| until <= Instant::now());
            let end = place.map_or(End::Leaving, |(slot, _)| slot.end());
            let steps = self.session.end(if is_over { DisconnectReasonCode::NotAuthorized } else { end.into() });
            self.perform(steps);
            self.write(&mut stream).await;
        }
        // The other side may be gone already.
        let _ = timeout(self.limits().handshake, stream.shutdown()).await;
    }

    /// Reads at most one packet.
    fn read(&mut self, input: &mut BytesMut) -> Vec<Arrival> {
        let before = self.session.partial();
        let steps = self.session.received(input);
        let partial = self.session.partial();
        let now = Instant::now();
        if partial > 0 && before == 0 {
            self.pace = Pace::new(self.limits(), now);
        }
        self.pace.received(partial.saturating_sub(before), now);
        self.deadline = self.next_deadline();
        let counted = if partial > FREE { partial } else { 0 };
        match self.room.cover(counted) {
            Ok(()) => self.perform(steps),
            Err(problem) => {
                self.refused(&problem);
                let steps = self.session.end(DisconnectReasonCode::ServerBusy);
                self.perform(steps)
            }
        }
    }

    fn settle(&mut self, (packet_id, outcome): PacketOutcome) {
        if let Err(problem) = &outcome {
            self.refused(problem);
            tracing::debug!(detail = %problem.detail, "an event over MQTT was not taken");
        }
        self.audit(outcome.as_ref().map(|_| 1));
        if self.phase == Phase::Closed {
            return;
        }
        // It could not be heard while too much was in flight.
        let now = Instant::now();
        if self.session.partial() > 0 && self.pace.deadline() < now {
            self.pace = Pace::new(self.limits(), now);
        }
        self.deadline = self.next_deadline();
        if outcome.is_ok() {
            self.peer.used();
        }
        let steps = self.session.settled(packet_id, outcome.as_ref().copied());
        self.perform(steps);
    }

    /// Until when something must be heard: a packet that has begun takes memory that others wait for.
    fn next_deadline(&self) -> Instant {
        let silence = Instant::now() + self.silence;
        match self.session.partial() {
            0 => silence,
            _ => silence.min(self.pace.deadline()),
        }
    }

    /// Does what the session says; what is to be published is left to the caller.
    fn perform(&mut self, steps: Vec<Step>) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for step in steps {
            match step {
                Step::Write(bytes) => self.output.extend(bytes),
                Step::Authenticate(credentials) => self.authenticating = Some(credentials),
                Step::Connected(Connected { silence, client }) => {
                    self.silence = silence;
                    self.deadline = Instant::now() + silence;
                    if let (Some((slot, clients)), Some(device)) = (self.place, self.device(client)) {
                        self.known = Some(clients.connect(device, slot.seat()));
                    }
                }
                Step::Arrived(arrival) => arrivals.push(arrival),
                Step::Close => self.phase = Phase::Closed,
            }
        }
        arrivals
    }

    async fn write(&mut self, stream: &mut TlsStream<TcpStream>) {
        let writing = async {
            stream.write_all(&self.output).await?;
            stream.flush().await
        };
        if !timeout(self.limits().idle, writing).await.is_ok_and(|written| written.is_ok()) {
            self.phase = Phase::Closed;
        }
        self.output.clear();
    }
}

/// Waits until the connection is to end. One that is refused ends by itself.
async fn ending(place: OwnSlot<'_>) {
    match place {
        Some((slot, _)) => slot.ending().await,
        None => std::future::pending().await,
    }
}

impl From<End> for DisconnectReasonCode {
    fn from(end: End) -> Self {
        match end {
            End::Leaving => Self::ServerShuttingDown,
            End::MakeRoom => Self::ServerBusy,
            End::TakenOver => Self::SessionTakenOver,
        }
    }
}

/// Gives an event to the broker, as soon as there is room for it. The topic is looked up again: it may be gone, or take
/// larger events by now.
async fn take(
    topics: &Topics,
    topic: Option<&str>,
    peer: &Peer,
    identity: Option<Arc<Identity>>,
    arrival: Arrival,
) -> (Option<u16>, Result<PendingEvent, Problem>) {
    let Arrival { packet_id, event, size } = arrival;
    let taking = async {
        let intake = topic.and_then(|topic| topics.current().by_path(topic).cloned()).ok_or_else(Problem::no_topic)?;
        let identity = identity.ok_or_else(|| Problem::unauthenticated(None))?;
        if let (Identity::Certificate(..), Some(certificate)) = (&*identity, &peer.certificate) {
            certificate.identity(auth::now())?;
        }
        let event = event?;
        let Shared { admission, limits, .. } = &*topics.shared;
        let admitted = admission.admit_within(&peer.share, &intake.share, size, limits.publish).await?;
        // A device has no headers: the event's own trace is the only one.
        intake.take(event, identity.publisher(), &Context::default(), admitted, Instant::now()).await
    };
    (packet_id, taking.await)
}

/// Waits for the broker's acknowledgement.
async fn settled((packet_id, taken): (Option<u16>, Result<PendingEvent, Problem>)) -> PacketOutcome {
    let outcome = match taken {
        Ok(taken) => taken.stored().await,
        Err(problem) => Err(problem),
    };
    (packet_id, outcome)
}

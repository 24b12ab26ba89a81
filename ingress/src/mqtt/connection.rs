//! One connection of MQTT, from its handshake to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::stream::FuturesOrdered;
use futures::{FutureExt as _, StreamExt as _};
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode;
use opentelemetry::Context;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::session::{Arrival, Session, Step};
use crate::admission::Room;
use crate::intake::{Intake, Taken};
use crate::meanwhile::meanwhile;
use crate::message::Origin;
use crate::problem::Problem;
use crate::server::Protocol;
use crate::tls;

/// The name in metrics.
const PROTOCOL: &str = "mqtt";
/// What is read at a time: a TLS record at most.
const CHUNK: usize = 16 * 1024;
/// Bytes of an incomplete packet that are not counted: each connection has them.
const FREE: usize = 16 * 1024;

/// MQTT over TLS.
#[derive(Clone)]
pub struct Mqtt {
    /// Where events go.
    pub intake: Arc<Intake>,
    /// TLS.
    pub tls: TlsAcceptor,
}

/// How a connection goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is read; what is in flight is answered.
    Leaving,
    /// Nothing more is read or written; what is in flight is only waited for.
    Closed,
}

/// How it went with a packet.
type Settled = (Option<u16>, Result<(), Problem>);

struct Driver<'a> {
    intake: &'a Intake,
    session: Session,
    room: Room,
    output: Vec<u8>,
    phase: Phase,
    /// How long the client may be silent, and until when.
    silence: Duration,
    deadline: Instant,
}

impl Protocol for Mqtt {
    async fn serve(self, stream: TcpStream, stop: CancellationToken) {
        let Some(stream) = tls::handshake(&self.tls, stream, self.intake.limits.handshake).await else { return };
        Driver::new(&self.intake).run(stream, stop).await;
    }
}

impl<'a> Driver<'a> {
    fn new(intake: &'a Intake) -> Self {
        let in_flight = u16::try_from(intake.limits.publishes_per_request).unwrap_or(u16::MAX);
        let silence = intake.limits.handshake;
        Self {
            intake,
            session: Session::new(intake.admission.request_limit(), in_flight),
            room: intake.admission.room(),
            output: Vec::new(),
            phase: Phase::Open,
            silence,
            deadline: Instant::now() + silence,
        }
    }

    async fn run(mut self, mut stream: TlsStream<TcpStream>, stop: CancellationToken) {
        let most = self.intake.limits.publishes_per_request;
        let mut in_flight = FuturesOrdered::new();
        let mut input = BytesMut::new();
        loop {
            while !input.is_empty() && in_flight.len() < most && self.phase == Phase::Open {
                for arrival in self.read(&mut input) {
                    let taking = take(self.intake, arrival);
                    let taken = meanwhile(taking, &mut in_flight, |settled| self.settle(settled)).await;
                    in_flight.push_back(settled(taken));
                }
            }
            // All acknowledgements that are there go out together.
            while let Some(Some(settled)) = in_flight.next().now_or_never() {
                self.settle(settled);
            }
            self.write(&mut stream).await;
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
                () = stop.cancelled(), if self.phase == Phase::Open => self.phase = Phase::Leaving,
            }
        }
        if self.phase == Phase::Leaving {
            let steps = self.session.end(DisconnectReasonCode::ServerShuttingDown);
            self.perform(steps);
            self.write(&mut stream).await;
        }
        // The other side may be gone already.
        let _ = timeout(self.intake.limits.handshake, stream.shutdown()).await;
    }

    /// Reads at most one packet.
    fn read(&mut self, input: &mut BytesMut) -> Vec<Arrival> {
        let before = self.session.partial();
        let steps = self.session.received(input);
        let partial = self.session.partial();
        if partial == 0 {
            self.deadline = Instant::now() + self.silence;
        } else if before == 0 {
            // It takes memory that others wait for.
            self.deadline = self.deadline.min(Instant::now() + self.intake.limits.body);
        }
        let counted = if partial > FREE { partial } else { 0 };
        match self.room.cover(counted) {
            Ok(()) => self.perform(steps),
            Err(problem) => {
                self.intake.metrics.refused(PROTOCOL, &problem);
                let steps = self.session.end(DisconnectReasonCode::ServerBusy);
                self.perform(steps)
            }
        }
    }

    fn settle(&mut self, (packet_id, outcome): Settled) {
        if let Err(problem) = &outcome {
            self.intake.metrics.refused(PROTOCOL, problem);
            tracing::debug!(detail = %problem.detail, "an event over MQTT was not taken");
        }
        if self.phase == Phase::Closed {
            return;
        }
        // It could not be heard while too much was in flight.
        let silence =
            if self.session.partial() == 0 { self.silence } else { self.silence.min(self.intake.limits.body) };
        self.deadline = Instant::now() + silence;
        let steps = self.session.settled(packet_id, outcome.as_ref().map(drop));
        self.perform(steps);
    }

    /// Does what the session says; what is to be published is left to the caller.
    fn perform(&mut self, steps: Vec<Step>) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for step in steps {
            match step {
                Step::Write(bytes) => self.output.extend(bytes),
                Step::Connected(silence) => {
                    self.silence = silence.unwrap_or(self.intake.limits.silence);
                    self.deadline = Instant::now() + self.silence;
                }
                Step::Arrived(arrival) => arrivals.push(arrival),
                Step::Close => self.phase = Phase::Closed,
            }
        }
        arrivals
    }

    async fn write(&mut self, stream: &mut TlsStream<TcpStream>) {
        if self.output.is_empty() {
            return;
        }
        let writing = async {
            stream.write_all(&self.output).await?;
            stream.flush().await
        };
        if !timeout(self.intake.limits.idle, writing).await.is_ok_and(|written| written.is_ok()) {
            self.phase = Phase::Closed;
        }
        self.output.clear();
    }
}

/// Gives an event to the broker, as soon as there is room for it.
async fn take(intake: &Intake, arrival: Arrival) -> (Option<u16>, Result<Taken<'_>, Problem>) {
    let Arrival { packet_id, event, size } = arrival;
    let taking = async {
        let event = event?;
        let admitted = intake.admission.admit_within(size, intake.limits.publish).await?;
        // A device has no headers: the event's own trace is the only one.
        intake.take(&event, Origin::Anonymous, &Context::new(), admitted).await
    };
    (packet_id, taking.await)
}

/// Waits for the broker's acknowledgement.
async fn settled((packet_id, taken): (Option<u16>, Result<Taken<'_>, Problem>)) -> Settled {
    let outcome = match taken {
        Ok(taken) => taken.stored().await.map(drop),
        Err(problem) => Err(problem),
    };
    (packet_id, outcome)
}

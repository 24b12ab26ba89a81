//! A broker's ingress: CloudEvents over HTTPS, MQTT and NATS in, the streams of its topics out.
//!
//! It runs as a container in each broker pod, and serves all topics of the broker over one connection. A publisher hears that an event is stored only after the broker
//! acknowledged it; everything else is an error that says what to do. On a Direct topic nothing is stored: there the
//! answer says that the event was written to the broker's connection, and it is delivered at most once.
//!
//! ```text
//! server ──▶ connection (HTTP) ──▶ routes, target ──▶ body ─┐           of each topic:
//!   tls  ──▶ mqtt ───────────────────────────────────────────┼─ topics ─▶ intake ──▶ publish ──▶ commit ──▶ broker
//! broker ──▶ nats ───────────────────────────────────────────┘  admission             message, outcome, trace, metrics
//!            admin: probes              problem ◀── every error ◀────────────────────────┘
//! ```
//!
//! - [`config`]: what the operator says, and the bounds of everything that could grow.
//! - [`server`], [`slots`], [`tls`]: listeners; handshakes and connections that cannot block each other.
//! - [`topics`]: which topics are served, by the operator's file; which of them a host, a path or a subject names.
//! - [`connection`], [`routes`], [`target`], [`webhook`], [`body`]: HTTP, from a request to its answer.
//! - [`mqtt`], [`nats`]: the other two ways in.
//! - [`intake`], [`admission`], [`share`], [`problem`]: the rules that all of them share.
//! - [`auth`], [`audit`]: who a publisher is, and what is written of it.
//! - [`publish`], [`message`], [`outcome`], [`trace`], [`metrics`]: from an event to the broker's acknowledgement.
//! - [`delay`]: events that are published later.
//! - [`commit`]: which publishes are sent when, on their own or as an atomic batch.
//! - [`alarm`]: tells the operator that events cannot be stored.
//! - [`admin`]: probes of this container and of the broker beside it.
//!
//! Each request is admitted first, as far as there is room ([`admission`]); then its publisher proves who it is
//! ([`auth`]); then its topic says what that publisher may publish ([`intake`]); and only then anything of it is read.

pub mod admin;
pub mod admission;
pub mod alarm;
pub mod audit;
pub mod auth;
pub mod body;
pub mod broker;
pub mod commit;
pub mod config;
pub mod connection;
pub mod delay;
pub mod intake;
pub mod meanwhile;
pub mod message;
pub mod metrics;
pub mod mqtt;
pub mod nats;
pub mod outcome;
pub mod problem;
pub mod publish;
pub mod routes;
pub mod run;
pub mod server;
pub mod share;
pub mod shutdown;
pub mod slots;
pub mod target;
pub mod tls;
pub mod topics;
pub mod trace;
pub mod webhook;

pub use config::Limits;
pub use run::{Error, Ingress};

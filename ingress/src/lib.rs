//! A topic's ingress: CloudEvents over HTTPS in, the topic's stream out.
//!
//! It runs as a container in each broker pod. A request is answered with 202 only after the broker acknowledged
//! every event of it; everything else is an error that says what to do.
//!
//! ```text
//! connection ──▶ server ──▶ routes ──▶ admission ──▶ body ──▶ (cloudevents) ──▶ publish ──▶ broker
//!                  tls                                                            │ outcome, trace, metrics
//!              admin: probes                    problem ◀── every error ◀─────────┘
//! ```
//!
//! - [`config`]: what the operator says, and the bounds of everything that could grow.
//! - [`server`], [`connection`], [`tls`]: listeners; handshakes and connections that cannot block each other.
//! - [`routes`], [`admission`], [`body`], [`problem`]: from a request to its answer.
//! - [`publish`], [`outcome`], [`trace`], [`metrics`]: from an event to the broker's acknowledgement.
//! - [`admin`]: probes of this container and of the broker beside it.
//!
//! Who may publish is decided by the NetworkPolicy of the topic in this version. The place of a publisher's
//! credentials is [`admission`]: it sees each request first.

pub mod admin;
pub mod admission;
pub mod body;
pub mod broker;
pub mod config;
pub mod connection;
pub mod metrics;
pub mod outcome;
pub mod problem;
pub mod publish;
pub mod routes;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod tls;
pub mod trace;

pub use config::Limits;
pub use run::{Error, Ingress};

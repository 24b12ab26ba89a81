//! The ingress, run in this process, against a real nats-server.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod broker;
mod busy;
mod commit;
mod connections;
mod delayed;
mod device;
mod direct;
mod disk;
mod doors;
mod loris;
mod lost_tail;
mod message_id;
mod modes;
mod mqtt;
mod mqtt_refusals;
mod mqtt_statements;
mod nats;
mod process;
mod publisher_certificates;
mod publisher_devices;
mod publishers;
mod raw_nats;
mod receipts;
mod refusals;
mod sdk;
mod sizes;
mod support;
mod topics;
mod webhook_http;

//! What the operator asks of brokers, and what sidecars and ingresses tell it.

pub mod brokers;
pub(crate) mod by_handler;
pub mod deliveries;
pub mod doorbell;
pub mod ingress_reports;
pub mod keys;
pub mod lag;
pub mod letters;
pub(crate) mod numbers;
pub mod poll;
pub mod reports;
pub mod retries;

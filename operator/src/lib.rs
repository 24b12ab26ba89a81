//! Tidegate's operator.
//!
//! Two controllers, [`topic`] and [`handler`], each a table of contents: observe → check → build → apply →
//! status. Both read from [`watches`]. Beside them [`poll`] has a session with each broker: it asks how far the
//! handlers are ([`lag`]), and [`scaling`] (pure) decides how many pods that needs; [`reports`] hears what the sidecars
//! say of themselves, [`ingress_reports`] what cannot be stored, [`token_keys`] reads what ingresses verify tokens with. [`brokers`] holds the operator's own connections;
//! [`admission`] says at once what a reconcile would refuse; [`apply`], [`finalizer`], [`status`] and [`report`] are
//! the only places that write to the API server.

pub mod admission;
pub mod apply;
pub mod args;
pub mod authority;
pub mod broker;
pub mod brokers;
mod by_handler;
mod changes;
pub mod claim;
pub mod context;
pub mod deliveries;
pub mod doorbell;
pub mod error;
pub mod finalizer;
pub mod grants;
mod guard;
pub mod handler;
pub mod health;
pub mod ingress_reports;
pub mod keys;
pub mod lag;
pub mod leader;
pub mod letters;
pub mod metrics;
pub mod names;
mod numbers;
mod ownership;
pub mod pace;
pub mod pods;
pub mod poll;
pub mod quantity;
pub mod report;
pub mod reports;
pub mod retries;
pub mod run;
pub mod scaling;
pub mod slots;
pub mod status;
pub mod token_keys;
pub mod topic;
pub mod user_keys;
pub mod watches;
mod workload;
pub mod written;

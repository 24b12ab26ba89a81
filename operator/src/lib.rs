//! Tidegate's operator.
//!
//! Three controllers, [`broker`], [`topic`] and [`handler`], each a table of contents: observe → check → build → apply →
//! status. What they share is in [`reconcile`]. They read from [`kubernetes::watches`] and write with
//! [`kubernetes::apply`] and [`kubernetes::finalizer`]; [`reconcile::status`] and [`reconcile::report`] say what came of
//! it. Beside them [`sessions::poll`] has a session with each broker: it asks how far the handlers are, and hears what
//! sidecars and ingresses report; [`autoscaling`] (pure) decides how many pods that needs. [`identity`] keeps the keys;
//! [`admission`] says at once what a reconcile would refuse, and [`subresources`] shows stored events and dead letters to
//! those who may read them, both over [`https`]. [`programs`] says what the programs are told that it starts;
//! [`check`] is what `helm test` runs.

pub mod admission;
pub mod args;
pub mod autoscaling;
pub mod broker;
pub mod check;
pub mod context;
pub mod handler;
pub mod health;
pub mod https;
pub mod identity;
pub mod kubernetes;
pub mod programs;
pub mod reconcile;
pub mod run;
pub mod sessions;
pub mod subresources;
pub mod topic;

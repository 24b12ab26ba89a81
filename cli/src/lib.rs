//! Tidegate's command line.
//!
//! - [`dev`]: topics and handlers on this machine, from the YAML of the cluster, without a cluster.
//! - [`send`]: events to a topic.
//! - [`check`]: whether Tidegate is installed in a cluster as it has to be.
//! - [`tail`], [`dead`]: stored events of a topic and dead letters of a handler, from a cluster's aggregated API ([`stored`]).
//! - [`console`]: the same and more as pages in a browser.
//! - [`cluster`]: the cluster of the user's kubeconfig.
//! - [`doctor`]: what is wrong with a resource of a cluster.
//! - [`target`]: the resource that a user means.
//! - [`failure`]: why a command did not do what it was asked to, and its exit code.
//! - [`output`], [`terminal`]: what is written, and what of it a terminal may see.

// It panics where standard error is closed: `terminal::say` does not.
#![warn(clippy::print_stderr)]

pub mod args;
pub mod check;
pub mod cluster;
pub mod console;
pub mod dead;
pub mod dev;
pub mod doctor;
pub mod failure;
mod moment;
pub mod output;
pub mod send;
mod shown;
pub mod stored;
pub mod tail;
pub mod target;
pub mod terminal;

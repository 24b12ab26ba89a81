//! Topics and handlers on this machine, from the YAML of the cluster, without a cluster.

pub mod broker;
pub mod files;
pub mod formed;
pub mod http;
pub mod keeper;
pub mod ports;
pub mod process;
pub mod programs;
pub mod project;
pub mod running;
pub mod show;
pub mod sidecars;
pub mod state;
pub mod tokens;
pub mod unknown;
pub mod watch;

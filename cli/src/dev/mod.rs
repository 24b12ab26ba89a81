//! Topics and handlers on this machine, from the YAML of the cluster, without a cluster.

pub mod files;
pub mod keeper;
pub mod ports;
pub mod process;
pub mod programs;
pub mod project;
pub mod state;
pub mod unknown;

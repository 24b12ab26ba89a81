//! Topics and handlers on this machine, from the YAML of the cluster, without a cluster.

pub mod files;
pub mod project;
pub mod unknown;

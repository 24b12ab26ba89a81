//! What the operator reads of the cluster and writes to it.

pub mod applied;
pub mod apply;
pub mod claim;
pub(crate) mod drift;
pub(crate) mod fields;
pub mod finalizer;
pub(crate) mod labels;
pub mod leader;
pub mod names;
pub(crate) mod ownership;
pub mod pods;
pub mod quantity;
pub(crate) mod scrapers;
pub mod watches;
pub mod written;

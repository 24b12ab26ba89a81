//! Tidegate's command line.

pub mod dev;
pub mod failure;
pub mod send;
pub mod terminal;

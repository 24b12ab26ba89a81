//! When an event may start and how it is settled: the pure core of the sidecar.

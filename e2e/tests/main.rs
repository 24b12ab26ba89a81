//! The main job on a real cluster: chart, operator, brokers, sidecars, all real. Run by `make e2e`.

mod deletion;
mod delivery;
mod harness;
mod loss;
mod scaling;
mod telemetry;
mod waiting;

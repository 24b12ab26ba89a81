//! The operator against a real kube-apiserver and etcd: no kubelet, no controllers, so what the operator
//! writes stays as it wrote it, and no one else's work hides a mistake.
//!
//! `ETCD` and `KUBE_APISERVER` name the programs (`make test` sets them). A few API servers serve all
//! tests; each test has a namespace, and only one at a time on a server runs an operator, because an operator sees them all.

#![allow(clippy::unwrap_used, clippy::expect_used)] // tests fail by panicking

mod admission;
mod admitted;
mod audit;
mod broker;
mod broker_access;
mod broker_end;
mod broker_resize;
mod broker_room;
mod broker_shared;
mod check;
mod children;
mod command_line;
mod console;
mod crash;
mod definitions;
mod disk;
mod doctor;
mod earlier;
mod grants;
mod grants_end;
mod grants_handlers;
mod growth;
mod handler;
mod handler_changes;
mod hands_off;
mod keys;
mod knative;
mod leader;
mod metrics;
mod pace;
mod position;
mod quiet;
mod reach;
mod refused;
mod relocation;
mod relocation_lanes;
mod restarts;
mod retries;
mod rollover;
mod scale;
mod schedules;
mod sessions;
mod shares;
mod subresources;
mod subresources_end;
mod subresources_redrive;
mod support;
mod suspension;
mod template;
mod token_keys;
mod tokens;
mod topic;
mod topic_end;
mod topic_publishers;
mod topic_transitions;
mod topic_trouble;
mod topic_volumes;
mod user_keys;
mod validation_broker;
mod validation_handler;
mod validation_topic;

//! How the sidecar finds out whether the handler's container is ready: the container's own probes, as Kubernetes
//! defines them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::contract::millis;

/// The probes that decide when events may be delivered; without any, a connection is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// Has to succeed once after the container's start, before the other one counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
    /// Has to succeed before anything is delivered; delivery pauses while it fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Probe>,
}

impl Probes {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.startup.is_none() && self.readiness.is_none()
    }
}

/// A probe of the handler's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// What is asked.
    pub check: Check,
    /// The wait before the first one.
    #[serde(with = "millis")]
    pub initial_delay: Duration,
    /// From one to the next.
    #[serde(with = "millis")]
    pub period: Duration,
    /// The limit of one.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// So many in a row have to succeed.
    pub success_threshold: u32,
    /// So many in a row have to fail before what was ready no longer is.
    pub failure_threshold: u32,
}

/// What a probe asks, always inside the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
pub enum Check {
    /// GET; a status from 200 to 399 is success. Redirects are not followed.
    Http {
        /// Over TLS, with any certificate.
        tls: bool,
        /// The port.
        port: u16,
        /// The path, with a query if there is one.
        path: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// A connection.
    Tcp {
        /// The port.
        port: u16,
    },
    /// The health service of gRPC: SERVING is success.
    Grpc {
        /// The port.
        port: u16,
        /// The service's name.
        service: String,
    },
}

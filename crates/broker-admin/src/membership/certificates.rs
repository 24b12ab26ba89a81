//! Certificates that running servers use. They read them again when they are told to, and no connection ends.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::json;
use tidegate_wire::nats::Client;
use time::OffsetDateTime;

use super::execute::reload;
use super::observe::{ObserveError, Servers};
use super::{Ordinal, Site};

/// When the certificates of a server end. One that is renewed ends later, to the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CertificateEnds {
    /// Of that for clients.
    pub clients: Option<OffsetDateTime>,
    /// Of that for routes.
    pub routes: Option<OffsetDateTime>,
}

impl CertificateEnds {
    /// The first of them.
    pub fn first(&self) -> Option<OffsetDateTime> {
        self.clients.into_iter().chain(self.routes).min()
    }
}

#[derive(Deserialize)]
struct Varz {
    #[serde(default, with = "time::serde::rfc3339::option")]
    tls_cert_not_after: Option<OffsetDateTime>,
    #[serde(default)]
    cluster: ClusterVarz,
}

#[derive(Default, Deserialize)]
struct ClusterVarz {
    #[serde(default, with = "time::serde::rfc3339::option")]
    tls_cert_not_after: Option<OffsetDateTime>,
}

/// The servers that answered, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Those that use the certificates.
    pub current: BTreeSet<String>,
    /// What the others used until they were told, if they were.
    pub behind: BTreeMap<String, CertificateEnds>,
}

/// Tells servers that use other certificates than these to read theirs again; with `before`, those alone of which one ends
/// before that. Of one that answers nothing, nothing is known.
///
/// It cannot be seen when a kubelet has brought a renewed certificate to a pod, and a server that reads the same one again
/// does nothing: so this is repeated until none is behind.
///
/// # Errors
/// The connection failed, no server answered, or an answer cannot be read. That a server reads nothing again because its
/// files are damaged is none: it keeps what it has, and is behind.
pub async fn reload_certificates(
    system: &Client,
    site: &Site,
    wanted: CertificateEnds,
    before: Option<OffsetDateTime>,
) -> Result<Reloaded, ObserveError> {
    let servers = Servers { system, site };
    let answers: BTreeMap<Ordinal, (String, Varz)> = servers.ask("VARZ", &json!({}), site.pods).await?;
    if answers.is_empty() {
        return Err(ObserveError::NoAnswer);
    }
    let mut reloaded = Reloaded::default();
    for (ordinal, (id, varz)) in answers {
        let used = CertificateEnds { clients: varz.tls_cert_not_after, routes: varz.cluster.tls_cert_not_after };
        let name = &site.names[ordinal];
        if used == wanted {
            reloaded.current.insert(name.clone());
            continue;
        }
        let is_due = before.is_none_or(|before| used.first().is_some_and(|end| end < before));
        if is_due && let Err(error) = reload(system, &id).await {
            tracing::warn!(server = name, %error, "the server did not read its certificates again");
        }
        reloaded.behind.insert(name.clone(), used);
    }
    Ok(reloaded)
}

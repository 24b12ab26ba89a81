//! Tells servers that their certificates were renewed: they take them without a restart.
//!
//! A kubelet brings a changed Secret to its pods within about a minute, and says so nowhere. So a server that uses
//! another certificate than its Secret has is told to read its files again, until it says that it uses the one.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use tidegate_broker_admin::issuers::certificate_end;
use tidegate_broker_admin::membership::{CertificateEnds, Reloaded, reload_certificates};
use tidegate_broker_client::identity::file;
use tidegate_crds::conditions::{Finding, Status, kind};
use time::OffsetDateTime;

use super::desired::Children;
use super::restart;
use crate::context::Context;
use crate::kubernetes::apply::Child;
use crate::reconcile::error::Error;
use crate::sessions::brokers::Place;

/// How far the servers are with the certificates of their Secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reload {
    /// Those that use others, and when these end.
    behind: BTreeMap<String, CertificateEnds>,
    /// Those that said that they use them.
    current: BTreeSet<String>,
    /// Those whose pods run and that did not answer; `None`: none was asked.
    silent: Option<Vec<String>>,
}

impl Reload {
    /// Whether this server said that it uses them.
    pub(super) fn is_current(&self, server: &str) -> bool {
        self.current.contains(server)
    }

    /// Whether every server that runs said what it uses.
    pub(super) fn is_known(&self) -> bool {
        self.silent.as_ref().is_some_and(Vec::is_empty)
    }

    /// Those that did not; empty where none was asked.
    pub(super) fn silent(&self) -> &[String] {
        self.silent.as_deref().unwrap_or_default()
    }

    /// Whether every server that answers uses them.
    pub(super) fn is_done(&self) -> bool {
        self.behind.is_empty()
    }

    /// The server that uses the certificate that ends first of those of before.
    pub(super) fn used(&self) -> Option<(&str, OffsetDateTime)> {
        let all = self.behind.iter().filter_map(|(server, used)| Some((server.as_str(), used.first()?)));
        all.min_by_key(|(_, end)| *end)
    }

    /// One server uses certificates that end then, and these did not answer.
    #[cfg(test)]
    pub(super) fn for_test(server: &str, end: OffsetDateTime, silent: &[&str]) -> Self {
        let ends = CertificateEnds { clients: Some(end), routes: None };
        let silent = silent.iter().map(|&name| name.to_owned()).collect();
        Self { behind: BTreeMap::from([(server.to_owned(), ends)]), silent: Some(silent), ..Self::default() }
    }

    /// Says in the conditions what is waited for, unless they say something else of the kind. The broker is as ready as
    /// it is meanwhile.
    pub(super) fn explain(&self, found: &mut [Finding]) {
        let Some(reconciling) = found.iter_mut().find(|finding| finding.kind == kind::RECONCILING) else { return };
        if self.is_done() || reconciling.is_true() {
            return;
        }
        let message = format!(
            "the certificates were renewed, and the servers use those of before until the kubelet has brought the new \
             ones to their pods, about a minute later: waiting for {}",
            self.behind.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        );
        *reconciling = Finding::new(kind::RECONCILING, Status::True, "ReloadingCertificates", message);
    }
}

/// When the certificates end that these children have.
pub(super) fn ends(children: &Children) -> CertificateEnds {
    CertificateEnds { clients: end(&children.broker_secret), routes: end(&children.routes_secret) }
}

fn end(secret: &Child) -> Option<OffsetDateTime> {
    certificate_end(secret.secret()?.get(file::CERTIFICATE)?)
}

/// Asks the servers which certificates they use, and tells those to read theirs again that use some with another end; with
/// `before`, those alone of which one ends before that. A server that does not run reads its files when it starts.
///
/// # Errors
/// None of those that run can be asked.
pub(super) async fn proceed(
    context: &Context,
    place: &Place,
    pods: &[Pod],
    wanted: CertificateEnds,
    before: Option<OffsetDateTime>,
) -> Result<Reload, Error> {
    if !pods.iter().any(restart::is_running) {
        return Ok(Reload::default());
    }
    let servers = context.brokers.servers(place).await?;
    let site = restart::site(place);
    let reloaded = reload_certificates(servers.system_client(), &site, wanted, before).await;
    let Reloaded { behind, current } = reloaded.map_err(|error| Error::Broker(error.to_string()))?;
    let running: BTreeSet<String> = pods.iter().filter(|pod| restart::is_running(pod)).map(Pod::name_any).collect();
    let is_silent = |name: &&String| running.contains(*name) && !behind.contains_key(*name) && !current.contains(*name);
    let silent = site.names.iter().take(site.pods).filter(is_silent).cloned().collect();
    Ok(Reload { behind, current, silent: Some(silent) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::status::summary;

    #[test]
    fn it_is_said_who_is_waited_for_unless_more_is_under_way() {
        let ready = Finding::new(kind::BROKER_AVAILABLE, Status::True, "AllReady", "3 of 3");
        let names = ["b-broker-0", "b-broker-2"];
        let reload = Reload {
            behind: names.map(|name| (name.to_owned(), CertificateEnds::default())).into(),
            ..Reload::default()
        };
        let said = |reload: &Reload, found: &mut Vec<Finding>| {
            reload.explain(found);
            found.iter().find(|finding| finding.kind == kind::RECONCILING).unwrap().clone()
        };
        let mut found = summary(vec![ready], "ready");
        assert!(!said(&Reload::default(), &mut found).is_true());
        let waits = said(&reload, &mut found);
        assert!(waits.is_true() && waits.message.ends_with("waiting for b-broker-0, b-broker-2"), "{}", waits.message);
        let restarting = Finding::new(kind::RECONCILING, Status::True, "RestartingPods", "x");
        assert_eq!(said(&reload, &mut vec![restarting]).reason, "RestartingPods");
    }
}

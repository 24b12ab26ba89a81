//! When the certificates of a broker end: in its status, as a metric, and as a condition where one is near its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use tidegate_broker_admin::Authority;
use tidegate_broker_admin::issuers::certificate_end;
use tidegate_broker_client::identity::file;
use tidegate_crds::broker::CertificatesStatus;
use tidegate_crds::conditions::{Finding, Status, kind};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::desired::Children;
use super::reload::Reload;
use crate::identity::authority;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::sessions::brokers::BrokerKey;

/// The reason of a certificate, or of an authority, that has ended.
pub const EXPIRED: &str = "Expired";

/// What is so near its end should have been renewed long ago.
pub(super) const NEAR: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A certificate, in words, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    what: String,
    at: OffsetDateTime,
}

/// When the certificates of a broker end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expiry {
    /// Those that the operator renews, and that of servers that do not use theirs yet: the first to end.
    leaf: Option<End>,
    /// The authorities that signed them.
    authority: Option<End>,
}

impl Expiry {
    /// Of these children, which are applied, as far as the servers use them. `before`: what the status says, which holds
    /// for servers that could not be asked now.
    pub(super) fn of(
        leaves: &Leaves,
        authority: &Authority,
        broker: &BrokerKey,
        reload: &Reload,
        before: Option<&CertificatesStatus>,
    ) -> Self {
        let used = reload.used().map(|(server, at)| End { what: format!("the certificate that {server} uses"), at });
        // One that is cut off may use what it used when it was asked last.
        let unknown = before.filter(|_| !reload.is_known()).and_then(|before| {
            let at = OffsetDateTime::parse(before.expire.as_ref()?, &Rfc3339).ok()?;
            let who = match reload.silent() {
                [] => "a server".to_owned(),
                silent => format!("{} (no answer now)", silent.join(", ")),
            };
            Some(End { what: format!("a certificate that {who} used when it was asked last"), at })
        });
        let keys = names::authority(&broker.name, &broker.namespace);
        let of_authority =
            |what: &str, pem: &str| Some(End { what: format!("{what} in Secret {keys}"), at: certificate_end(pem)? });
        let authorities = [
            of_authority("the authority of servers", &authority.issuers.servers.certificate),
            of_authority("the authority of clients", &authority.issuers.clients.certificate),
            of_authority("the authority of routes", &authority.issuers.routes.certificate),
        ];
        let first = |all: Vec<End>| all.into_iter().min_by_key(|end| end.at);
        Self {
            leaf: first(leaves.0.iter().cloned().chain(used).chain(unknown).collect()),
            authority: first(authorities.into_iter().flatten().collect()),
        }
    }

    /// What the status says of it.
    pub(super) fn status(&self) -> CertificatesStatus {
        let shown = |end: &Option<End>| end.as_ref().map(|end| authority::shown(end.at));
        CertificatesStatus { expire: shown(&self.leaf), authorities_expire: shown(&self.authority), rollover: None }
    }

    /// What the conditions say of it.
    pub(super) fn finding(&self, now: OffsetDateTime) -> Finding {
        let near = |end: &&End| end.at - now < NEAR;
        if let Some(end) = self.leaf.as_ref().filter(|end| end.at <= now) {
            let message = format!(
                "{} ended at {}: nothing that checks it connects any more. Does the operator run, and may it write Secrets here? It renews certificates by itself (see Reconciling); where the servers keep the old one, restart the pods of the broker",
                end.what,
                authority::shown(end.at)
            );
            return Finding::new(kind::CERTIFICATES_CURRENT, Status::False, EXPIRED, message);
        }
        if let Some(end) = self.authority.as_ref().filter(|end| end.at <= now) {
            let message = format!(
                "{} ended at {}: no certificate that it signed is taken any more. Condition RollingOver says what the rollover that replaces it waits for",
                end.what,
                authority::shown(end.at)
            );
            return Finding::new(kind::CERTIFICATES_CURRENT, Status::False, EXPIRED, message);
        }
        if let Some(end) = self.leaf.as_ref().filter(near) {
            let message = format!(
                "{} ends at {} and was not renewed, or is not used yet: see Reconciling, and whether the operator may write Secrets here",
                end.what,
                authority::shown(end.at)
            );
            return Finding::new(kind::CERTIFICATES_CURRENT, Status::False, "NearEnd", message);
        }
        if let Some(end) = self.authority.as_ref().filter(near) {
            let message = format!(
                "{} ends at {}, and the rollover that replaces it is not over: see condition RollingOver for what it waits for",
                end.what,
                authority::shown(end.at)
            );
            return Finding::new(kind::CERTIFICATES_CURRENT, Status::False, "AuthorityNearEnd", message);
        }
        Finding::new(
            kind::CERTIFICATES_CURRENT,
            Status::True,
            "FarFromEnd",
            "certificates are renewed 30 days before they end",
        )
    }

    fn first(&self) -> Option<OffsetDateTime> {
        self.leaf.iter().chain(&self.authority).map(|end| end.at).min()
    }
}

/// The certificates that the operator makes for a broker.
pub(super) struct Leaves(Vec<End>);

impl Leaves {
    /// Those of these children.
    pub(super) fn of(children: &Children) -> Self {
        let secrets = [&children.broker_secret, &children.routes_secret, &children.ingress_secret];
        let end = |secret: &&Child| -> Option<End> {
            let files = secret.secret()?;
            let all = [file::CERTIFICATE, file::CLIENT_CERTIFICATE].into_iter().filter_map(|name| files.get(name));
            let at = all.filter_map(|pem| certificate_end(pem)).min()?;
            Some(End { what: format!("the certificate in Secret {}", secret.name), at })
        };
        Self(secrets.iter().filter_map(end).collect())
    }
}

/// When the first certificate of each broker ends.
#[derive(Default)]
pub struct Expiries(Mutex<HashMap<BrokerKey, OffsetDateTime>>);

impl Expiries {
    /// Takes down what is known of a broker.
    pub(super) fn note(&self, broker: BrokerKey, expiry: &Expiry) {
        match expiry.first() {
            Some(end) => self.lock().insert(broker, end),
            None => self.lock().remove(&broker),
        };
    }

    /// Forgets a broker that is gone.
    pub(super) fn forget(&self, broker: &BrokerKey) {
        self.lock().remove(broker);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BrokerKey, OffsetDateTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exports them as `tidegate.broker.certificates.expire`: one series for each broker.
pub fn export(expiries: &Arc<Expiries>) {
    let expiries = Arc::clone(expiries);
    opentelemetry::global::meter("tidegate-operator")
        .i64_observable_gauge("tidegate.broker.certificates.expire")
        .with_unit("s")
        .with_description(
            "Time at which the first certificate or certificate authority of a broker ends, in seconds since 1970",
        )
        .with_callback(move |gauge| {
            for (broker, end) in expiries.lock().iter() {
                let labels = [
                    KeyValue::new("k8s.namespace.name", broker.namespace.clone()),
                    KeyValue::new("tidegate.broker", broker.name.clone()),
                ];
                gauge.observe(end.unix_timestamp(), &labels);
            }
        })
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap() + time::Duration::days(days)
    }

    fn end(what: &str, days: i64) -> Option<End> {
        Some(End { what: what.into(), at: at(days) })
    }

    #[test]
    fn what_is_near_its_end_is_named_with_what_can_be_done() {
        for (leaf, authority, reason, says) in [
            (60, 3000, "FarFromEnd", "renewed 30 days before"),
            (15, 15, "FarFromEnd", "renewed 30 days before"),
            (13, 3000, "NearEnd", "the leaf ends at 2027-01-28T08:00:00Z"),
            (13, 13, "NearEnd", "the leaf"),
            (0, 3000, "Expired", "the leaf ended at 2027-01-15T08:00:00Z"),
            (-1, 3000, "Expired", "may it write Secrets here?"),
            (13, -1, "Expired", "the authority ended at 2027-01-14T08:00:00Z"),
            (60, 13, "AuthorityNearEnd", "see condition RollingOver"),
        ] {
            let expiry = Expiry { leaf: end("the leaf", leaf), authority: end("the authority", authority) };
            let found = expiry.finding(at(0));
            assert_eq!(
                (found.reason.as_str(), found.is_true()),
                (reason, reason == "FarFromEnd"),
                "{leaf} {authority}"
            );
            assert!(found.message.contains(says), "{}", found.message);
            assert_eq!(expiry.first(), Some(at(leaf.min(authority))));
        }
    }

    #[test]
    fn a_server_that_uses_an_old_certificate_counts() {
        let authority = Authority::generate("orders", at(0)).unwrap();
        let broker = BrokerKey { namespace: "shop".into(), name: "default".into() };
        let leaves = Leaves(end("the certificate in Secret default-broker", 60).into_iter().collect());
        let of = |reload: &Reload, before: Option<&CertificatesStatus>| {
            Expiry::of(&leaves, &authority, &broker, reload, before)
        };
        let fine = of(&Reload::default(), None);
        assert_eq!(fine.status().expire, Some(authority::shown(at(60))));
        assert!(fine.status().authorities_expire.unwrap() > fine.status().expire.unwrap());
        let behind = of(&Reload::for_test("default-broker-0", at(5), &[]), None);
        let found = behind.finding(at(0));
        assert!(found.message.contains("default-broker-0 uses"), "{}", found.message);
        // Nobody asks while pods are restarted: what was known last still holds, and is known to the next one.
        let not_asked = of(&Reload::default(), Some(&behind.status()));
        assert_eq!(not_asked.status(), behind.status());
        let found = not_asked.finding(at(0));
        assert!(!found.is_true() && found.message.contains("when it was asked last"), "{}", found.message);
        let asked = of(&Reload::for_test("default-broker-0", at(60), &[]), Some(&behind.status()));
        assert!(asked.finding(at(0)).is_true(), "another one is used now");
        // That one server answers says nothing of another.
        let cut_off = of(&Reload::for_test("default-broker-0", at(60), &["default-broker-2"]), Some(&behind.status()));
        assert_eq!(cut_off.status(), behind.status());
        let found = cut_off.finding(at(0));
        assert!(!found.is_true() && found.message.contains("default-broker-2 (no answer now)"), "{}", found.message);
        let sooner = of(&Reload::for_test("default-broker-0", at(3), &["default-broker-2"]), Some(&behind.status()));
        assert!(sooner.finding(at(0)).message.contains("default-broker-0 uses"), "the first to end counts");
    }
}

//! A broker's root of trust in its Secret.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use serde::{Deserialize, Serialize};
use tidegate_broker_admin::rollover::{Rollover, Stage};
use tidegate_broker_admin::{Anchors, Authority, CertificateAuthority, Issuers};
use time::OffsetDateTime;

use crate::context::Context;
use crate::identity::authority::{Data, data};
use crate::kubernetes::names;
use crate::reconcile::error::Error;
use crate::sessions::brokers::BrokerKey;

const ROOT: &str = "root.key";
/// The certificate of the authority that signs those of servers.
pub const SERVERS_CA: &str = "servers-ca.crt";
/// Before `.crt` and `.key`. That of clients has the name that the one for both had in an earlier version.
const SERVERS: &str = "servers-ca";
const CLIENTS: &str = "ca";
const ROUTES: &str = "routes-ca";
/// Before the names of the authorities that are to sign, and of those that did.
const NEXT: &str = "next-";
const FORMER: &str = "former-";
const ROLLOVER: &str = "rollover.json";

/// How far the replacement of the authorities is, as it is kept.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    generation: u64,
    stage: StageName,
    /// Seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
enum StageName {
    #[default]
    Settled,
    Trusting,
    Signing,
    Dropping,
}

/// The Secret's content for an authority.
pub fn to_data(authority: &Authority) -> Data {
    let mut data = Data::from([(ROOT.into(), STANDARD.encode(authority.root))]);
    add_issuers(&mut data, "", &authority.issuers);
    let Rollover { generation, stage, told, request } = &authority.rollover;
    let stage = match stage {
        Stage::Settled => StageName::Settled,
        Stage::Trusting { next } => {
            add_issuers(&mut data, NEXT, next);
            StageName::Trusting
        }
        Stage::Signing { former } => {
            let Anchors { servers, clients, routes } = former;
            for (name, certificates) in [(SERVERS, servers), (CLIENTS, clients), (ROUTES, routes)] {
                data.insert(format!("{FORMER}{name}.crt"), certificates.clone());
            }
            StageName::Signing
        }
        Stage::Dropping => StageName::Dropping,
    };
    let told = told.map(OffsetDateTime::unix_timestamp);
    let record = Record { generation: *generation, stage, told, request: request.clone() };
    data.insert(ROLLOVER.into(), serde_json::to_string(&record).unwrap_or_default());
    data
}

fn add_issuers(data: &mut Data, before: &str, issuers: &Issuers) {
    let Issuers { servers, clients, routes } = issuers;
    for (name, CertificateAuthority { certificate, key }) in [(SERVERS, servers), (CLIENTS, clients), (ROUTES, routes)]
    {
        data.insert(format!("{before}{name}.crt"), certificate.clone());
        data.insert(format!("{before}{name}.key"), key.clone());
    }
}

/// The authority that a Secret holds.
///
/// # Errors
/// A key is missing or damaged: a new authority would lock every program out of the stored events, so none is made.
pub fn from_secret(secret: &Secret) -> Result<Authority, Error> {
    let mut data = data(secret);
    // An earlier version had one authority for servers and clients, and no rollover.
    let is_earlier = !data.contains_key(SERVERS_CA) && !data.contains_key(ROLLOVER);
    if is_earlier {
        for end in ["crt", "key"] {
            if let Some(shared) = data.get(&format!("{CLIENTS}.{end}")).cloned() {
                data.insert(format!("{SERVERS}.{end}"), shared);
            }
        }
    }
    let part = |key: &str| data.get(key).cloned().ok_or_else(|| damaged(secret, key));
    let root = STANDARD
        .decode(part(ROOT)?)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| damaged(secret, ROOT))?;
    let record: Record = match is_earlier {
        true => Record::default(),
        false => serde_json::from_str(&part(ROLLOVER)?).map_err(|_| damaged(secret, ROLLOVER))?,
    };
    let issuers = |before: &str| -> Result<Issuers, Error> {
        let one = |name: &str| -> Result<CertificateAuthority, Error> {
            let part = |end: &str| part(&format!("{before}{name}.{end}"));
            Ok(CertificateAuthority { certificate: part("crt")?, key: part("key")? })
        };
        Ok(Issuers { servers: one(SERVERS)?, clients: one(CLIENTS)?, routes: one(ROUTES)? })
    };
    let former = |name: &str| part(&format!("{FORMER}{name}.crt"));
    let stage = match record.stage {
        StageName::Settled => Stage::Settled,
        StageName::Trusting => Stage::Trusting { next: issuers(NEXT)? },
        StageName::Signing => {
            let former = Anchors { servers: former(SERVERS)?, clients: former(CLIENTS)?, routes: former(ROUTES)? };
            Stage::Signing { former }
        }
        StageName::Dropping => Stage::Dropping,
    };
    let told = record.told.and_then(|told| OffsetDateTime::from_unix_timestamp(told).ok());
    let rollover = Rollover { generation: record.generation, stage, told, request: record.request };
    Ok(Authority { root, issuers: issuers("")?, rollover })
}

/// The roots of trust that were read, each with the version of its Secret: there are a few brokers, and every reconcile
/// of a topic or handler needs that of its own.
#[derive(Default)]
pub struct Authorities(Mutex<HashMap<BrokerKey, (Version, Authority)>>);

/// UID and resource version.
type Version = (Option<String>, Option<String>);

fn version(meta: &ObjectMeta) -> Version {
    (meta.uid.clone(), meta.resource_version.clone())
}

impl Authorities {
    fn known(&self, broker: &BrokerKey, version: &Version) -> Option<Authority> {
        let known = self.lock();
        known.get(broker).filter(|(known, _)| known == version).map(|(_, authority)| authority.clone())
    }

    /// It was written: the next who asks reads it.
    pub(crate) fn forget(&self, broker: &BrokerKey) {
        self.lock().remove(broker);
    }

    /// Forgets those of other brokers than these.
    pub(crate) fn keep(&self, is_alive: impl Fn(&BrokerKey) -> bool) {
        self.lock().retain(|broker, _| is_alive(broker));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BrokerKey, (Version, Authority)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The root of trust of a broker; `None`: it has none (yet). It is in the operator's namespace, where no tenant can mount
/// it. It is read if its Secret is not seen to be as it was read last.
///
/// # Errors
/// The API server is away, or the Secret is damaged.
pub async fn of_broker(context: &Context, broker: &BrokerKey) -> Result<Option<Authority>, Error> {
    let seen = context.stores.keys_of(&context.args.pod_namespace, broker);
    let known = seen.and_then(|seen| context.authorities.known(broker, &version(&seen.metadata)));
    match known {
        Some(authority) => Ok(Some(authority)),
        None => Ok(read(context, broker).await?.map(|(authority, _)| authority)),
    }
}

/// The same, read in any case, with the version of its Secret.
///
/// # Errors
/// As for [`of_broker`].
pub async fn read(context: &Context, broker: &BrokerKey) -> Result<Option<(Authority, String)>, Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.pod_namespace);
    let Some(secret) = secrets.get_opt(&names::authority(&broker.name, &broker.namespace)).await? else {
        context.authorities.lock().remove(broker);
        return Ok(None);
    };
    let authority = from_secret(&secret)?;
    context.authorities.lock().insert(broker.clone(), (version(&secret.metadata), authority.clone()));
    Ok(Some((authority, secret.metadata.resource_version.unwrap_or_default())))
}

fn damaged(secret: &Secret, key: &str) -> Error {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    Error::refused(
        "AuthorityDamaged",
        format!(
            "Secret {name} has no usable {key}: restore it from a backup, or delete it and the broker's volumes to begin without their events"
        ),
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use tidegate_broker_admin::rollover::Cause;

    use super::*;

    fn secret(data: Data) -> Secret {
        let data = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    /// All stages of a rollover, one after the other.
    fn stages() -> Vec<Authority> {
        let settled = Authority::generate("t", now()).unwrap();
        let trusting = settled.begin("t", &Cause::Request("leak".into()), now()).unwrap();
        let signing = trusting.told(now()).sign();
        let dropping = signing.drop_former();
        vec![settled, trusting.clone(), trusting.told(now()), signing, dropping.clone(), dropping.settle()]
    }

    #[test]
    fn an_authority_survives_its_secret_in_every_stage() {
        for authority in stages() {
            let back = from_secret(&secret(to_data(&authority))).unwrap();
            assert_eq!(
                (back.root, &back.issuers, &back.rollover),
                (authority.root, &authority.issuers, &authority.rollover)
            );
        }
    }

    #[test]
    fn one_of_which_a_part_is_missing_is_damaged_and_not_replaced() {
        for authority in stages() {
            let whole = to_data(&authority);
            for key in whole.keys() {
                let mut data = whole.clone();
                data.remove(key);
                let error = from_secret(&secret(data)).err().unwrap();
                assert_eq!(error.reason(), "AuthorityDamaged", "{key} of {:?}", authority.rollover.stage);
            }
        }
        let mut data = to_data(&stages()[1]);
        data.insert(ROLLOVER.into(), "{".into());
        assert!(from_secret(&secret(data)).is_err());
        assert!(from_secret(&secret(Data::new())).is_err());
    }

    #[test]
    fn one_of_an_earlier_version_signs_servers_and_clients() {
        let mut data = to_data(&stages()[0]);
        data.retain(|key, _| !key.starts_with(SERVERS) && key != ROLLOVER);
        let earlier = from_secret(&secret(data)).unwrap();
        assert_eq!(earlier.issuers.servers, earlier.issuers.clients);
        assert!(!earlier.issuers.are_separate());
        assert_eq!(earlier.rollover, Rollover::default());
    }
}

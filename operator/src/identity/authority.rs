//! A broker's root of trust in its Secret, and identities in theirs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::authority::certificate_end;
use tidegate_broker_admin::jwt::payload;
use tidegate_broker_admin::{Authority, CertificateAuthority, LeafRequest};
use tidegate_broker_client::identity::file;
use time::OffsetDateTime;

use crate::context::Context;
use crate::kubernetes::names;
use crate::reconcile::error::Error;
use crate::sessions::brokers::BrokerKey;

const ROOT: &str = "root.key";
const CA_KEY: &str = "ca.key";
const ROUTES_CA: &str = "routes-ca.crt";
const ROUTES_CA_KEY: &str = "routes-ca.key";

/// The keys of a Secret.
pub type Data = BTreeMap<String, String>;

/// The Secret's content for an authority.
pub fn to_data(authority: &Authority) -> Data {
    BTreeMap::from([
        (ROOT.into(), STANDARD.encode(authority.root)),
        (file::CA.into(), authority.ca_certificate.clone()),
        (CA_KEY.into(), authority.ca_key.clone()),
        (ROUTES_CA.into(), authority.routes.certificate.clone()),
        (ROUTES_CA_KEY.into(), authority.routes.key.clone()),
    ])
}

/// The authority that a Secret holds.
///
/// # Errors
/// A key is missing or damaged: a new authority would lock every program out of the stored events, so none is made.
pub fn from_secret(secret: &Secret) -> Result<Authority, Error> {
    let data = data(secret);
    let part = |key: &str| data.get(key).cloned().ok_or_else(|| damaged(secret, key));
    let root = STANDARD
        .decode(part(ROOT)?)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| damaged(secret, ROOT))?;
    let routes = CertificateAuthority { certificate: part(ROUTES_CA)?, key: part(ROUTES_CA_KEY)? };
    Ok(Authority { root, ca_certificate: part(file::CA)?, ca_key: part(CA_KEY)?, routes })
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
        None => read(context, broker).await,
    }
}

/// The same, read in any case.
///
/// # Errors
/// As for [`of_broker`].
pub async fn read(context: &Context, broker: &BrokerKey) -> Result<Option<Authority>, Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.args.pod_namespace);
    let Some(secret) = secrets.get_opt(&names::authority(&broker.name, &broker.namespace)).await? else {
        context.authorities.lock().remove(broker);
        return Ok(None);
    };
    let authority = from_secret(&secret)?;
    context.authorities.lock().insert(broker.clone(), (version(&secret.metadata), authority.clone()));
    Ok(Some(authority))
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

/// A Secret's text values.
pub fn data(secret: &Secret) -> Data {
    let text = |(key, value): (&String, &ByteString)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?));
    secret.data.iter().flatten().filter_map(text).collect()
}

/// When the certificate or the user of an identity ends, whichever is first.
pub fn identity_end(files: &Data) -> Option<OffsetDateTime> {
    let certificate = files.get(file::CERTIFICATE).and_then(|pem| certificate_end(pem));
    let user = files.get(file::USER_JWT).and_then(|jwt| payload(jwt)?["exp"].as_i64());
    let user = user.and_then(|end| OffsetDateTime::from_unix_timestamp(end).ok());
    certificate.into_iter().chain(user).min()
}

/// A time as a resource has it.
pub fn shown(time: OffsetDateTime) -> String {
    jiff::Timestamp::from_second(time.unix_timestamp()).map_or_else(|_| String::new(), |time| time.to_string())
}

/// An identity's files: what is there as long as it is good, else new ones.
///
/// `leaf` is the certificate as it should be, `user` the broker user.
///
/// # Errors
/// The authority is damaged.
pub fn identity(
    authority: &Authority,
    present: Option<&Secret>,
    leaf: &LeafRequest,
    user: Option<&User>,
    now: OffsetDateTime,
) -> Result<Data, Error> {
    let mut files = certified(&authority.clients(), &authority.ca_certificate, present, leaf, now)?;
    if let Some(user) = user {
        add_user(&mut files, authority, user, [file::USER_JWT, file::USER_SEED], now);
    }
    Ok(files)
}

/// Adds a user under these names of its JWT and its seed: what is there as long as it is good.
pub fn add_user(files: &mut Data, authority: &Authority, user: &User, [jwt, seed]: [&str; 2], now: OffsetDateTime) {
    if !files.get(jwt).is_some_and(|found| authority.is_current(user, found, now)) {
        files.insert(jwt.into(), user.jwt.clone());
    }
    files.insert(seed.into(), user.seed.clone());
}

/// The files of a leaf of this authority, and of what it is verified with on the other side: what is there as long as
/// it is as requested, else a new leaf. Other files are left as they are.
///
/// # Errors
/// The authority is damaged.
pub fn certified(
    authority: &CertificateAuthority,
    trusted: &str,
    present: Option<&Secret>,
    leaf: &LeafRequest,
    now: OffsetDateTime,
) -> Result<Data, Error> {
    let mut files = present.map(data).unwrap_or_default();
    let is_good = files.get(file::CERTIFICATE).is_some_and(|pem| authority.has_made(pem, leaf, now)) && is_pair(&files);
    if !is_good {
        let leaf = authority.leaf(leaf, now)?;
        files.insert(file::CERTIFICATE.into(), leaf.certificate);
        files.insert(file::KEY.into(), leaf.key);
    }
    files.insert(file::CA.into(), trusted.to_owned());
    Ok(files)
}

/// Whether one can serve with certificate and key: both are readable, and they belong together.
pub(crate) fn is_pair(files: &Data) -> bool {
    let (Some(certificate), Some(key)) = (files.get(file::CERTIFICATE), files.get(file::KEY)) else { return false };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(key.as_bytes())) else { return false };
    CertifiedKey::from_der(chain, key, &ring::default_provider()).is_ok()
}

#[cfg(test)]
mod tests {
    use tidegate_broker_admin::{Usage, UserKey};
    use tidegate_broker_client::TopicId;
    use time::Duration;

    use super::*;

    fn secret(data: Data) -> Secret {
        let data = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn leaf() -> LeafRequest {
        LeafRequest { name: "h".into(), hosts: Vec::new(), usage: Usage::Client }
    }

    #[test]
    fn an_authority_survives_its_secret() {
        let authority = Authority::generate("t", OffsetDateTime::now_utc()).unwrap();
        let back = from_secret(&secret(to_data(&authority))).unwrap();
        assert_eq!((back.root, &back.ca_key, &back.routes), (authority.root, &authority.ca_key, &authority.routes));
        let mut data = to_data(&authority);
        data.remove(ROUTES_CA_KEY);
        assert_eq!(from_secret(&secret(data)).err().unwrap().reason(), "AuthorityDamaged", "half of it");
    }

    #[test]
    fn a_damaged_authority_is_not_replaced() {
        let error = from_secret(&secret(Data::new())).err().unwrap();
        assert_eq!(error.reason(), "AuthorityDamaged");
    }

    #[test]
    fn an_identity_is_kept_until_it_must_be_renewed() {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::generate("t", now).unwrap();
        let topic = TopicId::new("n", "t").unwrap();
        let key = UserKey::first(None, None, now).unwrap();
        let user = |at| authority.publisher_user(&topic, "p", &key, at).unwrap();
        let make = |present: Option<&Secret>, at| identity(&authority, present, &leaf(), Some(&user(at)), at).unwrap();
        let first = make(None, now);
        let kept = make(Some(&secret(first.clone())), now + Duration::days(30));
        assert_eq!(kept, first);
        let renewed = make(Some(&secret(first.clone())), now + Duration::days(61));
        assert_ne!(renewed[file::CERTIFICATE], first[file::CERTIFICATE]);
        assert_ne!(renewed[file::USER_JWT], first[file::USER_JWT]);
    }

    #[test]
    fn a_key_that_is_damaged_or_of_another_certificate_is_replaced_with_its_certificate() {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::generate("t", now).unwrap();
        let make = |present: Option<&Secret>| identity(&authority, present, &leaf(), None, now).unwrap();
        let (first, other) = (make(None), make(None));
        for key in ["-", &other[file::KEY]] {
            let mut damaged = first.clone();
            damaged.insert(file::KEY.into(), key.into());
            let mended = make(Some(&secret(damaged)));
            assert_ne!(mended[file::CERTIFICATE], first[file::CERTIFICATE]);
            assert_eq!(make(Some(&secret(mended.clone()))), mended);
        }
    }

    /// Leaves of version 0.1 were good for everything.
    #[test]
    fn a_leaf_for_more_than_it_needs_is_replaced() {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::generate("t", now).unwrap();
        let wide = LeafRequest { hosts: vec!["orders-broker".into()], usage: Usage::Both, ..leaf() };
        let old = identity(&authority, None, &wide, None, now).unwrap();
        let new = identity(&authority, Some(&secret(old.clone())), &leaf(), None, now).unwrap();
        assert_ne!(new[file::CERTIFICATE], old[file::CERTIFICATE]);
        assert_eq!(identity(&authority, Some(&secret(new.clone())), &leaf(), None, now).unwrap(), new);
    }
}

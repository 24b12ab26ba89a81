//! Identities in their Secrets: a certificate, what the other side is verified by, and a user of the broker.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tidegate_broker_admin::accounts::User;
use tidegate_broker_admin::issuers::{LEAF_LIFETIME, certificate_end};
use tidegate_broker_admin::jwt::payload;
use tidegate_broker_admin::{Authority, LeafRequest, Usage};
use tidegate_broker_client::identity::file;
use time::OffsetDateTime;

use crate::reconcile::error::Error;

/// The keys of a Secret.
pub type Data = BTreeMap<String, String>;

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

/// An identity's files: what is there as long as it is good, else new ones. Other files are left as they are.
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
    let mut files = present.map(data).unwrap_or_default();
    add_leaf(&mut files, authority, leaf, [file::CERTIFICATE, file::KEY], now)?;
    add_trust(&mut files, authority, leaf.usage);
    if let Some(user) = user {
        add_user(&mut files, authority, user, [file::USER_JWT, file::USER_SEED], now);
    }
    Ok(files)
}

/// The files of a server that cannot say what it trusts, but only until when its certificate is good: so that changes with
/// everything else, and is seen to have changed.
///
/// # Errors
/// The authority is damaged.
pub fn server_identity(
    authority: &Authority,
    present: Option<&Secret>,
    leaf: &LeafRequest,
    now: OffsetDateTime,
) -> Result<Data, Error> {
    let files = present.map(data).unwrap_or_default();
    let generation = files.get(file::GENERATION).and_then(|generation| generation.parse().ok()).unwrap_or(0);
    if generation == authority.rollover.generation {
        return identity(authority, present, leaf, None, now);
    }
    let end = files.get(file::CERTIFICATE).and_then(|pem| certificate_end(pem));
    let after = end.map(|end| end - LEAF_LIFETIME + Duration::from_secs(1));
    identity(authority, None, leaf, None, after.map_or(now, |after| after.max(now)))
}

/// Adds a leaf under these names of its certificate and its key: what is there as long as it is as requested.
///
/// # Errors
/// The authority is damaged.
pub fn add_leaf(
    files: &mut Data,
    authority: &Authority,
    leaf: &LeafRequest,
    [certificate, key]: [&str; 2],
    now: OffsetDateTime,
) -> Result<(), Error> {
    let issuer = authority.issuers.of(leaf.usage);
    let is_good = |pem: &String| issuer.has_made(pem, leaf, now) && is_pair_of(files, [certificate, key]);
    if !files.get(certificate).is_some_and(is_good) {
        let leaf = authority.leaf(leaf, now)?;
        files.insert(certificate.into(), leaf.certificate);
        files.insert(key.into(), leaf.key);
    }
    Ok(())
}

/// Adds what the holder of a leaf for this use verifies the other side by.
pub fn add_trust(files: &mut Data, authority: &Authority, usage: Usage) {
    files.insert(file::CA.into(), authority.trusted_by(usage));
    files.insert(file::GENERATION.into(), authority.rollover.generation.to_string());
}

/// Adds a user under these names of its JWT and its seed: what is there as long as it is good.
pub fn add_user(files: &mut Data, authority: &Authority, user: &User, [jwt, seed]: [&str; 2], now: OffsetDateTime) {
    if !files.get(jwt).is_some_and(|found| authority.is_current(user, found, now)) {
        files.insert(jwt.into(), user.jwt.clone());
    }
    files.insert(seed.into(), user.seed.clone());
}

/// Whether one can serve with certificate and key: both are readable, and they belong together.
pub(crate) fn is_pair(files: &Data) -> bool {
    is_pair_of(files, [file::CERTIFICATE, file::KEY])
}

fn is_pair_of(files: &Data, [certificate, key]: [&str; 2]) -> bool {
    let (Some(certificate), Some(key)) = (files.get(certificate), files.get(key)) else { return false };
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(key.as_bytes())) else { return false };
    CertifiedKey::from_der(chain, key, &ring::default_provider()).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidegate_broker_admin::UserKey;
    use tidegate_broker_admin::rollover::Cause;
    use tidegate_broker_client::TopicId;
    use time::Duration;

    use super::*;

    fn secret(data: Data) -> Secret {
        let data = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn leaf() -> LeafRequest {
        LeafRequest::client("h")
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

    #[test]
    fn a_leaf_for_more_than_it_needs_is_replaced() {
        let now = OffsetDateTime::now_utc();
        let authority = Authority::generate("t", now).unwrap();
        let wide = LeafRequest { hosts: vec!["orders-broker".into()], ..leaf() };
        let old = identity(&authority, None, &wide, None, now).unwrap();
        let new = identity(&authority, Some(&secret(old.clone())), &leaf(), None, now).unwrap();
        assert_ne!(new[file::CERTIFICATE], old[file::CERTIFICATE]);
        assert_eq!(identity(&authority, Some(&secret(new.clone())), &leaf(), None, now).unwrap(), new);
    }

    /// What it trusts is seen by its certificate alone, and of that only until when it is good, in seconds.
    #[test]
    fn a_server_has_a_certificate_with_another_end_whenever_others_are_trusted() {
        let now = OffsetDateTime::now_utc();
        let leaf = LeafRequest { name: "b".into(), hosts: vec!["b".into()], usage: Usage::Server };
        let mut authority = Authority::generate("t", now).unwrap();
        let make = |authority: &Authority, present: &Data| {
            server_identity(authority, Some(&secret(present.clone())), &leaf, now).unwrap()
        };
        let mut files = make(&authority, &Data::new());
        let mut of_earlier_version = files.clone();
        of_earlier_version.remove(file::GENERATION);
        assert_eq!(make(&authority, &of_earlier_version), files);
        let mut ends = BTreeSet::from([certificate_end(&files[file::CERTIFICATE]).unwrap()]);
        authority = authority.begin("t", &Cause::End, now).unwrap();
        for next in [authority.clone(), authority.sign(), authority.sign().drop_former()] {
            let newer = make(&next, &files);
            assert_eq!(make(&next, &newer), newer, "once");
            assert_ne!(newer[file::CA], files[file::CA]);
            assert!(ends.insert(certificate_end(&newer[file::CERTIFICATE]).unwrap()), "another end");
            assert!(next.issuers.servers.has_made(&newer[file::CERTIFICATE], &leaf, now));
            files = newer;
        }
        let settled = authority.sign().drop_former().settle();
        assert_eq!(make(&settled, &files), files);
    }
}

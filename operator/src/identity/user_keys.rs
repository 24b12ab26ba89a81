//! Keys of users in their Secrets: which there is, and which there is to be.
//!
//! The Secret has the key and its record (annotations), written together: an operator that ends in between leaves the
//! former key or the next one, with all that is to be known of it. The status repeats the record, for when the Secret is
//! lost or is an old one again.
//!
//! Whoever may edit the Secret can write annotations too, but not the status. So a record counts if the status says the
//! same, or if it is proven: a digest in the Secret, which only the broker's root key makes, belongs to this key and this
//! record. A status is behind the Secret when an operator ended between the two writes, and absent after a restore without
//! it: then the proof shows what the operator wrote, and a record without one is not believed.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tidegate_broker_admin::authority::AuthorityError;
use tidegate_broker_admin::{Authority, KeyRecord, UserKey, is_ahead};
use tidegate_broker_client::identity::file;
use tidegate_crds::key::KeyStatus;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::identity::authority::{self, shown};
use crate::kubernetes::names;
use crate::reconcile::error::Error;

/// On an EventHandler: another value than before asks for another key. On its Secret: the value that asked for this one. On an
/// EventBroker: another value than before asks for other certificate authorities.
pub const ROTATE_ANNOTATION: &str = "tidegate.io/rotate";
/// On an EventTopic, before the name of a publisher over NATS: the same for that publisher.
const ROTATE_PREFIX: &str = "rotate.tidegate.io/";
const GENERATION: &str = "tidegate.io/key-generation";
const ISSUED: &str = "tidegate.io/key-issued";
const REFUSED_BEFORE: &str = "tidegate.io/keys-refused-before";
/// Shows that the operator wrote this record with this key.
pub const PROOF: &str = "tidegate.io/key-record";
/// Characters of a request that count.
const MAX_REQUEST: usize = 253;

/// What asks for another key of a handler, or other authorities of a broker.
pub fn request_of(resource: &impl kube::Resource) -> Option<String> {
    request(resource, ROTATE_ANNOTATION)
}

/// What asks for another key of a publisher of a topic.
pub fn request_of_publisher(topic: &impl kube::Resource, publisher: &str) -> Option<String> {
    request(topic, &format!("{ROTATE_PREFIX}{publisher}"))
}

fn request(resource: &impl kube::Resource, annotation: &str) -> Option<String> {
    let value = resource.meta().annotations.as_ref()?.get(annotation)?;
    Some(value.chars().take(MAX_REQUEST).collect()).filter(|value: &String| !value.is_empty())
}

/// A Secret with a key, and the broker that the key is for.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Of the broker.
    pub authority: &'a Authority,
    /// Of the Secret.
    pub namespace: &'a str,
    /// The Secret's name.
    pub secret: &'a str,
}

impl Place<'_> {
    /// What only the operator can make of a key and its record. Empty for a key that is none.
    ///
    /// # Errors
    /// As [`Authority::derive`].
    pub fn proof(self, seed: &str, record: &KeyRecord) -> Result<String, AuthorityError> {
        let Self { authority, namespace, secret } = self;
        let key = UserKey { seed: seed.to_owned(), record: KeyRecord::default() };
        let Some(pair) = key.pair() else { return Ok(String::new()) };
        let all = json!([namespace, secret, pair.public_key(), record_annotations(record)]);
        let proof = authority.derive(&format!("key-record/{all}"))?;
        Ok(proof.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The key of a user as it is to be. `known`: what the status says of it.
///
/// # Errors
/// There is no randomness.
pub fn wanted(
    place: Place<'_>,
    present: Option<&Secret>,
    known: Option<&KeyStatus>,
    request: Option<&str>,
    handover: Duration,
    now: OffsetDateTime,
) -> Result<UserKey, Error> {
    let status = known.map(|known| believed(record(known), now));
    let refused_before = status.as_ref().and_then(|known| known.refused_before);
    let found = match present.and_then(|present| Some((present, stored(present)?))) {
        Some((secret, (key, user_jwt))) => {
            let is_proven = secret.annotations().get(PROOF) == Some(&place.proof(&key.seed, &key.record)?);
            let record = vouched(key.record, is_proven, status.as_ref(), now);
            record.map(|record| (UserKey { record, ..key }, user_jwt))
        }
        None => None,
    };
    // One of before that somebody put back is refused.
    let found = found.filter(|(key, _)| {
        refused_before.is_none_or(|refused| key.record.issued.is_some_and(|issued| issued >= refused))
    });
    let Some((mut key, user_jwt)) = found else {
        let mut before = status;
        if known.is_some_and(|known| has_time_ahead(&record(known), now)) {
            // Until now the account refused all keys, so there is none to hand over from.
            before = before.map(|before| KeyRecord { refused_before: now.replace_nanosecond(0).ok(), ..before });
        }
        return Ok(UserKey::first(before.as_ref(), request, now)?);
    };
    // What is refused stays so, whatever becomes of clocks and settings.
    key.record.refused_before = key.record.refused_before(handover, now).max(refused_before);
    Ok(key.for_request(request, &user_jwt, handover, now)?)
}

/// The record that counts for a key that is noted with this one (pure). `None`: the key counts as never noted.
fn vouched(noted: KeyRecord, is_proven: bool, status: Option<&KeyRecord>, now: OffsetDateTime) -> Option<KeyRecord> {
    if is_proven {
        let is_current = status.is_none_or(|status| noted.generation >= status.generation);
        return Some(noted).filter(|noted| is_current && !has_time_ahead(noted, now));
    }
    match status {
        // As the versions wrote it that gave no proof, or with a request or a time of refusal of somebody else.
        Some(status) => (is_same_key(&noted, status) && !has_time_ahead(&noted, now)).then(|| status.clone()),
        // Derived by an earlier version, and not noted yet.
        None => Some(noted).filter(|noted| *noted == KeyRecord { generation: 1, ..KeyRecord::default() }),
    }
}

fn is_same_key(noted: &KeyRecord, status: &KeyRecord) -> bool {
    noted.generation == status.generation && noted.issued == status.issued
}

/// A record without times of which one is ahead of the clock.
fn believed(record: KeyRecord, now: OffsetDateTime) -> KeyRecord {
    if has_time_ahead(&record, now) {
        return KeyRecord { issued: None, refused_before: None, ..record };
    }
    record
}

fn has_time_ahead(record: &KeyRecord, now: OffsetDateTime) -> bool {
    [record.issued, record.refused_before].into_iter().flatten().any(|time| is_ahead(time, now))
}

/// What is to be known of the key in a Secret with these annotations, if that key stays as it is: then there is no need to
/// read it. `None`: [`wanted`] has to decide. The annotations are not proven without the key, so all that counts is what the
/// status says.
pub fn kept(
    annotations: &BTreeMap<String, String>,
    known: Option<&KeyStatus>,
    request: Option<&str>,
    handover: Duration,
    now: OffsetDateTime,
) -> Option<KeyRecord> {
    let mut key = record(known?);
    let noted = noted(annotations);
    let is_same = is_same_key(&noted, &key) && noted.request == key.request;
    let is_refused = key.refused_before.is_some_and(|refused| key.issued.is_none_or(|issued| issued < refused));
    let is_asked_for = request.is_some_and(|request| key.request.as_deref() != Some(request));
    if !is_same || has_time_ahead(&key, now) || is_refused || is_asked_for {
        return None;
    }
    key.refused_before = key.refused_before(handover, now);
    Some(key)
}

/// The key of a Secret, and the user JWT that was signed for it.
fn stored(secret: &Secret) -> Option<(UserKey, String)> {
    let mut data = authority::data(secret);
    let seed = data.remove(file::USER_SEED)?.trim().to_owned();
    let key = UserKey { seed, record: noted(secret.annotations()) };
    key.pair()?;
    Some((key, data.remove(file::USER_JWT).unwrap_or_default()))
}

/// What the annotations of a Secret say of its key.
fn noted(annotations: &BTreeMap<String, String>) -> KeyRecord {
    let annotation = |name: &str| annotations.get(name).map(String::as_str);
    KeyRecord {
        generation: annotation(GENERATION).and_then(|number| number.parse().ok()).unwrap_or(1),
        issued: annotation(ISSUED).and_then(parse),
        refused_before: annotation(REFUSED_BEFORE).and_then(parse),
        request: annotation(ROTATE_ANNOTATION).filter(|request| !request.is_empty()).map(str::to_owned),
    }
}

/// What a Secret says of its key, and of the authorities that its certificates are of.
pub fn annotations(key: &KeyRecord, authority: &Authority) -> Value {
    let mut annotations = record_annotations(key);
    annotations[names::GENERATION_ANNOTATION] = Value::from(authority.rollover.generation.to_string());
    annotations
}

/// All of them, empty ones too: one that somebody added is the operator's again.
fn record_annotations(key: &KeyRecord) -> Value {
    let KeyRecord { generation, issued, refused_before, request } = key;
    let time = |time: &Option<OffsetDateTime>| time.map(shown).unwrap_or_default();
    json!({
        GENERATION: generation.to_string(),
        ISSUED: time(issued),
        REFUSED_BEFORE: time(refused_before),
        ROTATE_ANNOTATION: request.as_deref().unwrap_or_default(),
    })
}

/// What the status says of a key. `end`: of the credentials in its Secret ([`authority::identity_end`]).
pub fn status(key: &KeyRecord, end: Option<OffsetDateTime>, handover: Duration, now: OffsetDateTime) -> KeyStatus {
    let KeyRecord { generation, issued, request, .. } = key;
    KeyStatus {
        generation: i64::from(*generation),
        issued: issued.map(shown),
        request: request.clone(),
        handover_until: key.handover_end(handover, now).map(shown),
        refused_before: key.refused_before(handover, now).map(shown),
        credentials_expire: end.map(shown),
    }
}

fn record(status: &KeyStatus) -> KeyRecord {
    KeyRecord {
        generation: u32::try_from(status.generation).unwrap_or_default(),
        issued: status.issued.as_deref().and_then(parse),
        refused_before: status.refused_before.as_deref().and_then(parse),
        request: status.request.clone(),
    }
}

/// When to look again: when the key before is to be refused.
pub fn again(key: &KeyRecord, handover: Duration, now: OffsetDateTime) -> Option<Duration> {
    let left = key.handover_end(handover, now)? - now;
    Some(left.unsigned_abs())
}

/// What people hear of a key that replaces the one that the status knows.
pub fn news(key: &KeyRecord, known: Option<&KeyStatus>, handover: Duration, now: OffsetDateTime) -> Option<String> {
    let before = known?.generation;
    let generation = i64::from(key.generation);
    let until = key.handover_end(handover, now).filter(|_| before < generation)?;
    Some(format!(
        "key {generation} is in the Secret; credentials of earlier keys work until {}, and are refused from then on",
        shown(until)
    ))
}

/// A time that anybody may have written, in UTC.
pub fn parse(time: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)
}

#[cfg(test)]
#[path = "user_keys_tests.rs"]
mod tests;

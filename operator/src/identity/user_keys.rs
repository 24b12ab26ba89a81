//! Keys of users in their Secrets: which there is, and which there is to be.
//!
//! The Secret has the key and its record (annotations), written together: an operator that ends in between leaves the
//! former key or the next one, with all that is to be known of it. The status repeats the record, for when the Secret is
//! lost or is an old one again.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tidegate_broker_admin::{Authority, KeyRecord, UserKey};
use tidegate_broker_client::identity::file;
use tidegate_crds::key::KeyStatus;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// The key of a user as it is to be. `known`: what the status says of it.
///
/// # Errors
/// There is no randomness.
pub fn wanted(
    present: Option<&Secret>,
    known: Option<&KeyStatus>,
    request: Option<&str>,
    handover: Duration,
    now: OffsetDateTime,
) -> Result<UserKey, Error> {
    let known = known.map(record);
    let refused_before = known.as_ref().and_then(|known| known.refused_before);
    let found = present.and_then(stored).filter(|(key, _)| {
        // One of before that somebody put back is refused.
        refused_before.is_none_or(|refused| key.record.issued.is_some_and(|issued| issued >= refused))
    });
    let Some((mut key, user_jwt)) = found else { return Ok(UserKey::first(known.as_ref(), request, now)?) };
    // What is refused stays so, whatever becomes of clocks and settings.
    key.record.refused_before = key.record.refused_before(handover, now).max(refused_before);
    Ok(key.for_request(request, &user_jwt, handover, now)?)
}

/// What is to be known of the key in a Secret with these annotations, if that key stays as it is: then there is no need to
/// read it. `None`: [`wanted`] has to decide.
pub fn kept(
    annotations: &BTreeMap<String, String>,
    known: Option<&KeyStatus>,
    request: Option<&str>,
    handover: Duration,
    now: OffsetDateTime,
) -> Option<KeyRecord> {
    let refused_before = known.and_then(|known| record(known).refused_before);
    let mut key = noted(annotations);
    let is_refused = refused_before.is_some_and(|refused| key.issued.is_none_or(|issued| issued < refused));
    let is_asked_for = request.is_some_and(|request| key.request.as_deref() != Some(request));
    if is_refused || is_asked_for {
        return None;
    }
    key.refused_before = key.refused_before(handover, now).max(refused_before);
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
        request: annotation(ROTATE_ANNOTATION).map(str::to_owned),
    }
}

/// What a Secret says of its key, and of the authorities that its certificates are of.
pub fn annotations(key: &KeyRecord, authority: &Authority) -> Value {
    let KeyRecord { generation, issued, refused_before, request } = key;
    let of_authority = authority.rollover.generation.to_string();
    let mut annotations = json!({GENERATION: generation.to_string(), names::GENERATION_ANNOTATION: of_authority});
    let times = [(ISSUED, issued.map(shown)), (REFUSED_BEFORE, refused_before.map(shown))];
    for (name, value) in times.into_iter().chain([(ROTATE_ANNOTATION, request.clone())]) {
        if let Some(value) = value {
            annotations[name] = Value::from(value);
        }
    }
    annotations
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

fn parse(time: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Duration = Duration::from_secs(180);

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
    }

    fn secret(key: &UserKey) -> Secret {
        let data = json!({"user.seed": key.seed}).as_object().cloned();
        let authority = Authority::generate("t", at(0)).unwrap();
        serde_json::from_value(
            json!({"metadata": {"annotations": annotations(&key.record, &authority)}, "stringData": data}),
        )
        .map(|mut secret: Secret| {
            let text = secret.string_data.take().unwrap_or_default();
            let bytes = text.into_iter().map(|(name, value)| (name, k8s_openapi::ByteString(value.into_bytes())));
            secret.data = Some(bytes.collect());
            secret
        })
        .unwrap()
    }

    fn kept(present: &Secret, known: Option<&KeyStatus>, request: Option<&str>, seconds: i64) -> UserKey {
        wanted(Some(present), known, request, HANDOVER, at(seconds)).unwrap()
    }

    #[test]
    fn a_key_survives_its_secret() {
        let first = wanted(None, None, Some("made with it"), HANDOVER, at(0)).unwrap();
        assert_eq!(kept(&secret(&first), None, Some("made with it"), 900), first);
        let second = kept(&secret(&first), None, Some("leak"), 900);
        let known = status(&second.record, None, HANDOVER, at(900));
        assert_eq!((known.generation, known.request.as_deref()), (2, Some("leak")));
        assert!(known.handover_until.is_some());
        assert_eq!(kept(&secret(&second), Some(&known), Some("leak"), 901), second);
        let later = status(&second.record, None, HANDOVER, at(1_080));
        assert_eq!((later.handover_until, later.refused_before), (None, later.issued));
    }

    #[test]
    fn one_that_an_earlier_version_derived_is_kept() {
        let derived = UserKey { record: KeyRecord::default(), ..wanted(None, None, None, HANDOVER, at(0)).unwrap() };
        let mut old = secret(&derived);
        old.metadata.annotations = None;
        let key = kept(&old, None, None, 900);
        assert_eq!((&key.seed, key.record.generation, key.record.issued), (&derived.seed, 1, None));
        assert_eq!(key.record.refused_before(HANDOVER, at(900)), None);
    }

    #[test]
    fn what_is_lost_damaged_or_of_before_is_replaced_and_nothing_is_taken_that_was_refused() {
        let first = wanted(None, None, None, HANDOVER, at(0)).unwrap();
        let second = kept(&secret(&first), None, Some("leak"), 900);
        let known = status(&second.record, None, HANDOVER, at(2_000));
        let mut damaged = secret(&second);
        damaged.data.as_mut().unwrap().insert("user.seed".into(), k8s_openapi::ByteString(b"SU".to_vec()));
        for present in [None, Some(&damaged), Some(&secret(&first))] {
            let key = wanted(present, Some(&known), Some("leak"), HANDOVER, at(2_000)).unwrap();
            assert_eq!(key.record.generation, 3);
            assert_eq!(key.record.refused_before(HANDOVER, at(2_000)), second.record.issued);
            assert_eq!(key.record.refused_before(HANDOVER, at(2_180)), Some(at(2_000)));
        }
        // Somebody took the annotations away.
        let mut bare = secret(&second);
        bare.metadata.annotations = None;
        let key = kept(&bare, Some(&known), Some("leak"), 2_000);
        assert_eq!((key.record.generation, key.record.refused_before), (3, second.record.issued));
    }

    #[test]
    fn people_hear_of_a_replaced_key_once() {
        let first = wanted(None, None, None, HANDOVER, at(0)).unwrap();
        let known = status(&first.record, None, HANDOVER, at(0));
        assert_eq!(news(&first.record, None, HANDOVER, at(0)), None);
        let second = kept(&secret(&first), Some(&known), Some("leak"), 900);
        let text = news(&second.record, Some(&known), HANDOVER, at(900)).unwrap();
        assert!(text.starts_with("key 2 is in the Secret") && text.contains("2027-01-15T08:18:00Z"), "{text}");
        assert_eq!(
            news(&second.record, Some(&status(&second.record, None, HANDOVER, at(900))), HANDOVER, at(901)),
            None
        );
        assert_eq!(again(&second.record, HANDOVER, at(1_000)), Some(Duration::from_secs(80)));
    }
}

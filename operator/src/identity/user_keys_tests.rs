use super::*;

const HANDOVER: Duration = Duration::from_secs(180);

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
}

fn authority() -> &'static Authority {
    static AUTHORITY: std::sync::OnceLock<Authority> = std::sync::OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::generate("t", at(0)).unwrap())
}

fn place() -> Place<'static> {
    Place { authority: authority(), namespace: "shop", secret: "billing-identity" }
}

/// [`super::wanted`] at this place.
fn wanted(
    present: Option<&Secret>,
    known: Option<&KeyStatus>,
    request: Option<&str>,
    handover: Duration,
    now: OffsetDateTime,
) -> Result<UserKey, Error> {
    super::wanted(place(), present, known, request, handover, now)
}

fn secret(key: &UserKey) -> Secret {
    let data = json!({"user.seed": key.seed}).as_object().cloned();
    let mut annotations = annotations(&key.record, authority());
    annotations[PROOF] = Value::from(place().proof(&key.seed, &key.record).unwrap());
    serde_json::from_value(json!({"metadata": {"annotations": annotations}, "stringData": data}))
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
    assert_eq!(news(&second.record, Some(&status(&second.record, None, HANDOVER, at(900))), HANDOVER, at(901)), None);
    assert_eq!(again(&second.record, HANDOVER, at(1_000)), Some(Duration::from_secs(80)));
}

/// The Secret with what somebody wrote into it.
fn forged(key: &UserKey, changes: &[(&str, &str)]) -> Secret {
    let mut secret = secret(key);
    let annotations = secret.annotations_mut();
    annotations.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    secret
}

#[test]
fn a_request_that_somebody_else_noted_is_not_done() {
    let first = wanted(None, None, None, HANDOVER, at(0)).unwrap();
    let known = status(&first.record, None, HANDOVER, at(0));
    for changes in [&[(ROTATE_ANNOTATION, "2026-11-29")][..], &[(ROTATE_ANNOTATION, "2026-11-29"), (GENERATION, "2")]] {
        let present = forged(&first, changes);
        let before = kept(&present, Some(&known), None, 900);
        assert_eq!(before.record.request, None, "nor does the status repeat it");
        let next = kept(&present, Some(&known), Some("2026-11-29"), 900);
        assert!(next.seed != first.seed && next.record.generation == 2, "{changes:?}");
        // A digest and the field manager can be forged: without reading the key, the status alone counts.
        let kept = |request| super::kept(present.annotations(), Some(&known), request, HANDOVER, at(900));
        assert_eq!((kept(None), kept(Some("2026-11-29"))), (None, None));
    }
    // An operator that ended before it wrote the status made this one: it is not made again.
    let second = kept(&secret(&first), Some(&known), Some("leak"), 900);
    assert_eq!(kept(&secret(&second), Some(&known), Some("leak"), 901), second);
    // Without a status, as in a restored cluster, the proof alone counts.
    assert_eq!(kept(&secret(&second), None, Some("leak"), 901), second);
    let unproven = kept(&forged(&first, &[(ROTATE_ANNOTATION, "leak")]), None, Some("leak"), 900);
    assert!(unproven.seed != first.seed && unproven.record.refused_before == Some(at(900)));
    // The proof is of one key: that of before is not the one that was made for the request.
    let mut stolen = secret(&second);
    stolen.data = secret(&first).data;
    assert_ne!(kept(&stolen, None, Some("leak"), 901).seed, first.seed);
}

#[test]
fn a_time_ahead_of_the_clock_is_not_believed_and_the_key_is_replaced_once() {
    let first = wanted(None, None, None, HANDOVER, at(0)).unwrap();
    let good = status(&first.record, None, HANDOVER, at(0));
    for time in [
        "2999-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-23:59",
        "0000-01-01T00:00:00+23:59",
        "x",
        "",
    ] {
        for annotation in [ISSUED, REFUSED_BEFORE] {
            let present = forged(&first, &[(annotation, time), (GENERATION, "x")]);
            let key = kept(&present, Some(&good), None, 900);
            assert!(key.record.issued <= Some(at(900)) && key.record.refused_before <= Some(at(900)), "{time}");
            assert_eq!(kept(&secret(&key), Some(&good), None, 901), key, "{annotation} {time}: once");
        }
    }
    // A status that took it over from the Secret heals, also without the Secret and while that is not written yet.
    let far = Some("2999-01-01T00:00:00Z".to_owned());
    for poisoned in [
        KeyStatus { refused_before: far.clone(), ..good.clone() },
        KeyStatus { issued: far.clone(), refused_before: far, ..good.clone() },
    ] {
        let present = forged(&first, &[(REFUSED_BEFORE, "2999-01-01T00:00:00Z")]);
        for present in [None, Some(&present), Some(&secret(&first))] {
            let key = wanted(present, Some(&poisoned), None, HANDOVER, at(900)).unwrap();
            if key.seed != first.seed {
                assert_eq!((key.record.generation, key.record.issued), (2, Some(at(900))));
                assert_eq!(key.record.refused_before(HANDOVER, at(900)), Some(at(900)), "no other key works");
            }
            assert_eq!(kept(&secret(&key), Some(&poisoned), None, 901), key, "once");
            assert_eq!(super::kept(secret(&key).annotations(), Some(&poisoned), None, HANDOVER, at(901)), None);
            let healed = status(&key.record, None, HANDOVER, at(901));
            assert!(healed.refused_before < Some("2100".into()), "{healed:?}");
            assert_eq!(kept(&secret(&key), Some(&healed), None, 902), key);
        }
    }
}

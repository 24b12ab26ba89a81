use serde_json::json;

use super::*;

fn read(rules: Value) -> Vec<PublisherRule> {
    #[derive(Deserialize)]
    struct Read(#[serde(deserialize_with = "known_rules")] Vec<PublisherRule>);
    serde_json::from_value::<Read>(rules).unwrap().0
}

fn pattern(text: &str) -> Pattern {
    Pattern::try_from(text.to_owned()).unwrap()
}

#[test]
fn an_audience_is_of_one_topic() {
    let topic = TopicId::new("shop", "orders").unwrap();
    assert_eq!(audience(&topic), "tidegate.io/eventtopic/shop/orders");
}

#[test]
fn each_kind_of_rule_has_one_form() {
    let account =
        |name: Option<&str>| RuleKind::ServiceAccount { namespace: "web".into(), name: name.map(str::to_owned) };
    for (kind, expected) in [
        (account(Some("checkout")), json!({"serviceAccount": {"namespace": "web", "name": "checkout"}})),
        (account(None), json!({"serviceAccount": {"namespace": "web"}})),
        (RuleKind::Certificate { uri: "spiffe://a/b".into() }, json!({"certificate": {"uri": "spiffe://a/b"}})),
        (RuleKind::Nats { name: "till".into() }, json!({"nats": {"name": "till"}})),
        (RuleKind::Anonymous {}, json!({"anonymous": {}})),
    ] {
        let rule = PublisherRule::new(kind);
        assert_eq!(serde_json::to_value(&rule).unwrap(), expected);
        assert_eq!(read(json!([expected])), [rule]);
    }
    let limited = PublisherRule {
        sources: vec![pattern("/shop/*")],
        types: vec![pattern("a"), pattern("b*")],
        ..PublisherRule::anonymous()
    };
    let written = serde_json::to_value(&limited).unwrap();
    assert_eq!(written, json!({"anonymous": {}, "sources": ["/shop/*"], "types": ["a", "b*"]}));
    assert_eq!(read(json!([written])), [limited]);
}

#[test]
fn a_rule_that_is_not_understood_admits_nobody_and_spares_the_others() {
    let long = "x".repeat(MAX_PATTERN + 1);
    for bad in [
        json!(null),
        json!("anonymous"),
        json!({}),
        json!({"oidc": {"issuer": "x"}}),
        json!({"anonymous": {}, "nats": {"name": "a"}}),
        json!({"anonymous": {"from": "10.0.0.0/8"}}),
        json!({"anonymous": {}, "subjects": ["a"]}),
        json!({"anonymous": {}, "sources": "a"}),
        json!({"anonymous": {}, "sources": null}),
        json!({"anonymous": {}, "types": ["a*b"]}),
        json!({"anonymous": {}, "types": [""]}),
        json!({"anonymous": {}, "types": [long]}),
        json!({"anonymous": {}, "types": vec!["a"; MAX_PATTERNS + 1]}),
        json!({"serviceAccount": {"name": "a"}}),
        json!({"serviceAccount": {"namespace": ""}}),
        json!({"serviceAccount": {"namespace": "a", "name": ""}}),
        json!({"serviceAccount": {"namespace": "a", "labels": {}}}),
        json!({"certificate": {"uri": long}}),
        json!({"nats": {}}),
    ] {
        assert_eq!(read(json!([bad, {"nats": {"name": "till"}}])).len(), 1, "{bad}");
    }
    assert_eq!(read(Value::Array(vec![json!({"anonymous": {}}); MAX_RULES + 1])).len(), MAX_RULES);
    assert_eq!(read(Value::Array(vec![json!({"anonymous": {}, "types": vec!["a"; MAX_PATTERNS]})])).len(), 1);
}

#[test]
fn a_pattern_is_a_text_or_a_beginning() {
    for (text, matching, other) in [
        ("com.shop", &["com.shop"][..], &["com.shop.order", "com.sho", "", "COM.SHOP"][..]),
        ("com.shop.*", &["com.shop.", "com.shop.order"], &["com.shop", "a.com.shop.order"]),
        ("*", &["", "x"], &[]),
        ("ä", &["ä"], &["ä*"]),
    ] {
        matching.iter().for_each(|other| assert!(pattern(text).matches(other), "{text} {other}"));
        other.iter().for_each(|other| assert!(!pattern(text).matches(other), "{text} {other}"));
    }
    for bad in ["", "**", "a*b", "*a", "*ä", &"a".repeat(MAX_PATTERN + 1)] {
        assert_eq!(Pattern::try_from(bad.to_owned()), Err(InvalidPattern), "{bad}");
    }
}

#[test]
fn a_rule_without_patterns_covers_every_event() {
    let rule = PublisherRule {
        sources: vec![pattern("/x"), pattern("/s*")],
        types: vec![pattern("t")],
        ..PublisherRule::anonymous()
    };
    assert!(rule.covers_source("/s/1") && !rule.covers_source("t"));
    assert!(rule.covers_type("t") && !rule.covers_type("/x"));
    assert!(PublisherRule::anonymous().covers_source("/s") && PublisherRule::anonymous().covers_type("t"));
}

#[test]
fn keys_are_taken_as_the_api_server_shows_them() {
    let shown = json!({"issuer": "https://kubernetes.default.svc.cluster.local", "keys": {"keys": [
        {"use": "sig", "kty": "RSA", "kid": "a", "alg": "RS256", "n": "AQAB", "e": "AQAB", "x5t": "unknown"},
        {"use": "sig", "kty": "EC", "kid": "b", "alg": "ES256", "crv": "P-256", "x": "AA", "y": "AA"},
    ]}});
    let trust: TokenTrust = serde_json::from_value(shown).unwrap();
    assert_eq!(trust.keys.keys.len(), 2);
    assert!(trust.is_within_bounds());
    let key = || trust.keys.keys[0].clone();
    let of = |keys| TokenTrust { keys: Jwks { keys }, ..trust.clone() };
    assert!(!of(vec![key(); MAX_KEYS + 1]).is_within_bounds());
    assert!(!of(vec![Jwk { n: Some("A".repeat(MAX_KEY_VALUE + 1)), ..key() }]).is_within_bounds());
    assert!(!TokenTrust { issuer: "i".repeat(MAX_KEY_VALUE + 1), ..trust.clone() }.is_within_bounds());
}

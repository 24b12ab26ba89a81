use serde_json::{Value, json};

use super::*;

fn of_json<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn operator(ready: i32, version: &str) -> Deployment {
    of_json(json!({
        "metadata": {"name": "tidegate-operator", "namespace": "tidegate-system", "labels": {VERSION_LABEL: version}},
        "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"readyReplicas": ready},
    }))
}

fn broker(condition: (&str, &str, &str)) -> EventBroker {
    let (status, reason, message) = condition;
    let conditions = json!([{
        "type": "CertificatesCurrent", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    of_json(json!({
        "metadata": {"name": "default", "namespace": "shop"}, "spec": {},
        "status": {"conditions": conditions, "certificates": {"expire": "2027-01-01T00:00:00Z"}},
    }))
}

fn registered(status: &str) -> APIService {
    let condition =
        json!({"type": "Available", "status": status, "reason": "FailedDiscoveryCheck", "message": "no response"});
    of_json(json!({"metadata": {"name": "v1alpha1.subresources.tidegate.io"}, "status": {"conditions": [condition]}}))
}

fn class(is_default: &str) -> k8s_openapi::api::storage::v1::StorageClass {
    of_json(json!({"metadata": {"name": "fast", "annotations": {DEFAULT_CLASS: is_default}}, "provisioner": "p"}))
}

fn fine() -> Facts {
    Facts {
        location: Location { namespace: "shop".into(), context: None },
        kinds: Seen::There(KINDS.map(str::to_owned).into()),
        operators: Seen::There(vec![operator(2, OWN_VERSION)]),
        leader: Some(Seen::There("operator-0".into())),
        is_registered: Seen::There(true),
        is_asked: Seen::There(true),
        lacking: Seen::There(Vec::new()),
        brokers: Seen::There(vec![broker(("True", "FarFromEnd", ""))]),
        classes: Seen::There(vec![class("false"), class("true")]),
        api: Seen::There(registered("True")),
    }
}

#[test]
fn where_all_is_right_each_link_says_so() {
    let found: Vec<_> = of(&fine()).into_iter().map(|finding| (finding.link, finding.state)).collect();
    let links = [
        "definitions",
        "operator",
        "version",
        "leader",
        "webhook",
        "stored events",
        "certificates",
        "storage class",
        "your rights",
    ];
    assert_eq!(found, links.map(|link| (link, State::Ok)));
}

#[test]
fn what_is_wrong_is_said_with_what_helps() {
    use State::{Ok, Red, Unknown, Warning};
    let send = Right { verb: "create", group: "", resource: "pods/portforward", purpose: "tidegate send" };
    let no_right = || "x is forbidden: ask for that right".to_owned();
    let table: Vec<(Facts, &str, State, &str)> = vec![
        (Facts { kinds: Seen::Missing, ..fine() }, "definitions", Red, "install Tidegate's chart"),
        (
            Facts { kinds: Seen::There(vec!["eventtopics".into()]), ..fine() },
            "definitions",
            Red,
            "eventbrokers, eventhandlers are not served: upgrade the chart",
        ),
        (
            Facts { operators: Seen::There(Vec::new()), leader: None, ..fine() },
            "operator",
            Red,
            "there is none: install",
        ),
        (
            Facts { operators: Seen::There(vec![operator(2, "1"), operator(2, "1")]), leader: None, ..fine() },
            "operator",
            Red,
            "uninstall all but one",
        ),
        (
            Facts { operators: Seen::There(vec![operator(0, OWN_VERSION)]), ..fine() },
            "operator",
            Red,
            "0 of 2 pods are ready: see why with kubectl describe pods --namespace tidegate-system,",
        ),
        (Facts { operators: Seen::There(vec![operator(1, OWN_VERSION)]), ..fine() }, "operator", Warning, "1 of 2"),
        (
            Facts { operators: Seen::There(vec![operator(2, "0.0.9")]), ..fine() },
            "version",
            Warning,
            "0.0.9, and this program is",
        ),
        (Facts { operators: Seen::Unread(no_right()), ..fine() }, "operator", Unknown, "--operator-namespace"),
        (Facts { leader: Some(Seen::Missing), ..fine() }, "leader", Red, "no operator renews its Lease"),
        (Facts { is_asked: Seen::There(false), ..fine() }, "webhook", Red, "on port 8443"),
        (
            Facts { is_asked: Seen::There(false), is_registered: Seen::Unread(no_right()), ..fine() },
            "webhook",
            Warning,
            "right with webhook.enabled=false",
        ),
        (
            Facts { is_asked: Seen::There(false), is_registered: Seen::There(false), ..fine() },
            "webhook",
            Ok,
            "webhook.enabled=false",
        ),
        (Facts { is_asked: Seen::Unread(no_right()), ..fine() }, "webhook", Unknown, "forbidden"),
        (
            Facts { api: Seen::There(registered("False")), ..fine() },
            "stored events",
            Red,
            "no response. Are the operator's pods",
        ),
        (Facts { api: Seen::Missing, ..fine() }, "stored events", Ok, "api.enabled=false"),
        (
            Facts { brokers: Seen::There(vec![broker(("False", EXPIRED, "the leaf ended"))]), ..fine() },
            "certificates",
            Red,
            "the leaf ended",
        ),
        (
            Facts { brokers: Seen::There(vec![broker(("False", "NearEnd", "soon"))]), ..fine() },
            "certificates",
            Warning,
            "soon",
        ),
        (Facts { brokers: Seen::There(Vec::new()), ..fine() }, "certificates", Ok, "no broker has a certificate yet"),
        (Facts { classes: Seen::There(vec![class("false")]), ..fine() }, "storage class", Warning, "storage.className"),
        (
            Facts { lacking: Seen::There(vec![send]), ..fine() },
            "your rights",
            Warning,
            "you may not create pods/portforward (tidegate send): ask",
        ),
    ];
    for (facts, link, state, says) in table {
        let found = of(&facts);
        let finding = found.iter().find(|finding| finding.link == link).unwrap_or_else(|| panic!("{link}: {found:#?}"));
        assert_eq!(finding.state, state, "{finding:?}");
        assert!(finding.message.contains(says), "{finding:?}");
        assert_eq!(finding.is_unread, state == Unknown, "{finding:?}");
    }
}

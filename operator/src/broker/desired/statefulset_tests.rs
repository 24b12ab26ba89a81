//! The broker's StatefulSet and its configuration, part by part.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser as _;
use tidegate_broker_admin::Authority;
use tidegate_broker_client::contract::{TOPICS_FILE, Topics};
use tidegate_crds::EventBroker;
use time::{Duration, OffsetDateTime};

use super::super::{Children, children};
use super::*;
use crate::args::Args;
use crate::broker::observe::Observed;
use crate::broker::scale::Scale;
use crate::broker::settings::Settings;
use crate::broker::topics::Topic;
use crate::broker::trust::Trust;
use crate::context::Owner;
use crate::identity::authority;

fn topic(namespace: &str, name: &str) -> Topic {
    Topic::for_test(namespace, name)
}

fn made(authority: &Authority, spec: &Value, observed: &Observed, now: OffsetDateTime) -> Children {
    with_topics(authority, spec, observed, now, &[])
}

fn with_topics(
    authority: &Authority,
    spec: &Value,
    observed: &Observed,
    now: OffsetDateTime,
    topics: &[Topic],
) -> Children {
    with(authority, spec, observed, now, (topics, false))
}

fn with(
    authority: &Authority,
    spec: &Value,
    observed: &Observed,
    now: OffsetDateTime,
    (topics, is_formed): (&[Topic], bool),
) -> Children {
    with_args(authority, spec, observed, now, (topics, is_formed, &[]))
}

fn with_args(
    authority: &Authority,
    spec: &Value,
    observed: &Observed,
    now: OffsetDateTime,
    (topics, is_formed, more): (&[Topic], bool, &[&str]),
) -> Children {
    let broker: EventBroker = serde_json::from_value(json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"}, "spec": spec,
    }))
    .unwrap();
    let owner = Owner::of(&broker).unwrap();
    let settings = Settings::of(&broker.spec).unwrap();
    let images = ["", "--sidecar-image", "sidecar:1", "--ingress-image", "ingress:1", "--broker-image", "nats:1"];
    let args = Args::parse_from(images.iter().chain(more));
    children(&Input {
        broker: &broker,
        owner: &owner,
        settings: &settings,
        authority,
        observed,
        scale: &Scale::of(observed.statefulset.as_ref(), &broker),
        is_formed,
        topics,
        trust: &Trust::default(),
        args: &args,
        now,
    })
    .unwrap()
}

/// What is observed once these children are made: their certificates are kept.
fn with_secrets(children: &Children) -> Observed {
    let kept = |child: &Child| serde_json::from_value(child.value.clone()).ok();
    Observed {
        broker_secret: kept(&children.broker_secret),
        ingress_secret: kept(&children.ingress_secret),
        routes_secret: kept(&children.routes_secret),
        ..Observed::default()
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn of(spec: Value) -> Children {
    made(&Authority::generate("orders", now()).unwrap(), &spec, &Observed::default(), now())
}

fn pod(children: &Children) -> &Value {
    &children.statefulset.value["spec"]["template"]["spec"]
}

fn configuration_text(children: &Children) -> &str {
    children.config.value["data"]["nats.conf"].as_str().unwrap()
}

#[test]
fn it_belongs_to_its_broker_and_keeps_its_volumes() {
    let retained = of(json!({"storage": {"size": "20Gi", "className": "fast"}}));
    let value = &retained.statefulset.value;
    assert_eq!(value["metadata"]["name"], "orders-broker");
    assert_eq!(value["metadata"]["ownerReferences"][0]["uid"], "u-1");
    let spec = &value["spec"];
    assert_eq!((&spec["replicas"], &spec["podManagementPolicy"]), (&json!(1), &json!("Parallel")));
    assert_eq!(spec["serviceName"], "orders-broker-headless");
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    let claim = &spec["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "20Gi");
    assert_eq!(
        claim["metadata"]["labels"],
        json!(names::broker_selector("orders")),
        "found again when the broker is gone"
    );
}

/// As on a platform that assigns users, with images of a registry that asks who pulls.
const ELSEWHERE: [&str; 4] = ["--pod-user", "assigned", "--pod-pull-secrets", "one,two"];

#[test]
fn a_platform_may_assign_users_and_installation_and_broker_may_have_pull_secrets() {
    let authority = Authority::generate("orders", now()).unwrap();
    let of = |spec: Value| with_args(&authority, &spec, &Observed::default(), now(), (&[], false, &ELSEWHERE));
    let children = of(json!({}));
    let pod = pod(&children);
    assert!(pod["securityContext"].get("fsGroup").is_none());
    for containers in ["containers", "initContainers"] {
        for container in pod[containers].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["runAsNonRoot"], true);
            assert!(context.get("runAsUser").is_none() && context.get("runAsGroup").is_none(), "{container}");
        }
    }
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "one"}, {"name": "two"}]));
    let own = of(json!({"pods": {"imagePullSecrets": [{"name": "own"}]}}));
    assert_eq!(self::pod(&own)["imagePullSecrets"], json!([{"name": "own"}]));
    assert!(self::pod(&self::of(json!({}))).get("imagePullSecrets").is_none());
}

#[test]
fn labels_and_annotations_of_the_user_are_beside_ours_and_restart_the_pods() {
    let (authority, now) = (Authority::generate("orders", now()).unwrap(), now());
    let template = |pods: Value| {
        let children = made(&authority, &json!({"pods": pods}), &Observed::default(), now);
        children.statefulset.value["spec"]["template"].clone()
    };
    let plain = template(json!({}));
    let forged = json!({"app.kubernetes.io/component": "other", "tidegate.io/handler": "billing", "team": "pay"});
    let marked = template(json!({
        "labels": forged, "annotations": {"mesh": "off", "tidegate.io/rolls-with": "x"}, "priorityClassName": "high",
    }));
    assert_eq!(marked["spec"]["priorityClassName"], "high");
    let (labels, annotations) = (&marked["metadata"]["labels"], &marked["metadata"]["annotations"]);
    assert_eq!((&labels[names::COMPONENT_LABEL], &labels["team"]), (&json!("broker"), &json!("pay")));
    assert!(labels.get("tidegate.io/handler").is_none(), "it would be a handler's pod");
    assert_eq!(annotations["mesh"], "off");
    let digests = [&plain, &marked, &template(json!({"labels": {"team": "pay"}}))]
        .map(|template| template["metadata"]["annotations"][names::ROLLS_WITH_ANNOTATION].as_str().unwrap().to_owned());
    assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2], "{digests:?}");
    assert!(!digests.contains(&"x".to_owned()));
}

#[test]
fn both_containers_are_restricted_and_nothing_mounts_the_authority() {
    let children = of(json!({}));
    let pod = pod(&children);
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["fsGroup"], 65532);
    let names: Vec<_> = pod["containers"].as_array().unwrap().iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["nats", "ingress"]);
    for container in pod["containers"].as_array().unwrap() {
        assert_eq!(container["securityContext"], restricted(PodUser::Fixed(65532)));
    }
    let secrets: Vec<_> = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|volume| volume["secret"]["secretName"].as_str())
        .collect();
    assert_eq!(secrets, ["orders-broker", "orders-ingress", "orders-topics", "orders-routes"]);
}

#[test]
fn the_broker_is_probed_through_the_ingress_and_leaves_as_a_lame_duck_where_there_are_others() {
    let children = of(json!({}));
    let nats = &pod(&children)["containers"][0];
    for (probe, path) in [("startupProbe", "startup"), ("readinessProbe", "ready"), ("livenessProbe", "live")] {
        assert_eq!(nats[probe]["httpGet"], json!({"path": format!("/broker/{path}"), "port": 8081}), "{probe}");
    }
    assert_eq!(nats["lifecycle"], Value::Null, "a single broker has no other to hand its clients to");
    let three = of(json!({"replicas": 3}));
    let stop = pod(&three)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    assert!(stop.iter().any(|word| word == "ldm=/run/nats/nats.pid"), "{stop:?}");
    assert!(configuration_text(&children).contains("/run/nats/nats.pid"));
}

#[test]
fn every_broker_is_a_cluster_also_one_that_is_alone() {
    for (spec, pods) in [(json!({}), 1), (json!({"replicas": 3}), 3)] {
        let children = of(spec);
        assert_eq!(children.statefulset.value["spec"]["replicas"], pods);
        let text = configuration_text(&children);
        for ordinal in 0..3 {
            let host = format!("orders-broker-{ordinal}.orders-broker-headless.shop.svc:6222");
            assert_eq!(text.contains(&host), ordinal < pods, "{host}");
        }
        assert!(text.contains(r#""listen": "127.0.0.1:7422""#), "the ingress beside it wakes it, and no other pod can");
        // Their name is no text: the server looks it up.
        assert!(text.contains("\"server_name\": $SERVER_NAME,"), "{text}");
        let nats = &pod(&children)["containers"][0];
        assert!(!nats["args"].to_string().contains("--name"), "it would forbid every reload");
        let names = nats["env"].as_array().unwrap();
        assert_eq!(names[1], json!({"name": "SERVER_NAME", "value": "\"$(POD_NAME)\""}));
        assert_eq!(names[0]["name"], "POD_NAME", "before whatever is made from it");
    }
}

/// A server that lost its volume would begin a second cluster with it, and of three all but one join.
#[test]
fn only_the_single_server_of_a_broker_that_has_not_formed_gets_a_seed() {
    let authority = Authority::generate("orders", now()).unwrap();
    let made = |spec: Value, observed: &Observed, is_formed| with(&authority, &spec, observed, now(), (&[], is_formed));
    let new = made(json!({}), &Observed::default(), false);
    let [seed] = pod(&new)["initContainers"].as_array().unwrap().as_slice() else { panic!("one init container") };
    let system = authority.system_account(now()).unwrap().id;
    assert_eq!(seed["args"], json!(["seed", "$(POD_NAME)", "/data", system]));
    assert_eq!((&seed["image"], &seed["securityContext"]), (&json!("ingress:1"), &restricted(PodUser::Fixed(65532))));
    assert_eq!(seed["volumeMounts"], json!([{"name": "data", "mountPath": "/data"}]));
    let formed = made(json!({}), &with_secrets(&new), true);
    assert_eq!(pod(&formed).get("initContainers"), None);
    let mark = |children: &Children| {
        children.statefulset.value["spec"]["template"]["metadata"]["annotations"][names::ROLLS_WITH_ANNOTATION].clone()
    };
    assert_eq!(mark(&formed), mark(&new), "no pod is restarted for it");
    assert_eq!(pod(&made(json!({"replicas": 3}), &Observed::default(), false)).get("initContainers"), None);
}

#[test]
fn only_the_broker_container_has_the_leaf_for_routes() {
    let three = of(json!({"replicas": 3}));
    let pod = pod(&three);
    let has = |container: &Value| container["volumeMounts"].to_string().contains("\"routes\"");
    let [nats, ingress] = pod["containers"].as_array().unwrap().as_slice() else { panic!("two containers") };
    assert!(has(nats) && !has(ingress));
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "routes").unwrap();
    assert_eq!(volume["secret"]["secretName"], "orders-routes");
    assert_ne!(
        three.routes_secret.value["data"]["ca.crt"], three.broker_secret.value["data"]["ca.crt"],
        "an authority of their own"
    );
    // JSON but for the name, which the server looks up.
    let text = configuration_text(&three).replace("$SERVER_NAME", "\"b-0\"");
    let configuration: Value = serde_json::from_str(&text).unwrap();
    let tls = &configuration["cluster"]["tls"];
    assert_eq!(
        (&tls["verify_cert_and_check_known_urls"], &tls["ca_file"]),
        (&json!(true), &json!("/etc/nats-routes/ca.crt"))
    );
}

#[test]
fn what_the_user_says_of_nodes_reaches_the_pod() {
    let spec = json!({
        "resources": {"limits": {"memory": "1Gi"}}, "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "a"}],
        "topologySpreadConstraints": [{"maxSkew": 1}], "affinity": {"nodeAffinity": {}},
    });
    let children = of(json!({"pods": spec}));
    for field in ["nodeSelector", "tolerations", "topologySpreadConstraints", "affinity"] {
        assert_eq!(pod(&children)[field], spec[field], "{field}");
    }
    assert_eq!(pod(&children)["containers"][0]["resources"], spec["resources"]);
    let plain = of(json!({}));
    assert!(pod(&plain)["affinity"].get("podAntiAffinity").is_some(), "apart unless told otherwise");
    for field in ["nodeSelector", "tolerations", "topologySpreadConstraints"] {
        assert_eq!(pod(&plain).get(field), None, "{field}");
    }
}

/// Pods restart when, and only when, something changed that they are made of, or read at their start. They are restarted
/// by the operator alone.
#[test]
fn pods_roll_with_configuration_and_template_only() {
    let authority = Authority::generate("orders", now()).unwrap();
    let rolls_with = |children: &Children| {
        children.statefulset.value["spec"]["template"]["metadata"]["annotations"]["tidegate.io/rolls-with"].clone()
    };
    let first = made(&authority, &json!({}), &Observed::default(), now());
    let observed = with_secrets(&first);
    assert_eq!(first.statefulset.value["spec"]["updateStrategy"]["type"], "OnDelete");
    assert!(observed.broker_secret.as_ref().is_some_and(|secret| !authority::data(secret).is_empty()));
    let later = made(&authority, &json!({}), &observed, now() + Duration::days(3));
    assert_eq!(later.statefulset.value, first.statefulset.value, "nothing changed");
    assert_eq!(later.config.value, first.config.value);
    let renewed = made(&authority, &json!({}), &observed, now() + Duration::days(80));
    assert_ne!(renewed.broker_secret.value["data"]["tls.crt"], first.broker_secret.value["data"]["tls.crt"]);
    assert_eq!(renewed.statefulset.value, first.statefulset.value, "running servers take another certificate");
    let relaxed = made(&authority, &json!({"durability": "Relaxed"}), &observed, now());
    assert_ne!(rolls_with(&relaxed), rolls_with(&first), "another configuration");
    let larger = made(&authority, &json!({"pods": {"resources": {"limits": {"memory": "1Gi"}}}}), &observed, now());
    assert_ne!(rolls_with(&larger), rolls_with(&first), "another template");
}

/// How many servers there are is the record's matter, and the specification's in the end. No pod is restarted for it.
#[test]
fn more_servers_and_larger_volumes_restart_no_pod() {
    let authority = Authority::generate("orders", now()).unwrap();
    let rolls_with = |children: &Children| {
        children.statefulset.value["spec"]["template"]["metadata"]["annotations"]["tidegate.io/rolls-with"].clone()
    };
    let first = made(&authority, &json!({}), &Observed::default(), now());
    let with = |record: Option<&Scale>, spec: Value| {
        let mut value = first.statefulset.value.clone();
        if let Some(record) = record {
            value["metadata"]["annotations"][names::SERVERS_ANNOTATION] = json!(record.annotation());
        }
        let statefulset = serde_json::from_value(value).unwrap();
        let observed = Observed { statefulset: Some(statefulset), ..with_secrets(&first) };
        made(&authority, &spec, &observed, now())
    };
    let routes = |children: &Children| configuration_text(children).matches(":6222").count();
    let several = |children: &Children| {
        let file = &children.topics.value["data"][TOPICS_FILE];
        let text = STANDARD.decode(file.as_str().unwrap()).unwrap();
        serde_json::from_slice::<Topics>(&text).unwrap().several_servers
    };
    let asked = with(None, json!({"replicas": 3}));
    assert_eq!((&asked.config.value, &asked.statefulset.value), (&first.config.value, &first.statefulset.value));
    for (record, pods, routed) in [(Scale { routes: 3, ..Scale::new(1) }, 1, 3), (Scale::new(3), 3, 3)] {
        let children = with(Some(&record), json!({"replicas": 3}));
        assert_eq!(children.statefulset.value["spec"]["replicas"], pods);
        assert_eq!((routes(&children), several(&children)), (routed, pods > 1));
        assert_eq!(rolls_with(&children), rolls_with(&first), "{record:?}");
        let annotations = &children.statefulset.value["metadata"]["annotations"];
        assert_eq!(annotations[names::SERVERS_ANNOTATION], record.annotation());
    }
    let larger = with(None, json!({"storage": {"size": "20Gi"}}));
    assert_ne!(larger.config.value, first.config.value);
    assert_eq!(rolls_with(&larger), rolls_with(&first));
}

/// What makes topics come and go without a restart.
#[test]
fn topics_are_in_nothing_that_a_pod_reads_at_its_start() {
    let authority = Authority::generate("orders", now()).unwrap();
    let at = now();
    let first = made(&authority, &json!({}), &Observed::default(), at);
    let observed = with_secrets(&first);
    let topics = [topic("shop", "bills"), topic("shop", "orders")];
    let two = with_topics(&authority, &json!({}), &observed, at, &topics);
    assert_eq!((&two.statefulset.value, &two.config.value), (&first.statefulset.value, &first.config.value));
    assert_eq!(two.ingress_secret.value, first.ingress_secret.value, "one certificate for all topics of a namespace");
    let file = authority::data(&serde_json::from_value(two.topics.value).unwrap());
    let file: Value = serde_json::from_str(&file[TOPICS_FILE]).unwrap();
    assert_eq!(file["topics"][1]["hosts"][0], "orders-topic.shop.svc");
    assert_eq!(file["topics"][1]["maxEventSize"], 1 << 20);
    assert_ne!(file["topics"][0]["messageIdKey"], file["topics"][1]["messageIdKey"]);
}

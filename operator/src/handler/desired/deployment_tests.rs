//! The handler's Deployment, part by part.

use std::collections::BTreeMap;

use clap::Parser as _;
use tidegate_broker_admin::Authority;
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{Format, Order, Routing, Sidecar};
use tidegate_crds::EventHandler;
use time::OffsetDateTime;

use super::*;
use crate::args::Args;
use crate::broker::scale::Scale;
use crate::context::Owner;
use crate::handler::observe::Topic;
use crate::handler::settings::Settings;
use crate::sessions::brokers::{BrokerKey, Place};

/// The Deployment of a handler with this template and delivery, made by this authority.
fn made(authority: &Authority, template: Value, delivery: Value) -> Result<Value, Error> {
    made_of(authority, json!({"topic": "orders", "template": template, "delivery": delivery}))
}

fn made_of(authority: &Authority, spec: Value) -> Result<Value, Error> {
    made_with(authority, spec, &[])
}

fn made_with(authority: &Authority, spec: Value, more: &[&str]) -> Result<Value, Error> {
    let handler: EventHandler = serde_json::from_value(json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler",
        "metadata": {"name": "billing", "namespace": "shop", "uid": "u-1"},
        "spec": spec,
    }))
    .unwrap();
    let owner = Owner::of(&handler).unwrap();
    let settings = Settings::of(&handler.spec)?;
    let broker = BrokerKey { namespace: "shop".into(), name: "default".into() };
    let topic = Topic {
        id: TopicId::new("shop", "orders").unwrap(),
        place: Place::new(broker, authority.clone(), &Scale::new(1)),
        routing: Routing::Queued,
        destinations: BTreeMap::new(),
    };
    let images = ["", "--sidecar-image", "sidecar:1", "--ingress-image", "ingress:1", "--broker-image", "nats:1"];
    let args = Args::parse_from(images.iter().chain(more));
    let now = OffsetDateTime::now_utc();
    let input =
        Input { handler: &handler, owner: &owner, settings: &settings, topic: &topic, replicas: 2, args: &args, now };
    Ok(super::handler(&input)?.value)
}

fn authority() -> Authority {
    Authority::generate("orders", OffsetDateTime::now_utc()).unwrap()
}

/// A template with much of what users write.
fn users_template() -> Value {
    json!({
        "metadata": {
            "labels": {"team": "pay", "tidegate.io/handler": "forged", "app.kubernetes.io/name": "billing"},
            "annotations": {"note": "n"},
        },
        "spec": {
            "serviceAccountName": "billing",
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {
                    "name": "billing", "image": "billing:1", "ports": [{"containerPort": 8080}],
                    "env": [{"name": "A", "value": "b"}], "lifecycle": {"postStart": {"exec": {"command": ["warm"]}}},
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                },
                {"name": "proxy", "image": "proxy:1"},
            ],
            "initContainers": [{"name": "migrate", "image": "migrate:1"}],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        },
    })
}

fn deployment() -> Value {
    made(&authority(), users_template(), json!({"concurrency": 4})).unwrap()
}

fn pod(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]
}

#[test]
fn it_belongs_to_its_handler_and_selects_its_pods() {
    let deployment = deployment();
    assert_eq!((&deployment["kind"], &deployment["apiVersion"]), (&json!("Deployment"), &json!("apps/v1")));
    assert_eq!(deployment["metadata"]["name"], "billing-handler");
    let owner = &deployment["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["uid"], &owner["kind"], &owner["controller"]),
        (&json!("u-1"), &json!("EventHandler"), &json!(true))
    );
    assert_eq!(deployment["spec"]["replicas"], 2);
    let selector = deployment["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(selector["tidegate.io/handler"], "billing");
    assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{labels}");
    assert_eq!((&labels["team"], &labels["tidegate.io/topic"]), (&json!("pay"), &json!("orders")));
    let common: Vec<_> = labels.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("app.")).collect();
    assert_eq!(common, [(&"app.kubernetes.io/name".to_owned(), &json!("billing"))], "the user's, and none of ours");
}

#[test]
fn the_users_template_is_kept() {
    let deployment = deployment();
    let pod = pod(&deployment);
    let users = users_template();
    assert_eq!(deployment["spec"]["template"]["metadata"]["annotations"]["note"], "n");
    for field in ["serviceAccountName", "nodeSelector"] {
        assert_eq!(pod[field], users["spec"][field], "{field}");
    }
    let own = |field: &str, index: usize| {
        let mut container = pod[field][index].clone();
        let last_lines = container.as_object_mut().unwrap().remove("terminationMessagePolicy");
        assert_eq!(last_lines, Some(json!("FallbackToLogsOnError")), "{container}");
        container
    };
    let mut main = own("containers", 0);
    main["lifecycle"].as_object_mut().unwrap().remove("preStop");
    assert_eq!(main, users["spec"]["containers"][0], "nothing else but the preStop is added");
    assert_eq!(own("containers", 1), users["spec"]["containers"][1]);
    assert_eq!(own("initContainers", 1), users["spec"]["initContainers"][0]);
    assert_eq!(pod["volumes"][0], users["spec"]["volumes"][0]);
}

#[test]
fn a_platform_may_assign_the_sidecars_user_and_pull_secrets_are_added_to_the_users() {
    let template = json!({"spec": {
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1}]}],
        "imagePullSecrets": [{"name": "own"}, {"name": "both"}],
    }});
    let spec = json!({"topic": "orders", "template": template});
    let flags = ["--pod-user", "assigned", "--pod-pull-secrets", "both,ours"];
    let deployment = made_with(&authority(), spec, &flags).unwrap();
    let sidecar = &pod(&deployment)["initContainers"][0];
    assert!(sidecar["securityContext"].get("runAsUser").is_none(), "{sidecar}");
    let secrets = json!([{"name": "own"}, {"name": "both"}, {"name": "ours"}]);
    assert_eq!(pod(&deployment)["imagePullSecrets"], secrets);
}

#[test]
fn the_sidecar_is_a_native_one_and_restricted() {
    let deployment = deployment();
    let sidecar = &pod(&deployment)["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["image"]), (&json!("tidegate-sidecar"), &json!("sidecar:1")));
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(
        sidecar["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    for (probe, path) in [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(sidecar[probe]["httpGet"], json!({"path": path, "port": 15480}), "{probe}");
    }
    let config = config(&deployment);
    assert_eq!(config.servers, ["tls://default-broker.shop.svc:4222"]);
    assert_eq!((config.handler.as_str(), config.delivery.port, config.delivery.concurrency), ("billing", 8080, 4));
}

fn config(deployment: &Value) -> Sidecar {
    let environment = pod(deployment)["initContainers"][0]["env"].as_array().unwrap();
    let config = environment.iter().find(|entry| entry["name"] == tidegate_broker_client::contract::VARIABLE).unwrap();
    serde_json::from_str(config["value"].as_str().unwrap()).unwrap()
}

#[test]
fn the_sidecar_can_verify_where_it_publishes() {
    let spec = json!({
        "topic": "orders", "template": users_template(), "filter": {"types": ["order.*"], "expression": "data.a > 1"},
        "reply": {"topic": "invoices"}, "deadLetter": {"topic": "invoices"}, "delivery": {"order": "Key", "lanes": 4},
    });
    let deployment = made_of(&authority(), spec).unwrap();
    let config = config(&deployment);
    let topic_address = TopicAddress {
        topic: "invoices".into(),
        url: "https://invoices-topic.shop.svc".into(),
        ca: "/var/run/tidegate-destinations/invoices/ca.crt".into(),
        message_id_key: "/var/run/tidegate/message-ids.invoices.key".into(),
    };
    assert_eq!((config.reply, config.dead_letter), (Some(topic_address.clone()), Some(topic_address)));
    assert_eq!((config.handler_uid.as_str(), config.delivery.order), ("u-1", Order::Key { lanes: 4 }));
    assert_eq!((config.delivery.format, config.filter.types), (Format::Binary, vec!["order.*".to_owned()]));
    let pod = pod(&deployment);
    let volumes = pod["volumes"].as_array().unwrap();
    let ours: Vec<_> = volumes.iter().filter(|volume| volume["configMap"]["name"] == "invoices-ca").collect();
    assert_eq!(ours.len(), 1, "once, though it is named twice: {volumes:?}");
    let mounts = pod["initContainers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == ours[0]["name"]).unwrap();
    assert_eq!(mount["mountPath"], "/var/run/tidegate-destinations/invoices");
}

#[test]
fn only_the_sidecar_has_the_key() {
    let deployment = deployment();
    let pod = pod(&deployment);
    let mounts = |container: &Value| {
        container["volumeMounts"]
            .as_array()
            .is_some_and(|mounts| mounts.iter().any(|mount| mount["name"] == IDENTITY_VOLUME))
    };
    let all = ["containers", "initContainers"].into_iter().flat_map(|field| pod[field].as_array().unwrap());
    let with_key: Vec<_> = all.filter(|container| mounts(container)).map(|container| &container["name"]).collect();
    assert_eq!(with_key, ["tidegate-sidecar"]);
    assert_eq!(pod["volumes"][1]["secret"]["secretName"], "billing-identity");
}

/// Kubernetes mounts the token where nothing else is mounted.
#[test]
fn the_sidecar_has_no_token_of_the_users_account() {
    let deployment = deployment();
    let pod = pod(&deployment);
    let mounts = pod["initContainers"][0]["volumeMounts"].as_array().unwrap();
    let folder =
        mounts.iter().find(|mount| mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount").unwrap();
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == folder["name"]).unwrap();
    assert!(volume["emptyDir"].is_object(), "{volume}");
    assert!(pod.get("automountServiceAccountToken").is_none(), "the user's containers keep theirs");
}

#[test]
fn strategy_and_resources_are_the_users_or_the_installations() {
    let of = |changes: Value| {
        let mut spec = json!({"topic": "orders", "template": users_template()});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        made_of(&authority(), spec).unwrap()
    };
    let plain = of(json!({}));
    assert!(plain["spec"].get("strategy").is_none());
    assert_eq!(pod(&plain)["initContainers"][0]["resources"], json!({"requests": {"cpu": "10m", "memory": "16Mi"}}));
    let limits = json!({"limits": {"memory": "64Mi"}, "requests": null});
    let own = of(json!({"strategy": {"type": "Recreate"}, "sidecar": {"resources": limits}}));
    assert_eq!(own["spec"]["strategy"], json!({"type": "Recreate", "rollingUpdate": null}));
    assert_eq!(pod(&own)["initContainers"][0]["resources"], json!({"limits": {"memory": "64Mi"}}));
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": null}});
    let expected = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0}});
    assert_eq!(of(json!({"strategy": rolling}))["spec"]["strategy"], expected);
}

/// Pods of the current template are told from those before by it.
#[test]
fn the_version_of_the_template_changes_with_it_only() {
    let authority = authority();
    let version = |template: Value| {
        let made = made(&authority, template, json!({})).unwrap();
        made["spec"]["template"]["metadata"]["annotations"]["tidegate.io/template"].as_str().unwrap().to_owned()
    };
    let first = version(users_template());
    assert_eq!(version(users_template()), first);
    let mut other = users_template();
    other["spec"]["containers"][0]["image"] = json!("billing:2");
    assert_ne!(version(other), first);
}

#[test]
fn deliveries_are_drained_before_the_container_ends() {
    let authority = authority();
    let of = |template: Value| made(&authority, template, json!({"timeout": "90s"})).unwrap();
    let deployment = of(users_template());
    let lifecycle = &pod(&deployment)["containers"][0]["lifecycle"];
    assert_eq!(lifecycle["preStop"], json!({"httpGet": {"path": "/drained", "port": 15480}}));
    let sidecar = &pod(&deployment)["initContainers"][0];
    let begins = json!({"exec": {"command": ["/bin/tidegate-handler-sidecar", "drain"]}});
    assert_eq!(sidecar["lifecycle"]["preStop"], begins);
    let config: Value = serde_json::from_str(sidecar["env"][0]["value"].as_str().unwrap()).unwrap();
    assert_eq!(config["resumeAfter"], 140_000, "the grace period and a margin");
    assert_eq!(of(users_template()), deployment, "the same at every reconcile");
    assert!(pod(&deployment)["containers"][1].get("lifecycle").is_none());
    assert_eq!(pod(&deployment)["terminationGracePeriodSeconds"], 110, "one delivery and a margin");
    let mut patient = users_template();
    patient["spec"]["terminationGracePeriodSeconds"] = json!(600);
    assert_eq!(pod(&of(patient))["terminationGracePeriodSeconds"], 600, "the user's, if it is longer");
}

#[test]
fn the_sidecar_asks_the_containers_own_probes() {
    let authority = authority();
    let config = |template: Value| -> Value {
        let deployment = made(&authority, template, json!({})).unwrap();
        serde_json::from_str(pod(&deployment)["initContainers"][0]["env"][0]["value"].as_str().unwrap()).unwrap()
    };
    assert_eq!(config(users_template()).get("probes"), None);
    let mut probed = users_template();
    probed["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 8080}});
    assert_eq!(config(probed)["probes"]["readiness"]["check"], json!({"Tcp": {"port": 8080}}));
}

/// The schema refuses these; if it did not, they would be refused here, in words.
#[test]
fn a_template_of_another_shape_is_refused() {
    let container = json!({"name": "c", "image": "i"});
    let delivery = json!({"port": 8080});
    for template in [
        json!([]),
        json!({"spec": "no"}),
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": ["no"]}}),
        json!({"spec": {"containers": [container], "volumes": {}}}),
        json!({"metadata": {"labels": "no"}, "spec": {"containers": [container]}}),
    ] {
        let error = made(&authority(), template.clone(), delivery.clone()).unwrap_err();
        assert_eq!(error.reason(), "InvalidTemplate", "{template}");
        assert!(error.to_string().contains("spec.template"), "{error}");
    }
}

//! What a newcomer gets wrong: each mistake is named, with its remedy, where its owner looks: in a condition, in the
//! column REASON of plain `kubectl get`, in an Event, and in the first red line of `tidegate doctor`.
//! docs/troubleshooting.md says the same.

use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{World, world};

/// A mistake, and what is said of it.
struct Mistake {
    /// `eventbrokers`, `eventtopics` or `eventhandlers`, and the name.
    resource: (&'static str, &'static str),
    /// The condition behind it, which is False.
    condition: &'static str,
    /// The reason, as the column shows it.
    reason: &'static str,
    /// Cause and remedy.
    says: &'static [&'static str],
    /// Whether it may have been ready before, because nothing was wrong until the first events came.
    was_ready: bool,
}

const MISTAKES: [Mistake; 11] = [
    Mistake {
        resource: ("eventhandlers", "wrong-port"),
        condition: "HandlerAvailable",
        reason: "Outage",
        says: &["nothing listens on 127.0.0.1:9999", "the pod listens on port 8080; is delivery.port right?"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventhandlers", "wrong-path"),
        condition: "Delivering",
        reason: "Refused",
        says: &["refused: 404 Not Found from POST http://127.0.0.1:8080/nowhere. Is delivery.path the one"],
        was_ready: true,
    },
    Mistake {
        resource: ("eventhandlers", "wrong-image"),
        condition: "PodsReady",
        reason: "PodsFailing",
        says: &["container main: ", "Image", "localhost/tidegate/no-such-image:dev"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventhandlers", "wrong-topic"),
        condition: "TopicReady",
        reason: "TopicNotFound",
        says: &["there is no EventTopic nowhere in namespace", "make it"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventhandlers", "ends"),
        condition: "PodsReady",
        reason: "PodsFailing",
        says: &["container main: ", "it ended with exit code 2, saying: ", "--no-such-argument"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventhandlers", "fails"),
        condition: "HandlerAvailable",
        reason: "Outage",
        says: &["one event after the other fails", "log may say why", "500 Internal Server Error"],
        was_ready: true,
    },
    Mistake {
        resource: ("eventtopics", "full"),
        condition: "HasRoom",
        reason: "Full",
        says: &["EventHandler behind still needs the oldest event"],
        was_ready: true,
    },
    Mistake {
        resource: ("eventbrokers", "nowhere-to-store"),
        condition: "BrokerAvailable",
        reason: "PodsNotReady",
        says: &["there is no StorageClass no-such-class: make it, or", "another storage.className"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventtopics", "nowhere-stored"),
        condition: "BrokerAvailable",
        reason: "PodsNotReady",
        says: &["nowhere-to-store: ", "there is no StorageClass no-such-class: make it, or"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventtopics", "too-large"),
        condition: "Ready",
        reason: "BrokerFull",
        says: &["EventBroker default can promise", "would fit; or name another broker, or make one with more storage"],
        was_ready: false,
    },
    Mistake {
        resource: ("eventtopics", "wrong-broker"),
        condition: "Ready",
        reason: "BrokerNotFound",
        says: &["there is no EventBroker elsewhere in namespace", "make it"],
        was_ready: false,
    },
];

#[tokio::test]
async fn a_newcomers_mistakes_are_named_with_their_remedies() {
    world("mistakes", async |world| {
        world.accept(broker("default", 1)).await;
        world.accept(topic("events")).await;
        let mut full = topic("full");
        full["spec"]["maxEventSize"] = json!("1Ki");
        full["spec"]["retention"] = json!({"maxSize": "600Ki"});
        world.accept(full).await;
        let mut unplaced = broker("nowhere-to-store", 1);
        unplaced["spec"]["storage"]["className"] = json!("no-such-class");
        world.accept(unplaced).await;
        for (name, field, value) in [
            ("nowhere-stored", "broker", json!({"name": "nowhere-to-store"})),
            ("too-large", "retention", json!({"maxSize": "2Gi"})),
            ("wrong-broker", "broker", json!({"name": "elsewhere"})),
        ] {
            let mut mistaken = topic(name);
            mistaken["spec"][field] = value;
            world.accept(mistaken).await;
        }
        let mut wrong_image = handler("wrong-image", &[], json!({}));
        wrong_image["spec"]["template"]["spec"]["containers"][0]["image"] =
            json!("localhost/tidegate/no-such-image:dev");
        for mistake in [
            handler("wrong-port", &[], json!({"delivery": {"port": 9999}})),
            handler("wrong-path", &[], json!({"delivery": {"path": "/nowhere"}})),
            wrong_image,
            handler("wrong-topic", &[], json!({"topic": "nowhere"})),
            handler("ends", &["--no-such-argument"], json!({})),
            handler("fails", &["--answer", "500"], json!({})),
            handler("behind", &[], json!({"topic": "full", "replicas": 0})),
        ] {
            world.accept(mistake).await;
        }
        for name in ["wrong-path", "fails", "behind"] {
            world.condition::<tidegate_crds::EventHandler>(name, "Subscribed", "True", 90).await;
        }
        world.publish("some", 30, 0).await;
        world.publish_with("full", "too-many", 6000, &[]).await;
        for mistake in &MISTAKES {
            world.said(mistake).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_is_named() {
    world("quota", async |world| {
        world
            .accept(json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tight"}, "spec": {"hard": {"pods": "1"}},
            }))
            .await;
        world.accept(broker("default", 1)).await;
        world.accept(topic("events")).await;
        world.topic_ready("events").await;
        world.accept(broker("another", 1)).await;
        world.accept(handler("worker", &[], json!({}))).await;
        for (resource, condition, reason) in [
            (("eventhandlers", "worker"), "PodsReady", "PodsFailing"),
            (("eventbrokers", "another"), "BrokerAvailable", "PodsNotReady"),
        ] {
            let says: &[_] = &["is forbidden: exceeded quota: tight, requested: pods=1, used: pods=1, limited: pods=1"];
            world.said(&Mistake { resource, condition, reason, says, was_ready: false }).await;
        }
    })
    .await;
}

impl World {
    /// Waits until the mistake is named everywhere.
    async fn said(&self, mistake: &Mistake) {
        let Mistake { resource: (plural, name), condition, reason, says, was_ready } = mistake;
        let is_said = |text: Option<&str>| text.is_some_and(|text| says.iter().all(|part| text.contains(part)));
        self.until(&format!("{name}: {condition}=False, {reason}: {says:?}"), 90, async || {
            let object = self.get(&format!("{plural}/{name}"), "application/json").await;
            let conditions = object["status"]["conditions"].as_array()?;
            let is_false = |kind: &str| {
                let found = conditions.iter().find(|found| found["type"] == kind);
                found.is_some_and(|found| {
                    found["status"] == "False" && found["reason"] == *reason && is_said(found["message"].as_str())
                })
            };
            (is_false("Ready") && is_false(condition)).then_some(())
        })
        .await;
        assert_eq!(self.reason_column(plural, name).await, *reason, "{name}");
        let what = format!("an Event of {name}: {says:?}");
        let events = self.until(&what, 30, async || {
            let events = self.events_of(name).await;
            let is_warning =
                |event: &Event| event.type_.as_deref() == Some("Warning") && event.reason.as_deref() == Some(*reason);
            events.iter().any(|event| is_warning(event) && is_said(event.note.as_deref())).then_some(events)
        });
        let became_ready = events.await.iter().any(|event| event.reason.as_deref() == Some("Ready"));
        assert!(*was_ready || !became_ready, "{name} was said to be ready");
        let what = format!("the first red line of tidegate doctor {plural}/{name}: {says:?}");
        self.until(&what, 30, async || is_said(self.first_red(plural, name).as_deref()).then_some(())).await;
    }

    /// The first red line of `tidegate doctor`, which the variable TIDEGATE names the program of.
    fn first_red(&self, plural: &str, name: &str) -> Option<String> {
        let program = std::env::var_os("TIDEGATE").expect("set TIDEGATE to the path of tidegate, as `make e2e` does");
        let resource = format!("{plural}/{name}");
        let mut command = std::process::Command::new(program);
        let output = command.args(["doctor", &resource, "-n", &self.namespace, "-o", "json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        let red = &report["firstRed"];
        assert_eq!(output.status.code() == Some(6), red.is_object(), "{resource}: {report}");
        Some(format!("{}: {}", red["object"].as_str()?, red["message"].as_str()?))
    }

    async fn get(&self, path: &str, accept: &str) -> Value {
        let path = format!("/apis/tidegate.io/v1alpha1/namespaces/{}/{path}", self.namespace);
        let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
        self.client.request(request).await.unwrap()
    }

    /// The column REASON of plain `kubectl get`.
    async fn reason_column(&self, plural: &str, name: &str) -> String {
        let table = self.get(plural, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
        let columns = table["columnDefinitions"].as_array().unwrap();
        let is_shown = |column: &Value| column["name"] == "Reason" && column["priority"] == 0;
        let column = columns.iter().position(is_shown).expect("a column of plain kubectl get");
        let rows = table["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["object"]["metadata"]["name"] == name).unwrap();
        row["cells"][column].as_str().unwrap_or_default().to_owned()
    }

    /// The Events about a resource.
    async fn events_of(&self, name: &str) -> Vec<Event> {
        let fields = format!("regarding.name={name},reportingController=tidegate-operator");
        self.api::<Event>().list(&ListParams::default().fields(&fields)).await.unwrap().items
    }
}

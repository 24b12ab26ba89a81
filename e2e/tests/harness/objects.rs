//! What the tests apply. Everything meets Pod Security "restricted".

use serde_json::{Value, json};

use super::World;

const IMAGE: &str = "localhost/tidegate/e2e:dev";

/// A broker of so many pods, each with a small volume.
pub fn broker(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": name},
        "spec": {"replicas": replicas, "storage": {"size": "1Gi"}},
    })
}

/// A topic on the broker `default`, of which a small one has room for two.
pub fn topic(name: &str) -> Value {
    json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": name},
        "spec": {"deletionPolicy": "Delete", "retention": {"maxSize": "256Mi"}},
    })
}

/// What an example's file describes, for the topic `events` of this namespace and with another number of events.
pub fn example(namespace: &str, file: &str, count: u64) -> Value {
    let path = format!("{}/../manifests/examples/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let text = text.replace("eventtopic/default/", &format!("eventtopic/{namespace}/"));
    let text = text.replace("readings", "events").replace("value: \"100\"", &format!("value: \"{count}\""));
    serde_saphyr::from_str(&text).unwrap()
}

/// A handler of the topic `events` that tells the ledger of each event; `more` is merged into its spec.
pub fn handler(name: &str, arguments: &[&str], more: Value) -> Value {
    let mut spec = json!({"topic": "events", "template": {"spec": pod(&handle(arguments), json!({}))}});
    let template = spec["template"]["spec"].as_object_mut().unwrap();
    // A Deployment's pods restart always; the template says no more than it has to.
    template.remove("restartPolicy");
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": name}, "spec": spec})
}

fn handle(arguments: &[&str]) -> Vec<String> {
    let fixed = ["handle", "--ledger", "http://ledger:8080"];
    fixed.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect()
}

/// A pod specification with the tests' program as its one container, named `main`.
fn pod(arguments: &[String], extra: Value) -> Value {
    let mut container = json!({
        "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "args": arguments,
        "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    })
}

impl World {
    /// Starts a ledger and a topic `events` on a broker of so many pods, and waits until both work.
    pub async fn begin(&self, pods: i32) {
        self.accept(broker("default", pods)).await;
        self.accept(topic("events")).await;
        self.ledger().await;
        self.topic_ready("events").await;
    }

    /// Starts the ledger and waits until it answers.
    pub async fn ledger(&self) {
        let mut spec = pod(
            &["ledger".to_owned()],
            json!({"readinessProbe": {"httpGet": {"path": "/report", "port": 8080}, "periodSeconds": 1}}),
        );
        spec["restartPolicy"] = json!("Always");
        self.accept(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ledger", "labels": {"app": "ledger"}}, "spec": spec,
        }))
        .await;
        self.accept(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "ledger"},
            "spec": {"selector": {"app": "ledger"}, "ports": [{"port": 8080}]},
        }))
        .await;
        self.until("the ledger", 60, async || self.report().await).await;
    }

    /// Starts a publisher of `count` events, at `rate` a second (0: as fast as it can).
    pub async fn publish(&self, prefix: &str, count: u64, rate: u64) {
        self.publish_type(prefix, count, rate, "test.event").await;
    }

    /// The same, one after the other, with so many partition keys in turn.
    pub async fn publish_keys(&self, prefix: &str, count: u64, keys: u64) {
        self.publish_with("events", prefix, count, &["--keys", &keys.to_string(), "--concurrency", "1"]).await;
    }

    /// The same, with a type of events.
    pub async fn publish_type(&self, prefix: &str, count: u64, rate: u64, event_type: &str) {
        self.publish_with("events", prefix, count, &["--rate", &rate.to_string(), "--type", event_type]).await;
    }

    /// Starts a publisher of `count` events to this topic, with more arguments.
    pub async fn publish_with(&self, topic: &str, prefix: &str, count: u64, more: &[&str]) {
        self.publish_as("default", topic, prefix, count, more).await;
    }

    /// The same with the token of this ServiceAccount.
    pub async fn publish_as(&self, account: &str, topic: &str, prefix: &str, count: u64, more: &[&str]) {
        let url = format!("https://{topic}-topic.{}.svc", self.namespace);
        let arguments: Vec<String> = [
            "publish",
            "--url",
            &url,
            "--ca",
            "/topic/ca.crt",
            "--token",
            "/topic/token",
            "--ledger",
            "http://ledger:8080",
            "--prefix",
            prefix,
            "--count",
            &count.to_string(),
        ]
        .iter()
        .chain(more)
        .map(|argument| (*argument).to_owned())
        .collect();
        let mut spec = pod(&arguments, json!({"volumeMounts": [{"name": "topic", "mountPath": "/topic"}]}));
        let audience = format!("tidegate.io/eventtopic/{}/{topic}", self.namespace);
        let token = json!({"audience": audience, "expirationSeconds": 3600, "path": "token"});
        let sources = json!([{"configMap": {"name": format!("{topic}-ca")}}, {"serviceAccountToken": token}]);
        spec["volumes"] = json!([{"name": "topic", "projected": {"sources": sources}}]);
        spec["serviceAccountName"] = json!(account);
        self.accept(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": format!("publish-{prefix}")},
            "spec": {"backoffLimit": 0, "activeDeadlineSeconds": 900, "template": {"spec": spec}},
        }))
        .await;
    }
}

//! The CloudEvents SDKs and the common clients of MQTT and NATS publish what is stored, with tokens and credentials.
//!
//! `e2e/sdk` says what to install. `TIDEGATE_SDK` is the folder of its scripts with `node_modules` beside them, and
//! `SDK_PYTHON` a Python with the packages; nothing is installed or fetched from here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_broker_client::contract::{PublisherRule, RuleKind};
use tidegate_broker_client::identity::file;
use tidegate_cloudevents::Event;
use tokio::process::Command;

use crate::publishers::{Cluster, account};
use crate::support::events;

/// The ids a script printed.
async fn run(program: &str, script: &Path, arguments: &[String]) -> BTreeSet<String> {
    let mut command = Command::new(program);
    command.arg(script).args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {printed}{}", script.display(), String::from_utf8_lossy(&output.stderr));
    printed.lines().map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs what e2e/sdk installs"]
async fn what_they_publish_is_stored_as_it_is() {
    let scripts = PathBuf::from(std::env::var("TIDEGATE_SDK").unwrap());
    let python = std::env::var("SDK_PYTHON").unwrap();
    let nats = RuleKind::Nats { name: "sensors".into() };
    let cluster = Cluster::start(&[account("web", Some("checkout")), PublisherRule::new(nats)]).await;
    let (broker, ingress) = (&cluster.broker, &cluster.ingress);
    let ca = ingress.identity.join(file::CA).display().to_string();
    let token_file = ingress.identity.join("token");
    std::fs::write(&token_file, cluster.token() + "\n").unwrap();
    let token = token_file.display().to_string();
    let https = [format!("https://localhost:{}/", ingress.https), ca.clone(), token.clone()];
    let mqtt = ["localhost".to_owned(), ingress.mqtt.to_string(), ca, token];
    let nats = [broker.servers().remove(0), broker.publisher("sensors").await.display().to_string()];

    let mut printed = run(&python, &scripts.join("publish.py"), &https).await;
    printed.extend(run("node", &scripts.join("publish.mjs"), &https).await);
    printed.extend(run(&python, &scripts.join("publish_mqtt.py"), &mqtt).await);
    printed.extend(run(&python, &scripts.join("publish_nats.py"), &nats).await);

    let stored = events(broker).await;
    assert_eq!(stored.iter().map(|event| event.id().to_owned()).collect::<BTreeSet<_>>(), printed);
    assert_eq!(stored.len(), 4 + 4 + 3 + 2);
    stored.iter().for_each(check);
}

fn check(event: &Event) {
    assert_eq!(event.event_type(), "com.example.größe");
    assert_eq!(event.attribute("partitionkey"), Some("a.b *>"));
    assert_eq!(event.attribute("subject"), Some("Größe \"7\" 50%"));
    let data: serde_json::Value = serde_json::from_slice(event.data().unwrap()).unwrap();
    assert_eq!(data, serde_json::json!({"text": "größe", "number": 23.5}), "{}", event.id());
}

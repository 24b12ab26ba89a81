//! Dead letters are redriven through the aggregated API, and by `tidegate dead redrive`.

use axum::http::Method;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_client::{layout, peer, stored};
use tidegate_cloudevents::Event;
use tidegate_crds::EventHandler;
use tidegate_test_broker::jetstream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::command_line::{numbers, shown, told};
use crate::subresources::{ANN, BOB, Data, event, sequences};
use crate::support::eventually;

/// May read dead letters, as role tidegate-data-reader has it.
const CAT: &str = "cat";
const LETTERS: &str = "eventhandlers/billing/deadletters";

impl Data {
    async fn redrive(&self, user: &str, body: &Value) -> (u16, Value) {
        let path = self.path("eventhandlers/billing/redrive");
        let (code, answer) = self.call_with(Method::POST, user, &path, body.to_string()).await;
        (code, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    /// What the topic has, each with its subject.
    async fn copies(&self) -> Vec<(String, String)> {
        let js = jetstream(self.topic.operator.clone());
        let stream = js.get_stream(layout::EVENT_STREAM).await.unwrap();
        let mut found = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let event = stored::decode(Some(&message.headers), message.payload.clone()).unwrap();
            found.push((event.id().to_owned(), message.subject.to_string()));
        }
        found
    }

    async fn ids(&self) -> Vec<String> {
        self.copies().await.into_iter().map(|(id, _)| id).collect()
    }

    async fn letters(&self, ids: &[&str]) {
        for id in ids {
            self.dead_letter(&event(id, b"x"), &[("Tidegate-Reason", "too-old")]).await;
        }
    }

    async fn uid(&self) -> String {
        let handlers: Api<EventHandler> = Api::namespaced(self.space.client.clone(), &self.space.name);
        handlers.get("billing").await.unwrap().metadata.uid.unwrap()
    }
}

fn outcomes(answer: &Value) -> Vec<&str> {
    answer["items"].as_array().unwrap().iter().map(|item| item["outcome"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn letters_that_are_named_go_to_their_handler_once_however_often_it_is_asked_for() {
    let data = Data::start("api-redrive").await;
    data.letters(&["a", "b", "c"]).await;
    let (code, answer) = data.redrive(ANN, &json!({"sequences": [3, 1, 9]})).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(
        (outcomes(&answer), &answer["redriven"], &answer["left"]),
        (vec!["redriven", "redriven", "gone"], &json!(2), &json!([]))
    );
    assert_eq!(sequences(&data.read(LETTERS).await), [2]);
    let subject =
        layout::redrive_subject("billing", layout::partition(stored::partition_key(&event("a", b"x"))), "order.new");
    assert_eq!(data.copies().await[0], ("a".to_owned(), subject));
    let (code, again) = data.redrive(ANN, &json!({"sequences": [1, 3]})).await;
    assert_eq!(
        (code, outcomes(&again), data.ids().await),
        (200, vec!["gone", "gone"], vec!["a".to_owned(), "c".to_owned()])
    );

    // Two at a time: whichever publishes first, there is one copy.
    data.letters(&["d", "e", "f", "g"]).await;
    let all = json!({"sequences": [4, 5, 6, 7]});
    let ((first, _), (second, _)) = tokio::join!(data.redrive(ANN, &all), data.redrive(ANN, &all));
    assert_eq!((first, second), (200, 200));
    assert_eq!(data.ids().await, ["a", "c", "d", "e", "f", "g"]);
    assert_eq!(sequences(&data.read(LETTERS).await), [2]);
}

/// An operator that ends between the copy and the removal of the letter leaves both.
#[tokio::test]
async fn what_an_operator_left_half_done_is_ended_without_a_second_copy() {
    let data = Data::start("api-redrive-half").await;
    data.letters(&["a", "b"]).await;
    let (mut headers, payload) = peer::encode(&event("a", b"x"));
    let letters = data.read(LETTERS).await;
    let stored = OffsetDateTime::parse(letters["items"][0]["time"].as_str().unwrap(), &Rfc3339).unwrap();
    let message_id = format!("redrive:{}:1:{}", data.uid().await, stored.unix_timestamp_nanos());
    headers.insert("Nats-Msg-Id", message_id);
    let subject =
        layout::redrive_subject("billing", layout::partition(stored::partition_key(&event("a", b"x"))), "order.new");
    data.publish(subject, headers, payload).await;
    let (code, answer) = data.redrive(ANN, &json!({"sequences": [1, 2]})).await;
    assert_eq!((code, outcomes(&answer)), (200, vec!["redriven", "redriven"]), "{answer}");
    assert!(answer["items"][0]["message"].as_str().unwrap().contains("already"), "{answer}");
    assert_eq!(data.ids().await, ["a", "b"]);
    assert_eq!(sequences(&data.read(LETTERS).await), Vec::<u64>::new());
}

#[tokio::test]
async fn whoever_may_only_read_redrives_nothing_and_neither_does_a_wrong_call() {
    let data = Data::start("api-redrive-rights").await;
    let rules = json!([{"apiGroups": ["subresources.tidegate.io"], "resources": ["eventhandlers/deadletters"], "verbs": ["get"]}]);
    data.space.create::<Role>(json!({"metadata": {"name": CAT}, "rules": rules})).await;
    let group = "rbac.authorization.k8s.io";
    let role = json!({"apiGroup": group, "kind": "Role", "name": CAT});
    let subjects = json!([{"apiGroup": group, "kind": "User", "name": CAT}]);
    data.space.create::<RoleBinding>(json!({"metadata": {"name": CAT}, "roleRef": role, "subjects": subjects})).await;
    data.letters(&["a"]).await;
    eventually("a right", async || (data.get(CAT, &data.path(LETTERS)).await.0 == 200).then_some(())).await;
    let one = json!({"sequences": [1]});
    for user in [BOB, CAT] {
        assert_eq!(data.redrive(user, &one).await.0, 403, "{user}");
    }
    let refused = told(&data, CAT, "dead redrive billing 1").await;
    assert!(refused.contains("ClusterRole tidegate-data-editor"), "{refused}");
    for body in [json!({}), json!({"sequences": []}), json!({"sequences": [1], "all": true})] {
        assert_eq!(data.redrive(ANN, &body).await.0, 400, "{body}");
    }
    assert_eq!(data.get(ANN, &data.path("eventhandlers/billing/redrive")).await.0, 403, "create is its only verb");
    assert_eq!((sequences(&data.read(LETTERS).await), data.ids().await.len()), (vec![1], 0));
}

#[tokio::test]
async fn what_no_consumer_would_read_stays_a_letter_and_all_others_are_redriven_by_the_command_line() {
    let data = Data::start("cli-redrive").await;
    // More than a call takes.
    for number in 1..=120 {
        data.dead_letter(&event(&number.to_string(), b"x"), &[("Tidegate-Reason", "too-old")]).await;
    }
    data.dead_letter(&Event::builder("bill", "/shop", "bill.new").build().unwrap(), &[]).await;
    let handlers: Api<EventHandler> = Api::namespaced(data.space.client.clone(), &data.space.name);
    let patch = Patch::Merge(json!({"spec": {"filter": {"types": ["order.*"]}}}));
    handlers.patch("billing", &PatchParams::default(), &patch).await.unwrap();
    eventually("the filter is in force", async || {
        let (code, answer) = data.redrive(ANN, &json!({"sequences": [999]})).await;
        assert!(
            code == 200 || code == 503 && answer["message"].as_str().unwrap().contains("is not Subscribed"),
            "{answer}"
        );
        (code == 200).then_some(())
    })
    .await;
    assert_eq!(shown(&data, "dead redrive billing 2 1").await, "2 dead letters were redriven\n");
    assert!(shown(&data, "dead redrive billing --reason no-such").await.starts_with("0 dead"));
    let left = told(&data, ANN, "dead redrive billing --all").await;
    assert!(left.contains("1 dead letters stay"), "{left}");
    assert_eq!(numbers(&shown(&data, "dead list billing").await), [121]);
    assert_eq!(data.ids().await, (1..=120).map(|number: u64| number.to_string()).collect::<Vec<_>>());
}

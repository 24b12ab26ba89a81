//! Dead letters are redriven through the aggregated API, and by `tidegate dead redrive`.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use axum::http::Method;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tidegate_broker_client::{layout, peer, stored};
use tidegate_cloudevents::Event;
use tidegate_crds::EventHandler;
use tidegate_test_broker::jetstream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::command_line::{numbers, shown, told};
use crate::handler::{condition, until_reason};
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

    /// So many, the first with this id. All are on their way before the first is confirmed.
    async fn many_letters(&self, ids: RangeInclusive<u64>) {
        let js = jetstream(self.topic.operator.clone());
        let mut stored = Vec::new();
        for id in ids {
            let (mut headers, payload) = peer::encode(&event(&id.to_string(), b"x"));
            headers.insert("Tidegate-Reason", "too-old");
            stored
                .push(js.publish_with_headers(layout::dead_letter_subject("billing"), headers, payload).await.unwrap());
        }
        for stored in stored {
            stored.await.unwrap();
        }
    }

    fn handlers(&self) -> Api<EventHandler> {
        self.space.api()
    }

    async fn change(&self, spec: Value) {
        self.space.merge::<EventHandler>("billing", json!({"spec": spec})).await;
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
    let billing = data.handlers().get("billing").await.unwrap().metadata;
    let (uid, generation) = (billing.uid.unwrap(), billing.generation.unwrap());
    let message_id = format!("redrive:{uid}:{generation}:1:{}", stored.unix_timestamp_nanos());
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
    data.many_letters(1..=120).await;
    data.dead_letter(&Event::builder("bill", "/shop", "bill.new").build().unwrap(), &[]).await;
    data.change(json!({"filter": {"types": ["order.*"]}})).await;
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
    assert!(shown(&data, "dead redrive billing --reason no-such").await.starts_with("no dead letter matches"));
    let left = told(&data, ANN, "dead redrive billing --all").await;
    assert!(left.contains("1 dead letters stay"), "{left}");
    assert_eq!(numbers(&shown(&data, "dead list billing").await), [121]);
    assert_eq!(data.ids().await, (1..=120).map(|number: u64| number.to_string()).collect::<Vec<_>>());
}

/// A copy that is published while the handler changes may be one that its consumers pass over.
#[tokio::test]
async fn letters_stay_when_their_handler_changes_between_the_copy_and_the_removal() {
    let data = Data::start("api-redrive-change").await;
    data.many_letters(1..=300).await;
    let all: Vec<u64> = (1..=300).collect();
    let body = json!({"sequences": all});
    let change = async {
        eventually("the first copy", async || (!data.copies().await.is_empty()).then_some(())).await;
        data.change(json!({"filter": {"types": ["bill.*"]}})).await;
    };
    let ((code, answer), ()) = tokio::join!(data.redrive(ANN, &body), change);
    assert_eq!((code, &answer["reason"]), (200, &json!("HandlerChanged")), "{answer}");
    let redriven = outcomes(&answer);
    assert!(redriven.iter().all(|outcome| *outcome == "redriven") && redriven.len() < 300, "{answer}");
    let left: Vec<u64> = serde_json::from_value(answer["left"].clone()).unwrap();
    assert_eq!(left, all[redriven.len()..], "in their order, and each is one or the other");
    let says = format!("{} dead letters stay", left.len());
    assert!(answer["message"].as_str().unwrap().contains(&says), "{answer}");
    let letters = data.read(&format!("{LETTERS}?limit=500")).await;
    assert_eq!(sequences(&letters), left, "what is left is there");
    assert!(data.copies().await.len() > redriven.len(), "the copies of some were published, and do not count");

    // As soon as the handler asks for them again, each of those has another copy: the first may have been passed over.
    data.change(json!({"filter": {"types": ["order.*"]}})).await;
    let left = json!({"sequences": left[..2]});
    let answer = eventually("the filter is in force", async || {
        let (code, answer) = data.redrive(ANN, &left).await;
        (code == 200).then_some(answer)
    })
    .await;
    assert_eq!((outcomes(&answer), answer["items"][0].get("message")), (vec!["redriven", "redriven"], None));
}

#[tokio::test]
async fn letters_of_a_handler_that_is_deleted_stay() {
    let data = Data::start("api-redrive-delete").await;
    data.many_letters(1..=200).await;
    let body = json!({"sequences": (1..=200).collect::<Vec<u64>>()});
    let delete = async {
        eventually("the first copy", async || (!data.copies().await.is_empty()).then_some(())).await;
        data.handlers().delete("billing", &DeleteParams::default()).await.unwrap();
    };
    let ((code, answer), ()) = tokio::join!(data.redrive(ANN, &body), delete);
    assert_eq!((code, &answer["reason"]), (200, &json!("HandlerDeleted")), "{answer}");
    let left = answer["left"].as_array().unwrap().len();
    let stream =
        jetstream(data.topic.operator.clone()).get_stream(layout::dead_letter_stream("billing")).await.unwrap();
    assert_eq!((stream.cached_info().state.messages, left > 0), (left as u64, true), "{answer}");
}

/// What a failed reconcile keeps of `Subscribed` is of the specification before: the consumers may not be those of now.
#[tokio::test]
async fn nothing_is_redriven_for_a_specification_that_no_reconcile_has_put_in_force() {
    let data = Data::start("api-redrive-failed").await;
    data.letters(&["a"]).await;
    let before = data.handlers().get("billing").await.unwrap();
    data.change(json!({"filter": {"expression": "data.amount >"}})).await;
    let failed = until_reason(&data.space, "Stalled", "InvalidFilter").await;
    let of = |kind: &str| condition(&failed, kind).unwrap();
    assert_eq!(of("Ready").observed_generation, failed.metadata.generation);
    let subscribed = of("Subscribed");
    assert_eq!((subscribed.status.as_str(), subscribed.observed_generation), ("True", before.metadata.generation));
    let (code, answer) = data.redrive(ANN, &json!({"sequences": [1]})).await;
    assert_eq!((code, sequences(&data.read(LETTERS).await)), (503, vec![1]), "{answer}");
    data.change(json!({"filter": {"expression": "data.amount > 1"}})).await;
    eventually("it is Subscribed", async || {
        (data.redrive(ANN, &json!({"sequences": [1]})).await.0 == 200).then_some(())
    })
    .await;
}

/// The answer is not lost, and says what was done.
#[tokio::test]
async fn a_call_is_answered_in_time_although_the_broker_hangs_in_the_middle() {
    let data = Data::start("api-redrive-hangs").await;
    data.many_letters(1..=300).await;
    let pid = Pid::from_raw(data.broker.pid().unwrap().cast_signed());
    let body = json!({"sequences": (1..=300).collect::<Vec<u64>>()});
    let hang = async {
        eventually("more than a group of letters", async || (data.copies().await.len() > 40).then_some(())).await;
        kill(pid, Signal::SIGSTOP).unwrap();
    };
    let asked = Instant::now();
    let ((code, answer), ()) = tokio::join!(data.redrive(ANN, &body), hang);
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(code == 200 && asked.elapsed() < Duration::from_secs(15), "{:?}: {answer}", asked.elapsed());
    let left: Vec<u64> = serde_json::from_value(answer["left"].clone()).unwrap();
    let redriven = answer["redriven"].as_u64().unwrap();
    assert_eq!((&answer["reason"], redriven + left.len() as u64), (&json!("Unavailable"), 300), "{answer}");
    assert!(redriven >= 20, "{answer}");
    // What was published before it hung is known, and removed by the next call.
    let answer = eventually("the rest", async || {
        let (code, answer) = data.redrive(ANN, &json!({"sequences": left})).await;
        (code == 200).then_some(answer)
    })
    .await;
    assert_eq!((answer["left"].as_array().unwrap().len(), data.copies().await.len()), (0, 300), "{answer}");
    assert_eq!(sequences(&data.read(LETTERS).await), Vec::<u64>::new());
}

/// A redrive is long: reads do not wait for it, and no more than two are under way.
#[tokio::test]
async fn redrives_are_bounded_and_hold_up_no_read() {
    let data = Data::start("api-redrive-many").await;
    data.many_letters(1..=600).await;
    let body = |from: u64| json!({"sequences": (from..from + 300).collect::<Vec<_>>()});
    let (first, second) = (body(1), body(301));
    let others = async {
        eventually("both are under way", async || {
            let copies = data.copies().await;
            let has = |range: RangeInclusive<u64>| copies.iter().any(|(id, _)| range.contains(&id.parse().unwrap()));
            (has(1..=300) && has(301..=600)).then_some(())
        })
        .await;
        let asked = Instant::now();
        let (code, answer) = data.redrive(ANN, &json!({"sequences": [600]})).await;
        assert!(code == 429 && answer["message"].as_str().unwrap().contains("too many redrives"), "{answer}");
        let reads = (0..4).map(|_| data.read(LETTERS));
        futures::future::join_all(reads).await;
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    };
    let ((first, one), (second, other), ()) =
        tokio::join!(data.redrive(ANN, &first), data.redrive(ANN, &second), others);
    assert_eq!((first, second, &one["redriven"], &other["redriven"]), (200, 200, &json!(300), &json!(300)));
}

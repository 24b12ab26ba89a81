//! What a filter keeps from the handler, and what becomes of it.

use std::time::Duration;

use tidegate_broker_client::contract::{Filter, Sidecar};
use tidegate_cloudevents::Event;
use tidegate_handler_sidecar::Error;
use tidegate_test_broker::{TestBroker, topic};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Container, Process, Running, all_settled, config, consumer, dead_letters, get, header, store};

const ACK_WAIT: Duration = Duration::from_secs(5);

async fn filtered(broker: &TestBroker, container: &Container, filter: Filter) -> Sidecar {
    let identity = broker.handler(crate::support::HANDLER, ACK_WAIT).await;
    Sidecar { filter, ..config(broker, identity, container.port, ACK_WAIT) }
}

/// One that takes the largest events that there may be.
async fn broker_for_the_largest() -> TestBroker {
    const LARGEST: i32 = (8 << 20) + (256 << 10);
    let large = tidegate_broker_admin::streams::Topic { max_message_size: LARGEST, ..topic() };
    TestBroker::start_bounded(large, usize::try_from(LARGEST).unwrap()).await
}

async fn publish(broker: &TestBroker, id: &str, source: &str, data: &str) {
    let event = Event::builder(id, source, "order.created").attribute("datacontenttype", "application/json");
    store(broker, &event.data(data.to_owned()).build().unwrap(), &[]).await;
}

#[tokio::test]
async fn only_what_passes_is_delivered_and_the_rest_is_acknowledged() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let filter = Filter {
        sources: vec!["/shop/1".into(), "/shop/2".into()],
        expression: Some("data.amount > 100 && !has(event.test)".into()),
        ..Filter::default()
    };
    let sidecar = Running::ready(filtered(&broker, &container, filter).await).await;
    for (id, source, data) in [
        ("passes-1", "/shop/1", r#"{"amount":101}"#),
        ("other-source", "/shop/3", r#"{"amount":101}"#),
        ("too-little", "/shop/1", r#"{"amount":100}"#),
        ("no-amount", "/shop/1", r#"{"total":101}"#),
        ("no-number", "/shop/1", r#"{"amount":"101"}"#),
        ("no-json", "/shop/1", r#"{"amount":"#),
        ("passes-2", "/shop/2", r#"{"amount":1e6}"#),
    ] {
        publish(&broker, id, source, data).await;
    }
    let test = Event::builder("test", "/shop/1", "t").attribute("test", "1").attribute("datacontenttype", "text/json");
    store(&broker, &test.data(r#"{"amount":101}"#).build().unwrap(), &[]).await;
    all_settled(&broker).await;
    let mut ids = container.ids();
    ids.sort();
    assert_eq!(ids, ["passes-1", "passes-2"]);
    assert_eq!(dead_letters(&broker).await.len(), 0, "what is not for a handler is no dead letter of its");
    assert_eq!(consumer(&broker).await.cached_info().num_redelivered, 0);
    sidecar.terminate().await;
}

#[tokio::test]
async fn an_expression_that_is_refused_ends_the_sidecar() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let filter = Filter { expression: Some("amount > 100".into()), ..Filter::default() };
    let config = filtered(&broker, &container, filter).await;
    let error = tidegate_handler_sidecar::run(config, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, Error::Options(_)));
    assert!(error.to_string().contains("filter.expression: unknown variable \"amount\""), "{error}");
}

/// One event at a time: how many are in flight, and with them the memory, would else depend on what the machine does.
#[tokio::test]
async fn an_expression_takes_little_memory() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let filter = Filter { expression: Some("data.amount > 100".into()), ..Filter::default() };
    let mut config = filtered(&broker, &container, filter).await;
    config.delivery.concurrency = 1;
    let process = Process::start(&config).await;
    for id in 0..100 {
        publish(&broker, &id.to_string(), "/shop/1", r#"{"amount":101}"#).await;
    }
    all_settled(&broker).await;
    assert_eq!(container.count(), 100);
    let resident = process.resident();
    assert!(resident <= 12 * 1024, "{resident} KiB resident");
    assert!(process.terminate().await.success());
}

/// Events as large as events may be: each value of one takes many times the bytes of its JSON.
#[tokio::test]
async fn data_of_many_small_values_takes_a_bounded_amount_of_memory() {
    // Three times the event, its values, and the program.
    const BOUND: u64 = 112 * 1024;
    let broker = broker_for_the_largest().await;
    let container = Container::start().await;
    let filter = Filter { expression: Some("size(data) > 1".into()), ..Filter::default() };
    let process = Process::start(&filtered(&broker, &container, filter).await).await;
    publish(&broker, "most", "/shop/1", &format!("[{}0]", "0,".repeat(300_000))).await;
    publish(&broker, "lists", "/shop/1", &format!("[{}[]]", "[],".repeat(2_700_000))).await;
    publish(&broker, "maps", "/shop/1", &format!("[{}{{}}]", "{},".repeat(2_700_000))).await;
    all_settled(&broker).await;
    assert_eq!(container.ids(), ["most"]);
    let letters = dead_letters(&broker).await;
    assert!(letters.iter().all(|letter| header(letter, "Tidegate-Reason") == "filter-too-costly"));
    let peak = process.peak();
    assert!(letters.len() == 2 && peak <= BOUND, "{} dead letters, {peak} KiB", letters.len());
}

/// An event as large as events may be, and an expression that reads half of it for each part of the other half.
#[tokio::test]
async fn an_expression_that_is_too_much_work_is_ended_and_the_probes_are_answered() {
    let broker = broker_for_the_largest().await;
    let container = Container::start().await;
    let expression = Some("data.tags.exists(t, data.text.contains(t))".into());
    let config = filtered(&broker, &container, Filter { expression, ..Filter::default() }).await;
    let process = Process::start(&config).await;
    let costly = format!(r#"{{"tags":[{}"no"],"text":"{}"}}"#, r#""no","#.repeat(200_000), "y".repeat(4 << 20));
    publish(&broker, "costly", "/shop/1", &costly).await;
    publish(&broker, "cheap", "/shop/1", r#"{"tags":["a","b"],"text":"it is b"}"#).await;
    let begun = Instant::now();
    while dead_letters(&broker).await.is_empty() {
        let alive = timeout(Duration::from_secs(1), get(config.admin_port, "/livez")).await;
        assert_eq!(alive.expect("it is answered within a second"), Some(200));
        assert!(begun.elapsed() < Duration::from_secs(30), "the evaluation does not end");
        sleep(Duration::from_millis(20)).await;
    }
    all_settled(&broker).await;
    assert_eq!(container.ids(), ["cheap"]);
    let letters = dead_letters(&broker).await;
    assert_eq!((letters.len(), header(&letters[0], "Tidegate-Reason")), (1, "filter-too-costly"));
    assert_eq!(letters[0].payload.len(), costly.len(), "the event is kept");
    assert!(process.terminate().await.success());
}

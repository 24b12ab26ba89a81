//! HTTP around the events: what is answered before a body is sent, the handshake of webhooks, what is passed on with an
//! event.

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tidegate_broker_client::stored;
use tidegate_cloudevents::{Event, json};
use tidegate_test_broker::TestBroker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{MAX_EVENT, event, events, messages, start};

const HEAD: &str =
    "POST / HTTP/1.1\r\nhost: localhost\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n";

/// RFC 9110, section 10.1.1: "a server MAY omit sending 100 if it … has already" decided, and a sender that waits for
/// it has sent nothing that must be read. Issue 8, G10: it was asked for the body first.
#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let head = format!("{HEAD}content-length: {}\r\nexpect: 100-Continue\r\n\r\n", 8 * MAX_EVENT);
    let answer = ingress.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let mut stream = ingress.connect(b"http/1.1").await;
    let head = format!("{HEAD}content-length: 4\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = vec![0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"23.5").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert_eq!(events(&broker).await[0].data().unwrap(), "23.5");
}

/// CloudEvents, "HTTP 1.1 Web Hooks for Event Delivery" 1.0.2, section 4. Issue 8, G10: it was 405, and Azure Event
/// Grid delivers nothing then.
#[tokio::test]
async fn a_sender_of_webhooks_is_given_permission() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(Method::OPTIONS).uri("/").header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        ingress.send(request.body(Full::default()).unwrap()).await
    };
    let origin = ("WebHook-Request-Origin", "eventgrid.azure.net");
    let callback = ("WebHook-Request-Callback", "https://example.com/confirm?token=1");
    let answer = ask(&[origin, callback, ("WebHook-Request-Rate", "120")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers["webhook-allowed-origin"], "eventgrid.azure.net");
    assert_eq!(answer.headers["webhook-allowed-rate"], "*");
    assert_eq!(answer.headers["allow"], "POST, OPTIONS");

    let plain = ask(&[]).await;
    assert_eq!((plain.status, plain.headers.contains_key("webhook-allowed-origin")), (StatusCode::OK, false));
    assert_eq!(ask(&[origin, ("WebHook-Request-Rate", "fast")]).await.status, StatusCode::BAD_REQUEST);
    // And then it delivers, with the headers of section 2.
    let headers = [("content-type", "application/cloudevents+json; charset=utf-8"), ("origin", "eventgrid.azure.net")];
    assert_eq!(ingress.post(&headers, json::encode(&event("1")).unwrap()).await.status, StatusCode::ACCEPTED);
}

/// RFC 9110, section 12.5.3. Issue 8, H9: `Accept` was answered, which is about something else.
#[tokio::test]
async fn what_is_compressed_is_told_which_encodings_there_are() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let headers = [("content-type", "application/cloudevents+json"), ("content-encoding", "gzip")];
    let answer = ingress.post(&headers, "\x1f\u{8b}").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(answer.headers["accept-encoding"], "identity");
    assert!(!answer.headers.contains_key("accept"));
}

/// W3C Trace Context, section 3.3.1, and W3C Baggage, section 3.2. Issue 8, H9: both were dropped.
#[tokio::test]
async fn baggage_and_a_second_state_go_on() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let headers = [
        ("content-type", "application/cloudevents+json"),
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("baggage", "user=7;secret"),
        ("baggage", "shop=n%20w"),
    ];
    ingress.post(&headers, json::encode(&event("1")).unwrap()).await;
    let message = messages(&broker).await.remove(0);
    let stored = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!(stored("traceparent").as_deref(), Some(PARENT));
    assert_eq!(stored("tracestate").as_deref(), Some("a=1,b=2"));
    assert_eq!(stored("baggage").as_deref(), Some("user=7;secret,shop=n%20w"));
    assert_eq!(stored::decode(Some(&message.headers), message.payload.clone()), Ok(event("1")));
}

/// CloudEvents 1.0.2, "Size Limits": events of 64 KByte are taken, whatever they are made of. Issue 8, G10: at most 64
/// attributes were, and 48 KiB of them.
#[tokio::test]
async fn an_event_of_64_kib_is_taken_whatever_it_is_made_of() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let base = |id: &str| Event::builder(id, "/s", "t");
    let many = (0..1000).fold(base("many"), |event, n| event.attribute(format!("x{n}"), "12345678")).build().unwrap();
    let large = base("large").attribute("large", "x".repeat(60_000)).data("23.5");
    let large = large.attribute("datacontenttype", "text/plain").build().unwrap();
    let encoded = base("encoded").attribute("large", "ä".repeat(20_000)).build().unwrap();
    for event in [&many, &large, &encoded] {
        assert!(event.size() <= 64 * 1024);
        let answer = ingress.publish(event).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}: {answer:?}", event.id());
    }
    assert_eq!(events(&broker).await, [many.clone(), large.clone(), encoded]);
    // In binary mode, too: these are headers of the request.
    for (event, id) in [(many, "many-2"), (large, "large-2")] {
        let (mut headers, body) = tidegate_cloudevents::http::encode_binary(&event).unwrap();
        headers.insert("ce-id", id.parse().unwrap());
        let mut request = Request::post("/").header("host", "localhost").body(Full::new(body)).unwrap();
        request.headers_mut().extend(headers);
        assert_eq!(ingress.send(request).await.status, StatusCode::ACCEPTED, "{id}");
    }
    assert_eq!(messages(&broker).await.len(), 5);
}

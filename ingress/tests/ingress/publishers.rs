//! Who may publish over HTTPS and NATS, and what others are told.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tidegate_broker_client::contract::{PublisherRule, RuleKind, ServedTopic, TOPICS_FILE, TokenTrust};
use tidegate_broker_client::message_id::{self, HEADER, HandlerKey, TopicKey};
use tidegate_broker_client::{TopicId, contract, identity, layout, peer};
use tidegate_cloudevents::{Event, http as binding};
use tidegate_publisher_auth::issuer::Issuer;
use tidegate_test_broker::{TestBroker, eventually, topic, topic_id};

use crate::support::{Answer, Running, config, event, events, exchange, http2, limits, messages, post, run};

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

/// A cluster that issues tokens, and a broker that knows it.
pub struct Cluster {
    pub broker: TestBroker,
    pub ingress: Running,
    pub issuer: Issuer,
}

pub fn now() -> u64 {
    u64::try_from(time::OffsetDateTime::now_utc().unix_timestamp()).unwrap()
}

pub fn account(namespace: &str, name: Option<&str>) -> PublisherRule {
    PublisherRule::new(RuleKind::ServiceAccount { namespace: namespace.into(), name: name.map(Into::into) })
}

fn limited(rule: PublisherRule, sources: &[&str], types: &[&str]) -> PublisherRule {
    let patterns = |list: &[&str]| list.iter().map(|text| (*text).to_owned().try_into().unwrap()).collect();
    PublisherRule { sources: patterns(sources), types: patterns(types), ..rule }
}

impl Cluster {
    /// With these rules for the first topic.
    pub async fn start(rules: &[PublisherRule]) -> Self {
        let (broker, issuer) = (TestBroker::start().await, Issuer::new("https://cluster", "key-1", "ES256"));
        write(&broker, Some(issuer.trust()), rules);
        let ingress = start_written(&broker).await;
        Self { broker, ingress, issuer }
    }

    /// A token of `web/checkout` for the first topic.
    pub fn token(&self) -> String {
        self.issuer.token("web", "checkout", &contract::audience(&topic_id()), now())
    }

    async fn publish(&self, event: &Event, authorization: &[&str]) -> Answer {
        self.ingress.send(authorized(event, authorization)).await
    }
}

/// Says to the ingress which rules the first topic has; others have none.
pub fn write(broker: &TestBroker, tokens: Option<TokenTrust>, rules: &[PublisherRule]) {
    broker.write_file(|file| {
        file.tokens = tokens;
        let first = topic_id();
        let change = |topic: &mut ServedTopic| {
            topic.publishers = if topic.id == first { rules.to_vec() } else { Vec::new() };
        };
        file.topics.iter_mut().for_each(change);
    });
}

/// Starts an ingress by the file that is there.
pub async fn start_written(broker: &TestBroker) -> Running {
    let file = std::fs::read(broker.topics_folder().join(TOPICS_FILE)).unwrap();
    // This writes another one.
    let config = config(broker);
    broker.write_topics_file(&file);
    let ingress = run(&config, limits()).await;
    ingress.until_ready().await;
    ingress
}

fn authorized(event: &Event, authorization: &[&str]) -> Request<Full<Bytes>> {
    let mut headers = vec![STRUCTURED];
    headers.extend(authorization.iter().map(|value| ("authorization", *value)));
    post(&headers, binding::encode_structured(event).unwrap())
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn whoever_a_rule_names_publishes_with_a_token() {
    let cluster = Cluster::start(&[account("web", Some("checkout"))]).await;
    let token = bearer(&cluster.token());
    let answer = cluster.publish(&event("1"), &[&token]).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let batch = binding::encode_batch(&[event("2"), event("3")]).unwrap();
    let headers = [("content-type", "application/cloudevents-batch+json"), ("authorization", &*token)];
    assert_eq!(cluster.ingress.post(&headers, batch).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&cluster.broker).await, [event("1"), event("2"), event("3")]);
    // Its identity, source and id make the message id: whatever else is in the event, this is a repetition.
    let other = Event::builder("1", "/sensors/1", "other").build().unwrap();
    assert_eq!(cluster.publish(&other, &[&token]).await.headers["tidegate-duplicate"], "true");
    let ids: Vec<_> =
        messages(&cluster.broker).await.iter().map(|m| m.headers.get("Nats-Msg-Id").unwrap().to_string()).collect();
    let expected =
        ["1", "2", "3"].map(|id| message_id::of_publisher("system:serviceaccount:web:checkout", "/sensors/1", id));
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn without_good_credentials_nothing_is_taken() {
    let cluster = Cluster::start(&[account("web", None)]).await;
    let issuer = &cluster.issuer;
    let audience = contract::audience(&topic_id());
    let claims = |change: serde_json::Value| {
        let mut claims = issuer.claims("web", "checkout", &audience, now());
        change.as_object().unwrap().iter().for_each(|(name, value)| claims[name] = value.clone());
        bearer(&issuer.sign(&issuer.header(), &claims))
    };
    let good = bearer(&cluster.token());
    let forged = Issuer::new("https://cluster", "key-1", "ES256");
    for (authorization, reason) in [
        (vec![], "needs credentials"),
        (vec![good.clone(), good.clone()], "more than one"),
        (vec!["Basic YTpi".to_owned()], "not Bearer"),
        (vec![bearer("x")], "not a signed JSON Web Token"),
        (vec![bearer(&"x".repeat(64 * 1024))], "more than 16384 bytes"),
        (vec![bearer(&forged.token("web", "checkout", &audience, now()))], "signature"),
        (
            vec![bearer(&Issuer::new("https://cluster", "other", "ES256").token("web", "a", &audience, now()))],
            "a key that",
        ),
        (vec![claims(json!({"iss": "https://other"}))], "issuer"),
        (vec![claims(json!({"aud": "https://cluster"}))], "another audience"),
        (vec![claims(json!({"aud": format!("{audience}2")}))], "another audience"),
        (vec![claims(json!({"iat": now() - 4000, "exp": now() - 400}))], "expired"),
        (vec![claims(json!({"nbf": now() + 3600, "exp": now() + 3700}))], "not valid yet"),
        (vec![claims(json!({"exp": now() + 24 * 3600}))], "--duration=1h"),
        (vec![claims(json!({"sub": "system:node:a"}))], "not of a ServiceAccount"),
        (vec![bearer(&issuer.sign(&json!({"alg": "none", "kid": "key-1"}), &json!({})))], "algorithm"),
    ] {
        let values: Vec<&str> = authorization.iter().map(String::as_str).collect();
        let answer = cluster.publish(&event("1"), &values).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{reason}");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer realm="), "{answer:?}");
        let detail = answer.detail();
        assert!(detail.contains(reason), "{detail} does not say {reason}");
        assert!(
            detail.contains("authentication-oidc") && detail.contains("tidegate.io/eventtopic/<namespace>/<topic>")
        );
        assert!(!detail.contains(topic_id().name()) || detail.contains("<topic>"), "{detail}");
    }
    assert_eq!(messages(&cluster.broker).await.len(), 0);
    assert_eq!(cluster.publish(&event("1"), &[&good]).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn what_a_publisher_may_not_is_refused_as_a_whole() {
    let rules = [
        limited(account("web", Some("checkout")), &["/shop/*"], &["com.shop.order", "com.shop.bill.*"]),
        limited(account("web", None), &["/web"], &[]),
    ];
    let cluster = Cluster::start(&rules).await;
    let token = bearer(&cluster.token());
    let made = |id: &str, source: &str, event_type: &str| Event::builder(id, source, event_type).build().unwrap();
    for (source, event_type, reason) in [
        ("/shop/1", "com.shop.order", None),
        ("/shop/", "com.shop.bill.paid", None),
        ("/web", "anything", None),
        ("/shop/1", "com.shop.bill", Some("type")),
        ("/shop/1", "com.shop.orders", Some("type")),
        ("/shop", "com.shop.order", Some("source")),
        ("/web/1", "com.shop.order", Some("source")),
    ] {
        let answer = cluster.publish(&made(&format!("{source}{event_type}"), source, event_type), &[&token]).await;
        match reason {
            None => assert_eq!(answer.status, StatusCode::ACCEPTED, "{source} {event_type}: {answer:?}"),
            Some(reason) => {
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{source} {event_type}");
                assert!(answer.detail().contains(reason), "{}", answer.detail());
            }
        }
    }
    let batch = binding::encode_batch(&[made("good", "/web", "t"), made("bad", "/other", "t")]).unwrap();
    let headers = [("content-type", "application/cloudevents-batch+json"), ("authorization", &*token)];
    assert_eq!(cluster.ingress.post(&headers, batch).await.status, StatusCode::FORBIDDEN);
    assert_eq!(messages(&cluster.broker).await.len(), 3, "nothing of the batch");
}

#[tokio::test]
async fn a_topic_without_access_is_like_one_that_is_not_there() {
    let cluster = Cluster::start(&[account("web", None)]).await;
    let Cluster { broker, ingress, issuer } = &cluster;
    let (closed, missing) = (TopicId::new("shop", "orders").unwrap(), TopicId::new("shop", "none").unwrap());
    broker.add_topic(&closed, topic()).await;
    let answers = async |topic: &TopicId| {
        let mut answers = Vec::new();
        let of_topic = issuer.token("web", "checkout", &contract::audience(topic), now());
        let of_another = issuer.token("web", "checkout", "tidegate.io/eventtopic/shop/other", now());
        for token in [None, Some(of_topic), Some(of_another), Some("x".to_owned())] {
            for (method, path) in
                [("POST", format!("/{topic}")), ("DELETE", format!("/{topic}/delayed/{}", "A".repeat(43)))]
            {
                let mut request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header("host", "10.0.0.1")
                    .header(STRUCTURED.0, STRUCTURED.1);
                if let Some(token) = &token {
                    request = request.header("authorization", bearer(token));
                }
                let body =
                    if method == "POST" { binding::encode_structured(&event("1")).unwrap() } else { Bytes::new() };
                let mut answer = ingress.send(request.body(Full::new(body)).unwrap()).await;
                answer.headers.remove("date");
                answers.push((answer.status, answer.headers, answer.body));
            }
        }
        let options = Request::options(format!("/{topic}"))
            .header("host", "10.0.0.1")
            .header("webhook-request-origin", "a.example.com");
        let mut answer = ingress.send(options.body(Full::default()).unwrap()).await;
        answer.headers.remove("date");
        answers.push((answer.status, answer.headers, answer.body));
        answers
    };
    let statuses: Vec<_> = answers(&missing).await.iter().map(|(status, ..)| status.as_u16()).collect();
    assert_eq!(statuses, [401, 401, 403, 403, 401, 401, 401, 401, 200]);
    write(broker, Some(issuer.trust()), &[account("web", None)]);
    let ask = broker.ingresses(1).await;
    eventually("the topic is served", async || matches!(ask.serving(&closed, "1").await, Ok(1))).await;
    assert_eq!(answers(&closed).await, answers(&missing).await);
}

#[tokio::test]
async fn a_topic_with_no_rule_admits_nobody_and_one_for_everybody_knows_who_came() {
    let cluster = Cluster::start(&[]).await;
    let token = bearer(&cluster.token());
    assert_eq!(cluster.publish(&event("1"), &[]).await.status, StatusCode::UNAUTHORIZED);
    let answer = cluster.publish(&event("1"), &[&token]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.detail().contains("system:serviceaccount:web:checkout"), "{}", answer.detail());
    write(&cluster.broker, Some(cluster.issuer.trust()), &[PublisherRule::anonymous()]);
    let accepted =
        async |authorization: &[&str]| cluster.publish(&event("1"), authorization).await.status == StatusCode::ACCEPTED;
    eventually("everybody is admitted", async || accepted(&[]).await).await;
    assert!(accepted(&[&token]).await);
    assert_eq!(
        cluster.publish(&event("1"), &["Bearer x"]).await.status,
        StatusCode::UNAUTHORIZED,
        "what is shown is good"
    );
    let ids: Vec<_> =
        messages(&cluster.broker).await.iter().map(|m| m.headers.get("Nats-Msg-Id").unwrap().to_string()).collect();
    let known = message_id::of_publisher("system:serviceaccount:web:checkout", "/sensors/1", "1");
    assert_eq!(ids, [message_id::of_content(&event("1")), known], "each has its own ids");
}

#[tokio::test]
async fn rules_and_keys_change_while_a_connection_is_open() {
    let cluster = Cluster::start(&[account("web", None)]).await;
    let mut connection = http2(cluster.ingress.connect(b"h2").await).await;
    let token = bearer(&cluster.token());
    let mut status = async || {
        let (mut head, body) = authorized(&event("1"), &[&token]).into_parts();
        head.uri = "https://localhost/".parse().unwrap();
        head.headers.remove("host");
        connection.ready().await.unwrap();
        connection.send_request(Request::from_parts(head, body)).await.unwrap().status()
    };
    assert_eq!(status().await, StatusCode::ACCEPTED);
    let mut until = async |expected: StatusCode| {
        for _ in 0..400 {
            if status().await == expected {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("not {expected}");
    };
    write(&cluster.broker, Some(cluster.issuer.trust()), &[account("shop", None)]);
    until(StatusCode::FORBIDDEN).await;
    write(&cluster.broker, Some(cluster.issuer.trust()), &[account("web", None)]);
    until(StatusCode::ACCEPTED).await;
    // A key that the cluster no longer has is good until its tokens end; no keys at all are none.
    let mut rotated = Issuer::new("https://cluster", "key-2", "ES384").trust();
    write(&cluster.broker, Some(rotated.clone()), &[account("web", None), account("web", Some("a"))]);
    for _ in 0..20 {
        assert_eq!(status_of(&cluster, &token).await, StatusCode::ACCEPTED);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    rotated.issuer = "https://new".to_owned();
    write(&cluster.broker, Some(rotated), &[account("web", None)]);
    until(StatusCode::UNAUTHORIZED).await;
}

async fn status_of(cluster: &Cluster, token: &str) -> StatusCode {
    cluster.publish(&event("1"), &[token]).await.status
}

#[tokio::test]
async fn a_handler_needs_no_rule() {
    let cluster = Cluster::start(&[]).await;
    let topic = TopicKey::new(&cluster.broker.authority().message_id_key(&topic_id()).unwrap());
    let key = HandlerKey::from_text(&topic.handler_key_text("uid-billing")).unwrap();
    let good = key.token("uid-billing", "7");
    let send = async |token: &str| {
        let body = binding::encode_structured(&event("1")).unwrap();
        cluster.ingress.post(&[STRUCTURED, (HEADER, token)], body).await.status
    };
    assert_eq!(send(&good).await, StatusCode::ACCEPTED);
    assert_eq!(send(&good.replace(".7.", ".8.")).await, StatusCode::FORBIDDEN);
    assert_eq!(messages(&cluster.broker).await.len(), 1);
}

/// Forged tokens are counted against the address that they come from, and others with new tokens get in.
#[tokio::test]
async fn a_flood_of_forged_tokens_is_cut_off() {
    let cluster = Cluster::start(&[account("web", None)]).await;
    let known = bearer(&cluster.token());
    assert_eq!(cluster.publish(&event("0"), &[&known]).await.status, StatusCode::ACCEPTED);
    let forger = Issuer::new("https://cluster", "key-1", "ES256");
    let audience = contract::audience(&topic_id());
    let mut statuses = Vec::new();
    for number in 0..100 {
        let forged = bearer(&forger.token("web", &format!("sa-{number}"), &audience, now()));
        statuses.push(cluster.publish(&event("1"), &[&forged]).await.status.as_u16());
    }
    let verified = statuses.iter().filter(|status| **status == 401).count();
    assert!((32..80).contains(&verified), "{verified}");
    assert!(statuses.iter().all(|status| matches!(status, 401 | 429)), "{statuses:?}");
    assert_eq!(
        cluster.publish(&event("2"), &[&known]).await.status,
        StatusCode::ACCEPTED,
        "what is known needs no proof"
    );
    let fresh = bearer(&cluster.issuer.token("web", "other", &audience, now()));
    let stream = cluster.ingress.connect_from(2, cluster.ingress.https, b"http/1.1").await;
    assert_eq!(
        exchange(stream, authorized(&event("3"), &[&fresh])).await.status,
        StatusCode::ACCEPTED,
        "another address"
    );
}

#[tokio::test]
async fn a_publisher_over_nats_needs_a_rule_too() {
    let till = PublisherRule::new(RuleKind::Nats { name: "till".into() });
    let cluster = Cluster::start(&[limited(till, &["/sensors/*"], &["temperature"])]).await;
    let client = async |name: &str| {
        let identity = cluster.broker.publisher(name).await;
        peer::connect("publisher", &cluster.broker.servers(), identity::folder(&identity)).await.unwrap()
    };
    let (till, other) = (client("till").await, client("other").await);
    let publish = async |client: &async_nats::Client, event: &Event| {
        let (headers, payload) = peer::encode(event);
        let reply = client.request_with_headers(layout::PUBLISH_SUBJECT, headers, payload).await.unwrap();
        let reply: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
        reply["error"]["code"].as_u64()
    };
    assert_eq!(publish(&till, &event("1")).await, None);
    assert_eq!(publish(&other, &event("1")).await, Some(403));
    let humidity = Event::builder("2", "/sensors/1", "humidity").build().unwrap();
    assert_eq!(publish(&till, &humidity).await, Some(403));
    assert_eq!(events(&cluster.broker).await, [event("1")]);
}

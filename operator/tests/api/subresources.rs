//! The aggregated API, asked through the API server, by users with and without rights; and by a stranger at its port.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use axum::http::{Method, Request};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::client::Body;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tidegate_broker_client::{layout, peer};
use tidegate_cloudevents::Event;
use tidegate_crds::EventHandler;
use tidegate_operator::https;
use tidegate_operator::sessions::brokers::Brokers;
use tidegate_operator::subresources::API_SERVICE;
use tidegate_test_broker::{TestBroker, TopicHandle, free_port, jetstream};
use tokio::sync::MutexGuard;
use tokio_util::task::AbortOnDropHandle;

use crate::handler::until_reason;
use crate::support::brokers::{OPERATORS, Places, account, server, topic_on, until_ready};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually, front_proxies, server_config};
use crate::validation_handler::{handler, spec};

/// May read and drop.
pub const ANN: &str = "ann";
/// May read topics and handlers, as role view has it.
pub const BOB: &str = "bob";
/// No request of the operator waits longer for a broker.
const BROKER_REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A topic `orders` with a handler `billing` on a real broker, and an operator pod that does not lead and serves the API.
pub struct Data {
    pub space: Space,
    /// For the calls: one that does not try again by itself.
    client: Client,
    pub broker: TestBroker,
    pub topic: TopicHandle,
    port: u16,
    _operator: Operator,
    serving: Option<AbortOnDropHandle<std::io::Result<()>>>,
    // Last: an APIService is the cluster's.
    _turn: MutexGuard<'static, ()>,
}

impl Data {
    pub async fn start(purpose: &str) -> Self {
        let turn = turn().await;
        let (space, places) = (Space::new(purpose).await, Places::default());
        let broker = server().await;
        topic_on(&space, &places, &broker, "orders").await;
        let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
        until_ready(&space, "orders").await;
        space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
        until_reason(&space, "Subscribed", "Subscribed").await;
        let topic = account(&space, &broker, "orders").await;
        let port = free_port();
        let mut args = args("operator-1", OPERATORS);
        (args.webhook, args.webhook_port, args.subresources) = (Some(space.name.clone()), port, true);
        let brokers = Arc::new(Brokers::new(places.addresses()));
        let serving = AbortOnDropHandle::new(tokio::spawn(https::run(space.client.clone(), args, brokers)));
        let mut config = server_config();
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        let data =
            Self { space, client, broker, topic, port, _operator: operator, serving: Some(serving), _turn: turn };
        data.register().await;
        data.grant().await;
        data
    }

    /// As the chart does.
    async fn register(&self) {
        let name = &self.space.name;
        let service = json!({
            "metadata": {"name": name}, "spec": {"type": "ExternalName", "externalName": "localhost"},
        });
        let service: Service = serde_json::from_value(service).unwrap();
        let services: Api<Service> = Api::namespaced(self.space.client.clone(), OPERATORS);
        services.create(&PostParams::default(), &service).await.unwrap();
        let registered = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": API_SERVICE},
            "spec": {
                "group": "subresources.tidegate.io", "version": "v1alpha1", "groupPriorityMinimum": 1000,
                "versionPriority": 15, "service": {"name": name, "namespace": OPERATORS, "port": self.port},
            },
        });
        let api: Api<APIService> = Api::all(self.space.client.clone());
        let params = PatchParams::apply("helm").force();
        api.patch(API_SERVICE, &params, &Patch::Apply(registered)).await.unwrap();
        eventually("the API server reaches the API", async || {
            let (code, answer) = self.get("admin", "").await;
            (code == 200).then_some(()).or_else(|| {
                eprintln!("{code} {answer}");
                None
            })
        })
        .await;
    }

    async fn grant(&self) {
        let events = "subresources.tidegate.io";
        for (user, rules) in [
            (
                ANN,
                json!([
                    {"apiGroups": [events], "resources": ["eventtopics/events"], "verbs": ["get", "watch"]},
                    {"apiGroups": [events], "resources": ["eventhandlers/deadletters"], "verbs": ["get", "delete"]},
                    {"apiGroups": [events], "resources": ["eventhandlers/redrive"], "verbs": ["create"]},
                ]),
            ),
            (BOB, json!([{"apiGroups": ["tidegate.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]}])),
        ] {
            let meta = json!({"name": user});
            self.space.create::<Role>(json!({"metadata": meta, "rules": rules})).await;
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user});
            let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
            self.space.create::<RoleBinding>(json!({"metadata": meta, "roleRef": role, "subjects": [subject]})).await;
        }
        // The API server hears of it a moment later.
        eventually("a right", async || {
            (self.get(ANN, &self.path("eventtopics/orders/events")).await.0 == 200).then_some(())
        })
        .await;
    }

    /// Ends the operator pod that serves the API.
    pub async fn end_operator(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/namespaces/{}/{rest}", self.space.name)
    }

    async fn call(&self, method: Method, user: &str, path: &str) -> (u16, String) {
        self.call_with(method, user, path, String::new()).await
    }

    pub async fn call_with(&self, method: Method, user: &str, path: &str, body: String) -> (u16, String) {
        let uri = format!("/apis/subresources.tidegate.io/v1alpha1{path}");
        let mut request = Request::builder().method(method).uri(uri);
        if user != "admin" {
            request = request.header("impersonate-user", user);
        }
        let response = self.client.send(request.body(Body::from(body.into_bytes())).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect_bytes().await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    pub async fn get(&self, user: &str, path: &str) -> (u16, Value) {
        let (code, body) = self.call(Method::GET, user, path).await;
        (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// What ann gets.
    pub async fn read(&self, rest: &str) -> Value {
        let (code, answer) = self.get(ANN, &self.path(rest)).await;
        assert_eq!(code, 200, "{rest}: {answer}");
        answer
    }

    /// Each call says in this time that the broker gives no answer.
    async fn refused_within(&self, broker: &str, limit: Duration) {
        for rest in [
            "eventtopics/orders/events?last=1",
            "eventtopics/orders/events?watch=true",
            "eventhandlers/billing/deadletters",
            "eventhandlers/billing/deadletters/1",
        ] {
            let asked = Instant::now();
            let (code, answer) = self.get(ANN, &self.path(rest)).await;
            assert!(asked.elapsed() < limit, "the broker {broker}: {rest}: {:?}", asked.elapsed());
            let message = answer["message"].as_str().unwrap_or_default();
            assert!(
                code == 503 && message.contains("the events are kept"),
                "the broker {broker}: {rest}: {code} {answer}"
            );
        }
    }

    pub async fn store(&self, event: &Event) {
        let (headers, payload) = peer::encode(event);
        let subject = layout::event_subject(0, event.event_type());
        self.publish(subject, headers, payload).await;
    }

    pub async fn dead_letter(&self, event: &Event, more: &[(&str, &str)]) {
        let (mut headers, payload) = peer::encode(event);
        for (name, value) in more {
            headers.insert(*name, *value);
        }
        self.publish(layout::dead_letter_subject("billing"), headers, payload).await;
    }

    pub async fn publish(&self, subject: String, headers: HeaderMap, payload: axum::body::Bytes) {
        let js = jetstream(self.topic.operator.clone());
        js.publish_with_headers(subject, headers, payload).await.unwrap().await.unwrap();
    }
}

pub fn event(id: &str, data: &[u8]) -> Event {
    Event::builder(id, "/shop", "order.new").data(data.to_vec()).build().unwrap()
}

pub fn sequences(list: &Value) -> Vec<u64> {
    list["items"].as_array().unwrap().iter().map(|item| item["sequence"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn stored_events_are_shown_in_pages_to_whoever_may_read_them() {
    let data = Data::start("api-events").await;
    for number in 1..=5 {
        data.store(&event(&number.to_string(), b"\xff\x00\x1b[2J")).await;
    }
    let first = data.read("eventtopics/orders/events?limit=2").await;
    assert_eq!((first["kind"].as_str(), sequences(&first)), (Some("StoredEventList"), vec![1, 2]));
    assert_eq!(first["items"][0]["event"]["data_base64"], "/wAbWzJK");
    let next = first["metadata"]["continue"].as_str().unwrap();
    let rest = data.read(&format!("eventtopics/orders/events?continue={next}")).await;
    assert_eq!((sequences(&rest), rest["metadata"].get("continue")), (vec![3, 4, 5], None));
    assert_eq!(sequences(&data.read("eventtopics/orders/events?last=2").await), [4, 5]);
    let time = |item: usize| rest["items"][item]["time"].as_str().unwrap().to_owned();
    assert_eq!(sequences(&data.read(&format!("eventtopics/orders/events?since={}", time(1))).await), [4, 5]);

    let path = data.path("eventtopics/orders/events");
    for (query, expected) in [("?limit=501", 400), ("?limits=1", 400), ("?since=x", 400)] {
        let (code, answer) = data.get(ANN, &format!("{path}{query}")).await;
        assert_eq!((code, answer["kind"].as_str()), (expected, Some("Status")), "{answer}");
    }
    let (code, answer) = data.get(ANN, &data.path("eventtopics/other/events")).await;
    assert!(code == 404 && answer["message"].as_str().unwrap().contains("no EventTopic other"), "{answer}");
    // A name that would be another address.
    let (code, answer) = data.get("admin", &data.path("eventtopics/orders%3Fx/events")).await;
    assert_eq!(code, 400, "{answer}");
    assert_eq!(data.get(BOB, &path).await.0, 403);
    assert_eq!(data.get(BOB, &data.path("eventhandlers/billing/deadletters")).await.0, 403);
}

#[tokio::test]
async fn a_watch_shows_what_comes_and_ends() {
    let data = Data::start("api-watch").await;
    data.store(&event("before", b"1")).await;
    let started = Instant::now();
    let path = data.path("eventtopics/orders/events?watch=true&timeoutSeconds=4");
    let (watched, ()) = tokio::join!(data.call(Method::GET, ANN, &path), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        data.store(&event("during", b"2")).await;
    });
    assert!((3..20).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let lines: Vec<Value> = watched.1.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["object"]["sequence"], 1, "{lines:?}");
    assert_eq!(
        (lines.len(), &lines[1]["type"], &lines[1]["object"]["event"]["id"]),
        (2, &json!("ADDED"), &json!("during"))
    );
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_dropped() {
    let data = Data::start("api-letters").await;
    let history = r#"[{"time":"2026-01-01T00:00:00Z","status":503,"error":"busy"}]"#;
    let refused =
        [("Tidegate-Reason", "refused-by-handler"), ("Tidegate-Last-Status", "404"), ("Tidegate-Sequence", "7")];
    let used_up =
        [("Tidegate-Reason", "attempts-used-up"), ("Tidegate-Attempts", "1"), ("Tidegate-Attempt-History", history)];
    data.dead_letter(&event("a", b"apples"), &refused).await;
    data.dead_letter(&event("b", b"pears"), &used_up).await;
    data.publish(layout::dead_letter_subject("billing"), HeaderMap::new(), "no event".into()).await;

    let letters = "eventhandlers/billing/deadletters";
    let all = data.read(letters).await;
    assert_eq!((all["kind"].as_str(), sequences(&all)), (Some("DeadLetterList"), vec![1, 2, 3]));
    let first = &all["items"][0];
    assert_eq!(
        (&first["reason"], &first["lastStatus"], &first["eventSequence"]),
        (&json!("refused-by-handler"), &json!(404), &json!(7))
    );
    assert_eq!(
        (first["event"].get("data"), first["event"].get("data_base64"), &first["dataBytes"]),
        (None, None, &json!(6))
    );
    assert!(all["items"][2]["problem"].is_string(), "{all}");
    for (query, expected) in [
        ("reason=attempts-used-up", vec![2]),
        ("type=order.new", vec![1, 2]),
        ("type=order.*", vec![1, 2]),
        ("type=order", vec![]),
        ("text=apples", vec![1]),
        ("until=2020-01-01T00:00:00Z", vec![]),
        ("since=2020-01-01T00:00:00Z&limit=2", vec![1, 2]),
    ] {
        assert_eq!(sequences(&data.read(&format!("{letters}?{query}")).await), expected, "{query}");
    }
    let whole = data.read(&format!("{letters}?data=true&limit=1")).await;
    assert!(
        whole["items"][0]["event"].get("data").or(whole["items"][0]["event"].get("data_base64")).is_some(),
        "{whole}"
    );
    let one = data.read(&format!("{letters}/2")).await;
    assert_eq!((&one["history"][0]["error"], &one["event"]["id"]), (&json!("busy"), &json!("b")));
    assert_eq!(data.get(ANN, &data.path(&format!("{letters}/9"))).await.0, 404);

    let (code, answer) = data.call(Method::DELETE, ANN, &data.path(&format!("{letters}?sequence=1&sequence=9"))).await;
    assert!(code == 200 && answer.contains("1 of 2 dead letters"), "{answer}");
    let dropped: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(dropped["details"], json!({"dropped": 1, "gone": [9]}));
    assert_eq!(sequences(&data.read(letters).await), [2, 3]);
    assert_eq!(data.call(Method::DELETE, BOB, &data.path(&format!("{letters}?sequence=2"))).await.0, 403);
    assert_eq!(data.call(Method::DELETE, ANN, &data.path(letters)).await.0, 400, "all of them are never meant");
}

#[tokio::test]
async fn calls_end_soon_while_the_broker_hangs_or_is_away() {
    let mut data = Data::start("api-away").await;
    data.store(&event("1", b"1")).await;
    assert_eq!(sequences(&data.read("eventtopics/orders/events").await), [1]);
    let pid = Pid::from_raw(data.broker.pid().unwrap().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    data.refused_within("hangs", BROKER_REPLY_TIMEOUT * 2).await;
    kill(pid, Signal::SIGCONT).unwrap();
    eventually("the broker answers again", async || {
        (data.get(ANN, &data.path("eventtopics/orders/events")).await.0 == 200).then_some(())
    })
    .await;
    data.broker.stop();
    data.refused_within("is away", BROKER_REPLY_TIMEOUT).await;
}

/// Whoever reaches the port can write any header.
#[tokio::test]
async fn a_stranger_is_nobody_whatever_it_says() {
    let data = Data::start("api-stranger").await;
    let path = format!("/apis/subresources.tidegate.io/v1alpha1{}", data.path("eventtopics/orders/events"));
    let [front_proxy, other_name, other_authority] = front_proxies();
    let secrets: Api<Secret> = Api::namespaced(data.space.client.clone(), OPERATORS);
    let ca = secrets.get(&data.space.name).await.unwrap().data.unwrap()["servers-ca.crt"].0.clone();
    let host = format!("{}.{OPERATORS}.svc", data.space.name);
    let ask = async |identity: Option<&(String, String)>, user: &str, group: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Remote-User: {user}\r\nX-Remote-Group: {group}\r\n\r\n"
        );
        let (port, identity, ca, host) = (data.port, identity.cloned(), ca.clone(), host.clone());
        tokio::task::spawn_blocking(move || direct(port, &ca, host, identity, &request)).await.unwrap()
    };
    let status = |answer: Option<String>| answer.map(|answer| answer["HTTP/1.1 ".len()..][..3].to_owned());
    assert_eq!(status(ask(None, "root", "system:masters").await).as_deref(), Some("401"));
    assert_eq!(status(ask(Some(&other_name), "root", "system:masters").await).as_deref(), Some("401"));
    assert_eq!(status(ask(Some(&other_authority), "root", "system:masters").await), None, "no handshake");
    // The front proxy itself: the operator asks for the rights too, and does not rely on the API server's look.
    assert_eq!(status(ask(Some(&front_proxy), BOB, "x").await).as_deref(), Some("403"));
    assert_eq!(status(ask(Some(&front_proxy), ANN, "x").await).as_deref(), Some("200"));
    assert_eq!(status(ask(Some(&front_proxy), "", "system:masters").await).as_deref(), Some("401"));
}

/// The answer to a request at the operator's port; `None`: TLS is not agreed on.
fn direct(port: u16, ca: &[u8], host: String, identity: Option<(String, String)>, request: &str) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let name = ServerName::try_from(host).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.starts_with("HTTP/1.1 ").then_some(answer)
}

//! The authorization matrix: who × operation × port, on one server and on three. `--nocapture` prints it
//! ([`crate::table`]).

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::Subscriber;
use futures::StreamExt as _;
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_admin::{Authority, LeafRequest, Usage, consumers};
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::identity::{self, file};
use tidegate_broker_client::layout::ingress::{self, TopicSubjects};
use tidegate_broker_client::{TopicId, layout, peer};
use tidegate_test_broker::{LIMIT, TestBroker, eventually, topic, topic_id};
use tidegate_wire::nats;

use crate::doors::operations::Wanted::{Allowed, Open, Refused};
use crate::doors::operations::operations;
use crate::doors::raw::{Raw, Shown};
use crate::doors::stranger::Stranger;
use crate::doors::table::{Kind, Matrix};

/// Who wakes servers, and may do nothing else.
const WAKER: &str = "waker";

/// The port by which ingresses wake the servers beside them: only their user is let in, and only on the pod's loopback.
async fn try_leafnodes(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)], stranger: &Path) {
    let (address, ca) = (broker.wake_address(), people[0].1.as_path());
    let waker = people.iter().find(|(who, _)| *who == WAKER).map(|(_, folder)| folder.as_path());
    for (who, folder) in people {
        let shown = Shown { certificate: Some(folder), user: Some(folder) };
        let wanted = if *who == WAKER { Allowed } else { Refused };
        let is_in = Raw::leafnode(&address, ca, shown).await.is_ok();
        matrix.row(who, Kind::Leafnode, "with its certificate and its user", wanted, is_in);
        let is_in = Raw::leafnode(&address, ca, Shown { user: None, ..shown }).await.is_ok();
        matrix.row(who, Kind::Leafnode, "without a user", Refused, is_in);
    }
    for (operation, certificate) in
        [("as the waker, without a certificate", None), ("as the waker, certificate of another topic", Some(stranger))]
    {
        let is_in = Raw::leafnode(&address, ca, Shown { certificate, user: waker }).await.is_ok();
        matrix.row("anybody", Kind::Leafnode, operation, Refused, is_in);
    }
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let is_in = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port)).is_ok();
    matrix.row("anybody", Kind::Leafnode, "from elsewhere than the pod's loopback", Refused, is_in);
}

async fn try_operations(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)]) {
    let (servers, ca) = (broker.servers(), people[0].1.as_path());
    for (who, folder) in people {
        let shown = Shown { certificate: Some(folder.as_path()), user: Some(folder.as_path()) };
        for (verb, subject, wanted) in operations() {
            let mut allowed = Vec::new();
            for server in &servers {
                let mut raw = Raw::connect(server, ca, shown).await.unwrap();
                allowed.push(match verb {
                    "publish" => raw.reaches(&subject).await,
                    _ => raw.subscribes(&subject).await,
                });
            }
            assert!(allowed.iter().all(|one| *one == allowed[0]), "{who} {verb} {subject}: {allowed:?}");
            let kind = if verb == "publish" { Kind::Publish } else { Kind::Subscribe };
            matrix.row(who, kind, subject, *wanted.get(who).unwrap_or(&Refused), allowed[0]);
        }
    }
}

/// The subject of a reply is the requester's choice.
async fn try_replies(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)]) {
    let stream = broker.jetstream();
    let count =
        async || stream.get_stream(layout::EVENT_STREAM).await.ok().map(|stream| stream.cached_info().state.messages);
    let ca = people[0].1.as_path();
    stream.publish("events.0.test", "kept".into()).await.unwrap().await.unwrap();
    for (who, folder) in people {
        let before = count().await;
        let shown = Shown { certificate: Some(folder.as_path()), user: Some(folder.as_path()) };
        let mut raw = Raw::connect(&broker.servers()[0], ca, shown).await.unwrap();
        let subject = match *who {
            "publisher" | "publisher elsewhere" | WAKER => layout::PUBLISH_SUBJECT.to_owned(),
            "ingress" => TopicSubjects::new(&topic_id(), Routing::Queued).event("events.0.test"),
            handler => layout::dead_letter_subject(handler.trim_start_matches("handler ")),
        };
        for reply in ["$JS.API.STREAM.PURGE.events", "$JS.API.STREAM.DELETE.events"] {
            raw.publish(&subject, reply, "x").await;
            // The answer has gone where it was to go when a request after it was answered.
            broker.operator().flush().await.unwrap();
            // An ingress stores what it sends.
            let is_harmed = count().await.is_none_or(|left| Some(left) < before);
            matrix.row(who, Kind::ForgedReply, reply, Refused, is_harmed);
        }
    }
    // Inside the topic's account it works: a pull that finds nothing is answered without a body, which is a whole request.
    let before = count().await;
    let begun = Instant::now();
    while count().await >= before && begun.elapsed() < LIMIT {
        let (pull, reply) = ("$JS.API.CONSUMER.MSG.NEXT.events.billing", "$JS.API.STREAM.PURGE.events");
        let body = r#"{"batch":1,"no_wait":true}"#;
        broker.operator().publish_with_reply(pull, reply, body.into()).await.unwrap();
        broker.operator().flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    matrix.row("(control)", Kind::ForgedReply, "$JS.API.STREAM.PURGE.events", Allowed, count().await < before);
}

async fn try_handshakes(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)], stranger: &Path) {
    let server_leaf = broker.server_identity_dir();
    let handler = people[0].1.as_path();
    for server in broker.servers() {
        let mut tries = vec![
            ("anybody", "connect without a certificate", None, None),
            ("anybody", "connect as a user, without a certificate", None, Some(handler)),
            ("anybody", "connect as a user, certificate of another topic", Some(stranger), Some(handler)),
            ("anybody", "connect as a user, certificate of a server", Some(server_leaf.as_path()), Some(handler)),
        ];
        tries.extend(people.iter().map(|(who, folder)| (*who, "connect without a user", Some(folder.as_path()), None)));
        for (who, operation, certificate, user) in tries {
            let is_in = Raw::connect(&server, handler, Shown { certificate, user }).await.is_ok();
            matrix.row(who, Kind::Connect, operation, Refused, is_in);
        }
        for (who, folder) in people {
            let shown = Shown { certificate: Some(folder.as_path()), user: Some(folder.as_path()) };
            let is_in = Raw::connect(&server, handler, shown).await.is_ok();
            matrix.row(who, Kind::Connect, "connect with its certificate and its user", Allowed, is_in);
        }
    }
    // Certificate and user are not bound to each other.
    let shown = Shown { certificate: Some(people[1].1.as_path()), user: Some(handler) };
    let is_in = Raw::connect(&broker.servers()[0], handler, shown).await.is_ok();
    matrix.row("publisher", Kind::Connect, "connect with its certificate and a stolen user", Open, is_in);
}

/// Hears reports as the operator does, and waits until every server knows of it.
async fn listen_as_operator(broker: &TestBroker, billing: &Path) -> [Subscriber; 2] {
    let listeners = [broker.reports().await, broker.ingress_reports().await];
    let reports = [
        (billing.to_owned(), layout::report_subject("billing")),
        (broker.ingress_client_dir(), TopicSubjects::new(&topic_id(), Routing::Queued).report()),
    ];
    for server in broker.servers() {
        for (who, subject) in &reports {
            let client = peer::connect("r", std::slice::from_ref(&server), identity::folder(who)).await.unwrap();
            until_heard(&client, subject, &format!("{server} knows who listens to {subject}")).await;
        }
    }
    listeners
}

/// No responders is said at once.
async fn until_heard(client: &async_nats::Client, subject: &str, what: &str) {
    eventually(what, async || {
        let asked = tokio::time::timeout(Duration::from_millis(200), client.request(subject.to_owned(), "".into()));
        !matches!(asked.await, Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders)
    })
    .await;
}

/// Takes what publishers send, so that it can be seen to arrive: in each server, as the ingresses have it.
async fn listen_as_ingress(broker: &TestBroker) -> Vec<(async_nats::Client, Subscriber)> {
    let folder = broker.ingress_client_dir();
    let client = peer::connect("ingress", &broker.servers(), identity::folder(folder)).await.unwrap();
    let listener = client.queue_subscribe(ingress::PUBLISHES, "ingress".into()).await.unwrap();
    client.flush().await.unwrap();
    let identity = broker.publisher("sensors").await;
    for server in broker.servers() {
        let publisher = peer::connect("p", std::slice::from_ref(&server), identity::folder(&identity)).await.unwrap();
        until_heard(&publisher, layout::PUBLISH_SUBJECT, &format!("{server} knows the ingress")).await;
    }
    vec![(client, listener)]
}

/// What the operator is answered in the topic's account is for nobody else (hole 13 of the first version: the ingress
/// was in that account).
async fn try_inboxes(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)]) {
    let ca = people[0].1.as_path();
    let operator = broker.admin_client();
    for (who, folder) in people {
        let shown = Shown { certificate: Some(folder.as_path()), user: Some(folder.as_path()) };
        for server in broker.servers() {
            let mut raw = Raw::connect(&server, ca, shown).await.unwrap();
            assert!(raw.subscribes("_INBOX.>").await || *who == WAKER, "each may, in its own account");
            for number in 0..10 {
                let subject = format!("_INBOX.answer.{number}");
                let answer = nats::Publish { subject: &subject, payload: b"secret", ..nats::Publish::default() };
                operator.publish(&answer).await.unwrap();
            }
            operator.flush().await.unwrap();
            matrix.row(who, Kind::HearAnswers, "_INBOX.> of the topic's account", Refused, raw.hears().await);
        }
    }
    let inside = broker.operator_at(0).await;
    let mut heard = inside.subscribe("_INBOX.>").await.unwrap();
    let begun = Instant::now();
    let mut is_heard = false;
    while !is_heard && begun.elapsed() < LIMIT {
        broker.operator().publish("_INBOX.answer.control", "secret".into()).await.unwrap();
        broker.operator().flush().await.unwrap();
        let next = tokio::time::timeout(Duration::from_millis(100), heard.next()).await;
        is_heard = next.is_ok_and(|message| message.is_some());
    }
    matrix.row("(control)", Kind::HearAnswers, "_INBOX.> in the topic's account", Allowed, is_heard);
}

fn ordered() -> consumers::Handler {
    consumers::Handler {
        name: "ordered".into(),
        uid: "uid-ordered".into(),
        ack_wait: Duration::from_secs(5),
        max_ack_pending: 64,
        types: Vec::new(),
        start: consumers::Start::Latest,
        order: Order::Key { lanes: 2 },
        is_suspended: false,
        is_draining: false,
    }
}

async fn try_everything(broker: &TestBroker) -> Vec<String> {
    let mut matrix = Matrix::default();
    let wait = Duration::from_secs(5);
    let later = Later { max_bytes: 1 << 20, max_delay: Some(Duration::from_secs(60)), has_schedules: true };
    let topic = Topic { replicas: broker.servers().len(), later: Some(later), ..topic() };
    streams::ensure(&broker.admin(), &topic).await.unwrap();
    let elsewhere = TopicId::new("test", "elsewhere").unwrap();
    let other =
        broker.add_topic(&elsewhere, Topic { replicas: broker.servers().len(), ..tidegate_test_broker::topic() }).await;
    let handler =
        consumers::Handler { name: "elsewhere".into(), uid: "uid-elsewhere".into(), order: Order::None, ..ordered() };
    let people = [
        ("handler billing", broker.handler("billing", wait).await),
        ("publisher", broker.publisher("sensors").await),
        ("ingress", broker.ingress_client_dir()),
        ("handler ordered", broker.handler_with(ordered()).await),
        ("handler elsewhere", broker.handler_of(&elsewhere, &other.admin, handler).await),
        ("publisher elsewhere", broker.publisher_of(&elsewhere, "sensors").await),
        (WAKER, broker.wake_client_dir()),
    ];
    broker.handler("shipping", wait).await;
    let events = broker.jetstream();
    events.publish("events.0.test", "kept".into()).await.unwrap().await.unwrap();
    let _operator = listen_as_operator(broker, &people[0].1).await;
    let _ingress = listen_as_ingress(broker).await;
    let folder = tempfile::tempdir().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let request = LeafRequest::client("stranger");
    let stranger = folder.path().join("stranger");
    std::fs::create_dir_all(&stranger).unwrap();
    let leaf = Authority::generate("other", now).unwrap().leaf(&request, now).unwrap();
    std::fs::write(stranger.join(file::CERTIFICATE), leaf.certificate).unwrap();
    std::fs::write(stranger.join(file::KEY), leaf.key).unwrap();

    try_handshakes(broker, &mut matrix, &people, &stranger).await;
    try_leafnodes(broker, &mut matrix, &people, &stranger).await;
    try_operations(broker, &mut matrix, &people).await;
    try_replies(broker, &mut matrix, &people).await;
    try_inboxes(broker, &mut matrix, &people).await;
    for (who, identity) in people.iter().chain([&("anybody", stranger.clone())]) {
        let name = format!("stranger-{}", who.replace(' ', "-"));
        let joined = Stranger::start(broker, folder.path(), &name, identity).joins(broker).await;
        matrix.row(who, Kind::JoinRoutes, "by its certificate", Refused, joined);
    }
    let request = LeafRequest { name: "member".into(), hosts: vec!["localhost".into()], usage: Usage::Peer };
    let leaf = broker.authority().leaf(&request, now).unwrap();
    let member = folder.path().join("member-identity");
    std::fs::create_dir_all(&member).unwrap();
    std::fs::write(member.join(file::CERTIFICATE), leaf.certificate).unwrap();
    std::fs::write(member.join(file::KEY), leaf.key).unwrap();
    let joined = Stranger::start(broker, folder.path(), "member", &member).joins(broker).await;
    matrix.row("(control)", Kind::JoinRoutes, "by a leaf of the routes' authority", Allowed, joined);
    // The monitoring port answers every client that reaches it: only the pod itself does.
    let monitor: u16 = broker.monitor().rsplit(':').next().unwrap().parse().unwrap();
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let is_in = TcpStream::connect((elsewhere, monitor)).is_ok();
    matrix.row("anybody", Kind::Monitor, "from elsewhere than the pod's loopback", Refused, is_in);
    let is_in = TcpStream::connect((Ipv4Addr::LOCALHOST, monitor)).is_ok();
    matrix.row("(control)", Kind::Monitor, "on the pod's loopback", Allowed, is_in);
    matrix.judge(broker.routes().len())
}

#[tokio::test]
async fn nobody_may_do_more_than_they_should_on_one_server() {
    let broker = TestBroker::start().await;
    assert_eq!(try_everything(&broker).await, Vec::<String>::new());
}

#[tokio::test]
async fn nobody_may_do_more_than_they_should_on_three_servers() {
    let broker = TestBroker::start_cluster().await;
    assert_eq!(try_everything(&broker).await, Vec::<String>::new());
}

//! The authorization matrix: who × operation × port, on one server and on three. Printed with `--nocapture`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt as _;
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_admin::{Authority, LeafRequest, Usage, consumers};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::identity::file;
use tidegate_broker_client::{later, layout};
use tidegate_test_broker::{TestBroker, eventually, topic};

use crate::raw::{Raw, Shown};
use crate::stranger::Stranger;

/// What should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Allowed,
    Refused,
    /// Allowed, and should not be: closed by the brokers' issue.
    Open,
}

use Wanted::{Allowed, Open, Refused};

/// The table so far.
#[derive(Default)]
struct Matrix(Vec<(String, String, Wanted, bool)>);

impl Matrix {
    fn row(&mut self, who: &str, operation: impl Into<String>, wanted: Wanted, is_allowed: bool) {
        self.0.push((who.to_owned(), operation.into(), wanted, is_allowed));
    }

    /// Prints it, and returns what is not as it should be.
    fn judge(&self, servers: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        eprintln!("authorization matrix, {servers} server(s)");
        for (who, operation, wanted, is_allowed) in &self.0 {
            let found = if *is_allowed { "allowed" } else { "refused" };
            let remark = match (wanted, is_allowed) {
                (Allowed, true) | (Refused, false) => "",
                (Open, true) => "OPEN: closed by the brokers' issue",
                (Open, false) => "CLOSED by now: mark it so",
                (Allowed, false) => "WRONG: should be allowed",
                (Refused, true) => "WRONG: should be refused",
            };
            let line = format!("{who:<22} {operation:<62} {found} {remark}");
            eprintln!("{line}");
            if !remark.is_empty() && (*wanted != Open || !is_allowed) {
                wrong.push(line);
            }
        }
        wrong
    }
}

/// Publishing and subscribing, as each of them may.
fn operations() -> Vec<(&'static str, String, BTreeMap<&'static str, Wanted>)> {
    let only = |who: &[(&'static str, Wanted)]| who.iter().copied().collect::<BTreeMap<_, _>>();
    let billing = |wanted| only(&[("handler billing", wanted)]);
    let mut all = Vec::new();
    for subject in [
        layout::waiting_subject("billing"),
        layout::retry_pull_subject("billing"),
        "$JS.ACK.retries_billing.billing.1.1.1.1.1".into(),
    ] {
        all.push(("publish", subject, billing(Allowed)));
    }
    for subject in [
        layout::parked_subject("ordered", 1, 7),
        layout::held_subject("ordered", 1, 7),
        layout::lease_subject("ordered", 1),
        layout::lease_read_subject("ordered", 1),
        layout::local_retry_info_subject("ordered"),
        layout::local_retry_read_subject("ordered"),
        layout::local_retry_delete_subject("ordered"),
        layout::dead_letter_subject("ordered"),
    ] {
        all.push(("publish", subject, only(&[("handler ordered", Allowed)])));
    }
    // Of others', and of their own what a handler of the other order does.
    for subject in [
        layout::waiting_subject("shipping"),
        layout::waiting_subject("ordered"),
        layout::parked_subject("billing", 1, 7),
        layout::parked_subject("shipping", 1, 7),
        layout::held_subject("billing", 1, 7),
        layout::held_subject("shipping", 1, 7),
        layout::lease_subject("shipping", 1),
        layout::lease_read_subject("shipping", 1),
        layout::retry_pull_subject("shipping"),
        layout::retry_pull_subject("ordered"),
        "$JS.API.CONSUMER.MSG.NEXT.retries_shipping.billing".into(),
        "$JS.ACK.retries_shipping.shipping.1.1.1.1.1".into(),
        layout::retry_read_subject("ordered"),
        layout::retry_read_subject("shipping"),
        layout::local_retry_read_subject("billing"),
        layout::local_retry_read_subject("shipping"),
        layout::retry_info_subject("ordered"),
        layout::retry_info_subject("shipping"),
        layout::local_retry_info_subject("billing"),
        layout::local_retry_info_subject("shipping"),
        format!("$JS.API.DIRECT.GET.{}", layout::retry_stream("ordered")),
        layout::retry_delete_subject("ordered"),
        layout::retry_delete_subject("shipping"),
        layout::local_retry_delete_subject("billing"),
        layout::local_retry_delete_subject("shipping"),
        "$JS.API.STREAM.PURGE.retries_ordered".into(),
        "$JS.API.CONSUMER.CREATE.retries_ordered.mine".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    for (subject, wanted) in [
        (layout::pull_subject("billing"), Allowed),
        (layout::dead_letter_subject("billing"), Allowed),
        (layout::attempt_subject("billing", "1"), Allowed),
        (layout::attempt_read_subject("billing", "1"), Allowed),
        (layout::report_subject("billing"), Allowed),
        ("$JS.ACK.events.billing.1.1.1.1.1".into(), Allowed),
    ] {
        all.push(("publish", subject, billing(wanted)));
    }
    all.push(("publish", layout::PUBLISH_SUBJECT.into(), only(&[("publisher", Allowed)])));
    all.push(("publish", layout::event_subject(0, "forged"), only(&[("ingress", Allowed)])));
    all.push(("publish", layout::INGRESS_REPORT_SUBJECT.into(), only(&[("ingress", Allowed)])));
    for subject in [
        later::delayed_subject("key"),
        later::PULL_SUBJECT.into(),
        later::INFO_SUBJECT.into(),
        later::PURGE_SUBJECT.into(),
        "$JS.ACK.later.ingress.1.1.1.1.1".into(),
    ] {
        all.push(("publish", subject, only(&[("ingress", Allowed)])));
    }
    // What only the broker and the operator do.
    for subject in [
        later::due_subject("key"),
        later::schedule_subject("nightly"),
        later::due_schedule_subject("nightly"),
        "$JS.API.STREAM.UPDATE.later".into(),
        "$JS.API.STREAM.DELETE.later".into(),
        "$JS.API.STREAM.MSG.GET.later".into(),
        "$JS.API.CONSUMER.CREATE.later.mine".into(),
        "$JS.API.CONSUMER.DELETE.later.ingress".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    for subject in [
        layout::pull_subject("shipping"),
        layout::dead_letter_subject("shipping"),
        layout::attempt_subject("shipping", "1"),
        layout::attempt_read_subject("shipping", "1"),
        layout::report_subject("shipping"),
        layout::info_subject("shipping"),
        layout::unpin_subject("shipping"),
        layout::redrive_subject("billing", 0, "forged"),
        "$JS.ACK.events.shipping.1.1.1.1.1".into(),
        "$JS.API.INFO".into(),
        "$JS.API.STREAM.CREATE.mine".into(),
        "$JS.API.STREAM.UPDATE.events".into(),
        "$JS.API.STREAM.NAMES".into(),
        "$JS.API.STREAM.INFO.events".into(),
        "$JS.API.STREAM.PURGE.events".into(),
        "$JS.API.STREAM.DELETE.events".into(),
        "$JS.API.STREAM.MSG.GET.events".into(),
        "$JS.API.STREAM.MSG.DELETE.events".into(),
        "$JS.API.DIRECT.GET.events".into(),
        format!("$JS.API.DIRECT.GET.{}", layout::dead_letter_stream("billing")),
        format!("$JS.API.DIRECT.GET.{}", layout::dead_letter_stream("shipping")),
        format!("$JS.API.DIRECT.GET.{}", layout::attempt_stream("shipping")),
        format!(
            "$JS.API.DIRECT.GET.{}.{}",
            layout::attempt_stream("billing"),
            layout::attempt_subject("shipping", "1")
        ),
        "$JS.API.CONSUMER.CREATE.events.mine".into(),
        "$JS.API.CONSUMER.DELETE.events.shipping".into(),
        "$JS.API.CONSUMER.LIST.events".into(),
        "$JS.API.CONSUMER.LEADER.STEPDOWN.events.billing".into(),
        "$SYS.REQ.ACCOUNT.PING.CONNZ".into(),
        "$SYS.REQ.CLAIMS.UPDATE".into(),
        "$SYS.REQ.SERVER.PING".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    let everyone =
        only(&[("handler billing", Allowed), ("handler ordered", Allowed), ("publisher", Allowed), ("ingress", Open)]);
    all.push(("subscribe", "_INBOX.>".into(), everyone));
    all.push(("subscribe", layout::PUBLISH_SUBJECT.into(), only(&[("ingress", Allowed)])));
    let handlers = only(&[("handler billing", Allowed), ("handler ordered", Allowed)]);
    all.push(("subscribe", layout::MEMBER_SUBJECT.into(), handlers));
    for subject in [
        ">",
        "*",
        layout::EVENT_SUBJECTS,
        layout::REDRIVE_SUBJECTS,
        layout::DEAD_LETTER_SUBJECTS,
        layout::ATTEMPT_SUBJECTS,
        layout::RETRY_SUBJECTS,
        layout::REPORT_SUBJECTS,
        layout::INGRESS_REPORT_SUBJECT,
        later::DELAYED_SUBJECTS,
        later::SCHEDULE_SUBJECTS,
        later::DUE_SUBJECTS,
        "$JS.>",
        "$SYS.>",
    ] {
        all.push(("subscribe", subject.into(), BTreeMap::new()));
    }
    all
}

async fn try_operations(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)]) {
    let (servers, ca) = (broker.servers(), broker.server_identity_dir());
    for (who, folder) in people {
        let shown = Shown { certificate: Some(folder.as_path()), user: Some(folder.as_path()) };
        for (verb, subject, wanted) in operations() {
            let mut allowed = Vec::new();
            for server in &servers {
                let mut raw = Raw::connect(server, &ca, shown).await.unwrap();
                allowed.push(match verb {
                    "publish" => raw.reaches(&subject).await,
                    _ => raw.subscribes(&subject).await,
                });
            }
            assert!(allowed.iter().all(|one| *one == allowed[0]), "{who} {verb} {subject}: {allowed:?}");
            matrix.row(who, format!("4222 {verb} {subject}"), *wanted.get(who).unwrap_or(&Refused), allowed[0]);
        }
    }
}

/// The subject of a reply is the requester's choice.
async fn try_replies(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)]) {
    let stream = broker.jetstream();
    let count =
        async || stream.get_stream(layout::EVENT_STREAM).await.ok().map(|stream| stream.cached_info().state.messages);
    let ca = broker.server_identity_dir();
    for (who, folder) in people {
        let shown = Shown { certificate: Some(folder.as_path()), user: Some(folder.as_path()) };
        let mut raw = Raw::connect(&broker.servers()[0], &ca, shown).await.unwrap();
        let subject = match *who {
            "publisher" => layout::PUBLISH_SUBJECT.to_owned(),
            "ingress" => layout::event_subject(0, "test"),
            handler => layout::dead_letter_subject(handler.trim_start_matches("handler ")),
        };
        for reply in ["$JS.API.STREAM.PURGE.events", "$JS.API.STREAM.DELETE.events"] {
            raw.publish(&subject, reply, "x").await;
            // The answer has gone where it was to go when a request after it was answered.
            broker.operator().flush().await.unwrap();
            let left = count().await;
            matrix.row(who, format!("4222 reply to {reply}"), Refused, left.is_none_or(|left| left == 0));
        }
    }
}

async fn try_handshakes(broker: &TestBroker, matrix: &mut Matrix, people: &[(&'static str, PathBuf)], stranger: &Path) {
    let ca = broker.server_identity_dir();
    let handler = people[0].1.as_path();
    for server in broker.servers() {
        let mut tries = vec![
            ("anybody", "connect without a certificate", None, None),
            ("anybody", "connect as a user, without a certificate", None, Some(handler)),
            ("anybody", "connect as a user, certificate of another topic", Some(stranger), Some(handler)),
            ("anybody", "connect as a user, certificate of a server", Some(ca.as_path()), Some(handler)),
        ];
        tries.extend(people.iter().map(|(who, folder)| (*who, "connect without a user", Some(folder.as_path()), None)));
        for (who, operation, certificate, user) in tries {
            let is_in = Raw::connect(&server, &ca, Shown { certificate, user }).await.is_ok();
            matrix.row(who, format!("4222 {operation}"), Refused, is_in);
        }
    }
    // Certificate and user are not bound to each other.
    let shown = Shown { certificate: Some(people[1].1.as_path()), user: Some(handler) };
    let is_in = Raw::connect(&broker.servers()[0], &ca, shown).await.is_ok();
    matrix.row("publisher", "4222 connect with its certificate and a stolen user", Open, is_in);
}

/// Listens there, and waits until every server knows of it.
async fn listen(broker: &TestBroker, subject: &'static str, said: String) -> Subscriber {
    let mut listener = broker.operator().subscribe(subject).await.unwrap();
    for server in 0..broker.servers().len() {
        let client = broker.operator_at(server).await;
        eventually(&format!("server {server} knows who listens to {subject}"), async || {
            client.publish(said.clone(), server.to_string().into()).await.unwrap();
            let heard = tokio::time::timeout(Duration::from_millis(200), listener.next()).await;
            heard.is_ok_and(|message| *message.unwrap().payload == *server.to_string().as_bytes())
        })
        .await;
    }
    listener
}

fn ordered() -> consumers::Handler {
    consumers::Handler {
        name: "ordered".into(),
        uid: "uid-ordered".into(),
        replicas: 1,
        ack_wait: Duration::from_secs(5),
        max_ack_pending: 64,
        types: Vec::new(),
        start: consumers::Start::Latest,
        order: Order::Key { lanes: 2 },
        is_suspended: false,
    }
}

async fn try_everything(broker: &TestBroker) -> Vec<String> {
    let mut matrix = Matrix::default();
    let wait = Duration::from_secs(5);
    let later = Later { max_bytes: 1 << 20, max_delay: Some(Duration::from_secs(60)), has_schedules: true };
    let topic = Topic { replicas: broker.servers().len(), later: Some(later), ..topic() };
    streams::ensure(&broker.admin(), &topic).await.unwrap();
    let people = [
        ("handler billing", broker.handler("billing", wait).await),
        ("publisher", broker.publisher("sensors").await),
        ("ingress", broker.ingress_identity_dir()),
        ("handler ordered", broker.handler_with(ordered()).await),
    ];
    broker.handler("shipping", wait).await;
    let events = broker.jetstream();
    events.publish("events.0.test", "kept".into()).await.unwrap().await.unwrap();
    // As the operator and the ingress listen.
    let mut listeners = Vec::new();
    for (listens, said) in [
        (layout::REPORT_SUBJECTS, layout::report_subject("billing")),
        (layout::INGRESS_REPORT_SUBJECT, layout::INGRESS_REPORT_SUBJECT.into()),
        (layout::PUBLISH_SUBJECT, layout::PUBLISH_SUBJECT.into()),
    ] {
        listeners.push(listen(broker, listens, said).await);
    }
    let folder = tempfile::tempdir().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let request = LeafRequest { name: "stranger".into(), hosts: vec!["localhost".into()], usage: Usage::Both };
    let stranger = folder.path().join("stranger");
    std::fs::create_dir_all(&stranger).unwrap();
    let leaf = Authority::generate("other", now).unwrap().leaf(&request, now).unwrap();
    std::fs::write(stranger.join(file::CERTIFICATE), leaf.certificate).unwrap();
    std::fs::write(stranger.join(file::KEY), leaf.key).unwrap();

    try_handshakes(broker, &mut matrix, &people, &stranger).await;
    try_operations(broker, &mut matrix, &people).await;
    try_replies(broker, &mut matrix, &people).await;
    let routes = broker.routes();
    if routes.len() > 1 {
        for (who, identity) in people.iter().chain([&("anybody", stranger.clone())]) {
            let name = format!("stranger-{}", who.replace(' ', "-"));
            let joined = Stranger::start(broker, folder.path(), &name, identity).joins(broker).await;
            matrix.row(who, "6222 join the brokers", Refused, joined);
        }
    } else {
        let address = routes[0].replace("nats://localhost", "127.0.0.1");
        matrix.row("anybody", "6222 connect", Refused, TcpStream::connect(address).is_ok());
    }
    // The monitoring port answers every client that reaches it: only the pod itself does.
    let monitor: u16 = broker.monitor().rsplit(':').next().unwrap().parse().unwrap();
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    matrix.row(
        "anybody",
        "8222 connect, but on the pod's loopback",
        Refused,
        TcpStream::connect((elsewhere, monitor)).is_ok(),
    );
    matrix.judge(routes.len())
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

//! The certificate authorities of a broker of three servers are replaced while a handler's events are delivered. Whoever
//! hears of a stage first, the sidecar can connect to every server at every moment.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Container, Process, config, consumers_of, dead_letters, eventually, get, store_by};
use futures::StreamExt as _;
use serde_json::json;
use tidegate_broker_admin::Authority;
use tidegate_broker_admin::membership::{CertificateEnds, reload_certificates};
use tidegate_broker_admin::rollover::{self, Cause, Next, Observed};
use tidegate_broker_client::contract::{Order, Report};
use tidegate_broker_client::identity::{self, Identity, Source};
use tidegate_broker_client::peer;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tidegate_wire::nats::{Client, Publish};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// What was in flight when a connection ended comes again after it.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// 500 events a second.
const PERIOD: Duration = Duration::from_millis(2);
const ANSWER: Duration = Duration::from_secs(10);
const SERVERS: usize = 3;

/// Publishes until it is told to stop; returns what is stored.
async fn publish(client: async_nats::Client, stop: watch::Receiver<bool>) -> BTreeSet<String> {
    let (mut tasks, mut ticks) = (JoinSet::new(), interval(PERIOD));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        ticks.tick().await;
        let client = client.clone();
        tasks.spawn(async move {
            let id = format!("load-{number}");
            let event = Event::builder(&id, "/sensors/1", "temperature").data("x").build().unwrap();
            store_by(&client, &event, &[]).await.map(|_| id)
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// The server that the sidecar is connected to, and the number of its connection there.
async fn connection(broker: &TestBroker) -> Option<(usize, u64)> {
    for server in 0..SERVERS {
        let page = broker.monitoring_at(server, "connz?auth=true").await;
        let all = page["connections"].as_array()?;
        let is_sidecar = |name: &str| name.contains("sidecar");
        if let Some(found) = all.iter().find(|found| found["name"].as_str().is_some_and(is_sidecar)) {
            return Some((server, found["cid"].as_u64()?));
        }
    }
    None
}

/// Ends the sidecar's connection, and waits for another one.
async fn reconnects(broker: &TestBroker, system: &Client, when: &str) {
    let before = connection(broker).await.unwrap();
    let id = broker.monitoring_at(before.0, "varz").await["server_id"].as_str().unwrap().to_owned();
    let (subject, payload) = (format!("$SYS.REQ.SERVER.{id}.KICK"), json!({"cid": before.1}).to_string());
    let kick = Publish { subject: &subject, payload: payload.as_bytes(), ..Publish::default() };
    system.request(&kick, ANSWER).await.unwrap();
    eventually(when, async || connection(broker).await.is_some_and(|found| found != before)).await;
}

/// Waits until all servers use the certificates that end then.
async fn reload(broker: &TestBroker, system: &Client, ends: CertificateEnds) {
    let site = broker.site();
    eventually("all servers use it", async || {
        reload_certificates(system, &site, ends, None).await.is_ok_and(|reloaded| reloaded.current.len() == SERVERS)
    })
    .await;
}

/// The newest generation that the sidecar reported.
async fn reported(broker: &TestBroker) -> watch::Receiver<Option<u64>> {
    let mut reports = broker.reports().await;
    let (tell, told) = watch::channel(None);
    tokio::spawn(async move {
        while let Some(message) = reports.next().await {
            let report: Report = serde_json::from_slice(&message.payload).unwrap();
            tell.send_replace(report.generation);
        }
    });
    told
}

/// The next stage of the rollover when everything is as far as this one.
fn step(authority: &Authority) -> Authority {
    let now = OffsetDateTime::now_utc();
    let told = authority.told(now);
    match rollover::next(&told, None, &Observed::default(), Duration::ZERO, now) {
        Next::Sign => told.sign(),
        Next::Drop => told.drop_former(),
        other => unreachable!("{other:?}"),
    }
}

/// A stage comes to the servers and to the sidecar, one after the other, and each time the sidecar connects again.
async fn bring(broker: &TestBroker, system: &Client, folder: &Path, authority: &Authority, servers_first: bool) {
    let generation = authority.rollover.generation;
    for servers in [servers_first, !servers_first] {
        if servers {
            let ends = broker.bring_server_identity(authority, generation);
            reload(broker, system, ends).await;
        } else {
            broker.bring_client_identity(folder, authority);
        }
        reconnects(broker, system, &format!("another connection in stage {generation}, servers: {servers}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_while_authorities_are_replaced() {
    let mut broker = TestBroker::start_cluster().await;
    let container = Container::answering(|_| (204, Duration::from_millis(5))).await;
    let folder = broker.handler_with(consumers_of(Order::None, ACK_WAIT)).await;
    let old = identity::folder(&folder)().unwrap();
    let config = config(&broker, folder.clone(), container.port, ACK_WAIT);
    let sidecar = Process::start(&config).await;
    eventually("it is ready", async || get(config.admin_port, "/readyz").await == Some(200)).await;
    let (system, told) = (broker.system_client().await, reported(&broker).await);
    let (stop, stopped) = watch::channel(false);
    let (started, load) = (Instant::now(), tokio::spawn(publish(broker.operator(), stopped)));
    eventually("events are delivered", async || container.count() > 500).await;

    let mut authority = broker.authority().begin("test", &Cause::End, OffsetDateTime::now_utc()).unwrap();
    for stage in 1..=3 {
        bring(&broker, &system, &folder, &authority, stage % 2 == 0).await;
        let generation = authority.rollover.generation;
        assert_eq!(generation, stage);
        eventually("the sidecar says so", async || *told.borrow() == Some(generation)).await;
        let copied = Identity { ca: authority.trusted_servers(), ..old.clone() };
        let source: Source = Arc::new(move || Ok(copied.clone()));
        let is_let_in = peer::connect("old", &broker.servers(), source).await.is_ok();
        assert_eq!(is_let_in, stage < 3, "with the certificate of before, in stage {stage}");
        if stage < 3 {
            authority = step(&authority);
        }
    }
    stop.send(true).unwrap();
    let stored = load.await.unwrap();
    let rate = stored.len() as f64 / started.elapsed().as_secs_f64();
    let seen = || container.ids().into_iter().collect::<BTreeSet<_>>();
    let ended = Instant::now();
    while !stored.is_subset(&seen()) && ended.elapsed() < 4 * ACK_WAIT {
        sleep(Duration::from_millis(50)).await;
    }
    let (lost, twice) = (stored.difference(&seen()).count(), container.count() - seen().len());
    let failed = dead_letters(&broker).await.len();
    eprintln!("{} events at {rate:.0}/s: {lost} lost, {failed} failed, {twice} delivered again", stored.len());
    assert_eq!((lost, failed), (0, 0));
    drop(sidecar);
    // Brokers let each other in by the new authority alone.
    broker.stop_at(2);
    broker.start_at(2).await;
    eventually("it joins the others", async || {
        broker.monitoring_at(2, "routez").await["num_routes"].as_u64().is_some_and(|routes| routes >= 2)
    })
    .await;
}

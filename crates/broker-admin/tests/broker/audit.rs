//! Files of real servers are damaged while they are stopped: that is found, and healed where another server has a whole
//! copy.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream;
use futures::future::join_all;
use tidegate_broker_admin::audit::{self, Acknowledged, Copies, Damaged, Findings, HealStep, Hole, Look, Tail};
use tidegate_broker_admin::membership::{Ordinal, StreamId};
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_client::layout::EVENT_STREAM;
use tidegate_test_broker::{TestBroker, eventually, flip_bytes, halve, topic};
use tidegate_wire::nats::Client;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(500);
const EVENTS: u64 = 20_000;

/// A broker whose events fill several files.
struct World {
    broker: TestBroker,
    system: Client,
    topic: Topic,
}

impl World {
    async fn start(servers: usize) -> Self {
        let topic = Topic { replicas: servers, max_bytes: 64 << 20, keeps_copies: true, ..topic() };
        let broker = match servers {
            1 => TestBroker::start_with(topic.clone()).await,
            _ => TestBroker::start_fsync(topic.clone()).await,
        };
        publish(&broker.jetstream(), EVENTS).await;
        let system = broker.system_client().await;
        Self { broker, system, topic }
    }

    async fn look(&self) -> Look {
        let begun = Instant::now();
        loop {
            match audit::look(&self.system, &self.broker.site()).await {
                Ok(look) => return look,
                Err(error) => assert!(begun.elapsed() < LIMIT, "{error}"),
            }
            sleep(PAUSE).await;
        }
    }

    /// As soon as every copy is there and has what was stored.
    async fn findings(&self) -> (Look, Findings) {
        let begun = Instant::now();
        loop {
            let (earlier, later) = (self.look().await, self.look().await);
            let findings = audit::judge(&earlier, &later, &acknowledged(&later));
            if findings.unfinished.is_empty() && later.totals.servers.len() == self.broker.site().pods {
                return (later, findings);
            }
            assert!(begun.elapsed() < LIMIT, "{later:#?}\n{}", self.broker.log());
            sleep(PAUSE).await;
        }
    }

    /// What happens to files of a server while it is stopped.
    async fn damage(&mut self, server: usize, (block, damage): Damage) {
        self.broker.stop_at(server);
        let blocks = self.broker.blocks(server, EVENT_STREAM);
        assert!(blocks.len() > 2, "{blocks:?}");
        damage(&blocks[block(blocks.len())]);
        self.broker.start_at(server).await;
    }

    async fn leader(&self) -> Ordinal {
        let begun = Instant::now();
        loop {
            let look = self.look().await;
            if let Some(leader) = events(&look).1.leader {
                return leader;
            }
            assert!(begun.elapsed() < LIMIT, "{look:#?}");
        }
    }

    /// Step by step, each from nothing but what is seen. The steps that were done.
    async fn heal(&self) -> Vec<HealStep> {
        let (begun, mut done) = (Instant::now(), Vec::new());
        loop {
            let (look, findings) = self.findings().await;
            let steps = audit::next(&self.broker.site(), &look, &findings, self.broker.site().pods);
            if steps.is_empty() && findings.is_passed() {
                return done;
            }
            for step in steps {
                // What failed, and what was done and not noticed, is found to be next again.
                let _ = step.run(&self.broker.admin()).await;
                done.push(step);
            }
            assert!(begun.elapsed() < LIMIT, "{look:#?}\n{findings:#?}\n{}", self.broker.log());
            sleep(PAUSE).await;
        }
    }
}

impl World {
    /// Every server has all events.
    async fn has_all(&self) {
        let (look, _) = self.findings().await;
        let counts: Vec<_> = events(&look).1.counts.values().collect();
        assert!(counts.len() == 3 && counts.iter().all(|it| it.messages == EVENTS && it.first == 1), "{counts:#?}");
    }
}

/// What publishers were told of: all of it.
fn acknowledged(look: &Look) -> Acknowledged {
    Acknowledged::from([(events(look).0.clone(), EVENTS)])
}

fn events(look: &Look) -> (&StreamId, &Copies) {
    look.streams.iter().find(|(id, _)| id.name == EVENT_STREAM).expect("the stream of events")
}

async fn publish(js: &jetstream::Context, count: u64) {
    let body = "x".repeat(1000);
    let mut left = count;
    let begun = Instant::now();
    while left > 0 {
        let sent = (0..left.min(1000)).map(|_| js.publish("events.0.t", body.clone().into()));
        let before = left;
        for acknowledged in join_all(sent).await {
            match acknowledged.unwrap().await {
                Ok(_) => left -= 1,
                // A server that was just started counts the stream a moment before anybody answers for it: nothing is
                // stored then.
                Err(error) if error.kind() == jetstream::context::PublishErrorKind::StreamNotFound => {
                    assert!(begun.elapsed() < LIMIT, "{error}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        if left == before {
            sleep(PAUSE).await;
        }
    }
}

/// Which block of so many, and what happens to its file.
type Damage = (fn(usize) -> usize, fn(&Path));

/// The first file is halved: a hole.
const FIRST: Damage = (|_| 0, halve);
/// The last file has other bytes in its middle: the end is gone.
const LAST: Damage = (|count| count - 1, flip_bytes);

#[tokio::test]
async fn of_one_server_a_hole_is_found_and_stays() {
    let mut world = World::start(1).await;
    assert!(world.findings().await.1.is_passed());
    world.damage(0, FIRST).await;
    let (look, findings) = world.findings().await;
    let counts = events(&look).1.counts[&0];
    let [Hole { missing, first, last, .. }] = findings.lost.as_slice() else { panic!("{findings:#?}") };
    assert_eq!((*missing, *first, *last), (EVENTS - counts.messages, counts.first, EVENTS));
    assert!(*missing > 0 && findings.damaged.is_empty(), "{findings:#?}");
    let mut gaps = Vec::new();
    // Reading all of a stream takes longer than an answer may, on a server that has just been started.
    eventually("the gaps", async || {
        let found = world.broker.admin().stream_gaps(EVENT_STREAM).await;
        found.is_ok_and(|found| {
            gaps = found;
            true
        })
    })
    .await;
    assert_eq!(gaps.iter().map(|(first, last)| last + 1 - first).sum::<u64>(), *missing, "{gaps:?}");
    assert_eq!(
        audit::next(&world.broker.site(), &look, &findings, world.broker.site().pods),
        [],
        "there is no other copy"
    );
}

#[tokio::test]
async fn of_one_server_a_lost_end_is_found() {
    let mut world = World::start(1).await;
    world.damage(0, LAST).await;
    let (look, findings) = world.findings().await;
    let stored = events(&look).1.counts[&0].last;
    let [Tail { first, last, .. }] = findings.tails.as_slice() else { panic!("{findings:#?}") };
    assert!(stored < EVENTS && (*first, *last) == (stored + 1, EVENTS), "{findings:#?}");
    assert!(findings.lost.is_empty() && findings.damaged.is_empty(), "{findings:#?}");
    assert!(!findings.is_passed() && !look.is_plain(&acknowledged(&look)));
    assert_eq!(audit::next(&world.broker.site(), &look, &findings, 1), [], "there is no other copy");
    // The numbers are used again: that was acknowledged, too, and nothing is missed any more.
    publish(&world.broker.jetstream(), EVENTS - stored).await;
    assert!(world.findings().await.1.is_passed());
}

#[tokio::test]
async fn of_three_servers_a_hole_is_found_wherever_it_is_and_healed() {
    let mut world = World::start(3).await;
    for leads in [false, true] {
        let leader = world.leader().await;
        let victim = if leads { leader } else { (leader + 1) % 3 };
        world.damage(victim, FIRST).await;
        let (_, findings) = world.findings().await;
        let [Damaged { server, missing, first, last, whole, .. }] = findings.damaged.as_slice() else {
            panic!("{findings:#?}");
        };
        assert_eq!((*server, *first, *last), (victim, 1, EVENTS));
        assert!(*missing > 0 && *whole != victim && findings.lost.is_empty(), "{findings:#?}");
        let steps = world.heal().await;
        assert!(matches!(steps.last(), Some(HealStep::Copy(_, 3))), "{steps:#?}");
        world.has_all().await;
        assert_ne!(world.leader().await, victim, "it was made again from another one");
    }
}

#[tokio::test]
async fn of_three_servers_the_end_of_one_copy_comes_from_the_others_without_us() {
    let mut world = World::start(3).await;
    let victim = (world.leader().await + 1) % 3;
    world.damage(victim, LAST).await;
    assert_eq!(world.heal().await, []);
    world.has_all().await;
}

/// One operator ends when there is a single copy, and the next one knows nothing of it.
#[tokio::test]
async fn what_was_begun_is_ended_by_whoever_looks_next() {
    let mut world = World::start(3).await;
    let leader = world.leader().await;
    world.damage((leader + 1) % 3, FIRST).await;
    // Where the damaged one leads by now, another one leads first.
    let steps = loop {
        let (look, findings) = world.findings().await;
        let steps = audit::next(&world.broker.site(), &look, &findings, world.broker.site().pods);
        let [HealStep::Lead(..)] = steps.as_slice() else { break steps };
        let _ = steps[0].run(&world.broker.admin()).await;
    };
    let [HealStep::Keep(stream, _)] = steps.as_slice() else { panic!("{steps:#?}") };
    // The server that was stopped may have led the cluster: that is still to find a leader.
    eventually("the copies are removed", async || steps[0].run(&world.broker.admin()).await.is_ok()).await;
    let (_, findings) = world.findings().await;
    assert!(findings.is_passed(), "{findings:#?}");
    // The topic is looked at meanwhile, and keeps the copies that it has.
    let topic = Topic { keeps_copies: true, ..world.topic.clone() };
    streams::ensure(&world.broker.admin(), &topic).await.unwrap();
    let (look, _) = world.findings().await;
    assert_eq!(events(&look).1.wanted, 1);
    let steps = world.heal().await;
    assert_eq!(steps.first(), Some(&HealStep::Copy(stream.clone(), 3)));
    world.has_all().await;
    // Another one leads: the copy of this server is not the one that stays.
    let other = (world.leader().await + 1) % 3;
    let keep = HealStep::Keep(stream.clone(), format!("test-{other}"));
    eventually("it is asked", async || keep.run(&world.broker.admin()).await.is_ok()).await;
    assert_eq!(world.heal().await, [], "nothing was removed");
}

#[tokio::test]
async fn nothing_is_found_while_events_come_and_go() {
    let world = World::start(3).await;
    let js = world.broker.jetstream();
    let coming = tokio::spawn(async move {
        loop {
            publish(&js, 1000).await;
        }
    });
    let admin = world.broker.admin();
    let going = tokio::spawn(async move {
        for sequence in (1..).step_by(100) {
            admin.purge_stream_below(EVENT_STREAM, sequence).await.unwrap();
        }
    });
    for _ in 0..20 {
        let earlier = world.look().await;
        sleep(PAUSE).await;
        let findings = audit::judge(&earlier, &world.look().await, &Acknowledged::new());
        assert!(findings.damaged.is_empty() && findings.lost.is_empty(), "{findings:#?}");
    }
    coming.abort();
    going.abort();
}

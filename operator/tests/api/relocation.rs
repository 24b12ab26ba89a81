//! A handler's place in its topic changes, on a real broker: once for each request, by an operator that may end at any
//! write, and never while pods are there.

use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_admin::guests;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::{delivery_info, layout};
use tidegate_crds::EventHandler;
use tidegate_crds::handler::{EventHandlerStatus, ReplayPhase};
use tidegate_test_broker::TestBroker;

use crate::handler::{condition, until_reason};
use crate::support::brokers::{Places, account, id, publish_one, server, topic_on, until_ready};
use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, args, turn};
use crate::support::workloads::roll_out;
use crate::support::{Space, eventually, ingress};
use crate::validation_handler::{handler, spec};
use tidegate_operator::context::Context;
use tidegate_operator::kubernetes::names;

/// A topic on a broker of its own.
pub struct World {
    pub space: Space,
    places: Places,
    pub broker: TestBroker,
}

impl World {
    pub async fn new(purpose: &str) -> (Self, Operator) {
        let (space, places, broker) = (Space::new(purpose).await, Places::default(), server().await);
        topic_on(&space, &places, &broker, "orders").await;
        let world = Self { space, places, broker };
        let operator = world.operator();
        until_ready(&world.space, "orders").await;
        (world, operator)
    }

    pub fn operator(&self) -> Operator {
        Operator::start_with_brokers(self.space.client.clone(), self.places.addresses())
    }

    async fn jetstream(&self) -> jetstream::Context {
        tidegate_test_broker::jetstream(account(&self.space, &self.broker, "orders").await.operator)
    }

    pub async fn replicas(&self) -> Option<i32> {
        let deployment: Deployment = self.space.api().get("billing-handler").await.ok()?;
        deployment.spec?.replicas
    }

    pub async fn until_replicas(&self, replicas: i32) {
        let has = async || (self.replicas().await? == replicas).then_some(());
        eventually(&format!("there are to be {replicas} pods"), has).await;
    }

    /// What the sidecars are told.
    async fn config(&self) -> Value {
        let deployment: Deployment = self.space.api().get("billing-handler").await.unwrap();
        let spec = deployment.spec.unwrap().template.spec.unwrap();
        let sidecar = spec.init_containers.unwrap().remove(0);
        let variable = sidecar.env.unwrap().into_iter().find(|variable| variable.name == "TIDEGATE_CONFIG");
        serde_json::from_str(&variable.unwrap().value.unwrap()).unwrap()
    }

    pub async fn until_status<T>(&self, what: &str, look: impl Fn(&EventHandlerStatus) -> Option<T>) -> T {
        let api: Api<EventHandler> = self.space.api();
        eventually(what, async || look(api.get("billing").await.ok()?.status.as_ref()?)).await
    }

    /// As the operator writes it: what another one wrote would stay there.
    pub async fn write_lanes(&self, lanes: Value) {
        let api: Api<EventHandler> = self.space.api();
        let mut status = serde_json::to_value(api.get("billing").await.unwrap().status).unwrap();
        status["lanes"] = lanes;
        let whole = Patch::Apply(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": "billing"}, "status": status,
        }));
        api.patch_status("billing", &PatchParams::apply(names::FIELD_MANAGER).force(), &whole).await.unwrap();
    }

    async fn until_phase(&self, request: &str, phase: ReplayPhase) -> EventHandlerStatus {
        self.until_status(&format!("{request} is {phase:?}"), |status| {
            let replay = status.replay.as_ref()?;
            (replay.request == request && replay.phase == phase).then(|| status.clone())
        })
        .await
    }

    async fn replay(&self, request: &str, from: &str) {
        let replay = json!({"spec": {"replay": {"request": request, "from": from}}});
        self.space.merge::<EventHandler>("billing", replay).await;
    }

    /// Ends the pods when they are to end, until the replay is done and a pod is to be there again.
    async fn until_replayed(&self, request: &str) {
        let done = async {
            self.until_phase(request, ReplayPhase::Done).await;
        };
        let ends_pods = async {
            loop {
                if self.replicas().await == Some(0) {
                    roll_out(&self.space, "billing").await;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            () = done => {}
            () = ends_pods => {}
        }
        self.until_replicas(1).await;
    }

    /// Takes and acknowledges up to so many events, as a sidecar would.
    async fn take(&self, consumer: &str, limit: usize) -> Vec<u64> {
        let client = account(&self.space, &self.broker, "orders").await.operator;
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await.unwrap();
        let mut pull = json!({"batch": limit, "expires": 1_000_000_000});
        if consumer.contains('_') {
            pull["group"] = json!(layout::LANE_GROUP);
        }
        client.publish_with_reply(layout::pull_subject(consumer), inbox, pull.to_string().into()).await.unwrap();
        let mut sequences = Vec::new();
        while sequences.len() < limit
            && let Some(message) = messages.next().await.filter(|message| message.status.is_none())
        {
            let reply = message.reply.unwrap();
            sequences.push(delivery_info::parse(&reply).unwrap().sequence);
            client.request(reply, "+ACK".into()).await.unwrap();
        }
        sequences
    }
}

#[tokio::test]
async fn a_replay_is_done_once_for_each_request_and_without_pods() {
    let _turn = turn().await;
    let (world, operator) = World::new("replay").await;
    let space = &world.space;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 2, "startFrom": "Earliest"})))).await;
    until_reason(space, "Subscribed", "Subscribed").await;
    let js = world.jetstream().await;
    for _ in 0..10 {
        publish_one(&js).await;
    }
    roll_out(space, "billing").await;
    assert_eq!(world.take("billing", 10).await.len(), 10);
    let template = world.config().await;

    world.replay("again-1", "4").await;
    let stopping = world.until_phase("again-1", ReplayPhase::Stopping).await;
    assert_eq!(stopping.replay.unwrap().sequence, Some(4), "on record before anything is moved");
    world.until_replicas(0).await;
    let api: Api<EventHandler> = space.api();
    eventually("it names whom it waits for", async || {
        let ready = condition(&api.get("billing").await.ok()?, "Ready")?;
        let names = ready.message.contains("billing-handler-") && ready.message.contains("1 more");
        (ready.reason == "Moving" && names).then_some(())
    })
    .await;
    // Nothing is moved while a pod is there.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.take("billing", 10).await, [] as [u64; 0]);
    roll_out(space, "billing").await;

    let done = world.until_phase("again-1", ReplayPhase::Done).await;
    let replay = done.replay.unwrap();
    assert!(replay.count == 1 && replay.time.is_some() && replay.message.is_none(), "{replay:?}");
    assert_eq!(done.position.unwrap().consumers[0].acknowledged, 3);
    world.until_replicas(2).await;
    assert_eq!(world.config().await["relocation"], json!({"rewinds": 1}));
    roll_out(space, "billing").await;
    until_reason(space, "Subscribed", "Subscribed").await;
    assert_eq!(world.take("billing", 10).await, [4, 5, 6, 7, 8, 9, 10]);
    assert_ne!(world.config().await, template);

    // Neither another place under the same request, nor a change of something else, begins one.
    world.replay("again-1", "Earliest").await;
    space.merge::<EventHandler>("billing", json!({"spec": {"replicas": 3}})).await;
    world.until_replicas(3).await;
    assert_eq!(world.take("billing", 10).await, [] as [u64; 0]);
    for (request, from, says) in [
        ("again-2", "11", "sequence 11 is beyond the topic's last event, which is 10: use Latest"),
        ("again-3", "2999-01-01T00:00:00Z", "still to come: use Latest"),
    ] {
        world.replay(request, from).await;
        let refused = world.until_phase(request, ReplayPhase::Refused).await.replay.unwrap();
        let message = refused.message.unwrap();
        assert!(message.contains(says) && refused.count == 1, "{message}");
        assert_eq!(world.replicas().await, Some(3), "and nothing was changed");
    }
    operator.stop().await;
}

/// The operator ends before or after each of its writes, and another one comes to the same end.
#[tokio::test]
async fn a_crash_at_any_write_of_a_replay_moves_the_handler_once() {
    let _turn = turn().await;
    let mut reached = 0;
    for (number, moment) in (1..=5).flat_map(|number| [(number, Moment::Before), (number, Moment::After)]) {
        let (world, operator) = World::new("replay-crash").await;
        let space = &world.space;
        space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1, "startFrom": "Earliest"})))).await;
        until_reason(space, "Subscribed", "Subscribed").await;
        let js = world.jetstream().await;
        for _ in 0..5 {
            publish_one(&js).await;
        }
        roll_out(space, "billing").await;
        assert_eq!(world.take("billing", 5).await.len(), 5);
        operator.stop().await;

        let interruption =
            Interruption::of_path(format!("/namespaces/{}/eventhandlers/billing/status", space.name), number, moment);
        world.replay("again", "Earliest").await;
        let context = Context::new(interruption.client(), args("operator-0", "default"));
        let operator = Operator::run(context.with_broker_addresses(world.places.addresses()));
        let ends_pods = async {
            world.until_replicas(0).await;
            roll_out(space, "billing").await;
            world.until_replicas(1).await;
        };
        tokio::select! {
            was = interruption.reached() => reached += usize::from(was),
            () = ends_pods => {}
        }
        operator.kill().await;
        let operator = world.operator();
        world.until_replayed("again").await;
        let told = format!("write {number}, {moment:?}");
        let api: Api<EventHandler> = space.api();
        let replay = api.get("billing").await.unwrap().status.unwrap().replay.unwrap();
        assert_eq!((replay.count, replay.sequence), (1, Some(1)), "{told}");
        assert_eq!(world.take("billing", 5).await, [1, 2, 3, 4, 5], "{told}");
        operator.stop().await;
    }
    assert!(reached >= 6, "{reached}");
}

/// `Latest` is another event each time that it is looked for. What is published once pods end for it comes after it,
/// whatever becomes of the operator.
#[tokio::test]
async fn a_crash_passes_over_nothing_that_is_published_once_pods_end_for_a_replay() {
    let _turn = turn().await;
    let mut stopped = 0;
    for (number, moment) in [(1, Moment::Before), (1, Moment::After), (2, Moment::Before), (2, Moment::After)] {
        let (world, operator) = World::new("replay-latest").await;
        let space = &world.space;
        space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1, "startFrom": "Earliest"})))).await;
        until_reason(space, "Subscribed", "Subscribed").await;
        let js = world.jetstream().await;
        for _ in 0..5 {
            publish_one(&js).await;
        }
        roll_out(space, "billing").await;
        assert_eq!(world.take("billing", 2).await, [1, 2]);
        operator.stop().await;

        let interruption =
            Interruption::of_path(format!("/namespaces/{}/eventhandlers/billing/status", space.name), number, moment);
        world.replay("skip", "Latest").await;
        let context = Context::new(interruption.client(), args("operator-0", "default"));
        let operator = Operator::run(context.with_broker_addresses(world.places.addresses()));
        assert!(interruption.reached().await, "write {number}, {moment:?}");
        operator.kill().await;
        let has_stopped = world.replicas().await == Some(0);
        let api: Api<EventHandler> = space.api();
        let recorded = api.get("billing").await.unwrap().status.unwrap().replay.and_then(|replay| replay.sequence);
        for _ in 0..3 {
            publish_one(&js).await;
        }

        let operator = world.operator();
        world.until_replayed("skip").await;
        let replay = api.get("billing").await.unwrap().status.unwrap().replay.unwrap();
        let told = format!("write {number}, {moment:?}: {has_stopped}, {recorded:?}, {replay:?}");
        let delivered = world.take("billing", 8).await;
        if has_stopped {
            stopped += 1;
            assert_eq!(delivered, [6, 7, 8], "{told}");
        }
        if recorded.is_some() {
            assert_eq!((replay.sequence, delivered.as_slice()), (Some(6), &[6, 7, 8][..]), "{told}");
        }
        operator.stop().await;
    }
    assert!(stopped >= 1, "pods ended for none of them");
}

/// Somebody scales the Deployment, or another controller does, after something was moved.
#[tokio::test]
async fn pods_that_appear_in_the_middle_of_a_change_are_not_let_in() {
    let _turn = turn().await;
    let (world, operator) = World::new("lanes-pods").await;
    let space = &world.space;
    let ordered = json!({"replicas": 1, "startFrom": "Earliest", "delivery": {"order": "Key", "lanes": 2}});
    let made = space.create::<EventHandler>(handler("billing", spec(ordered))).await;
    until_reason(space, "Subscribed", "Subscribed").await;
    publish_one(&world.jetstream().await).await;
    roll_out(space, "billing").await;
    operator.stop().await;
    let uid = made.metadata.uid.unwrap();
    let authority = world.broker.authority();
    let system = world.broker.system().await;
    system.remove_handler(authority, "billing", &uid).await.unwrap();
    let change = json!({"count": 3, "after": 0, "settled": vec![0; 32]});
    world.write_lanes(json!({"count": 2, "drainingSince": "2026-01-31T12:00:00Z", "change": change})).await;
    let three = json!({"spec": {"delivery": {"lanes": 3}}});
    space.merge::<EventHandler>("billing", three).await;

    let operator = world.operator();
    world.until_replicas(0).await;
    let guest = guests::Handler {
        topic: id(space, "orders"),
        name: "billing".into(),
        uid,
        order: Order::Key { lanes: 2 },
        routing: Routing::Queued,
        pods: 1,
    };
    let account = authority.handler_account(&guest, None, time::OffsetDateTime::now_utc()).unwrap();
    until_reason(space, "Subscribed", "Moving").await;
    let text = ingress::claims(&world.broker, &account.id).await;
    assert!(text.is_none(), "it is let in while its lanes are moved");
    roll_out(space, "billing").await;
    world.until_status("three lanes", |status| status.lanes.clone().filter(|lanes| lanes.count == 3)).await;
    world.until_replicas(1).await;
    operator.stop().await;
}

#[tokio::test]
async fn the_number_of_lanes_changes_both_ways_and_keeps_the_place() {
    let _turn = turn().await;
    let (world, operator) = World::new("lanes").await;
    let space = &world.space;
    let ordered = json!({"replicas": 1, "startFrom": "Earliest", "delivery": {"order": "Key", "lanes": 2}});
    space.create::<EventHandler>(handler("billing", spec(ordered))).await;
    until_reason(space, "Subscribed", "Subscribed").await;
    let js = world.jetstream().await;
    for number in 0..20 {
        let subject = layout::event_subject(number % 4, "order.new");
        js.publish(subject, "{}".into()).await.unwrap().await.unwrap();
    }
    roll_out(space, "billing").await;
    // Partitions 0 and 2 as far as sequence 11, the others as far as 4.
    assert_eq!(world.take("billing_0", 6).await, [1, 3, 5, 7, 9, 11]);
    assert_eq!(world.take("billing_1", 2).await, [2, 4]);

    let admin = account(space, &world.broker, "orders").await.admin;
    for (lanes, wanted) in [(json!(5), 5), (json!(null), 8), (json!(1), 1)] {
        space.merge::<EventHandler>("billing", json!({"spec": {"delivery": {"lanes": lanes}}})).await;
        world.until_replicas(0).await;
        let moving = until_reason(space, "Subscribed", "Moving").await;
        let message = condition(&moving, "Subscribed").unwrap().message;
        assert!(message.contains(&format!("become {wanted}")), "{message}");
        roll_out(space, "billing").await;
        let lanes = world
            .until_status("the lanes are others", |status| {
                status.lanes.clone().filter(|lanes| lanes.count == wanted && lanes.change.is_none())
            })
            .await;
        // Up to before the next that each had. With other lanes a partition can only be seen to be further.
        let at_least = (0..32).map(|partition| if partition % 2 == 0 { 12 } else { 5 });
        assert!(lanes.settled.iter().zip(at_least).all(|(found, at_least)| *found >= at_least), "{lanes:?}");
        assert_eq!((lanes.settled[0], lanes.settled[1]), (12, 5));
        world.until_replicas(1).await;
        let found = tidegate_test_broker::consumers(&admin).await;
        assert_eq!(i32::try_from(found.len()).unwrap(), wanted);
        let config = world.config().await;
        assert_eq!(config["delivery"]["order"]["Key"]["lanes"], wanted);
        assert_eq!(config["relocation"]["settled"], json!(lanes.settled));
        assert!(config["relocation"]["settledBefore"].as_u64() > Some(0));
        roll_out(space, "billing").await;
        until_reason(space, "Subscribed", "Subscribed").await;
    }
    assert_eq!(world.take("billing_0", 20).await, (6..=20).collect::<Vec<_>>(), "from where the least was");
    operator.stop().await;
}

//! Keys of handlers and publishers are replaced, on a real broker, by an operator that may end at any write.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tidegate_broker_client::identity::{Identity, Source};
use tidegate_broker_client::peer;
use tidegate_crds::key::KeyStatus;
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_operator::context::Context;
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

use crate::handler::until_reason;
use crate::support::brokers::{Places, server, topic_with, until_ready};
use crate::support::counted::Count;
use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

/// Long enough to look at both keys, and short enough to wait for.
const HANDOVER_SECONDS: u32 = 4;

struct World {
    space: Space,
    places: Places,
    broker: TestBroker,
}

impl World {
    async fn new(purpose: &str, topic: Value) -> Self {
        let (space, places, broker) = (Space::new(purpose).await, Places::default(), server().await);
        topic_with(&space, &places, &broker, "orders", topic).await;
        Self { space, places, broker }
    }

    fn operator_of(&self, client: kube::Client) -> Operator {
        let mut args = args("operator-0", "default");
        args.key_handover_seconds = HANDOVER_SECONDS;
        Operator::run(Context::new(client, args).with_broker_addresses(self.places.addresses()))
    }

    fn operator(&self) -> Operator {
        self.operator_of(self.space.client.clone())
    }

    async fn secret(&self, name: &str) -> Option<Secret> {
        self.space.api().get_opt(name).await.unwrap()
    }

    /// What is in a Secret now, as somebody has it who copied it.
    async fn copied(&self, secret: &str) -> Source {
        let data = self.secret(secret).await.unwrap().data.unwrap();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).unwrap();
        let identity = Identity {
            ca: text("ca.crt"),
            certificate: text("tls.crt"),
            key: text("tls.key"),
            user_jwt: text("user.jwt"),
            user_seed: text("user.seed"),
        };
        Arc::new(move || Ok(identity.clone()))
    }

    async fn connect(&self, identity: &Source) -> Option<async_nats::Client> {
        peer::connect("copy", &self.broker.servers(), identity.clone()).await.ok()
    }

    async fn rotate(&self, request: &str) {
        let annotations = json!({"metadata": {"annotations": {"tidegate.io/rotate": request}}});
        self.space.merge::<EventHandler>("billing", annotations).await;
    }

    async fn key(&self) -> KeyStatus {
        self.space.api::<EventHandler>().get("billing").await.unwrap().status.unwrap().key.unwrap()
    }

    /// Waits until the handler's key has this generation, and whether or not the one before it works.
    async fn until_key(&self, generation: i64, is_handed_over: bool) -> KeyStatus {
        eventually(&format!("key {generation}, handed over: {is_handed_over}"), async || {
            let key = self.space.api::<EventHandler>().get("billing").await.ok()?.status?.key?;
            (key.generation == generation && key.handover_until.is_none() == is_handed_over).then_some(key)
        })
        .await
    }
}

async fn is_cut_off(client: &async_nats::Client) {
    eventually("it is cut off", async || (client.connection_state() != State::Connected).then_some(())).await;
}

#[tokio::test]
async fn a_handlers_key_is_replaced_once_for_each_request() {
    let _turn = turn().await;
    let world = World::new("rotate", json!({})).await;
    let (space, operator) = (&world.space, world.operator());
    until_ready(space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    until_reason(space, "Subscribed", "Subscribed").await;
    let first = world.until_key(1, true).await;
    assert_eq!((first.request, &first.refused_before), (None, &first.issued));
    let stolen = world.copied("billing-identity").await;
    let thief = world.connect(&stolen).await.expect("the key works");

    world.rotate("leak-1").await;
    let second = world.until_key(2, false).await;
    assert_eq!((second.request.as_deref(), &second.refused_before), (Some("leak-1"), &first.issued));
    let used = world.copied("billing-identity").await;
    let own = world.connect(&used).await.expect("the new key works");
    assert_eq!(thief.connection_state(), State::Connected, "and the one before it still does");
    let told = eventually("it is told", async || space.events("KeyReplaced").await.pop()).await;
    assert!(told.contains("key 2 is in the Secret") && told.contains(&second.handover_until.unwrap()), "{told}");

    is_cut_off(&thief).await;
    let second = world.until_key(2, true).await;
    assert_eq!(second.refused_before, second.issued);
    assert!(world.connect(&stolen).await.is_none());
    assert_eq!(own.connection_state(), State::Connected);

    // The same request asks for nothing, nor does one that is taken away.
    let version = world.secret("billing-identity").await.unwrap().metadata.resource_version;
    world.rotate("").await;
    world.rotate("leak-1").await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.secret("billing-identity").await.unwrap().metadata.resource_version, version);

    // One that is lost is replaced, works until then, and what was refused stays so.
    let secrets: Api<Secret> = space.api();
    secrets.delete("billing-identity", &DeleteParams::default()).await.unwrap();
    world.until_key(3, false).await;
    assert!(world.connect(&stolen).await.is_none());
    assert_eq!(own.connection_state(), State::Connected);
    is_cut_off(&own).await;
    assert_eq!(world.until_key(3, true).await.request.as_deref(), Some("leak-1"));
    assert!(world.connect(&world.copied("billing-identity").await).await.is_some());
    operator.stop().await;
}

/// Each rotation is begun by an operator that ends before or after one of its writes, and finished by another one.
#[tokio::test]
async fn a_crash_at_any_write_of_a_rotation_replaces_the_key_once() {
    let _turn = turn().await;
    let world = World::new("rotate-crash", json!({})).await;
    let space = &world.space;
    let operator = world.operator();
    until_ready(space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    until_reason(space, "Subscribed", "Subscribed").await;
    let mut generation = world.until_key(1, true).await.generation;
    operator.stop().await;
    let mut reached = 0;
    for (number, moment) in (1..=5).flat_map(|number| [(number, Moment::Before), (number, Moment::After)]) {
        let told = format!("write {number}, {moment:?}");
        let old = world.copied("billing-identity").await;
        let interruption = Interruption::new(&space.name, number, moment);
        let operator = world.operator_of(interruption.client());
        world.rotate(&told).await;
        generation += 1;
        let ends = async {
            world.until_key(generation, false).await;
            world.until_key(generation, true).await;
        };
        tokio::select! {
            was = interruption.reached() => reached += usize::from(was),
            () = ends => {}
        }
        operator.kill().await;
        // Whatever it left behind, sidecars are let in with what they have.
        assert!(
            world.key().await.generation < generation
                || world.connect(&world.copied("billing-identity").await).await.is_some(),
            "{told}"
        );
        let operator = world.operator();
        let key = world.until_key(generation, true).await;
        assert_eq!(key.request.as_deref(), Some(told.as_str()));
        eventually(&format!("{told}: the old key is refused"), async || {
            world.connect(&old).await.is_none().then_some(())
        })
        .await;
        assert!(world.connect(&world.copied("billing-identity").await).await.is_some(), "{told}");
        operator.kill().await;
    }
    assert!(reached >= 8, "{reached}");
}

#[tokio::test]
async fn a_publishers_key_is_replaced_and_that_of_no_other_one() {
    let _turn = turn().await;
    let publishers = json!({"publishers": [{"nats": "web"}, {"nats": "cli"}]});
    let world = World::new("rotate-publisher", publishers.clone()).await;
    let (space, operator) = (&world.space, world.operator());
    until_ready(space, "orders").await;
    let generations = async || -> Vec<(String, i64)> {
        let topic: EventTopic = space.api().get("orders").await.unwrap();
        let keys = topic.status.unwrap().nats_publisher_keys;
        keys.into_iter().map(|known| (known.name, known.key.generation)).collect()
    };
    let has = |web: i64, cli: i64| vec![("cli".to_owned(), cli), ("web".to_owned(), web)];
    assert_eq!(generations().await, has(1, 1));
    let [stolen, other] = [world.copied("orders-publisher-web").await, world.copied("orders-publisher-cli").await];
    let [thief, other] = [world.connect(&stolen).await.unwrap(), world.connect(&other).await.unwrap()];
    let asked = json!({"metadata": {"annotations": {"rotate.tidegate.io/web": "leak"}}});
    space.merge::<EventTopic>("orders", asked).await;
    eventually("it has another key", async || (generations().await == has(2, 1)).then_some(())).await;
    let second = world.copied("orders-publisher-web").await;
    assert!(world.connect(&second).await.is_some() && thief.connection_state() == State::Connected);
    is_cut_off(&thief).await;
    assert!(world.connect(&stolen).await.is_none());
    assert_eq!(other.connection_state(), State::Connected);
    // One that is named again is another one: what was kept from before is of no use.
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": [{"nats": "cli"}]}})).await;
    eventually("it is removed", async || world.connect(&second).await.is_none().then_some(())).await;
    eventually("its Secret goes", async || world.secret("orders-publisher-web").await.is_none().then_some(())).await;
    space.merge::<EventTopic>("orders", json!({"spec": publishers})).await;
    eventually("it is there again", async || (generations().await == has(1, 1)).then_some(())).await;
    assert!(world.connect(&world.copied("orders-publisher-web").await).await.is_some());
    assert!(world.connect(&second).await.is_none() && world.connect(&stolen).await.is_none());
    operator.stop().await;
}

/// Of credentials that nobody touched the operator knows by their metadata that they are good. Of others it does not believe
/// that: it reads them, and what is wrong is made right.
#[tokio::test]
async fn credentials_that_somebody_touched_while_no_operator_looked_are_read_and_all_others_are_not() {
    let _turn = turn().await;
    let world = World::new("untouched", json!({"publishers": [{"nats": "web"}]})).await;
    let (space, requests) = (&world.space, Count::default());
    let operator = world.operator();
    until_ready(space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    until_reason(space, "Subscribed", "Subscribed").await;
    world.until_key(1, true).await;
    let names = ["billing-identity", "orders-publisher-web"];
    let mut before = Vec::new();
    for name in names {
        before.push(eventually(name, async || world.secret(name).await).await);
    }
    operator.stop().await;
    // Restarts, and answers which of the two were read.
    let restart = async || {
        requests.take();
        let operator = world.operator_of(requests.client());
        sleep(Duration::from_secs(4)).await;
        operator.stop().await;
        let asked = requests.take();
        assert!(asked.iter().any(|(_, url)| url.contains(&format!("/{}/secrets/orders-broker", space.name))));
        names.map(|name| asked.iter().any(|(_, url)| url.contains(&format!("/{}/secrets/{name}", space.name))))
    };
    assert_eq!(restart().await, [false, false]);
    let far = json!({"metadata": {"annotations": {"tidegate.io/credentials-end": "2999-01-01T00:00:00Z"}}});
    for change in [json!({"data": {"user.jwt": "eA=="}}), json!({"data": {"tls.key": null}}), far] {
        space.merge::<Secret>(names[0], change.clone()).await;
        assert_eq!(restart().await, [true, false], "{change}");
        space.merge::<Secret>(names[1], change.clone()).await;
        assert_eq!(restart().await, [false, true], "{change}");
        for (name, before) in names.iter().zip(&before) {
            let after = world.secret(name).await.unwrap();
            let seed = |secret: &Secret| secret.data.as_ref().unwrap()["user.seed"].clone();
            assert_eq!(seed(&after), seed(before), "{name}: the key is kept");
            assert_ne!(after.annotations()["tidegate.io/credentials-end"], "2999-01-01T00:00:00Z");
            assert!(world.connect(&world.copied(name).await).await.is_some(), "{name} after {change}");
        }
    }
    assert_eq!(restart().await, [false, false]);
}

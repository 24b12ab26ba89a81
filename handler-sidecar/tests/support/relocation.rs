//! What the operator does when a handler's place in its topic changes, by the same functions.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_admin::consumers::{self, Handler};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::relocation::{self, Scan};
use tidegate_broker_client::contract::{Order, Relocation};
use tidegate_test_broker::{TestBroker, eventually};
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Lets each lane finish what it has before it gets another event, while sidecars are there.
pub async fn drain(broker: &TestBroker, handler: &Handler) {
    let Order::Key { lanes } = handler.order else { panic!("no lanes") };
    let draining = Handler { is_draining: true, ..handler.clone() };
    consumers::ensure(&broker.admin(), &draining, &Position::default()).await.unwrap();
    let is_drained = async || relocation::are_drained(&broker.admin(), &handler.name, lanes).await.unwrap();
    eventually("the lanes are drained", is_drained).await;
}

/// Changes the number of lanes, without sidecars. What the sidecars have to know then, and their identity.
pub async fn change_lanes(
    broker: &TestBroker,
    handler: &mut Handler,
    to: u16,
    before: &[u64],
) -> (Relocation, PathBuf) {
    let (admin, Order::Key { lanes }) = (broker.admin(), handler.order) else { panic!("no lanes") };
    shut_out(broker, handler).await;
    let none = Position::default();
    let floors = relocation::floors(&admin, &handler.name, lanes, &none, 0, before).await.unwrap();
    handler.order = Order::Key { lanes: to };
    relocation::begin_after(&admin, handler, floors.after).await.unwrap();
    let mut scan = Scan::begin(&admin, &handler.name).await.unwrap();
    while !scan.is_over {
        relocation::sort_into_lanes(&admin, &handler.name, to, &mut scan, soon()).await.unwrap();
    }
    let settled_before = floors.settled_before.map_or(0, |time| u64::try_from(time.unix_timestamp_nanos()).unwrap());
    let relocation = Relocation { rewinds: 0, settled: floors.settled, settled_before };
    (relocation, broker.handler_with(handler.clone()).await)
}

/// Moves the handler to this sequence, without sidecars. The identity of the next ones.
pub async fn rewind(broker: &TestBroker, handler: &Handler, sequence: u64) -> PathBuf {
    let admin = broker.admin();
    shut_out(broker, handler).await;
    relocation::begin_after(&admin, handler, sequence - 1).await.unwrap();
    let mut scan = Scan::begin(&admin, &handler.name).await.unwrap();
    while !scan.is_over {
        relocation::remove_from(&admin, &handler.name, sequence, &mut scan, soon()).await.unwrap();
    }
    broker.handler_with(handler.clone()).await
}

async fn shut_out(broker: &TestBroker, handler: &Handler) {
    let system = broker.system().await;
    system.shut_out_handler(broker.authority(), &handler.name, &handler.uid).await.unwrap();
}

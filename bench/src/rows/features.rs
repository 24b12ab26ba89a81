//! What a handler's wishes cost: everything that can be asked for at once, and the order of keys, beside a sidecar of
//! which nothing is asked.
//!
//! All of them get the same events in turn. The rate that is allowed is far above the one that is reached, and the
//! filters let every event through: what is measured is what it costs to look.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_broker_client::contract::{Filter, Format, Order, Rate, Retry, Sidecar};

use crate::broker::Broker;
use crate::handler::Handler;
use crate::pace::{Pace, Work};
use crate::{CONCURRENCY, ROUNDS, events, process, raw, report};

/// Events of a round. Each has a key of its own.
const EVENTS: u64 = 10_000;
const LANES: u16 = 8;

const PLAIN: &str = "features-off";
const FEATURES: &str = "features-on";
const ORDERED: &str = "features-ordered";

/// A handler, and what it asks for.
struct Wish {
    name: &'static str,
    identity: PathBuf,
    ask: fn(&mut Sidecar),
}

pub async fn measure(broker: &Broker) -> anyhow::Result<()> {
    let order = Order::Key { lanes: LANES };
    let plain = Wish { name: PLAIN, identity: broker.handler(PLAIN).await, ask: |_| {} };
    let identity = broker.handler_of(FEATURES, types(), Order::None).await;
    let features = Wish { name: FEATURES, identity, ask: everything };
    let identity = broker.handler_of(ORDERED, Vec::new(), order).await;
    let ordered = Wish { name: ORDERED, identity, ask: |config| config.delivery.order = Order::Key { lanes: LANES } };
    report::note(&format!("features: {EVENTS} events of 256 bytes a round, {CONCURRENCY} in flight, {LANES} lanes"));
    let (mut on, mut in_order) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        broker.publish(EVENTS).await?;
        let off = deliver(broker, &plain).await?;
        let all = deliver(broker, &features).await?;
        let keyed = deliver(broker, &ordered).await?;
        report::note(&format!(
            "  per second: plain {:.0}, everything on {:.0}, ordered {:.0}; \
             processor per event: plain {:.1?}, everything on {:.1?}, ordered {:.1?}",
            off.rate, all.rate, keyed.rate, off.cpu, all.cpu, keyed.cpu
        ));
        on.push(all.rate / off.rate);
        in_order.push(keyed.rate / off.rate);
    }
    report::row("features-on-ratio", &on, ">= 0.90")?;
    report::row("ordered-throughput-ratio", &in_order, "reported")?;
    Ok(())
}

async fn deliver(broker: &Broker, wish: &Wish) -> anyhow::Result<Work> {
    let pace = Pace::of(EVENTS);
    let handler = Handler::start(raw::counting(&pace))?;
    let mut config = process::sidecar_config(&broker.server, wish.name, &wish.identity, handler.port, CONCURRENCY)?;
    (wish.ask)(&mut config);
    let process = process::start_sidecar(&config).await?;
    pace.watch(process.id()).await
}

/// All that can be asked for together, and lets these events through.
fn everything(config: &mut Sidecar) {
    config.filter = Filter {
        types: types(),
        sources: vec![events::SOURCE.to_owned(), "/sensors/2".to_owned()],
        expression: Some("event.type.startsWith('temp') && event.source != '/' && event.id != 'none'".to_owned()),
    };
    config.delivery.format = Format::Structured;
    config.delivery.rate = Some(Rate { events: 1_000_000, per: Duration::from_secs(1) });
    config.delivery.retry = Retry {
        max_attempts: 10,
        initial: Duration::from_millis(100),
        max: Duration::from_secs(60),
        factor: 1.5,
        jitter: 1.0,
    };
}

fn types() -> Vec<String> {
    vec![events::TYPE.to_owned(), "pressure.*".to_owned()]
}

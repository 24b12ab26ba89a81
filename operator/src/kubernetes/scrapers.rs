//! Who may scrape the metrics of the pods that the operator makes.

use serde_json::{Value, json};

use crate::args::Args;

/// The rule of a NetworkPolicy by which they are let in at this port; `None`: nobody scrapes. An empty list of peers would let
/// in everybody.
pub fn scrapers(args: &Args, port: i32) -> Option<Value> {
    let from = &args.metrics_from;
    (!from.is_empty()).then(|| json!({"from": from, "ports": [{"port": port, "protocol": "TCP"}]}))
}

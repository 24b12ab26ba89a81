//! What earlier versions stored can still be read. One resource that cannot would end the list of all of its kind, and with it
//! the operator's work for everybody.

use serde_json::Value;
use tidegate_crds::{EventHandler, EventTopic};

/// Every field of version 0.1, as the API server gives it back where the present schema does not prune it.
const TOPIC: &str = include_str!("stored-by-0.1/eventtopic.json");
const HANDLER: &str = include_str!("stored-by-0.1/eventhandler.json");

#[test]
fn what_version_0_1_stored_is_read() {
    let topic: EventTopic = serde_json::from_str(TOPIC).unwrap();
    let status = topic.status.unwrap();
    assert_eq!((status.conditions.len(), status.address.unwrap().url.as_str()), (1, "text"));
    let handler: EventHandler = serde_json::from_str(HANDLER).unwrap();
    assert_eq!(handler.status.unwrap().lag.unwrap().pending, 1);
}

/// Fields that are new since then are absent from what is stored, so none may be demanded.
#[test]
fn nothing_in_a_status_is_lost_by_its_absence() {
    for text in [TOPIC, HANDLER] {
        let stored: Value = serde_json::from_str(text).unwrap();
        for field in stored["status"].as_object().unwrap().keys() {
            let mut less = stored.clone();
            less["status"].as_object_mut().unwrap().remove(field);
            let read = match stored["kind"].as_str() {
                Some("EventTopic") => serde_json::from_value::<EventTopic>(less).map(drop),
                _ => serde_json::from_value::<EventHandler>(less).map(drop),
            };
            assert!(read.is_ok(), "{field}: {read:?}");
        }
    }
}

//! The devices that are connected: each has one connection. Whoever is known as another publisher is another device, so no
//! publisher ends a connection of another one by its client identifier.
//!
//! Each ingress knows its own. A device whose connections lead to two broker pods has two of them for as long as the
//! older one is silent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_broker_client::TopicId;

use crate::slots::{End, Seat};

/// The devices of a listener.
#[derive(Default)]
pub struct Clients(Mutex<HashMap<Device, Arc<Seat>>>);

/// What makes a device the same one again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// The topic that it publishes to.
    pub topic: TopicId,
    /// Who it is. All that are anonymous are one publisher.
    pub publisher: String,
    /// Its client identifier.
    pub identifier: String,
}

/// A device that is connected, until it is dropped.
pub struct ConnectedDevice {
    clients: Arc<Clients>,
    device: Device,
    seat: Arc<Seat>,
}

impl Clients {
    /// This device has come; an older connection of it ends (MQTT 5, 3.1.4, step 3; MQTT 3.1.1, MQTT-3.1.4-2).
    pub fn connect(self: &Arc<Self>, device: Device, seat: &Arc<Seat>) -> ConnectedDevice {
        let older = self.lock().insert(device.clone(), Arc::clone(seat));
        if let Some(older) = older {
            older.end(End::TakenOver);
        }
        ConnectedDevice { clients: Arc::clone(self), device, seat: Arc::clone(seat) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Device, Arc<Seat>>> {
        let Self(clients) = self;
        clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectedDevice {
    fn drop(&mut self) {
        let mut clients = self.clients.lock();
        if clients.get(&self.device).is_some_and(|seat| Arc::ptr_eq(seat, &self.seat)) {
            clients.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::slots::Slots;

    #[test]
    fn the_newest_connection_of_a_device_is_the_one_it_has() {
        let slots = Slots::new(8, Duration::from_secs(60), CancellationToken::new());
        let slot = || slots.take(IpAddr::from([10, 0, 0, 1]).into()).unwrap();
        let clients = Arc::new(Clients::default());
        let (first, second, other) = (slot(), slot(), slot());
        let device = |identifier: &str| Device {
            topic: TopicId::new("shop", "orders").unwrap(),
            publisher: "press".to_owned(),
            identifier: identifier.to_owned(),
        };
        let known = clients.connect(device("a"), first.seat());
        let _other = clients.connect(device("b"), other.seat());
        let newer = clients.connect(device("a"), second.seat());
        assert_eq!(first.end(), End::TakenOver);
        drop(known);
        assert!(Arc::ptr_eq(&clients.lock()[&device("a")], second.seat()), "the older one takes nothing with it");
        drop(newer);
        assert_eq!(clients.lock().len(), 1);
    }
}

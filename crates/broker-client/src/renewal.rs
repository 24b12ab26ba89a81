//! A connection whose user is replaced: it is made again with the new one before the broker refuses the one before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_wire::nats::Client;
use tokio::time::sleep;

use crate::identity::Source;

/// Between two looks at the identity. A key is refused minutes after another one was handed out.
const PERIOD: Duration = Duration::from_secs(10);
/// For half as long, what was asked for may still come over the old connection.
const RENEWAL_LIMIT: Duration = Duration::from_secs(4);

/// An identity that may be replaced while a connection uses it.
#[derive(Clone)]
pub struct Renewal {
    source: Source,
    /// The user JWT that was read last to connect with.
    used: Arc<Mutex<Option<String>>>,
}

impl Renewal {
    /// Of this identity.
    pub fn new(source: Source) -> Self {
        Self { source, used: Arc::default() }
    }

    /// The identity, to connect with: what is read of it is what the connection uses.
    pub fn source(&self) -> Source {
        let Self { source, used } = self.clone();
        Arc::new(move || {
            let identity = source()?;
            *used.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.user_jwt.clone());
            Ok(identity)
        })
    }

    /// Makes the connection of this client again whenever there is another user. Never returns.
    pub async fn follow(&self, client: &Client) {
        loop {
            sleep(PERIOD).await;
            if !self.is_replaced() {
                continue;
            }
            tracing::info!("there is another user of the broker: connecting again");
            client.renew(RENEWAL_LIMIT).await;
        }
    }

    /// One that cannot be read now may be half written.
    fn is_replaced(&self) -> bool {
        let Ok(identity) = (self.source)() else { return false };
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.as_ref().is_some_and(|used| *used != identity.user_jwt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, Unreadable};

    #[test]
    fn a_user_is_replaced_if_it_is_another_than_the_connection_uses() {
        let user = Arc::new(Mutex::new(Some("one".to_owned())));
        let read = Arc::clone(&user);
        let renewal = Renewal::new(Arc::new(move || {
            let user_jwt = read.lock().unwrap().clone().ok_or_else(|| Unreadable::new("user", "half written"))?;
            let [ca, certificate, key, user_seed] = [(); 4].map(|()| String::new());
            Ok(Identity { ca, certificate, key, user_jwt, user_seed })
        }));
        assert!(!renewal.is_replaced(), "there is no connection yet");
        renewal.source()().unwrap();
        assert!(!renewal.is_replaced());
        *user.lock().unwrap() = None;
        assert!(!renewal.is_replaced() && renewal.source()().is_err());
        *user.lock().unwrap() = Some("two".to_owned());
        assert!(renewal.is_replaced() && renewal.is_replaced(), "until the connection uses it");
        renewal.source()().unwrap();
        assert!(!renewal.is_replaced());
    }
}

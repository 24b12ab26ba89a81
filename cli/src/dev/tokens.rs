//! Tokens of ServiceAccounts, which here this program issues: the ingress verifies them as those of a cluster.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_broker_client::contract::{TokenTrust, audience};
use tidegate_publisher_auth::issuer::Issuer;

use super::project::Topic;

/// How often tokens are replaced. They are good for an hour.
pub const REFRESH: Duration = Duration::from_secs(20 * 60);

/// Issues tokens. Its key lives as long as this process.
pub struct Tokens(Issuer);

impl Tokens {
    /// With a new key.
    pub fn new() -> Self {
        Self(Issuer::new("https://tidegate-dev.localhost", "dev", "ES256"))
    }

    /// By what the ingress verifies them.
    pub fn trust(&self) -> TokenTrust {
        self.0.trust()
    }

    /// A token of a ServiceAccount that may publish to this topic; `None`: no ServiceAccount may, or needs one.
    pub fn of(&self, topic: &Topic) -> Option<String> {
        let (namespace, name) = topic.service_account()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Some(self.0.token(&namespace, &name, &audience(topic.id()), now))
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}

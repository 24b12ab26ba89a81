//! The cluster of a broker's servers: what its leader does for the system account.

use serde_json::json;

use super::broker::Broker;
use super::error::{ApiError, ErrorCode};

impl Broker {
    /// Lets another server lead the cluster.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn step_down_meta(&self, preferred: &str) -> Result<(), ApiError> {
        self.tell("META.LEADER.STEPDOWN", &json!({"placement": {"preferred": preferred}})).await
    }

    /// Moves everything that lies on a server to others. It stays a member; what is moved takes its time.
    ///
    /// # Errors
    /// As [`ApiError`] says. That it is no member is none: nothing lies there.
    pub async fn evacuate_server(&self, name: &str) -> Result<(), ApiError> {
        members_only(self.tell("SERVER.EVACUATE", &json!({"peer": name})).await)
    }

    /// Takes a server out of the cluster. Out of it already: fine. `peer`: the id that it has there.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn remove_server(&self, name: &str, peer: &str) -> Result<(), ApiError> {
        members_only(self.tell("SERVER.REMOVE", &json!({"peer": name, "peer_id": peer})).await)
    }
}

fn members_only(done: Result<(), ApiError>) -> Result<(), ApiError> {
    match done {
        Err(ApiError::Refused(refusal)) if refusal.error_code == ErrorCode::SERVER_NOT_MEMBER => Ok(()),
        done => done,
    }
}

//! The steps that are the servers' to do.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde::Deserialize;
use tidegate_broker_client::seed;
use tidegate_wire::nats::{Client, Publish};

use super::{BrokerStep, StreamId};
use crate::api::{ApiError, Broker};
use crate::single_copy;

/// How long a step waits for the servers' answer. One that was done all the same is observed the next time.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Does what [`super::plan`] says, once. Every step can be repeated.
pub struct Executor {
    system: Client,
    api: Broker,
}

/// The answer to a reload.
#[derive(Deserialize)]
struct Reloaded {
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    description: String,
}

impl Executor {
    /// `system`: a user of the system account.
    pub fn new(system: Client) -> Self {
        Self { api: Broker::new(system.clone(), TIMEOUT), system }
    }

    /// Does a step. `accounts`: the API in each account that [`BrokerStep::accounts`] names, by its id. Streams of others
    /// are left as they are.
    ///
    /// # Errors
    /// The first that a server had. What was done before it stays done.
    pub async fn run(&self, step: &BrokerStep, accounts: &HashMap<String, Broker>) -> Result<(), ApiError> {
        match step {
            BrokerStep::Reload { id, .. } => reload(&self.system, id).await,
            BrokerStep::SetCopies { streams, copies } => {
                let set = ours(streams, accounts).map(|(api, name)| set_copies(api, name, *copies));
                join_all(set).await.into_iter().collect()
            }
            BrokerStep::StepDown(streams) => {
                for (StreamId { account, name }, preferred) in streams {
                    if let Some(api) = accounts.get(account) {
                        api.step_down_stream(name, preferred).await?;
                    }
                }
                Ok(())
            }
            BrokerStep::Evacuate { name, single } => {
                // They are as those that come down to one copy: when they have moved, the step for these follows.
                try_join_all(ours(single, accounts).map(|(api, name)| single_copy::pause(api, name))).await?;
                self.api.evacuate_server(name).await
            }
            BrokerStep::MetaStepDown(name) => self.api.step_down_meta(name).await,
            BrokerStep::RemoveServer(name) => {
                let peer = seed::peer_id(name);
                self.api.remove_server(name, &String::from_utf8_lossy(&peer)).await
            }
        }
    }
}

/// Those of these streams whose account there is an API for.
fn ours<'a>(
    streams: &'a [StreamId],
    accounts: &'a HashMap<String, Broker>,
) -> impl Iterator<Item = (&'a Broker, &'a str)> {
    streams.iter().filter_map(|StreamId { account, name }| Some((accounts.get(account)?, name.as_str())))
}

async fn set_copies(api: &Broker, stream: &str, copies: usize) -> Result<(), ApiError> {
    match copies {
        1 => single_copy::keep_one(api, stream, None).await,
        _ => api.set_stream_copies(stream, copies).await,
    }
}

/// Lets the server with this id read its configuration and its certificates again.
pub(super) async fn reload(system: &Client, id: &str) -> Result<(), ApiError> {
    let subject = format!("$SYS.REQ.SERVER.{id}.RELOAD");
    let question = Publish { subject: &subject, ..Publish::default() };
    let answer = system.request(&question, TIMEOUT).await?;
    let Reloaded { error } =
        serde_json::from_slice(answer.payload()).map_err(|error| ApiError::Unreadable(error.to_string()))?;
    match error {
        None => Ok(()),
        Some(problem) => Err(ApiError::Configuration(crate::api::bounded(&problem.description))),
    }
}

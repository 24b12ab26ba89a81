//! What a person asks for once: dead letters to their handler again ([`redrive`]), held keys to continue ([`release`]).
//!
//! Both wait while there are pods of an older template: who mends a handler in the same step does not mean those. Dead letters
//! wait for a replay, too, which may pass over their copies.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::EventHandlerStatus;

use super::observe::{Observed, Topic};
use super::{key, redrive, reference, release, relocation, subscribe};
use crate::context::{Context, Owner};
use crate::reconcile::error::Error;
use crate::reconcile::report;

/// Between two steps.
const PAUSE: Duration = Duration::from_millis(10);

/// Whose requests, and on which broker.
pub struct Requests<'a> {
    /// What every reconcile is given.
    pub context: &'a Context,
    /// The handler.
    pub owner: &'a Owner,
    /// The same.
    pub handler: &'a EventHandler,
    /// Its topic.
    pub topic: &'a Topic,
    /// What there was.
    pub observed: &'a Observed,
    /// Its Deployment, as it was applied.
    pub deployment: &'a Deployment,
}

/// What was done, and how many dead letters there are.
#[derive(Default)]
pub struct Done {
    /// How far a redrive is, where one was asked for.
    pub redrive: Option<redrive::Progress>,
    /// How far a release is, where one was asked for.
    pub release: Option<release::Progress>,
    /// As many dead letters as the broker keeps; `None`: what is known stays.
    pub dead_letters: Option<u64>,
}

impl Done {
    /// When to look again, unless there is nothing left to do.
    pub fn again(&self) -> Option<Duration> {
        let redrive = self.redrive.as_ref().and_then(|progress| progress.again);
        let release = self.release.as_ref().and_then(|progress| progress.again);
        redrive.into_iter().chain(release).min().map(|next| next.max(PAUSE))
    }
}

impl Requests<'_> {
    /// Does a step of each.
    ///
    /// # Errors
    /// The broker is away, so nothing was done.
    pub async fn step(&self) -> Result<Done, Error> {
        if self.topic.routing != Routing::Queued {
            return Ok(Done::default());
        }
        let release = self.release().await?;
        let redrive = self.redrive().await?;
        let before = self.before().and_then(|status| status.redrive.as_ref());
        let has_redriven = redrive.as_ref().is_some_and(|progress| Some(&progress.status) != before);
        let dead_letters = self.count_letters(has_redriven).await?;
        Ok(Done { redrive, release, dead_letters })
    }

    async fn redrive(&self) -> Result<Option<redrive::Progress>, Error> {
        let Some(wanted) = &self.handler.spec.redrive else { return Ok(None) };
        let before = self.before().and_then(|status| status.redrive.as_ref());
        if is_rolling(self.deployment, &self.observed.pods) {
            return Ok(Some(redrive::waiting(wanted, before, "waits until all pods are of the present template")));
        }
        if relocation::awaits_replay(self.handler) {
            return Ok(Some(redrive::waiting(wanted, before, "waits until the replay that is asked for has ended")));
        }
        let broker = subscribe::broker(self.context, self.topic).await?;
        let types = self.handler.spec.filter.as_ref().map(|filter| filter.types.as_slice()).unwrap_or_default();
        let name = &reference::known_as(self.handler);
        let generation = self.handler.metadata.generation.unwrap_or_default();
        let letters_of = redrive::Handler { name, uid: &self.owner.reference.uid, generation, types };
        let progress = redrive::step(&broker.api, &letters_of, wanted, before).await?;
        if let Some(refused) = &progress.refused {
            report::event(self.context, self.handler, EventType::Warning, "DeadLetterRefused", refused).await;
        }
        Ok(Some(progress))
    }

    async fn release(&self) -> Result<Option<release::Progress>, Error> {
        let Some(wanted) = &self.handler.spec.release else { return Ok(None) };
        let before = self.before().and_then(|status| status.release.as_ref());
        if is_rolling(self.deployment, &self.observed.pods) {
            return Ok(Some(release::waiting(wanted, before)));
        }
        let broker = subscribe::broker(self.context, self.topic).await?;
        let progress = release::step(&broker.api, &reference::known_as(self.handler), wanted, before).await?;
        if Some(&progress.status) != before {
            self.context.keys.expire(&key(self.owner));
        }
        Ok(Some(progress))
    }

    async fn count_letters(&self, has_redriven: bool) -> Result<Option<u64>, Error> {
        let key = key(self.owner);
        if has_redriven {
            self.context.letters.expire(&key);
        }
        let broker = subscribe::broker(self.context, self.topic).await?;
        Ok(self.context.letters.count(&key, &reference::known_as(self.handler), &broker.api).await)
    }

    fn before(&self) -> Option<&EventHandlerStatus> {
        self.handler.status.as_ref()
    }
}

/// Whether there are pods of an older template, those included that are on their way out (they still deliver what they
/// have). Deployment and pods are watched, so the end of it is noticed.
fn is_rolling(deployment: &Deployment, pods: &[Pod]) -> bool {
    let counts = deployment.status.as_ref();
    let seen = counts.and_then(|counts| counts.observed_generation) == deployment.metadata.generation;
    let updated = counts.and_then(|counts| counts.updated_replicas).unwrap_or(0);
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let alive = pods.iter().filter(|pod| !matches!(phase(pod).as_str(), "Failed" | "Succeeded")).count();
    !seen || i32::try_from(alive).unwrap_or(i32::MAX) > updated
}

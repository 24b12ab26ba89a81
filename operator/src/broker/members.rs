//! Lets a broker have more or fewer servers while events flow, and its servers load what changes in their configuration:
//! one step at a time, each from what is seen then ([`membership::plan`]).
//!
//! No pod is restarted meanwhile, but one whose server does not run; and nothing of this begins while pods are restarted.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Error as KubeError, ResourceExt as _};
use sha2::{Digest as _, Sha256};
use tidegate_broker_admin::membership::{self, BrokerStep, Executor, Next, Ordinal, Site, SiteStep, Step, Wait};
use tidegate_broker_admin::server::{MAX_GROUPS, Server};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use time::OffsetDateTime;

use super::desired::{Input, claim, server};
use super::observe::{Observed, selected};
pub(super) use super::progress::Progress;
use super::restart;
use super::scale::{Goal, Scale};
use super::{audit, room, topics};
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::sessions::brokers::{Place, Servers, TopicKey};

/// What is to be reached: so many servers, with the configuration that they have then.
pub(super) fn goal(input: &Input<'_>) -> Result<Goal, Error> {
    let wanted = input.settings.replicas;
    let server = server(input, wanted)?;
    let hash = Sha256::digest(format!("{wanted} {}", server.render()));
    Ok(Goal(hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()))
}

/// Whether the servers were seen to have reached it.
pub(super) fn has_reached(input: &Input<'_>) -> Result<bool, Error> {
    Ok(input.scale.reached.as_ref() == Some(&goal(input)?))
}

/// Does the next step, if one is due. `has_outdated`: pods are to be restarted.
///
/// # Errors
/// The API server did not take it. That a server did not is said in the step, and it is done again.
pub(super) async fn proceed(
    context: &Context,
    input: &Input<'_>,
    place: &Place,
    has_outdated: bool,
) -> Result<Progress, Error> {
    let (scale, wanted, goal) = (input.scale, input.settings.replicas, goal(input)?);
    if scale.reached.as_ref() == Some(&goal) {
        return Ok(Progress::Done);
    }
    if !scale.is_changing() {
        if has_outdated {
            return Ok(Progress::AfterRestarts);
        }
        if let Some(why) = has_too_many_groups(input) {
            return Ok(Progress::waits(why));
        }
        // Written down before anything is done: from now on no pod is restarted, and topics leave the copies alone.
        return Ok(Progress::acts("beginning".to_owned(), Some(scale.begun(wanted))));
    }
    if !context.broker_restarts.is_free(&place.broker, &input.observed.pods) {
        return Ok(Progress::waits("waiting for a pod to end that was told to".to_owned()));
    }
    let servers = match context.brokers.servers(place).await {
        Ok(servers) => servers,
        Err(error) => return Ok(Progress::waits(format!("waiting for its servers: {error}"))),
    };
    let mut site = site(context, input, place, &server(input, scale.routes)?);
    let observed = match membership::observe(servers.system_client(), &site).await {
        Ok(observed) => observed,
        Err(error) => return Ok(Progress::waits(format!("waiting for its servers: {error}"))),
    };
    // The servers take seconds to answer: one that has started since then must not be stopped for one that was never there.
    look_at_pods(&mut site, &pods_now(context, input).await?);
    let next = membership::plan(&site, &observed, usize::try_from(wanted).unwrap_or(1));
    match next {
        Next::Done => Ok(Progress::acts("done".to_owned(), Some(scale.ended(wanted, goal)))),
        Next::Wait(wait @ Wait::Copying(_)) => Ok(Progress::audits(wait.to_string())),
        Next::Wait(wait) => Ok(Progress::waits(wait.to_string())),
        // A copy that lacks something may be the one that stays.
        Next::Act(Step::Broker(step))
            if step.takes_copies_away(&observed) && !audit::covers(input.broker, &site, &observed) =>
        {
            Ok(Progress::audits(format!(
                "auditing what the servers store, before {step_text}",
                step_text = Step::Broker(step)
            )))
        }
        // What it would load may be more than a server can load while it runs.
        Next::Act(Step::Broker(BrokerStep::Reload { .. })) if has_outdated => Ok(Progress::AfterRestarts),
        Next::Act(step) => {
            tracing::info!(broker = input.owner.name, namespace = input.owner.namespace, %step, "changing servers");
            let text = step.to_string();
            match step {
                Step::Site(step) => {
                    let record = act(context, input, &site, step).await?;
                    Ok(Progress::acts(text, record))
                }
                Step::Broker(step) => {
                    let text = run(context, input, place, &servers, &step, text).await;
                    Ok(Progress::acts_on(&step, text))
                }
            }
        }
    }
}

/// Why a broker of one server cannot become one of several: there each stream and each consumer is a group.
fn has_too_many_groups(input: &Input<'_>) -> Option<String> {
    let used = input.broker.status.as_ref()?.groups.as_ref()?.used;
    let bound = i64::try_from(MAX_GROUPS).unwrap_or(i64::MAX);
    (input.scale.pods == 1 && input.settings.replicas > 1 && used > bound).then(|| {
        format!(
            "not begun: its {used} streams and consumers are more than the {bound} that several servers can keep. Delete handlers or topics that are not needed, give handlers with order: Key fewer lanes, or put topics on another broker"
        )
    })
}

/// What there is beside the servers' own state. Every server has a route to each, whatever its name.
fn site(context: &Context, input: &Input<'_>, place: &Place, server: &Server) -> Site {
    let site = restart::site(place);
    let of = |name: &str| site.names.iter().position(|known| known == name);
    let Observed { pods, volumes, .. } = input.observed;
    let mut site = Site {
        digests: site.names.iter().map(|name| (context.digests)(&place.broker, server, name)).collect(),
        routes: usize::try_from(input.scale.routes).unwrap_or_default(),
        volumes: volumes.iter().filter_map(|claim| of(claim.strip_prefix("data-")?)).collect(),
        ..site
    };
    look_at_pods(&mut site, pods);
    site
}

fn look_at_pods(site: &mut Site, pods: &[Pod]) {
    let now = jiff::Timestamp::now();
    let of = |pod: &Pod| site.names.iter().position(|known| *known == pod.name_any());
    let present: BTreeSet<Ordinal> = pods.iter().filter_map(of).collect();
    site.placed = pods.iter().filter(|pod| restart::may_run(pod, now)).filter_map(of).collect();
    site.present = present;
}

/// The pods as the API server has them: the operator's own copy may be older than what the servers said.
async fn pods_now(context: &Context, input: &Input<'_>) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &input.owner.namespace);
    Ok(pods.list(&selected(&input.owner.name)).await?.items)
}

/// Does a step that is not the servers' own. Returns the record, where it changes.
async fn act(context: &Context, input: &Input<'_>, site: &Site, step: SiteStep) -> Result<Option<Scale>, Error> {
    let (owner, scale) = (input.owner, input.scale);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &owner.namespace);
    let count = |servers| i32::try_from(servers).unwrap_or(i32::MAX);
    match step {
        SiteStep::SetRoutes(routes) => Ok(Some(Scale { routes: count(routes), ..scale.clone() })),
        SiteStep::SetPods(pods) => {
            // A StatefulSet makes claims of the size that the broker had when it was made, and takes those that there are.
            for name in site.names.iter().take(pods).skip(site.pods) {
                match claims.create(&PostParams::default(), &claim(input, &format!("data-{name}"))?).await {
                    Ok(_) => tracing::info!(server = name, namespace = owner.namespace, "claimed a volume"),
                    Err(KubeError::Api(status)) if status.code == 409 => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(Some(Scale { pods: count(pods), ..scale.clone() }))
        }
        SiteStep::RemoveVolume(ordinal) => {
            let name = format!("data-{}", site.names[ordinal]);
            let Some(claim) = claims.get_opt(&name).await? else { return Ok(None) };
            // The claim that was looked at: a later one is that of a server that was made again.
            let this_one = Preconditions { uid: claim.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
            match claims.delete(&name, &params).await {
                Ok(_) => tracing::info!(claim = name, namespace = owner.namespace, "deleted: its server was removed"),
                Err(KubeError::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(None)
        }
    }
}

/// Does a step of the servers. Returns what to say of it: what fails is done again.
async fn run(
    context: &Context,
    input: &Input<'_>,
    place: &Place,
    servers: &Servers,
    step: &BrokerStep,
    text: String,
) -> String {
    if matches!(step, BrokerStep::Reload { .. }) {
        // The kubelet brings the file when it looks at the pod.
        context.unserved.add(place.broker.clone());
    }
    match execute(context, input, place, servers, step).await {
        Ok(()) => text,
        Err(error) => {
            tracing::warn!(broker = input.owner.name, namespace = input.owner.namespace, %error, step = text, "not done");
            format!("{text}, which was not done yet: {error}")
        }
    }
}

async fn execute(
    context: &Context,
    input: &Input<'_>,
    place: &Place,
    servers: &Servers,
    step: &BrokerStep,
) -> Result<(), Error> {
    let mut accounts = HashMap::new();
    for id in step.accounts() {
        accounts.insert(id.to_owned(), account(context, input, place, servers, id).await?);
    }
    Ok(Executor::new(servers.system_client().clone()).run(step, &accounts).await?)
}

/// The API in the account of this id, which has room for as many copies as there are on the way. A topic's own reconcile
/// sees to that too; but it may not come to it, and then no other topic of the broker would.
async fn account(
    context: &Context,
    input: &Input<'_>,
    place: &Place,
    servers: &Servers,
    id: &str,
) -> Result<tidegate_broker_admin::api::Broker, Error> {
    let is_it = |topic: &TopicId| place.authority.topic_account_id(topic).is_ok_and(|found| found == id);
    for (topic, promised) in room::resting(context, &place.broker) {
        let Ok(topic) = TopicId::new(topic.namespace, topic.name) else { continue };
        if is_it(&topic) {
            let bytes = promised.saturating_mul(input.scale.quota(input.settings.replicas));
            let now = OffsetDateTime::now_utc();
            let account = place.authority.topic_account(&topic, Routing::Queued, Some(bytes), now)?;
            servers.system.ensure(&account).await?;
            return Ok(context.brokers.get(&key(&topic), place).await?.api.clone());
        }
    }
    // One that was admitted a moment ago.
    if let Some(topic) = topics::of_broker(context, &place.broker).into_iter().find(|topic| is_it(&topic.id)) {
        return Ok(context.brokers.get(&key(&topic.id), place).await?.api.clone());
    }
    Err(Error::Broker(format!(
        "it has streams of account {id}, which is that of no topic known here: delete that account's streams, or make the topic again that they are of"
    )))
}

fn key(topic: &TopicId) -> TopicKey {
    TopicKey { namespace: topic.namespace().to_owned(), name: topic.name().to_owned() }
}

/// Whether retained volumes hold what a broker of so many servers can begin with: those of most of its servers, and of no
/// others.
///
/// # Errors
/// They do not.
pub(super) fn check_volumes(observed: &Observed, scale: &Scale) -> Result<(), Error> {
    let (kept, replicas) = (observed.volumes.len(), scale.pods);
    let wanted = usize::try_from(replicas).unwrap_or_default();
    if observed.statefulset.is_some() || kept == 0 || (kept <= wanted && 2 * kept > wanted) {
        return Ok(());
    }
    Err(Error::refused(
        "VolumesDiffer",
        format!(
            "an earlier broker of this name left {kept} volume(s) ({}), with which {replicas} server(s) cannot begin: make this broker with as many replicas as before and change that when it is ready, or delete the volumes to begin without their events",
            observed.volumes.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::json;
    use tidegate_crds::EventBroker;

    use super::*;

    #[test]
    fn retained_volumes_are_those_of_most_servers_and_of_no_others() {
        let left = |volumes: usize| Observed {
            volumes: (0..volumes).map(|number| format!("data-{number}")).collect(),
            ..Observed::default()
        };
        let of = |replicas: i32, shown: Option<i32>| -> EventBroker {
            serde_json::from_value(json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {}, "spec": {"replicas": replicas},
                "status": shown.map(|shown| json!({"replicas": shown})),
            }))
            .unwrap()
        };
        let fitting = [(0, 1), (0, 3), (0, 5), (1, 1), (2, 3), (3, 3), (3, 5), (4, 5), (5, 5)];
        for volumes in 0..=5 {
            for replicas in [1, 3, 5] {
                let fits = fitting.contains(&(volumes, replicas));
                let checked = check_volumes(&left(volumes), &Scale::of(None, &of(replicas, None)));
                assert_eq!(checked.is_ok(), fits, "{volumes} volumes, {replicas} replicas");
            }
        }
        let running = Observed { statefulset: Some(StatefulSet::default()), ..left(1) };
        assert!(check_volumes(&running, &Scale::new(3)).is_ok(), "its own volumes, being made");
        let edited = Scale::of(None, &of(1, Some(3)));
        assert!(
            check_volumes(&left(3), &edited).is_ok(),
            "a StatefulSet that was deleted while there come to be fewer"
        );
    }
}

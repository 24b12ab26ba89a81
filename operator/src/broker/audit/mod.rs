//! The audit of what a broker's servers store: after each start of a server, and every hour.
//!
//! Which servers were audited, and what was found, is in the broker's status. A copy that lacks something is made again
//! from one that has it, step by step; the servers themselves say how far that is, so another operator continues where
//! one has ended. Meanwhile no pod is restarted.

mod outcome;
mod whereabouts;
mod words;

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use tidegate_broker_admin::audit::{self, Findings, HealStep, Look, Totals};
use tidegate_broker_admin::membership::{ObserveError, Observed, Ordinal, Site, StreamId};
use tidegate_broker_client::TopicId;
use tidegate_crds::broker::{AuditStatus, AuditedServer, DamagedCopy, LostEvents};
use tidegate_crds::{EventBroker, EventTopic};
use tokio::time::{Instant, sleep};

pub(super) use self::outcome::Audit;
pub(crate) use self::whereabouts::{Whereabouts, whereabouts};
pub(crate) use self::words::damaged;
use self::words::lost;
use crate::broker::{formation, restart, tails, topics};
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::sessions::brokers::{Place, Servers, TopicKey};

/// An audit is made again after so many seconds.
pub(super) const PERIOD: i64 = 3600;
/// The same while servers come and go, and copies are waited for: one of them may lack what nobody brings.
pub(super) const PERIOD_OF_CHANGE: i64 = 60;
/// Between two looks: longer than servers that are well are behind each other, and than a group is without a leader.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
/// No further step is begun after this long: the next look finds it.
const STEPS_LIMIT: Duration = Duration::from_secs(20);
/// Entries of a list in the status.
const LISTED: usize = 16;

/// Whether there is to be an audit now (pure). `tails`: what topics say that they have lost.
fn is_due(
    before: Option<&AuditStatus>,
    servers: &[AuditedServer],
    tails: &[LostEvents],
    now: jiff::Timestamp,
    period: i64,
) -> bool {
    let Some(before) = before else { return true };
    let is_old = is_older(before, now, period);
    let is_news = tails.iter().any(|tail| !before.lost.contains(tail));
    is_old || is_news || before.servers != servers || !before.damaged.is_empty() || !before.lost.is_empty()
}

/// Whether the last audit was so many seconds ago, or more (pure).
fn is_older(before: &AuditStatus, now: jiff::Timestamp, seconds: i64) -> bool {
    let ran = before.last_run.as_ref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    ran.is_none_or(|ran| now.duration_since(ran).as_secs().abs() >= seconds)
}

/// What to remember (pure). `is_open`: the audit has not ended.
fn record(
    before: Option<AuditStatus>,
    found: (Vec<DamagedCopy>, Vec<LostEvents>),
    servers: Vec<AuditedServer>,
    is_open: bool,
    now: jiff::Timestamp,
) -> AuditStatus {
    let ((damaged, mut lost), before) = (found, before.unwrap_or_default());
    lost.truncate(LISTED);
    let count = i64::try_from(damaged.len()).unwrap_or(i64::MAX);
    // Copies that are being made again count as damaged until all of them are seen to be whole.
    let (damaged, damaged_copies) =
        if is_open && damaged.is_empty() { (before.damaged, before.damaged_copies) } else { (damaged, count) };
    let mut status = AuditStatus { damaged, damaged_copies, lost, ..before };
    status.damaged.truncate(LISTED);
    if !is_open {
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        if status.damaged.is_empty() && status.lost.is_empty() {
            status.last_passed = Some(now.clone());
        }
        (status.last_run, status.servers) = (Some(now), servers);
    }
    status
}

fn before(broker: &EventBroker) -> Option<AuditStatus> {
    broker.status.as_ref()?.audit.clone()
}

/// Whether what these servers store was audited since each of them started, and nothing of it is damaged (pure).
pub(super) fn covers(broker: &EventBroker, site: &Site, observed: &Observed) -> bool {
    let Some(status) = broker.status.as_ref().and_then(|status| status.audit.as_ref()) else { return false };
    let was_audited = |ordinal: &Ordinal, id: &String| {
        let name = site.names.get(*ordinal);
        status.servers.iter().any(|server| Some(&server.name) == name && server.id == *id)
    };
    // One that was removed stores nothing.
    let mut storing = observed.servers.iter().filter(|(_, server)| server.cluster.is_some());
    status.damaged.is_empty() && storing.all(|(ordinal, server)| was_audited(ordinal, &server.id))
}

/// Audits, where the last one is `period` seconds ago or was of other servers, and does what comes next for damaged copies.
pub(super) async fn proceed(
    context: &Context,
    broker: &EventBroker,
    place: &Place,
    pods: &[Pod],
    period: i64,
) -> Audit {
    let before = before(broker);
    // A server that is away is waited for; what it has changes when it comes back. (While servers come and go, one that was
    // removed is not ready, and the change itself waits for the others.)
    let now = jiff::Timestamp::now();
    let is_complete = period != PERIOD || formation::is_due(pods, place.pods);
    if !is_complete || !context.broker_restarts.is_free(&place.broker, pods) {
        // Copies are not being made again now either; and the pod that is not ready may be one to restart.
        return Audit::put_off(before, "not all pods are ready", now);
    }
    let servers = match context.brokers.servers(place).await {
        Ok(servers) => servers,
        Err(error) => return Audit::missed(before, None, &error.to_string(), now),
    };
    let auditor = Auditor { context, place, servers: &servers, site: restart::site(place), period };
    let audit = match auditor.run(before.clone()).await {
        Ok(audit) => audit,
        Err(error) => {
            tracing::debug!(broker = place.broker.name, namespace = place.broker.namespace, %error, "not audited");
            return Audit::missed(before, None, &error.to_string(), now);
        }
    };
    tell(context, broker, &before.unwrap_or_default(), &audit).await;
    audit
}

/// What is news becomes an Event.
async fn tell(context: &Context, broker: &EventBroker, before: &AuditStatus, audit: &Audit) {
    let Some(now) = &audit.status else { return };
    let names = |status: &AuditStatus| -> Vec<_> {
        status.damaged.iter().map(|it| (it.topic.clone(), it.stream.clone(), it.server.clone())).collect()
    };
    if names(now).iter().any(|name| !names(before).contains(name)) {
        report::event(context, broker, EventType::Warning, "CopyDamaged", &audit.intact().message).await;
    }
    if now.damaged.is_empty() && !before.damaged.is_empty() {
        let note = "every copy of every stream has all that it should have again";
        report::event(context, broker, EventType::Normal, "CopiesHealed", note).await;
    }
    for new in now.lost.iter().filter(|new| !before.lost.contains(new)) {
        report::event(context, broker, EventType::Warning, "EventsLost", &lost(new)).await;
    }
}

struct Auditor<'a> {
    context: &'a Context,
    place: &'a Place,
    servers: &'a Servers,
    site: Site,
    period: i64,
}

impl Auditor<'_> {
    async fn run(&self, before: Option<AuditStatus>) -> Result<Audit, ObserveError> {
        let totals = audit::totals(self.servers.system_client(), &self.site).await?;
        let now = jiff::Timestamp::now();
        let groups = Some(totals.groups);
        let broker = &self.place.broker;
        let mut tails = tails::open(self.context, broker);
        let servers = self.audited(&totals);
        if totals.servers.len() < self.site.pods {
            let why = format!("{} of {} servers answer", totals.servers.len(), self.site.pods);
            return Ok(Audit::missed(before, groups, &why, now));
        }
        if !is_due(before.as_ref(), &servers, &tails, now, self.period) {
            return Ok(Audit { status: before, groups, ..Audit::default() });
        }
        let topics = self.topics();
        let acknowledged = tails::acknowledged(self.context, broker, &topics);
        let earlier = self.look().await?;
        let later = if earlier.is_plain(&acknowledged) {
            earlier.clone()
        } else {
            sleep(LOOK_PAUSE).await;
            self.look().await?
        };
        let findings = audit::judge(&earlier, &later, &acknowledged);
        let copies = usize::try_from(self.place.voters).unwrap_or(1);
        let mut steps = audit::next(&self.site, &later, &findings, copies);
        if before.as_ref().is_none_or(|before| before.damaged.is_empty()) {
            // No copy is removed before it is in the status that they are made again: topics leave theirs alone by that.
            steps.retain(|step| !matches!(step, HealStep::Keep(..)));
        }
        let step = self.heal(&steps, &findings, &topics).await;
        for topic in tails::add_found(&mut tails, &findings.tails, &topics) {
            self.context.ingress_reports.look_at(&topic);
        }
        tails.extend(self.lost(&findings, &topics));
        let found = (self.damaged(&findings, &topics), tails);
        self.context.metrics.audited(result(&found, !step.is_empty()));
        let status = record(before, found, self.audited(&later.totals), !step.is_empty(), now);
        Ok(Audit { status: Some(status), groups, step, late: String::new() })
    }

    async fn look(&self) -> Result<Look, ObserveError> {
        audit::look(self.servers.system_client(), &self.site).await
    }

    fn audited(&self, totals: &Totals) -> Vec<AuditedServer> {
        let server = |(ordinal, id): (&Ordinal, &String)| AuditedServer { name: self.name(*ordinal), id: id.clone() };
        totals.servers.iter().map(server).collect()
    }

    fn name(&self, ordinal: Ordinal) -> String {
        self.site.names.get(ordinal).cloned().unwrap_or_else(|| ordinal.to_string())
    }

    /// Whose each account is, those of deleted topics included.
    fn topics(&self) -> HashMap<String, TopicKey> {
        let broker = &self.place.broker;
        let own = topics::naming(self.context, broker).into_iter().map(|topic| topic_key(&topic));
        let retained = self.context.stores.retained(&self.context.args.pod_namespace, broker);
        let account = |key: TopicKey| {
            let id = TopicId::new(key.namespace.clone(), key.name.clone()).ok()?;
            Some((self.place.authority.topic_account_id(&id).ok()?, key))
        };
        own.chain(retained.into_iter().map(|(topic, _)| topic)).filter_map(account).collect()
    }

    /// Does the steps; in words, what is done or waited for.
    async fn heal(&self, steps: &[HealStep], findings: &Findings, topics: &HashMap<String, TopicKey>) -> String {
        let (begun, mut said) = (Instant::now(), Vec::new());
        for step in steps {
            if begun.elapsed() > STEPS_LIMIT {
                break;
            }
            let StreamId { account, name } = step.stream();
            let topic = shown(account, topics);
            let done = match topics.get(account) {
                Some(key) => self.step(step, key).await.map_err(|error| error.to_string()),
                None => Err("there is no such topic".to_owned()),
            };
            tracing::info!(broker = self.place.broker.name, topic, stream = name, %step, error = ?done.as_ref().err(), "healing a copy");
            let outcome = done.err().map(|error| format!(" ({error})")).unwrap_or_default();
            said.push(format!("stream {name} of topic {topic}: {step}{outcome}"));
        }
        if said.is_empty() && findings.unfinished.is_empty() && !findings.damaged.is_empty() {
            said.push("beginning with that".to_owned());
        }
        if said.is_empty() {
            said.extend(findings.unfinished.first().map(|StreamId { account, name }| {
                format!(
                    "waiting for a leader and all copies of stream {name} of topic {} and {} more",
                    shown(account, topics),
                    findings.unfinished.len() - 1
                )
            }));
        }
        said.truncate(3);
        said.join("; ")
    }

    async fn step(&self, step: &HealStep, topic: &TopicKey) -> Result<(), Error> {
        Ok(step.run(&self.context.brokers.get(topic, self.place).await?.api).await?)
    }

    fn damaged(&self, findings: &Findings, topics: &HashMap<String, TopicKey>) -> Vec<DamagedCopy> {
        let copy = |it: &audit::Damaged| DamagedCopy {
            topic: shown(&it.stream.account, topics),
            stream: it.stream.name.clone(),
            server: self.name(it.server),
            whole: self.name(it.whole),
            missing: signed(it.missing),
            first: signed(it.first),
            last: signed(it.last),
        };
        findings.damaged.iter().map(copy).collect()
    }

    /// Those that were acknowledged are no news.
    fn lost(&self, findings: &Findings, topics: &HashMap<String, TopicKey>) -> Vec<LostEvents> {
        let all = topics::naming(self.context, &self.place.broker);
        let is_acknowledged = |hole: &audit::Hole| {
            let key = topics.get(&hole.stream.account);
            let topic = all.iter().find(|topic| Some(topic_key(topic)) == key.cloned());
            topic.is_some_and(|topic| acknowledged(topic) >= signed(hole.missing))
        };
        let events = |it: &audit::Hole| LostEvents {
            topic: shown(&it.stream.account, topics),
            missing: signed(it.missing),
            first: signed(it.first),
            last: signed(it.last),
            is_tail: false,
        };
        findings.lost.iter().filter(|hole| !is_acknowledged(hole)).map(events).collect()
    }
}

/// Events that a topic lacks, as far as a person knows of it.
fn acknowledged(topic: &EventTopic) -> i64 {
    let status = topic.status.as_ref().filter(|status| status.data_loss.is_none());
    status.and_then(|status| status.stream.as_ref()).map_or(0, |stream| stream.missing)
}

fn topic_key(topic: &EventTopic) -> TopicKey {
    TopicKey { namespace: topic.namespace().unwrap_or_default(), name: topic.name_any() }
}

/// A topic as the status names it.
fn shown(account: &str, topics: &HashMap<String, TopicKey>) -> String {
    topics.get(account).map_or_else(|| account.to_owned(), |key| format!("{}/{}", key.namespace, key.name))
}

fn result((damaged, lost): &(Vec<DamagedCopy>, Vec<LostEvents>), is_open: bool) -> &'static str {
    match (damaged.is_empty(), lost.is_empty(), is_open) {
        (false, ..) => "damaged",
        (true, false, _) => "lost",
        (true, true, true) => "unfinished",
        (true, true, false) => "passed",
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

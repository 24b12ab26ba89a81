//! What is right and wrong along the way of the events: broker, topic, handler, its pods, their answers, dead letters (pure).
//!
//! The operator has said most of it, in conditions whose messages name cause and remedy. Here they are put in the order of
//! the way, so that what comes first is what the rest may follow from; and they are completed by what conditions cannot say.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Resource, ResourceExt as _};
use tidegate_crds::conditions::{HasConditions, kind};
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tidegate_operator::broker::expiry::EXPIRED;

use super::facts::{Facts, Named, Seen};
use super::finding::{Finding, State};
use super::pods::{PODS, complete, of_broker_pods};
use crate::stored::Location;

/// Where a condition belongs.
struct Rule {
    kind: &'static str,
    link: &'static str,
    /// What it says when it is wrong.
    wrong: &'static str,
    /// Ready depends on it. Of others nothing is said while they are right.
    is_needed: bool,
}

const fn needed(kind: &'static str, link: &'static str) -> Rule {
    Rule { kind, link, wrong: "False", is_needed: true }
}

const fn warned(kind: &'static str, link: &'static str, wrong: &'static str) -> Rule {
    Rule { kind, link, wrong, is_needed: false }
}

const BROKER: [Rule; 9] = [
    needed(kind::BROKER_AVAILABLE, "broker"),
    warned(kind::CERTIFICATES_CURRENT, "certificates", "False"),
    needed(kind::ACCESS_READY, "external access"),
    warned(kind::TOKENS_ACCEPTED, "tokens", "False"),
    warned(kind::CERTIFICATES_ACCEPTED, "client certificates", "False"),
    warned(kind::INTACT, "copies", "False"),
    warned(kind::HAS_ROOM, "broker's room", "False"),
    warned(kind::RESIZING, "volumes", "True"),
    warned(kind::IN_USE, "deletion", "True"),
];
const TOPIC: [Rule; 7] = [
    needed(kind::GRANTED, "topic's grant"),
    needed(kind::STREAM_READY, "topic"),
    needed(kind::ADDRESSABLE, "publishers"),
    needed(kind::STORAGE_HEALTHY, "storage"),
    needed(kind::HAS_ROOM, "room"),
    warned(kind::DATA_LOST, "losses", "True"),
    warned(kind::INTACT, "copies", "False"),
];
const HANDLER: [Rule; 11] = [
    needed(kind::GRANTED, "handler's grant"),
    needed(kind::TOPIC_READY, "handler's topic"),
    needed(kind::SUBSCRIBED, "subscription"),
    warned(kind::SUSPENDED, "suspension", "True"),
    needed(kind::PODS_READY, PODS),
    warned(kind::EXPOSED, "exposure", "True"),
    needed(kind::HANDLER_AVAILABLE, "answers"),
    needed(kind::DELIVERING, "deliveries"),
    warned(kind::RETRIES_FULL, "retries", "True"),
    warned(kind::KEYS_HELD, "held keys", "True"),
    warned(kind::DEAD_LETTERS_FULL, "room for dead letters", "True"),
];
/// Reasons of conditions that hold, and still say that something is to be looked at.
const HOLDS_BUT: [&str; 11] = [
    "MajorityReady",
    "SomePodsFailing",
    "PartlyAnswering",
    "PartlyDelivering",
    "Filling",
    "StoreFilling",
    "GroupsFilling",
    "PublisherFailed",
    "ScheduleRefused",
    "SomeKeysUnusable",
    "KeysKept",
];
/// Resources that are named one by one.
const MAX_NAMED: usize = 5;
/// Says whether the operator runs.
const CHECK: &str = "tidegate check";

/// Everything that is found, in the order of the way.
pub fn of(facts: &Facts) -> Vec<Finding> {
    let topic = facts.topic.as_ref().and_then(Named::there);
    let handler = facts.handler.as_ref().and_then(Named::there);
    let location = &facts.location;
    let mut found = Vec::new();
    if let Some(broker) = &facts.broker {
        found.extend(of_broker(broker, topic, facts));
        found.extend(facts.broker_pods.as_ref().map(|pods| of_broker_pods(&broker.shown, pods)));
    }
    found.extend(list("topics", facts.topics.as_ref(), "topic", location));
    if let Some(topic) = &facts.topic {
        found.extend(of_topic(topic, handler, location));
    }
    found.extend(list("handlers", facts.handlers.as_ref(), "handler", location));
    if let (Some(named), Some(handler)) = (&facts.handler, handler) {
        let mut own = of_resource(&named.shown, "handler", handler, handler.status.as_ref(), &HANDLER, location);
        if let Some(pods) = &facts.pods {
            complete(&mut own, &named.shown, pods, facts.warnings.as_ref());
        }
        found.extend(own);
        found.extend(dead_letters(&named.shown, handler, location));
    }
    found
}

impl<K> Named<K> {
    fn there(&self) -> Option<&K> {
        match &self.seen {
            Seen::There(found) => Some(found),
            _ => None,
        }
    }
}

fn of_broker(broker: &Named<EventBroker>, topic: Option<&EventTopic>, facts: &Facts) -> Vec<Finding> {
    let shown = &broker.shown;
    match &broker.seen {
        Seen::There(found) => {
            let mut own = of_resource(shown, "broker", found, found.status.as_ref(), &BROKER, &facts.location);
            let is_said = own.iter().any(|finding| finding.link == "certificates" && finding.state == State::Red);
            own.extend(ended(shown, found, facts).filter(|_| !is_said));
            own
        }
        Seen::Missing => {
            // What its topic says of it has the remedy.
            let said = topic.and_then(|topic| topic.status.as_ref()?.ready().filter(|ready| ready.status == "False"));
            let said = said.map(|ready| (ready.reason.as_str(), ready.message.as_str()));
            let (reason, message) = said.unwrap_or(("BrokerNotFound", "there is no such EventBroker: make it"));
            vec![Finding::new("broker", State::Red, shown, reason, message)]
        }
        Seen::Unread(why) => vec![Finding::unread("broker", shown, why)],
    }
}

/// A certificate that has ended since the operator looked at it last.
fn ended(shown: &str, broker: &EventBroker, facts: &Facts) -> Option<Finding> {
    let certificates = broker.status.as_ref()?.certificates.as_ref()?;
    let ends = [&certificates.expire, &certificates.authorities_expire];
    let end =
        ends.into_iter().flatten().find(|end| end.parse::<jiff::Timestamp>().is_ok_and(|end| end <= facts.now))?;
    let message = format!(
        "a certificate ended at {end}, and the operator, which renews certificates, has said nothing since: does it run? {} says",
        facts.location.clusterwide(CHECK)
    );
    Some(Finding::new("certificates", State::Red, shown, EXPIRED, &message))
}

fn of_topic(topic: &Named<EventTopic>, handler: Option<&EventHandler>, location: &Location) -> Vec<Finding> {
    let shown = &topic.shown;
    match &topic.seen {
        Seen::There(found) => of_resource(shown, "topic", found, found.status.as_ref(), &TOPIC, location),
        Seen::Missing => {
            let conditions = handler.and_then(|handler| handler.status.as_ref()).map(HasConditions::conditions);
            let said = conditions.and_then(|all| find(all, kind::TOPIC_READY)).filter(|said| said.status == "False");
            let said = said.map(|said| (said.reason.as_str(), said.message.as_str()));
            let (reason, message) = said.unwrap_or((
                "TopicNotFound",
                "there is no such EventTopic: make it, or make another handler of another topic",
            ));
            vec![Finding::new("topic", State::Red, shown, reason, message)]
        }
        Seen::Unread(why) => vec![Finding::unread("topic", shown, why)],
    }
}

/// What the conditions of a resource say.
fn of_resource<K: Resource, S: HasConditions>(
    shown: &str,
    link: &'static str,
    resource: &K,
    status: Option<&S>,
    rules: &[Rule],
    location: &Location,
) -> Vec<Finding> {
    let check = location.clusterwide(CHECK);
    let conditions = status.map(HasConditions::conditions).unwrap_or_default();
    let ready = status.and_then(HasConditions::ready);
    let Some(ready) = ready else {
        let why = format!("the operator has not looked at it yet: wait some seconds; {check} says whether it runs");
        return vec![Finding::unread(link, shown, &why)];
    };
    let mut found: Vec<Finding> =
        rules.iter().filter_map(|rule| of_condition(shown, rule, conditions, ready)).collect();
    if ready.status == "False" && !found.iter().any(|finding| finding.state == State::Red) {
        // The operator did not come as far as the parts.
        found.insert(0, Finding::new(link, State::Red, shown, &ready.reason, &ready.message));
    }
    if let Some(paused) = find(conditions, kind::PAUSED).filter(|paused| paused.status == "True") {
        found.insert(0, Finding::new("pause", State::Warning, shown, &paused.reason, &paused.message));
    }
    let meta = resource.meta();
    if meta.deletion_timestamp.is_some() {
        let message = format!("it is being deleted; if that does not end: does the operator run? {check} says");
        found.insert(0, Finding::new("deletion", State::Warning, shown, "Deleting", &message));
    }
    if meta.generation.zip(ready.observed_generation).is_some_and(|(is, seen)| seen < is) {
        let why = format!(
            "the operator has not looked at the specification as it is, and what follows is of the one before: wait some seconds; {check} says whether it runs"
        );
        found.insert(0, Finding::unread(link, shown, &why));
    }
    found
}

fn of_condition(shown: &str, rule: &Rule, conditions: &[Condition], ready: &Condition) -> Option<Finding> {
    let condition = find(conditions, rule.kind)?;
    if rule.is_needed && is_older(condition, ready) {
        let message = format!(
            "not looked at since the specification was changed, because of what Ready says; before: {}",
            condition.message
        );
        return Some(Finding::new(rule.link, State::Unknown, shown, &condition.reason, &message));
    }
    let state = match condition.status.as_str() {
        status if status == rule.wrong => {
            let is_red = rule.is_needed || condition.reason == EXPIRED;
            if is_red { State::Red } else { State::Warning }
        }
        "Unknown" => State::Unknown,
        _ if HOLDS_BUT.contains(&condition.reason.as_str()) => State::Warning,
        _ => State::Ok,
    };
    let is_worth_it = rule.is_needed || matches!(state, State::Red | State::Warning);
    is_worth_it.then(|| Finding::new(rule.link, state, shown, &condition.reason, &condition.message))
}

/// Whether a part is of an earlier specification than what sums up: the operator failed before it came to it.
fn is_older(part: &Condition, ready: &Condition) -> bool {
    part.observed_generation.zip(ready.observed_generation).is_some_and(|(part, ready)| part < ready)
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn dead_letters(shown: &str, handler: &EventHandler, location: &Location) -> Option<Finding> {
    const LINK: &str = "dead letters";
    if let Some(to) = &handler.spec.dead_letter {
        let message = format!("they are events of EventTopic {}", to.topic);
        return Some(Finding::new(LINK, State::Ok, shown, "OwnTopic", &message));
    }
    let status = handler.status.as_ref()?;
    let count = status.dead_letters?;
    if count == 0 {
        return Some(Finding::new(LINK, State::Ok, shown, "None", "there are none"));
    }
    let last = status.last_failure.as_ref().map(|last| match last.url.as_str() {
        "" => format!("; the last failure is that of event {}: {}", last.event_id, last.error),
        url => format!("; the last failure is that of event {}: {} from POST {url}", last.event_id, last.error),
    });
    let letters = if count == 1 { "1 is kept".to_owned() } else { format!("{count} are kept") };
    let here = location.with_namespace(&handler.namespace().unwrap_or_default());
    let (list, redrive) = (
        format!("tidegate dead list {}", handler.name_any()),
        format!("tidegate dead redrive {} --all", handler.name_any()),
    );
    let message = format!(
        "{letters}{}. {} shows them; repair what refused them, then have them delivered again: {}",
        last.unwrap_or_default(),
        here.command(&list),
        here.command(&redrive)
    );
    Some(Finding::new(LINK, State::Warning, shown, "Kept", &message))
}

/// What is on a broker, or of a topic: those that are not ready.
fn list<K>(link: &'static str, seen: Option<&Seen<Vec<K>>>, word: &str, location: &Location) -> Vec<Finding>
where
    K: Resource<DynamicType = ()> + Conditioned,
{
    let all = match seen {
        None => return Vec::new(),
        Some(Seen::Unread(why)) => return vec![Finding::unread(link, "", why)],
        Some(Seen::Missing) => &Vec::new(),
        Some(Seen::There(all)) => all,
    };
    let ready = |one: &&K| one.ready().is_some_and(|ready| ready.status == "True");
    let is_ready = all.iter().filter(ready).count();
    let counts = format!("{is_ready} of {} in this namespace are ready", all.len());
    let mut found = vec![Finding::new(link, State::Ok, "", "Counted", &counts)];
    for one in all.iter().filter(|one| !ready(one)).take(MAX_NAMED) {
        let object = format!("{} {}/{}", K::kind(&()), one.namespace().unwrap_or_default(), one.name_any());
        let reason = one.ready().map_or("NotLookedAt", |ready| ready.reason.as_str());
        let here = location.with_namespace(&one.namespace().unwrap_or_default());
        let doctor = here.command(&format!("tidegate doctor {word}/{}", one.name_any()));
        let message = format!("it is not ready: {doctor} says why");
        found.push(Finding::new(link, State::Warning, &object, reason, &message));
    }
    found
}

/// A resource with the condition that sums up.
trait Conditioned {
    fn ready(&self) -> Option<&Condition>;
}

impl Conditioned for EventTopic {
    fn ready(&self) -> Option<&Condition> {
        self.status.as_ref()?.ready()
    }
}

impl Conditioned for EventHandler {
    fn ready(&self) -> Option<&Condition> {
        self.status.as_ref()?.ready()
    }
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;

//! What is right and wrong with an installation (pure).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::ResourceExt as _;
use tidegate_crds::EventBroker;
use tidegate_crds::conditions::{HasConditions as _, kind};
use tidegate_operator::broker::expiry::EXPIRED;

use super::facts::{Facts, Right, VERSION};
use crate::doctor::facts::Seen;
use crate::doctor::finding::{Finding, State};
use crate::stored::Location;

/// The resources that there are.
const KINDS: [&str; 3] = ["eventbrokers", "eventtopics", "eventhandlers"];
/// Says what a storage class is where a claim names none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The version of this program, which is that of the chart that it belongs to.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where the chart writes its own.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// Everything that is found.
pub fn of(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![kinds(&facts.kinds)];
    found.extend(operators(&facts.operators, &facts.location));
    found.extend(facts.leader.as_ref().map(leader));
    found.push(webhook(facts));
    found.push(api(&facts.api));
    found.extend(certificates(&facts.brokers));
    found.push(storage(facts));
    found.push(rights(&facts.lacking, &facts.location.namespace));
    found
}

fn kinds(seen: &Seen<Vec<String>>) -> Finding {
    const LINK: &str = "definitions";
    match seen {
        Seen::There(kinds) => {
            let missing: Vec<&str> =
                KINDS.into_iter().filter(|kind| !kinds.iter().any(|found| found == kind)).collect();
            if missing.is_empty() {
                let message = format!("{} are served", KINDS.join(", "));
                return Finding::new(LINK, State::Ok, VERSION, "Served", &message);
            }
            let message = format!(
                "{} are not served: upgrade the chart with crds.install=true, or apply manifests/crds.yaml of this version",
                missing.join(", ")
            );
            Finding::new(LINK, State::Red, VERSION, "KindsMissing", &message)
        }
        Seen::Missing => {
            let message = "the cluster does not serve it: install Tidegate's chart, or use the tidegate of the version that is installed";
            Finding::new(LINK, State::Red, VERSION, "NotServed", message)
        }
        Seen::Unread(why) => Finding::unread(LINK, VERSION, why),
    }
}

fn operators(seen: &Seen<Vec<Deployment>>, location: &Location) -> Vec<Finding> {
    const LINK: &str = "operator";
    let all = match seen {
        Seen::There(all) => all.as_slice(),
        Seen::Missing => &[],
        Seen::Unread(why) => {
            let why =
                format!("{why}; or name the operator's namespace with --operator-namespace, if you may read there");
            return vec![Finding::unread(LINK, "", &why)];
        }
    };
    match all {
        [] => {
            let message = "there is none: install Tidegate's chart, or correct --operator-namespace";
            vec![Finding::new(LINK, State::Red, "", "NoOperator", message)]
        }
        [one] => operator(one, location),
        [_, ..] => {
            let names: Vec<String> = all.iter().map(shown).collect();
            let message = format!(
                "a cluster has one release of Tidegate, and here are {}: uninstall all but one",
                names.join(", ")
            );
            vec![Finding::new(LINK, State::Red, "", "SeveralReleases", &message)]
        }
    }
}

fn operator(deployment: &Deployment, location: &Location) -> Vec<Finding> {
    let object = shown(deployment);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let counts = format!("{ready} of {wanted} pods are ready");
    let there = location.with_namespace(&deployment.namespace().unwrap_or_default());
    let remedy = format!("see why with {}, and in their logs", there.command("kubectl describe pods"));
    let pods = match ready {
        0 => Finding::new("operator", State::Red, &object, "NotReady", &format!("{counts}: {remedy}")),
        ready if ready < wanted => {
            Finding::new("operator", State::Warning, &object, "SomeNotReady", &format!("{counts}: {remedy}"))
        }
        _ => Finding::new("operator", State::Ok, &object, "Ready", &counts),
    };
    let version = deployment.labels().get(VERSION_LABEL).map_or("unknown", String::as_str);
    let version = if version == OWN_VERSION {
        Finding::new("version", State::Ok, &object, "Same", &format!("{version}, as this program"))
    } else {
        let message =
            format!("{version}, and this program is {OWN_VERSION}: use the tidegate of the operator's version");
        Finding::new("version", State::Warning, &object, "Other", &message)
    };
    vec![pods, version]
}

fn shown(deployment: &Deployment) -> String {
    format!("Deployment {}/{}", deployment.namespace().unwrap_or_default(), deployment.name_any())
}

fn leader(seen: &Seen<String>) -> Finding {
    const LINK: &str = "leader";
    match seen {
        Seen::There(holder) => Finding::new(LINK, State::Ok, "", "Leads", &format!("{holder} leads")),
        Seen::Missing => {
            let message =
                "no operator renews its Lease, so nothing is reconciled: see the operator's pods and their logs";
            Finding::new(LINK, State::Red, "", "NoLeader", message)
        }
        Seen::Unread(why) => Finding::unread(LINK, "", why),
    }
}

/// Ready of nothing depends on it: what it would refuse, a condition says later.
fn webhook(facts: &Facts) -> Finding {
    const LINK: &str = "webhook";
    match (&facts.is_asked, &facts.is_registered) {
        (Seen::There(true), _) => {
            Finding::new(LINK, State::Ok, "", "Asked", "the API server asks the operator before it stores a resource")
        }
        (Seen::There(false), Seen::There(false)) => Finding::new(
            LINK,
            State::Ok,
            "",
            "NotInstalled",
            "there is none (webhook.enabled=false): conditions say later what it would refuse at once",
        ),
        (Seen::There(false), Seen::There(true)) => Finding::new(
            LINK,
            State::Red,
            "",
            "NotAsked",
            "the API server took what the operator refuses: can it reach the operator's pods on port 8443? Else set webhook.enabled=false",
        ),
        (Seen::There(false), _) => Finding::new(
            LINK,
            State::Warning,
            "",
            "NotAsked",
            "the API server took what the operator refuses: that is right with webhook.enabled=false; else, can it reach the operator's pods on port 8443?",
        ),
        (Seen::Missing, _) => Finding::new(LINK, State::Unknown, "", "NotServed", "comes after the definitions"),
        (Seen::Unread(why), _) => Finding::unread(LINK, "", why),
    }
}

fn api(seen: &Seen<APIService>) -> Finding {
    const LINK: &str = "stored events";
    let service = match seen {
        Seen::There(service) => service,
        Seen::Missing => {
            let message = "the API that shows them is not registered (api.enabled=false): nothing else needs it";
            return Finding::new(LINK, State::Ok, "", "NotRegistered", message);
        }
        Seen::Unread(why) => return Finding::unread(LINK, "", why),
    };
    let object = format!("APIService {}", service.name_any());
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
    let available = conditions.into_iter().flatten().find(|condition| condition.type_ == "Available");
    let reason = available.and_then(|available| available.reason.as_deref()).unwrap_or("NotLookedAt");
    match available {
        Some(available) if available.status == "True" => {
            Finding::new(LINK, State::Ok, &object, reason, "the API that shows them is available")
        }
        other => {
            let why = other.and_then(|available| available.message.as_deref()).unwrap_or("nothing is known of it yet");
            let message = format!(
                "the API that shows them is not available: {why}. Are the operator's pods ready, and can the API server reach them on port 8443?"
            );
            Finding::new(LINK, State::Red, &object, reason, &message)
        }
    }
}

fn certificates(seen: &Seen<Vec<EventBroker>>) -> Vec<Finding> {
    const LINK: &str = "certificates";
    let brokers = match seen {
        Seen::There(brokers) => brokers,
        Seen::Missing => return Vec::new(),
        Seen::Unread(why) => return vec![Finding::unread(LINK, "", why)],
    };
    let near = |broker: &EventBroker| {
        let conditions = broker.status.as_ref()?.conditions();
        let condition =
            conditions.iter().find(|found| found.type_ == kind::CERTIFICATES_CURRENT && found.status == "False")?;
        let state = if condition.reason == EXPIRED { State::Red } else { State::Warning };
        let object = format!("EventBroker {}/{}", broker.namespace().unwrap_or_default(), broker.name_any());
        Some(Finding::new(LINK, state, &object, &condition.reason, &condition.message))
    };
    let found: Vec<Finding> = brokers.iter().filter_map(near).collect();
    if !found.is_empty() {
        return found;
    }
    let ends =
        brokers.iter().filter_map(|broker| broker.status.as_ref()?.certificates.as_ref()?.expire.as_deref()).min();
    let message = match ends {
        Some(end) => {
            format!("of {} brokers, the first one ends at {end}, and is renewed 30 days before", brokers.len())
        }
        None => "no broker has a certificate yet".to_owned(),
    };
    vec![Finding::new(LINK, State::Ok, "", "FarFromEnd", &message)]
}

fn storage(facts: &Facts) -> Finding {
    const LINK: &str = "storage class";
    let classes = match &facts.classes {
        Seen::There(classes) => classes.as_slice(),
        Seen::Missing => &[],
        Seen::Unread(why) => return Finding::unread(LINK, "", why),
    };
    let defaults: Vec<String> = classes
        .iter()
        .filter(|class| class.annotations().get(DEFAULT_CLASS).is_some_and(|is| is == "true"))
        .map(|class| class.name_any())
        .collect();
    if defaults.is_empty() {
        let message = "none is the default one: brokers need storage.className (defaultBroker.storage.className of the chart for those that the operator makes)";
        return Finding::new(LINK, State::Warning, "", "NoDefault", message);
    }
    Finding::new(LINK, State::Ok, "", "Default", &format!("{} is the default one", defaults.join(", ")))
}

fn rights(seen: &Seen<Vec<Right>>, namespace: &str) -> Finding {
    const LINK: &str = "your rights";
    let lacking = match seen {
        Seen::There(lacking) => lacking.as_slice(),
        Seen::Missing => &[],
        Seen::Unread(why) => return Finding::unread(LINK, "", why),
    };
    let object = format!("Namespace {namespace}");
    if lacking.is_empty() {
        return Finding::new(LINK, State::Ok, &object, "All", "you may do all that this program does");
    }
    let mut by_purpose: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for right in lacking {
        let group = if right.group.is_empty() { String::new() } else { format!(" of {}", right.group) };
        by_purpose.entry(right.purpose).or_default().push(format!("{} {}{group}", right.verb, right.resource));
    }
    let words = by_purpose.into_iter().map(|(purpose, rights)| format!("{} ({purpose})", rights.join(", ")));
    let message = format!("you may not {}: ask for it if you need it", words.collect::<Vec<_>>().join(", "));
    Finding::new(LINK, State::Warning, &object, "Lacking", &message)
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;

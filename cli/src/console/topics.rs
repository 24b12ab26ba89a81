//! Topics of a namespace, and one of them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use jiff::SignedDuration;
use kube::ResourceExt as _;
use maud::{Markup, html};
use serde_json::value::RawValue;
use tidegate_crds::topic::Publisher;
use tidegate_crds::{EventHandler, EventTopic, EventTopicStatus};
use tidegate_operator::broker::topics::broker_of;
use tidegate_operator::handler::reference::topic_of;

use super::layout::missing;
use super::reading::{Cluster, Rows, stored_rows};
use super::refusal::Refusal;
use super::values::{bytes, count, facts, fill, findings, plain, ready};
use super::{Query, events, handlers, layout};
use crate::moment::Moment;
use crate::stored::{self, Stored, parse};
use crate::target::Kind;
use crate::terminal::text;

/// Events that are shown with their topic.
const SHOWN_EVENTS: u64 = 10;
/// What the rate is measured over.
const RATE_SECONDS: i64 = 60;

/// The topics of a namespace.
pub async fn list(
    State(cluster): State<Arc<Cluster>>,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Markup, Refusal> {
    let query = Query::parse(query.as_deref());
    let rows: Rows<EventTopic> = cluster.list(&namespace, query.get("continue")).await?;
    let content = html! {
        p { a href={ "/ns/" (namespace) "/handlers" } { "Handlers of this namespace" } }
        @if rows.items.is_empty() { p { "There are no topics in this namespace." } }
        @else {
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { "Topic" } th scope="col" { "State" }
                        th.number scope="col" { "Events" } th.number scope="col" { "Bytes" } th scope="col" { "Fill" }
                        th.number scope="col" { "Dead letters" } th.number scope="col" { "Handlers" }
                        th scope="col" { "Publishers" } th scope="col" { "Broker" }
                    } }
                    tbody { @for topic in &rows.items { (row(&namespace, topic)) } }
                }
            }
        }
        (layout::next_page(&format!("/ns/{namespace}/topics"), &[], rows.next.as_deref()))
    };
    Ok(layout::page(&format!("Topics of {namespace}"), &[], content))
}

fn row(namespace: &str, topic: &EventTopic) -> Markup {
    let (name, status) = (topic.name_any(), topic.status.clone().unwrap_or_default());
    html! {
        tr {
            th scope="row" { a href={ "/ns/" (namespace) "/topics/" (name) } { (name) } }
            td { (ready(topic.status.as_ref())) }
            td.number { (count(status.events)) }
            td.number { (count(status.bytes.map(bytes))) }
            td { (fill(status.fill.as_deref())) }
            td.number { (count(status.dead_letters)) }
            td.number { (count(status.handlers)) }
            td.words { (publishers(topic, namespace)) }
            td { (broker(topic)) }
        }
    }
}

/// A topic: what it has, who is on it, and its latest events.
pub async fn page(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Markup, Refusal> {
    let topic: EventTopic = cluster.get(&namespace, &name).await?;
    let api = cluster.stored(&namespace);
    let (looked, handlers, latest, rate) = tokio::join!(
        cluster.look(&namespace, Kind::Topic, &name),
        cluster.list::<EventHandler>(&namespace, None),
        events::rows(&api, &name, vec![("last", SHOWN_EVENTS.to_string())], SHOWN_EVENTS),
        events_of_a_minute(&api, &name),
    );
    let address = format!("/ns/{namespace}/topics/{name}");
    let content = html! {
        (about(&topic, &namespace, rate))
        h2 { "Findings" }
        @match &looked { Ok(report) => (findings(&report.findings)), Err(refusal) => (missing(refusal)) }
        h2 { "Handlers" }
        @match &handlers {
            Ok(rows) => {
                @let own: Vec<&EventHandler> = rows.items.iter().filter(|handler| is_of(handler, &namespace, &name)).collect();
                @let none = if rows.next.is_some() { "None of those that were looked through is of this topic." } else { "No handler of this namespace is of this topic." };
                (handlers::table(&namespace, &own, none))
                @if rows.next.is_some() { p { "The namespace has more handlers than the " (rows.items.len()) " that were looked through: see all of them." } }
                p { a href={ "/ns/" (namespace) "/handlers" } { "All handlers of this namespace" } }
            }
            Err(refusal) => (missing(refusal)),
        }
        h2 { "Latest events" }
        (events::search(&address))
        @match &latest {
            Ok(rows) => (events::table(&address, &rows.items)),
            Err(refusal) => (missing(refusal)),
        }
    };
    Ok(layout::page(&format!("Topic {name}"), &[(format!("/ns/{namespace}/topics"), &namespace)], content))
}

fn about(topic: &EventTopic, namespace: &str, rate: Result<u64, Refusal>) -> Markup {
    let status = topic.status.clone().unwrap_or_default();
    let EventTopicStatus { events, bytes: stored, last_sequence, dead_letters, address, .. } = &status;
    let retention = &topic.spec.retention;
    let url = address.as_ref().map(|address| address.url.as_str()).unwrap_or_default();
    facts(vec![
        ("State", ready(topic.status.as_ref())),
        ("Published in the last minute", html! { @match rate { Ok(rate) => (rate), Err(_) => "not known" } }),
        ("Events", count(*events)),
        ("Bytes", count(stored.map(bytes))),
        ("Fill", fill(status.fill.as_deref())),
        ("Last sequence", count(*last_sequence)),
        ("Dead letters", count(*dead_letters)),
        ("Publishers", publishers(topic, namespace)),
        ("Maximum size", count(retention.max_size.as_ref().map(|size| text(&size.to_string())))),
        ("Kept for", count(retention.max_age.as_ref().map(|age| text(&age.to_string())))),
        ("Routing", plain(&format!("{:?}", topic.spec.routing))),
        ("Broker", broker(topic)),
        ("Address", plain(url)),
    ])
}

/// How many events were published in the last minute, by the broker's clock: from the sequences, so that it counts those too that
/// are handled and gone.
async fn events_of_a_minute(api: &stored::Api, topic: &str) -> Result<u64, Refusal> {
    let path = api.path(None, "eventtopics", topic, "events")?;
    let minute = Moment::Ago(SignedDuration::from_secs(RATE_SECONDS));
    let (first, last) = tokio::try_join!(
        stored_rows(api, path.clone(), Vec::new(), vec![("since", minute)], 1),
        stored_rows(api, path.clone(), vec![("last", "1".to_owned())], Vec::new(), 1),
    )?;
    Ok(match (first_sequence(&first)?, first_sequence(&last)?) {
        (Some(first), Some(last)) => (last + 1).saturating_sub(first),
        _ => 0,
    })
}

fn first_sequence(rows: &Rows<Box<RawValue>>) -> Result<Option<u64>, Refusal> {
    let first = rows.items.first().map(|item| parse::<Stored>(item)).transpose()?;
    Ok(first.map(|stored| stored.sequence))
}

fn is_of(handler: &EventHandler, namespace: &str, topic: &str) -> bool {
    let named = topic_of(handler);
    named.namespace == namespace && named.name == topic
}

fn broker(topic: &EventTopic) -> Markup {
    let broker = broker_of(topic);
    let is_here = topic.namespace().as_deref() == Some(&broker.namespace);
    if is_here { plain(&broker.name) } else { plain(&format!("{}/{}", broker.namespace, broker.name)) }
}

fn publishers(topic: &EventTopic, namespace: &str) -> Markup {
    let words = match &topic.spec.publishers {
        None => vec![format!("every ServiceAccount of {namespace}")],
        Some(publishers) => publishers.iter().map(|publisher| in_words(publisher, namespace)).collect(),
    };
    html! { @for (number, words) in words.iter().enumerate() { @if number > 0 { br; } (text(words)) } }
}

fn in_words(publisher: &Publisher, namespace: &str) -> String {
    if let Some(account) = &publisher.service_account {
        let namespace = account.namespace.as_deref().unwrap_or(namespace);
        return match &account.name {
            Some(name) => format!("ServiceAccount {namespace}/{name}"),
            None => format!("every ServiceAccount of {namespace}"),
        };
    }
    match (&publisher.certificate, &publisher.nats) {
        (Some(certificate), _) => format!("certificate {}", certificate.uri),
        (_, Some(name)) => format!("NATS {name}"),
        _ => "anyone (anonymous)".to_owned(),
    }
}

//! Topics of a namespace, and one of them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use kube::ResourceExt as _;
use maud::{Markup, html};
use tidegate_crds::topic::Publisher;
use tidegate_crds::{EventHandler, EventTopic, EventTopicStatus};
use tidegate_operator::broker::topics::broker_of;
use tidegate_operator::handler::reference::topic_of;

use super::layout::missing;
use super::reading::{Cluster, Rows};
use super::refusal::Refusal;
use super::values::{bytes, count, facts, fill, findings, plain, ready};
use super::{Query, handlers, layout};
use crate::target::Kind;
use crate::terminal::text;

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

/// A topic: what it has, and who is on it.
pub async fn page(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Markup, Refusal> {
    let topic: EventTopic = cluster.get(&namespace, &name).await?;
    let (looked, handlers) =
        tokio::join!(cluster.look(&namespace, Kind::Topic, &name), cluster.list::<EventHandler>(&namespace, None),);
    let content = html! {
        (about(&topic, &namespace))
        h2 { "Findings" }
        @match &looked { Ok(report) => (findings(&report.findings)), Err(refusal) => (missing(refusal)) }
        h2 { "Handlers" }
        @match &handlers {
            Ok(rows) => {
                @let own: Vec<&EventHandler> = rows.items.iter().filter(|handler| is_of(handler, &namespace, &name)).collect();
                (handlers::table(&namespace, &own))
                @if rows.next.is_some() { p { "The namespace has more handlers than are looked through here: see all of them." } }
                p { a href={ "/ns/" (namespace) "/handlers" } { "All handlers of this namespace" } }
            }
            Err(refusal) => (missing(refusal)),
        }
    };
    Ok(layout::page(&format!("Topic {name}"), &[(format!("/ns/{namespace}/topics"), &namespace)], content))
}

fn about(topic: &EventTopic, namespace: &str) -> Markup {
    let status = topic.status.clone().unwrap_or_default();
    let EventTopicStatus { events, bytes: stored, last_sequence, dead_letters, address, .. } = &status;
    let retention = &topic.spec.retention;
    let url = address.as_ref().map(|address| address.url.as_str()).unwrap_or_default();
    facts(vec![
        ("State", ready(topic.status.as_ref())),
        ("Events", count(*events)),
        ("Bytes", count(stored.map(bytes))),
        ("Fill", fill(status.fill.as_deref())),
        ("Last sequence", count(*last_sequence)),
        ("Dead letters", count(*dead_letters)),
        ("Publishers", publishers(topic, namespace)),
        ("Room", count(retention.max_size.as_ref().map(|size| text(&size.to_string())))),
        ("Kept for", count(retention.max_age.as_ref().map(|age| text(&age.to_string())))),
        ("Routing", plain(&format!("{:?}", topic.spec.routing))),
        ("Broker", broker(topic)),
        ("Address", plain(url)),
    ])
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

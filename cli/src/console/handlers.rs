//! Handlers of a namespace, and one of them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use kube::ResourceExt as _;
use maud::{Markup, html};
use tidegate_crds::handler::{LastFailure, Retries};
use tidegate_crds::{EventHandler, EventHandlerStatus};
use tidegate_operator::handler::reference::topic_of;

use super::layout::{self, missing, seconds};
use super::reading::{Cluster, Rows};
use super::refusal::Refusal;
use super::values::{count, facts, findings, ready};
use super::{Query, letters};
use crate::target::Kind;
use crate::terminal::{line, text};

/// Dead letters that are shown with their handler.
const SHOWN_LETTERS: u64 = 10;

/// The handlers of a namespace.
pub async fn list(
    State(cluster): State<Arc<Cluster>>,
    Path(namespace): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Markup, Refusal> {
    let query = Query::parse(query.as_deref());
    let rows: Rows<EventHandler> = cluster.list(&namespace, query.get("continue")).await?;
    let content = html! {
        p { a href={ "/ns/" (namespace) "/topics" } { "Topics of this namespace" } }
        (table(&namespace, &rows.items.iter().collect::<Vec<_>>(), "There are no handlers in this namespace."))
        (layout::next_page(&format!("/ns/{namespace}/handlers"), &[], rows.next.as_deref()))
    };
    Ok(layout::page(&format!("Handlers of {namespace}"), &[], content))
}

/// Handlers, a row each. `none`: what is said where there are none.
pub fn table(namespace: &str, handlers: &[&EventHandler], none: &str) -> Markup {
    html! {
        @if handlers.is_empty() { p { (none) } }
        @else {
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { "Handler" } th scope="col" { "State" } th scope="col" { "Topic" }
                        th.number scope="col" { "Waiting" } th.number scope="col" { "In flight" } th scope="col" { "Oldest event" }
                        th.number scope="col" { "Retries" } th.number scope="col" { "Dead letters" } th scope="col" { "Pods ready" }
                    } }
                    tbody { @for handler in handlers { (row(namespace, handler)) } }
                }
            }
        }
    }
}

fn row(namespace: &str, handler: &EventHandler) -> Markup {
    let (name, status) = (handler.name_any(), handler.status.clone().unwrap_or_default());
    let address = format!("/ns/{namespace}/handlers/{name}");
    let lag = status.lag.as_ref();
    html! {
        tr {
            th scope="row" { a href=(address) { (name) } }
            td { (ready(handler.status.as_ref())) }
            td { (topic(handler)) }
            td.number { (count(lag.map(|lag| lag.pending))) }
            td.number { (count(lag.map(|lag| lag.in_flight))) }
            td { (oldest(&status)) }
            td.number { (count(status.retries.as_ref().map(|retries| retries.waiting))) }
            td.number { @if let Some(letters) = status.dead_letters { a href={ (address) "/letters" } { (letters) } } }
            td { (status.ready_replicas) " of " (status.replicas) }
        }
    }
}

/// A handler: what waits for it, what it failed at, and its first dead letters.
pub async fn page(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Markup, Refusal> {
    let handler: EventHandler = cluster.get(&namespace, &name).await?;
    let api = cluster.stored(&namespace);
    let (looked, found) = tokio::join!(
        cluster.look(&namespace, Kind::Handler, &name),
        letters::rows(&api, &name, Vec::new(), SHOWN_LETTERS),
    );
    let address = format!("/ns/{namespace}/handlers/{name}");
    let content = html! {
        (about(&handler))
        h2 { "Findings" }
        @match &looked { Ok(report) => (findings(&report.findings)), Err(refusal) => (missing(refusal)) }
        h2 { "Dead letters" }
        @match &found {
            Ok(rows) => {
                (letters::table(&address, &rows.items))
                p { a href={ (address) "/letters" } { "All dead letters of this handler" } }
            }
            Err(refusal) => (missing(refusal)),
        }
    };
    Ok(layout::page(&format!("Handler {name}"), &[(format!("/ns/{namespace}/handlers"), &namespace)], content))
}

fn about(handler: &EventHandler) -> Markup {
    let status = handler.status.clone().unwrap_or_default();
    let (lag, retries) = (status.lag.as_ref(), status.retries.as_ref());
    facts(vec![
        ("State", ready(handler.status.as_ref())),
        ("Topic", topic(handler)),
        ("Pods ready", html! { (status.ready_replicas) " of " (status.replicas) }),
        (
            "Pods wanted",
            html! {
                @if let Some(scaling) = &status.scaling { (scaling.desired) " (" (text(&scaling.reason)) ")" }
            },
        ),
        ("Events that wait", count(lag.map(|lag| lag.pending))),
        ("In flight", count(lag.map(|lag| lag.in_flight))),
        ("Age of the oldest", oldest(&status)),
        ("Waiting for a retry", retries.map(waiting).unwrap_or_default()),
        ("Dead letters", count(status.dead_letters)),
        ("Last failure", status.last_failure.as_ref().map(failure).unwrap_or_default()),
    ])
}

fn oldest(status: &EventHandlerStatus) -> Markup {
    let age = status.lag.as_ref().and_then(|lag| lag.oldest_event_age.as_ref());
    count(age.map(|age| text(&age.to_string())))
}

fn waiting(retries: &Retries) -> Markup {
    html! {
        (retries.waiting)
        @if let Some(oldest) = &retries.oldest { ", the oldest since " (seconds(oldest)) }
        @if let Some(held) = retries.held_keys.filter(|held| *held > 0) { "; " (held) " keys are held" }
    }
}

fn failure(failure: &LastFailure) -> Markup {
    let LastFailure { time, event_id, event_type, status, error, .. } = failure;
    html! {
        (seconds(time)) ": "
        @if let Some(status) = status { (status) ", " }
        (line(error)) " (event " (text(event_id)) ", type " (text(event_type)) ")"
    }
}

/// Its topic, which can be of another namespace.
fn topic(handler: &EventHandler) -> Markup {
    let topic = topic_of(handler);
    let is_here = handler.namespace().as_deref() == Some(&topic.namespace);
    let shown = if is_here { topic.name.clone() } else { format!("{}/{}", topic.namespace, topic.name) };
    html! { a href={ "/ns/" (text(&topic.namespace)) "/topics/" (text(&topic.name)) } { (text(&shown)) } }
}

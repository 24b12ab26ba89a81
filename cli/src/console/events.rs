//! Stored events of a topic, and one of them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::layout::{self, seconds};
use super::reading::{Cluster, Rows, stored_rows};
use super::refusal::Refusal;
use super::values::{facts, plain};
use super::{Query, sequence};
use crate::shown;
use crate::stored::{Api, Stored, parse};
use crate::terminal::text;

/// Events in a page.
const MAX_EVENTS: u64 = 50;

/// Some of a topic's stored events.
pub async fn rows(
    api: &Api,
    topic: &str,
    query: Vec<(&'static str, String)>,
    limit: u64,
) -> Result<Rows<Stored>, Refusal> {
    let found = stored_rows(api, api.path(None, "eventtopics", topic, "events")?, query, Vec::new(), limit).await?;
    let items = found.items.iter().map(|item| parse(item.as_ref())).collect::<Result<_, _>>()?;
    Ok(Rows { items, next: found.next, first: found.first })
}

/// Events from a sequence on, or the latest ones. With `sequence`: where the page of that event is.
pub async fn list(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, topic)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let query = Query::parse(query.as_deref());
    let address = format!("/ns/{namespace}/topics/{topic}");
    let api = cluster.stored(&namespace);
    // Before it becomes a part of an address.
    api.path(None, "eventtopics", &topic, "events")?;
    if let Some(number) = query.get("sequence") {
        return Ok(Redirect::to(&format!("{address}/events/{}", sequence(number.trim())?)).into_response());
    }
    let asked = query.get("continue").map(sequence).transpose()?;
    let start = match asked {
        Some(from) => ("fromSequence", from.to_string()),
        None => ("last", MAX_EVENTS.to_string()),
    };
    let found = rows(&api, &topic, vec![start], MAX_EVENTS).await?;
    let shown = found.items.first().map(|first| first.sequence);
    let content = html! {
        (search(&address))
        (table(&address, &found.items))
        @if let Some(earlier) = earlier(shown, asked, found.first.unwrap_or(1)) {
            p { a href={ (address) "/events?continue=" (earlier) } { "Earlier events" } }
        }
        (layout::next_page(&format!("{address}/events"), &[], found.next.as_deref()))
    };
    Ok(layout::page(&format!("Events of topic {topic}"), &above(&namespace, &topic), content).into_response())
}

/// Where the page before begins, if there may be one. `shown`: the first event of this one; `asked`: where it was to begin;
/// `first`: the first event that is stored.
fn earlier(shown: Option<u64>, asked: Option<u64>, first: u64) -> Option<u64> {
    let begin = asked.into_iter().chain(shown).min()?;
    if begin <= first {
        return None;
    }
    // Handled events are gone: where a page before would show the same again, the first one that is stored is before all of
    // them.
    let has_gap = asked.is_some_and(|asked| shown.is_none_or(|shown| shown >= asked.saturating_add(MAX_EVENTS)));
    Some(if has_gap { first } else { begin.saturating_sub(MAX_EVENTS).max(first) })
}

/// A field for the sequence of an event. `address`: the topic's.
pub fn search(address: &str) -> Markup {
    html! {
        form method="get" action={ (address) "/events" } {
            label { "Sequence" input name="sequence" required inputmode="numeric" pattern="[0-9]+" autocomplete="off"; }
            button { "Show this event" }
            a href={ (address) "/events" } { "Latest events" }
        }
    }
}

/// Events, with the beginnings of their data.
pub fn table(address: &str, events: &[Stored]) -> Markup {
    html! {
        @if events.is_empty() { p { "No events are stored here." } }
        @else {
            div.scroll {
                table {
                    thead { tr {
                        th.number scope="col" { "Sequence" } th scope="col" { "Stored" } th scope="col" { "Type" }
                        th scope="col" { "Source" } th scope="col" { "Id" } th scope="col" { "Data" }
                    } }
                    tbody { @for stored in events { (row(address, stored)) } }
                }
            }
        }
    }
}

fn row(address: &str, stored: &Stored) -> Markup {
    let event = stored.event();
    html! {
        tr {
            th.number scope="row" { a href={ (address) "/events/" (stored.sequence) } { (stored.sequence) } }
            td { (seconds(&stored.time)) }
            @if let Some(event) = &event {
                td.words { (text(event.event_type())) }
                td.words { (text(event.source())) }
                td.words { (text(event.id())) }
                td.words { (text(&shown::beginning(event))) }
            } @else {
                td.words colspan="4" { (text(stored.problem.as_deref().unwrap_or("it is no event"))) }
            }
        }
    }
}

/// One event, with its data.
pub async fn page(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, topic, number)): Path<(String, String, String)>,
) -> Result<Markup, Refusal> {
    let number = sequence(&number)?;
    let api = cluster.stored(&namespace);
    let found = rows(&api, &topic, vec![("fromSequence", number.to_string())], 1).await?;
    let Some(stored) = found.items.first().filter(|stored| stored.sequence == number) else {
        let next = found.items.first().map(|next| format!(" The next one has sequence {}.", next.sequence));
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            format!(
                "Topic {namespace}/{topic} has no event with sequence {number}: it is handled and gone, or not there yet.{}",
                next.unwrap_or_default()
            ),
        ));
    };
    let path = api.path(None, "eventtopics", &topic, "events")?;
    let all = api.location().clusterwide(&format!("kubectl get --raw '{path}?fromSequence={number}&limit=1'"));
    let address = format!("/ns/{namespace}/topics/{topic}/events");
    let content = html! {
        (facts(vec![("Sequence", plain(&number.to_string())), ("Stored", plain(&stored.time))]))
        h2 { "Attributes and data" }
        (whole(stored, &all)?)
        p {
            @if number > 1 { a rel="prev" href={ (address) "/" (number - 1) } { "Event before" } " " }
            a rel="next" href={ (address) "/" (number.saturating_add(1)) } { "Event after" }
        }
    };
    let mut above = above(&namespace, &topic);
    above.push((address.clone(), "events"));
    Ok(layout::page(&format!("Event {number} of topic {topic}"), &above, content))
}

/// What is stored, as a terminal gets it. `all`: the command that shows the rest of its data.
pub fn whole(stored: &Stored, all: &str) -> Result<Markup, Refusal> {
    let mut written = Vec::new();
    shown::event(stored, true, all, &mut written)?;
    Ok(html! { pre tabindex="0" { (String::from_utf8_lossy(&written).trim_start()) } })
}

fn above<'a>(namespace: &'a str, topic: &'a str) -> Vec<(String, &'a str)> {
    vec![(format!("/ns/{namespace}/topics"), namespace), (format!("/ns/{namespace}/topics/{topic}"), topic)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_events_are_linked_while_there_are_some() {
        for (shown, asked, first, expected) in [
            (Some(951), None, 1, Some(901)),
            (Some(31), None, 1, Some(1)),
            (Some(1), None, 1, None),
            // The first one that is stored is not 1.
            (Some(1000), None, 1000, None),
            (Some(1020), None, 1000, Some(1000)),
            (Some(1000), Some(970), 1000, None),
            // A part of them is gone, or all.
            (Some(930), Some(901), 1, Some(851)),
            (Some(951), Some(901), 7, Some(7)),
            (None, Some(901), 7, Some(7)),
            (Some(951), Some(7), 7, None),
            (None, None, 1, None),
        ] {
            assert_eq!(earlier(shown, asked, first), expected, "{shown:?} {asked:?} {first}");
        }
    }
}

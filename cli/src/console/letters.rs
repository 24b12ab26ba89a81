//! Dead letters of a handler, and one of them.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use http::Method;
use maud::{Markup, html};

use super::layout::{self, seconds};
use super::reading::{Cluster, Rows, in_time, stored_rows};
use super::refusal::Refusal;
use super::values::{facts, plain};
use super::{Query, events, sequence};
use crate::dead::letter::Letter;
use crate::stored::{Api, number, raw};
use crate::terminal::{line, text};

/// Dead letters in a page.
const MAX_LETTERS: u64 = 100;
/// What a list can be restricted by: the parameter, and its name.
const FILTERS: [(&str, &str); 3] = [("type", "Type"), ("reason", "Reason"), ("text", "Text")];

/// Some of a handler's dead letters.
pub async fn rows(
    api: &Api,
    handler: &str,
    query: Vec<(&'static str, String)>,
    limit: u64,
) -> Result<Rows<Letter>, Refusal> {
    let found =
        stored_rows(api, api.path(None, "eventhandlers", handler, "deadletters")?, query, Vec::new(), limit).await?;
    let items = found.items.iter().map(|item| Letter::parse(item)).collect::<Result<_, _>>()?;
    Ok(Rows { items, next: found.next, first: found.first })
}

/// The dead letters of a handler, oldest first.
pub async fn list(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, handler)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Markup, Refusal> {
    let query = Query::parse(query.as_deref());
    let given = |name: &'static str| query.get(name).map(|value| (name, value.to_owned()));
    let filter: Vec<(&'static str, String)> = FILTERS.iter().filter_map(|(name, _)| given(name)).collect();
    let asked = filter.iter().cloned().chain(given("continue")).collect();
    let found = rows(&cluster.stored(&namespace), &handler, asked, MAX_LETTERS).await?;
    let address = format!("/ns/{namespace}/handlers/{handler}");
    let content = html! {
        form method="get" action={ (address) "/letters" } {
            @for (name, label) in FILTERS {
                label { (label) input name=(name) autocomplete="off" value=(query.get(name).map(text).unwrap_or_default()); }
            }
            button { "Show these" }
        }
        (table(&address, &found.items))
        @if found.items.is_empty() && found.next.is_some() {
            p { "None of those that were looked at so far matches: the next page looks on." }
        }
        (layout::next_page(&format!("{address}/letters"), &filter, found.next.as_deref()))
    };
    Ok(layout::page(&format!("Dead letters of handler {handler}"), &above(&namespace, &handler), content))
}

/// Dead letters, a row each. `address`: the handler's.
pub fn table(address: &str, letters: &[Letter]) -> Markup {
    html! {
        @if letters.is_empty() { p { "There are no dead letters here." } }
        @else {
            div.scroll {
                table {
                    thead { tr {
                        th.number scope="col" { "Sequence" } th scope="col" { "Stored" } th scope="col" { "Reason" }
                        th.number scope="col" { "Attempts" } th.number scope="col" { "Status" } th scope="col" { "Type" }
                        th scope="col" { "Id" } th scope="col" { "Last error" }
                    } }
                    tbody { @for letter in letters { (row(address, letter)) } }
                }
            }
        }
    }
}

fn row(address: &str, letter: &Letter) -> Markup {
    let Letter { stored, why } = letter;
    let event = stored.event();
    html! {
        tr {
            th.number scope="row" { a href={ (address) "/letters/" (stored.sequence) } { (stored.sequence) } }
            td { (seconds(&stored.time)) }
            td { (text(&why.reason)) }
            td.number { (number(why.attempts)) }
            td.number { (number(why.last_status)) }
            td.words { @if let Some(event) = &event { (text(event.event_type())) } }
            td.words { @if let Some(event) = &event { (text(event.id())) } }
            td.words { (text(stored.problem.as_deref().unwrap_or(&why.last_error))) }
        }
    }
}

/// One dead letter: why it is one, its attempts, and the event.
pub async fn page(
    State(cluster): State<Arc<Cluster>>,
    Path((namespace, handler, number)): Path<(String, String, String)>,
) -> Result<Markup, Refusal> {
    let number = sequence(&number)?;
    let api = cluster.stored(&namespace);
    let path = api.path(None, "eventhandlers", &handler, &format!("deadletters/{number}"))?;
    let answer = in_time("The dead letter", api.call_in_turn(Method::GET, &path, None)).await?;
    let letter = Letter::parse(raw(&answer)?)?;
    let all = api.location().command(&format!("tidegate dead show {handler} {number} -o json"));
    let why = letter.facts().into_iter().map(|(name, value)| (name, html! { (line(&value)) })).collect();
    let content = html! {
        (facts(why))
        (attempts(&letter))
        h2 { "Attributes and data" }
        (events::whole(&letter.stored, &all)?)
    };
    let mut above = above(&namespace, &handler);
    above.push((format!("/ns/{namespace}/handlers/{handler}/letters"), "dead letters"));
    Ok(layout::page(&format!("Dead letter {number} of handler {handler}"), &above, content))
}

fn attempts(letter: &Letter) -> Markup {
    let attempts: Vec<_> = letter.history().collect();
    html! {
        @if !attempts.is_empty() {
            table {
                caption { "Attempts that are on record" }
                thead { tr { th scope="col" { "Time" } th.number scope="col" { "Status" } th scope="col" { "Error" } } }
                tbody {
                    @for attempt in &attempts {
                        tr {
                            td { (plain(&attempt.time)) }
                            td.number { (number(attempt.status)) }
                            td.words { (line(&attempt.error)) }
                        }
                    }
                }
            }
        }
    }
}

fn above<'a>(namespace: &'a str, handler: &'a str) -> Vec<(String, &'a str)> {
    vec![(format!("/ns/{namespace}/handlers"), namespace), (format!("/ns/{namespace}/handlers/{handler}"), handler)]
}

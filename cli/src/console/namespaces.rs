//! The first page: namespaces.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::reading::{Cluster, MAX_NAMESPACES, name};
use super::refusal::Refusal;
use super::{Query, layout};
use crate::terminal::text;

/// Namespaces, and a field for the name of one.
pub async fn page(State(cluster): State<Arc<Cluster>>, RawQuery(query): RawQuery) -> Result<Response, Refusal> {
    if let Some(namespace) = Query::parse(query.as_deref()).get("namespace") {
        return Ok(Redirect::to(&format!("/ns/{}/topics", name(namespace.trim())?)).into_response());
    }
    let list = match cluster.namespaces().await {
        Ok(names) => links(&names),
        Err(refusal) => layout::missing(&refusal),
    };
    let content = html! {
        form method="get" action="/" {
            label { "Namespace" input name="namespace" required autocomplete="off" value=(text(&cluster.location.namespace)); }
            button { "Show its topics" }
        }
        (list)
    };
    Ok(layout::page("Namespaces", &[], content).into_response())
}

fn links(names: &[String]) -> Markup {
    html! {
        table {
            caption { "Namespaces of the cluster" }
            thead { tr { th scope="col" { "Name" } th scope="col" { "Pages" } } }
            tbody {
                @for name in names {
                    tr {
                        th scope="row" { (text(name)) }
                        td {
                            a href={ "/ns/" (name) "/topics" } aria-label={ "Topics of " (name) } { "Topics" } " "
                            a href={ "/ns/" (name) "/handlers" } aria-label={ "Handlers of " (name) } { "Handlers" }
                        }
                    }
                }
            }
        }
        @if names.len() >= MAX_NAMESPACES as usize {
            p { "There may be more: name the one that you look for." }
        }
    }
}

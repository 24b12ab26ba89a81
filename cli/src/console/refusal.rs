//! Pages that cannot be shown, and what their reader can do.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::html;

use super::layout;
use crate::cluster::{explain, sentence};
use crate::failure::Failure;
use crate::stored::CallError;

/// Why a page cannot be shown.
#[derive(Debug)]
pub struct Refusal {
    /// The page's status.
    pub code: StatusCode,
    /// What is so, and what can be done.
    pub sentence: String,
}

impl Refusal {
    /// With this status.
    pub fn new(code: StatusCode, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }

    /// What the API server answered when it was asked for this.
    pub fn of_cluster(what: &str, error: &kube::Error) -> Self {
        let code = match error {
            kube::Error::Api(status) => status.code,
            _ => 0,
        };
        match code {
            // A place in a list that is older than what etcd keeps, or none.
            400 | 410 => Self::new(
                StatusCode::GONE,
                format!(
                    "{what}: {}: the list has changed too much meanwhile; begin with its first page",
                    sentence(error)
                ),
            ),
            code => {
                let shown = match code {
                    401 | 403 => StatusCode::FORBIDDEN,
                    404 => StatusCode::NOT_FOUND,
                    429 | 503 => StatusCode::SERVICE_UNAVAILABLE,
                    _ => StatusCode::BAD_GATEWAY,
                };
                Self::new(
                    shown,
                    explain(what, error, "ask for that right, which role view has, or choose another namespace"),
                )
            }
        }
    }

    /// That the cluster does not answer.
    pub fn late(what: &str) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("{what}: the cluster has not answered in time: reload the page; is it there?"),
        )
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let code = match failure {
            Failure::Usage(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        };
        Self::new(code, failure.to_string())
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Busy(why) | CallError::Away(why) => Self::new(StatusCode::SERVICE_UNAVAILABLE, why),
            CallError::Final(
                failure,
                Some(code @ (StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::CONFLICT)),
            ) => Self::new(code, failure.to_string()),
            CallError::Final(failure, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                Self::new(StatusCode::FORBIDDEN, failure.to_string())
            }
            CallError::Final(failure, _) => failure.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let content = html! {
            p role="alert" { (self.sentence) }
            p { a href="/" { "Namespaces" } }
        };
        (self.code, layout::page(heading(self.code), &[], content)).into_response()
    }
}

/// What a status is to people.
fn heading(code: StatusCode) -> &'static str {
    match code {
        StatusCode::UNAUTHORIZED => "This browser may not ask",
        StatusCode::FORBIDDEN => "You may not see this",
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::GONE => "Begin again",
        StatusCode::MISDIRECTED_REQUEST => "Another address",
        code if code.is_server_error() => "The cluster does not answer",
        _ => "Not shown",
    }
}

//! What is said when a call is not answered: a `metav1.Status`, as the API server says it.

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tidegate_broker_admin::api::{ApiError, Missing};

use crate::reconcile::error::Error;

/// When to come again, in seconds, where that may help.
const RETRY_SECONDS: u16 = 2;

/// Why a call is not answered.
#[derive(Debug)]
pub(super) struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// What is to be continued is not what it was begun with. `what`: a topic, or a handler.
    pub(super) fn expired(what: &str, from: u64, last: u64) -> Self {
        let message = format!(
            "sequence {from} is beyond the end of {what}, whose last one is {last}: it was made again, or lost its last ones, so there is nothing to continue. Begin again"
        );
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// More than are answered at a time. `what`: in the plural.
    pub(super) fn busy(what: &str) -> Self {
        let message = format!("too many {what} are under way: try again in a moment");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn code(&self) -> StatusCode {
        self.code
    }

    /// The Status.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "code": self.code.as_u16(),
        })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.code, Json(self.status())).into_response();
        if matches!(self.code, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused { message, .. } => Self::conflict(message),
            Error::Kubernetes(_) => Self::unavailable(format!("{error}: try again")),
            error => Self::unavailable(format!(
                "{error}: the events are kept; try again when the EventBroker is Ready (kubectl get eventbrokers)"
            )),
        }
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::NotFound(Missing::Message) => {
                Self::not_found("there is no such stored event: it was removed, or never there")
            }
            ApiError::NotFound(_) => Self::not_found(
                "the broker has no stream for this: a Direct topic stores nothing, and a handler has dead letters once it is Subscribed",
            ),
            error => Self::from(Error::from(error)),
        }
    }
}

//! Calls that are not answered, and what their user can do.

use http::StatusCode;
use serde::Deserialize;

use super::Location;
use crate::cluster::{LOG_IN, sentence};
use crate::failure::Failure;
use crate::terminal;

/// Why a call was not answered.
#[derive(Debug)]
pub enum CallError {
    /// More calls than are answered at a time: repeat it soon.
    Busy(String),
    /// Something is away: it may be answered later.
    Away(String),
    /// It will not be answered. With the status of the answer, where there was one that refuses.
    Final(Failure, Option<StatusCode>),
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        Self::Final(failure, None)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Busy(why) | CallError::Away(why) => Self::Failed(why),
            CallError::Final(failure, _) => failure,
        }
    }
}

/// A `metav1.Status`, of which the operator and the API server have made the words.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    kind: String,
    message: String,
    code: u16,
}

impl CallError {
    /// The API server is not reached.
    pub(super) fn unreached(error: &kube::Error) -> Self {
        Self::Away(format!(
            "the API server is not reached: {}: is the cluster of the kubeconfig there?",
            sentence(error)
        ))
    }

    /// There was no answer in time.
    pub fn late() -> Self {
        Self::Away("the API server has not answered in time: try again".to_owned())
    }

    /// An answer that broke off.
    pub(super) fn broken(error: impl std::fmt::Display) -> Self {
        Self::Away(format!("the answer broke off: {}: try again", terminal::text(&error.to_string())))
    }

    /// Nothing is installed that would answer.
    pub(super) fn unregistered() -> Self {
        Self::from(Failure::Failed(
            "the cluster has no API subresources.tidegate.io: install Tidegate's chart with api.enabled: true (helm upgrade … --reset-then-reuse-values --set api.enabled=true,replicas=2)".to_owned(),
        ))
    }

    /// An answer that refuses.
    pub(super) fn refused(code: StatusCode, body: &[u8], is_read: bool, location: &Location) -> Self {
        let status = serde_json::from_slice::<Status>(body).ok().filter(|status| status.kind == "Status");
        // The operator says what to do; what has no Status is of the API server, which could not ask it.
        let Some(status) = status else {
            let why = terminal::text(&String::from_utf8_lossy(body));
            let command = location.clusterwide("kubectl describe apiservice v1alpha1.subresources.tidegate.io");
            return Self::Away(format!(
                "no operator answers ({code}: {why}): {command} says why. What is stored is kept; try again when a pod of the operator is ready"
            ));
        };
        Self::of_status(code.as_u16(), &status.message, is_read)
    }

    /// What a watch ends with.
    pub(super) fn of(status: &Status) -> Self {
        Self::of_status(status.code, &status.message, true)
    }

    fn of_status(code: u16, message: &str, is_read: bool) -> Self {
        let message = terminal::line(message);
        let role = if is_read { "tidegate-data-reader" } else { "tidegate-data-editor" };
        let refused = |failure| Self::Final(failure, StatusCode::from_u16(code).ok());
        match code {
            400 => refused(Failure::Usage(message)),
            401 if message == "Unauthorized" => refused(Failure::Failed(LOG_IN.to_owned())),
            // The API server's own words say no remedy.
            403 if message.contains(": User ") => refused(Failure::Failed(format!(
                "{message}: ask for a RoleBinding to ClusterRole {role} in the namespace"
            ))),
            429 => Self::Busy(message),
            500.. => Self::Away(message),
            _ => refused(Failure::Failed(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, body: &str) -> Failure {
        CallError::refused(StatusCode::from_u16(code).unwrap(), body.as_bytes(), true, &Location::default()).into()
    }

    fn status(message: &str) -> String {
        serde_json::json!({"kind": "Status", "message": message, "code": 1}).to_string()
    }

    #[test]
    fn each_refusal_says_what_to_do_and_has_its_code() {
        for (code, body, exit, expected) in [
            (400, status("limit must be 1 to 500"), 2, "limit must be"),
            (401, status("Unauthorized"), 1, "log in again"),
            (403, status("x is forbidden: User \"bob\" cannot get"), 1, "ClusterRole tidegate-data-reader"),
            (403, status("EventHandler a is not granted its topic"), 1, "not granted its topic"),
            (404, status("there is no EventTopic a"), 1, "no EventTopic a"),
            (503, status("the events are kept"), 1, "the events are kept"),
            (503, "service unavailable\u{1b}[2J".to_owned(), 1, "kubectl describe apiservice"),
        ] {
            let failure = said(code, &body);
            let text = failure.to_string();
            assert!(text.contains(expected) && failure.code() == exit && !text.contains('\u{1b}'), "{code} {text}");
        }
        assert!(matches!(
            CallError::refused(StatusCode::TOO_MANY_REQUESTS, status("busy").as_bytes(), true, &Location::default()),
            CallError::Busy(_)
        ));
    }
}

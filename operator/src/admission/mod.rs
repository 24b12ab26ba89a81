//! Says at `kubectl apply` what a reconcile would say a moment later: a validating admission webhook.
//!
//! What is refused is what [`judge`] finds with the same pure checks that every reconcile begins with, and what the API
//! server says to the Deployment that would be made of a handler (a dry run). So there is one truth, and the webhook is
//! never needed: while no operator answers, the API server stores the object without asking
//! (`failurePolicy: Ignore`), and the resource's condition says it instead.
//!
//! Every operator pod answers, whether it leads or not, because the Service knows no leader. [`crate::https`] serves it.

mod circles;
mod judge;
mod server;

pub(crate) use self::server::router;

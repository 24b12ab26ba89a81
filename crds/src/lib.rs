//! Tidegate's Kubernetes API, group `tidegate.io`, version `v1alpha1`.
//!
//! - [`topic`], [`handler`], [`broker`]: the resources. Their field descriptions are the user documentation.
//! - [`grant`]: which other namespaces may use one of them.
//! - [`conditions`]: the vocabulary of `status.conditions`, and how transition times are carried over.
//! - [`key`]: what a status says of keys of users.
//! - [`duration`], [`size`]: the string forms of durations and byte sizes.
//! - [`schema`]: parts of the OpenAPI schema that the derive cannot know.

pub mod broker;
pub mod conditions;
pub mod duration;
pub mod grant;
pub mod handler;
pub mod key;
pub mod schema;
pub mod size;
pub mod topic;

pub use broker::{EventBroker, EventBrokerSpec, EventBrokerStatus};
pub use duration::Duration;
pub use grant::{GrantedNamespaces, NamespaceGrant};
pub use handler::{EventHandler, EventHandlerSpec, EventHandlerStatus};
pub use size::Size;
pub use topic::{EventTopic, EventTopicSpec, EventTopicStatus};

/// The API group.
pub const GROUP: &str = "tidegate.io";

/// All definitions, as the API server wants them.
pub fn definitions() -> [k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition; 3]
{
    use kube::CustomResourceExt as _;
    [EventTopic::crd(), EventHandler::crd(), EventBroker::crd()]
}

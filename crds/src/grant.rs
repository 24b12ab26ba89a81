//! Grants: which namespaces may use a resource, written by its owner into the resource itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Namespaces that may use the resource. Its own namespace always may.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)").message("selector belongs to from: Selector: set both, or choose from: Same or from: All without a selector"))]
pub struct NamespaceGrant {
    /// Namespaces that are granted, besides the resource's own: Same (the default) none, All every namespace of the
    /// cluster, Selector those whose labels match selector.
    #[serde(default)]
    pub from: GrantedNamespaces,
    /// Labels of the granted namespaces, with from: Selector. Every namespace carries its name as the label
    /// kubernetes.io/metadata.name. An empty selector matches all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub selector: Option<LabelSelector>,
}

impl NamespaceGrant {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Namespaces that are granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GrantedNamespaces {
    /// The resource's own.
    #[default]
    Same,
    /// All of the cluster.
    All,
    /// Those whose labels match.
    Selector,
}

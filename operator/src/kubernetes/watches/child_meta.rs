//! What is kept of an object of which only the metadata is watched: there are several for each topic and handler, and as the
//! API's own type, with a tree for labels and one for annotations, each would take a multiple of the memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::PartialObjectMeta;

use super::child_mark;
use super::slim::OURS;

/// The metadata of an object.
#[derive(Clone, Debug)]
pub struct ChildMeta<K> {
    /// Where it is.
    place: ObjectMeta,
    /// The mark of all its metadata.
    mark: u64,
    /// The rest that someone looks at, as JSON.
    rest: Box<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K> From<PartialObjectMeta<K>> for ChildMeta<K> {
    fn from(object: PartialObjectMeta<K>) -> Self {
        let mark = child_mark(&object.metadata);
        let ObjectMeta { name, namespace, uid, labels, annotations, owner_references, .. } = object.metadata;
        let ours = |all: Option<BTreeMap<String, String>>| {
            all.map(|all| all.into_iter().filter(|(name, _)| name.starts_with(OURS)).collect())
        };
        let rest = ObjectMeta {
            labels: ours(labels),
            annotations: ours(annotations),
            owner_references,
            ..ObjectMeta::default()
        };
        let rest = serde_json::to_string(&rest).unwrap_or_default().into();
        let place = ObjectMeta { name, namespace, uid, ..ObjectMeta::default() };
        Self { place, mark, rest, kind: PhantomData }
    }
}

impl<K> ChildMeta<K> {
    /// All that is kept of it: where it is, whose it is, and our own labels and annotations.
    pub(crate) fn whole(&self) -> PartialObjectMeta<K> {
        let rest: ObjectMeta = serde_json::from_str(&self.rest).unwrap_or_default();
        let ObjectMeta { name, namespace, uid, .. } = self.place.clone();
        PartialObjectMeta { types: None, metadata: ObjectMeta { name, namespace, uid, ..rest }, _phantom: PhantomData }
    }
}

impl<K: Resource> Resource for ChildMeta<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.place
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.place
    }
}

/// An object that the operator applies, as it is kept.
pub(super) trait Kept {
    /// The mark of its metadata.
    fn mark(&self) -> u64;
    /// What is kept of its metadata.
    fn metadata(&self) -> Cow<'_, ObjectMeta>;
}

impl<K> Kept for ChildMeta<K> {
    fn mark(&self) -> u64 {
        self.mark
    }

    fn metadata(&self) -> Cow<'_, ObjectMeta> {
        Cow::Owned(self.whole().metadata)
    }
}

impl<K> Kept for PartialObjectMeta<K> {
    fn mark(&self) -> u64 {
        child_mark(&self.metadata)
    }

    fn metadata(&self) -> Cow<'_, ObjectMeta> {
        Cow::Borrowed(&self.metadata)
    }
}

impl Kept for Deployment {
    fn mark(&self) -> u64 {
        child_mark(&self.metadata)
    }

    fn metadata(&self) -> Cow<'_, ObjectMeta> {
        Cow::Borrowed(&self.metadata)
    }
}

impl Kept for StatefulSet {
    fn mark(&self) -> u64 {
        child_mark(&self.metadata)
    }

    fn metadata(&self) -> Cow<'_, ObjectMeta> {
        Cow::Borrowed(&self.metadata)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::ResourceExt as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_looked_at_is_kept_and_the_mark_is_that_of_all() {
        let metadata = json!({
            "name": "billing-identity", "namespace": "shop", "uid": "u", "resourceVersion": "7",
            "labels": {"tidegate.io/handler": "billing", "app.kubernetes.io/name": "tidegate"},
            "annotations": {"tidegate.io/applied": "h", "any": "thing"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "EventHandler", "name": "billing", "uid": "o", "controller": true}],
        });
        let object: PartialObjectMeta<Secret> = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        let kept = ChildMeta::from(object.clone());
        assert_eq!((kept.mark(), kept.name_any()), (child_mark(&object.metadata), "billing-identity".to_owned()));
        let whole = kept.whole();
        assert_eq!(whole.owner_references(), object.owner_references());
        assert_eq!(
            whole.labels().iter().collect::<Vec<_>>(),
            [(&"tidegate.io/handler".to_owned(), &"billing".to_owned())]
        );
        assert_eq!(whole.annotations().len(), 1);
        assert_eq!((whole.uid(), whole.namespace()), (object.uid(), object.namespace()));
    }
}

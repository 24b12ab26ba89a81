//! What was listed of the operator's objects at its start: by that it knows without a look which of them no one has touched since
//! an operator applied them ([`crate::kubernetes::fields`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::{Resource, ResourceExt as _};

use super::child_mark;
use crate::kubernetes::fields;
use crate::kubernetes::written::Key;

/// In the place of the owner's UID. Without it, the fields of a topic's object are those of any other topic's, and are kept once.
const OWNER_UID: &str = "\u{0}";

/// Of each object its mark, and the operator's fields of it as text. What has been used is forgotten, and in time the rest.
#[derive(Default)]
pub struct Listed(Mutex<Known>);

#[derive(Default)]
struct Known {
    objects: HashMap<Key, Object>,
    texts: HashSet<Arc<str>>,
}

struct Object {
    mark: u64,
    fields: Arc<str>,
    owner: Option<Box<str>>,
}

impl Listed {
    /// An object with all its metadata.
    pub(super) fn note<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let Some(fields) = fields::ours(object.meta()) else { return };
        let owner = object.owner_references().first().map(|owner| owner.uid.as_str()).filter(|uid| !uid.is_empty());
        let text = owner.map_or_else(|| fields.to_string(), |uid| fields.replace(uid, OWNER_UID));
        let key = (K::kind(&()).into_owned(), object.namespace().unwrap_or_default(), object.name_any());
        let mut known = self.lock();
        let fields = match known.texts.get(text.as_str()) {
            Some(fields) => fields.clone(),
            None => {
                let fields: Arc<str> = text.into();
                known.texts.insert(fields.clone());
                fields
            }
        };
        let owner = owner.map(Into::into);
        known.objects.insert(key, Object { mark: child_mark(object.meta()), fields, owner });
    }

    /// Whether an object is as it was listed, and not looked at since.
    pub(crate) fn has(&self, key: &Key, mark: u64) -> bool {
        self.lock().objects.get(key).is_some_and(|object| object.mark == mark)
    }

    /// The operator's fields of an object that is as it was listed. Once.
    pub(crate) fn take(&self, key: &Key, mark: u64) -> Option<String> {
        let object = self.lock().objects.remove(key).filter(|object| object.mark == mark)?;
        Some(object.owner.map_or_else(|| object.fields.to_string(), |uid| object.fields.replace(OWNER_UID, &uid)))
    }

    /// Forgets what no one asked for.
    pub(crate) fn clear(&self) {
        *self.lock() = Known::default();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::names::FIELD_MANAGER;

    #[test]
    fn fields_that_differ_by_their_owner_alone_are_kept_once_and_come_back_as_they_were() {
        let (listed, services) = (
            Listed::default(),
            ["u-1", "u-2"].map(|uid| -> Service {
                let fields = json!({"f:metadata": {"f:ownerReferences": {format!("k:{{\"uid\":\"{uid}\"}}"): {}}}});
                let ours = json!({"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields});
                let owner = json!({"apiVersion": "v1", "kind": "EventTopic", "name": "t", "uid": uid});
                let metadata =
                    json!({"name": uid, "namespace": "n", "ownerReferences": [owner], "managedFields": [ours]});
                serde_json::from_value(json!({"metadata": metadata})).unwrap()
            }),
        );
        services.iter().for_each(|service| listed.note(service));
        assert_eq!(listed.lock().texts.len(), 1);
        for service in &services {
            let key = ("Service".to_owned(), "n".to_owned(), service.name_any());
            let mark = child_mark(service.meta());
            assert!(listed.has(&key, mark) && !listed.has(&key, mark + 1));
            assert_eq!(listed.take(&key, mark).as_deref(), fields::ours(service.meta()).as_deref());
            assert_eq!(listed.take(&key, mark), None, "once");
        }
    }
}

//! What was listed of the operator's objects at its start: by that it knows without a look which of them no one has touched since
//! an operator applied them ([`crate::kubernetes::fields`]).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::{Resource, ResourceExt as _};

use super::child_mark;
use crate::kubernetes::fields;
use crate::kubernetes::written::Key;

/// Of each object its mark, and the operator's fields of it as text. What has been used is forgotten, and in time the rest.
#[derive(Default)]
pub struct Listed(Mutex<HashMap<Key, (u64, Box<str>)>>);

impl Listed {
    /// An object with all its metadata.
    pub(super) fn note<K: Resource<DynamicType = ()>>(&self, object: &K) {
        let Some(fields) = fields::ours(object.meta()) else { return };
        let key = (K::kind(&()).into_owned(), object.namespace().unwrap_or_default(), object.name_any());
        self.lock().insert(key, (child_mark(object.meta()), fields));
    }

    /// Whether an object is as it was listed, and not looked at since.
    pub(crate) fn has(&self, key: &Key, mark: u64) -> bool {
        self.lock().get(key).is_some_and(|(listed, _)| *listed == mark)
    }

    /// The operator's fields of an object that is as it was listed. Once.
    pub(crate) fn take(&self, key: &Key, mark: u64) -> Option<Box<str>> {
        let (listed, fields) = self.lock().remove(key)?;
        (listed == mark).then_some(fields)
    }

    /// Forgets what no one asked for.
    pub(crate) fn clear(&self) {
        *self.lock() = HashMap::new();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (u64, Box<str>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

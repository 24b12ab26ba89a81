//! Objects by what they belong to: whoever needs the topics of a broker does not walk through those of all others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;

use super::Feed;

type Groups<K, B, M> = HashMap<B, Vec<(Arc<K>, M)>>;

/// The objects of a store by what they belong to, which may be several, each with what was made of it once. It follows the
/// store.
pub(crate) struct Index<K, B, M = ()> {
    belongs_to: fn(&K) -> Vec<B>,
    make: fn(&K) -> M,
    found: RwLock<Groups<K, B, M>>,
}

impl<K, B: Eq + Hash, M> Index<K, B, M> {
    pub(super) fn new(belongs_to: fn(&K) -> Vec<B>, make: fn(&K) -> M) -> Arc<Self> {
        Arc::new(Self { belongs_to, make, found: RwLock::default() })
    }

    /// What this makes of the objects that belong to `owner`. The store does not change meanwhile.
    pub(crate) fn with<T>(&self, owner: &B, look: impl FnOnce(&[(Arc<K>, M)]) -> T) -> T {
        let found = self.found.read().unwrap_or_else(PoisonError::into_inner);
        look(found.get(owner).map_or(&[], Vec::as_slice))
    }

    /// The objects that belong to `owner`, as far as they are picked.
    pub(crate) fn of(&self, owner: &B, pick: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let picked = |(object, _): &&(Arc<K>, M)| pick(object);
        self.with(owner, |all| all.iter().filter(picked).map(|(object, _)| object.clone()).collect())
    }
}

/// What is told of the changes of a store.
pub(super) trait Follow<K>: Send + Sync {
    /// One object takes the place of another; `None`: there was none, or is none.
    fn change(&self, before: Option<&Arc<K>>, after: Option<Arc<K>>);
    /// These are all.
    fn replace(&self, all: Vec<Arc<K>>);
}

impl<K, B: Eq + Hash, M: Clone> Index<K, B, M> {
    fn add(&self, object: Arc<K>, found: &mut Groups<K, B, M>) {
        let made = (self.make)(&object);
        for owner in (self.belongs_to)(&object) {
            found.entry(owner).or_default().push((object.clone(), made.clone()));
        }
    }

    fn remove(&self, object: &Arc<K>, found: &mut Groups<K, B, M>) {
        for owner in (self.belongs_to)(object) {
            if let Some(all) = found.get_mut(&owner) {
                all.retain(|(known, _)| !Arc::ptr_eq(known, object));
                if all.is_empty() {
                    found.remove(&owner);
                }
            }
        }
    }
}

impl<K, B, M> Follow<K> for Index<K, B, M>
where
    K: Send + Sync,
    B: Eq + Hash + Send + Sync,
    M: Clone + Send + Sync,
{
    fn change(&self, before: Option<&Arc<K>>, after: Option<Arc<K>>) {
        let mut found = self.found.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before {
            self.remove(before, &mut found);
        }
        if let Some(after) = after {
            self.add(after, &mut found);
        }
    }

    fn replace(&self, all: Vec<Arc<K>>) {
        let mut found = HashMap::new();
        all.into_iter().for_each(|object| self.add(object, &mut found));
        *self.found.write().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Feed<K> {
    /// This store tells an index of its changes.
    #[must_use]
    pub(super) fn followed_by(mut self, index: Arc<dyn Follow<K>>) -> Self {
        self.index = Some(index);
        self
    }

    /// Writes an event to the store, and then to its index.
    pub(super) fn write(&mut self, event: &Event<K>) {
        let Some(index) = &self.index else { return self.writer.apply_watcher_event(event) };
        let store = self.writer.as_reader();
        match event {
            Event::Apply(object) | Event::Delete(object) => {
                let at = ObjectRef::from_obj(object);
                let before = store.get(&at);
                self.writer.apply_watcher_event(event);
                index.change(before.as_ref(), store.get(&at));
            }
            Event::Init | Event::InitApply(_) => self.writer.apply_watcher_event(event),
            Event::InitDone => {
                self.writer.apply_watcher_event(event);
                index.replace(store.state());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt as _;
    use serde_json::json;
    use tokio::sync::watch;

    use super::super::stores::feed;
    use super::*;

    fn pod(name: &str, owner: &str) -> Pod {
        let labels = json!({"owner": owner});
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "labels": labels}})).unwrap()
    }

    fn owners(pod: &Pod) -> Vec<String> {
        pod.labels()["owner"].split('.').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn what_belongs_to_one_is_found_whatever_became_of_it() {
        let index = Index::new(owners, |pod: &Pod| pod.name_any());
        let (_, feed) = feed(&Arc::new(watch::channel(0).0), &Arc::default());
        let mut feed = feed.followed_by(index.clone());
        let found = |owner: &str| {
            let mut names =
                index.with(&owner.to_owned(), |all| all.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>());
            names.sort();
            names.join(" ")
        };
        for event in [Event::Init, Event::InitApply(pod("a", "x")), Event::InitApply(pod("b", "y"))] {
            feed.write(&event);
        }
        assert_eq!(found("x"), "", "not all are listed yet");
        feed.write(&Event::InitDone);
        assert_eq!((found("x").as_str(), found("y").as_str()), ("a", "b"));
        feed.write(&Event::Apply(pod("c", "x.z")));
        feed.write(&Event::Apply(pod("c", "x.z")));
        assert_eq!((found("x").as_str(), found("z").as_str()), ("a c", "c"), "each is there once");
        feed.write(&Event::Apply(pod("c", "y")));
        assert_eq!([found("x"), found("y"), found("z")], ["a", "b c", ""]);
        feed.write(&Event::Delete(pod("b", "y")));
        assert_eq!(found("y"), "c");
        for event in [Event::Init, Event::InitApply(pod("a", "y")), Event::InitDone] {
            feed.write(&event);
        }
        assert_eq!((found("x").as_str(), found("y").as_str()), ("", "a"));
        assert_eq!(index.of(&"y".to_owned(), |_| true).len(), 1);
        assert!(index.of(&"y".to_owned(), |pod| pod.name_any() == "b").is_empty());
    }
}

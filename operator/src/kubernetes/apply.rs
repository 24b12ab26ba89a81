//! Server-side apply of child objects: only what changed, and never over somebody else's object.
//!
//! What was applied is remembered with the object's mark ([`crate::kubernetes::watches`]). As long as the watch shows that mark and
//! the same is wanted, there is nothing to read and nothing to write. After a start nothing is remembered: then an object of
//! which the operator still has all fields is as it was applied ([`crate::kubernetes::fields`]), and is not read either.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::Status;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::context::{Context, Owner};
use crate::identity::authority;
use crate::kubernetes::drift::contains;
use crate::kubernetes::fields;
use crate::kubernetes::names::FIELD_MANAGER;
use crate::kubernetes::ownership::{OWNER, belongs_to};
use crate::kubernetes::watches::{self, child_mark};
use crate::kubernetes::written::Key;
use crate::reconcile::error::Error;
use crate::reconcile::pace::{Turns, is_unasked};

/// Carries the hash of what was applied last: a field that is no longer wanted shows nowhere else.
const APPLIED: &str = "tidegate.io/applied";

/// A child object as it should be.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its type.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// Its namespace, where that is not its owner's.
    pub namespace: Option<String>,
    /// All of it, as JSON.
    pub value: Value,
    /// Whether an object of that name without an owner may become ours (kept data of a deleted topic).
    pub adopts: bool,
    /// The version that it takes the place of, and of no other; `None`: of whatever there is.
    pub replaces: Option<String>,
}

impl Child {
    /// An unowned object of that name becomes ours.
    #[must_use]
    pub fn adopting(self) -> Self {
        Self { adopts: true, ..self }
    }

    /// In the place of this version, and of no other: what was decided by looking at it is not written over what another
    /// operator has written since.
    #[must_use]
    pub fn replacing(self, version: &str) -> Self {
        Self { replaces: Some(version.to_owned()), ..self }
    }

    /// In another namespace than its owner's. It can have no owner reference there.
    #[must_use]
    pub fn within(self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self }
    }

    /// The text values of a Secret.
    pub fn secret(&self) -> Option<authority::Data> {
        Some(authority::data(&serde_json::from_value(self.value.clone()).ok()?))
    }

    fn namespace<'a>(&'a self, owner: &'a Owner) -> &'a str {
        self.namespace.as_deref().unwrap_or(&owner.namespace)
    }
}

/// A child of which the operator looks at more than what it applied: the store's copy, unless that may be older than
/// the operator's own last write, or there is none. What the store was filled with at the start is not: it is listed by
/// whoever leads, when no one else writes any more.
///
/// # Errors
/// The API server is away.
pub async fn current<K>(context: &Context, store: &Store<K>, namespace: &str, name: &str) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let key = (K::kind(&()).into_owned(), namespace.to_owned(), name.to_owned());
    let known = watches::get(store, namespace, name);
    let applied = context.applied.mark(&key);
    match known {
        Some(known)
            if applied == Some(child_mark(known.meta()))
                || applied.is_none() && context.stores.listed.has(&key, child_mark(known.meta())) =>
        {
            Ok(Some(K::clone(&known)))
        }
        _ => {
            let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
            Ok(api.get_opt(name).await?)
        }
    }
}

/// Makes the child be as it should be. Writes only if something differs.
///
/// # Errors
/// The API server refuses it, or an object of that name belongs to somebody else.
pub async fn apply(context: &Context, owner: &Owner, child: &Child) -> Result<(), Error> {
    let mark = context.stores.child_mark(&child.resource.kind, child.namespace(owner), &child.name);
    let hash = hash(&child.value);
    if !is_applied(context, owner, child, mark, &hash) {
        write(context, owner, child, hash).await?;
    }
    Ok(())
}

/// Whether the object with this mark is as it is wanted: applied since the start, or before it and not touched since.
fn is_applied(context: &Context, owner: &Owner, child: &Child, mark: Option<u64>, hash: &str) -> bool {
    let key = key(owner, child);
    if context.applied.holds(&key, mark, hash) {
        return true;
    }
    mark.is_some_and(|mark| is_as_listed(context, owner, child, mark, hash))
}

/// Whether an operator applied what has this hash before the start, and no one has touched the object since. It is asked for once.
fn is_as_listed(context: &Context, owner: &Owner, child: &Child, mark: u64, hash: &str) -> bool {
    let key = key(owner, child);
    let Some(fields) = context.stores.listed.take(&key, mark) else { return false };
    let is_as_listed = |seen: u64, meta: &ObjectMeta| {
        seen == mark && was_applied(meta, hash) && check_owner(meta, &owner.reference, child).is_ok()
    };
    let holds = context.stores.look_at((&key.0, &key.1, &key.2), is_as_listed) == Some(true)
        && fields::cover(&fields, &desired(child, &owner.reference, hash));
    if holds {
        context.applied.note(key, mark, hash.to_owned());
    }
    holds
}

/// Whether the object with this mark is as it was applied last, by this operator or before its start, and no one has touched it
/// since. `child`: all that was applied, with any values in the place of those that only the object has.
pub(crate) fn is_untouched(context: &Context, owner: &Owner, child: &Child, mark: u64) -> bool {
    let key = key(owner, child);
    if context.applied.mark(&key) == Some(mark) {
        return true;
    }
    let applied = |_: u64, meta: &ObjectMeta| meta.annotations.as_ref()?.get(APPLIED).cloned();
    let applied = context.stores.look_at((&key.0, &key.1, &key.2), applied).flatten();
    applied.is_some_and(|hash| is_as_listed(context, owner, child, mark, &hash))
}

/// The same of a child that is looked at afterwards.
///
/// # Errors
/// As [`apply`].
pub async fn apply_whole<K>(context: &Context, owner: &Owner, child: &Child, store: &Store<K>) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    let known: Option<Arc<K>> = watches::get(store, child.namespace(owner), &child.name);
    let hash = hash(&child.value);
    if let Some(known) = known
        && is_applied(context, owner, child, Some(child_mark(known.meta())), &hash)
    {
        return Ok(K::clone(&known));
    }
    let written = write(context, owner, child, hash).await?;
    Ok(written.try_parse().map_err(|error| kube::Error::SerdeError(serde::de::Error::custom(error)))?)
}

/// A child with pods.
pub struct Paced<K> {
    /// As it is now.
    pub object: K,
    /// Whether it is to be changed when it is its turn.
    pub waits: bool,
}

/// The same of a child with pods, and before it of what their containers read when they start, its `config`. Where pods
/// would be replaced without a change of the specification, both stay as they are until it is their turn: a container
/// that restarts meanwhile finds what its pod was made for.
///
/// # Errors
/// As [`apply`].
pub async fn apply_paced<K>(
    context: &Context,
    owner: &Owner,
    child: &Child,
    config: Option<&Child>,
    existing: Option<&K>,
    (store, turns): (&Store<K>, &Turns),
) -> Result<Paced<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned,
{
    let unasked = existing.filter(|existing| is_unasked(*existing, child));
    let turn = unasked.and_then(|_| turns.take(&(owner.namespace.clone(), owner.name.clone())));
    let waiting = unasked.filter(|_| turn.is_none());
    let is_gone =
        |config: &Child| context.stores.child_mark(&config.resource.kind, &owner.namespace, &config.name).is_none();
    if let Some(config) = config.filter(|config| waiting.is_none() || is_gone(config)) {
        apply(context, owner, config).await?;
    }
    if let Some(existing) = waiting {
        return Ok(Paced { object: existing.clone(), waits: true });
    }
    let object = apply_whole(context, owner, child, store).await?;
    if let Some(turn) = turn {
        turn.wrote(object.meta().generation);
    }
    Ok(Paced { object, waits: false })
}

fn key(owner: &Owner, child: &Child) -> Key {
    (child.resource.kind.clone(), child.namespace(owner).to_owned(), child.name.clone())
}

async fn write(context: &Context, owner: &Owner, child: &Child, hash: String) -> Result<DynamicObject, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), child.namespace(owner), &child.resource);
    let found = compare_and_write(&api, &owner.reference, child, &hash).await?;
    context.applied.note(key(owner, child), child_mark(&found.metadata), hash);
    Ok(found)
}

async fn compare_and_write(
    api: &Api<DynamicObject>,
    owner: &OwnerReference,
    child: &Child,
    hash: &str,
) -> Result<DynamicObject, Error> {
    let mut desired = desired(child, owner, hash);
    let existing = api.get_opt(&child.name).await?;
    let exists = existing.is_some();
    let version = existing.as_ref().and_then(|existing| existing.metadata.resource_version.clone());
    if let Some(existing) = existing {
        check_owner(&existing.metadata, owner, child)?;
        let found = serde_json::to_value(&existing).map_err(kube::Error::SerdeError)?;
        if was_applied(&existing.metadata, hash) && contains(&found, &desired) {
            return Ok(existing);
        }
        // What takes its place between the look and the write is not written over.
        desired["metadata"]["uid"] = json!(existing.metadata.uid);
    }
    if let Some(version) = &child.replaces {
        desired["metadata"]["resourceVersion"] = json!(version);
    }
    let params = params();
    let applied = match api.patch(&child.name, &params, &Patch::Apply(&desired)).await {
        Err(kube::Error::Api(status))
            if status.code == 422 && exists && take_back(api, child, params.dry_run).await? =>
        {
            api.patch(&child.name, &params, &Patch::Apply(&desired)).await
        }
        Err(kube::Error::Api(status)) if has_repeated_key(&status) => {
            write_whole(api, &desired, version.as_deref()).await
        }
        applied => applied,
    };
    applied.map_err(|error| invalid(error, child))
}

/// Whether a list has a key twice: a variable of the same name, a pull secret named again. A Deployment may have that
/// (the last one counts), but not when it is applied.
fn has_repeated_key(status: &Status) -> bool {
    status.message.contains("duplicate entries for key")
}

/// Makes or replaces the object as a whole, which is the one way to write what cannot be applied.
async fn write_whole(
    api: &Api<DynamicObject>,
    desired: &Value,
    version: Option<&str>,
) -> Result<DynamicObject, kube::Error> {
    let mut object: DynamicObject = serde_json::from_value(desired.clone()).map_err(kube::Error::SerdeError)?;
    object.metadata.resource_version = version.map(ToOwned::to_owned);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match version {
        Some(_) => api.replace(&object.name_any(), &params, &object).await,
        None => api.create(&params, &object).await,
    }
}

/// Whether the API server would take this child, without making it. Only what is the child's own fault is an error of
/// a person's; a deadline is the caller's matter.
///
/// # Errors
/// As [`apply`].
pub async fn dry_run(client: &Client, namespace: &str, child: &Child) -> Result<(), Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &child.resource);
    let params = PatchParams { dry_run: true, ..params() };
    match api.patch(&child.name, &params, &Patch::Apply(&child.value)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if has_repeated_key(&status) => {
            let object = serde_json::from_value(child.value.clone()).map_err(kube::Error::SerdeError)?;
            match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
                // There already: it got as far as that.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                made => made.map(drop).map_err(|error| invalid(error, child)),
            }
        }
        // What is there contradicts it (a strategy before another): it would be taken back first.
        Err(kube::Error::Api(status)) if status.code == 422 => match take_back(&api, child, true).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(invalid(kube::Error::Api(status), child)),
        },
        Err(error) => Err(invalid(error, child)),
    }
}

fn params() -> PatchParams {
    PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply(FIELD_MANAGER).force() }
}

/// What somebody put into one of our lists stays there when ours is applied, and may contradict it (a port of the
/// same name). Then our lists replace what is there, and no other manager owns a field of the object any more. Returns
/// whether that was possible: it is not if ours is what is wrong.
async fn take_back(api: &Api<DynamicObject>, child: &Child, dry_run: bool) -> Result<bool, Error> {
    let mut whole = child.value.clone();
    whole["metadata"]["managedFields"] = json!([{}]);
    let params = PatchParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match api.patch(&child.name, &params, &Patch::Merge(&whole)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The child with what the operator notes on it.
fn desired(child: &Child, owner: &OwnerReference, hash: &str) -> Value {
    let mut desired = child.value.clone();
    desired["metadata"]["annotations"][APPLIED] = Value::from(hash);
    desired["metadata"]["annotations"][OWNER] = Value::from(owner.uid.clone());
    desired
}

fn was_applied(existing: &ObjectMeta, hash: &str) -> bool {
    let annotations = existing.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(APPLIED)).is_some_and(|applied| applied == hash)
}

fn check_owner(existing: &ObjectMeta, owner: &OwnerReference, child: &Child) -> Result<(), Error> {
    let owners = existing.owner_references.as_deref().unwrap_or_default();
    if belongs_to(existing, owner) || (child.adopts && owners.is_empty()) {
        return Ok(());
    }
    if owners.iter().any(|reference| reference.kind == owner.kind && reference.name == owner.name) {
        return Err(Error::Leftover(format!(
            "{} {} belongs to an earlier {} of this name and is on its way out: this continues when it is gone",
            child.resource.kind, child.name, owner.kind
        )));
    }
    Err(Error::refused(
        "NameTaken",
        format!(
            "{} {} exists and belongs to something else: rename or delete it, or use another name for this {}",
            child.resource.kind, child.name, owner.kind
        ),
    ))
}

/// Some answers say that the object itself is wrong: only its author can mend that. A field that the type does not
/// have, or a value that is none, is among them, though the API server calls it an error of its own (500) when it is
/// applied.
fn invalid(error: kube::Error, child: &Child) -> Error {
    match &error {
        kube::Error::Api(status) if is_the_objects_fault(status) => Error::refused(
            "InvalidTemplate",
            format!("the API server refuses the {} made from this resource: {}", child.resource.kind, status.message),
        ),
        kube::Error::Api(status) if status.code == 409 => Error::Overtaken(format!(
            "{} {} was changed or replaced while it was looked at: {}",
            child.resource.kind, child.name, status.message
        )),
        _ => error.into(),
    }
}

fn is_the_objects_fault(status: &Status) -> bool {
    let words = ["typed patch object", "unable to convert unstructured object"];
    matches!(status.code, 400 | 422) || (status.code == 500 && words.iter().any(|words| status.message.contains(words)))
}

fn hash(value: &Value) -> String {
    Sha256::digest(value.to_string()).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

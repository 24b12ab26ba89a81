//! The child objects of a handler, one file each.

mod deployment;
mod network_policy;

use k8s_openapi::api::core::v1::Secret;
use tidegate_broker_admin::{LeafRequest, UserKey};
use tidegate_broker_client::identity::file;
use tidegate_crds::EventHandler;
use time::OffsetDateTime;

use crate::args::Args;
use crate::broker::desired::child;
use crate::context::Owner;
use crate::handler::observe::Topic;
use crate::handler::settings::Settings;
use crate::handler::subscribe;
use crate::identity::authority;
use crate::identity::credentials::{self, Credentials, Wanted};
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::reconcile::error::Error;
pub use deployment::handler as deployment;

/// All children of a handler. Applying destructures this, so that none can be forgotten.
#[derive(Clone, Debug)]
pub struct Children {
    /// `None`: it stays as it is.
    pub identity: Option<Child>,
    pub network_policy: Child,
    pub deployment: Child,
}

/// What the children are made from.
pub struct Input<'a> {
    pub handler: &'a EventHandler,
    pub owner: &'a Owner,
    pub settings: &'a Settings,
    pub topic: &'a Topic,
    pub replicas: u32,
    pub args: &'a Args,
    pub now: OffsetDateTime,
}

/// The children as they should be.
///
/// # Errors
/// The broker's authority is damaged.
pub fn children(input: &Input<'_>, credentials: &Credentials) -> Result<Children, Error> {
    let identity = match credentials {
        Credentials::Kept { .. } => None,
        Credentials::Read { key, present } => Some(identity(input, key, present.as_deref())?),
    };
    Ok(Children { identity, network_policy: network_policy::handler(input), deployment: deployment::handler(input)? })
}

/// What the sidecars prove themselves with; renewed in place, and read again at each connect. All but its key.
///
/// # Errors
/// The broker's authority is damaged.
pub fn wanted_identity<'a>(owner: &Owner, settings: &Settings, topic: &'a Topic) -> Result<Wanted<'a>, Error> {
    let (handler, authority) = (&owner.name, &topic.place.authority);
    let message_ids = topic.destinations.iter();
    let message_ids =
        message_ids.map(|(topic, key)| (file::message_id_key_for(topic), key.handler_key_text(&owner.reference.uid)));
    Ok(Wanted {
        name: names::handler_identity(handler),
        labels: names::handler_labels(handler, topic.id.name()),
        authority,
        leaf: LeafRequest::client(&format!("handler/{}/{handler}", owner.namespace)),
        claims: authority.handler_claims(&subscribe::guest(owner, settings, topic))?,
        files: message_ids.collect(),
    })
}

fn identity(input: &Input<'_>, key: &UserKey, present: Option<&Secret>) -> Result<Child, Error> {
    let wanted = wanted_identity(input.owner, input.settings, input.topic)?;
    let guest = subscribe::guest(input.owner, input.settings, input.topic);
    let user = wanted.authority.handler_user(&guest, key, input.now)?;
    let mut files = authority::identity(wanted.authority, present, &wanted.leaf, Some(&user), input.now)?;
    files.retain(|file, _| !file.starts_with("message-ids."));
    files.extend(wanted.files.clone());
    credentials::secret(input.owner, &wanted, &key.record, files)
}

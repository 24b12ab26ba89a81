//! The child objects of a handler, one file each.

mod deployment;
mod network_policy;

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use tidegate_broker_admin::{LeafRequest, UserKey};
use tidegate_broker_client::identity::file;
use tidegate_crds::EventHandler;
use time::OffsetDateTime;

use crate::args::Args;
use crate::broker::desired::{child, encoded};
use crate::context::Owner;
use crate::handler::observe::Topic;
use crate::handler::settings::Settings;
use crate::handler::subscribe;
use crate::identity::authority;
use crate::identity::user_keys;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::reconcile::error::Error;
pub use deployment::handler as deployment;

/// All children of a handler. Applying destructures this, so that none can be forgotten.
#[derive(Clone, Debug)]
pub struct Children {
    pub identity: Child,
    pub network_policy: Child,
    pub deployment: Child,
}

/// What the children are made from.
pub struct Input<'a> {
    pub handler: &'a EventHandler,
    pub owner: &'a Owner,
    pub settings: &'a Settings,
    pub topic: &'a Topic,
    pub identity: Option<&'a Secret>,
    pub replicas: u32,
    pub args: &'a Args,
    pub now: OffsetDateTime,
}

/// The children as they should be. `key`: with which the sidecars show who they are.
///
/// # Errors
/// The broker's authority is damaged.
pub fn children(input: &Input<'_>, key: &UserKey) -> Result<Children, Error> {
    Ok(Children {
        identity: identity(input, key)?,
        network_policy: network_policy::handler(input),
        deployment: deployment::handler(input)?,
    })
}

/// What the sidecars prove themselves with; renewed in place, and read again at each connect.
fn identity(input: &Input<'_>, key: &UserKey) -> Result<Child, Error> {
    let handler = &input.owner.name;
    let authority = &input.topic.place.authority;
    let guest = subscribe::guest(input.owner, input.settings, input.topic);
    let user = authority.handler_user(&guest, key, input.now)?;
    let leaf = LeafRequest::client(&format!("handler/{}/{handler}", input.owner.namespace));
    let mut data = authority::identity(authority, input.identity, &leaf, Some(&user), input.now)?;
    data.retain(|file, _| !file.starts_with("message-ids."));
    for (topic, key) in &input.topic.destinations {
        let key = key.handler_key_text(&input.owner.reference.uid);
        data.insert(file::message_id_key_for(topic), key);
    }
    let name = names::handler_identity(handler);
    let mut metadata = input.owner.metadata(&name, &names::handler_labels(handler, &input.handler.spec.topic));
    metadata["annotations"] = user_keys::annotations(key, authority);
    let value = json!({"metadata": metadata, "type": "Opaque", "data": encoded(data)});
    Ok(child::<Secret>(&name, value))
}

//! The key of a handler's sidecars.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::events::EventType;
use tidegate_broker_admin::UserKey;
use tidegate_crds::EventHandler;
use tidegate_crds::key::KeyStatus;
use time::OffsetDateTime;

use crate::context::Context;
use crate::identity::user_keys;
use crate::reconcile::error::Error;
use crate::reconcile::report;

/// What is said of the key, and when to look at it again.
pub(super) struct Seen {
    pub(super) status: KeyStatus,
    pub(super) again: Option<Duration>,
}

/// The key as it is to be. `present`: the Secret of the sidecars' identity.
///
/// # Errors
/// There is no randomness.
pub(super) fn wanted(context: &Context, handler: &EventHandler, present: Option<&Secret>) -> Result<UserKey, Error> {
    let (handover, now) = (context.args.key_handover(), OffsetDateTime::now_utc());
    let request = user_keys::request_of(handler);
    user_keys::wanted(present, known(handler), request.as_deref(), handover, now)
}

/// From which time on the sidecars' user must have been signed.
pub(super) fn refused_before(context: &Context, key: &UserKey) -> Option<OffsetDateTime> {
    key.record.refused_before(context.args.key_handover(), OffsetDateTime::now_utc())
}

/// Tells people of a key that replaces another. `end`: of the credentials in its Secret.
pub(super) async fn tell(
    context: &Context,
    handler: &EventHandler,
    key: &UserKey,
    end: Option<OffsetDateTime>,
) -> Seen {
    let (handover, now) = (context.args.key_handover(), OffsetDateTime::now_utc());
    if let Some(news) = user_keys::news(key, known(handler), handover, now) {
        report::event(context, handler, EventType::Normal, "KeyReplaced", &news).await;
    }
    Seen { status: user_keys::status(key, end, handover, now), again: user_keys::again(key, handover, now) }
}

fn known(handler: &EventHandler) -> Option<&KeyStatus> {
    handler.status.as_ref()?.key.as_ref()
}

//! The key of a handler's sidecars.

use std::time::Duration;

use kube::runtime::events::EventType;
use tidegate_broker_admin::KeyRecord;
use tidegate_crds::EventHandler;
use tidegate_crds::key::KeyStatus;
use time::OffsetDateTime;

use crate::context::Context;
use crate::identity::credentials::KeyHistory;
use crate::identity::user_keys;
use crate::reconcile::report;

/// What is said of the key, and when to look at it again.
pub(super) struct Seen {
    pub(super) status: KeyStatus,
    pub(super) again: Option<Duration>,
}

/// What is known of a handler's key, and what asks for another one.
pub(super) fn history(handler: &EventHandler) -> KeyHistory<'_> {
    KeyHistory { known: known(handler), request: user_keys::request_of(handler) }
}

/// From which time on the sidecars' user must have been signed.
pub(super) fn refused_before(context: &Context, key: &KeyRecord) -> Option<OffsetDateTime> {
    key.refused_before(context.args.key_handover(), OffsetDateTime::now_utc())
}

/// Tells people of a key that replaces another. `end`: of the credentials in its Secret.
pub(super) async fn tell(
    context: &Context,
    handler: &EventHandler,
    key: &KeyRecord,
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

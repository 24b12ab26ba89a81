//! A topic's streams, and what was lost of its events.

use std::time::Duration;

use tidegate_broker_admin::api::{self, StreamInfo};
use tidegate_broker_admin::streams::{self, Streams};

use crate::broker::audit;
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::sessions::brokers::Place;
use crate::topic::loss;
use crate::topic::settings::Settings;

/// A new leader of several may not yet have applied all that is stored: a loss is believed after so many more looks.
const LOSS_LOOKS: u32 = 5;
const LOSS_PAUSE: Duration = Duration::from_secs(2);
/// Events that are missing, of which the broker is asked for their numbers: the answer has each of them.
const GAPS_LIMIT: i64 = 100_000;

/// Looks at a topic's streams.
pub(super) struct Looker<'a> {
    pub(super) context: &'a Context,
    pub(super) place: &'a Place,
    /// The topic's account on its broker.
    pub(super) broker: &'a api::Broker,
    pub(super) settings: &'a Settings,
    /// Its id.
    pub(super) account: &'a str,
}

/// What a topic's stream of events lacks of what it had at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// Nothing.
    Nothing,
    /// Events that another server has: they come back, or are lost when no server has them any more.
    Elsewhere,
    /// Events that no server has; in words.
    Lost(String),
}

impl Lacking {
    /// What was lost.
    pub(super) fn lost(&self) -> Option<&String> {
        if let Self::Lost(lost) = self { Some(lost) } else { None }
    }
}

impl Looker<'_> {
    /// Makes the streams as they should be, and says what is missing of them, by what `lost_of` finds.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(super) async fn look(
        &self,
        lost_of: impl Fn(&StreamInfo) -> Option<String>,
    ) -> Result<(Streams, Lacking), Error> {
        let mut streams = self.ensure().await?;
        let mut lost = lost_of(&streams.events);
        let mut looks = if self.place.pods > 1 { LOSS_LOOKS } else { 0 };
        while lost.is_some() && looks > 0 {
            tokio::time::sleep(LOSS_PAUSE).await;
            streams = self.ensure().await?;
            lost = lost_of(&streams.events);
            looks -= 1;
        }
        let Some(mut lost) = lost else { return Ok((streams, Lacking::Nothing)) };
        if self.place.pods > 1 && audit::is_elsewhere(self.context, self.place, self.account).await {
            return Ok((streams, Lacking::Elsewhere));
        }
        lost.push_str(&self.gaps(&streams.events).await);
        Ok((streams, Lacking::Lost(lost)))
    }

    async fn ensure(&self) -> Result<Streams, Error> {
        Ok(streams::ensure(self.broker, &self.settings.streams).await?)
    }

    /// Which events are missing between the first and the last one, in words; empty: none, or too many to tell.
    async fn gaps(&self, events: &StreamInfo) -> String {
        let missing = loss::record(events, None, false).missing;
        if !(1..=GAPS_LIMIT).contains(&missing) {
            return String::new();
        }
        let gaps = self.broker.stream_gaps(&events.config.name).await.unwrap_or_default();
        loss::numbers(&gaps).map(|numbers| format!(" (there is no number {numbers})")).unwrap_or_default()
    }
}

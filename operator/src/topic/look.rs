//! A topic's streams, and what was lost of its events.

use std::time::Duration;

use tidegate_broker_admin::api::StreamInfo;
use tidegate_broker_admin::streams::{self, Streams};

use crate::broker::audit::{self, Whereabouts};
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::sessions::brokers::{Broker, Place};
use crate::topic::loss::{self, Gone};
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
    pub(super) broker: &'a Broker,
    pub(super) settings: &'a Settings,
    /// Its id.
    pub(super) account: &'a str,
    /// Whether events were missed at the last look.
    pub(super) is_missed: bool,
}

/// What a topic's stream of events lacks of what it had at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// Nothing.
    Nothing,
    /// Events that another server has, in words: they come back, or are lost when no server has them any more.
    Elsewhere(String),
    /// Events that another server may have. As long as that is not known, they are not lost.
    Missing {
        /// In words.
        lost: String,
        /// Another one for other events, or when another server leads the stream.
        mark: String,
        /// Why it is not known, in words.
        why: String,
    },
    /// The same, and a person has given them up; in words.
    GivenUp(String),
    /// Events that no server has; in words.
    Lost(String),
}

impl Lacking {
    /// What was lost.
    pub(super) fn lost(&self) -> Option<&String> {
        if let Self::Lost(lost) = self { Some(lost) } else { None }
    }

    /// Whether events are gone that were there at the last look, and are missed no longer.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::GivenUp(_))
    }

    /// Whether events are missed that may come back.
    pub(super) fn may_come_back(&self) -> bool {
        matches!(self, Self::Elsewhere(_) | Self::Missing { .. })
    }
}

impl Looker<'_> {
    /// Makes the streams as they should be, and says what is missing of them, by what `lost_of` finds.
    ///
    /// # Errors
    /// The broker is away or refuses.
    pub(super) async fn look(
        &self,
        lost_of: impl Fn(&StreamInfo) -> Option<Gone>,
    ) -> Result<(Streams, Lacking), Error> {
        let mut streams = self.ensure().await?;
        let mut looks = if self.place.pods > 1 { LOSS_LOOKS } else { 0 };
        loop {
            let Some(gone) = lost_of(&streams.events) else { return Ok((streams, Lacking::Nothing)) };
            let mut lost = gone.message.clone();
            // What is missed already is no passing matter of a new leader.
            if self.place.pods > 1 && (looks == 0 || self.is_missed) {
                let leader = streams.events.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref());
                match audit::whereabouts(self.context, self.place, self.account, leader).await {
                    Whereabouts::Elsewhere => return Ok((streams, Lacking::Elsewhere(lost))),
                    Whereabouts::Unknown(why) => {
                        let mark = gone.mark(leader);
                        return Ok((streams, Lacking::Missing { lost, mark, why }));
                    }
                    Whereabouts::Nowhere => {}
                }
            }
            if looks == 0 {
                lost.push_str(&self.gaps(&streams.events).await);
                return Ok((streams, Lacking::Lost(lost)));
            }
            tokio::time::sleep(LOSS_PAUSE).await;
            streams = self.ensure().await?;
            looks -= 1;
        }
    }

    /// The handlers' places are held for this alone: between two looks their reconciles would wait in vain.
    async fn ensure(&self) -> Result<Streams, Error> {
        let _places = self.broker.places().await;
        Ok(streams::ensure(&self.broker.api, &self.settings.streams).await?)
    }

    /// Which events are missing between the first and the last one, in words; empty: none, or too many to tell.
    async fn gaps(&self, events: &StreamInfo) -> String {
        let missing = loss::record(events, None, false).missing;
        if !(1..=GAPS_LIMIT).contains(&missing) {
            return String::new();
        }
        let gaps = self.broker.api.stream_gaps(&events.config.name).await.unwrap_or_default();
        loss::numbers(&gaps).map(|numbers| format!(" (there is no number {numbers})")).unwrap_or_default()
    }
}

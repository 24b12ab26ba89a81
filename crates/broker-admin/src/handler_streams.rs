//! The streams of a topic's handlers: dead letters, retries and attempts, three for each handler ([`crate::shares`]).
//!
//! What there is and what it may have is read from the broker each time, so whoever asks comes to the same result. Two
//! that do this for one topic at the same time could promise too much: the caller lets one at a time.

use std::collections::BTreeSet;

use tidegate_broker_client::layout;
use tidegate_wire::nats::HeaderBlock;

use crate::api::{Broker, StreamConfig, StreamInfo};
pub use crate::budget::CLOSED;
use crate::consumers::UID;
use crate::held_keys;
use crate::shares::{self, Budget, Found, Kind, Newcomer, NoShare};
use crate::stream::{StreamError, delete, ensure_one, find, keeping_copies, same};

/// The streams in which version 0.1 kept the dead letters and the attempts of all handlers.
const SHARED_DEAD_LETTERS: &str = "dead-letters";
const SHARED_ATTEMPTS: &str = "attempts";
/// The header that names the stream which must store a message.
const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
/// Dead letters that are moved at a time.
const MOVED_AT_A_TIME: u32 = 500;

/// Why a handler has no streams.
#[derive(Debug, thiserror::Error)]
pub enum HandlerStreamsError {
    /// Another try may succeed.
    #[error(transparent)]
    Streams(#[from] StreamError),
    /// The stream of events does not say what its handlers may have: its topic comes first.
    #[error("the topic's streams are not configured yet")]
    NoBudget,
    /// They were made, and are gone again.
    #[error("the handler's streams are not there yet")]
    NotThere,
    /// Only a person can make room.
    #[error(transparent)]
    NoShare(#[from] NoShare),
}

/// The streams of a handler, as they are.
#[derive(Clone, Debug)]
pub struct HandlerStreams {
    /// What could not be delivered.
    pub dead_letters: StreamInfo,
    /// Events that wait for a retry.
    pub retries: StreamInfo,
}

/// Makes the streams of the handler with this UID, and the others' smaller where that is needed for it. Does nothing
/// where they are there. What waited for a retry of another handler of its name, which is gone, goes, too.
///
/// # Errors
/// As [`HandlerStreamsError`] says.
pub async fn ensure(broker: &Broker, handler: &str, uid: &str) -> Result<HandlerStreams, HandlerStreamsError> {
    if let Some(streams) = look(broker, handler, uid).await? {
        return Ok(streams);
    }
    let events = find(broker, layout::EVENT_STREAM).await?.ok_or(HandlerStreamsError::NoBudget)?;
    let budget = Budget::of(&events.config).ok_or(HandlerStreamsError::NoBudget)?;
    add(broker, &budget, Newcomer { handler, uid: Some(uid) }).await?;
    look(broker, handler, uid).await?.ok_or(HandlerStreamsError::NotThere)
}

async fn add(broker: &Broker, budget: &Budget, newcomer: Newcomer<'_>) -> Result<(), HandlerStreamsError> {
    let mut found = list(broker).await?;
    let name = layout::retry_stream(newcomer.handler);
    let is_anothers = |info: &StreamInfo| {
        info.config.name == name && info.config.metadata.get(UID).is_some_and(|uid| newcomer.uid != Some(&**uid))
    };
    if let Some(anothers) = found.iter().find(|info| newcomer.uid.is_some() && is_anothers(info)) {
        tracing::warn!(
            handler = newcomer.handler,
            events = anothers.state.messages,
            "removing what waited for a retry of another handler of this name"
        );
        delete(broker, &name).await?;
        found.retain(|info| info.config.name != name);
    }
    let wanted = shares::plan(budget, &of_handlers(&found), Some(newcomer))?;
    // The topic reports a change that the broker refuses to the others; without its own the handler has none.
    // How many copies the others have is the topic's matter, and its broker's.
    Ok(write_changed(broker, &found, &wanted, true, &mut None).await?)
}

/// Writes those of the wanted streams that are not among the found ones as they are wanted.
async fn write_changed(
    broker: &Broker,
    found: &[StreamInfo],
    wanted: &[StreamConfig],
    keeps_copies: bool,
    refused: &mut Option<String>,
) -> Result<(), StreamError> {
    for config in wanted {
        let found = found.iter().find(|info| info.config.name == config.name);
        let is_same = |found: &StreamInfo| match keeps_copies {
            true => same(&keeping_copies(config, &found.config), &found.config),
            false => same(config, &found.config),
        };
        if !found.is_some_and(is_same) {
            ensure_one(broker, config, keeps_copies, refused).await?;
        }
    }
    Ok(())
}

/// Gives each handler that has streams its share, and with `keeps_copies` leaves them the copies that they have. Answers
/// how many dead letters they keep in all.
pub(crate) async fn share_out(
    broker: &Broker,
    budget: &Budget,
    keeps_copies: bool,
    refused: &mut Option<String>,
) -> Result<u64, StreamError> {
    let mut found = list(broker).await?;
    if split_shared(broker, budget, &found).await? {
        found = list(broker).await?;
    }
    // Without a newcomer there is a plan always.
    let wanted = shares::plan(budget, &of_handlers(&found), None).unwrap_or_default();
    write_changed(broker, &found, &wanted, keeps_copies, refused).await?;
    let dead_letters = |info: &&StreamInfo| Kind::DeadLetters.handler_of(&info.config.name).is_some();
    Ok(found.iter().filter(dead_letters).map(|info| info.state.messages).sum())
}

/// Removes the streams of a handler that is gone. Dead letters that it kept stay for one of its name, and no more are
/// taken. Answers how many events waited for a retry: nothing attempts them any more.
///
/// # Errors
/// As [`StreamError`] says.
pub async fn remove(broker: &Broker, handler: &str) -> Result<u64, StreamError> {
    delete(broker, &layout::attempt_stream(handler)).await?;
    let retries = layout::retry_stream(handler);
    let waiting = held_keys::count_events(broker, handler).await.map_err(StreamError::of(&retries))?;
    delete(broker, &retries).await?;
    let name = layout::dead_letter_stream(handler);
    // Closed before it is looked at: a sidecar that is still there stores nothing between the look and the removal.
    match close(broker, handler, &name).await? {
        Some(info) if info.state.messages == 0 && !Found::from(&info).is_open() => delete(broker, &name).await?,
        _ => {}
    }
    Ok(waiting)
}

/// Of the `found` streams, removes what handlers left that are not among those `alive`.
///
/// # Errors
/// As [`StreamError`] says.
pub async fn remove_orphans(broker: &Broker, found: &[StreamInfo], alive: &BTreeSet<&str>) -> Result<(), StreamError> {
    let is_left =
        |info: &&StreamInfo| is_kept_for_a_handler(info) && (info.state.messages == 0 || Found::from(*info).is_open());
    let orphans: BTreeSet<&str> =
        found.iter().filter(is_left).filter_map(handler_of).filter(|handler| !alive.contains(handler)).collect();
    for handler in orphans {
        match remove(broker, handler).await? {
            0 => {}
            events => tracing::warn!(handler, events, "removed what waited for a retry: its handler is gone"),
        }
    }
    Ok(())
}

/// The handler's streams; `None`: one of them is not as it should be.
async fn look(broker: &Broker, handler: &str, uid: &str) -> Result<Option<HandlerStreams>, StreamError> {
    let open = async |kind: Kind| {
        let found = find(broker, &kind.stream_of(handler)).await?;
        Ok::<_, StreamError>(found.filter(|info| Found::from(info).is_open()))
    };
    let is_its_own = |info: &StreamInfo| info.config.metadata.get(UID).is_some_and(|found| found == uid);
    let (dead_letters, retries) = (open(Kind::DeadLetters).await?, open(Kind::Retries).await?.filter(is_its_own));
    if open(Kind::Attempts).await?.is_none() {
        return Ok(None);
    }
    Ok(dead_letters.zip(retries).map(|(dead_letters, retries)| HandlerStreams { dead_letters, retries }))
}

impl From<&StreamInfo> for Found {
    fn from(info: &StreamInfo) -> Self {
        Self { config: info.config.clone(), used: info.state.bytes }
    }
}

/// All streams of a topic, in a request per page of 256.
///
/// # Errors
/// As [`StreamError`] says.
pub async fn list(broker: &Broker) -> Result<Vec<StreamInfo>, StreamError> {
    broker.list_streams().await.map_err(StreamError::List)
}

/// The handlers whose streams these are.
pub fn handlers(streams: &[StreamInfo]) -> impl Iterator<Item = &str> {
    streams.iter().filter_map(handler_of)
}

fn of_handlers(streams: &[StreamInfo]) -> Vec<Found> {
    streams.iter().filter(|info| is_kept_for_a_handler(info)).map(Found::from).collect()
}

fn is_kept_for_a_handler(stream: &StreamInfo) -> bool {
    handler_of(stream).is_some()
}

fn handler_of(stream: &StreamInfo) -> Option<&str> {
    Kind::ALL.iter().find_map(|kind| kind.handler_of(&stream.config.name))
}

/// Lets the handler's stream of dead letters take no more. How it is then; `None`: there is none. Without a stream of
/// events, which says how it is configured, it stays open for the next time.
async fn close(broker: &Broker, handler: &str, name: &str) -> Result<Option<StreamInfo>, StreamError> {
    let found = find(broker, name).await?;
    let events = find(broker, layout::EVENT_STREAM).await?;
    match (found, events.and_then(|events| Budget::of(&events.config))) {
        (Some(_), Some(budget)) => {
            Ok(Some(ensure_one(broker, &shares::closed(&budget, handler), true, &mut None).await?))
        }
        (found, _) => Ok(found),
    }
}

/// Puts what the streams of version 0.1 keep into streams of each handler. `true`: there was something to do.
///
/// Attempts are counted again; dead letters are moved, each removed when its copy is confirmed.
async fn split_shared(broker: &Broker, budget: &Budget, found: &[StreamInfo]) -> Result<bool, StreamError> {
    let named = |name: &str| found.iter().find(|info| info.config.name == name);
    let (attempts, dead_letters) = (named(SHARED_ATTEMPTS), named(SHARED_DEAD_LETTERS));
    if attempts.is_some() {
        delete(broker, SHARED_ATTEMPTS).await?;
    }
    let Some(shared) = dead_letters else { return Ok(attempts.is_some()) };
    if shared.config.subjects != [SHARED_DEAD_LETTERS] {
        // Its subjects are for the handlers' streams now.
        let narrowed = StreamConfig { subjects: vec![SHARED_DEAD_LETTERS.to_owned()], ..shared.config.clone() };
        ensure_one(broker, &narrowed, true, &mut None).await?;
    }
    for _ in 0..MOVED_AT_A_TIME {
        match move_one(broker, budget).await {
            Ok(true) => {}
            Ok(false) => {
                delete(broker, SHARED_DEAD_LETTERS).await?;
                break;
            }
            // It stays where it is, and the topic works without it.
            Err(error) => {
                tracing::warn!(error, "dead letters of version 0.1 stay in stream {SHARED_DEAD_LETTERS} for now");
                break;
            }
        }
    }
    Ok(true)
}

/// Moves the first dead letter there is; `false`: there is none.
async fn move_one(broker: &Broker, budget: &Budget) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let letter = broker.next_message(SHARED_DEAD_LETTERS, layout::DEAD_LETTER_SUBJECTS, 1).await?;
    let Some(letter) = letter else { return Ok(false) };
    if let Some(handler) = letter.subject.strip_prefix(&layout::dead_letter_subject("")) {
        let name = layout::dead_letter_stream(handler);
        if find(broker, &name).await?.is_none() {
            add(broker, budget, Newcomer { handler, uid: None }).await?;
        }
        let mut headers = HeaderBlock::new();
        headers.append(EXPECTED_STREAM, &name)?;
        for (header, value) in letter.headers()?.iter() {
            if !header.eq_ignore_ascii_case(EXPECTED_STREAM) {
                headers.append(header, value)?;
            }
        }
        broker.publish(&letter.subject, Some(&headers), &letter.payload).await?;
    }
    broker.delete_message(SHARED_DEAD_LETTERS, letter.sequence).await?;
    Ok(true)
}

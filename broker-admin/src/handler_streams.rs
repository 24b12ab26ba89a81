//! The streams of a topic's handlers: dead letters and attempts, two for each handler ([`crate::shares`]).
//!
//! What there is and what it may have is read from the broker each time, so whoever asks comes to the same result. Two
//! that do this for one topic at the same time could promise too much: the caller lets one at a time.

use std::collections::BTreeSet;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, Info, RawMessageErrorKind, Stream};
use futures::TryStreamExt as _;
use tidegate_broker_client::layout;

use crate::shares::{self, Budget, Found, Kind, NoShare};
use crate::stream::{StreamError, delete, ensure_one, find, same};

/// The streams in which version 0.1 kept the dead letters and the attempts of all handlers.
const SHARED_DEAD_LETTERS: &str = "dead-letters";
const SHARED_ATTEMPTS: &str = "attempts";
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
    /// Only a person can make room.
    #[error(transparent)]
    NoShare(#[from] NoShare),
}

/// Makes the streams of a handler, and the others' smaller where that is needed for it. Does nothing where they are
/// there.
///
/// # Errors
/// As [`HandlerStreamsError`] says.
pub async fn ensure(js: &jetstream::Context, handler: &str) -> Result<(), HandlerStreamsError> {
    if has_all(js, handler).await? {
        return Ok(());
    }
    let events = find(js, layout::EVENT_STREAM).await?.ok_or(HandlerStreamsError::NoBudget)?;
    let budget = Budget::of(&events.config).ok_or(HandlerStreamsError::NoBudget)?;
    add(js, &budget, handler).await
}

async fn add(js: &jetstream::Context, budget: &Budget, handler: &str) -> Result<(), HandlerStreamsError> {
    let found = list(js).await?;
    let wanted = shares::plan(budget, &of_handlers(&found), Some(handler))?;
    // The topic reports a change that the broker refuses to the others; without its own the handler has none.
    Ok(write_changed(js, &found, &wanted, &mut None).await?)
}

/// Writes those of the wanted streams that are not among the found ones as they are wanted.
async fn write_changed(
    js: &jetstream::Context,
    found: &[Info],
    wanted: &[Config],
    refused: &mut Option<String>,
) -> Result<(), StreamError> {
    for config in wanted {
        if !found.iter().any(|info| info.config.name == config.name && same(config, &info.config)) {
            ensure_one(js, config, refused).await?;
        }
    }
    Ok(())
}

/// Gives each handler that has streams its share. Answers how many dead letters they keep in all.
pub(crate) async fn share_out(
    js: &jetstream::Context,
    budget: &Budget,
    refused: &mut Option<String>,
) -> Result<u64, StreamError> {
    let mut found = list(js).await?;
    if split_shared(js, budget, &found).await? {
        found = list(js).await?;
    }
    // Without a newcomer there is a plan always.
    let wanted = shares::plan(budget, &of_handlers(&found), None).unwrap_or_default();
    write_changed(js, &found, &wanted, refused).await?;
    let dead_letters = |info: &&Info| Kind::DeadLetters.handler_of(&info.config.name).is_some();
    Ok(found.iter().filter(dead_letters).map(|info| info.state.messages).sum())
}

/// Removes the streams of a handler that is gone. Dead letters that it kept stay for one of its name, and no more are
/// taken.
///
/// # Errors
/// As [`StreamError`] says.
pub async fn remove(js: &jetstream::Context, handler: &str) -> Result<(), StreamError> {
    delete(js, &layout::attempt_stream(handler)).await?;
    let name = layout::dead_letter_stream(handler);
    // Closed before it is looked at: a sidecar that is still there stores nothing between the look and the removal.
    match close(js, handler, &name).await? {
        Some(info) if info.state.messages == 0 && !Found::from(&info).is_open() => delete(js, &name).await,
        _ => Ok(()),
    }
}

/// Of the `found` streams, removes what handlers left that are not among those `alive`.
///
/// # Errors
/// As [`StreamError`] says.
pub async fn remove_orphans(
    js: &jetstream::Context,
    found: &[Info],
    alive: &BTreeSet<&str>,
) -> Result<(), StreamError> {
    let is_left =
        |info: &&Info| is_kept_for_a_handler(info) && (info.state.messages == 0 || Found::from(*info).is_open());
    let orphans: BTreeSet<&str> =
        found.iter().filter(is_left).filter_map(handler_of).filter(|handler| !alive.contains(handler)).collect();
    for handler in orphans {
        remove(js, handler).await?;
    }
    Ok(())
}

async fn has_all(js: &jetstream::Context, handler: &str) -> Result<bool, StreamError> {
    for kind in Kind::ALL {
        let found = find(js, &kind.stream_of(handler)).await?;
        if !found.is_some_and(|info| Found::from(&info).is_open()) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl From<&Info> for Found {
    fn from(info: &Info) -> Self {
        Self { config: info.config.clone(), used: info.state.bytes }
    }
}

/// All streams of a topic, in a request per page of 256.
///
/// # Errors
/// As [`StreamError`] says.
pub async fn list(js: &jetstream::Context) -> Result<Vec<Info>, StreamError> {
    Ok(js.streams().try_collect().await?)
}

fn of_handlers(streams: &[Info]) -> Vec<Found> {
    streams.iter().filter(|info| is_kept_for_a_handler(info)).map(Found::from).collect()
}

fn is_kept_for_a_handler(stream: &Info) -> bool {
    handler_of(stream).is_some()
}

fn handler_of(stream: &Info) -> Option<&str> {
    Kind::ALL.iter().find_map(|kind| kind.handler_of(&stream.config.name))
}

/// Lets the handler's stream of dead letters take no more. How it is then; `None`: there is none. Without a stream of
/// events, which says how it is configured, it stays open for the next time.
async fn close(js: &jetstream::Context, handler: &str, name: &str) -> Result<Option<Info>, StreamError> {
    let found = find(js, name).await?;
    let events = find(js, layout::EVENT_STREAM).await?;
    match (found, events.and_then(|events| Budget::of(&events.config))) {
        (Some(_), Some(budget)) => Ok(Some(ensure_one(js, &shares::closed(&budget, handler), &mut None).await?)),
        (found, _) => Ok(found),
    }
}

/// Puts what the streams of version 0.1 keep into streams of each handler. `true`: there was something to do.
///
/// Attempts are counted again; dead letters are moved, each removed when its copy is confirmed.
async fn split_shared(js: &jetstream::Context, budget: &Budget, found: &[Info]) -> Result<bool, StreamError> {
    let named = |name: &str| found.iter().find(|info| info.config.name == name);
    let (attempts, dead_letters) = (named(SHARED_ATTEMPTS), named(SHARED_DEAD_LETTERS));
    if attempts.is_some() {
        delete(js, SHARED_ATTEMPTS).await?;
    }
    let Some(shared) = dead_letters else { return Ok(attempts.is_some()) };
    if shared.config.subjects != [SHARED_DEAD_LETTERS] {
        // Its subjects are for the handlers' streams now.
        let narrowed = Config { subjects: vec![SHARED_DEAD_LETTERS.to_owned()], ..shared.config.clone() };
        ensure_one(js, &narrowed, &mut None).await?;
    }
    let stream = js.get_stream(SHARED_DEAD_LETTERS).await;
    let stream = stream.map_err(|source| StreamError::Unknown { name: SHARED_DEAD_LETTERS.to_owned(), source })?;
    for _ in 0..MOVED_AT_A_TIME {
        match move_one(js, budget, &stream).await {
            Ok(true) => {}
            Ok(false) => {
                delete(js, SHARED_DEAD_LETTERS).await?;
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
async fn move_one(
    js: &jetstream::Context,
    budget: &Budget,
    stream: &Stream,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let letter = match stream.get_first_raw_message_by_subject(layout::DEAD_LETTER_SUBJECTS, 1).await {
        Ok(letter) => letter,
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if let Some(handler) = letter.subject.strip_prefix(&layout::dead_letter_subject("")) {
        let name = layout::dead_letter_stream(handler);
        if find(js, &name).await?.is_none() {
            add(js, budget, handler).await?;
        }
        let copy = PublishMessage::build().headers(letter.headers.clone()).payload(letter.payload.clone());
        js.send_publish(letter.subject.to_string(), copy.expected_stream(name)).await?.await?;
    }
    stream.delete_message(letter.sequence).await?;
    Ok(true)
}

//! What is found of one link.

use serde::Serialize;

use crate::terminal;

/// What is said of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is as it should be.
    Ok,
    /// Somebody should look at it; events flow.
    Warning,
    /// It is why events do not flow.
    Red,
    /// It is not known.
    Unknown,
}

/// What is found of one link. All texts are what a terminal may show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which link.
    pub link: &'static str,
    /// How it is.
    pub state: State,
    /// Kind, namespace and name of the resource.
    pub object: String,
    /// In one word.
    pub reason: String,
    /// In words: what is so, and what can be done.
    pub message: String,
    /// Whether it could not be looked at.
    #[serde(skip)]
    pub is_unread: bool,
}

impl Finding {
    /// What is found of a link of this object.
    pub fn new(link: &'static str, state: State, object: &str, reason: &str, message: &str) -> Self {
        let plain = |text: &str| terminal::line(text.trim());
        let (object, reason, message) = (plain(object), plain(reason), plain(message));
        Self { link, state, object, reason, message, is_unread: false }
    }

    /// That it could not be looked at, and why.
    pub fn unread(link: &'static str, object: &str, why: &str) -> Self {
        Self { is_unread: true, ..Self::new(link, State::Unknown, object, "NotRead", why) }
    }
}

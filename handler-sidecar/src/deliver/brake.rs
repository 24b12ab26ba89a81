//! Whether the handler as a whole is down: what its answers, and their absence, say together. Pure.
//!
//! One event that fails says something about the event. Several different ones in a row that are answered only by
//! "unavailable" (502, 503, 504) say something about the handler, and so does a connection that nobody takes: then
//! no event uses up an attempt, and one at a time is tried until there is any other answer.

use std::time::Duration;

use http::StatusCode;

use crate::settle::backoff::Backoff;
use crate::settle::outcome::Answer;

/// So many different events in a row must find the handler unavailable.
pub const SUSPECTS: usize = 5;
/// Between two events that are tried.
const PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(5), factor: 2.0, jitter: 0.0 };
/// `Retry-After` makes a pause no longer than this: well below the patience of an event in hand.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is thought of the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Up,
    /// Nothing may be sent to it: it takes no connections, or its own readiness probe fails; why.
    Unreachable(String),
    /// It only says that it is unavailable; how.
    Unavailable(String),
}

/// The state, and what could change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    state: State,
    /// Events that found it unavailable since it last answered otherwise; bounded by [`SUSPECTS`].
    suspects: Vec<u64>,
    failures: u32,
    pause: Duration,
}

impl Default for Brake {
    /// Nothing is known before the first connection.
    fn default() -> Self {
        let state = State::Unreachable("it has not taken a connection yet".to_owned());
        Self { state, suspects: Vec::new(), failures: 0, pause: Duration::ZERO }
    }
}

impl Brake {
    /// What is thought of the handler.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether nothing speaks against it.
    pub fn is_clear(&self) -> bool {
        self.state == State::Up && self.suspects.is_empty()
    }

    /// How long to wait before the next event is tried.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Nothing can or may be sent.
    pub fn unreachable(&mut self, why: &str) {
        self.set(State::Unreachable(why.to_owned()));
    }

    /// A connection can be made, and its probes succeed.
    pub fn connected(&mut self) {
        if matches!(self.state, State::Unreachable(_)) {
            self.set(State::Up);
        }
    }

    /// An event got this answer, as a trial of an unavailable handler or not. Returns whether that was an attempt of
    /// the event, or only a sign of the outage.
    pub fn answered(&mut self, event: u64, answer: &Answer, trial: bool) -> bool {
        match unavailable(answer) {
            Some(asked) => self.suspected(event, answer, asked, trial),
            None => {
                if matches!(answer, Answer::Status { .. }) {
                    if matches!(self.state, State::Unavailable(_)) {
                        self.set(State::Up);
                    }
                    self.suspects.clear();
                } else if trial {
                    // No answer is no sign of life, but it may be the event that causes it.
                    self.again(Duration::ZERO);
                }
                true
            }
        }
    }

    fn suspected(&mut self, event: u64, answer: &Answer, asked: Duration, trial: bool) -> bool {
        if !matches!(self.state, State::Unavailable(_)) {
            if !self.suspects.contains(&event) {
                self.suspects.push(event);
            }
            if self.suspects.len() < SUSPECTS || self.state != State::Up {
                self.suspects.truncate(SUSPECTS);
                return true;
            }
            self.set(State::Unavailable(format!("{SUSPECTS} events in a row were answered so: {answer}")));
            self.again(asked);
        } else if trial {
            self.again(asked);
        }
        false
    }

    fn again(&mut self, asked: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.pause = PAUSES.wait(self.failures, 0.5).max(asked.min(LONGEST_PAUSE));
    }

    fn set(&mut self, state: State) {
        *self = Self { state, suspects: Vec::new(), failures: 0, pause: Duration::ZERO };
    }
}

/// Whether an answer says that the handler as a whole is unavailable; with what `Retry-After` asked for.
fn unavailable(answer: &Answer) -> Option<Duration> {
    match answer {
        Answer::Status {
            code: StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT,
            retry_after,
            ..
        } => Some(retry_after.unwrap_or_default()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(code: u16) -> Answer {
        Answer::Status { code: StatusCode::from_u16(code).unwrap(), retry_after: None, text: String::new() }
    }

    fn up() -> Brake {
        let mut brake = Brake::default();
        brake.connected();
        assert!(brake.is_clear());
        brake
    }

    fn braked() -> Brake {
        let mut brake = up();
        let counted: Vec<_> = (0..5).map(|event| brake.answered(event, &status(503), false)).collect();
        assert_eq!(counted, [true, true, true, true, false]);
        assert!(matches!(brake.state(), State::Unavailable(why) if why.contains("503")));
        brake
    }

    #[test]
    fn five_different_events_in_a_row_brake_and_any_other_answer_releases() {
        for code in [200, 400, 404, 429, 500, 501] {
            let mut brake = braked();
            assert!(!brake.answered(9, &status(502), true));
            assert!(brake.answered(9, &status(code), true), "{code}");
            assert!(brake.is_clear(), "{code}");
        }
    }

    #[test]
    fn one_event_again_and_again_is_no_outage() {
        let mut brake = up();
        assert!((0..100).all(|_| brake.answered(1, &status(504), false)));
        assert_eq!(brake.state(), &State::Up);
    }

    #[test]
    fn another_answer_in_between_begins_anew() {
        let mut brake = up();
        for round in 0..10 {
            assert!((0..4).all(|event| brake.answered(round * 4 + event, &status(503), false)));
            assert!(brake.answered(99, &status(500), false));
        }
        assert_eq!(brake.state(), &State::Up);
    }

    #[test]
    fn no_answer_counts_and_changes_nothing() {
        for silent in [Answer::Timeout(Duration::from_secs(1)), Answer::Broken("reset".into())] {
            let mut brake = braked();
            let before = brake.pause();
            assert!(brake.answered(7, &silent, true));
            assert!(matches!(brake.state(), State::Unavailable(_)));
            assert!(brake.pause() > before, "the next one is tried later");
        }
    }

    #[test]
    fn only_a_connection_ends_that_there_is_none() {
        let mut brake = braked();
        brake.unreachable("refused");
        assert!(brake.answered(1, &status(200), false), "of a request that was under way");
        assert_eq!(brake.state(), &State::Unreachable("refused".into()));
        brake.connected();
        assert!(brake.is_clear());
        let mut brake = braked();
        brake.connected();
        assert!(matches!(brake.state(), State::Unavailable(_)), "that it takes connections was known");
    }

    #[test]
    fn pauses_grow_and_follow_what_is_asked_for() {
        let mut brake = braked();
        let pauses: Vec<_> = (0..8)
            .map(|event| {
                let pause = brake.pause().as_millis();
                assert!(!brake.answered(event, &status(503), false), "one that was under way");
                assert_eq!(brake.pause().as_millis(), pause, "changes nothing");
                brake.answered(event, &status(503), true);
                pause
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let asks = |seconds| Answer::Status {
            code: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(Duration::from_secs(seconds)),
            text: String::new(),
        };
        brake.answered(1, &asks(20), true);
        assert_eq!(brake.pause(), Duration::from_secs(20));
        brake.answered(1, &asks(9999), true);
        assert_eq!(brake.pause(), LONGEST_PAUSE);
    }

    proptest! {
        #[test]
        fn only_signs_of_an_outage_are_not_counted(
            answers in proptest::collection::vec((0u64..9, prop_oneof![Just(503u16), Just(502), 100u16..600]), 0..60),
        ) {
            let mut brake = up();
            for (event, code) in answers {
                let counted = brake.answered(event, &status(code), event % 2 == 0);
                let outage = matches!(code, 502..=504);
                prop_assert!(counted || outage);
                prop_assert_eq!(!counted, matches!(brake.state(), State::Unavailable(_)));
                prop_assert!(brake.suspects.len() < SUSPECTS && brake.pause() <= LONGEST_PAUSE);
            }
        }
    }
}

//! Questions to the broker that are not answered yet. They are asked with the same patience, so that their ends come
//! one after the other: no timer for each.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tidegate_delivery_core::{Id, Input, Lane};
use tidegate_telemetry::Span;
use tokio::time::Instant;

use crate::broker::pull;

/// Between a question that failed at once and the next of its kind.
const PAUSE: Duration = Duration::from_millis(50);

/// What was asked.
#[derive(Debug)]
pub enum Question {
    /// To acknowledge an event.
    Acknowledge {
        /// The event.
        id: Id,
        /// Ends with the answer.
        _span: Span,
    },
    /// To renew its lease.
    Renew(Id),
    /// The state of a lane's consumer.
    State(Lane),
    /// To take back what a lane reclaims.
    Reclaim(Lane),
    /// How many of its events wait.
    Count(Lane),
    /// The end of its pin.
    Unpin(Lane),
}

impl Question {
    /// What is learnt by this answer; `None`: there is none.
    fn learnt(&self, answer: Option<&[u8]>) -> Input {
        match self {
            Self::Acknowledge { id, .. } => Input::Acknowledged(*id, answer.is_some()),
            Self::Renew(id) => Input::Renewed(*id, answer.is_some()),
            Self::State(lane) => Input::State(*lane, answer.and_then(pull::state)),
            Self::Reclaim(lane) => Input::Reclaimed(*lane, answer.is_some()),
            Self::Count(lane) => Input::Waiting(*lane, answer.and_then(pull::waiting)),
            Self::Unpin(lane) => Input::Unpinned(*lane),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub struct Questions {
    patience: Duration,
    last: u64,
    open: HashMap<u64, Question>,
    /// When each is given up, soonest first; also of those that are answered.
    ends: VecDeque<(Instant, u64)>,
}

impl Questions {
    /// None yet; each waits for its answer for so long.
    pub fn new(patience: Duration) -> Self {
        Self { patience, last: 0, open: HashMap::new(), ends: VecDeque::new() }
    }

    /// The number under which the next is asked.
    pub fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// It is asked under this number, or could not be `sent`: then it ends soon.
    pub fn asked(&mut self, now: Instant, number: u64, question: Question, sent: bool) {
        self.open.insert(number, question);
        self.ends_at(now + if sent { self.patience } else { PAUSE }, number);
    }

    fn ends_at(&mut self, end: Instant, number: u64) {
        let at = self.ends.partition_point(|(other, _)| *other <= end);
        self.ends.insert(at, (end, number));
    }

    /// The answer came: what is learnt by it. One that says that no part of the broker answers is learnt a little later.
    pub fn answered(&mut self, now: Instant, number: u64, is_refusal: bool, payload: &[u8]) -> Option<Input> {
        if is_refusal {
            if self.open.contains_key(&number) {
                self.ends_at(now + PAUSE, number);
            }
            return None;
        }
        Some(self.open.remove(&number)?.learnt(Some(payload)))
    }

    /// What is learnt by waiting in vain, one after the other.
    pub fn expired(&mut self, now: Instant) -> Option<Input> {
        loop {
            let (end, number) = *self.ends.front()?;
            let is_open = self.open.contains_key(&number);
            if is_open && end > now {
                return None;
            }
            self.ends.pop_front();
            if let Some(question) = self.open.remove(&number) {
                return Some(question.learnt(None));
            }
        }
    }

    /// The connection is lost over which they were asked: no answer comes any more.
    pub fn lose_all(&mut self, now: Instant) {
        self.ends.iter_mut().for_each(|(end, _)| *end = now.min(*end));
    }

    /// When the next one is given up, at the earliest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    #[test]
    fn each_is_learnt_once() {
        let (mut questions, now) = (Questions::new(PATIENCE), Instant::now());
        for lane in 1..=4 {
            let number = questions.next();
            questions.asked(now, number, Question::Unpin(lane), lane != 3);
        }
        assert_eq!(questions.answered(now, 2, false, b""), Some(Input::Unpinned(2)));
        assert_eq!(questions.answered(now, 2, false, b""), None, "once");
        assert_eq!(questions.answered(now, 9, false, b""), None, "never asked");
        assert_eq!(questions.answered(now, 4, true, b""), None, "not at once");
        assert_eq!(questions.expired(now), None);
        assert_eq!(questions.wake_at(), Some(now + PAUSE));
        let mut soon = || questions.expired(now + PAUSE);
        assert_eq!((soon(), soon(), soon()), (Some(Input::Unpinned(3)), Some(Input::Unpinned(4)), None));
        assert_eq!(questions.expired(now + PATIENCE), Some(Input::Unpinned(1)));
        assert_eq!(questions.expired(now + PATIENCE), None);
        let number = questions.next();
        questions.asked(now, number, Question::Unpin(5), true);
        questions.lose_all(now);
        assert_eq!(questions.expired(now), Some(Input::Unpinned(5)), "with its connection");
        assert!(questions.ends.is_empty() && questions.open.is_empty());
    }
}

//! Questions to the broker that are not answered yet. They are asked with the same patience, so that their ends come
//! one after the other: no timer for each.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidegate_delivery_core::{FetchResult, Id, Input, Key, Lane, ParkResult, Tenancy};
use tidegate_telemetry::Span;
use tidegate_wire::nats::Message;
use tokio::time::Instant;

use crate::broker::parked::copies::{self, Copy, First};
use crate::broker::parked::lease::{self, Replaced};
use crate::broker::parked::list::{Listing, Step};
use crate::broker::parked::mark;
use crate::broker::{publish_ack, pull};

/// The status of an answer that says that nothing answers there.
const NO_RESPONDERS: u16 = 503;

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
    /// To keep copies of events on the shelf, all together or none.
    Park(Vec<Id>),
    /// What is parked first of a key; whether a former owner may have begun an attempt of it.
    Read(Lane, Key, bool),
    /// To remove a parked event.
    Unpark(Id),
    /// Which keys of a lane are parked.
    List(Listing),
    /// What is parked last of a key.
    FindLast(Lane, Key),
    /// Whether a key is held.
    FindMark(Lane, Key),
    /// To take the lease of a lane's part of the shelf.
    TakeLease(Lane),
    /// Who has it, for the owner of this name.
    ReadLease(Lane, Arc<str>),
    /// To mark a key as held.
    Detain(Lane, Key),
}

/// What is learnt by an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Learnt {
    /// This.
    Input(Input),
    /// A parked event is here.
    Parked(Lane, Key, bool, Box<Copy>),
    /// So far, and the next question.
    List(Listing),
    /// The record of a lane's lease is another one, which is to be read.
    Outrun(Lane),
}

impl Question {
    /// What is learnt by this answer. `None`: nothing for sure, so that it is to be asked again, but not at once.
    fn learnt(&self, answer: &Message) -> Option<Learnt> {
        let payload = answer.payload();
        Some(Learnt::Input(match self {
            Self::Acknowledge { id, .. } => Input::Acknowledged(*id, true),
            Self::Renew(id) => Input::Renewed(*id, true),
            Self::State(lane) => Input::State(*lane, pull::state(payload)),
            Self::Reclaim(lane) => Input::Reclaimed(*lane, true),
            Self::Count(lane) => Input::Waiting(*lane, pull::waiting(payload)),
            Self::Unpin(lane) => Input::Unpinned(*lane),
            Self::Park(ids) => {
                Input::Parked(ids.clone(), publish_ack::sequence(answer).ok().map(|_| ParkResult::Stored)?)
            }
            Self::Read(lane, key, again) => match copies::first(payload) {
                First::Copy(copy) => return Some(Learnt::Parked(*lane, *key, *again, Box::new(copy))),
                First::Nothing => Input::Fetched(*lane, *key, FetchResult::Nothing),
                First::Unknown => return None,
            },
            Self::Unpark(id) => Input::Unparked(*id, copies::is_removed(payload).then_some(true)?),
            Self::List(listing) => match listing.clone().heard(payload)? {
                Step::Ask(next) => return Some(Learnt::List(next)),
                Step::Over(keys) => Input::Listed(listing.lane(), Some(keys)),
            },
            Self::FindLast(lane, key) => Input::LastParked(*lane, *key, Some(copies::last(payload)?)),
            Self::FindMark(lane, key) => Input::MarkFound(*lane, *key, Some(copies::is_there(payload)?)),
            Self::TakeLease(lane) => match lease::replaced(answer)? {
                Replaced::By(sequence) => Input::Leased(*lane, Tenancy::Ours(sequence)),
                Replaced::Outrun => return Some(Learnt::Outrun(*lane)),
            },
            Self::ReadLease(lane, owner) => Input::Leased(*lane, lease::found(answer, owner)?),
            Self::Detain(lane, key) => Input::Detained(*lane, *key, mark::is_there(answer).then_some(true)?),
        }))
    }

    /// What is learnt where no answer comes, or none that says what is so. `is_refused`: it is known not to be done.
    fn unanswered(&self, is_refused: bool) -> Input {
        match self {
            Self::Acknowledge { id, .. } => Input::Acknowledged(*id, false),
            Self::Renew(id) => Input::Renewed(*id, false),
            Self::State(lane) => Input::State(*lane, None),
            Self::Reclaim(lane) => Input::Reclaimed(*lane, false),
            Self::Count(lane) => Input::Waiting(*lane, None),
            Self::Unpin(lane) => Input::Unpinned(*lane),
            Self::Park(ids) if is_refused => Input::Parked(ids.clone(), ParkResult::Refused),
            Self::Park(ids) => Input::Parked(ids.clone(), ParkResult::Unknown),
            Self::Read(lane, key, _) => Input::Fetched(*lane, *key, FetchResult::Unknown),
            Self::Unpark(id) => Input::Unparked(*id, false),
            Self::List(listing) => Input::Listed(listing.lane(), None),
            Self::FindLast(lane, key) => Input::LastParked(*lane, *key, None),
            Self::FindMark(lane, key) => Input::MarkFound(*lane, *key, None),
            Self::TakeLease(lane) | Self::ReadLease(lane, _) => Input::Leased(*lane, Tenancy::Unknown),
            Self::Detain(lane, key) => Input::Detained(*lane, *key, false),
        }
    }

    /// Whether this answer says that it is not done: nothing answers there, or the stream has no room.
    fn is_refused(answer: &Message) -> bool {
        let refused = publish_ack::sequence(answer).err();
        answer.status() == Some(NO_RESPONDERS) || refused.is_some_and(|error| error.is_full())
    }
}

/// A question without an answer.
#[derive(Debug)]
struct Open {
    question: Question,
    /// Whether it is known not to be done, which is learnt a little later.
    is_refused: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Questions {
    patience: Duration,
    last: u64,
    open: HashMap<u64, Open>,
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
        self.open.insert(number, Open { question, is_refused: !sent });
        self.ends_at(now + if sent { self.patience } else { PAUSE }, number);
    }

    /// It could not even be sent.
    pub fn not_asked(&mut self, now: Instant, question: Question) {
        let number = self.next();
        self.asked(now, number, question, false);
    }

    fn ends_at(&mut self, end: Instant, number: u64) {
        let at = self.ends.partition_point(|(other, _)| *other <= end);
        self.ends.insert(at, (end, number));
    }

    /// The answer came: what is learnt by it. One that does not say what is so, as that no part of the broker answers,
    /// is learnt a little later.
    pub fn answered(&mut self, now: Instant, number: u64, answer: &Message) -> Option<Learnt> {
        let open = self.open.get_mut(&number)?;
        if answer.status() != Some(NO_RESPONDERS)
            && let Some(learnt) = open.question.learnt(answer)
        {
            self.open.remove(&number);
            return Some(learnt);
        }
        open.is_refused = Question::is_refused(answer);
        self.ends_at(now + PAUSE, number);
        None
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
            if let Some(open) = self.open.remove(&number) {
                return Some(open.question.unanswered(open.is_refused));
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

    const WAIT_TIMEOUT: Duration = Duration::from_secs(1);

    fn answer(payload: &str) -> Message {
        Message::compose("_INBOX.x", None, None, payload.as_bytes()).unwrap()
    }

    fn input(input: Input) -> Option<Learnt> {
        Some(Learnt::Input(input))
    }

    #[test]
    fn each_is_learnt_once() {
        let (mut questions, now) = (Questions::new(WAIT_TIMEOUT), Instant::now());
        for lane in 1..=4 {
            let number = questions.next();
            let question = if lane == 4 { Question::Read(lane, 7, false) } else { Question::Unpin(lane) };
            questions.asked(now, number, question, lane != 3);
        }
        assert_eq!(questions.answered(now, 2, &answer("")), input(Input::Unpinned(2)));
        assert_eq!(questions.answered(now, 2, &answer("")), None, "once");
        assert_eq!(questions.answered(now, 9, &answer("")), None, "never asked");
        assert_eq!(questions.answered(now, 4, &answer("{}")), None, "not at once");
        assert_eq!(questions.expired(now), None);
        assert_eq!(questions.wake_at(), Some(now + PAUSE));
        let mut soon = || questions.expired(now + PAUSE);
        let unknown = Input::Fetched(4, 7, FetchResult::Unknown);
        assert_eq!((soon(), soon(), soon()), (Some(Input::Unpinned(3)), Some(unknown), None));
        assert_eq!(questions.expired(now + WAIT_TIMEOUT), Some(Input::Unpinned(1)));
        assert_eq!(questions.expired(now + WAIT_TIMEOUT), None);
        let number = questions.next();
        questions.asked(now, number, Question::Unpin(5), true);
        questions.lose_all(now);
        assert_eq!(questions.expired(now), Some(Input::Unpinned(5)), "with its connection");
        assert!(questions.ends.is_empty() && questions.open.is_empty());
    }

    #[test]
    fn a_copy_is_refused_only_where_it_is_not_stored_for_sure() {
        let (now, id) = (Instant::now(), Id { lane: 0, sequence: 1, stored: 0, delivery: 1, arrival: 1 });
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"seq":0}"#;
        let in_process = r#"{"error":{"code":409,"err_code":10158,"description":"duplicate message id"},"seq":0}"#;
        for (what, sent, payload, expected) in [
            ("not sent", false, None, ParkResult::Refused),
            ("full", true, Some(full), ParkResult::Refused),
            ("the same is being stored", true, Some(in_process), ParkResult::Unknown),
            ("no answer", true, None, ParkResult::Unknown),
        ] {
            let mut questions = Questions::new(WAIT_TIMEOUT);
            let number = questions.next();
            questions.asked(now, number, Question::Park(vec![id]), sent);
            let learnt = payload.and_then(|payload| questions.answered(now, number, &answer(payload)));
            assert_eq!(learnt, None, "{what}");
            assert_eq!(questions.expired(now + WAIT_TIMEOUT), Some(Input::Parked(vec![id], expected)), "{what}");
        }
        let mut questions = Questions::new(WAIT_TIMEOUT);
        questions.asked(now, 1, Question::Park(vec![id]), true);
        let stored = answer(r#"{"stream":"retries_billing","seq":7,"duplicate":true}"#);
        assert_eq!(questions.answered(now, 1, &stored), input(Input::Parked(vec![id], ParkResult::Stored)));
    }
}

//! Which publishes are under way, what is sent next, and what an answer means for each of them. Pure: publishes,
//! answers and times in, actions out. Every publish is settled exactly once.
//!
//! What is submitted first is sent first. While a batch is under way nothing else is sent: were it refused, what came
//! after it would be stored before it. Its members then go before everything else, one by one and with the ids they
//! had, so that those which were stored after all are recognised. A batch that was refused for a repetition in it was
//! not stored: it is split, so that its other members need not go one by one.

mod doubt;
mod entry;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use tidegate_broker_client::contract::{Flush, MIN_BATCH_WINDOW};

use self::doubt::Doubt;
use self::entry::{Batch, Entry, Request, State};
use super::recent::RecentIds;
use super::rule::{Load, MAX_BATCH, MAX_BATCH_BYTES, Rule, Turn};
use crate::outcome::{Acknowledged, BatchRefusal, Failure, Refusal, Stored};

/// For so long after a batch its members are sent again, where the broker may have stored them: it recognises them for
/// at least [`MIN_BATCH_WINDOW`], and what is sent may be under way for the rest of that.
const RESEND_TIMEOUT: Duration = Duration::from_secs(5);
const _: () = assert!(RESEND_TIMEOUT.as_secs() * 2 <= MIN_BATCH_WINDOW.as_secs());

/// A publish, as long as it is not settled; in the order in which they were submitted.
pub type Ticket = u64;

/// What must be known of a publish.
#[derive(Clone, Copy, Debug)]
pub struct Publish {
    /// A hash of its message id.
    pub id: u64,
    /// Bytes of the message, headers included.
    pub size: usize,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it on its own.
    Send(Ticket),
    /// Send these as the atomic batch with this number.
    SendBatch(u64, Vec<Ticket>),
    /// Say to its publisher what became of it.
    Settle(Ticket, Outcome),
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Stored(Stored),
    /// It is not known to be stored.
    Failed(Failure),
    /// It was not sent, because another event of its request failed.
    Skipped,
}

/// All publishes that are not settled.
pub struct Ledger {
    rule: Rule,
    /// The time from a publish's submission, or the last success of its request, to its end.
    timeout: Duration,
    open: HashMap<Ticket, Entry>,
    /// In the order of their tickets.
    waiting: VecDeque<Ticket>,
    /// Under way on their own.
    single: usize,
    batch: Option<Batch>,
    doubt: Doubt,
    requests: HashMap<Ticket, Request>,
    recent: RecentIds,
    next_ticket: Ticket,
    next_batch: u64,
    /// No publish ends before this time.
    next_deadline: Option<Instant>,
}

impl Ledger {
    /// Nothing is under way.
    pub fn new(rule: Rule, timeout: Duration) -> Self {
        Self {
            rule,
            timeout,
            open: HashMap::new(),
            waiting: VecDeque::new(),
            single: 0,
            batch: None,
            doubt: Doubt::default(),
            requests: HashMap::new(),
            recent: RecentIds::default(),
            next_ticket: 0,
            next_batch: 0,
            next_deadline: None,
        }
    }

    /// From now on the broker stores like this. What is under way ends as it began.
    pub fn set_flush(&mut self, flush: Flush) {
        self.rule = Rule::new(flush);
    }

    /// Takes the events of a request, in this order. They get consecutive tickets, of which the first is returned.
    /// After a failure of one of them no further one is sent.
    pub fn submit(&mut self, publishes: &[Publish], deadline: Instant, now: Instant) -> Ticket {
        self.rule.submitted(now);
        let first = self.next_ticket;
        let count = publishes.len();
        let request = (count > 1).then_some(first);
        if request.is_some() {
            self.requests.insert(first, Request { open: count, failed: false, deadline });
        }
        for (ticket, &Publish { id, size }) in (first..).zip(publishes) {
            let alone = self.recent.insert(id);
            let state = State::Waiting;
            let entry = Entry { size, state, deadline, request, alone, sent: false, resend_until: None };
            self.open.insert(ticket, entry);
            self.waiting.push_back(ticket);
            self.next_ticket = ticket + 1;
        }
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
        first
    }

    /// The broker's answer to a publish on its own.
    pub fn answered(&mut self, ticket: Ticket, answer: Result<Acknowledged, Refusal>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.open.get(&ticket).is_some_and(|entry| entry.state == State::Single) {
            let outcome = match answer {
                // It may be recognised and not on disk.
                Ok(Acknowledged { stored: Stored { duplicate: true, .. }, .. }) if self.doubt.is_open() => {
                    Outcome::Failed(Failure::Timeout)
                }
                Ok(Acknowledged { stored, .. }) => {
                    self.doubt.stored(ticket);
                    Outcome::Stored(stored)
                }
                Err(Refusal { failure, .. }) => Outcome::Failed(failure),
            };
            self.settle(ticket, outcome, now, &mut actions);
        }
        actions
    }

    /// The broker's answer to a batch.
    pub fn batch_answered(&mut self, number: u64, answer: Result<Acknowledged, Refusal>, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(batch) = self.batch.take_if(|batch| batch.number == number) else {
            // It is late, but it says what became of the batch.
            self.doubt.batch_answered(number);
            return actions;
        };
        match answer {
            Ok(acknowledged) => match acknowledged.first_sequence(batch.members.len()) {
                Some(first) => self.batch_stored(&batch, first, now, &mut actions),
                None => self.batch_unanswered(&batch, now),
            },
            Err(refusal) => {
                match refusal.of_batch {
                    Some(BatchRefusal::Disabled) => {
                        self.rule.disabled(now);
                        self.wait_again(&batch, true);
                    }
                    Some(BatchRefusal::Repetition) if self.rule.splits(batch.members.len()) => {
                        self.wait_again(&batch, false);
                    }
                    Some(BatchRefusal::Repetition) | None => self.batch_refused(&batch, now),
                }
                self.skip_failed(&batch, now, &mut actions);
            }
        }
        actions
    }

    /// What time brings, and, if there is `room` for more with the connection, what is sent next.
    pub fn advance(&mut self, now: Instant, connected: bool, room: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        self.rule.advance(now);
        if let Some(batch) = self.batch.take_if(|batch| !connected || now >= batch.given_up) {
            self.batch_unanswered(&batch, now);
        }
        self.expire(now, &mut actions);
        if !connected {
            self.doubt.end();
            self.give_up_single(now, &mut actions);
            self.give_up_unsent(now, &mut actions);
        } else if room {
            while self.batch.is_none() && self.send_next(now, &mut actions) {}
        }
        actions
    }

    /// When to call [`Ledger::advance`] though nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let batch = self.batch.as_ref().map(|batch| batch.given_up);
        [self.next_deadline, batch, self.rule.wake_at()].into_iter().flatten().min()
    }

    /// Whether everything is settled.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Sends one thing. Whether there was one.
    fn send_next(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        let (waiting, single) = (self.waiting.len(), self.single);
        let load = if self.rule.has_batches(now) {
            let (batchable, full) = self.batchable();
            Load { waiting, alone: self.alone(), batchable, full, single }
        } else {
            Load { waiting, alone: 0, batchable: 0, full: false, single }
        };
        match self.rule.turn(load, now) {
            Turn::Wait => false,
            Turn::Single(count) => {
                let tickets: Vec<Ticket> = self.waiting.drain(..count).collect();
                self.single += tickets.len();
                self.mark_sent(&tickets, State::Single);
                actions.extend(tickets.into_iter().map(Action::Send));
                true
            }
            Turn::Batch(count) => {
                let members: Vec<Ticket> = self.waiting.drain(..count).collect();
                self.mark_sent(&members, State::Batch);
                let number = self.next_batch;
                self.next_batch += 1;
                actions.push(Action::SendBatch(number, members.clone()));
                self.batch = Some(Batch { number, members, sent: now, given_up: now + self.timeout / 2 });
                true
            }
        }
    }

    fn mark_sent(&mut self, tickets: &[Ticket], state: State) {
        for ticket in tickets {
            if let Some(entry) = self.open.get_mut(ticket) {
                (entry.state, entry.sent) = (state, true);
            }
        }
    }

    /// How many of those that wait, from the first on, must go one by one.
    fn alone(&self) -> usize {
        let waiting = self.waiting.iter().filter_map(|ticket| self.open.get(ticket));
        waiting.take_while(|entry| entry.alone).count()
    }

    /// How many of those that wait, from the first on, one batch can hold; whether these are all it may hold.
    fn batchable(&self) -> (usize, bool) {
        let (mut count, mut bytes) = (0, 0_usize);
        for entry in self.waiting.iter().filter_map(|ticket| self.open.get(ticket)).take_while(|entry| !entry.alone) {
            bytes = bytes.saturating_add(entry.size);
            if count == MAX_BATCH || bytes > MAX_BATCH_BYTES {
                return (count, true);
            }
            count += 1;
        }
        (count, false)
    }

    fn batch_stored(&mut self, batch: &Batch, first: u64, now: Instant, actions: &mut Vec<Action>) {
        self.doubt.end();
        for (sequence, ticket) in (first..).zip(&batch.members) {
            self.settle(*ticket, Outcome::Stored(Stored { sequence, duplicate: false }), now, actions);
        }
        let took = now.saturating_duration_since(batch.sent);
        self.rule.stored(took, batch.members.len(), self.waiting.len(), now);
    }

    fn batch_refused(&mut self, batch: &Batch, now: Instant) {
        self.rule.refused(now);
        self.wait_again(batch, true);
    }

    /// It is not known whether the broker has stored it.
    fn batch_unanswered(&mut self, batch: &Batch, now: Instant) {
        if let Some(first) = batch.members.first() {
            self.doubt.begin(batch.number, *first);
        }
        let until = batch.sent + RESEND_TIMEOUT;
        for ticket in &batch.members {
            if let Some(entry) = self.open.get_mut(ticket) {
                entry.resend_until = Some(until);
            }
        }
        self.next_deadline = self.next_deadline.map(|earliest| earliest.min(until));
        self.batch_refused(batch, now);
    }

    /// Members of a batch that was not stored, or of which it is not known, go before all others, one by one if they
    /// must.
    fn wait_again(&mut self, batch: &Batch, alone: bool) {
        for ticket in batch.members.iter().rev() {
            if let Some(entry) = self.open.get_mut(ticket) {
                (entry.state, entry.alone) = (State::Waiting, alone);
                self.waiting.push_front(*ticket);
            }
        }
    }

    /// What went one by one over a connection that is lost has no answer to expect, and keeps no place until its time
    /// is over. It does not go again: what was sent after it may have been stored.
    fn give_up_single(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.single == 0 {
            return;
        }
        let single = |(ticket, entry): (&Ticket, &Entry)| (entry.state == State::Single).then_some(*ticket);
        let lost: BTreeSet<Ticket> = self.open.iter().filter_map(single).collect();
        for ticket in lost {
            self.settle(ticket, Outcome::Failed(Failure::Unavailable), now, actions);
        }
    }

    /// The broker has nothing of a batch that it refused, so what belongs to a request that has failed ends with that.
    fn skip_failed(&mut self, batch: &Batch, now: Instant, actions: &mut Vec<Action>) {
        let request_of = |ticket| self.open.get(ticket)?.request;
        let has_failed = |first: &Ticket| self.requests.get(first).is_some_and(|request| request.failed);
        let failed: BTreeSet<Ticket> = batch.members.iter().filter_map(request_of).filter(has_failed).collect();
        failed.into_iter().for_each(|request| self.skip_waiting(request, now, actions));
    }

    /// Ends what has had its time.
    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.next_deadline.is_none_or(|earliest| now < earliest) {
            return;
        }
        let mut late: Vec<Ticket> =
            self.open.iter().filter(|(_, entry)| self.end_of(entry) <= now).map(|(ticket, _)| *ticket).collect();
        late.sort_unstable();
        for ticket in late {
            self.settle(ticket, Outcome::Failed(Failure::Timeout), now, actions);
        }
        self.waiting.retain(|ticket| self.open.contains_key(ticket));
        self.next_deadline = self.open.values().map(|entry| self.end_of(entry)).min();
    }

    /// When it has had its time.
    fn end_of(&self, entry: &Entry) -> Instant {
        let request = entry.request.and_then(|request| self.requests.get(&request));
        let deadline = request.map_or(entry.deadline, |request| request.deadline);
        match entry.resend_until {
            Some(until) if entry.state == State::Waiting => deadline.min(until),
            _ => deadline,
        }
    }

    /// Without a connection nothing is kept for later that can be refused now.
    fn give_up_unsent(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let unsent = |ticket: &&Ticket| self.open.get(ticket).is_some_and(|entry| !entry.sent);
        let tickets: Vec<Ticket> = self.waiting.iter().filter(unsent).copied().collect();
        for ticket in tickets {
            self.settle(ticket, Outcome::Failed(Failure::Unavailable), now, actions);
        }
        self.waiting.retain(|ticket| self.open.contains_key(ticket));
    }

    /// Ends one, unless it has ended. If it failed, those of its request that wait end with it.
    fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        let Some(entry) = self.open.remove(&ticket) else { return };
        if entry.state == State::Single {
            self.single -= 1;
        }
        actions.push(Action::Settle(ticket, outcome));
        let Some(first) = entry.request else { return };
        let Some(request) = self.requests.get_mut(&first) else { return };
        request.open -= 1;
        match outcome {
            Outcome::Stored(_) => request.deadline = request.deadline.max(now + self.timeout),
            Outcome::Failed(_) if !request.failed => {
                request.failed = true;
                self.skip_waiting(first, now, actions);
            }
            Outcome::Failed(_) | Outcome::Skipped => {}
        }
        if self.requests.get(&first).is_some_and(|request| request.open == 0) {
            self.requests.remove(&first);
        }
    }

    fn skip_waiting(&mut self, request: Ticket, now: Instant, actions: &mut Vec<Action>) {
        let open = &self.open;
        let of_request = |ticket: &Ticket| open.get(ticket).is_some_and(|entry| entry.request == Some(request));
        let (skipped, kept): (VecDeque<Ticket>, VecDeque<Ticket>) = self.waiting.drain(..).partition(of_request);
        self.waiting = kept;
        for ticket in skipped {
            self.settle(ticket, Outcome::Skipped, now, actions);
        }
    }
}

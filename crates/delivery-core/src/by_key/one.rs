//! One lane of this process: its owner, its inboxes, the watch over it.

use crate::event::{Id, Lane, Moment};
use crate::exchange::{Action, Close, InboxReport, Input, Trouble};
use crate::lane::owner::{LEAVE_GRACE, Owner};
use crate::lane::timing::LaneTiming;
use crate::memory::Memory;
use crate::obstacle::Obstacle;
use crate::watchdog::Watchdog;

/// An inbox is closed so long after its pull was over, if the broker did not say that it is.
const OVERDUE: Moment = 1000;

/// The inbox of one pull.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Inbox {
    number: u64,
    left: usize,
    over: Moment,
}

/// A lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct One {
    lane: Lane,
    owner: Owner,
    pull_every: Moment,
    inboxes: Vec<Inbox>,
    pulled: Moment,
    obstacle: Obstacle,
    watchdog: Watchdog,
    gone_at: Option<Moment>,
    /// Questions to the broker that are not answered: the answers are not to be taken for those to a later owner.
    asked: u32,
    may_start: bool,
    wake_at: Moment,
}

impl One {
    /// Takes up a lane, of which this was settled here before.
    pub fn new(now: Moment, lane: Lane, terms: LaneTiming, memory: Memory) -> Self {
        Self {
            lane,
            watchdog: Watchdog::new(terms.ack_wait, now),
            pull_every: terms.pull_every,
            owner: Owner::with_memory(lane, terms, memory),
            inboxes: Vec::new(),
            pulled: now,
            obstacle: Obstacle::default(),
            gone_at: None,
            asked: 0,
            may_start: false,
            wake_at: now,
        }
    }

    /// It is to be looked at.
    fn touch(&mut self) {
        self.wake_at = 0;
    }

    /// It goes to somebody else.
    pub fn leave(&mut self) {
        self.owner.leave();
        self.touch();
    }

    /// Whether no other member has to do with it.
    pub fn set_alone(&mut self, now: Moment, alone: bool) {
        self.owner.set_alone(now, alone);
        self.touch();
    }

    /// What was settled here.
    pub fn into_memory(self) -> Memory {
        self.owner.into_memory()
    }

    /// Forgets what was settled long ago. `pulls`: whether it may pull.
    pub fn age(&mut self, now: Moment, pulls: bool) {
        self.owner.age(now, pulls);
    }

    /// There is a new connection.
    pub fn reconnected(&mut self, now: Moment) {
        self.owner.reconnected(now);
        self.touch();
    }

    /// Takes in what happened.
    pub fn input(&mut self, now: Moment, input: Input) {
        match &input {
            Input::Arrival(arrived) => {
                self.obstacle.passed();
                if let Some(inbox) = self.inboxes.iter_mut().find(|inbox| inbox.number == arrived.inbox) {
                    inbox.left = inbox.left.saturating_sub(1);
                }
            }
            Input::Inbox(_, _, InboxReport::Open | InboxReport::Alive | InboxReport::Lost(Trouble::Ending)) => {}
            Input::Inbox(_, number, InboxReport::Closed) => self.inboxes.retain(|inbox| inbox.number != *number),
            Input::Inbox(_, number, heard) => {
                if let Some(inbox) = self.inboxes.iter_mut().find(|inbox| inbox.number == *number) {
                    inbox.left = 0;
                }
                match heard {
                    InboxReport::Lost(trouble) => {
                        self.obstacle.met(now, trouble);
                    }
                    _ => self.obstacle.passed(),
                }
            }
            Input::Waiting(_, waiting) => {
                self.asked = self.asked.saturating_sub(1);
                self.watchdog.answered(now, *waiting);
            }
            Input::State(..) | Input::Reclaimed(..) | Input::Unpinned(_) | Input::Leased(..) | Input::Listed(..) => {
                self.asked = self.asked.saturating_sub(1);
            }
            Input::LastParked(..) | Input::MarkFound(..) | Input::Fetched(..) | Input::Detained(..) => {
                self.asked = self.asked.saturating_sub(1);
            }
            _ => {}
        }
        self.owner.input(now, input);
        self.touch();
    }

    /// How many parked events may be read at a time.
    pub fn set_reads(&mut self, reads: u32) {
        self.owner.set_reads(reads);
    }

    /// Adds what is to be done.
    pub fn actions(&mut self, now: Moment, batch: u32, out: &mut Vec<Action>) {
        let before = out.len();
        self.owner.actions(now, batch, out);
        for action in &out[before..] {
            match action {
                Action::Pull(pull) => {
                    self.pulled = now;
                    let over = now + pull.expires + OVERDUE;
                    self.inboxes.push(Inbox { number: pull.inbox, left: pull.batch, over });
                }
                Action::Ask(_) | Action::Reclaim { .. } | Action::Unpin(_) | Action::List(..) => self.asked += 1,
                Action::TakeLease { .. } | Action::Fetch { .. } | Action::Detain { .. } => self.asked += 1,
                Action::FindLast { .. } | Action::FindMark { .. } => self.asked += 1,
                _ => {}
            }
        }
        let lane = self.lane;
        let over = self.inboxes.extract_if(.., |inbox| inbox.left == 0 || inbox.over <= now);
        out.extend(over.map(|inbox| Action::Close(lane, inbox.number, Close::AtOnce)));
        if self.gone_at.is_none() && self.owner.has_left() {
            self.gone_at = Some(now + LEAVE_GRACE);
        }
    }

    /// Notices if events wait, and nothing is started for no reason. `works`: this process does, or has one not to.
    pub fn watch(&mut self, now: Moment, works: bool, out: &mut Vec<Action>) {
        if works || self.owner.has_plans(now) {
            self.watchdog.reset(now);
        } else if self.watchdog.ask(now) {
            self.asked += 1;
            out.push(Action::Count(self.lane));
        }
    }

    /// It was looked at, and is again by this time. `pulls`: whether it may pull.
    pub fn looked(&mut self, now: Moment, by: Moment, pulls: bool) {
        let inbox = self.inboxes.iter().map(|inbox| inbox.over).min();
        let wakes = [self.owner.wake_at(now, pulls), self.gone_at, inbox];
        self.wake_at = wakes.into_iter().flatten().fold(by, Moment::min).max(now + 1);
        self.may_start = self.owner.can_start(now);
    }

    /// When it is to be looked at.
    pub fn wake_at(&self) -> Moment {
        self.wake_at
    }

    /// The event whose attempt starts.
    pub fn start(&mut self, now: Moment) -> Option<Id> {
        if !self.may_start {
            return None;
        }
        let id = self.owner.start(now);
        self.may_start = id.is_some();
        if id.is_some() {
            self.watchdog.reset(now);
        }
        id
    }

    /// Whether it was left, some time ago, and all that it asked for is answered.
    pub fn is_gone(&self, now: Moment) -> bool {
        self.asked == 0 && self.gone_at.is_some_and(|at| at <= now)
    }

    /// Closes what is open.
    pub fn close(&mut self, out: &mut Vec<Action>) {
        out.extend(self.inboxes.drain(..).map(|inbox| Action::Close(self.lane, inbox.number, Close::AtOnce)));
    }

    /// Gives back what is here.
    pub fn abandon(&mut self, out: &mut Vec<Action>) {
        self.owner.abandon(out);
        self.close(out);
    }

    /// Events here.
    pub fn in_hand(&self) -> usize {
        self.owner.in_hand()
    }

    /// Whether it needs one more event, and has not asked for any lately.
    pub fn asks_for_one(&self, now: Moment) -> bool {
        self.owner.lacks_events() && now >= self.pulled + self.pull_every
    }

    /// What keeps the broker from serving it.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.obstacle.trouble()
    }

    /// Whether only a restart is left.
    pub fn is_stalled(&self, now: Moment) -> bool {
        self.watchdog.is_stalled(now)
    }
}

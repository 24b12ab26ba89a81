//! The broker of the model: what nats-server keeps of a pinned consumer, and what is on its way to it.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_delivery_core::lane::Section;
use tidegate_delivery_core::{FetchResult, Id, InboxReport, Input, Key, Moment, ParkResult, Pin, Tenancy};

use crate::world::Node;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Broker {
    pub published: u64,
    pub delivered: u64,
    pub deliveries: u64,
    pub pending: BTreeMap<u64, Pending>,
    pub again: BTreeSet<u64>,
    pub acknowledged: BTreeSet<u64>,
    pub pin: Option<Pin>,
    pub pins: u64,
    pub pulls: Vec<Pull>,
    /// What a restart would find.
    pub saved: Saved,
}

/// What is on the broker's disk of the consumer: written now and then, so that a broker that is killed forgets
/// deliveries and acknowledgements that it has confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Saved {
    delivered: u64,
    deliveries: u64,
    pending: BTreeMap<u64, Pending>,
    again: BTreeSet<u64>,
}

impl Broker {
    /// Writes to disk.
    pub fn save(&mut self) {
        let Self { delivered, deliveries, pending, again, .. } = self.clone();
        self.saved = Saved { delivered, deliveries, pending, again };
    }

    /// Is killed, and starts again. Pins and pulls were never on disk.
    pub fn restart(&mut self) {
        let Saved { delivered, deliveries, pending, again } = self.saved.clone();
        *self = Self { delivered, deliveries, pending, again, pin: None, pulls: Vec::new(), ..self.clone() };
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    pub with: usize,
    pub until: Moment,
    pub deliveries: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pull {
    pub node: usize,
    pub number: u64,
    pub pin: Option<Pin>,
    pub left: usize,
    /// The broker ends it then.
    pub until: Moment,
}

/// On its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    pub sent: Moment,
    pub node: usize,
    /// The life of the node that asks.
    pub life: u8,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    Acknowledge(Id),
    Renew(Id),
    /// With a NAK with a delay.
    Hold(Id),
    GiveBack(Id),
    /// Of these sequences, a bit for each.
    Reclaim(u64),
    State,
    Unpin,
    Park(Vec<Id>),
    Fetch(Key),
    Unpark(Id),
    List(Section),
    FindLast(Key),
    FindMark(Key),
    TakeLease(u64),
    FreeLease(u64),
    Detain(Key),
}

impl What {
    /// Whether it says that an event comes back.
    pub fn gives_back(&self) -> bool {
        matches!(self, Self::GiveBack(_) | Self::Reclaim(_))
    }

    /// What its sender learns if it does not arrive.
    pub fn unanswered(&self) -> Option<Input> {
        match *self {
            Self::Acknowledge(id) => Some(Input::Acknowledged(id, false)),
            Self::Renew(id) | Self::Hold(id) => Some(Input::Renewed(id, false)),
            Self::GiveBack(_) => None,
            Self::Reclaim(_) => Some(Input::Reclaimed(0, false)),
            Self::State => Some(Input::State(0, None)),
            Self::Unpin => Some(Input::Unpinned(0)),
            Self::Park(ref ids) => Some(Input::Parked(ids.clone(), ParkResult::Unknown)),
            Self::Fetch(key) => Some(Input::Fetched(0, key, FetchResult::Unknown)),
            Self::Unpark(id) => Some(Input::Unparked(id, false)),
            Self::List(_) => Some(Input::Listed(0, None)),
            Self::FindLast(key) => Some(Input::LastParked(0, key, None)),
            Self::FindMark(key) => Some(Input::MarkFound(0, key, None)),
            Self::TakeLease(_) => Some(Input::Leased(0, Tenancy::Unknown)),
            Self::FreeLease(_) => None,
            Self::Detain(key) => Some(Input::Detained(0, key, false)),
        }
    }

    /// The same of an answer that came, if it is one of the shelf's: only of those it matters that they may be lost.
    pub fn unheard(answer: &Input) -> Option<Input> {
        let what = match answer {
            Input::Parked(ids, _) => Self::Park(ids.clone()),
            Input::Fetched(_, key, _) => Self::Fetch(*key),
            Input::Unparked(id, _) => Self::Unpark(*id),
            Input::Listed(..) => Self::List(Section::ALL),
            Input::LastParked(_, key, _) => Self::FindLast(*key),
            Input::MarkFound(_, key, _) => Self::FindMark(*key),
            Input::Leased(..) => Self::TakeLease(0),
            Input::Detained(_, key, _) => Self::Detain(*key),
            _ => return None,
        };
        what.unanswered()
    }
}

impl Broker {
    /// As `processNak` of nats-server: it looks at no more than whether the number of the delivery was there.
    pub fn take_back(&mut self, what: What) -> Option<Input> {
        match what {
            What::GiveBack(id) => {
                let is_known = id.delivery <= self.deliveries && self.pending.contains_key(&id.sequence);
                self.again.extend(is_known.then_some(id.sequence));
                None
            }
            What::Reclaim(bits) => {
                let wanted = self.pending.keys().filter(|sequence| bits & (1 << **sequence) != 0);
                self.again.extend(wanted);
                Some(Input::Reclaimed(0, true))
            }
            _ => None,
        }
    }

    /// The same with a delay.
    pub fn hold(&mut self, id: Id, until: Moment) {
        if id.delivery <= self.deliveries
            && let Some(pending) = self.pending.get_mut(&id.sequence)
        {
            pending.until = until;
            self.again.remove(&id.sequence);
        }
    }

    /// All up to this one are acknowledged.
    pub fn floor(&self) -> u64 {
        self.pending.keys().next().map_or(self.delivered, |first| first - 1)
    }

    /// The requests of a node are over: no one is at its inboxes any more.
    pub fn close_inboxes(&mut self, node: usize) {
        self.pulls.retain(|pull| pull.node != node);
    }
}

/// The pull by which the next event goes, as nats-server chooses it; wrong pins are told on the way.
pub fn serve(broker: &mut Broker, nodes: &mut [Node; 2]) -> Option<Pull> {
    let mut index = 0;
    while let Some(pull) = broker.pulls.get_mut(index) {
        if broker.pin.is_none() && pull.pin.is_none() {
            broker.pins += 1;
            broker.pin = Some(format!("{}", broker.pins).into());
            pull.pin = broker.pin.clone();
        }
        if pull.pin.is_some() && pull.pin == broker.pin {
            pull.left -= 1;
            let served = pull.clone();
            broker.pulls.retain(|pull| pull.left > 0);
            return Some(served);
        }
        if pull.pin.is_some() {
            let wrong = broker.pulls.remove(index);
            nodes[wrong.node].inbox.push_back(Input::Inbox(0, wrong.number, InboxReport::WrongPin));
        } else {
            index += 1;
        }
    }
    None
}

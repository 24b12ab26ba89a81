//! What was here when the connection was lost, and what has become of it in the stream.
//!
//! A broker that has forgotten whom it lent an event may lend it again: it is here twice then. And one that has lost the
//! end of the stream with its disk gives the sequences to other events. It looks only at the sequence of what it is told
//! (`processAckMsg` of nats-server), so an acknowledgement of the event that it has lost would settle the other one.

use std::collections::BTreeMap;

use crate::event::Id;
use crate::unordered::TOPIC;

/// Those events, by their place in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Carryover(BTreeMap<u64, Id>);

/// Where the stream has it: an event of the shelf has the sequence of the topic for a name.
fn place(id: Id) -> u64 {
    if id.lane == TOPIC { id.sequence } else { id.delivery }
}

/// Whether both are the same event.
pub fn is_same(one: Id, other: Id) -> bool {
    (one.sequence, one.stored) == (other.sequence, other.stored)
}

impl Carryover {
    /// These are here.
    pub fn of(here: impl Iterator<Item = Id>) -> Self {
        Self(here.map(|id| (place(id), id)).collect())
    }

    /// An event came. What is not in the stream any more, as this one has its place; of the topic also what had a later
    /// place and was stored before. (If a clock was set back in between, that is wrong of an event that is there: it
    /// comes again.)
    pub fn came(&mut self, id: Id) -> Vec<Id> {
        let mut lost = Vec::new();
        while let Some(last) = self.0.last_entry()
            && id.lane == TOPIC
            && *last.key() > place(id)
            && last.get().stored < id.stored
        {
            lost.push(last.remove());
        }
        if self.0.get(&place(id)).is_some_and(|known| !is_same(*known, id)) {
            lost.extend(self.0.remove(&place(id)));
        }
        lost
    }

    /// Whether this event is among them.
    pub fn has(&self, id: Id) -> bool {
        self.0.contains_key(&place(id))
    }

    /// It has left.
    pub fn remove(&mut self, id: Id) {
        if self.0.get(&place(id)) == Some(&id) {
            self.0.remove(&place(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Lane;
    use crate::unordered::SHELF;

    fn id(lane: Lane, sequence: u64, stored: u64, delivery: u64) -> Id {
        Id { lane, sequence, stored, delivery, arrival: 100 * stored + delivery }
    }

    #[test]
    fn what_comes_in_its_place_says_that_an_event_is_lost() {
        let (five, seven, nine) = (id(TOPIC, 5, 50, 1), id(TOPIC, 7, 70, 2), id(TOPIC, 9, 90, 3));
        let new = || Carryover::of([five, seven, nine].into_iter());
        let mut carryover = new();
        assert_eq!(carryover.came(id(TOPIC, 7, 70, 9)), [], "it is the same");
        assert!(carryover.has(id(TOPIC, 7, 70, 9)));
        assert_eq!(carryover.came(id(TOPIC, 6, 60, 9)), [], "an older one");
        assert_eq!(carryover.came(id(TOPIC, 10, 100, 9)), [], "a later one");
        assert_eq!(carryover.came(id(TOPIC, 7, 100, 9)), [nine, seven], "and all behind it");
        assert!(carryover.has(five) && !carryover.has(seven) && !carryover.has(nine));
        assert_eq!(new().came(id(TOPIC, 8, 100, 9)), [nine], "of which nothing has the place yet");
        carryover.remove(five);
        assert_eq!(carryover, Carryover::default());
    }

    #[test]
    fn on_the_shelf_it_is_the_place_there_that_counts() {
        let (one, two) = (id(SHELF, 7, 70, 1), id(SHELF, 5, 50, 2));
        let mut carryover = Carryover::of([one, two].into_iter());
        assert_eq!(carryover.came(id(SHELF, 8, 80, 3)), [], "it has no order of its events");
        assert_eq!(carryover.came(id(SHELF, 7, 70, 1)), []);
        assert_eq!(carryover.came(id(SHELF, 8, 80, 2)), [two]);
    }
}

//! Whether a copy of a stream is whole (pure).
//!
//! What a server says of its copies itself (`current`, `lag`) is not used: it was seen to call a copy current that lacked
//! a fifth of its events. What each server has is counted, and compared with what the leader has.

use serde::Deserialize;

use crate::api::count;

/// What a copy has (`StreamState`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Counts {
    /// The sequence of its first message.
    #[serde(rename = "first_seq", deserialize_with = "count")]
    pub first: u64,
    /// The sequence of its last message.
    #[serde(rename = "last_seq", deserialize_with = "count")]
    pub last: u64,
    /// Messages.
    #[serde(deserialize_with = "count")]
    pub messages: u64,
    /// Sequences between the first and the last one that it has no message of.
    #[serde(rename = "num_deleted", default, deserialize_with = "count")]
    pub deleted: u64,
    /// Bytes of the messages.
    #[serde(deserialize_with = "count")]
    pub bytes: u64,
}

impl Counts {
    /// Whether a copy has all that its stream's leader had `before`, and lacks nothing that the leader had `after`. The
    /// copy is counted between the two.
    ///
    /// Both what was ever stored and what was ever removed only grow. So a copy that is whole has stored at least what the
    /// leader had before, and has removed no more than the leader has after: a hole counts as removed. Where nothing moves
    /// between the two, all counts must be equal.
    ///
    /// `expires`: messages go by their age, which each server sees for itself, a moment earlier or later than the leader.
    /// Then only what lacks between the first and the last message counts.
    #[must_use]
    pub fn has_all(&self, before: &Self, after: &Self, expires: bool) -> bool {
        if expires {
            return self.last >= before.last && self.deleted <= after.deleted;
        }
        if before == after && self.last == before.last {
            return self == before;
        }
        self.last >= before.last && self.removed() >= before.removed() && self.removed() <= after.removed()
    }

    /// Messages that were stored and are not there any more. (Sequences begin with 1.)
    pub(crate) fn removed(&self) -> u64 {
        self.last.saturating_sub(self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(first: u64, last: u64, messages: u64) -> Counts {
        let deleted = (last + 1).saturating_sub(first).saturating_sub(messages);
        Counts { first, last, messages, deleted, bytes: messages * 100 }
    }

    #[test]
    fn a_copy_is_whole_if_it_has_what_the_leader_had_before() {
        let (before, after) = (counts(1, 100, 100), counts(1, 120, 120));
        for (copy, is_whole) in [
            (counts(1, 100, 100), true),
            (counts(1, 110, 110), true),
            (counts(1, 120, 120), true),
            (counts(1, 99, 99), false),
            (counts(1, 0, 0), false),
            // The last sequence is there, and some before it are not: that is what was seen to be called current.
            (counts(1, 110, 109), false),
            (counts(51, 110, 60), false),
        ] {
            assert_eq!(copy.has_all(&before, &after, false), is_whole, "{copy:?}");
        }
    }

    #[test]
    fn a_stream_at_rest_is_compared_to_the_byte() {
        let leader = counts(11, 100, 60);
        assert!(leader.has_all(&leader, &leader, false));
        assert!(!Counts { bytes: 1, ..leader }.has_all(&leader, &leader, false));
        assert!(!Counts { deleted: 0, ..leader }.has_all(&leader, &leader, false));
        assert!(!counts(12, 100, 60).has_all(&leader, &leader, false));
    }

    #[test]
    fn what_the_leader_has_removed_meanwhile_may_be_gone_or_not() {
        let (before, after) = (counts(1, 100, 40), counts(1, 110, 30));
        for (copy, is_whole) in [
            (counts(1, 100, 40), true),
            (counts(1, 105, 30), true),
            (counts(1, 110, 30), true),
            (counts(1, 110, 29), false),
            (counts(1, 100, 41), false),
        ] {
            assert_eq!(copy.has_all(&before, &after, false), is_whole, "{copy:?}");
        }
    }

    #[test]
    fn what_expires_may_be_gone_earlier_on_one_server_than_on_another() {
        let leader = counts(50, 100, 51);
        assert!(counts(53, 100, 48).has_all(&leader, &leader, true));
        assert!(!counts(50, 99, 50).has_all(&leader, &leader, true));
        assert!(!counts(50, 100, 50).has_all(&leader, &leader, true), "a hole");
    }
}

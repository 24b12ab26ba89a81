//! What a sidecar has to know of changes of its handler's place in the topic.

use serde::{Deserialize, Serialize};

use crate::layout;

/// What changes of a handler's place left behind. The default: there were none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relocation {
    /// How often the handler was moved to another event of its topic (`spec.replay`). Events that come again begin with
    /// their first attempt, and what is stored because of them is not taken for what was stored before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rewinds: u64,
    /// For each partition the sequence up to which its events were settled when the number of lanes changed. A lane
    /// begins where the least of its partitions was, so events of the others come again. Empty: the number never
    /// changed, or all lanes were equally far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settled: Vec<u64>,
    /// When the last of these was stored, in nanoseconds since 1970: a stream that is made again, or that lost its end,
    /// gives their sequences to other events, which are stored later.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settled_before: u64,
}

impl Relocation {
    /// Whether there were none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the event that the topic's stream has under this subject and sequence was settled before the number of
    /// lanes changed. `stored`: when, in nanoseconds since 1970.
    pub fn is_settled(&self, subject: &str, sequence: u64, stored: u64) -> bool {
        let settled = |partition: u32| self.settled.get(usize::try_from(partition).ok()?);
        !self.settled.is_empty()
            && stored <= self.settled_before
            && layout::partition_of(subject).and_then(settled).is_some_and(|settled| sequence <= *settled)
    }

    /// The UID of a handler as it stands in what its sidecars store: another one after each rewind.
    pub fn incarnation(&self, uid: &str) -> String {
        match self.rewinds {
            0 => uid.to_owned(),
            rewinds => format!("{uid}-{rewinds}"),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_settled_by_its_partition() {
        let mut settled = vec![0; 32];
        (settled[3], settled[31]) = (7, 9);
        let relocation = Relocation { rewinds: 0, settled, settled_before: 100 };
        for (subject, sequence, expected) in [
            ("events.3.a", 7, true),
            ("events.3.a", 8, false),
            ("events.31.a.b", 9, true),
            ("redrive.billing.31.a", 9, true),
            ("redrive.billing.31.a", 10, false),
            ("events.0.a", 1, false),
            ("events.32.a", 1, false),
            ("events.x.a", 1, false),
            ("other.3.a", 1, false),
        ] {
            assert_eq!(relocation.is_settled(subject, sequence, 100), expected, "{subject} {sequence}");
        }
        assert!(!relocation.is_settled("events.3.a", 7, 101), "of another stream");
        assert!(!Relocation::default().is_settled("events.3.a", 1, 0));
    }

    #[test]
    fn without_a_change_nothing_is_said() {
        assert_eq!(serde_json::to_string(&Relocation::default()).unwrap(), "{}");
        assert_eq!(Relocation::default().incarnation("u-1"), "u-1");
        assert_eq!(Relocation { rewinds: 2, ..Relocation::default() }.incarnation("u-1"), "u-1-2");
    }
}

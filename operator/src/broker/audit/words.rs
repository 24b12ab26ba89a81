//! What an audit found, in words.

use tidegate_crds::broker::{DamagedCopy, LostEvents};

/// How many more there are, if any.
pub(super) fn more(count: i64) -> String {
    if count > 0 { format!(" (and {count} more in status.audit)") } else { String::new() }
}

/// A damaged copy, in words.
pub(crate) fn damaged(copy: &DamagedCopy) -> String {
    let DamagedCopy { topic, stream, server, whole, missing, first, last } = copy;
    let what = match missing {
        0 => format!("has other content than the other servers in messages {first} to {last}"),
        missing => format!("lacks {missing} of the messages {first} to {last}"),
    };
    format!(
        "{server} {what} of stream {stream} of topic {topic}, and {whole} has them: the copy is made again from there"
    )
}

/// What was lost, in words.
pub(super) fn lost(lost: &LostEvents) -> String {
    let LostEvents { topic, missing, first, last, is_tail } = lost;
    if *is_tail {
        return format!(
            "the stream of topic {topic} had lost its end: events {first} to {last} were acknowledged, no server has them, and their numbers are used again. Condition DataLost of the topic says how to acknowledge that"
        );
    }
    format!(
        "topic {topic} lacks {missing} events between number {first} and {last}, and no server has them. Condition DataLost of the topic says how to acknowledge that"
    )
}

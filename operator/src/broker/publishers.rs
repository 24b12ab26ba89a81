//! Room for the publishers of all topics of a broker: its ingresses read them from one Secret, which holds 1 MiB (pure).

use std::collections::HashSet;

use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{MAX_CLIENT_CAS, MAX_TOPICS_FILE};

use super::topics::Topic;

/// Bytes for the keys that tokens are verified with.
pub const MAX_KEYS_TEXT: usize = 64 * 1024;
/// Bytes of a topic besides its publishers, at most: its names, two host names, and its key.
const MAX_TOPIC_TEXT: usize = 1024;

/// The topics whose publishers have no room beside the others'. Those with the largest lists are the first to be without:
/// no topic is closed because of another one's list, unless its own is longer.
/// `lists`: of each topic the bytes of its publishers in the file ([`text_len`]).
pub fn without_room(mut lists: Vec<(usize, &TopicId)>) -> HashSet<TopicId> {
    let mut left = room(lists.len());
    if lists.iter().map(|(bytes, _)| bytes).sum::<usize>() <= left {
        return HashSet::new();
    }
    lists.sort();
    let mut without = HashSet::new();
    for (bytes, id) in lists {
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => drop(without.insert(id.clone())),
        }
    }
    without
}

/// Bytes for the publishers of all topics of a broker that has so many.
pub fn room(topics: usize) -> usize {
    (MAX_TOPICS_FILE - MAX_KEYS_TEXT - 2 * MAX_CLIENT_CAS).saturating_sub(topics * MAX_TOPIC_TEXT)
}

/// Bytes of a topic's publishers in the file.
pub fn text_len(topic: &Topic) -> usize {
    serde_json::to_string(&topic.publishers).map_or(usize::MAX, |text| text.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_broker_client::contract::{MAX_TOPICS, TokenTrust, Topics};
    use tidegate_broker_client::message_id::key_text;
    use tidegate_crds::topic::EventTopicSpec;

    use super::*;
    use crate::topic::rules;

    /// A topic with so many entries of the largest size.
    fn topic(name: &str, entries: usize) -> Topic {
        let pattern = |index: usize| format!("/{index:03}{}*", "x".repeat(251));
        let patterns: Vec<String> = (0..16).map(pattern).collect();
        let entry = json!({"serviceAccount": {"name": "n"}, "sources": patterns, "types": patterns});
        let spec: EventTopicSpec = serde_json::from_value(json!({"publishers": vec![entry; entries]})).unwrap();
        let publishers = rules::from_spec(&spec, "shop").unwrap();
        Topic { publishers, ..Topic::for_test("shop", name) }
    }

    fn closed(topics: &[Topic]) -> Vec<String> {
        let lists = topics.iter().map(|topic| (text_len(topic), &topic.id)).collect();
        let mut names: Vec<_> = without_room(lists).iter().map(|id| id.name().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_longest_lists_are_left_out_first() {
        let all = [topic("a", 64), topic("b", 1), topic("c", 60), topic("d", 45), topic("e", 0)];
        assert_eq!(closed(&all), ["a", "c"]);
        assert_eq!(closed(&all[..2]), [] as [&str; 0], "one topic may have all that the schema allows");
        assert_eq!(closed(&[topic("a", 64), topic("b", 64)]), ["b"], "of two equals one has room");
    }

    #[test]
    fn what_has_room_makes_a_file_that_ingresses_take() {
        let namespace = "n".repeat(63);
        let name = |number: usize| format!("{number:0>40}").replacen('0', "t", 1);
        let mut topics: Vec<Topic> = (0..MAX_TOPICS)
            .map(|number| Topic { publishers: Vec::new(), ..Topic::for_test(&namespace, &name(number)) })
            .collect();
        // As much as has room, nearly.
        let entry = text_len(&topic("t", 1));
        let with = room(topics.len()) / entry;
        for topic in topics.iter_mut().take(with) {
            topic.publishers = self::topic("t", 1).publishers;
        }
        assert_eq!(closed(&topics), [] as [&str; 0]);
        let served = topics.iter().map(|topic| topic.served(key_text(&[1; 32]))).collect();
        let file = Topics {
            topics: served,
            tokens: Some(TokenTrust { issuer: "i".repeat(MAX_KEYS_TEXT - 64), ..TokenTrust::default() }),
            client_cas: Some("\n".repeat(MAX_CLIENT_CAS)),
            ..Topics::default()
        };
        assert!(serde_json::to_string(&file).unwrap().len() <= MAX_TOPICS_FILE);
        topics[with].publishers = topic("t", 1).publishers;
        assert_eq!(closed(&topics).len(), 1);
    }
}

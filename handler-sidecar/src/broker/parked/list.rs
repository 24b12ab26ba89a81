//! Which keys of a lane are parked, and which of them are held.
//!
//! A server names up to 100,000 subjects in an answer, and there is no asking for fewer (`JSMaxSubjectDetails` of
//! nats-server): it would be some 8 MB for each lane. But it sorts them where it is asked for those from an offset on.
//! So it is asked how many there are, by an offset beyond any, and then for the last ones of them. What is held is asked
//! for first. Where not all can be known, the last ones of both are of the same keys, so of each key that is known it is
//! known whether it is held.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidegate_broker_client::layout::{self, KeySubject};
use tidegate_broker_client::publish_ack::StreamError;
pub use tidegate_delivery_core::lane::MAX_KEYS;
use tidegate_delivery_core::{Key, Lane, ParkedKeys};

use super::NOTHING;

/// More subjects than there can be.
const BEYOND_ALL: u64 = u32::MAX as u64;

#[derive(Deserialize)]
struct InfoAnswer {
    error: Option<StreamError>,
    /// Subjects in all.
    #[serde(default)]
    total: u64,
    state: Option<StreamState>,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct StreamState {
    #[serde(default)]
    subjects: Option<HashMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct Cluster {
    leader: Option<String>,
}

/// The subjects that an answer names.
struct Page {
    subjects: Vec<String>,
    total: u64,
}

/// What is asked for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Held,
    Parked,
}

/// A list that is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    handler: String,
    lane: Lane,
    part: Part,
    /// How many subjects there are of this part, once that is known.
    count: Option<u64>,
    held: Vec<Key>,
    are_all: bool,
}

/// What follows an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another question.
    Ask(Listing),
    /// The end.
    Over(ParkedKeys),
}

impl Listing {
    /// Of this lane; nothing of it is read.
    pub fn new(handler: &str, lane: Lane) -> Self {
        Self { handler: handler.to_owned(), lane, part: Part::Held, count: None, held: Vec::new(), are_all: true }
    }

    /// The lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The next question.
    pub fn request(&self) -> Bytes {
        let lane = Some(self.lane);
        let filter = match self.part {
            Part::Held => layout::held_subjects(&self.handler, lane),
            Part::Parked => layout::parked_subjects(&self.handler, lane),
        };
        let offset = self.count.map_or(BEYOND_ALL, |count| count.saturating_sub(MAX_KEYS as u64));
        Bytes::from(format!("{{\"subjects_filter\":\"{filter}\",\"offset\":{offset}}}"))
    }

    /// Takes in the answer; `None`: it does not say.
    pub fn heard(mut self, payload: &[u8]) -> Option<Step> {
        let Page { subjects, total } = parse(payload)?;
        if self.count.is_none() && total > 0 {
            self.count = Some(total);
            return Some(Step::Ask(self));
        }
        self.are_all &= total <= subjects.len() as u64;
        let is_held = self.part == Part::Held;
        let read = |subject: &String| KeySubject::read(&self.handler, subject);
        let is_wanted = |found: &KeySubject| found.lane == self.lane && found.is_held == is_held;
        let keys = subjects.iter().filter_map(read).filter(is_wanted).map(|found| found.key).collect();
        Some(match self.part {
            Part::Held => Step::Ask(Self { part: Part::Parked, count: None, held: keys, ..self }),
            Part::Parked => Step::Over(self.over(keys)),
        })
    }

    /// What is parked, and what is held without anything parked.
    fn over(&self, parked: Vec<Key>) -> ParkedKeys {
        let mut keys: BTreeMap<Key, bool> = parked.into_iter().map(|key| (key, false)).collect();
        keys.extend(self.held.iter().map(|key| (*key, true)));
        let are_all = self.are_all && keys.len() <= MAX_KEYS;
        // The first ones: of these the held ones may be unknown.
        while keys.len() > MAX_KEYS {
            keys.pop_first();
        }
        ParkedKeys { keys: keys.into_iter().collect(), are_all }
    }
}

/// The answer of a stream that has a leader: without one any of its servers answers, which may not know of the last
/// messages.
fn parse(payload: &[u8]) -> Option<Page> {
    let answer: InfoAnswer = serde_json::from_slice(payload).ok()?;
    if let Some(error) = answer.error {
        return NOTHING.contains(&error.code).then_some(Page { subjects: Vec::new(), total: 0 });
    }
    let state = answer.state?;
    let has_leader = answer.cluster.is_none_or(|cluster| cluster.leader.is_some_and(|leader| !leader.is_empty()));
    let subjects = state.subjects.unwrap_or_default().into_keys().collect();
    has_leader.then_some(Page { subjects, total: answer.total })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A stream with these subjects, as a server answers for it.
    fn answer(subjects: &[String], request: &[u8]) -> String {
        let request: Value = serde_json::from_slice(request).unwrap();
        let prefix = request["subjects_filter"].as_str().unwrap().strip_suffix('*').unwrap();
        let mut all: Vec<&String> = subjects.iter().filter(|subject| subject.starts_with(prefix)).collect();
        all.sort();
        let offset = usize::try_from(request["offset"].as_u64().unwrap()).unwrap().min(all.len());
        let page: HashMap<&String, u64> = all[offset..].iter().map(|subject| (*subject, 1)).collect();
        assert!(page.len() <= MAX_KEYS, "{}", page.len());
        let state = if page.is_empty() { json!({}) } else { json!({"subjects": page}) };
        json!({"total": all.len(), "state": state, "cluster": {"leader": "broker-0"}}).to_string()
    }

    fn list(subjects: &[String]) -> (ParkedKeys, usize) {
        let mut listing = Listing::new("billing", 3);
        for asked in 1..=4 {
            match listing.clone().heard(answer(subjects, &listing.request()).as_bytes()).unwrap() {
                Step::Ask(next) => listing = next,
                Step::Over(keys) => return (keys, asked),
            }
        }
        panic!("it has no end");
    }

    fn held(key: Key) -> String {
        layout::held_subject("billing", 3, key)
    }

    fn parked(key: Key) -> String {
        layout::parked_subject("billing", 3, key)
    }

    #[test]
    fn a_lane_without_parked_keys_takes_two_questions() {
        let others = [layout::waiting_subject("billing"), layout::parked_subject("billing", 4, 1)];
        assert_eq!(list(&others), (ParkedKeys { keys: Vec::new(), are_all: true }, 2));
    }

    #[test]
    fn what_is_held_is_told_with_the_others() {
        let subjects = [parked(7), held(9), parked(9), parked(8), held(5), layout::held_subject("billing", 4, 7)];
        let keys = vec![(5, true), (7, false), (8, false), (9, true)];
        assert_eq!(list(&subjects), (ParkedKeys { keys, are_all: true }, 4));
        let only = [parked(7), parked(8)];
        assert_eq!(list(&only), (ParkedKeys { keys: vec![(7, false), (8, false)], are_all: true }, 3));
    }

    #[test]
    fn of_more_than_can_be_known_it_is_known_which_are_held() {
        let many = 3 * MAX_KEYS as u64;
        let mut subjects: Vec<String> = (0..many).map(parked).collect();
        subjects.extend((0..many).filter(|key| key % 2 == 0).map(held));
        let (ParkedKeys { keys, are_all }, asked) = list(&subjects);
        assert_eq!((keys.len(), are_all, asked), (MAX_KEYS, false, 4));
        assert!(keys.iter().all(|(key, is_held)| (key % 2 == 0) == *is_held));
        assert_eq!(keys.last().map(|(key, _)| *key), Some(many - 1));
        let exactly: Vec<String> = (0..MAX_KEYS as u64).map(parked).collect();
        assert!(list(&exactly).0.are_all);
        let without_events: Vec<String> = exactly.into_iter().chain([held(many)]).collect();
        let (ParkedKeys { keys, are_all }, _) = list(&without_events);
        assert_eq!((keys.len(), are_all, keys.last()), (MAX_KEYS, false, Some(&(many, true))));
    }

    #[test]
    fn only_the_leaders_word_counts() {
        let heard = |payload: &str| Listing::new("billing", 3).heard(payload.as_bytes()).is_some();
        for (payload, expected) in [
            (r#"{"total":0,"state":{"messages":0}}"#, true),
            (r#"{"total":0,"state":{},"cluster":{"leader":"broker-0"}}"#, true),
            (r#"{"total":0,"state":{},"cluster":{"name":"c","replicas":[]}}"#, false),
            (r#"{"total":0,"state":{},"cluster":{"leader":""}}"#, false),
            (r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#, true),
            (r#"{"error":{"code":503,"err_code":10008,"description":"not available"}}"#, false),
            (r#"{"total":-1,"state":{}}"#, false),
            (r#"{"total":0,"state":{"subjects":[]}}"#, false),
            ("{}", false),
            ("+OK", false),
            ("", false),
        ] {
            assert_eq!(heard(payload), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_no_key_of_the_lane_is_left_out() {
        let mut listing = Listing::new("billing", 3);
        listing.part = Part::Parked;
        listing.count = Some(3);
        let strange = ["retries.billing.parked.3.zz", "retries.billing.parked.4.0000000000000001", "retries.shipping"];
        let subjects: HashMap<&str, u64> = strange.iter().map(|subject| (*subject, 1)).collect();
        let payload = json!({"total": 3, "state": {"subjects": subjects}}).to_string();
        let over = Step::Over(ParkedKeys { keys: Vec::new(), are_all: true });
        assert_eq!(listing.heard(payload.as_bytes()), Some(over));
    }
}

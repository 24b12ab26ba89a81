//! Which keys of a lane are parked, and which of them are held.
//!
//! A server names up to 100,000 subjects in an answer, and there is no asking for fewer (`JSMaxSubjectDetails` of
//! nats-server): it would be some 8 MB for each lane. But it sorts them where it is asked for those from an offset on.
//! So it is asked how many there are, by an offset beyond any, and then for the last ones of them. Where there are more
//! than can be known at a time, the keys are listed by sections, which are told apart by the first digits of the keys.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidegate_broker_client::layout::{self, KeySubject};
use tidegate_broker_client::publish_ack::StreamError;
pub use tidegate_delivery_core::lane::{MAX_KEYS, Section};
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
    /// How many are parked, and how many are held.
    ParkedCount,
    HeldCount,
    /// Which are.
    Held,
    Parked,
}

/// A list that is being read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    handler: String,
    lane: Lane,
    section: Section,
    part: Part,
    /// How many subjects there are of both kinds, as far as that is known.
    parked: u64,
    held: u64,
    held_keys: Vec<Key>,
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
    /// Of this section of a lane; nothing of it is read.
    pub fn new(handler: &str, lane: Lane, section: Section) -> Self {
        let (handler, part, held_keys) = (handler.to_owned(), Part::ParkedCount, Vec::new());
        Self { handler, lane, section, part, parked: 0, held: 0, held_keys, are_all: true }
    }

    /// The lane.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The next question.
    pub fn request(&self) -> Bytes {
        let digits = self.section.digits();
        let filter = match self.part {
            Part::HeldCount | Part::Held => layout::held_subjects_from(&self.handler, self.lane, &digits),
            Part::ParkedCount | Part::Parked => layout::parked_subjects_from(&self.handler, self.lane, &digits),
        };
        let offset = match self.part {
            Part::ParkedCount | Part::HeldCount => BEYOND_ALL,
            Part::Held => self.held.saturating_sub(MAX_KEYS as u64),
            Part::Parked => self.parked.saturating_sub(MAX_KEYS as u64),
        };
        Bytes::from(format!("{{\"subjects_filter\":\"{filter}\",\"offset\":{offset}}}"))
    }

    /// Takes in the answer; `None`: it does not say.
    pub fn heard(mut self, payload: &[u8]) -> Option<Step> {
        let Page { subjects, total } = parse(payload)?;
        if matches!(self.part, Part::Held | Part::Parked) {
            self.are_all &= total <= subjects.len() as u64;
        }
        Some(match self.part {
            Part::ParkedCount if self.is_too_much(total) => {
                Self { parked: total, are_all: false, ..self }.over(Vec::new())
            }
            Part::ParkedCount => Step::Ask(Self { part: Part::HeldCount, parked: total, ..self }),
            Part::HeldCount if self.is_too_much(total) => Self { held: total, are_all: false, ..self }.over(Vec::new()),
            Part::HeldCount if total > 0 => Step::Ask(Self { part: Part::Held, held: total, ..self }),
            Part::HeldCount => self.held(total, Vec::new()),
            Part::Held => {
                let keys = self.keys(&subjects, true);
                self.held(total, keys)
            }
            Part::Parked => {
                let keys = self.keys(&subjects, false);
                Self { parked: total, ..self }.over(keys)
            }
        })
    }

    /// Of all keys of a lane nothing is read where they are too many: they are listed by sections.
    fn is_too_much(&self, count: u64) -> bool {
        self.section == Section::ALL && count > MAX_KEYS as u64
    }

    /// The keys that are held are known.
    fn held(self, held: u64, held_keys: Vec<Key>) -> Step {
        let is_over = self.parked == 0;
        let listing = Self { part: Part::Parked, held, held_keys, ..self };
        if is_over { listing.over(Vec::new()) } else { Step::Ask(listing) }
    }

    fn keys(&self, subjects: &[String], is_held: bool) -> Vec<Key> {
        let read = subjects.iter().filter_map(|subject| KeySubject::read(&self.handler, subject));
        let is_wanted = |found: &KeySubject| found.lane == self.lane && found.is_held == is_held;
        read.filter(is_wanted).map(|found| found.key).filter(|key| self.section.has(*key)).collect()
    }

    /// What is parked, and what is held without anything parked.
    fn over(self, parked: Vec<Key>) -> Step {
        let mut keys: BTreeMap<Key, bool> = parked.into_iter().map(|key| (key, false)).collect();
        keys.extend(self.held_keys.iter().map(|key| (*key, true)));
        let count = self.parked.max(self.held).max(keys.len() as u64);
        let are_all = self.are_all && keys.len() <= MAX_KEYS;
        // The first ones: of these the held ones may be unknown.
        while keys.len() > MAX_KEYS {
            keys.pop_first();
        }
        Step::Over(ParkedKeys { keys: keys.into_iter().collect(), are_all, count })
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
        let prefix = request["subjects_filter"].as_str().unwrap().trim_end_matches(['*', '.']);
        let mut all: Vec<&String> =
            subjects.iter().filter(|subject| subject.starts_with(&format!("{prefix}."))).collect();
        all.sort();
        let offset = usize::try_from(request["offset"].as_u64().unwrap()).unwrap().min(all.len());
        let page: HashMap<&String, u64> = all[offset..].iter().map(|subject| (*subject, 1)).collect();
        assert!(page.len() <= MAX_KEYS, "{}", page.len());
        let state = if page.is_empty() { json!({}) } else { json!({"subjects": page}) };
        json!({"total": all.len(), "state": state, "cluster": {"leader": "broker-0"}}).to_string()
    }

    fn list(subjects: &[String], section: Section) -> (ParkedKeys, usize) {
        let mut listing = Listing::new("billing", 3, section);
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

    fn all(keys: &[(Key, bool)]) -> ParkedKeys {
        ParkedKeys { keys: keys.to_vec(), are_all: true, count: keys.len() as u64 }
    }

    #[test]
    fn a_lane_without_parked_keys_takes_two_questions() {
        let others = [layout::waiting_subject("billing"), layout::parked_subject("billing", 4, 1)];
        assert_eq!(list(&others, Section::ALL), (all(&[]), 2));
    }

    #[test]
    fn what_is_held_is_told_with_the_others() {
        let subjects = [parked(7), held(9), parked(9), parked(8), held(5), layout::held_subject("billing", 4, 7)];
        assert_eq!(list(&subjects, Section::ALL), (all(&[(5, true), (7, false), (8, false), (9, true)]), 4));
        assert_eq!(list(&[parked(7), parked(8)], Section::ALL), (all(&[(7, false), (8, false)]), 3));
        assert_eq!(list(&[held(7)], Section::ALL), (all(&[(7, true)]), 3));
    }

    #[test]
    fn more_than_can_be_known_are_listed_by_sections() {
        let count = 3 * MAX_KEYS as u64;
        let key = |number: u64| (number % 16) << 60 | number;
        let mut subjects: Vec<String> = (0..count).map(|number| parked(key(number))).collect();
        subjects.extend((0..count).filter(|number| number % 32 == 3).map(|number| held(key(number))));
        let (told, asked) = list(&subjects, Section::ALL);
        assert_eq!((told, asked), (ParkedKeys { keys: Vec::new(), are_all: false, count }, 1));
        let sections = std::iter::successors(Some(Section::first_of(count, MAX_KEYS)), |section| section.next());
        let told: Vec<ParkedKeys> = sections.map(|section| list(&subjects, section).0).collect();
        assert!(told.iter().all(|told| told.are_all && told.count == count / 16));
        let keys: BTreeMap<Key, bool> = told.into_iter().flat_map(|told| told.keys).collect();
        assert_eq!(keys, (0..count).map(|number| (key(number), number % 32 == 3)).collect());
    }

    #[test]
    fn of_more_than_a_list_takes_it_is_known_which_are_held() {
        let many = 3 * MAX_KEYS as u64;
        let mut subjects: Vec<String> = (0..many).map(parked).collect();
        subjects.extend((0..many).filter(|key| key % 2 == 0).map(held));
        let section = Section::first_of(many, MAX_KEYS);
        let (ParkedKeys { keys, are_all, count }, asked) = list(&subjects, section);
        assert_eq!((keys.len(), are_all, count, asked), (MAX_KEYS, false, many, 4));
        assert!(keys.iter().all(|(key, is_held)| (key % 2 == 0) == *is_held));
        assert_eq!(keys.last().map(|(key, _)| *key), Some(many - 1));
        let exactly: Vec<String> = (0..MAX_KEYS as u64).map(parked).collect();
        assert!(list(&exactly, Section::ALL).0.are_all);
        let without_events: Vec<String> = exactly.into_iter().chain([held(many)]).collect();
        let (ParkedKeys { keys, are_all, .. }, _) = list(&without_events, Section::ALL);
        assert_eq!((keys.len(), are_all, keys.last()), (MAX_KEYS, false, Some(&(many, true))));
    }

    #[test]
    fn only_the_leaders_word_counts() {
        let heard = |payload: &str| Listing::new("billing", 3, Section::ALL).heard(payload.as_bytes()).is_some();
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
        let mut listing = Listing::new("billing", 3, Section::ALL);
        (listing.part, listing.parked) = (Part::Parked, 3);
        let strange =
            ["retries.billing.parked.3.zz", "retries.billing.parked.4.0.0.0000000000000001", "retries.shipping"];
        let subjects: HashMap<&str, u64> = strange.iter().map(|subject| (*subject, 1)).collect();
        let payload = json!({"total": 3, "state": {"subjects": subjects}}).to_string();
        let over = Step::Over(ParkedKeys { keys: Vec::new(), are_all: true, count: 3 });
        assert_eq!(listing.heard(payload.as_bytes()), Some(over));
    }
}

//! What a topic's rules let a publisher publish.

use std::sync::Arc;

use tidegate_broker_client::contract::{MAX_RULES, PublisherRule, RuleKind};

use crate::publisher::{Publisher, PublisherKind};

/// The rules of a topic.
#[derive(Clone, Debug, Default)]
pub struct Rules(Arc<[PublisherRule]>);

/// What one publisher may publish to a topic, before it is known what it publishes.
#[derive(Clone, Debug)]
pub struct Permission {
    rules: Rules,
    /// The rules that are about the publisher, one bit each; `None`: no rule limits it.
    matching: Option<u64>,
}

/// What of an event is not covered by any rule about its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Its source.
    #[error("this publisher may not use the source of the event (sources in spec.publishers of the EventTopic)")]
    Source,
    /// Its type, from this source.
    #[error("this publisher may not use the type of the event (types in spec.publishers of the EventTopic)")]
    Type,
}

impl Rules {
    /// These rules.
    pub fn new(rules: &[PublisherRule]) -> Self {
        Self(rules.iter().take(MAX_RULES).cloned().collect())
    }

    /// What this publisher may publish; `None`: nothing. A handler that proved itself was admitted by its topic's
    /// operator. A rule for everybody is one for those that are known, too.
    pub fn permission(&self, publisher: &Publisher) -> Option<Permission> {
        if matches!(publisher.kind(), PublisherKind::Handler { .. }) {
            return Some(Permission { rules: self.clone(), matching: None });
        }
        let Self(rules) = self;
        let matching = rules.iter().zip(0..u64::BITS).filter(|(rule, _)| is_about(&rule.kind, publisher.kind()));
        let matching = matching.fold(0, |bits: u64, (_, number)| bits | 1 << number);
        (matching != 0).then(|| Permission { rules: self.clone(), matching: Some(matching) })
    }
}

impl Permission {
    /// Whether it may publish an event with this source and type.
    ///
    /// # Errors
    /// No rule about this publisher covers it.
    pub fn check(&self, source: &str, event_type: &str) -> Result<(), NotAllowed> {
        let Some(matching) = self.matching else { return Ok(()) };
        let Rules(rules) = &self.rules;
        let mut matching = rules.iter().zip(0..u64::BITS).filter(|(_, number)| matching & 1 << number != 0);
        let mut refused = NotAllowed::Source;
        let covers = |(rule, _): (&PublisherRule, u32)| {
            let covers_source = rule.covers_source(source);
            if covers_source {
                refused = NotAllowed::Type;
            }
            covers_source && rule.covers_type(event_type)
        };
        if matching.any(covers) { Ok(()) } else { Err(refused) }
    }
}

fn is_about(rule: &RuleKind, publisher: &PublisherKind) -> bool {
    match (rule, publisher) {
        (RuleKind::Anonymous {}, _) => true,
        (RuleKind::ServiceAccount { namespace, name }, PublisherKind::ServiceAccount { namespace: of, name: own }) => {
            namespace == of && name.as_ref().is_none_or(|name| name == own)
        }
        (RuleKind::Certificate { uri }, PublisherKind::Certificate { uri: own }) => uri == own,
        (RuleKind::Nats { name }, PublisherKind::Nats { name: own }) => name == own,
        (RuleKind::ServiceAccount { .. } | RuleKind::Certificate { .. } | RuleKind::Nats { .. }, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: Option<&str>) -> RuleKind {
        RuleKind::ServiceAccount { namespace: namespace.into(), name: name.map(Into::into) }
    }

    fn rule(kind: RuleKind, sources: &[&str], types: &[&str]) -> PublisherRule {
        let patterns = |list: &[&str]| list.iter().map(|text| (*text).to_owned().try_into().unwrap()).collect();
        PublisherRule { kind, sources: patterns(sources), types: patterns(types) }
    }

    #[test]
    fn a_rule_is_about_the_publishers_that_it_names() {
        let checkout = Publisher::service_account("web", "checkout");
        let publishers = [
            checkout.clone(),
            Publisher::service_account("web", "other"),
            Publisher::service_account("shop", "checkout"),
            Publisher::certificate("spiffe://a/b"),
            Publisher::certificate("spiffe://a/B"),
            Publisher::nats("till"),
            Publisher::nats("checkout"),
            Publisher::anonymous(),
        ];
        for (kind, admitted) in [
            (account("web", Some("checkout")), &[0][..]),
            (account("web", None), &[0, 1]),
            (RuleKind::Certificate { uri: "spiffe://a/b".into() }, &[3]),
            (RuleKind::Nats { name: "till".into() }, &[5]),
            (RuleKind::Anonymous {}, &[0, 1, 2, 3, 4, 5, 6, 7]),
        ] {
            let rules = Rules::new(&[rule(kind.clone(), &[], &[])]);
            for (publisher, number) in publishers.iter().zip(0..) {
                assert_eq!(rules.permission(publisher).is_some(), admitted.contains(&number), "{kind:?} {publisher}");
            }
        }
        assert!(publishers.iter().all(|publisher| Rules::default().permission(publisher).is_none()), "no rule, nobody");
        let handler = Rules::default().permission(&Publisher::handler("uid")).unwrap();
        assert_eq!(handler.check("/any", "any"), Ok(()));
    }

    #[test]
    fn an_event_needs_one_rule_that_covers_all_of_it() {
        let checkout = Publisher::service_account("web", "checkout");
        let rules = Rules::new(&[
            rule(account("web", Some("other")), &[], &[]),
            rule(account("web", None), &["/a"], &["t.*"]),
            rule(account("web", Some("checkout")), &["/b*"], &[]),
        ]);
        let permission = rules.permission(&checkout).unwrap();
        for (source, event_type, expected) in [
            ("/a", "t.x", Ok(())),
            ("/a", "x", Err(NotAllowed::Type)),
            ("/b/c", "x", Ok(())),
            ("/c", "t.x", Err(NotAllowed::Source)),
        ] {
            assert_eq!(permission.check(source, event_type), expected, "{source} {event_type}");
        }
    }

    #[test]
    fn the_last_of_the_most_rules_counts() {
        let mut rules = vec![rule(account("other", None), &[], &[]); MAX_RULES - 1];
        rules.push(rule(account("web", None), &[], &["t"]));
        let permission = Rules::new(&rules).permission(&Publisher::service_account("web", "a")).unwrap();
        assert_eq!(permission.check("/s", "t"), Ok(()));
        assert_eq!(permission.check("/s", "u"), Err(NotAllowed::Type));
    }
}

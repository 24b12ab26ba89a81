//! The resource that a user means: every command reads it here.

use std::str::FromStr;

use crate::terminal::text;

/// The longest name in Kubernetes.
const MAX_NAME: usize = 253;

/// Its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An EventBroker.
    Broker,
    /// An EventTopic.
    Topic,
    /// An EventHandler.
    Handler,
}

impl Kind {
    /// Its name in Kubernetes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Broker => "EventBroker",
            Self::Topic => "EventTopic",
            Self::Handler => "EventHandler",
        }
    }
}

/// A resource, as KIND/NAME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl Target {
    /// In words, with the namespace that it is looked for in.
    pub fn shown(&self, namespace: &str) -> String {
        format!("{} {}/{}", self.kind.name(), text(namespace), text(&self.name))
    }
}

/// Whether a name is one that Kubernetes has, so that it can be a part of an address.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.chars().all(is_allowed)
}

impl FromStr for Target {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let wrong =
            || "expected KIND/NAME, with the kind topic, handler or broker: for example handler/billing".to_owned();
        let (kind, name) = words.split_once('/').ok_or_else(wrong)?;
        let kind = kind.to_ascii_lowercase();
        // `kubectl get -o name` says eventhandler.tidegate.io/billing.
        let kind = match kind.strip_suffix(".tidegate.io").unwrap_or(&kind) {
            "broker" | "brokers" | "eventbroker" | "eventbrokers" | "eb" => Kind::Broker,
            "topic" | "topics" | "eventtopic" | "eventtopics" | "et" => Kind::Topic,
            "handler" | "handlers" | "eventhandler" | "eventhandlers" | "eh" => Kind::Handler,
            _ => return Err(wrong()),
        };
        if !is_name(name) {
            return Err(format!("{:?}: a name has lower-case letters, digits, '-' and '.'", text(name)));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// A topic, of which the kind need not be said; or a handler.
///
/// # Errors
/// It is neither, in words.
pub fn topic_or_handler(words: &str) -> Result<Target, String> {
    let target = of_kind(words, "topic")?;
    match target.kind {
        Kind::Topic | Kind::Handler => Ok(target),
        Kind::Broker => Err("expected TOPIC, topic/TOPIC or handler/HANDLER: a broker has many topics".to_owned()),
    }
}

/// The name of a handler, of which the kind need not be said.
///
/// # Errors
/// It is none, in words.
pub fn handler(words: &str) -> Result<String, String> {
    let target = of_kind(words, "handler")?;
    match target.kind {
        Kind::Handler => Ok(target.name),
        _ => Err("expected HANDLER or handler/HANDLER: dead letters are a handler's".to_owned()),
    }
}

fn of_kind(words: &str, kind: &str) -> Result<Target, String> {
    if words.contains('/') { words.parse() } else { format!("{kind}/{words}").parse() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_knows() {
        for (words, kind) in [
            ("broker/a", Kind::Broker),
            ("eb/a", Kind::Broker),
            ("topic/a", Kind::Topic),
            ("EventTopics/a", Kind::Topic),
            ("handler/a", Kind::Handler),
            ("eventhandler.tidegate.io/a", Kind::Handler),
            ("eventtopics.tidegate.io/a", Kind::Topic),
        ] {
            assert_eq!(words.parse(), Ok(Target { kind, name: "a".into() }), "{words}");
        }
        for bad in
            ["", "handler", "handler/", "/a", "pod/a", "handler/A", "handler/a/b", "handler/\u{1b}[2J", "handler/.. /"]
        {
            let why = bad.parse::<Target>().unwrap_err();
            assert!(!why.contains('\u{1b}'), "{why:?}");
        }
    }

    #[test]
    fn the_kind_is_said_alike_in_every_command_and_need_not_be_said() {
        for words in ["billing", "handler/billing", "eh/billing", "eventhandler.tidegate.io/billing"] {
            assert_eq!(handler(words).as_deref(), Ok("billing"), "{words}");
        }
        for words in ["orders", "topic/orders", "et/orders", "eventtopic/orders"] {
            assert_eq!(topic_or_handler(words), Ok(Target { kind: Kind::Topic, name: "orders".into() }), "{words}");
        }
        assert_eq!(topic_or_handler("eh/billing").map(|target| target.kind), Ok(Kind::Handler));
        for bad in ["broker/a", "pod/a", "", "handler/", "A", "..", "a/b/c", "../x"] {
            assert!(topic_or_handler(bad).is_err() && handler(bad).is_err(), "{bad}");
        }
        assert!(handler("topic/orders").is_err());
    }
}

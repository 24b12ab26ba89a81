//! The resource that a user means.

use std::str::FromStr;

use crate::terminal::text;

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

impl FromStr for Target {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        let wrong =
            || "expected KIND/NAME, with the kind topic, handler or broker: for example handler/billing".to_owned();
        let (kind, name) = words.split_once('/').filter(|(_, name)| !name.is_empty()).ok_or_else(wrong)?;
        let kind = kind.to_ascii_lowercase();
        // `kubectl get -o name` says eventhandler.tidegate.io/billing.
        let kind = match kind.strip_suffix(".tidegate.io").unwrap_or(&kind) {
            "broker" | "brokers" | "eventbroker" | "eventbrokers" | "eb" => Kind::Broker,
            "topic" | "topics" | "eventtopic" | "eventtopics" | "et" => Kind::Topic,
            "handler" | "handlers" | "eventhandler" | "eventhandlers" | "eh" => Kind::Handler,
            _ => return Err(wrong()),
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.chars().all(is_name) {
            return Err(format!("{}: a name has lower-case letters, digits and '-'", text(name)));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
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
}

//! Who publishes.

use std::fmt;

/// A publisher whose identity is proved, or that showed none.
///
/// Its text is a part of message ids and of the audit log. No two publishers have the same one: it begins with its kind,
/// and nothing in it is of the publisher's own choice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Publisher {
    kind: PublisherKind,
    text: String,
}

/// How a publisher is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PublisherKind {
    /// By a token.
    ServiceAccount {
        /// The namespace of the ServiceAccount.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// By a client certificate with this URI.
    Certificate {
        /// The URI.
        uri: String,
    },
    /// By its account in the broker.
    Nats {
        /// The topic's name for it.
        name: String,
    },
    /// A handler of Tidegate, by a message id that only its key can make.
    Handler {
        /// The UID of its EventHandler.
        uid: String,
    },
    /// It showed nothing.
    Anonymous,
}

impl Publisher {
    /// A ServiceAccount.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let kind = PublisherKind::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() };
        Self { kind, text: format!("system:serviceaccount:{namespace}:{name}") }
    }

    /// Whoever has a certificate with this URI.
    pub fn certificate(uri: &str) -> Self {
        Self { kind: PublisherKind::Certificate { uri: uri.to_owned() }, text: format!("certificate:{uri}") }
    }

    /// A publisher over NATS.
    pub fn nats(name: &str) -> Self {
        Self { kind: PublisherKind::Nats { name: name.to_owned() }, text: format!("nats:{name}") }
    }

    /// A handler.
    pub fn handler(uid: &str) -> Self {
        Self { kind: PublisherKind::Handler { uid: uid.to_owned() }, text: format!("handler:{uid}") }
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        Self { kind: PublisherKind::Anonymous, text: "anonymous".to_owned() }
    }

    /// How it is known.
    pub fn kind(&self) -> &PublisherKind {
        &self.kind
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it showed nothing.
    pub fn is_anonymous(&self) -> bool {
        self.kind == PublisherKind::Anonymous
    }
}

impl PublisherKind {
    /// One of a few words, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ServiceAccount { .. } => "service_account",
            Self::Certificate { .. } => "certificate",
            Self::Nats { .. } => "nats",
            Self::Handler { .. } => "handler",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Its text.
impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_publishers_have_one_text() {
        let all = [
            Publisher::service_account("web", "checkout"),
            Publisher::certificate("system:serviceaccount:web:checkout"),
            Publisher::nats("web:checkout"),
            Publisher::handler("web:checkout"),
            Publisher::nats("anonymous"),
            Publisher::anonymous(),
        ];
        let texts: std::collections::HashSet<_> = all.iter().map(Publisher::to_string).collect();
        assert_eq!(texts.len(), all.len());
        assert_eq!(all[0].as_str(), "system:serviceaccount:web:checkout");
    }
}

//! Why something is not a CloudEvent, in words its publisher can act on.

use std::borrow::Cow;
use std::fmt;

/// Why something is not a CloudEvent. The variants differ in what the receiver answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The content type says that this is no CloudEvent, or one of a format that is not supported (HTTP 415).
    #[error("{0}")]
    UnsupportedMediaType(Cow<'static, str>),
    /// The body is compressed or otherwise encoded (HTTP 415, with `Accept-Encoding`).
    #[error("{0}")]
    UnsupportedEncoding(Cow<'static, str>),
    /// The event breaks a rule of the specification (HTTP 400).
    #[error("{0}")]
    Malformed(Malformed),
    /// The batch holds more events than one request may (HTTP 413).
    #[error("the batch holds more than {limit} events: send them in several requests")]
    TooMany {
        /// Events a batch may hold.
        limit: usize,
    },
}

/// A broken rule, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Position in the batch, from 0; `None` outside of a batch.
    pub position: Option<usize>,
    /// The attribute, if it is about one.
    pub attribute: Option<String>,
    /// What is wrong, and what to send instead.
    pub problem: Cow<'static, str>,
}

impl Invalid {
    /// A problem of one attribute.
    pub fn attribute(name: &str, problem: impl Into<Cow<'static, str>>) -> Self {
        let attribute = Some(shortened(name));
        Self::Malformed(Malformed { position: None, attribute, problem: problem.into() })
    }

    /// A problem of the event as a whole.
    pub fn malformed(problem: impl Into<Cow<'static, str>>) -> Self {
        Self::Malformed(Malformed { position: None, attribute: None, problem: problem.into() })
    }

    /// The same, found at a position of a batch.
    #[must_use]
    pub fn at(self, position: usize) -> Self {
        match self {
            Self::Malformed(malformed) => Self::Malformed(Malformed { position: Some(position), ..malformed }),
            other => other,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "event {position} of the batch: ")?;
        }
        if let Some(attribute) = &self.attribute {
            write!(f, "attribute {attribute:?} ")?;
        }
        f.write_str(&self.problem)
    }
}

/// At most the first 64 characters: what a publisher sent must not blow up our own answer.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

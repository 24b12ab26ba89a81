//! Who may publish to a topic, and by what an ingress recognises publishers.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::topic_id::TopicId;

/// Maximum number of rules of a topic; further ones are skipped.
pub const MAX_RULES: usize = 64;
/// Maximum number of patterns for sources, and of those for types, in a rule.
pub const MAX_PATTERNS: usize = 16;
/// Maximum length of a pattern, of a name and of a URI in a rule, in bytes.
pub const MAX_PATTERN: usize = 256;
/// Maximum number of keys that sign tokens.
pub const MAX_KEYS: usize = 32;
/// Maximum length of the issuer, and of each value of a key, in bytes: an RSA modulus of 8,192 bits has 1,366.
pub const MAX_KEY_VALUE: usize = 2048;
/// Maximum length of [`super::Topics::client_cas`] in bytes.
pub const MAX_CLIENT_CAS: usize = 64 * 1024;

/// The audience of tokens that are for a topic. A token that names another one is not for it.
pub fn audience(topic: &TopicId) -> String {
    format!("{AUDIENCE_PREFIX}{}/{}", topic.namespace(), topic.name())
}

/// What the audiences of all topics begin with; `<namespace>/<name>` follows.
pub const AUDIENCE_PREFIX: &str = "tidegate.io/eventtopic/";

/// Publishers that may publish to a topic, and which events. A topic has a list of rules, and an event needs one of them.
///
/// In JSON it is an object with one of the [kinds](RuleKind) as a field, and with `sources` and `types` where they are
/// not empty: `{"serviceAccount": {"namespace": "web", "name": "checkout"}, "types": ["com.shop.*"]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublisherRule {
    /// Whom it is about.
    #[serde(flatten)]
    pub kind: RuleKind,
    /// The sources of their events. Any, if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Pattern>,
    /// The types of their events. Any, if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<Pattern>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum RuleKind {
    /// A ServiceAccount, which shows a token for the [`audience`] of the topic.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name; `None`: every one of the namespace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Whoever has a client certificate with this name, issued by one of [`super::Topics::client_cas`].
    Certificate {
        /// A subject alternative name of the type URI, compared byte by byte.
        uri: String,
    },
    /// A publisher over NATS.
    Nats {
        /// Its name, which is the topic's own.
        name: String,
    },
    /// Everybody, whether they prove who they are or not.
    Anonymous {},
}

/// A text, or what texts begin with: then a `*` is at its end, and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// A text that is no [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern has 1 to {MAX_PATTERN} bytes, and `*` at its end at most")]
pub struct InvalidPattern;

impl PublisherRule {
    /// A rule for all events of these publishers.
    pub fn new(kind: RuleKind) -> Self {
        Self { kind, sources: Vec::new(), types: Vec::new() }
    }

    /// Everybody may publish everything.
    pub fn anonymous() -> Self {
        Self::new(RuleKind::Anonymous {})
    }

    /// Whether it covers events of this source.
    pub fn covers_source(&self, source: &str) -> bool {
        matches_any(&self.sources, source)
    }

    /// Whether it covers events of this type.
    pub fn covers_type(&self, event_type: &str) -> bool {
        matches_any(&self.types, event_type)
    }

    /// From JSON; `None`: this version does not know all of it, or it is larger than a rule may be. Of such a rule
    /// nothing counts: what is not understood may be what limits it.
    fn from_json(rule: Value) -> Option<Self> {
        let Value::Object(mut fields) = rule else { return None };
        let mut patterns = |name: &str| -> Option<Vec<Pattern>> {
            let Some(list) = fields.remove(name) else { return Some(Vec::new()) };
            serde_json::from_value(list).ok().filter(|list: &Vec<Pattern>| list.len() <= MAX_PATTERNS)
        };
        let (sources, types) = (patterns("sources")?, patterns("types")?);
        let kind: RuleKind = serde_json::from_value(Value::Object(fields)).ok()?;
        kind.is_within_bounds().then_some(Self { kind, sources, types })
    }
}

/// Whether a text matches one of these; no pattern at all matches every text.
fn matches_any(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}

impl RuleKind {
    fn is_within_bounds(&self) -> bool {
        let is_short = |text: &String| (1..=MAX_PATTERN).contains(&text.len());
        match self {
            Self::ServiceAccount { namespace, name } => is_short(namespace) && name.iter().all(is_short),
            Self::Certificate { uri: text } | Self::Nats { name: text } => is_short(text),
            Self::Anonymous {} => true,
        }
    }
}

impl Pattern {
    /// Whether it is this text, or the text begins with it.
    pub fn matches(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => text.starts_with(prefix),
            None => text == self.0,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        let has_other_star = text.strip_suffix('*').unwrap_or(&text).contains('*');
        let is_valid = (1..=MAX_PATTERN).contains(&text.len()) && !has_other_star;
        if is_valid { Ok(Self(text)) } else { Err(InvalidPattern) }
    }
}

impl From<Pattern> for String {
    fn from(Pattern(text): Pattern) -> Self {
        text
    }
}

/// The rules of a topic. Those that this version does not know are left out, and never make the file unusable: whoever
/// they are about may not publish until the ingress is new enough.
pub(super) fn known_rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PublisherRule>, D::Error> {
    let rules = Vec::<Value>::deserialize(deserializer)?;
    let all = rules.len();
    let known: Vec<_> = rules.into_iter().take(MAX_RULES).filter_map(PublisherRule::from_json).collect();
    if known.len() < all {
        tracing::warn!(
            rules = all,
            skipped = all - known.len(),
            "skipping publisher rules that this version does not know"
        );
    }
    Ok(known)
}

/// By what tokens of ServiceAccounts are verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenTrust {
    /// The cluster's issuer, which a token's `iss` must equal: `issuer` of `/.well-known/openid-configuration`.
    pub issuer: String,
    /// The cluster's keys: what `/openid/v1/jwks` answers, together with keys that it no longer has and whose tokens may
    /// not have ended.
    pub keys: Jwks,
}

/// A set of public keys (RFC 7517, section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwks {
    /// The keys.
    pub keys: Vec<Jwk>,
}

/// A public key (RFC 7517, section 4): what of it is needed to verify. Its values are as they were found, and may mean
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// Its type: `RSA`, `EC` or `OKP`.
    pub kty: String,
    /// By what tokens name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The one algorithm that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// What it is for: `sig`.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<String>,
    /// The curve of EC and OKP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// RSA: the modulus, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// RSA: the exponent, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// EC and OKP: a coordinate, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// EC: the other coordinate, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
}

impl TokenTrust {
    /// Whether it is no larger than it may be.
    pub(super) fn is_within_bounds(&self) -> bool {
        let Self { issuer, keys: Jwks { keys } } = self;
        let is_short = |text: &String| text.len() <= MAX_KEY_VALUE;
        let is_key_short = |Jwk { kty, kid, alg, usage, crv, n, e, x, y }: &Jwk| {
            is_short(kty) && [kid, alg, usage, crv, n, e, x, y].into_iter().flatten().all(is_short)
        };
        is_short(issuer) && keys.len() <= MAX_KEYS && keys.iter().all(is_key_short)
    }
}

#[cfg(test)]
#[path = "publishers/tests.rs"]
mod tests;

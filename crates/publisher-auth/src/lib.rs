//! Who a publisher is, and what it may publish. Nothing here asks anybody or waits for anything.
//!
//! - [`Publisher`]: an identity, and its one text.
//! - [`Verifier`]: from a token of a ServiceAccount to an identity, by the cluster's keys.
//! - [`Certificate`]: from a client certificate to an identity.
//! - [`Rules`], [`Permission`]: what a topic's rules let it publish.
//! - [`check_server_certificate`]: the other side of TLS, where a user has made its certificate.
//!
//! - `issuer` (with the feature of that name): a cluster that issues tokens, for tests and benchmarks.
//!
//! A token is checked in two steps, so that whoever has little time decides when the expensive one is made:
//! [`Verifier::check`] finds a token that was verified before, and refuses most of what is none;
//! [`Verifier::prove`] verifies a signature, which takes up to a millisecond.

mod certificate;
mod claims;
#[cfg(any(test, feature = "issuer"))]
#[allow(clippy::expect_used)] // only tests have it
pub mod issuer;
mod key;
mod publisher;
mod rules;
mod server_certificate;
mod token;
mod verifier;

pub use self::certificate::{Certificate, CertificateError};
pub use self::claims::{LEEWAY_SECONDS, MAX_LIFETIME_SECONDS};
pub use self::publisher::{Publisher, PublisherKind};
pub use self::rules::{NotAllowed, Permission, Rules};
pub use self::server_certificate::{ServerCertificateError, check_server_certificate, name_covers_host};
pub use self::token::{MAX_TOKEN, TokenError, Unproven, VerifiedToken};
pub use self::verifier::{Checked, Verifier};

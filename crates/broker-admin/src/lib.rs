//! What only the operator does to a broker. No Kubernetes in here.
//!
//! - [`authority`]: the broker's root of trust, from which every key is derived.
//! - [`issuers`]: its certificate authorities, and the leaves that they make.
//! - [`rollover`]: how others take their place (pure).
//! - [`accounts`]: permissions, as NATS accounts and users (pure).
//! - [`guests`]: what handlers and publishers may do (pure).
//! - [`user_key`]: random keys of handlers and publishers, and how they are replaced (pure).
//! - [`ingress`]: what the ingresses may do (pure).
//! - [`jwt`]: how such a claim is written and signed.
//! - [`server`]: the nats-server's configuration (pure).
//! - [`api`]: the broker's own API: streams, consumers and stored messages.
//! - [`audit`]: whether every copy of every stream has what it should have, and how one that has not is made again.
//! - [`membership`]: which servers a broker has, and how that changes while events flow.
//! - [`overview`]: how far all consumers of a broker are, and what its streams have.
//! - [`push`]: accounts to running servers, over the system account.
//! - [`serving`]: which ingresses serve a topic.
//! - [`streams`], [`handler_streams`], [`consumers`]: a topic's streams, its handlers' streams and consumers.
//! - [`later`]: the stream of events that wait for their time.
//! - [`schedules`]: events that a topic publishes by itself.
//! - [`retries`]: the consumer of a handler's retry shelf.
//! - [`held_keys`]: keys whose events wait there, and their release.
//! - [`relocation`]: a handler's place in its topic, moved.
//! - [`shares`]: how much each handler may store (pure).
//! - [`release`]: room made of what every handler has settled.

pub mod accounts;
pub mod age;
pub mod api;
pub mod audit;
pub mod authority;
mod budget;
pub mod consumers;
mod gather;
pub mod guests;
pub mod handler_streams;
pub mod held_keys;
pub mod ingress;
pub mod issuers;
pub mod jwt;
pub mod later;
mod limits;
pub mod membership;
pub mod overview;
pub mod positions;
pub mod push;
pub mod release;
pub mod relocation;
pub mod retries;
pub mod rollover;
pub mod schedules;
pub mod server;
pub mod serving;
pub mod shares;
mod single_copy;
pub mod stream;
pub mod streams;
pub mod user_key;
mod work_queue;

pub use accounts::Rights;
pub use authority::{Authority, AuthorityError};
pub use issuers::{Anchors, CertificateAuthority, Issuers, Leaf, LeafRequest, Usage};
pub use user_key::{KeyRecord, UserKey, is_ahead};

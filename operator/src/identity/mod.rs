//! Roots of trust, keys and certificates in Secrets.

pub mod authority;
pub mod credentials;
pub mod keys;
pub mod token_keys;
pub mod user_keys;

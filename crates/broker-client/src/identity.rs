//! Who a program is to the broker: a TLS certificate *and* a user of an account.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File names inside an identity folder (and keys of the Secret it is mounted from).
pub mod file {
    /// The certificate authority of the broker, PEM.
    pub const CA: &str = "ca.crt";
    /// The certificate that is shown to the other side, PEM: of an ingress, to publishers.
    pub const CERTIFICATE: &str = "tls.crt";
    /// Its key, PEM.
    pub const KEY: &str = "tls.key";
    /// In an ingress's folder: the certificate that it shows to the broker.
    pub const CLIENT_CERTIFICATE: &str = "client.crt";
    /// Its key.
    pub const CLIENT_KEY: &str = "client.key";
    /// A number that rises whenever certificates are made by, or trust, other authorities. It is written with them.
    pub const GENERATION: &str = "generation";
    /// The NATS user JWT.
    pub const USER_JWT: &str = "user.jwt";
    /// The NATS user's nkey seed.
    pub const USER_SEED: &str = "user.seed";
    /// In an ingress's folder: the JWT of the user that wakes the broker beside it ([`crate::wake`]).
    pub const WAKE_JWT: &str = "wake.jwt";
    /// That user's nkey seed.
    pub const WAKE_SEED: &str = "wake.seed";

    /// In a handler's folder: its [`crate::message_id::HandlerKey`] for this topic, to which it publishes.
    pub fn message_id_key_for(topic: &str) -> String {
        format!("message-ids.{topic}.key")
    }
}

/// One identity, as values.
#[derive(Clone)]
pub struct Identity {
    /// The certificate authority that signed the broker's certificate, PEM.
    pub ca: String,
    /// Client certificate, PEM.
    pub certificate: String,
    /// Key of the client certificate, PEM.
    pub key: String,
    /// User JWT.
    pub user_jwt: String,
    /// The user's nkey seed.
    pub user_seed: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(secret)")
    }
}

/// Where an identity comes from. Asked again at every connect, so that a rotated one is used without a restart.
pub type Source = Arc<dyn Fn() -> Result<Identity, Unreadable> + Send + Sync>;

/// An identity that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("identity: {what}: {why}")]
pub struct Unreadable {
    /// Which part.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Unreadable {
    /// Names the part and the reason.
    pub fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { what: what.into(), why: why.to_string() }
    }
}

/// An identity kept in a folder, as a mounted Secret.
pub fn folder(path: impl Into<PathBuf>) -> Source {
    read(path.into(), [file::CERTIFICATE, file::KEY], [file::USER_JWT, file::USER_SEED])
}

/// The identity in an ingress's folder by which it connects to the broker.
pub fn ingress_folder(path: impl Into<PathBuf>) -> Source {
    read(path.into(), [file::CLIENT_CERTIFICATE, file::CLIENT_KEY], [file::USER_JWT, file::USER_SEED])
}

/// The identity in an ingress's folder by which it wakes the broker beside it.
pub fn wake_folder(path: impl Into<PathBuf>) -> Source {
    read(path.into(), [file::CLIENT_CERTIFICATE, file::CLIENT_KEY], [file::WAKE_JWT, file::WAKE_SEED])
}

/// The [generation](file::GENERATION) of an identity folder; `None`: it has none. What is read of the folder afterwards is of
/// this generation or a later one.
pub fn generation(folder: &Path) -> Option<u64> {
    std::fs::read_to_string(folder.join(file::GENERATION)).ok()?.trim().parse().ok()
}

fn read(path: PathBuf, [certificate, key]: [&'static str; 2], [user_jwt, user_seed]: [&'static str; 2]) -> Source {
    Arc::new(move || {
        let read = |name: &str| {
            let file = path.join(name);
            std::fs::read_to_string(&file).map_err(|error| Unreadable::new(file.display().to_string(), error))
        };
        Ok(Identity {
            ca: read(file::CA)?,
            certificate: read(certificate)?,
            key: read(key)?,
            user_jwt: read(user_jwt)?.trim().to_owned(),
            user_seed: read(user_seed)?.trim().to_owned(),
        })
    })
}

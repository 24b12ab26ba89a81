//! An EventBroker's specification, checked and in numbers (pure).

use std::time::Duration;

use tidegate_broker_client::contract::{Capacity, Flush};
use tidegate_crds::broker::{Durability, EventBrokerSpec, Ingress, Rollover};

use crate::kubernetes::labels;
use crate::reconcile::error::Error;
use crate::reconcile::grants;
use crate::topic::settings::{duration, invalid, percent, size};

/// Share of a volume that the server counts as its store. The rest is for its own files (accounts, consumers, logs of
/// raft) and for the file system: a disk that is quite full stops a stream for good.
const FILE_STORE_PERCENT: u64 = 90;
/// Share of a volume that topics may be promised. A store that is promised more than it has takes no change of a stream
/// any more, not even a smaller one.
const USABLE_PERCENT: u64 = 85;

/// Two stages of a rollover that last so long are over well before an authority ends that it was begun for.
const MAX_PUBLISHER_GRACE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What the builders need to know of a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Servers that there are to be. How many there are now says [`crate::broker::scale::Scale`].
    pub replicas: i32,
    /// Bytes of the volume of each.
    pub volume: u64,
    /// Bytes that the server may store.
    pub file_store: u64,
    /// Bytes that may be promised to topics.
    pub usable: u64,
    /// The volume's size as the user wrote it; where the servers' volumes are larger than that, theirs.
    pub volume_text: String,
    /// On disk before acknowledged?
    pub sync_always: bool,
    /// How much the ingress takes at a time.
    pub capacity: Capacity,
    /// The time that publishers have in a rollover.
    pub publisher_grace: Duration,
}

impl Settings {
    /// Checks what the schema cannot.
    ///
    /// # Errors
    /// A value is not one; the message names the field. (The schema refuses most of it before.)
    pub fn of(spec: &EventBrokerSpec) -> Result<Self, Error> {
        Self::for_volume(spec, size("storage.size", &spec.storage.size)?)
    }

    /// The same for a volume that has another size than the specification says.
    ///
    /// # Errors
    /// As above.
    pub fn for_volume(spec: &EventBrokerSpec, volume: u64) -> Result<Self, Error> {
        grants::check("topics", &spec.topics)?;
        if !matches!(spec.replicas, 1 | 3 | 5) {
            return Err(invalid("replicas", "must be 1, 3 or 5"));
        }
        let asked = size("storage.size", &spec.storage.size)?;
        Ok(Self {
            replicas: spec.replicas,
            volume,
            file_store: percent(volume, FILE_STORE_PERCENT),
            usable: percent(volume, USABLE_PERCENT),
            volume_text: if volume > asked { volume.to_string() } else { spec.storage.size.to_string() },
            sync_always: spec.durability == Durability::Fsync,
            capacity: capacity(spec.ingress.as_ref())?,
            publisher_grace: publisher_grace(&spec.rollover)?,
        })
    }

    /// What a server that is the only one does before it acknowledges an event. Several flush their log for many at once.
    pub fn flush_of_one(&self) -> Flush {
        if self.sync_always { Flush::PerCommit } else { Flush::Shared }
    }
}

/// Refuses labels by which Tidegate selects pods, before the specification is stored.
///
/// # Errors
/// There is one; the message names it.
pub fn check_labels(spec: &EventBrokerSpec) -> Result<(), Error> {
    let refused = spec.pods.labels.keys().find(|key| labels::is_ours(key));
    refused.map_or(Ok(()), |key| Err(invalid(&format!("pods.labels[{key}]"), labels::OF_OUR_DOMAIN)))
}

/// The labels that are left out of the pods, with their fields and the reason.
pub fn left_out(spec: &EventBrokerSpec) -> Vec<String> {
    let refused = spec.pods.labels.keys().filter(|key| labels::is_ours(key));
    refused.map(|key| format!("spec.pods.labels[{key}]: {}", labels::OF_OUR_DOMAIN)).collect()
}

fn publisher_grace(rollover: &Rollover) -> Result<Duration, Error> {
    const FIELD: &str = "rollover.publisherGrace";
    let grace = duration(FIELD, &rollover.publisher_grace)?;
    if grace > MAX_PUBLISHER_GRACE {
        return Err(invalid(FIELD, "must be at most 2160h, the life of a certificate"));
    }
    Ok(grace)
}

fn capacity(ingress: Option<&Ingress>) -> Result<Capacity, Error> {
    let Some(ingress) = ingress else { return Ok(Capacity::default()) };
    let connections = ingress.max_connections.map(u16::try_from).transpose();
    let connections = connections.map_err(|_| invalid("ingress.maxConnections", "must be between 16 and 60000"))?;
    let memory = match &ingress.max_request_memory {
        None => None,
        Some(memory) => {
            let kib = size("ingress.maxRequestMemory", memory)? / 1024;
            let out_of_range = |_| invalid("ingress.maxRequestMemory", "must be between 16Mi and 4Gi");
            Some(u32::try_from(kib).map_err(out_of_range)?)
        }
    };
    Ok(Capacity { connections, request_memory_kib: memory })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(spec: serde_json::Value) -> Result<Settings, Error> {
        Settings::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_capacity_of_the_ingress_is_what_is_asked_for() {
        assert_eq!(settings(json!({})).unwrap().capacity, Capacity::default());
        let asked = json!({"ingress": {"maxConnections": 60000, "maxRequestMemory": "4Gi"}});
        let expected = Capacity { connections: Some(60000), request_memory_kib: Some(4 << 20) };
        assert_eq!(settings(asked).unwrap().capacity, expected);
    }

    #[test]
    fn a_single_server_flushes_each_commit_unless_it_is_relaxed() {
        let flush = |spec| settings(spec).unwrap().flush_of_one();
        assert_eq!(flush(json!({})), Flush::PerCommit);
        assert_eq!(flush(json!({"durability": "Relaxed"})), Flush::Shared);
    }

    #[test]
    fn less_is_promised_than_the_server_may_store_and_that_is_less_than_there_is() {
        let settings = settings(json!({"storage": {"size": "20Gi"}})).unwrap();
        assert!(settings.usable < settings.file_store && settings.file_store < settings.volume);
        assert_eq!(settings.volume, 20 << 30);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        let error = settings(json!({"storage": {"size": "much"}})).unwrap_err();
        assert!(error.to_string().contains("spec.storage.size"), "{error}");
        for replicas in [0, 2, 4, 6] {
            assert!(settings(json!({"replicas": replicas})).unwrap_err().to_string().contains("spec.replicas"));
        }
        assert!(settings(json!({"replicas": 5})).is_ok());
    }

    /// With a handler's the broker's pods would be counted as that handler's, and let in where handlers are.
    #[test]
    fn labels_by_which_tidegate_selects_pods_are_refused() {
        let labelled = |key: &str| -> EventBrokerSpec {
            serde_json::from_value(json!({"pods": {"labels": {"team": "pay", key: "billing"}}})).unwrap()
        };
        let (ours, theirs) = (labelled("tidegate.io/handler"), labelled("app.kubernetes.io/part-of"));
        let error = check_labels(&ours).unwrap_err().to_string();
        assert!(error.starts_with("spec.pods.labels[tidegate.io/handler]: labels of tidegate.io"), "{error}");
        assert_eq!(left_out(&ours), [error]);
        assert!(Settings::of(&ours).is_ok(), "a broker that is stored with one works on");
        assert!(check_labels(&theirs).is_ok() && left_out(&theirs).is_empty());
    }
}

//! The volumes as they are: their real size counts, not what the specification says (pure).

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use tidegate_crds::EventBrokerSpec;

use crate::broker::observe::Observed;
use crate::broker::scale::Scale;
use crate::broker::settings::Settings;
use crate::kubernetes::quantity;
use crate::reconcile::error::Error;

/// A broker pod's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The claim's name.
    pub name: String,
    /// Bytes that were asked for.
    pub requested: u64,
    /// Bytes that may be used: a larger volume than was asked for is not ours to fill.
    pub usable: u64,
    /// What the storage says of a claim that asks for more than its volume has.
    pub pending: Option<String>,
}

impl Volume {
    /// Of a claim; `None`: nothing is known of its size.
    pub fn from_claim(claim: &PersistentVolumeClaim) -> Option<Self> {
        let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
        let requested = quantity::bytes(&requests.get("storage")?.0)?;
        let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
        let usable =
            capacity.and_then(|capacity| quantity::bytes(&capacity.0)).map_or(requested, |bytes| bytes.min(requested));
        Some(Self { name: claim.metadata.name.clone()?, requested, usable, pending: pending(claim) })
    }

    /// Whether it is that of one of so many servers, from the first on.
    fn is_of_first(&self, servers: i32) -> bool {
        let ordinal = self.name.rsplit('-').next().and_then(|number| number.parse::<i32>().ok());
        ordinal.is_none_or(|ordinal| ordinal < servers)
    }

    /// In words, how far a volume is that is to grow.
    pub fn progress(&self) -> String {
        let Self { name, usable, pending, .. } = self;
        let says = pending.as_ref().map(|says| format!(" ({says})")).unwrap_or_default();
        format!("{name} has {usable} bytes{says}")
    }
}

/// What the newest condition of a claim says of its growth.
fn pending(claim: &PersistentVolumeClaim) -> Option<String> {
    let conditions = claim.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().rfind(|condition| condition.status == "True")?;
    Some(match found.message.as_deref().filter(|message| !message.is_empty()) {
        Some(message) => format!("{}: {message}", found.type_),
        None => found.type_.clone(),
    })
}

/// The settings for the volumes there are. Those of servers that are joining, or were removed, do not count.
///
/// # Errors
/// A person wants less than an earlier broker of this name left.
pub fn fit(spec: &EventBrokerSpec, settings: Settings, observed: &Observed, scale: &Scale) -> Result<Settings, Error> {
    let counts = |volume: &&Volume| observed.statefulset.is_none() || volume.is_of_first(scale.copies);
    let smallest = observed.sizes.iter().filter(counts).min_by_key(|volume| volume.usable);
    let Some(smallest) = smallest else { return Ok(settings) };
    if observed.statefulset.is_none()
        && let Some(kept) = observed.sizes.iter().find(|volume| volume.requested > settings.volume)
    {
        let size = &settings.volume_text;
        return Err(Error::refused(
            "VolumesDiffer",
            format!(
                "an earlier broker of this name left volume {} with {} bytes, and storage.size asks for {size}: a volume cannot be made smaller. Delete this broker and make it again with the size it had, or delete the volume to begin without its events",
                kept.name, kept.requested
            ),
        ));
    }
    if smallest.usable == settings.volume {
        return Ok(settings);
    }
    Settings::for_volume(spec, smallest.usable).map_err(|error| {
        let (name, bytes) = (&smallest.name, smallest.usable);
        Error::refused("InvalidSpec", format!("volume {name} has {bytes} bytes: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::json;

    use super::*;

    const GI: u64 = 1 << 30;

    fn claim(requested: &str, capacity: Option<&str>) -> Volume {
        let mut claim = json!({
            "metadata": {"name": "data-default-broker-0"},
            "spec": {"resources": {"requests": {"storage": requested}}},
        });
        if let Some(capacity) = capacity {
            claim["status"] = json!({"capacity": {"storage": capacity}});
        }
        Volume::from_claim(&serde_json::from_value(claim).unwrap()).unwrap()
    }

    fn fitted(spec: serde_json::Value, volume: Volume, runs: bool) -> Result<Settings, Error> {
        let spec: EventBrokerSpec = serde_json::from_value(spec).unwrap();
        let statefulset = runs.then(StatefulSet::default);
        let observed = Observed { sizes: vec![volume], statefulset, ..Observed::default() };
        fit(&spec, Settings::of(&spec).unwrap(), &observed, &Scale::new(1))
    }

    #[test]
    fn the_smaller_of_what_was_asked_for_and_what_there_is_can_be_used() {
        for (requested, capacity, usable) in [
            ("10Gi", None, 10),
            ("10Gi", Some("5Gi"), 5),
            ("10Gi", Some("100Gi"), 10),
            ("10737418240", Some("10Gi"), 10),
        ] {
            assert_eq!(claim(requested, capacity).usable, usable * GI, "{requested} {capacity:?}");
        }
    }

    #[test]
    fn the_real_size_counts() {
        let spec = |size: &str| json!({"storage": {"size": size}});
        let smaller = fitted(spec("20Gi"), claim("5Gi", Some("5Gi")), false).unwrap();
        assert_eq!((smaller.volume, smaller.file_store), (5 * GI, 5 * GI / 100 * 90));
        let larger = fitted(spec("10Gi"), claim("20Gi", Some("20Gi")), true).unwrap();
        assert!(larger.usable > 16 * GI, "somebody enlarged the claim");
        assert_eq!(larger.volume_text, (20 * GI).to_string(), "a server that joins must not make the store smaller");
        assert_eq!(smaller.volume_text, "20Gi", "it is to grow to that");
    }

    #[test]
    fn volumes_of_servers_that_join_do_not_count() {
        let spec: EventBrokerSpec = serde_json::from_value(json!({"storage": {"size": "20Gi"}})).unwrap();
        let sizes = vec![claim("20Gi", None), Volume { name: "data-default-broker-1".into(), ..claim("10Gi", None) }];
        let observed = Observed { sizes, statefulset: Some(StatefulSet::default()), ..Observed::default() };
        let volume = |scale: &Scale| fit(&spec, Settings::of(&spec).unwrap(), &observed, scale).unwrap().volume;
        assert_eq!(volume(&Scale::new(1)), 20 * GI);
        assert_eq!(volume(&Scale { pods: 3, routes: 3, ..Scale::new(1) }), 20 * GI);
        assert_eq!(volume(&Scale::new(3)), 10 * GI);
    }

    #[test]
    fn a_volume_that_would_have_to_shrink_is_refused_in_words() {
        let kept = fitted(json!({"storage": {"size": "5Gi"}}), claim("10Gi", None), false).unwrap_err();
        assert!(
            kept.to_string().contains("data-default-broker-0") && kept.to_string().contains("cannot be made smaller")
        );
    }
}

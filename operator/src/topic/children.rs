//! The child objects of a topic.

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use serde_json::json;
use tidegate_broker_admin::Authority;
use tidegate_broker_client::identity::file;

use crate::broker::desired::child;
use crate::context::Owner;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::sessions::brokers::BrokerKey;

/// What publishers verify the topic's address with.
pub fn ca(owner: &Owner, authority: &Authority) -> Child {
    let name = names::ca(&owner.name);
    let mut metadata = owner.metadata(&name, &names::topic_labels(&owner.name));
    metadata["annotations"] = json!({names::GENERATION_ANNOTATION: authority.rollover.generation.to_string()});
    let value = json!({
        "metadata": metadata,
        "data": {file::CA: authority.trusted_servers()},
    });
    child::<ConfigMap>(&name, value)
}

/// The topic's own address: any pod of its broker that is ready. The ingress there tells topics apart by their hosts.
///
/// A Service cannot select pods of another namespace. Where the broker is in one, the address is another name of the
/// broker's own Service, which has the same ports: the name is in the ingress's certificate, and nothing has to follow
/// the pods.
pub fn service(owner: &Owner, broker: &BrokerKey) -> Child {
    let name = names::topic(&owner.name);
    let spec = if broker.namespace == owner.namespace {
        json!({
            "selector": names::broker_selector(&broker.name),
            "ports": [
                {"name": "https", "port": 443, "targetPort": names::INGRESS_PORT, "protocol": "TCP", "appProtocol": "https"},
                {"name": "mqtts", "port": names::MQTT_PORT, "targetPort": names::MQTT_PORT, "protocol": "TCP"},
            ],
        })
    } else {
        let host = names::broker_host(&broker.name, &broker.namespace);
        json!({"type": "ExternalName", "externalName": format!("{host}.{}", names::CLUSTER_DOMAIN)})
    };
    let value = json!({"metadata": owner.metadata(&name, &names::topic_labels(&owner.name)), "spec": spec});
    child::<Service>(&name, value)
}

//! Ways to a broker from outside of the cluster: what there is of them, what is left of former ones, and the condition
//! `AccessReady`.

use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{Api, DeleteParams};
use kube::{Resource as _, ResourceExt as _};
use tidegate_broker_client::identity::file;
use tidegate_crds::broker::{Access, AccessStatus, AccessType, NodePorts};
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_publisher_auth::check_server_certificate;
use time::OffsetDateTime;

use crate::context::{Context, Owner};
use crate::identity::authority;
use crate::kubernetes::names;
use crate::kubernetes::ownership::belongs_to;
use crate::kubernetes::watches::is_in;
use crate::reconcile::error::Error;

/// Addresses of a load balancer that are shown at most.
const SHOWN: usize = 16;

/// What there is of one way.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As the status shows it.
    pub status: AccessStatus,
    /// What is wrong with it; `None`: it is open.
    pub trouble: Option<Finding>,
}

/// Looks at the Services and certificates of all ways.
///
/// # Errors
/// The API server is away.
pub async fn observe(
    context: &Context,
    owner: &Owner,
    ways: &[Access],
    now: OffsetDateTime,
) -> Result<Vec<Seen>, Error> {
    let services: Api<Service> = Api::namespaced(context.client.clone(), &owner.namespace);
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &owner.namespace);
    let mut seen = Vec::with_capacity(ways.len());
    for access in ways {
        let service = services.get_opt(&names::access(&owner.name, &access.name)).await?;
        let secret = match &access.certificate {
            Some(certificate) => Some(secrets.get_opt(&certificate.secret_name).await?),
            None => None,
        };
        seen.push(look(access, service.as_ref(), secret.as_ref().map(Option::as_ref), now));
    }
    Ok(seen)
}

/// Deletes the Services of ways that the specification no longer names.
///
/// # Errors
/// The API server is away.
pub async fn close_others(context: &Context, owner: &Owner, ways: &[Access]) -> Result<(), Error> {
    let is_left = |labels: &std::collections::BTreeMap<String, String>| {
        let is_named = |name: &String| ways.iter().any(|access| access.name == *name);
        labels.get(names::BROKER_LABEL) == Some(&owner.name)
            && labels.get(names::ACCESS_LABEL).is_some_and(|name| !is_named(name))
    };
    let left = context.stores.broker_services(|service| {
        is_in(service, &owner.namespace) && is_left(service.labels()) && belongs_to(service.meta(), &owner.reference)
    });
    let services: Api<Service> = Api::namespaced(context.client.clone(), &owner.namespace);
    for service in left {
        let name = service.name_any();
        match services.delete(&name, &DeleteParams::default()).await {
            Ok(_) => tracing::info!(broker = owner.name, namespace = owner.namespace, service = name, "access closed"),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The condition; `None`: there are no ways.
pub fn ready(seen: &[Seen]) -> Option<Finding> {
    let open = || Finding::new(kind::ACCESS_READY, Status::True, "Open", "every entry of spec.access is open");
    let trouble = seen.iter().find_map(|seen| seen.trouble.clone());
    (!seen.is_empty()).then(|| trouble.unwrap_or_else(open))
}

/// `secret`: `None` where none is wanted, `Some(None)` where it is not there.
fn look(access: &Access, service: Option<&Service>, secret: Option<Option<&Secret>>, now: OffsetDateTime) -> Seen {
    let status = AccessStatus {
        name: access.name.clone(),
        addresses: service.map(addresses).unwrap_or_default(),
        node_ports: service.and_then(node_ports),
    };
    let name = &access.name;
    let not_ready = |reason: &str, message: String| Finding::new(kind::ACCESS_READY, Status::False, reason, message);
    let certificate = access.certificate.as_ref().zip(secret).and_then(|(certificate, secret)| {
        let (secret_name, hosts) = (&certificate.secret_name, access.hostnames.join(", "));
        let Some(secret) = secret else {
            let message = format!(
                "access {name}: there is no Secret {secret_name} in this namespace; until it is made, clients of {hosts} are shown the broker's own certificate"
            );
            return Some(not_ready("CertificateMissing", message));
        };
        let wrong = check(secret, &access.hostnames, now).err()?;
        let message = format!(
            "access {name}: Secret {secret_name}: {wrong}. Clients of {hosts} are shown the last good certificate, or the broker's own where there was none"
        );
        Some(not_ready("CertificateInvalid", message).stalled())
    });
    let pending = || {
        let waits = access.service_type == AccessType::LoadBalancer && status.addresses.is_empty();
        waits.then(|| {
            let service = service.and_then(|service| service.metadata.name.as_deref()).unwrap_or_default();
            not_ready(
                "LoadBalancerPending",
                format!(
                    "access {name}: Service {service} has no address yet: its Events say what the cluster's load balancer waits for. In a cluster without one choose type: NodePort"
                ),
            )
        })
    };
    let trouble = certificate.or_else(pending);
    Seen { status, trouble }
}

fn addresses(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let points = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    points.filter_map(|point| point.ip.clone().or_else(|| point.hostname.clone())).take(SHOWN).collect()
}

fn node_ports(service: &Service) -> Option<NodePorts> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let port =
        |name: &str| ports.iter().find(|port| port.name.as_deref() == Some(name)).and_then(|port| port.node_port);
    let found = NodePorts { https: port("https"), mqtts: port("mqtts") };
    (found != NodePorts::default()).then_some(found)
}

/// Whether a Secret has a certificate for these hosts that is good now, with its key.
fn check(secret: &Secret, hosts: &[String], now: OffsetDateTime) -> Result<(), String> {
    let files = authority::data(secret);
    let Some(pem) = files.get(file::CERTIFICATE) else { return Err(format!("it has no {}", file::CERTIFICATE)) };
    if !files.contains_key(file::KEY) {
        return Err(format!("it has no {}", file::KEY));
    }
    if !authority::is_pair(&files) {
        return Err(format!("{} and {} are not a certificate and its key in PEM", file::CERTIFICATE, file::KEY));
    }
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
    check_server_certificate(&pem.contents, hosts, now.unix_timestamp()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::{Value, json};
    use time::Duration;

    use super::*;

    fn access(value: Value) -> Access {
        serde_json::from_value(value).unwrap()
    }

    fn secret(hosts: &[&str], from: OffsetDateTime, to: OffsetDateTime) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>()).unwrap();
        (params.not_before, params.not_after) = (from, to);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn stored(certificate: &str, key: &str) -> Secret {
        serde_json::from_value(json!({"data": {"tls.crt": k8s_openapi::ByteString(certificate.into()), "tls.key": k8s_openapi::ByteString(key.into())}}))
            .unwrap()
    }

    #[test]
    fn a_certificate_that_is_of_no_use_says_why() {
        let now = OffsetDateTime::now_utc();
        let (before, after) = (now - Duration::hours(1), now + Duration::hours(1));
        let hosts = vec!["events.example.com".to_owned(), "*.shop.example".to_owned()];
        let way = access(
            json!({"name": "outside", "type": "NodePort", "hostnames": hosts, "certificate": {"secretName": "cert"}}),
        );
        let names = ["events.example.com", "*.shop.example"];
        let (good, key) = secret(&names, before, after);
        let (ended, ended_key) = secret(&names, before, before + Duration::minutes(1));
        let (early, early_key) = secret(&names, after, after + Duration::hours(1));
        let (other, other_key) = secret(&["events.example.com", "a.shop.example"], before, after);
        let (wide, wide_key) = secret(&["*.example.com", "*.shop.example"], before, after);
        for (secret, said) in [
            (Some(stored(&good, &key)), None),
            (Some(stored(&wide, &wide_key)), None),
            (None, Some("there is no Secret cert")),
            (Some(stored(&good, &other_key)), Some("not a certificate and its key")),
            (Some(stored(&good[..good.len() / 2], &key)), Some("not a certificate and its key")),
            (Some(stored("", "")), Some("not a certificate and its key")),
            (Some(Secret::default()), Some("it has no tls.crt")),
            (Some(stored(&ended, &ended_key)), Some("ended at")),
            (Some(stored(&early, &early_key)), Some("not good before")),
            (Some(stored(&other, &other_key)), Some("not for *.shop.example")),
        ] {
            let seen = look(&way, None, Some(secret.as_ref()), now);
            let message = seen.trouble.map(|trouble| trouble.message);
            match said {
                None => assert_eq!(message, None),
                Some(said) => assert!(message.as_deref().is_some_and(|it| it.contains(said)), "{said}: {message:?}"),
            }
        }
    }

    #[test]
    fn a_load_balancer_without_an_address_is_waited_for_and_a_node_port_is_not() {
        let now = OffsetDateTime::now_utc();
        let service = |status: Value| -> Service {
            let ports = json!([{"name": "https", "port": 443, "nodePort": 30443}]);
            serde_json::from_value(
                json!({"metadata": {"name": "default-access-outside"}, "spec": {"ports": ports}, "status": status}),
            )
            .unwrap()
        };
        let balancer = access(json!({"name": "outside"}));
        let pending = look(&balancer, Some(&service(json!({}))), None, now);
        let message = pending.trouble.clone().unwrap().message;
        assert!(message.contains("Service default-access-outside has no address yet"), "{message}");
        assert_eq!(ready(&[pending]).unwrap().reason, "LoadBalancerPending");
        let open = service(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]}}));
        let open = look(&balancer, Some(&open), None, now);
        assert_eq!(open.status.addresses, ["203.0.113.7", "lb.example"]);
        assert!(ready(&[open]).unwrap().is_true());
        let port = look(&access(json!({"name": "outside", "type": "NodePort"})), Some(&service(json!({}))), None, now);
        assert_eq!(port.status.node_ports, Some(NodePorts { https: Some(30443), mqtts: None }));
        assert!(ready(&[port]).unwrap().is_true());
        assert!(ready(&[]).is_none(), "no way is wanted");
    }
}

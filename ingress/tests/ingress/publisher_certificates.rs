//! Client certificates over real TLS: whose are taken, for what, and for how long.

use http::{Request, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Signer, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_broker_client::contract::{PublisherRule, RuleKind};
use tidegate_broker_client::message_id;
use tidegate_cloudevents::http as binding;
use tidegate_test_broker::{TestBroker, eventually};
use time::{Duration, OffsetDateTime};

use crate::publishers::{Cluster, account, start_written};
use crate::support::{Running, answer, event, exchange, http2, messages, post};

pub const SENSOR: &str = "spiffe://plant/sensor";

/// An authority of client certificates.
pub struct Authority {
    pub pem: String,
    params: CertificateParams,
    key: KeyPair,
}

pub type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "clients");
        let key = KeyPair::generate().unwrap();
        Self { pem: params.self_signed(&key).unwrap().pem(), params, key }
    }

    fn issue(&self, uris: &[&str], usage: ExtendedKeyUsagePurpose, ends: OffsetDateTime) -> ClientIdentity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.extended_key_usages = vec![usage];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
        params.not_after = ends;
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &Signer::from_params(&self.params, &self.key)).unwrap();
        (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    pub fn client(&self, uris: &[&str]) -> ClientIdentity {
        self.issue(uris, ExtendedKeyUsagePurpose::ClientAuth, OffsetDateTime::now_utc() + Duration::hours(1))
    }
}

/// Says to the ingress which authorities and rules there are.
fn write(broker: &TestBroker, authorities: Option<String>, rules: &[PublisherRule]) {
    broker.write_file(|file| {
        file.client_cas = authorities;
        file.topics.iter_mut().for_each(|topic| topic.publishers = rules.to_vec());
    });
}

pub fn certificate_rule(uri: &str) -> PublisherRule {
    PublisherRule::new(RuleKind::Certificate { uri: uri.into() })
}

async fn start(authority: &Authority) -> (TestBroker, Running) {
    let broker = TestBroker::start().await;
    write(&broker, Some(authority.pem.clone()), &[certificate_rule(SENSOR)]);
    let ingress = start_written(&broker).await;
    (broker, ingress)
}

pub fn publish(id: &str) -> Request<http_body_util::Full<bytes::Bytes>> {
    let body = binding::encode_structured(&event(id)).unwrap();
    post(&[("content-type", "application/cloudevents+json")], body)
}

/// The status of a publish with this certificate; `None`: the server ended the handshake.
pub async fn status(ingress: &Running, identity: ClientIdentity) -> Option<StatusCode> {
    let stream = ingress.connect_with(ingress.https, b"http/1.1", identity).await.ok()?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    tokio::spawn(connection);
    Some(sender.send_request(publish("1")).await.ok()?.status())
}

#[tokio::test]
async fn a_certificate_names_its_publisher_by_one_uri() {
    let authority = Authority::new();
    let (broker, ingress) = start(&authority).await;
    assert_eq!(status(&ingress, authority.client(&[SENSOR])).await, Some(StatusCode::ACCEPTED));
    let stored = messages(&broker).await;
    let id = message_id::of_publisher("certificate:spiffe://plant/sensor", "/sensors/1", "1");
    assert_eq!(stored[0].headers.get("Nats-Msg-Id").unwrap().as_str(), id);
    for (uris, expected) in [
        (&["spiffe://plant/sensor/1"][..], StatusCode::FORBIDDEN),
        (&["spiffe://plant/Sensor"], StatusCode::FORBIDDEN),
        (&[], StatusCode::UNAUTHORIZED),
        (&[SENSOR, "spiffe://plant/other"], StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(status(&ingress, authority.client(uris)).await, Some(expected), "{uris:?}");
    }
    let without = ingress.send(publish("1")).await;
    assert_eq!(without.status, StatusCode::UNAUTHORIZED, "a certificate is not needed to connect");
    // A token says who it is, whatever the certificate says.
    let mut both = publish("1");
    both.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
    let stream = ingress.connect_with(ingress.https, b"http/1.1", authority.client(&[SENSOR])).await.unwrap();
    assert_eq!(exchange(stream, both).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(messages(&broker).await.len(), 1);
}

#[tokio::test]
async fn a_certificate_that_is_not_good_ends_the_handshake() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (broker, ingress) = start(&authority).await;
    let soon = OffsetDateTime::now_utc() + Duration::hours(1);
    let over = OffsetDateTime::now_utc() - Duration::days(1);
    for (identity, what) in [
        (other.client(&[SENSOR]), "of another authority"),
        (authority.issue(&[SENSOR], ExtendedKeyUsagePurpose::ServerAuth, soon), "of a server"),
        (authority.issue(&[SENSOR], ExtendedKeyUsagePurpose::ClientAuth, over), "over"),
    ] {
        assert_eq!(status(&ingress, identity).await, None, "{what}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate_or_its_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (broker, ingress) = start(&authority).await;
    let ends = OffsetDateTime::now_utc() + Duration::seconds(4);
    let short = authority.issue(&[SENSOR], ExtendedKeyUsagePurpose::ClientAuth, ends);
    let mut short = http2(ingress.connect_with(ingress.https, b"h2", short).await.unwrap()).await;
    let mut long = http2(ingress.connect_with(ingress.https, b"h2", authority.client(&[SENSOR])).await.unwrap()).await;
    let send = async |sender: &mut hyper::client::conn::http2::SendRequest<_>| {
        let (mut head, body) = publish("1").into_parts();
        head.uri = "https://localhost/".parse().unwrap();
        head.headers.remove("host");
        sender.ready().await.unwrap();
        answer(sender.send_request(Request::from_parts(head, body)).await.unwrap()).await
    };
    assert_eq!(send(&mut short).await.status, StatusCode::ACCEPTED);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let expired = send(&mut short).await;
    assert_eq!(expired.status, StatusCode::UNAUTHORIZED);
    assert!(expired.detail().contains("expired"), "{}", expired.detail());
    assert_eq!(send(&mut long).await.status, StatusCode::ACCEPTED);

    // What is no authority changes nothing, and what is taken over counts for open connections, too.
    for bad in ["half a certificate", &authority.pem[..100]] {
        write(&broker, Some(bad.to_owned()), &[certificate_rule(SENSOR), account("web", None)]);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert_eq!(send(&mut long).await.status, StatusCode::ACCEPTED);
    }
    write(&broker, Some(format!("{}{}", other.pem, authority.pem)), &[certificate_rule(SENSOR)]);
    eventually("the new authority counts", async || {
        status(&ingress, other.client(&[SENSOR])).await == Some(StatusCode::ACCEPTED)
    })
    .await;
    assert_eq!(send(&mut long).await.status, StatusCode::ACCEPTED, "and the old one still does");
    write(&broker, Some(other.pem.clone()), &[certificate_rule(SENSOR)]);
    eventually("the old authority no longer counts", async || {
        status(&ingress, authority.client(&[SENSOR])).await.is_none()
    })
    .await;
    let withdrawn = send(&mut long).await;
    assert_eq!(withdrawn.status, StatusCode::UNAUTHORIZED);
    assert!(withdrawn.detail().contains("known authority"), "{}", withdrawn.detail());
}

#[tokio::test]
async fn without_authorities_no_certificate_is_asked_for() {
    let cluster = Cluster::start(&[certificate_rule(SENSOR)]).await;
    let identity = Authority::new().client(&[SENSOR]);
    assert_eq!(status(&cluster.ingress, identity).await, Some(StatusCode::UNAUTHORIZED));
}

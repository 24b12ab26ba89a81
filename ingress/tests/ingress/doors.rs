//! The doors of an ingress (8443, 8883, 8081), tried with what opens those of the broker beside it. Who may publish with
//! what is in `publishers`, `publisher_certificates` and `publisher_devices`; the broker's own ports are in
//! `crates/broker-admin/tests/broker/doors`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Request, StatusCode};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait as _, Packet, v5_0};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_broker_client::identity::file;
use tidegate_publisher_auth::issuer::Issuer;
use tidegate_test_broker::TestBroker;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::publisher_certificates::{Authority, ClientIdentity, SENSOR, certificate_rule, publish, status};
use crate::publishers::{account, start_written};
use crate::support::{Running, exchange, messages};

/// Whoever has an identity of the broker's, or can read one.
async fn people(broker: &TestBroker) -> Vec<(&'static str, PathBuf)> {
    vec![
        ("handler", broker.handler("billing", Duration::from_secs(30)).await),
        ("publisher over NATS", broker.publisher("sensors").await),
        ("ingress", broker.ingress_client_dir()),
        ("waker", broker.wake_client_dir()),
        ("server", broker.server_identity_dir()),
    ]
}

fn leaf(folder: &Path) -> ClientIdentity {
    let chain = CertificateDer::pem_file_iter(folder.join(file::CERTIFICATE)).unwrap();
    (chain.map(Result::unwrap).collect(), PrivateKeyDer::from_pem_file(folder.join(file::KEY)).unwrap())
}

/// Whether a device with this certificate is answered at all, which comes after the handshake.
async fn is_answered(ingress: &Running, identity: ClientIdentity) -> bool {
    let Ok(mut stream) = ingress.connect_with(ingress.mqtt, b"mqtt", identity).await else { return false };
    let connect: Packet = v5_0::Connect::builder().keep_alive(60).build().unwrap().into();
    // One that was refused may be gone by now.
    let _ = stream.write_all(&connect.to_continuous_buffer()).await;
    stream.read_u8().await.is_ok()
}

/// The status of a publish without a certificate, with these credentials.
async fn with_credentials(ingress: &Running, credentials: &str) -> StatusCode {
    let mut request = publish("1");
    request.headers_mut().insert("authorization", format!("Bearer {credentials}").parse().unwrap());
    ingress.send(request).await.status
}

/// The code of a CONNACK for this password.
async fn with_password(ingress: &Running, password: &str) -> u8 {
    let connect = v5_0::Connect::builder().user_name("ignored").unwrap().password(password.as_bytes().to_vec());
    let stream = ingress.connect_to(ingress.mqtt, b"mqtt").await;
    let (_, connack) = crate::device::Device::greet_v5(stream, connect.unwrap().build().unwrap()).await;
    connack.reason_code() as u8
}

#[tokio::test]
async fn what_opens_the_broker_opens_no_door_of_an_ingress() {
    let (broker, devices) = (TestBroker::start().await, Authority::new());
    let issuer = Issuer::new("https://cluster", "key-1", "ES256");
    broker.write_file(|file| {
        file.tokens = Some(issuer.trust());
        file.client_cas = Some(devices.pem.clone());
        let rules = [certificate_rule(SENSOR), account("web", None)];
        file.topics.iter_mut().for_each(|topic| topic.publishers = rules.to_vec());
    });
    let ingress = start_written(&broker).await;
    for (who, folder) in people(&broker).await {
        assert_eq!(status(&ingress, leaf(&folder)).await, None, "8443, certificate of {who}");
        assert!(!is_answered(&ingress, leaf(&folder)).await, "8883, certificate of {who}");
        // A server has no user.
        let Ok(user) = std::fs::read_to_string(folder.join(file::USER_JWT)) else { continue };
        assert_eq!(with_credentials(&ingress, user.trim()).await, StatusCode::UNAUTHORIZED, "8443, user of {who}");
        assert_eq!(with_password(&ingress, user.trim()).await, 0x86, "8883, user of {who}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
    assert_eq!(status(&ingress, devices.client(&[SENSOR])).await, Some(StatusCode::ACCEPTED), "control");
    assert!(is_answered(&ingress, devices.client(&[SENSOR])).await, "control");
}

/// Whoever reaches the port of the probes learns whether the pod is well, and nothing else of it.
#[tokio::test]
async fn the_port_of_the_probes_shows_nothing_and_takes_nothing() {
    let broker = TestBroker::start().await;
    broker.write_topics(|_| {});
    let ingress = start_written(&broker).await;
    let pages =
        ["/", "/varz", "/jsz", "/connz", "/accountz", "/healthz", "/broker", "/broker/jsz", "/broker/live/../varz"];
    for page in pages {
        assert_eq!(ingress.probe(page).await, StatusCode::NOT_FOUND, "{page}");
    }
    for page in ["/livez", "/readyz", "/broker/live"] {
        assert_eq!(ingress.probe(page).await, StatusCode::OK, "{page}");
    }
    for page in ["/", "/test/topic"] {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", ingress.admin)).await.unwrap();
        let (mut head, body) = publish("1").into_parts();
        head.uri = page.parse().unwrap();
        let answer = exchange(stream, Request::from_parts(head, body)).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_FOUND, 0), "{page}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
}

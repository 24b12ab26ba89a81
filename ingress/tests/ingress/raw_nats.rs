//! A publisher over NATS without a client library: it sends headers that none would.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tidegate_broker_client::{identity::file, layout};
use tidegate_test_broker::TestBroker;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Publishes an event with this header line (or status line, if it is one), and waits until the broker has taken it.
pub async fn publish(broker: &TestBroker, identity: &Path, line: &[u8]) {
    let address = broker.servers()[0].replace("tls://localhost", "127.0.0.1");
    let mut plain = BufReader::new(TcpStream::connect(address).await.unwrap());
    let mut info = String::new();
    plain.read_line(&mut info).await.unwrap();
    let info: serde_json::Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
    let nonce = info["nonce"].as_str().unwrap();
    let connector = TlsConnector::from(Arc::new(tls(identity)));
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), plain.into_inner()).await.unwrap();
    let mut stream = BufReader::new(stream);

    let read = |name: &str| std::fs::read_to_string(identity.join(name)).unwrap().trim().to_owned();
    let signature = nkeys::KeyPair::from_seed(&read(file::USER_SEED)).unwrap().sign(nonce.as_bytes()).unwrap();
    let connect = serde_json::json!({
        "verbose": false, "pedantic": false, "headers": true, "lang": "test", "version": "0", "protocol": 1,
        "jwt": read(file::USER_JWT), "sig": URL_SAFE_NO_PAD.encode(signature),
    });
    let mut headers = if line.starts_with(b"NATS/1.0") { Vec::new() } else { b"NATS/1.0\r\n".to_vec() };
    headers.extend_from_slice(line);
    headers.extend_from_slice(b"\r\n\r\n");
    let size = headers.len();
    let mut sent = format!("CONNECT {connect}\r\nHPUB {} {size} {size}\r\n", layout::PUBLISH_SUBJECT).into_bytes();
    sent.extend_from_slice(&headers);
    sent.extend_from_slice(b"\r\nPING\r\n");
    stream.write_all(&sent).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("PONG\r\n") {
        assert!(stream.read_line(&mut answer).await.unwrap() > 0, "{answer}");
    }
}

fn tls(identity: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(identity.join(file::CA)).unwrap()).unwrap();
    let chain = CertificateDer::pem_file_iter(identity.join(file::CERTIFICATE)).unwrap();
    let key = PrivateKeyDer::from_pem_file(identity.join(file::KEY)).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    config.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
}

//! Connections: no client can hold up another, certificates change while running, the end is orderly.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use http::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tidegate_broker_client::identity::file;
use tidegate_ingress::Limits;
use tidegate_test_broker::{LIMIT, TestBroker, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{event, limits, start, start_with};

#[tokio::test]
async fn slow_handshakes_hold_up_nobody_and_end() {
    let broker = TestBroker::start().await;
    let handshake = Duration::from_secs(4);
    let ingress = start_with(&broker, Limits { handshake, ..limits() }).await;
    ingress.until_ready().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(("127.0.0.1", ingress.https)).await.unwrap());
    }
    let started = Instant::now();
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::ACCEPTED);
    assert!(started.elapsed() < handshake, "{:?}", started.elapsed());

    let end = tokio::time::timeout(LIMIT, silent[0].read(&mut [0; 16])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the server gives up on a silent client");
}

#[tokio::test]
async fn connections_are_bounded_and_silent_ones_make_room() {
    let broker = TestBroker::start().await;
    let limits = Limits { connections: 8, idle: Duration::from_secs(1), ..limits() };
    let ingress = start_with(&broker, limits).await;
    ingress.until_ready().await;
    // Each holds a connection in another way: idle, with half a head, in HTTP/2 before its preface, after it.
    let idle = ingress.connect(b"http/1.1").await;
    let mut half = ingress.connect(b"http/1.1").await;
    half.write_all(b"POST / HTTP/1.1\r\nce-id: ").await.unwrap();
    let mute = ingress.connect(b"h2").await;
    let mut open = ingress.connect(b"h2").await;
    open.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();

    eventually("silent connections make room", async || {
        ingress.publish(&event("1")).await.status == StatusCode::ACCEPTED
    })
    .await;
    drop((idle, half, mute, open));
}

/// The admin listener is open to the pod network, and the kubelet's probes come by it.
#[tokio::test]
async fn idle_connections_keep_no_probe_out() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let mut idle = Vec::new();
    for number in 0..64u8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, 2 + number % 2), 0).into()).unwrap();
        let mut stream = socket.connect((Ipv4Addr::LOCALHOST, ingress.admin).into()).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: ").await.unwrap();
        idle.push(stream);
    }
    ingress.until_ready().await;
    // Whoever had to make room is not served on in secret.
    let ended = async |stream: &mut TcpStream| {
        let read = tokio::time::timeout(Duration::from_millis(10), stream.read(&mut [0; 16])).await;
        matches!(read, Ok(Ok(_) | Err(_)))
    };
    eventually("one of them ends", async || {
        let mut count = 0;
        for stream in &mut idle {
            count += usize::from(ended(stream).await);
        }
        count > 0
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let served = async || {
        let stream = ingress.connect(b"http/1.1").await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let path = ingress.identity.join(file::CERTIFICATE);
    let on_disk = || CertificateDer::from_pem_file(&path).unwrap();
    let first = on_disk();
    assert_eq!(served().await, first);

    broker.ingress_identity_dir();
    assert_ne!(on_disk(), first, "a new leaf was written");
    eventually("the new certificate is served", async || served().await != first).await;
    assert_eq!(served().await, on_disk());
}

#[tokio::test]
async fn leaving_is_not_ready_first_and_serves_on_until_the_cluster_knows() {
    let broker = TestBroker::start().await;
    let mut ingress = start_with(&broker, Limits { propagation: Duration::from_secs(3), ..limits() }).await;
    ingress.until_ready().await;
    let idle = ingress.connect(b"http/1.1").await;
    ingress.leave();
    ingress.until(StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::ACCEPTED);
    ingress.ended().await;
    drop(idle);
}

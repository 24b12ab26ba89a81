//! A client that wants the ingress for itself: bodies that dribble, devices that say nothing, handshakes that stop half
//! way, and all the events that one topic takes. It runs in a process of its own until it is ended.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::publisher::{self, Protocol, http1, mqtt};

/// Where it comes from. Others come from elsewhere.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Connections of each kind.
const SLOW_BODIES: usize = 300;
const IDLE_DEVICES: usize = 600;
const HALF_HANDSHAKES: usize = 300;
const FLOODS: usize = 64;
/// A connection that was ended or refused is tried again after this long.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two bytes of a body.
const DRIBBLE: Duration = Duration::from_millis(200);
/// What a body says that it is long.
const BODY: usize = 60_000;
/// The beginning of a TLS handshake: a record of 512 bytes with a ClientHello, of which no more comes.
const HELLO: [u8; 6] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

/// Whom it attacks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attack {
    /// The port for HTTPS.
    pub https: u16,
    /// The port for MQTT.
    pub mqtt: u16,
    /// The file with the certificate authority.
    pub ca: PathBuf,
    /// The path of the topic that it floods.
    pub path: String,
}

/// Attacks until the process is ended.
///
/// # Errors
/// The certificate authority cannot be read.
pub async fn run(attack: Attack) -> anyhow::Result<()> {
    let http = publisher::connector(Protocol::Http1, &attack.ca)?;
    let mqtt = publisher::connector(Protocol::Mqtt, &attack.ca)?;
    let (attack, next) = (Arc::new(attack), Arc::new(AtomicU64::new(u64::from(std::process::id()) << 32)));
    let mut all: Vec<BoxFuture<'static, anyhow::Result<Infallible>>> = Vec::new();
    for _ in 0..SLOW_BODIES {
        all.push(Box::pin(forever(slow_body, (Arc::clone(&attack), http.clone()))));
    }
    for _ in 0..IDLE_DEVICES {
        all.push(Box::pin(forever(idle_device, (Arc::clone(&attack), mqtt.clone()))));
    }
    for _ in 0..HALF_HANDSHAKES {
        all.push(Box::pin(forever(half_handshake, Arc::clone(&attack))));
    }
    for _ in 0..FLOODS {
        all.push(Box::pin(forever(flood, (Arc::clone(&attack), http.clone(), Arc::clone(&next)))));
    }
    try_join_all(all).await.map(drop)
}

/// However it ends: again.
async fn forever<T: Clone, F: Future<Output = anyhow::Result<()>>>(
    once: impl Fn(T) -> F,
    with: T,
) -> anyhow::Result<Infallible> {
    loop {
        // That it is turned away is no news.
        let _ = once(with.clone()).await;
        sleep(AGAIN).await;
    }
}

async fn slow_body((attack, connector): (Arc<Attack>, TlsConnector)) -> anyhow::Result<()> {
    let mut stream = publisher::connect_from(ADDRESS, &connector, attack.https).await?;
    let path = &attack.path;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {BODY}\r\nce-specversion: 1.0\r\nce-id: slow\r\n\
         ce-source: /s\r\nce-type: t\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..BODY {
        stream.write_all(b"x").await?;
        stream.flush().await?;
        sleep(DRIBBLE).await;
    }
    Ok(())
}

async fn idle_device((attack, connector): (Arc<Attack>, TlsConnector)) -> anyhow::Result<()> {
    let mut stream = publisher::connect_from(ADDRESS, &connector, attack.mqtt).await?;
    stream.write_all(&mqtt::connect()).await?;
    stream.flush().await?;
    until_closed(stream).await
}

async fn half_handshake(attack: Arc<Attack>) -> anyhow::Result<()> {
    let mut stream = publisher::tcp_from(ADDRESS, attack.https).await?;
    stream.write_all(&HELLO).await?;
    until_closed(stream).await
}

async fn until_closed(mut stream: impl tokio::io::AsyncRead + Unpin) -> anyhow::Result<()> {
    let mut ignored = [0; 256];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// As fast as it is answered, whatever the answer is.
async fn flood((attack, connector, next): (Arc<Attack>, TlsConnector, Arc<AtomicU64>)) -> anyhow::Result<()> {
    let mut stream = publisher::connect_from(ADDRESS, &connector, attack.https).await?;
    let mut input = bytes::BytesMut::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        http1::exchange(&mut stream, &mut input, &http1::binary_to(&attack.path, number)?).await?;
    }
}

//! The connection that wakes a server.
//!
//! When a nats-server starts, none of its raft groups begins to work before it has a connection to another server: a
//! route, or a leafnode. A cluster of one has no other server, so the ingress beside it poses as a leafnode: it connects
//! to the leafnode port, which listens on loopback, as a user of an account that has nothing and may do nothing. Later
//! the server no longer needs the connection; it is kept for the server's next start.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use serde_json::json;
use tidegate_wire::nats::{Decoder, MAX_LINE_BYTES, ProtocolError, ServerInfo, ServerOp, is_nonce};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connect::{signature, tls};
use crate::identity::{Identity, Source, Unreadable};

/// From one attempt to the next at a server that does not listen. One that starts waits for this connection, and its
/// topics with it.
const ABSENT_PAUSE: Duration = Duration::from_millis(50);
/// At one that listens and does not let this connection in, as one that is about to end.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// How long the server may take for its part of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The server asks for a sign of life every twenty seconds; one that is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(60);
/// A server that stays away is logged this often.
const LOG_PERIOD: Duration = Duration::from_secs(60);
/// What the server is told of the version of the other server that we pose as. It refuses old ones.
const VERSION: &str = "2.15.2";
/// The name of that server.
const NAME: &str = "tidegate-ingress";

/// Where the server is, and who wakes it.
#[derive(Clone)]
pub struct Wake {
    /// The leafnode port, `host:port`. The host has to be a name of the server's certificate.
    pub address: String,
    /// A user of the account for this. Read again for each connection.
    pub identity: Source,
}

/// Why a connection ended, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum WakeError {
    /// The address is not `host:port`: it never becomes one.
    #[error("not an address: {0:?}")]
    Address(String),
    /// There is no name in it that a certificate can have.
    #[error("{0}")]
    Name(#[from] InvalidDnsNameError),
    /// The identity cannot be used: it is read again for the next attempt.
    #[error(transparent)]
    Identity(#[from] Unreadable),
    /// The server is not there, or its TLS is not what it should be.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no NATS server.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It asks for a signature of something that is no nonce: it may want it for something else.
    #[error("the server's nonce is none")]
    Nonce,
    /// It does not let this user in.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// It says something that a server has no reason to say here.
    #[error("the server sent what it never sends here")]
    Unexpected,
    /// It is silent.
    #[error("the server does not answer")]
    Silent,
}

impl WakeError {
    /// Nothing listens there.
    fn is_absent(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Keeps a connection to this server. Never returns.
pub async fn keep(wake: Wake) {
    let mut logged = None::<Instant>;
    loop {
        let connected = match timeout(HANDSHAKE_TIMEOUT, connect(&wake)).await {
            Ok(connected) => connected,
            Err(_) => Err(WakeError::Silent),
        };
        let (error, pause) = match connected {
            Ok(stream) => {
                tracing::debug!(address = wake.address, "the broker is awake");
                logged = None;
                (answer(stream).await, ABSENT_PAUSE)
            }
            Err(error) if error.is_absent() => (error, ABSENT_PAUSE),
            Err(error) => (error, REFUSED_PAUSE),
        };
        // While the pod starts, the server is not there for a moment.
        if logged.get_or_insert_with(Instant::now).elapsed() >= LOG_PERIOD {
            tracing::warn!(address = wake.address, %error, "the broker cannot be woken; it serves no stream after a restart");
            logged = Some(Instant::now());
        }
        sleep(pause).await;
    }
}

/// A connection that the server has taken for that of a leafnode.
///
/// # Errors
/// See [`WakeError`].
async fn connect(wake: &Wake) -> Result<BufReader<TlsStream<TcpStream>>, WakeError> {
    let (host, port) = parse(&wake.address).ok_or_else(|| WakeError::Address(wake.address.clone()))?;
    let name = ServerName::try_from(host.to_owned())?;
    let mut tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let nonce = greeting(&mut tcp).await?;
    let introduction = introduction(&(wake.identity)()?, &nonce)?;
    let tls = Arc::new(tls(wake.identity.clone())?);
    let mut stream = BufReader::new(TlsConnector::from(tls).connect(name, tcp).await?);
    stream.write_all(introduction.as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    loop {
        read_line(&mut stream, &mut line).await?;
        match operation(&line)? {
            Operation::Pong => return Ok(stream),
            Operation::Ping => pong(&mut stream).await?,
            Operation::Other => {}
        }
    }
}

/// Answers the server until it is gone; why it is.
async fn answer(mut stream: BufReader<TlsStream<TcpStream>>) -> WakeError {
    let mut line = Vec::new();
    loop {
        let read = match timeout(SILENCE, read_line(&mut stream, &mut line)).await {
            Ok(read) => read,
            Err(_) => return WakeError::Silent,
        };
        let answered = match read.and_then(|()| operation(&line)) {
            Ok(Operation::Ping) => pong(&mut stream).await,
            Ok(Operation::Pong | Operation::Other) => Ok(()),
            Err(error) => return error,
        };
        if let Err(error) = answered {
            return error;
        }
    }
}

async fn pong(stream: &mut BufReader<TlsStream<TcpStream>>) -> Result<(), WakeError> {
    stream.write_all(b"PONG\r\n").await?;
    Ok(stream.flush().await?)
}

/// The server's INFO comes before TLS; its nonce. Whatever came behind it would be taken for the server's, and was not
/// protected.
async fn greeting(tcp: &mut TcpStream) -> Result<String, WakeError> {
    let mut decoder = Decoder::new(0);
    loop {
        match decoder.decode()? {
            Some(ServerOp::Info(info)) if decoder.is_empty() => return nonce(*info),
            Some(ServerOp::Error(text)) => return Err(WakeError::Refused(text)),
            Some(_) => return Err(WakeError::Unexpected),
            None => {}
        }
        let read = tcp.read(decoder.space()).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        decoder.advance(read);
    }
}

fn nonce(info: ServerInfo) -> Result<String, WakeError> {
    if is_nonce(info.nonce.as_bytes()) { Ok(info.nonce) } else { Err(WakeError::Nonce) }
}

/// What a leafnode says first. It names no language, because that is what a client does, and no cluster.
fn introduction(identity: &Identity, nonce: &str) -> Result<String, Unreadable> {
    let connect = json!({
        "jwt": identity.user_jwt,
        "sig": URL_SAFE_NO_PAD.encode(signature(identity, nonce.as_bytes())?),
        "name": NAME, "server_id": NAME, "version": VERSION, "headers": true, "protocol": 1,
    });
    Ok(format!("CONNECT {connect}\r\nPING\r\n"))
}

/// What of the server's words matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Ping,
    Pong,
    /// What it tells every leafnode: of itself, and of subscriptions.
    Other,
}

/// Pure.
fn operation(line: &[u8]) -> Result<Operation, WakeError> {
    let word = line.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    match word {
        b"PING" => Ok(Operation::Ping),
        b"PONG" => Ok(Operation::Pong),
        b"INFO" | b"+OK" | b"LS+" | b"LS-" => Ok(Operation::Other),
        b"-ERR" => {
            let text = String::from_utf8_lossy(line.get(4..).unwrap_or_default());
            Err(WakeError::Refused(text.trim().trim_matches('\'').chars().take(200).collect()))
        }
        // No message comes: this account has none, and nothing was subscribed to.
        _ => Err(WakeError::Unexpected),
    }
}

/// The next line into `line`. One that is longer than any of a server is refused before it is in memory.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<(), WakeError> {
    line.clear();
    let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
    stream.take(limit).read_until(b'\n', line).await?;
    match line.last() {
        Some(b'\n') => Ok(()),
        _ if line.len() >= MAX_LINE_BYTES => Err(ProtocolError::LineTooLong.into()),
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// Host and port.
fn parse(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use tokio::net::TcpListener;

    use super::*;

    /// A server that says this; what a keeper makes of it, which must not show its identity.
    async fn greeted_with(greeting: &'static [u8]) -> WakeError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting).await.unwrap();
            sleep(HANDSHAKE_TIMEOUT).await;
        });
        let identity: Source = Arc::new(|| Err(Unreadable::new("identity", "asked for")));
        connect(&Wake { address: format!("localhost:{port}"), identity }).await.err().unwrap()
    }

    #[tokio::test]
    async fn nothing_but_a_nonce_is_signed_and_nothing_may_come_before_tls() {
        let signs = |error: &WakeError| matches!(error, WakeError::Identity(_));
        assert!(signs(&greeted_with(b"INFO {\"nonce\":\"abc\"}\r\n").await));
        assert!(matches!(greeted_with(b"INFO {\"nonce\":\"a b\"}\r\n").await, WakeError::Nonce));
        assert!(matches!(greeted_with(b"INFO {}\r\n").await, WakeError::Nonce));
        assert!(matches!(greeted_with(b"INFO {\"nonce\":\"abc\"}\r\nPING\r\n").await, WakeError::Unexpected));
        assert!(matches!(greeted_with(b"-ERR 'no'\r\n").await, WakeError::Refused(_)));
        assert!(matches!(greeted_with(b"MSG a 1 5\r\nhello\r\n").await, WakeError::Protocol(_)));
    }

    #[test]
    fn a_message_is_nothing_that_is_sent_here() {
        for (line, expected) in [
            ("PING\r\n", Some(Operation::Ping)),
            ("PONG\r\n", Some(Operation::Pong)),
            ("INFO {}\r\n", Some(Operation::Other)),
            ("LS+ a.b 1\r\n", Some(Operation::Other)),
            ("+OK\r\n", Some(Operation::Other)),
            ("LMSG a 2\r\n", None),
            ("PINGS\r\n", None),
            ("\r\n", None),
        ] {
            assert_eq!(operation(line.as_bytes()).ok(), expected, "{line}");
        }
        let error = operation(b"-ERR 'Authorization Violation'\r\n").unwrap_err();
        assert_eq!(error.to_string(), "the server refuses: Authorization Violation");
    }

    #[tokio::test]
    async fn a_line_is_bounded() {
        let mut line = Vec::new();
        let long = [b"INFO ".to_vec(), vec![b'x'; MAX_LINE_BYTES], b"\r\n".to_vec()].concat();
        let refused = read_line(&mut &long[..], &mut line).await;
        assert!(matches!(refused, Err(WakeError::Protocol(ProtocolError::LineTooLong))), "{refused:?}");
        assert!(matches!(read_line(&mut &b"PIN"[..], &mut line).await, Err(WakeError::Io(_))));
        assert!(read_line(&mut &b"PING\r\nPONG\r\n"[..], &mut line).await.is_ok());
        assert_eq!(line, b"PING\r\n");
    }
}

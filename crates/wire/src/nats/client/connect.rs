//! From a server's address to a connection that is ready: TCP, INFO, TLS, CONNECT, PING, PONG.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::options::{IdentityError, Options, ServerOrder};
use crate::nats::decode::{Decoder, ProtocolError, ServerInfo, ServerOp};
use crate::nats::encode;

/// Where a NATS server listens, where an address names no port.
const DEFAULT_PORT: u16 = 4222;
/// The longest nonce that is signed.
const MAX_NONCE: usize = 32;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no address that can be used: the configuration is wrong.
    #[error("not an address of a server: {0:?}")]
    Address(String),
    /// The identity cannot be used: wait for a better one, or tell the user.
    #[error("identity: {0}")]
    Identity(#[source] IdentityError),
    /// The server did not let the client in.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// The server asks for a signature of something that is no nonce: it may want it for something else.
    #[error("the server's nonce is none")]
    Nonce,
    /// The server is not there, or its TLS is not what it should be.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no NATS server.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It took too long.
    #[error("the server does not answer")]
    Timeout,
}

/// A connection that is ready.
pub(super) struct Connection {
    pub(super) stream: TlsStream<TcpStream>,
    /// May hold what has come already.
    pub(super) decoder: Decoder,
    pub(super) info: ServerInfo,
}

/// Connects to the first server that lets the client in.
pub(super) async fn connect(options: &Options) -> Result<Connection, ConnectError> {
    let mut servers = options.servers.iter().collect::<Vec<_>>();
    if options.order == ServerOrder::Random {
        fastrand::shuffle(&mut servers);
    }
    let mut last = ConnectError::Address(String::new());
    for server in servers {
        match timeout(options.connect_timeout, connect_to(server, options)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => last = error,
            Err(_) => last = ConnectError::Timeout,
        }
    }
    Err(last)
}

async fn connect_to(server: &str, options: &Options) -> Result<Connection, ConnectError> {
    let unusable = || ConnectError::Address(server.to_owned());
    let (host, port) = parse_address(server).ok_or_else(unusable)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| unusable())?;
    let mut tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let info = greeting(&mut tcp, options).await?;
    let tls = options.identity.tls().map_err(ConnectError::Identity)?;
    let mut stream = TlsConnector::from(tls).connect(name, tcp).await?;
    let mut decoder = Decoder::new(options.max_message);
    let info = introduce(&mut stream, &mut decoder, info, options).await?;
    Ok(Connection { stream, decoder, info })
}

/// The server's INFO, which comes before TLS. Whatever came behind it would be taken for the server's, and was not
/// protected.
async fn greeting(tcp: &mut TcpStream, options: &Options) -> Result<ServerInfo, ConnectError> {
    let mut decoder = Decoder::new(options.max_message);
    match next_op(tcp, &mut decoder).await? {
        ServerOp::Info(info) if decoder.is_empty() => Ok(*info),
        ServerOp::Error(text) => Err(ConnectError::Refused(text)),
        _ => Err(ProtocolError::Unknown.into()),
    }
}

/// Says who the client is, and waits until the server has taken that in.
async fn introduce(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    decoder: &mut Decoder,
    mut info: ServerInfo,
    options: &Options,
) -> Result<ServerInfo, ConnectError> {
    let nonce = info.nonce.as_bytes();
    if !is_nonce(nonce) {
        return Err(ConnectError::Nonce);
    }
    let credentials = options.identity.credentials(nonce).map_err(ConnectError::Identity)?;
    let mut out = Vec::new();
    let connect = encode::Connect {
        verbose: false,
        pedantic: false,
        tls_required: true,
        name: &options.name,
        lang: "rust",
        version: env!("CARGO_PKG_VERSION"),
        protocol: 1,
        echo: true,
        headers: true,
        no_responders: true,
        user_jwt: &credentials.user_jwt,
        signature: &URL_SAFE_NO_PAD.encode(&credentials.signature),
    };
    encode::connect(&mut out, &connect).map_err(|error| ConnectError::Identity(error.into()))?;
    encode::ping(&mut out);
    stream.write_all(&out).await?;
    stream.flush().await?;
    loop {
        match next_op(stream, decoder).await? {
            ServerOp::Pong => return Ok(info),
            ServerOp::Info(newer) => info = *newer,
            ServerOp::Error(text) => return Err(ConnectError::Refused(text)),
            ServerOp::Ping => {
                stream.write_all(b"PONG\r\n").await?;
                stream.flush().await?;
            }
            ServerOp::Ok => {}
            ServerOp::Message(..) => return Err(ProtocolError::Unknown.into()),
        }
    }
}

/// Whether these bytes may be signed as a nonce of a server: 1 to 32 characters of base64 for URLs, as nats-server makes
/// them (`generateNonce`). A client that signs anything at all can be made to sign a TLS handshake.
pub fn is_nonce(nonce: &[u8]) -> bool {
    (1..=MAX_NONCE).contains(&nonce.len())
        && nonce.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

async fn next_op(stream: &mut (impl AsyncRead + Unpin), decoder: &mut Decoder) -> Result<ServerOp, ConnectError> {
    loop {
        if let Some(op) = decoder.decode()? {
            return Ok(op);
        }
        let read = stream.read(decoder.space()).await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        decoder.advance(read);
    }
}

/// Host and port of `tls://host:port`.
fn parse_address(server: &str) -> Option<(&str, u16)> {
    let rest = server.strip_prefix("tls://").or_else(|| server.strip_prefix("nats://")).unwrap_or(server);
    let (host, port) = if let Some(v6) = rest.strip_prefix('[') {
        let (host, port) = v6.split_once(']')?;
        (host, port.strip_prefix(':'))
    } else {
        rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
    };
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok())?;
    (!host.is_empty() && !host.contains('/')).then_some((host, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use std::sync::Arc;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::nats::client::{Credentials, Identity};

    const INFO: &[u8] = b"INFO {\"nonce\":\"abc\"}\r\n";

    /// One that must not be asked to sign.
    struct Silent;

    impl Identity for Silent {
        fn tls(&self) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
            Err("none".into())
        }

        fn credentials(&self, nonce: &[u8]) -> Result<Credentials, IdentityError> {
            panic!("{nonce:?} is to be signed")
        }
    }

    /// A server that says this to each client; its address.
    async fn server(greeting: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tls://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(greeting).await.unwrap();
                open.push(stream);
            }
        });
        address
    }

    fn options(servers: &[String]) -> Options {
        let options = Options::new("test", servers, Arc::new(Silent));
        Options { order: ServerOrder::Given, connect_timeout: Duration::from_millis(200), ..options }
    }

    /// It would be taken for the server's, and anybody on the way can have written it.
    #[tokio::test]
    async fn nothing_may_come_between_the_greeting_and_tls() {
        for (greeting, is_refused) in [
            (INFO, false),
            (b"INFO {\"nonce\":\"abc\"}\r\nPING\r\n", true),
            (b"INFO {\"nonce\":\"abc\"}\r\nM", true),
            (b"PING\r\n", true),
        ] {
            // This identity has no TLS, which is the next thing that is asked for.
            let error = connect(&options(&[server(greeting).await])).await.err().unwrap();
            assert_eq!(matches!(error, ConnectError::Protocol(ProtocolError::Unknown)), is_refused, "{error}");
            assert_eq!(matches!(error, ConnectError::Identity(_)), !is_refused, "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_or_silent_is_followed_by_the_next() {
        let refusing = "tls://127.0.0.1:1".to_owned();
        let (silent, greeting) = (server(b"").await, server(INFO).await);
        let attempt = connect(&options(&[refusing, silent, greeting])).await;
        assert!(matches!(attempt, Err(ConnectError::Identity(_))), "the last one was reached");
        let silent = server(b"").await;
        let attempt = timeout(Duration::from_secs(10), connect(&options(&[silent]))).await;
        assert!(matches!(attempt, Ok(Err(ConnectError::Timeout))));
    }

    #[tokio::test]
    async fn a_server_that_asks_for_another_signature_gets_none() {
        let (mut ours, _theirs) = tokio::io::duplex(4096);
        for nonce in ["", "a b", &"a".repeat(33)] {
            let info = ServerInfo { nonce: nonce.to_owned(), ..ServerInfo::default() };
            let (decoder, options) = (&mut Decoder::new(1000), options(&[]));
            let introduced = introduce(&mut ours, decoder, info, &options).await;
            assert!(matches!(introduced, Err(ConnectError::Nonce)));
        }
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("tls://broker-0.x.svc:4222", Some(("broker-0.x.svc", 4222))),
            ("tls://localhost:1", Some(("localhost", 1))),
            ("nats://127.0.0.1", Some(("127.0.0.1", 4222))),
            ("tls://[::1]:7", Some(("::1", 7))),
            ("tls://[::1]", Some(("::1", 4222))),
            ("tls://", None),
            ("tls://a:b", None),
            ("tls://a:70000", None),
            ("https://a:1", None),
            ("tls://[::1", None),
            ("tls://a:1/b", None),
        ] {
            assert_eq!(parse_address(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_but_a_nonce_is_signed() {
        assert!(is_nonce(b"YXQ4zXCkE4q7Ljk") && is_nonce(b"a-_"));
        let tls = [&[0x20; 64][..], b"TLS 1.3, client CertificateVerify\0"].concat();
        for other in [&b""[..], b"a b", b"a\0", &[b'a'; 33], &tls] {
            assert!(!is_nonce(other));
        }
    }
}

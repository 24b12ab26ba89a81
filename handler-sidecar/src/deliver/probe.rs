//! One question of a container's own probe, asked as the kubelet asks it, but inside the pod.

mod target;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, LOCATION, TE, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tidegate_broker_client::probes::Check;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::target::Target;
use crate::deliver::listeners::PortName;
use crate::deliver::loopback;
use crate::deliver::post::error_chain;

/// Of an answer over gRPC this much is read: the right one has seven bytes.
const ANSWER_LIMIT: usize = 4096;
/// The kubelet follows as many.
const MAX_REDIRECTS: usize = 10;
const AGENT: &str = concat!("tidegate-sidecar/", env!("CARGO_PKG_VERSION"));
/// `HealthCheckResponse { status: SERVING }`, with gRPC's five bytes before it.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

/// Why a probe did not succeed, in words that name what was asked.
pub type Problem = String;

/// Asks once.
///
/// # Errors
/// There was no answer in time, or it is not that of a container that is ready.
pub async fn ask(check: &Check, limit: Duration) -> Result<(), Problem> {
    match timeout(limit, answer(check)).await {
        Ok(answered) => answered,
        Err(_) => Err(format!("{} has no answer within {limit:?}", name(check))),
    }
}

async fn answer(check: &Check) -> Result<(), Problem> {
    let of = |problem: String| format!("{}: {problem}", name(check));
    match check {
        Check::Tcp { port } => loopback::connect(*port, PortName::Probe).await.map(drop).map_err(of),
        Check::Http { tls, port, path, headers } => {
            let status = get(*tls, *port, path, headers).await.map_err(of)?;
            let is_success = status.is_success() || status.is_redirection();
            if is_success { Ok(()) } else { Err(format!("{} answers {}", name(check), status.as_u16())) }
        }
        Check::Grpc { port, service } => is_serving(*port, service).await.map_err(of),
    }
}

/// What is asked, for people.
fn name(check: &Check) -> String {
    match check {
        Check::Http { tls, port, path, .. } => {
            format!("GET {}://127.0.0.1:{port}{path}", if *tls { "https" } else { "http" })
        }
        Check::Tcp { port } => format!("a connection to port {port}"),
        Check::Grpc { port, service } if service.is_empty() => format!("the gRPC health service on port {port}"),
        Check::Grpc { port, service } => format!("the gRPC health service on port {port} for {service:?}"),
    }
}

/// The status of the last answer. Redirects inside the pod are followed, as by the kubelet.
async fn get(tls: bool, port: u16, path: &str, headers: &[(String, String)]) -> Result<StatusCode, Problem> {
    let mut target = Target { tls, port, path: path.to_owned() };
    for _ in 0..=MAX_REDIRECTS {
        let response = get_once(&target, headers).await?;
        let location = response.headers().get(LOCATION).filter(|_| is_followed(response.status()));
        match location.and_then(|location| target.redirected(location)) {
            Some(next) => target = next,
            None => return Ok(response.status()),
        }
    }
    Err(format!("it is redirected more than {MAX_REDIRECTS} times"))
}

fn is_followed(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

async fn get_once(target: &Target, headers: &[(String, String)]) -> Result<Response<Incoming>, Problem> {
    let Target { tls, port, path } = target;
    let mut request = Request::get(path).body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
    let host = HeaderValue::try_from(format!("127.0.0.1:{port}")).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for (name, value) in headers {
        let name = HeaderName::try_from(name).map_err(|error| format!("httpHeaders: {error}"))?;
        request.headers_mut().insert(name, HeaderValue::try_from(value).map_err(|error| error.to_string())?);
    }
    let stream = loopback::connect(*port, PortName::Probe).await?;
    if !*tls {
        return send(stream, request).await;
    }
    let host = ServerName::try_from("localhost").map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(any_certificate()?));
    let stream = connector.connect(host, stream).await.map_err(|error| error_chain(&error))?;
    send(stream, request).await
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Problem>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(in_words)?;
    drive(connection);
    sender.send_request(request).await.map_err(in_words)
}

/// Lets a connection work. It ends with its sender; the sender hears of an error.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tokio::spawn(async move { drop(connection.await) });
}

fn in_words(error: hyper::Error) -> Problem {
    error_chain(&error)
}

async fn is_serving(port: u16, service: &str) -> Result<(), Problem> {
    let stream = loopback::connect(port, PortName::Probe).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(in_words)?;
    drive(connection);
    let request = question(port, service)?;
    let response = sender.send_request(request).await.map_err(in_words)?;
    if response.status() != StatusCode::OK {
        return Err(format!("the answer is {}", response.status()));
    }
    let headers = response.headers().clone();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect();
    let body = body.await.map_err(|error| error_chain(error.as_ref()))?;
    let code = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
    let code = code.or_else(|| headers.get("grpc-status")).cloned();
    match (code.as_ref().map(HeaderValue::as_bytes), &body.to_bytes()[..]) {
        (Some(b"0"), SERVING) => Ok(()),
        (Some(b"0"), _) => Err("it is not serving".to_owned()),
        (Some(code), _) => Err(format!("the status is {}", String::from_utf8_lossy(code))),
        (None, _) => Err("the answer has no status".to_owned()),
    }
}

/// `HealthCheckRequest { service }`: field 1, a string.
fn question(port: u16, service: &str) -> Result<Request<Full<Bytes>>, Problem> {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // The length in one byte; Kubernetes' own names are shorter, too.
        let length = u8::try_from(service.len()).ok().filter(|length| *length < 0x80);
        message.put_slice(&[0x0A, length.ok_or("the service has a name of more than 127 bytes")?]);
        message.put_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).map_err(|error| error.to_string())?;
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(length);
    body.put_slice(&message);
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://127.0.0.1:{port}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT);
    request.body(Full::new(body.freeze())).map_err(|error| error.to_string())
}

/// A probe proves nothing about identity, and nothing secret is sent: as with the kubelet, any certificate will do.
fn any_certificate() -> Result<ClientConfig, Problem> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?.dangerous();
    Ok(config.with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;

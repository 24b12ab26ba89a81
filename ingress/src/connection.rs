//! One connection of HTTP, from its handshake to its end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval_at, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::auth::{ClientCas, Peer, PeerCertificate};
use crate::config::{Limits, MAX_HEAD, MAX_HEADERS};
use crate::problem::Problem;
use crate::server::Protocol;
use crate::share::Client;
use crate::slots::{End, Slot};
use crate::tls;

/// How long a connection that makes room for another one may still end what is in progress.
const MAKE_ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// What answers requests.
pub trait Answers: Clone + Send + Sync + 'static {
    /// The answer to a request of this peer, which takes what it needs from the peer's share.
    fn answer(&self, request: Request<Incoming>, peer: &Peer) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// HTTP, over TLS or plain.
#[derive(Clone)]
pub struct Http<A> {
    /// What answers.
    pub answers: A,
    /// TLS, and the authorities of client certificates; `None`: plain HTTP.
    pub tls: Option<(TlsAcceptor, Arc<ClientCas>)>,
    /// Bounds.
    pub limits: Limits,
    /// Where the shares of connections come from.
    pub admission: Arc<Admission>,
}

/// Answers of a connection for which there is no room: the first is the last.
#[derive(Clone, Default)]
struct Busy(CancellationToken);

impl Answers for Busy {
    async fn answer(&self, request: Request<Incoming>, _: &Peer) -> Response<Full<Bytes>> {
        let Self(answered) = self;
        answered.cancel();
        let mut response = Problem::too_many_connections().into_response();
        // HTTP/2 says it by itself.
        if request.version() < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl<A: Answers> Protocol for Http<A> {
    async fn serve(self, stream: TcpStream, slot: Slot) {
        let client = slot.client.clone();
        let gone = async {
            slot.ending().await;
            if slot.end() != End::MakeRoom {
                std::future::pending::<()>().await;
            }
            sleep(MAKE_ROOM_TIMEOUT).await;
        };
        tokio::select! {
            () = self.open(stream, client, Some(&slot), slot.ending()) => {}
            () = gone => {}
        }
    }

    async fn refuse(self, stream: TcpStream, client: Client) {
        let Self { tls, limits, admission, .. } = self;
        let answers = Busy::default();
        let answered = answers.0.clone();
        Http { answers, tls, limits, admission }.open(stream, client, None, answered.cancelled()).await;
    }
}

impl<A: Answers> Http<A> {
    async fn open(self, stream: TcpStream, client: Client, slot: Option<&Slot>, end: impl Future<Output = ()>) {
        let share = self.admission.connection(client.clone());
        let mut peer = Peer { client, share, certificate: None, seat: slot.map(|slot| Arc::clone(slot.seat())) };
        let Some((tls, cas)) = &self.tls else { return self.drive(stream, false, peer, end).await };
        let Some(stream) = tls::handshake(tls, stream, self.limits.handshake).await else { return };
        let connection = stream.get_ref().1;
        let http2 = connection.alpn_protocol() == Some(b"h2");
        peer.certificate = PeerCertificate::of(connection, cas);
        self.drive(stream, http2, peer, end).await;
    }

    async fn drive<I>(self, io: I, http2: bool, peer: Peer, end: impl Future<Output = ()>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { answers, limits, .. } = self;
        let (activity, peer) = (Arc::new(Activity::default()), Arc::new(peer));
        let service = service_fn({
            let activity = Arc::clone(&activity);
            move |request: Request<Incoming>| {
                let (answers, peer, running) = (answers.clone(), Arc::clone(&peer), activity.begin());
                async move {
                    let response = answers.answer(request, &peer).await;
                    drop(running);
                    Ok::<_, Infallible>(response)
                }
            }
        });
        let builder = builder(http2, &limits);
        let mut end = pin!(end);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut idle = interval_at(Instant::now() + limits.idle, limits.idle);
        let mut seen = None;
        let mut closing = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection failed");
                    }
                    return;
                }
                () = end.as_mut(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = idle.tick() => {
                    let now = activity.idle();
                    if now.is_some() && now == seen {
                        if closing {
                            return;
                        }
                        closing = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    seen = now;
                }
            }
        }
    }
}

/// The protocol was agreed on in the handshake, so there is no need to guess it from the first bytes
/// (a guess has no time limit).
fn builder(http2: bool, limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(128)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        // Each counts as 32 bytes more than it has (RFC 9113, section 6.5.2).
        .max_header_list_size(u32::try_from(MAX_HEAD + 32 * MAX_HEADERS).unwrap_or(u32::MAX));
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

/// Whether a connection does anything: an open HTTP/2 connection without requests has no other limit.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// The number of requests so far, if none is running.
    fn idle(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::Relaxed);
        (begun == self.ended.load(Ordering::Relaxed)).then_some(begun)
    }
}

/// A request in progress; also ends when its client goes away.
struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

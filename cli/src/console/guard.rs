//! Who may ask the console. Any web page that the user visits can send requests to loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use rustls::crypto::CryptoProvider;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::layout::{ICON_PATH, STYLE_PATH};
use super::refusal::Refusal;
use crate::failure::Failure;

/// Pages that are made at a time.
const MAX_PAGES: usize = 16;
/// A page, and the body of its request.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Random bytes of the token, and of the cookie.
const SECRET_BYTES: usize = 32;
/// Random bytes of the host's name.
const NAME_BYTES: usize = 8;
/// What a page may load: nothing that is not the console's.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What a request must have.
#[derive(Clone)]
pub struct Guard(Arc<Inner>);

struct Inner {
    host: String,
    cookie_name: String,
    token: String,
    cookie: String,
    /// Whether a browser has the cookie: nobody else gets it.
    is_entered: AtomicBool,
    turns: Semaphore,
}

impl Guard {
    /// A guard of a port, with a token and a cookie of its own, and a name that no one guesses: browsers do not keep the cookies
    /// of a host's ports apart, and another server of this machine has another name.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn new(port: u16) -> Result<Self, Failure> {
        Self::of_host(format!("{}.localhost:{port}", random(NAME_BYTES)?), port)
    }

    /// The same without a name, for browsers that do not find it.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn by_address(port: u16) -> Result<Self, Failure> {
        Self::of_host(format!("127.0.0.1:{port}"), port)
    }

    fn of_host(host: String, port: u16) -> Result<Self, Failure> {
        Ok(Self(Arc::new(Inner {
            host,
            // Two consoles by address would overwrite each other's.
            cookie_name: format!("tidegate-console-{port}"),
            token: random(SECRET_BYTES)?,
            cookie: random(SECRET_BYTES)?,
            is_entered: AtomicBool::new(false),
            turns: Semaphore::new(MAX_PAGES),
        })))
    }

    /// The address to open.
    pub fn url(&self) -> String {
        format!("http://{}/?token={}", self.0.host, self.0.token)
    }

    fn is_this_host(&self, headers: &HeaderMap) -> bool {
        only(headers, &HOST).is_some_and(|host| self.0.host.eq_ignore_ascii_case(host))
    }

    /// Whether the console's own page asks. By address, another server on 127.0.0.1 is of the same site: its pages' requests
    /// have the cookie.
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let own = only(headers, &HOST).map(|host| format!("http://{host}"));
        own.as_deref() == only(headers, &ORIGIN)
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let texts = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let has = pairs.any(|(name, value)| name == self.0.cookie_name && is_same(value, &self.0.cookie));
        if has {
            self.0.is_entered.store(true, Ordering::Relaxed);
        }
        has
    }

    /// To the first page; with the cookie, once. The token is in the command line of a browser, in its history, and in logs.
    fn enter(&self, headers: &HeaderMap) -> Response {
        if self.has_cookie(headers) {
            return (StatusCode::SEE_OTHER, [(LOCATION, "/")]).into_response();
        }
        if self.0.is_entered.load(Ordering::Relaxed) {
            return refuse(
                StatusCode::UNAUTHORIZED,
                "A browser has opened this address already, and it opens once: for another browser end tidegate console, and run the command again. If you have not opened it, somebody else did.",
            );
        }
        let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", self.0.cookie_name, self.0.cookie);
        (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
    }

    fn has_token(&self, request: &Request) -> bool {
        let token = request.uri().query().and_then(|query| query.strip_prefix("token="));
        request.uri().path() == "/" && token.is_some_and(|token| is_same(token, &self.0.token))
    }

    async fn answer(&self, request: Request, next: Next) -> Response {
        if !self.is_this_host(request.headers()) {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "The request names another host than the console's: open the address that tidegate console printed.",
            );
        }
        let is_reading = [Method::GET, Method::HEAD].contains(request.method());
        let has_origin = request.headers().contains_key(ORIGIN);
        if (has_origin || !is_reading) && !self.is_own_page(request.headers()) {
            return refuse(
                StatusCode::FORBIDDEN,
                "A page that is not the console's may not ask it: open the address that tidegate console printed.",
            );
        }
        if is_reading && self.has_token(&request) {
            return self.enter(request.headers());
        }
        // They are in every copy of the program, and the page that asks for the token needs them.
        let is_public = [STYLE_PATH, ICON_PATH].contains(&request.uri().path());
        if !is_public && !self.has_cookie(request.headers()) {
            return refuse(
                StatusCode::UNAUTHORIZED,
                "This browser has no cookie of this console: open the address that tidegate console printed, with its token. It opens once: if it was opened before, run the command again.",
            );
        }
        let _turn = self.0.turns.acquire().await;
        let made = timeout(PAGE_TIMEOUT, next.run(request)).await;
        made.unwrap_or_else(|_| refuse(StatusCode::GATEWAY_TIMEOUT, "The page took too long: reload it."))
    }
}

/// Lets requests through that have what the guard asks for, and says in each answer what a browser may do with it.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = guard.answer(request, next).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // With no-referrer a browser would hide the origin of the console's own forms.
        (REFERRER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn refuse(code: StatusCode, sentence: &str) -> Response {
    Refusal::new(code, sentence).into_response()
}

/// Whether two texts are the same, in a time that says nothing of where they differ.
fn is_same(one: &str, other: &str) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

/// So many random bytes, in hexadecimal digits.
fn random(count: usize) -> Result<String, Failure> {
    let mut bytes = vec![0; count];
    let provider = CryptoProvider::get_default()
        .ok_or_else(|| Failure::failed("no random numbers: this is an error of tidegate"))?;
    let filled = provider.secure_random.fill(&mut bytes);
    filled.map_err(|_| Failure::failed("the system has no random numbers: try again"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

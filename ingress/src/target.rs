//! Which topic an HTTP request is for, and what of it. Pure.
//!
//! | request | topic |
//! |---|---|
//! | `https://<a host of the topic>/` and `…/delayed/<key>` | by its host |
//! | `https://<any host>/<namespace>/<topic>` and `…/<namespace>/<topic>/delayed/<key>` | by its path |

use http::header::HOST;
use http::{HeaderMap, Uri};

/// Where an event that waits for its time can be cancelled; its key follows.
const DELAYED: &str = "/delayed/";

/// By what a request names its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// The host that the request was sent to.
    Host,
    /// `<namespace>/<name>`
    Path(&'a str),
}

/// What of the topic a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// Its events.
    Events,
    /// The event that waits for its time under this key.
    Delayed(&'a str),
}

/// What a path says; `None`: nothing. `is_by_host`: whether the host names a topic, whose paths come first.
pub fn of_path(path: &str, is_by_host: bool) -> Option<(Name<'_>, Resource<'_>)> {
    match path.strip_prefix(DELAYED) {
        _ if path == "/" => return Some((Name::Host, Resource::Events)),
        Some(key) if is_by_host => return Some((Name::Host, Resource::Delayed(key))),
        _ => {}
    }
    let rest = path.strip_prefix('/')?;
    let (namespace, name) = rest.split_once('/')?;
    let length = name.find('/').unwrap_or(name.len());
    let (topic, tail) = rest.split_at(namespace.len() + 1 + length);
    match (tail, tail.strip_prefix(DELAYED)) {
        ("", _) => Some((Name::Path(topic), Resource::Events)),
        (_, Some(key)) => Some((Name::Path(topic), Resource::Delayed(key))),
        _ => None,
    }
}

/// The host that a request was sent to, without its port; empty where it does not say one. The target's own counts before
/// the header (RFC 9112, section 3.2.2); HTTP/2 has only that (`:authority`).
pub fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    if let Some(host) = uri.host() {
        return host;
    }
    let mut values = headers.get_all(HOST).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(host), None) => without_port(host),
        _ => "",
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    }
}

/// Where an event that waits can be cancelled, in the form in which its topic was named.
pub fn location(name: Name<'_>, key: &str) -> String {
    match name {
        Name::Host => format!("{DELAYED}{key}"),
        Name::Path(topic) => format!("/{topic}{DELAYED}{key}"),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_path_names_a_topic_or_is_of_the_one_that_the_host_names() {
        let by_path = |resource| Some((Name::Path("shop/orders"), resource));
        let by_host = |resource| Some((Name::Host, resource));
        for (path, with_host, without) in [
            ("/", by_host(Resource::Events), by_host(Resource::Events)),
            ("/shop/orders", by_path(Resource::Events), by_path(Resource::Events)),
            ("/shop/orders/delayed/k", by_path(Resource::Delayed("k")), by_path(Resource::Delayed("k"))),
            ("/shop/orders/delayed/", by_path(Resource::Delayed("")), by_path(Resource::Delayed(""))),
            ("/delayed/k", by_host(Resource::Delayed("k")), Some((Name::Path("delayed/k"), Resource::Events))),
            ("/shop/orders/", None, None),
            ("/shop/orders/x", None, None),
            ("/shop/orders/delayed", None, None),
            ("/shop", None, None),
            ("/events", None, None),
            ("", None, None),
            ("*", None, None),
        ] {
            assert_eq!(of_path(path, true), with_host, "{path}");
            assert_eq!(of_path(path, false), without, "{path}");
        }
        for path in ["//", "//x", "/x/", "///"] {
            // A topic that no one has.
            assert!(matches!(of_path(path, true), None | Some((Name::Path(_), Resource::Events))), "{path}");
        }
    }

    #[test]
    fn an_event_that_waits_is_where_its_topic_is() {
        for name in [Name::Host, Name::Path("shop/orders")] {
            let location = location(name, "key");
            assert_eq!(of_path(&location, true), Some((name, Resource::Delayed("key"))));
        }
    }

    #[test]
    fn a_host_is_said_once_and_without_its_port() {
        let of = |uri: &str, headers: &[&str]| {
            let value = |text: &&str| (HOST, HeaderValue::from_str(text).unwrap());
            host(&uri.parse().unwrap(), &headers.iter().map(value).collect()).to_owned()
        };
        for (uri, headers, expected) in [
            ("/", &["orders-topic.shop.svc"][..], "orders-topic.shop.svc"),
            ("/", &["orders-topic.shop.svc:8443"], "orders-topic.shop.svc"),
            ("/", &["orders-topic.shop.svc:"], "orders-topic.shop.svc"),
            ("/", &["[::1]:8443"], "[::1]"),
            ("/", &["10.0.0.1:1"], "10.0.0.1"),
            ("https://a.b:1/", &["other"], "a.b"),
            ("/", &[], ""),
            ("/", &["a", "b"], ""),
        ] {
            assert_eq!(of(uri, headers), expected, "{uri} {headers:?}");
        }
    }
}

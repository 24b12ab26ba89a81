//! Where an HTTP probe goes, and where an answer sends it. Pure.

use http::{HeaderValue, Uri};

const HOST: &str = "127.0.0.1";

/// A page of a program in this pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Over TLS.
    pub tls: bool,
    /// Its port on loopback.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Target {
    /// Where this location leads to from here; `None`: to another host, or nowhere, which is not followed. A path is
    /// taken as it is written, dots and all.
    pub fn redirected(&self, location: &HeaderValue) -> Option<Self> {
        let location = location.to_str().ok()?;
        let location = location.split('#').next()?;
        if location.is_empty() || (location.starts_with('/') && !location.starts_with("//")) {
            let path = if location.is_empty() { &self.path } else { location };
            return Some(Self { path: path.to_owned(), ..*self });
        }
        if let Some(authority) = location.strip_prefix("//") {
            return self.absolute(&format!("{}://{authority}", if self.tls { "https" } else { "http" }));
        }
        if location.contains("://") {
            return self.absolute(location);
        }
        let path = self.path.split('?').next()?;
        let (base, _) = if location.starts_with('?') { (path, "") } else { path.rsplit_once('/').unwrap_or(("", "")) };
        let slash = if location.starts_with('?') { "" } else { "/" };
        Some(Self { path: format!("{base}{slash}{location}"), ..*self })
    }

    fn absolute(&self, location: &str) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let port = match uri.authority()?.as_str().strip_prefix(HOST)? {
            "" => {
                if tls {
                    443
                } else {
                    80
                }
            }
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { tls, port, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_in_the_pod() {
        let from = Target { tls: false, port: 8080, path: "/a/b?c=d".to_owned() };
        let to = |tls, port, path: &str| Some(Target { tls, port, path: path.to_owned() });
        for (location, expected) in [
            ("/ready/", to(false, 8080, "/ready/")),
            ("/ready?x=1#y", to(false, 8080, "/ready?x=1")),
            ("c", to(false, 8080, "/a/c")),
            ("../c", to(false, 8080, "/a/../c")),
            ("?e=f", to(false, 8080, "/a/b?e=f")),
            ("", to(false, 8080, "/a/b?c=d")),
            ("http://127.0.0.1:8080/x", to(false, 8080, "/x")),
            ("http://127.0.0.1:9090", to(false, 9090, "/")),
            ("https://127.0.0.1/x?y", to(true, 443, "/x?y")),
            ("//127.0.0.1:8081/x", to(false, 8081, "/x")),
            ("http://login.example.com/", None),
            ("//login.example.com/", None),
            ("http://localhost:8080/", None),
            ("http://127.0.0.1.example.com/", None),
            ("ftp://127.0.0.1/x", None),
            ("http://", None),
            ("http://127.0.0.1:99999/", None),
        ] {
            assert_eq!(from.redirected(&HeaderValue::from_static(location)), expected, "{location}");
        }
        assert_eq!(from.redirected(&HeaderValue::from_bytes(b"/\xff").unwrap()), None);
    }
}

//! A broker's address, as spans name it.

/// `server.address` and `server.port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Host name or address.
    pub address: String,
    /// Port.
    pub port: i64,
}

impl Server {
    /// From `tls://host:port`; `None` if that is none.
    pub fn parse(url: &str) -> Option<Self> {
        let (_, authority) = url.split_once("://")?;
        let (address, port) = authority.rsplit_once(':')?;
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let port = port.parse::<u16>().ok()?;
        (!address.is_empty()).then(|| Self { address: address.to_owned(), port: i64::from(port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |url| Server::parse(url).map(|server| (server.address, server.port));
        assert_eq!(parsed("tls://orders-broker.shop.svc:4222"), Some(("orders-broker.shop.svc".to_owned(), 4222)));
        assert_eq!(parsed("tls://[::1]:4222"), Some(("::1".to_owned(), 4222)));
        for bad in ["", "localhost:4222", "tls://localhost", "tls://:4222", "tls://localhost:99999"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}

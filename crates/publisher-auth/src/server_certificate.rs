//! A certificate that a broker shows to its publishers, which a user has made: whether it can be used.

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// Why a certificate is not shown to clients of some hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerCertificateError {
    /// It is not readable.
    #[error("the certificate is not readable: {0}")]
    Malformed(String),
    /// Its time is over.
    #[error("the certificate ended at {0}")]
    Ended(ASN1Time),
    /// Its time has not come.
    #[error("the certificate is not good before {0}")]
    Early(ASN1Time),
    /// It has no name for one of the hosts.
    #[error("the certificate is not for {host} of hostnames, but for {names}")]
    OtherHosts {
        /// Which one.
        host: String,
        /// What it is for.
        names: String,
    },
}

/// Checks whether a leaf in DER is good at `now` (seconds since 1970), and for each of these hosts, which may be
/// wildcards such as `*.example.com`.
///
/// # Errors
/// It is not.
pub fn check_server_certificate(leaf: &[u8], hosts: &[String], now: i64) -> Result<(), ServerCertificateError> {
    let (_, leaf) =
        X509Certificate::from_der(leaf).map_err(|error| ServerCertificateError::Malformed(error.to_string()))?;
    let (from, to) = (leaf.validity().not_before, leaf.validity().not_after);
    if now > to.timestamp() {
        return Err(ServerCertificateError::Ended(to));
    }
    if now < from.timestamp() {
        return Err(ServerCertificateError::Early(from));
    }
    let names =
        leaf.subject_alternative_name().map_err(|error| ServerCertificateError::Malformed(error.to_string()))?;
    let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        _ => None,
    });
    let names: Vec<String> = dns.collect();
    let is_named = |host: &&String| names.iter().any(|name| name_covers_host(name, &host.to_ascii_lowercase()));
    match hosts.iter().find(|host| !is_named(host)) {
        Some(host) => Err(ServerCertificateError::OtherHosts { host: host.clone(), names: names.join(", ") }),
        None => Ok(()),
    }
}

/// Whether a name is good for a host, or for all hosts of a wildcard; both in lower case. A wildcard stands for one label
/// (RFC 6125, section 6.4.3).
pub fn name_covers_host(name: &str, host: &str) -> bool {
    let is_within =
        |domain: &str| host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == domain);
    name == host || name.strip_prefix("*.").is_some_and(is_within)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_is_for_some_time_and_some_hosts() {
        let (from, to) = (1_800_000_000, 1_800_003_600);
        let time = |seconds| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let mut params =
            CertificateParams::new(["Events.example.com".to_owned(), "*.shop.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (time(from), time(to));
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let check = |hosts: &[&str], now| {
            let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
            check_server_certificate(leaf.der(), &hosts, now).map_err(|error| error.to_string())
        };
        assert_eq!(check(&["events.example.com", "*.shop.example", "A.shop.example"], from), Ok(()));
        assert_eq!(check(&[], to), Ok(()));
        let said = |result: Result<(), String>, part: &str| assert!(result.unwrap_err().contains(part), "{part}");
        said(check(&[], to + 1), "ended at");
        said(check(&[], from - 1), "not good before");
        for host in ["a.b.shop.example", "shop.example", "*.example.com", ""] {
            said(
                check(&["events.example.com", host], from),
                &format!("not for {host} of hostnames, but for events.ex"),
            );
        }
        assert!(check_server_certificate(b"\x30\x03\x02\x01", &[], from).is_err());
    }
}

//! The cluster of the user's kubeconfig, with the user's own rights.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::terminal::text;

/// What to do where the API server does not accept credentials.
pub const LOG_IN: &str = "the API server does not accept your credentials: log in again";

/// A client of it, and the namespace of its context.
///
/// # Errors
/// There is no kubeconfig, or it names no such cluster; in words, without a remedy.
pub async fn client(context: Option<&str>) -> Result<(Client, String), String> {
    let failed = |error: &dyn std::fmt::Display| text(&error.to_string());
    let config = match context {
        None => Config::infer().await.map_err(|error| failed(&error))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
            let kubeconfig = Kubeconfig::read().map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| failed(&error))?
        }
    };
    let namespace = config.default_namespace.clone();
    Ok((once(config).map_err(|error| failed(&error))?, namespace))
}

/// A client that asks once: by itself it would repeat what is answered with 503 for minutes, while its user waits.
fn once(mut config: Config) -> kube::Result<Client> {
    config.default_retry = false;
    Client::try_from(config)
}

/// What went wrong, in words of the API server where it has some.
pub fn sentence(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => text(&status.message),
        other => text(&other.to_string()),
    }
}

/// Why something was not done. `without_right`: what to do without the right to it.
pub fn explain(what: &str, error: &kube::Error, without_right: &str) -> String {
    let remedy = remedy(error).unwrap_or(match error {
        kube::Error::Api(status) if status.code == 403 => without_right,
        kube::Error::Api(status) if status.code == 404 => "correct the name; is Tidegate installed there?",
        _ => "is the cluster of the kubeconfig there?",
    });
    format!("{what}: {}: {remedy}", sentence(error))
}

/// What to do, where the error alone says it.
pub fn remedy(error: &kube::Error) -> Option<&'static str> {
    let kube::Error::Api(status) = error else { return None };
    let is_namespace = || status.details.as_ref().is_some_and(|details| details.kind == "namespaces");
    match status.code {
        401 => Some(LOG_IN),
        404 if is_namespace() => Some("correct --namespace"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_is_wrong_has_its_own_remedy() {
        for (code, kind, expected) in [
            (401, "", "log in again"),
            (403, "", "ask for it"),
            (404, "namespaces", "correct --namespace"),
            (404, "eventtopics", "correct the name"),
            (500, "", "is the cluster"),
        ] {
            let status = serde_json::json!({
                "status": "Failure", "message": "m", "reason": "r", "code": code, "details": {"kind": kind},
            });
            let error = kube::Error::Api(serde_json::from_value(status).unwrap());
            let said = explain("a", &error, "ask for it");
            assert!(said.starts_with("a: m: ") && said.contains(expected), "{said}");
        }
    }

    #[tokio::test]
    async fn a_cluster_that_is_away_is_asked_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                count.fetch_add(1, Ordering::Relaxed);
                let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = once(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        let error = Api::<Pod>::namespaced(client, "shop").get("billing").await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 503), "{error:?}");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

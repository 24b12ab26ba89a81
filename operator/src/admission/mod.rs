//! Says at `kubectl apply` what a reconcile would say a moment later: a validating admission webhook.
//!
//! What is refused is what [`judge`] finds with the same pure checks that every reconcile begins with, and what the API
//! server says to the Deployment that would be made of a handler (a dry run). So there is one truth, and the webhook is
//! never needed: while no operator answers, the API server stores the object without asking
//! (`failurePolicy: Ignore`), and the resource's condition says it instead.
//!
//! Every operator pod answers, whether it leads or not, because the webhook's Service knows no leader.

mod certificate;
mod circles;
mod judge;
mod server;

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use kube::Client;
use tidegate_broker_admin::Leaf;
use tokio::time::sleep;

use crate::args::Args;
use certificate::{Certificates, Current};

/// The certificate and what the API server knows of it are looked at this often.
const CHECK: Duration = Duration::from_secs(60);
/// After that failed, and until the API server knows of us.
const PAUSE: Duration = Duration::from_secs(5);

/// Answers the API server for as long as it is not dropped; at once nothing to do without a webhook.
///
/// # Errors
/// The port is taken.
pub async fn run(client: Client, args: Args) -> io::Result<()> {
    let Some(name) = args.webhook.clone() else { return std::future::pending().await };
    let certificates = Certificates::new(client.clone(), &args.pod_namespace, &name);
    let (first, config) = usable(&certificates, None).await;
    tokio::select! {
        ended = server::serve(config.clone(), client, args.clone()) => ended,
        never = renew(&certificates, config, first) => match never {},
    }
}

/// The certificate as it should be, in use, as soon as that can be; `used` is what is in use so far. The webhook is
/// never needed, so nothing here is a reason for the operator to end.
async fn usable(certificates: &Certificates, used: Option<(&RustlsConfig, &Leaf)>) -> (Current, RustlsConfig) {
    let mut told = None;
    loop {
        let error = match certificates.ensure().await {
            Ok(current) => match put_to_use(&current.leaf, used).await {
                Ok(config) => return (current, config),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        if told.as_ref() != Some(&error) {
            tracing::warn!(error, "the admission webhook has no usable certificate yet");
            told = Some(error);
        }
        sleep(PAUSE).await;
    }
}

async fn put_to_use(leaf: &Leaf, used: Option<(&RustlsConfig, &Leaf)>) -> io::Result<RustlsConfig> {
    let (certificate, key) = (leaf.certificate.clone().into_bytes(), leaf.key.clone().into_bytes());
    let Some((config, old)) = used else { return RustlsConfig::from_pem(certificate, key).await };
    if (&old.certificate, &old.key) != (&leaf.certificate, &leaf.key) {
        config.reload_from_pem(certificate, key).await?;
        tracing::info!("the admission webhook has a new certificate");
    }
    Ok(config.clone())
}

async fn renew(certificates: &Certificates, config: RustlsConfig, mut last: Current) -> Infallible {
    loop {
        sleep(if last.is_known { CHECK } else { PAUSE }).await;
        (last, _) = usable(certificates, Some((&config, &last.leaf))).await;
    }
}

//! Says at `kubectl apply` what a reconcile would say a moment later: a validating admission webhook.
//!
//! What is refused is what [`judge`] finds with the same pure checks that every reconcile begins with, so there is one
//! truth, and the webhook is never needed: while no operator answers, the API server goes on without
//! (`failurePolicy: Ignore`), and the resource's condition says it instead.
//!
//! Every operator pod answers, whether it leads or not, because the webhook's Service knows no leader.

mod certificate;
mod judge;
mod server;

use std::io;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use kube::Client;
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
/// The port is taken, or the certificate is none.
pub async fn run(client: Client, args: Args) -> io::Result<()> {
    let Some(name) = args.webhook else { return std::future::pending().await };
    let certificates = Certificates::new(client.clone(), &args.pod_namespace, &name);
    let first = current(&certificates).await;
    let config = RustlsConfig::from_pem(first.leaf.certificate.clone().into(), first.leaf.key.clone().into()).await?;
    tokio::select! {
        ended = server::serve(args.webhook_port, config.clone(), client) => ended,
        ended = renew(&certificates, config, first) => ended,
    }
}

/// The certificate as it should be, as soon as that is known.
async fn current(certificates: &Certificates) -> Current {
    let mut told = None;
    loop {
        match certificates.ensure().await {
            Ok(current) => return current,
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the admission webhook has no certificate yet");
                    told = Some(error);
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn renew(certificates: &Certificates, config: RustlsConfig, mut last: Current) -> io::Result<()> {
    loop {
        sleep(if last.is_known { CHECK } else { PAUSE }).await;
        let now = current(certificates).await;
        if now.leaf.certificate != last.leaf.certificate {
            config.reload_from_pem(now.leaf.certificate.clone().into(), now.leaf.key.clone().into()).await?;
            tracing::info!("the admission webhook has a new certificate");
        }
        last = now;
    }
}

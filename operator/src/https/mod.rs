//! What the API server asks the operator, over HTTPS: the admission webhook and the aggregated API, on one port, with one
//! certificate.
//!
//! Every operator pod answers, whether it leads or not, because the Service knows no leader. The webhook asks nothing of
//! whoever comes; the aggregated API only answers the API server's front proxy ([`front_proxy`]).

mod certificate;
pub(crate) mod front_proxy;
mod server;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;
use kube::Client;
use tidegate_broker_admin::Leaf;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::args::Args;
use crate::sessions::brokers::Brokers;
use crate::{admission, subresources};
use certificate::{Certificates, Current};
use front_proxy::FrontProxy;

/// The certificate, what the API server knows of it, and what it says of its front proxy, are looked at this often.
const CHECK: Duration = Duration::from_secs(60);
/// After that failed, and until the API server knows of us.
const PAUSE: Duration = Duration::from_secs(5);

/// Answers the API server for as long as it is not dropped; nothing to do without a Service. `brokers`: the sessions of the
/// aggregated API, which are not those of a leader.
///
/// # Errors
/// The port is taken.
pub async fn run(client: Client, args: Args, brokers: Arc<Brokers>) -> io::Result<()> {
    let Some(name) = args.webhook.clone() else { return std::future::pending().await };
    let (publish, front_proxy) = watch::channel(None);
    let certificates = Certificates::new(client.clone(), &args.pod_namespace, &name, args.subresources);
    let keeper = Keeper { certificates, client: client.clone(), reads_front_proxy: args.subresources, publish };
    let (first, config) = keeper.usable(None).await;
    let mut router = admission::router(client.clone(), args.clone());
    if args.subresources {
        router = router.merge(subresources::router(client, args.pod_namespace.clone(), brokers.clone(), front_proxy));
    }
    tokio::select! {
        ended = server::serve(config.clone(), args.webhook_port, router) => ended,
        never = keeper.renew(config, first) => match never {},
        never = subresources::end_idle_sessions(&brokers) => match never {},
    }
}

/// What is served with.
#[derive(Clone, PartialEq)]
struct InUse {
    certificate: String,
    key: String,
    client_ca: Option<String>,
}

impl InUse {
    fn new(leaf: &Leaf, front_proxy: Option<&FrontProxy>) -> Self {
        let client_ca = front_proxy.map(|proxy| proxy.client_ca.clone());
        Self { certificate: leaf.certificate.clone(), key: leaf.key.clone(), client_ca }
    }
}

/// Keeps certificate and front proxy as they should be.
struct Keeper {
    certificates: Certificates,
    client: Client,
    reads_front_proxy: bool,
    publish: watch::Sender<Option<Arc<FrontProxy>>>,
}

impl Keeper {
    /// The certificate as it should be, in use, as soon as that can be; `used` is what is in use so far. Nothing here is a
    /// reason for the operator to end.
    async fn usable(&self, used: Option<(&RustlsConfig, &InUse)>) -> ((Current, InUse), RustlsConfig) {
        let mut told = None;
        loop {
            let front_proxy = self.front_proxy().await;
            let error = match self.certificates.ensure().await {
                Ok(current) => {
                    let wanted = InUse::new(&current.leaf, front_proxy.as_deref());
                    match put_to_use(&wanted, used) {
                        Ok(config) => {
                            self.publish.send_replace(front_proxy);
                            return ((current, wanted), config);
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            if told.as_ref() != Some(&error) {
                tracing::warn!(error, "the operator has no usable certificate for its HTTPS yet");
                told = Some(error);
            }
            sleep(PAUSE).await;
        }
    }

    /// The front proxy as the API server describes it; what was known, where that cannot be read now.
    async fn front_proxy(&self) -> Option<Arc<FrontProxy>> {
        if !self.reads_front_proxy {
            return None;
        }
        let known = self.publish.borrow().clone();
        match FrontProxy::read(&self.client).await {
            Ok(found) => found.map(Arc::new),
            Err(error) => {
                tracing::warn!(
                    error,
                    "ConfigMap kube-system/extension-apiserver-authentication is not read: what was read before stays in force"
                );
                known
            }
        }
    }

    async fn renew(&self, config: RustlsConfig, mut last: (Current, InUse)) -> Infallible {
        loop {
            let is_whole = last.0.is_known && (!self.reads_front_proxy || last.1.client_ca.is_some());
            sleep(if is_whole { CHECK } else { PAUSE }).await;
            (last, _) = self.usable(Some((&config, &last.1))).await;
        }
    }
}

fn put_to_use(wanted: &InUse, used: Option<(&RustlsConfig, &InUse)>) -> io::Result<RustlsConfig> {
    let made =
        || front_proxy::server_config(&wanted.certificate, &wanted.key, wanted.client_ca.as_deref()).map(Arc::new);
    let Some((config, old)) = used else { return Ok(RustlsConfig::from_config(made()?)) };
    if old != wanted {
        config.reload_from_config(made()?);
        tracing::info!("the operator serves with another certificate or front proxy");
    }
    Ok(config.clone())
}

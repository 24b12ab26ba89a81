//! What `helm test` runs, in a pod of its own with few rights: is an operator at work, and does the API server ask it?
//!
//! - The three kinds are served.
//! - The operators' Lease is renewed while we look, by whichever pod leads.
//! - The API server refuses a handler that only the admission webhook can refuse. It is a dry run: nothing is stored.

use std::io::{self, Write};
use std::time::Duration;

use clap::Parser;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tokio::time::{Instant, sleep};

use crate::kubernetes::leader::LEASE;

/// The first argument of the program that makes it a check.
pub const NAME: &str = "check";

/// Pause between two looks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// An expression that the schema allows, being text, and that does not compile.
const WRONG_EXPRESSION: &str = "data.amount >";

/// What is checked.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidegate-operator check")]
pub struct Args {
    /// The operator's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The release has an admission webhook, which is to be asked.
    #[arg(long)]
    pub admission: bool,
    /// For how many seconds an operator that is only starting is waited for, in each step.
    #[arg(long, default_value_t = 60)]
    pub timeout_seconds: u32,
}

impl Args {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

/// What is wrong with the installation.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no configuration for a client.
    #[error("no API server is configured")]
    NoApiServer(#[source] kube::Error),
    /// A kind cannot be listed.
    #[error("the API server does not serve {0}: are the CRDs of this version installed (value crds.install)?")]
    NotServed(String, #[source] kube::Error),
    /// No operator holds the Lease.
    #[error(
        "no operator renews Lease {LEASE} in namespace {0}: see whether its pods run (kubectl --namespace {0} get pods, and their logs)"
    )]
    NoLeader(String),
    /// The API server takes what the webhook would refuse.
    #[error(
        "the API server took a handler that the operator refuses, so it does not ask it: can the API server reach pods in namespace {0} on port 8443? Else set webhook.enabled=false"
    )]
    NotAsked(String),
    /// The API server refuses for another reason.
    #[error("the API server could not be asked about a handler")]
    NotJudged(#[source] kube::Error),
    /// The report cannot be written.
    #[error("no report can be written")]
    Report(#[from] io::Error),
}

/// Checks the installation; writes a line for each thing that is right.
///
/// # Errors
/// The first thing that is not, with what can be done.
pub async fn run(client: Client, args: &Args, out: &mut impl Write) -> Result<(), CheckError> {
    served::<EventBroker>(&client, args).await?;
    served::<EventTopic>(&client, args).await?;
    served::<EventHandler>(&client, args).await?;
    writeln!(out, "ok: eventbrokers, eventtopics and eventhandlers are served")?;
    let holder = leader(&client, &args.namespace, args.timeout()).await?;
    writeln!(out, "ok: {holder} leads")?;
    if args.admission {
        asked(client, args).await?;
        writeln!(out, "ok: the API server asks the operator before it stores a resource")?;
    }
    Ok(())
}

async fn served<K>(client: &Client, args: &Args) -> Result<(), CheckError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let resources: Api<K> = Api::namespaced(client.clone(), &args.namespace);
    let listed = resources.list(&ListParams::default().limit(1)).await;
    listed.map(drop).map_err(|error| CheckError::NotServed(K::plural(&()).into_owned(), error))
}

/// Who renewed the Lease while it was looked at. Clocks of nodes differ, so a time alone says nothing.
///
/// # Errors
/// Nobody did, or it could not be read.
pub async fn leader(client: &Client, namespace: &str, timeout: Duration) -> Result<String, CheckError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let mut first = None;
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let lease = leases.get_opt(LEASE).await.ok().flatten().and_then(|lease| lease.spec).unwrap_or_default();
        let held = lease.holder_identity.filter(|holder| !holder.is_empty()).zip(lease.renew_time);
        if let Some((holder, renewed)) = held
            && *first.get_or_insert_with(|| renewed.clone()) != renewed
        {
            return Ok(holder);
        }
        sleep(LOOK_PERIOD).await;
    }
    Err(CheckError::NoLeader(namespace.to_owned()))
}

/// Waits until the API server refuses what only the operator can refuse.
async fn asked(client: Client, args: &Args) -> Result<(), CheckError> {
    let deadline = Instant::now() + args.timeout();
    loop {
        let failure = match is_asked(&client, &args.namespace).await {
            Ok(true) => return Ok(()),
            Ok(false) => CheckError::NotAsked(args.namespace.clone()),
            Err(error) => CheckError::NotJudged(error),
        };
        if Instant::now() >= deadline {
            return Err(failure);
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// Whether the API server refuses a handler in this namespace that only the operator can refuse. It is a dry run.
///
/// # Errors
/// It refuses it for another reason: the caller may not make handlers there, for example.
pub async fn is_asked(client: &Client, namespace: &str) -> kube::Result<bool> {
    let handler = json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": "tidegate-check"},
        "spec": {
            "topic": "tidegate-check", "filter": {"expression": WRONG_EXPRESSION},
            "template": {"spec": {"containers": [{"name": "check", "image": "check.invalid/check"}]}},
        },
    });
    let handler: EventHandler = serde_json::from_value(handler).map_err(kube::Error::SerdeError)?;
    let handlers: Api<EventHandler> = Api::namespaced(client.clone(), namespace);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    match handlers.create(&dry_run, &handler).await {
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("denied the request") => {
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) => Err(error),
    }
}

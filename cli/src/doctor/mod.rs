//! `tidegate doctor`: what is wrong with a resource, along the way that its events take.
//!
//! [`facts`]: what the cluster says of it and of what it belongs to, read once.  [`findings`]: what follows from that (pure), as a
//! list of [`finding`]s; [`pods`]: the part of it that pods say themselves.  [`show`]: how they are shown.

pub mod facts;
pub mod finding;
mod findings;
mod pods;
pub mod show;

use std::time::Duration;

use kube::Client;
use tokio::time::timeout;

use crate::cluster;
use crate::failure::Failure;
use crate::output::Format;
use crate::stored::{Location, Place};
use crate::target::Target;
use show::Report;

/// The longest time that a cluster gets to answer everything.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// What `tidegate doctor` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Resource, as KIND/NAME: topic/orders, handler/billing, broker/default; also as kubectl names them, such as
    /// eventhandler/billing or eh/billing.
    #[arg(value_name = "KIND/NAME")]
    pub resource: Target,
    /// Where the resource is.
    #[command(flatten)]
    pub place: Place,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Looks at the resource, and shows what is found.
///
/// # Errors
/// It cannot be looked at, or something is wrong.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (client, own) = cluster::client(arguments.place.context.as_deref()).await.map_err(not_reached)?;
    let location = arguments.place.or(own);
    let looked = timeout(LOOK_TIMEOUT, look(&client, &location, &arguments.resource)).await;
    show::print(&looked.map_err(|_| too_late())??, arguments.output)
}

/// What is found of a resource.
///
/// # Errors
/// It is not there, or cannot be read.
pub async fn look(client: &Client, location: &Location, resource: &Target) -> Result<Report, Failure> {
    let facts = facts::read(client, location, resource).await?;
    Ok(Report { subject: resource.shown(&location.namespace), findings: findings::of(&facts) })
}

/// That there is no cluster to look at.
pub fn not_reached(why: String) -> Failure {
    Failure::Unseen(format!("no cluster is reached: {why}: set KUBECONFIG, or name a context of it with --context"))
}

/// That the cluster does not answer in time.
pub fn too_late() -> Failure {
    Failure::Unseen(format!("the cluster has not answered within {} s: is it there?", LOOK_TIMEOUT.as_secs()))
}

//! `tidegate check`: whether Tidegate is installed in a cluster as it has to be, and what its user may do there.
//!
//! [`facts`]: what the cluster says.  [`findings`]: what follows from that (pure). They are shown as those of `tidegate doctor`.

mod facts;
mod findings;

use kube::Client;
use tokio::time::timeout;

use crate::cluster;
use crate::doctor::show::{self, Report};
use crate::doctor::{LOOK_TIMEOUT, not_reached, too_late};
use crate::failure::Failure;
use crate::output::Format;
use crate::stored::{Location, Place};

/// What `tidegate check` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where your rights are checked.
    #[command(flatten)]
    pub place: Place,
    /// Namespace of Tidegate's operator. Default: it is looked for in all namespaces.
    #[arg(long, value_name = "NAMESPACE")]
    pub operator_namespace: Option<String>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// Looks at the cluster, and shows what is found.
///
/// # Errors
/// There is no cluster, or something is wrong.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (client, own) = cluster::client(arguments.place.context.as_deref()).await.map_err(not_reached)?;
    let location = arguments.place.or(own);
    let looked = timeout(LOOK_TIMEOUT, look(&client, &location, arguments.operator_namespace.as_deref())).await;
    show::print(&looked.map_err(|_| too_late())??, arguments.output)
}

/// What is found of a cluster. `operators`: the namespace that the operator is in, where it is not to be looked for.
///
/// # Errors
/// The cluster is not reached.
pub async fn look(client: &Client, location: &Location, operators: Option<&str>) -> Result<Report, Failure> {
    let facts = facts::read(client, location, operators).await?;
    Ok(Report { subject: "the cluster".into(), findings: findings::of(&facts) })
}

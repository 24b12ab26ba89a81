//! Which servers a broker has, and how it comes to have more or fewer of them while events flow.
//!
//! [`observe`] reads what there is, [`plan`] says the one step that comes next, and [`Executor`] does it where it is the
//! servers' to do; the rest (pods, configuration, volumes) is done by the caller. Nothing is remembered between two
//! steps: whoever observes next, after a crash of the operator too, comes to the same step, and a step that was done
//! already does nothing. [`next_restart`] says in the same way which pod is restarted next. `docs/brokers.md` has the order of the steps and its reasons.

mod certificates;
mod counts;
mod execute;
mod observe;
mod plan;
mod report;
mod restart;
mod view;

#[cfg(test)]
mod walk;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use self::certificates::{CertificateEnds, Reloaded, reload_certificates};
pub use self::counts::Counts;
pub use self::execute::Executor;
pub use self::observe::{ObserveError, clusters, observe};
pub(crate) use self::observe::{Report as ServerReport, Servers, is_moving, leader};
pub use self::plan::plan;
pub use self::restart::{PodState, Restart, next_restart};

/// A server of a broker: the number of its pod.
pub type Ordinal = usize;

/// Servers of a broker at most.
pub const MAX_SERVERS: usize = 5;

/// What there is beside the servers' own state, as the caller sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The servers' names by their ordinals: [`MAX_SERVERS`].
    pub names: Vec<String>,
    /// What each of them answers when it has loaded its configuration ([`crate::server::Server::digest`]).
    pub digests: Vec<String>,
    /// Servers to which the configuration has routes.
    pub routes: usize,
    /// Servers that are to run.
    pub pods: usize,
    /// Those whose pod is there, starting, running or ending.
    pub present: BTreeSet<Ordinal>,
    /// Those whose pod has a node: the server runs, or may start and join at any moment.
    pub placed: BTreeSet<Ordinal>,
    /// Those that have a volume.
    pub volumes: BTreeSet<Ordinal>,
}

/// What the servers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Those that answered.
    pub servers: BTreeMap<Ordinal, Server>,
    /// All streams of all topics, those that are retained included.
    pub streams: BTreeMap<StreamId, Stream>,
}

/// A server that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// By this id it is asked alone.
    pub id: String,
    /// Of the configuration that it has loaded.
    pub digest: String,
    /// The cluster as it sees it; `None`: it stores nothing, because it was removed.
    pub cluster: Option<Cluster>,
    /// Streams that lie on it.
    pub holds: usize,
}

/// The cluster as a server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Which of them leads.
    pub leader: Option<Ordinal>,
    /// Those that belong to it.
    pub members: BTreeSet<Ordinal>,
    /// How many there are. It differs from the members while one comes or goes, or has a name that none of ours has.
    pub size: usize,
    /// Whether all of them are there and have everything that was decided.
    pub is_settled: bool,
}

/// Which stream.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// The id of its account.
    pub account: String,
    /// Its name.
    pub name: String,
}

/// A stream on its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Copies that were asked for.
    pub copies: usize,
    /// The server that leads it.
    pub leader: Option<Ordinal>,
    /// Whether the servers that keep it are about to change.
    pub is_moving: bool,
    /// The servers on which it lies, and whether each has all of it ([`Counts::has_all`]).
    pub holders: BTreeMap<Ordinal, bool>,
}

impl Stream {
    /// Whether it has as many copies as were asked for, and each of them is whole.
    pub fn is_settled(&self) -> bool {
        !self.is_moving
            && self.leader.is_some()
            && self.holders.len() == self.copies
            && self.holders.values().all(|has_all| *has_all)
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the broker is as it is wanted.
    Done,
    /// This step, and then another look.
    Act(Step),
    /// Another look, later.
    Wait(Wait),
}

/// A step: it can be repeated, and done by whoever observes it to be next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One of the caller's.
    Site(SiteStep),
    /// One of the servers'.
    Broker(BrokerStep),
}

/// What the caller does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteStep {
    /// Writes a configuration with routes to so many servers.
    SetRoutes(usize),
    /// Lets so many servers run.
    SetPods(usize),
    /// Deletes the volume of a server that is not to come back.
    RemoveVolume(Ordinal),
}

/// What the servers do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokerStep {
    /// A server reads its configuration again. Its pod may not have the new one yet: then again.
    Reload {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// Streams get as many copies.
    SetCopies {
        /// Which.
        streams: Vec<StreamId>,
        /// How many.
        copies: usize,
    },
    /// Streams are led by others, each by the server of this name.
    StepDown(Vec<(StreamId, String)>),
    /// What lies on this server goes to others.
    Evacuate {
        /// Its name.
        name: String,
        /// Streams that lie there and nowhere else.
        single: Vec<StreamId>,
    },
    /// This server leads the cluster.
    MetaStepDown(String),
    /// This server is no member any more. It runs.
    RemoveServer(String),
}

impl BrokerStep {
    /// Whether events have fewer copies after it, or are led by a server that was asked for nothing before: what all servers
    /// have must be known then.
    pub fn takes_copies_away(&self, observed: &Observed) -> bool {
        match self {
            Self::SetCopies { streams, copies } => {
                streams.iter().any(|id| observed.streams.get(id).is_some_and(|stream| stream.copies > *copies))
            }
            Self::StepDown(_) | Self::Evacuate { .. } | Self::RemoveServer(_) => true,
            Self::Reload { .. } | Self::MetaStepDown(_) => false,
        }
    }

    /// The ids of the accounts whose streams it changes.
    pub fn accounts(&self) -> BTreeSet<&str> {
        match self {
            Self::SetCopies { streams, .. } => streams.iter().map(|stream| stream.account.as_str()).collect(),
            Self::StepDown(streams) => streams.iter().map(|(stream, _)| stream.account.as_str()).collect(),
            Self::Evacuate { single, .. } => single.iter().map(|stream| stream.account.as_str()).collect(),
            Self::Reload { .. } | Self::MetaStepDown(_) | Self::RemoveServer(_) => BTreeSet::new(),
        }
    }
}

/// What is waited for. Names are those of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// No server leads the cluster.
    Leader,
    /// These members do not answer.
    Away(Vec<String>),
    /// The servers do not all say the same of their cluster yet.
    Agreement,
    /// These are to become members.
    Joining(Vec<String>),
    /// This server was removed while others after it were not.
    Removed(String),
    /// So many streams do not have all of their copies whole.
    Copying(usize),
    /// The pods of these are ending.
    Ending(Vec<String>),
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str(
                "waiting for the servers to choose a leader of their cluster: if that lasts for more than a minute, look at the broker's pods; most of them must run",
            ),
            Self::Away(names) => write!(
                f,
                "waiting for {}: nothing is changed while a server is away; look at its pod",
                names.join(", ")
            ),
            Self::Agreement => f.write_str("waiting for the servers to agree on who belongs to their cluster"),
            Self::Joining(names) => write!(
                f,
                "waiting for {} to join the cluster: a server whose name was removed less than five minutes ago is let in after that time, or when the pod of the server that leads the cluster is restarted; one whose pod has a node and has not started is waited for ten minutes at most",
                names.join(", ")
            ),
            Self::Removed(name) => write!(
                f,
                "{name} was removed from the cluster, and servers after it were not: restart its pod, and wait until it is a member again"
            ),
            Self::Copying(1) => f.write_str("waiting until every copy of a stream has all of it"),
            Self::Copying(streams) => write!(f, "waiting until every copy of {streams} streams has all of them"),
            Self::Ending(names) => write!(
                f,
                "waiting for the pods of {} to end: one whose machine is gone for good has to be deleted by force",
                names.join(", ")
            ),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(SiteStep::SetRoutes(servers)) => write!(f, "configuring routes to {servers} server(s)"),
            Self::Site(SiteStep::SetPods(pods)) => write!(f, "running {pods} pod(s)"),
            Self::Site(SiteStep::RemoveVolume(ordinal)) => write!(f, "deleting the volume of server {ordinal}"),
            Self::Broker(BrokerStep::Reload { name, .. }) => write!(f, "letting {name} read its configuration again"),
            Self::Broker(BrokerStep::SetCopies { streams, copies }) => {
                write!(f, "giving {} stream(s) {copies} cop{}", streams.len(), if *copies == 1 { "y" } else { "ies" })
            }
            Self::Broker(BrokerStep::StepDown(streams)) => {
                write!(f, "letting servers that stay lead {} stream(s)", streams.len())
            }
            Self::Broker(BrokerStep::Evacuate { name, .. }) => write!(f, "moving what lies on {name} to other servers"),
            Self::Broker(BrokerStep::MetaStepDown(name)) => write!(f, "letting {name} lead the cluster"),
            Self::Broker(BrokerStep::RemoveServer(name)) => write!(f, "taking {name} out of the cluster"),
        }
    }
}

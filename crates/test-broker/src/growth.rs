//! A broker that gets more or fewer servers while it runs: what the operator does with pods, configuration and volumes is
//! done here with processes, files and folders.

use std::collections::BTreeSet;

use tidegate_broker_admin::membership::{MAX_SERVERS, Ordinal, Site, SiteStep};
use tidegate_wire::nats;
use time::OffsetDateTime;

use crate::TestBroker;
use crate::node::Node;

impl TestBroker {
    /// What there is beside the servers' own state.
    pub fn site(&self) -> Site {
        let of = |holds: fn(&Node) -> bool| -> BTreeSet<Ordinal> {
            self.nodes.iter().enumerate().filter(|(_, node)| holds(node)).map(|(ordinal, _)| ordinal).collect()
        };
        Site {
            names: (0..MAX_SERVERS).map(|ordinal| self.name(ordinal)).collect(),
            digests: self.nodes.iter().map(|node| self.server(node).digest(node.name())).collect(),
            routes: self.routed,
            pods: self.pods,
            present: of(|node| node.pid().is_some()),
            placed: of(|node| node.pid().is_some()),
            volumes: of(|node| node.data().exists()),
        }
    }

    /// Does a step that is not the servers' own.
    pub async fn step(&mut self, step: &SiteStep) {
        match *step {
            SiteStep::SetRoutes(routes) => {
                self.add_nodes(routes);
                self.routed = routes;
                self.configure();
            }
            SiteStep::SetPods(pods) => {
                self.add_nodes(pods);
                self.pods = pods;
                self.wake();
                for node in &mut self.nodes[..pods] {
                    if node.pid().is_none() {
                        node.start().await;
                    }
                }
                self.nodes[pods..].iter_mut().for_each(Node::terminate);
            }
            SiteStep::RemoveVolume(ordinal) => {
                std::fs::remove_dir_all(self.nodes[ordinal].data()).expect("a volume");
            }
        }
    }

    /// Kills this server (SIGKILL) and starts it again.
    pub async fn crash(&mut self, ordinal: Ordinal) {
        self.nodes[ordinal].stop();
        self.nodes[ordinal].start().await;
    }

    /// A client of the system account.
    pub async fn system_client(&self) -> nats::Client {
        self.client(self.authority().system_user(OffsetDateTime::now_utc()).expect("user")).await
    }

    /// Servers that are to run.
    pub fn pods(&self) -> usize {
        self.pods
    }

    /// Makes ready for so many servers in all, without starting or telling any.
    pub fn add_nodes(&mut self, count: usize) {
        for ordinal in self.nodes.len()..count {
            self.nodes.push(Node::new(self.name(ordinal), self.folder.path()));
        }
        self.configure();
    }

    /// What each server answers as its digest when it has loaded a configuration with so many routes.
    pub fn digests(&mut self, routes: usize) -> Vec<String> {
        let routed = std::mem::replace(&mut self.routed, routes);
        let digests = self.site().digests;
        self.routed = routed;
        digests
    }

    fn name(&self, ordinal: Ordinal) -> String {
        let (name, _) = self.nodes[0].name().rsplit_once('-').expect("a name and a number");
        format!("{name}-{ordinal}")
    }
}

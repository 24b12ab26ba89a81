//! What a test broker writes to disk and finds there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_broker_admin::issuers::{LEAF_LIFETIME, certificate_end};
use tidegate_broker_admin::membership::CertificateEnds;
use tidegate_broker_admin::{Authority, LeafRequest, Usage};
use tidegate_broker_client::identity::file;
use time::OffsetDateTime;

use crate::TestBroker;

/// Where nats-server keeps the progress of a consumer.
const CONSUMER_STATE: &str = "o.dat";

/// The progress of all consumers of a server, as a kill at some moment would have left it.
pub struct ConsumersOnDisk(Vec<(PathBuf, Vec<u8>)>);

impl ConsumersOnDisk {
    /// What there is in a server's folder.
    pub(crate) fn read(data: &Path) -> Self {
        let read = |path: PathBuf| {
            let content = std::fs::read(&path).expect("read");
            (path, content)
        };
        Self(find(data, CONSUMER_STATE).map(read).collect())
    }

    /// Writes it again, and removes what came later.
    pub(crate) fn restore(&self, data: &Path) {
        find(data, CONSUMER_STATE).for_each(|path| std::fs::remove_file(path).expect("remove"));
        for (path, content) in &self.0 {
            std::fs::write(path, content).expect("write");
        }
    }
}

/// A leaf as the operator asks for it: only servers have host names.
pub(crate) fn request(name: &str, usage: Usage) -> LeafRequest {
    match usage {
        Usage::Client => LeafRequest::client(&format!("test/{name}")),
        Usage::Server | Usage::Peer | Usage::ServerAndClient => {
            LeafRequest { name: format!("test {name}"), hosts: vec!["localhost".into()], usage }
        }
    }
}

/// All files of this name in a folder and all below it.
fn find(folder: &Path, name: &'static str) -> impl Iterator<Item = PathBuf> {
    walk(folder).into_iter().filter(move |path| path.file_name().is_some_and(|found| found == name))
}

impl TestBroker {
    /// Gives the servers certificates that end then, as the kubelet does when their Secrets are renewed. They are of the
    /// hosts that servers have here.
    pub fn bring_certificates(&self, ends: CertificateEnds) {
        let (own, folder) = (&self.authority, self.folder.path());
        let made = |end: Option<OffsetDateTime>| end.expect("an end") - LEAF_LIFETIME;
        write_leaf(&folder.join("tls"), own, &request("broker", Usage::Server), made(ends.clients));
        write_leaf(&folder.join("routes"), own, &request("broker", Usage::Peer), made(ends.routes));
    }

    /// Gives the servers certificates of this authority, and what they trust with it. Returns when they end: `later` seconds
    /// after the usual time, so that they are known apart.
    pub fn bring_server_identity(&self, authority: &Authority, later: u64) -> CertificateEnds {
        let now = OffsetDateTime::now_utc() + Duration::from_secs(later);
        let [clients, routes] = self.certificate_folders();
        write_leaf(&clients, authority, &request("broker", Usage::Server), now);
        write_leaf(&routes, authority, &request("broker", Usage::Peer), now);
        let end =
            |folder: &Path| certificate_end(&std::fs::read_to_string(folder.join(file::CERTIFICATE)).expect("read"));
        CertificateEnds { clients: end(&clients), routes: end(&routes) }
    }

    /// Gives a handler or publisher, which has this folder, a certificate of this authority, and what it trusts with it.
    pub fn bring_client_identity(&self, folder: &Path, authority: &Authority) {
        write_leaf(folder, authority, &request("client", Usage::Client), OffsetDateTime::now_utc());
        std::fs::write(folder.join(file::GENERATION), authority.rollover.generation.to_string()).expect("write");
    }

    /// Where the servers have the certificates that they show to clients, and on their routes.
    pub fn certificate_folders(&self) -> [PathBuf; 2] {
        ["tls", "routes"].map(|name| self.folder.path().join(name))
    }

    /// Gives the servers a certificate for clients that is none.
    pub fn damage_certificate(&self) {
        std::fs::write(self.folder.path().join("tls").join(file::CERTIFICATE), "damaged").expect("write");
    }
}

/// Makes a leaf, and writes it with what its holder verifies the other side by.
pub(crate) fn write_leaf(folder: &Path, authority: &Authority, request: &LeafRequest, now: OffsetDateTime) {
    std::fs::create_dir_all(folder).expect("folder");
    let leaf = authority.leaf(request, now).expect("leaf");
    std::fs::write(folder.join(file::CA), authority.trusted_by(request.usage)).expect("write");
    std::fs::write(folder.join(file::CERTIFICATE), &leaf.certificate).expect("write");
    std::fs::write(folder.join(file::KEY), &leaf.key).expect("write");
}

impl TestBroker {
    /// Damages what a server that is stopped has on disk of the progress of its consumers of this name, however little it
    /// wrote of it.
    pub fn damage_consumer(&self, server: usize, consumer: &str) {
        let folder = format!("/obs/{consumer}/meta.inf");
        let files = walk(&self.nodes[server].data());
        let found: Vec<_> = files.iter().filter(|path| path.to_string_lossy().ends_with(&folder)).collect();
        assert!(!found.is_empty(), "no consumer {consumer}");
        found.iter().for_each(|path| std::fs::write(path.with_file_name(CONSUMER_STATE), [7; 16]).expect("write"));
    }

    /// The files with the messages of a stream on a server, in their order. (Of all topics that have a stream of this name.)
    pub fn blocks(&self, server: usize, stream: &str) -> Vec<PathBuf> {
        let folder = format!("/streams/{stream}/msgs/");
        let mut found: Vec<PathBuf> = walk(&self.nodes[server].data());
        found.retain(|path| {
            path.to_string_lossy().contains(&folder) && path.extension().is_some_and(|extension| extension == "blk")
        });
        let number = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        found.sort_by_key(number);
        found
    }
}

/// All files of a folder and of those below it.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                found.push(entry);
            }
        }
    }
    found
}

/// What a bad sector does: sixteen bytes in the middle of a file are others.
pub fn flip_bytes(file: &Path) {
    let mut bytes = std::fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].iter_mut().for_each(|byte| *byte = !*byte);
    std::fs::write(file, bytes).expect("write");
}

/// What a power loss may do: the second half of a file is gone.
pub fn halve(file: &Path) {
    let bytes = std::fs::read(file).expect("read");
    std::fs::write(file, &bytes[..bytes.len() / 2]).expect("write");
}

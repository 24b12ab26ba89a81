//! What a test broker writes to disk and finds there.

use std::path::{Path, PathBuf};

use tidegate_broker_admin::{Leaf, LeafRequest, Usage};
use tidegate_broker_client::identity::file;

/// Where nats-server keeps the progress of a consumer.
const CONSUMER_STATE: &str = "o.dat";

/// The progress of all consumers of a server, as a kill at some moment would have left it.
pub struct ConsumersOnDisk(Vec<(PathBuf, Vec<u8>)>);

impl ConsumersOnDisk {
    /// What there is in a server's folder.
    pub(crate) fn read(data: &Path) -> Self {
        let mut files = Vec::new();
        find(data, CONSUMER_STATE, &mut |path| files.push((path.clone(), std::fs::read(path).expect("read"))));
        Self(files)
    }

    /// Writes it again, and removes what came later.
    pub(crate) fn restore(&self, data: &Path) {
        find(data, CONSUMER_STATE, &mut |path| std::fs::remove_file(path).expect("remove"));
        for (path, content) in &self.0 {
            std::fs::write(path, content).expect("write");
        }
    }
}

/// A leaf as the operator asks for it: only servers have host names.
pub(crate) fn request(name: &str, usage: Usage) -> LeafRequest {
    let hosts = if usage == Usage::Client { Vec::new() } else { vec!["localhost".into()] };
    LeafRequest { name: format!("test {name}"), hosts, usage }
}

/// Does something with each file of this name in a folder and all below it.
fn find(folder: &Path, name: &str, with: &mut dyn FnMut(&PathBuf)) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("type").is_dir() {
            find(&entry.path(), name, with);
        } else if entry.file_name() == name {
            with(&entry.path());
        }
    }
}

pub(crate) fn write_leaf(folder: &Path, authority: &str, leaf: &Leaf) {
    std::fs::create_dir_all(folder).expect("folder");
    std::fs::write(folder.join(file::CA), authority).expect("write");
    std::fs::write(folder.join(file::CERTIFICATE), &leaf.certificate).expect("write");
    std::fs::write(folder.join(file::KEY), &leaf.key).expect("write");
}

//! What a server that has been a cluster of one has on its disk: one that finds it leads itself at once. With the seed alone
//! ([`seed`]) it first waits four to nine seconds for others, at the first start of each project.
//!
//! The files are nats-server's own, so the tests run them against each version that we move to. They are the same for
//! every server of this name: its peers, its term and vote, and a snapshot of the first term that has no streams. The
//! snapshot's checksum depends on nothing but its content.

use std::fs;
use std::path::Path;

use tidegate_broker_client::seed::{self, SeedError, Seeded};

/// The name of the server. Its number makes it the founder of its cluster.
pub const SERVER: &str = "dev-0";

/// Term 1, and the server's vote for itself.
const TERM_AND_VOTE: &[u8; 16] = b"\x01\0\0\0\0\0\0\0wfte7in3";
/// Term 1, entry 1, 18 bytes of peers (one, of one), and the checksum.
const SNAPSHOT: &[u8; 46] =
    b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x12\0\0\0\x01\0\0\0\x01\0\0\0wfte7in3\0\0\xcd\xfd\x13\x67\x13\x37\xc3\xf4";

/// Why the files are not there.
#[derive(Debug, thiserror::Error)]
pub enum FormedError {
    /// Not even the seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The folder cannot be written.
    #[error("events: {0}")]
    Folder(#[from] std::io::Error),
}

/// Makes the server that stores in `data` a cluster of one, unless it has run before.
///
/// # Errors
/// The folder cannot be written.
pub fn write(data: &Path, system_account: &str) -> Result<(), FormedError> {
    if seed::write(data, system_account, SERVER)? != Seeded::Written {
        return Ok(());
    }
    let meta = data.join("jetstream").join(system_account).join("_js_").join("_meta_");
    fs::create_dir_all(meta.join("snapshots"))?;
    fs::write(meta.join("tav.idx"), TERM_AND_VOTE)?;
    fs::write(meta.join("snapshots").join("snap.1.1"), SNAPSHOT)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_of_this_server() {
        assert_eq!(TERM_AND_VOTE[8..], seed::peer_id(SERVER));
        assert_eq!(SNAPSHOT[20..38], seed::content(SERVER));
    }
}

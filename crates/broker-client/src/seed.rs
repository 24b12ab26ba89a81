//! The first file of a broker: it makes a server that starts for the first time a cluster of one.
//!
//! A nats-server that is told of a cluster and has no state waits for the others of a cluster of at least two. One that
//! finds this file takes up a cluster that has one member, itself, and takes others in later. The file is the server's
//! own (`peers.idx` of its raft group of all streams), so its form is checked against each version that we move to:
//! see `tests/formation.rs` of test-broker.
//!
//! Only the founder may have it, and only before its first start. A server that lost its volume and finds such a file
//! again would lead a cluster of its own, without the streams of the one that it belonged to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Bytes of the file.
pub const SEED_BYTES: usize = 18;
/// Characters of the name that a server has among its peers.
pub const PEER_ID_BYTES: usize = 8;
/// The file, and the name under which it is written first.
const FILE: &str = "peers.idx";
const PART: &str = "peers.idx.tidegate";
/// What a peer's name is made of.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why there is no seed where there should be one.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The volume has streams of a server that was no member of a cluster. As a member it would delete them within a
    /// minute. They stay as they are while this server does not start.
    #[error(
        "the volume has streams of a broker that an earlier version of Tidegate made. This version cannot read them, and would delete them: delete the volume to begin without them, or go back to that version"
    )]
    Standalone,
    /// The volume cannot be read or written.
    #[error("{}: {source}", path.display())]
    Volume {
        /// What of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What became of the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seeded {
    /// It is there now, and the server has never run.
    Written,
    /// The server has been a member of a cluster before: nothing was written.
    Member,
    /// This server is not the founder: it joins the others, and needs none.
    Joiner,
}

impl Seeded {
    /// For the log.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Written => "this server begins as a cluster of one",
            Self::Member => "this server has been a member of a cluster before: nothing is changed",
            Self::Joiner => "this server joins the others: nothing is changed",
        }
    }
}

/// The name that a server has among its peers, from its `server_name`.
pub fn peer_id(server_name: &str) -> [u8; PEER_ID_BYTES] {
    let digest = Sha256::digest(server_name.as_bytes());
    std::array::from_fn(|place| DIGITS[usize::from(digest[place]) % DIGITS.len()])
}

/// The file's content: a cluster of one, whose member is the server of this name.
pub fn content(server_name: &str) -> [u8; SEED_BYTES] {
    let mut content = [0; SEED_BYTES];
    // How many members the cluster has, and how many are known.
    content[..4].copy_from_slice(&1_u32.to_le_bytes());
    content[4..8].copy_from_slice(&1_u32.to_le_bytes());
    content[8..16].copy_from_slice(&peer_id(server_name));
    // Two bytes of a state that this server does not have.
    content
}

/// Whether the server of this name (`<statefulset>-<ordinal>`) founds its cluster.
pub fn is_founder(server_name: &str) -> bool {
    server_name.rsplit_once('-').is_some_and(|(_, ordinal)| ordinal == "0")
}

/// Writes the seed for the server of this name that stores in `data`, if it is the founder and has never run. What is
/// there of it after this has returned survives a power failure.
///
/// # Errors
/// See [`SeedError`]. Nothing of the server's own was changed.
pub fn write(data: &Path, system_account: &str, server_name: &str) -> Result<Seeded, SeedError> {
    let store = data.join("jetstream");
    let meta = store.join(system_account).join("_js_").join("_meta_");
    // Only what is complete has the file's name, so without it the server has not run.
    let has_run = is_there(&meta)? && entries(&meta)?.iter().any(|entry| entry != PART);
    if has_run {
        return Ok(Seeded::Member);
    }
    if has_streams(&store)? {
        return Err(SeedError::Standalone);
    }
    if !is_founder(server_name) {
        return Ok(Seeded::Joiner);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&meta).map_err(at(&meta))?;
    let (part, file) = (meta.join(PART), meta.join(FILE));
    write_synced(&part, &content(server_name)).map_err(at(&part))?;
    fs::rename(&part, &file).map_err(at(&file))?;
    // The entries themselves, up to the volume's root.
    for folder in meta.ancestors().take_while(|folder| folder.starts_with(data)) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    }
    Ok(Seeded::Written)
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Whether any account has a stream on this volume.
fn has_streams(store: &Path) -> Result<bool, SeedError> {
    if !is_there(store)? {
        return Ok(false);
    }
    for account in entries(store)? {
        let streams = store.join(account).join("streams");
        if is_there(&streams)? && !entries(&streams)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_there(path: &Path) -> Result<bool, SeedError> {
    path.try_exists().map_err(at(path))
}

fn entries(folder: &Path) -> Result<Vec<std::ffi::OsString>, SeedError> {
    let names = |found: fs::ReadDir| found.map(|entry| entry.map(|entry| entry.file_name())).collect();
    fs::read_dir(folder).and_then(names).map_err(at(folder))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SeedError {
    let path = path.to_owned();
    move |source| SeedError::Volume { path, source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // a test fails by panicking

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const ACCOUNT: &str = "ASYSTEM";

    fn seed(data: &Path) -> PathBuf {
        data.join("jetstream").join(ACCOUNT).join("_js_").join("_meta_").join(FILE)
    }

    #[test]
    fn the_content_is_a_cluster_of_one() {
        // As nats-server 2.15.2 calls a server of that name in its log and in its replicas.
        assert_eq!(&peer_id("b-0"), b"FFna3Zfr");
        assert_eq!(content("b-0"), *b"\x01\0\0\0\x01\0\0\0FFna3Zfr\0\0");
    }

    #[test]
    fn it_is_written_once_by_the_founder_alone() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert_eq!(write(data, ACCOUNT, "b-1").unwrap(), Seeded::Joiner);
        assert_eq!(fs::read_dir(data).unwrap().count(), 0, "nothing is written for one that joins");
        assert_eq!(write(data, ACCOUNT, "b-0").unwrap(), Seeded::Written);
        assert_eq!(fs::read(seed(data)).unwrap(), content("b-0"));
        assert_eq!(fs::metadata(seed(data)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(seed(data).parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(seed(data), b"the server's own").unwrap();
        assert_eq!(write(data, ACCOUNT, "b-0").unwrap(), Seeded::Member);
        assert_eq!(fs::read(seed(data)).unwrap(), b"the server's own");
    }

    #[test]
    fn one_that_was_cut_short_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = seed(folder.path());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file.with_file_name(PART), b"\x01\0").unwrap();
        assert_eq!(write(folder.path(), ACCOUNT, "b-0").unwrap(), Seeded::Written);
        assert_eq!(fs::read(file).unwrap(), content("b-0"));
    }

    #[test]
    fn streams_of_a_server_without_a_cluster_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let streams = folder.path().join("jetstream").join("ATOPIC").join("streams");
        fs::create_dir_all(&streams).unwrap();
        assert_eq!(write(folder.path(), ACCOUNT, "b-1").unwrap(), Seeded::Joiner, "an empty folder holds nothing");
        fs::create_dir(streams.join("events")).unwrap();
        for name in ["b-0", "b-1"] {
            assert!(matches!(write(folder.path(), ACCOUNT, name), Err(SeedError::Standalone)), "{name}");
        }
        assert!(!seed(folder.path()).exists());
    }

    #[test]
    fn the_first_pod_founds() {
        for (name, expected) in [("b-0", true), ("b-1", false), ("b-10", false), ("0", false), ("b-00", false)] {
            assert_eq!(is_founder(name), expected, "{name}");
        }
    }
}

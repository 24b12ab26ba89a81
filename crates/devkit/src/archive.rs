//! Container images without a builder: a docker-archive of one layer, its configuration and a manifest
//! (Docker image specification 1.2, "combined image JSON + filesystem changeset format").
//!
//! The same content gives the same bytes, so a hash of the archive tells whether an image has changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Who an image's program runs as, unless said otherwise: nobody in particular, and not root.
pub const NOBODY: &str = "65532:65532";

/// An image to write.
pub struct Image {
    /// Its reference, for example `localhost/tidegate/operator:dev`.
    pub name: String,
    /// The entrypoint, program and arguments.
    pub entrypoint: Vec<String>,
    /// `uid:gid`.
    pub user: String,
    /// The processor that its programs are made for, as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// When it says it was made. The time of making it would make every archive another one.
    pub created: OffsetDateTime,
    /// What is in it, by absolute path.
    pub files: BTreeMap<String, Content>,
}

/// What is at a path of an image.
pub enum Content {
    /// A copy of this file, executable.
    File(PathBuf),
    /// A symbolic link to this path.
    Link(String),
}

impl Image {
    /// Writes the docker-archive.
    ///
    /// # Errors
    /// A file cannot be read, a path is not absolute, the archive cannot be written.
    pub fn write(&self, out: impl Write) -> Result<()> {
        let mut layer = Hashing { inner: tempfile::tempfile()?, hash: Sha256::new() };
        self.write_layer(&mut layer)?;
        let layer_digest = hex(&layer.hash.finalize());
        let mut layer = layer.inner;
        let length = layer.stream_position()?;
        layer.rewind()?;

        let config = serde_json::to_vec(&self.config(&layer_digest)?)?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{layer_digest}.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);
        let manifest = serde_json::to_vec(&manifest)?;

        let mut archive = Builder::new(out);
        add_file(&mut archive, &config_name, 0o644, config.len() as u64, config.as_slice())?;
        add_file(&mut archive, &layer_name, 0o644, length, layer)?;
        add_file(&mut archive, "manifest.json", 0o644, manifest.len() as u64, manifest.as_slice())?;
        archive.into_inner()?.flush()?;
        Ok(())
    }

    /// Writes the tar archive of the files.
    ///
    /// # Errors
    /// A file cannot be read, a path is not absolute, or `out` cannot be written to.
    pub fn write_layer(&self, out: impl Write) -> Result<()> {
        let mut layer = Builder::new(out);
        let mut folders = BTreeMap::from([("etc".to_owned(), 0o755), ("tmp".to_owned(), 0o1777)]);
        for path in self.files.keys() {
            let inner = inside(path)?;
            let parents = Path::new(inner).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
            for parent in parents {
                folders.entry(parent.to_string_lossy().into_owned()).or_insert(0o755);
            }
        }
        for (folder, mode) in folders {
            layer.append_data(&mut header(EntryType::Directory, mode, 0), format!("{folder}/"), io::empty())?;
        }
        for (path, content) in &self.files {
            match content {
                Content::File(source) => {
                    let file = File::open(source).with_context(|| format!("reading {}", source.display()))?;
                    let length = file.metadata()?.len();
                    add_file(&mut layer, inside(path)?, 0o755, length, file)?;
                }
                Content::Link(target) => {
                    layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), inside(path)?, target)?;
                }
            }
        }
        layer.into_inner()?.flush()?;
        Ok(())
    }

    /// The configuration: how a container starts, and of which layer (SHA-256 of its tar archive) its files are.
    ///
    /// # Errors
    /// `created` is later than the year 9999.
    pub fn config(&self, layer_digest: &str) -> Result<Value> {
        Ok(json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": self.created.format(&Rfc3339)?,
            "config": {"Entrypoint": self.entrypoint, "User": self.user, "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        }))
    }
}

/// This machine's architecture, as images name it.
pub fn host_architecture() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

/// What an archive says of itself, and what it is.
pub struct Identity {
    /// Its image references.
    pub tags: Vec<String>,
    /// SHA-256 of the whole archive, in hexadecimal.
    pub digest: String,
}

/// Reads a docker-archive's references and hash.
///
/// # Errors
/// It cannot be read, or has no manifest.
pub fn identify(path: &Path) -> Result<Identity> {
    let mut file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let mut hash = Hashing { inner: io::sink(), hash: Sha256::new() };
    io::copy(&mut file, &mut hash)?;
    file.rewind()?;
    let mut tags = Vec::new();
    for entry in tar::Archive::new(file).entries()? {
        let mut entry = entry?;
        if entry.path()?.as_ref() == Path::new("manifest.json") {
            let mut manifest = String::new();
            entry.read_to_string(&mut manifest)?;
            let manifest: Value = serde_json::from_str(&manifest)?;
            let named = manifest.as_array().into_iter().flatten().filter_map(|image| image["RepoTags"].as_array());
            tags = named.flatten().filter_map(|tag| tag.as_str().map(str::to_owned)).collect();
        }
    }
    ensure!(!tags.is_empty(), "{} is not a docker-archive with a named image", path.display());
    Ok(Identity { tags, digest: hex(&hash.hash.finalize()) })
}

/// A path as tar wants it: without the leading slash.
fn inside(path: &str) -> Result<&str> {
    let inner = path.strip_prefix('/').with_context(|| format!("path in an image must be absolute: {path}"))?;
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    ensure!(inner.split('/').all(plain), "not a plain path: {path}");
    Ok(inner)
}

fn header(kind: EntryType, mode: u32, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Adds a regular file of root's, from 1970.
pub fn add_file(tar: &mut Builder<impl Write>, path: &str, mode: u32, length: u64, from: impl Read) -> Result<()> {
    Ok(tar.append_data(&mut header(EntryType::Regular, mode, length), path, from)?)
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes what passes through.
pub struct Hashing<W> {
    /// Where it goes.
    pub inner: W,
    /// Of what went there.
    pub hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;

//! An image as a release publishes it: an OCI image layout in a tar archive, with one image for each architecture behind an
//! index (OCI image specification 1.1). What carries it into a registry (skopeo, for example) keeps its digests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::Builder;
use time::OffsetDateTime;

use crate::archive::{self, Content, Hashing, Image};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// One program for several architectures. The same arguments and files give the same bytes.
#[derive(Args)]
pub struct Release {
    /// Its reference, for example registry.example/tidegate/operator:0.1.0.
    reference: String,
    /// The file to write.
    archive: PathBuf,
    /// Where the program is in the image, which is also its entrypoint.
    #[arg(long)]
    program: String,
    /// When it says it was made, in seconds since 1970: the time of the commit.
    #[arg(long, default_value_t = 0)]
    created: i64,
    /// `key=value`, said by the index and by the image of each architecture.
    #[arg(long, value_parser = key_and_value)]
    annotation: Vec<(String, String)>,
    /// `architecture=file`, for example amd64=target/tidegate-operator.
    #[arg(required = true, value_parser = key_and_value)]
    programs: Vec<(String, String)>,
}

impl Release {
    /// Writes the archive; returns the digest of the index, by which a registry will know it.
    ///
    /// # Errors
    /// A program cannot be read, the archive cannot be written.
    pub fn write(self) -> Result<String> {
        let out = File::create(&self.archive).with_context(|| format!("writing {}", self.archive.display()))?;
        self.write_to(io::BufWriter::new(out))
    }

    fn write_to(&self, out: impl Write) -> Result<String> {
        let annotations: BTreeMap<&str, &str> =
            self.annotation.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut archive = Builder::new(out);
        let mut manifests = Vec::new();
        // In one order, whatever that of the command line is.
        let programs: BTreeMap<&String, &String> = self.programs.iter().map(|(key, value)| (key, value)).collect();
        ensure!(programs.len() == self.programs.len(), "an architecture is named twice");
        for (architecture, program) in programs {
            let image = Image {
                name: self.reference.clone(),
                entrypoint: vec![self.program.clone()],
                user: archive::NOBODY.to_owned(),
                architecture: architecture.clone(),
                created: OffsetDateTime::from_unix_timestamp(self.created)?,
                files: BTreeMap::from([(self.program.clone(), Content::File(program.into()))]),
            };
            let mut manifest = add_image(&mut archive, &image, &annotations)?;
            manifest["platform"] = json!({"architecture": architecture, "os": "linux"});
            manifests.push(manifest);
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations,
        });
        let mut index = add_json(&mut archive, INDEX, &index)?;
        let digest = index["digest"].as_str().unwrap_or_default().to_owned();
        index["annotations"] = json!({
            "org.opencontainers.image.ref.name": self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag),
            "io.containerd.image.name": self.reference,
        });
        let layout = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]});
        for (path, content) in [("index.json", layout), ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}))] {
            let content = serde_json::to_vec(&content)?;
            archive::add_file(&mut archive, path, 0o644, content.len() as u64, content.as_slice())?;
        }
        archive.into_inner()?.flush()?;
        Ok(digest)
    }
}

/// Adds layer, configuration and manifest of an image; returns what describes the manifest.
fn add_image(archive: &mut Builder<impl Write>, image: &Image, annotations: &BTreeMap<&str, &str>) -> Result<Value> {
    // GzBuilder writes neither a time nor a name into its header. Two hashes: of the files, and of what is stored.
    let stored = Hashing { inner: tempfile::tempfile()?, hash: Sha256::new() };
    let mut files = Hashing { inner: GzBuilder::new().write(stored, Compression::best()), hash: Sha256::new() };
    image.write_layer(&mut files)?;
    let files_digest = archive::hex(&files.hash.finalize());
    let stored = files.inner.finish()?;
    let digest = archive::hex(&stored.hash.finalize());
    let mut layer = stored.inner;
    let length = layer.stream_position()?;
    layer.rewind()?;
    archive::add_file(archive, &format!("blobs/sha256/{digest}"), 0o644, length, layer)?;

    let config = add_json(archive, CONFIG, &image.config(&files_digest)?)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "annotations": annotations,
        "layers": [{"mediaType": LAYER, "digest": format!("sha256:{digest}"), "size": length}],
    });
    add_json(archive, MANIFEST, &manifest)
}

/// Adds a document; returns what describes it.
fn add_json(archive: &mut Builder<impl Write>, media_type: &str, document: &Value) -> Result<Value> {
    let document = serde_json::to_vec(document)?;
    let digest = archive::hex(&Sha256::digest(&document));
    let length = document.len();
    archive::add_file(archive, &format!("blobs/sha256/{digest}"), 0o644, length as u64, document.as_slice())?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": length}))
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
#[path = "oci_tests.rs"]
mod tests;

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

/// An image for two architectures, whose programs are in `folder` and named on the command line in the order given.
fn release(folder: &Path, architectures: [&str; 2]) -> Release {
    let program = |architecture: &str| {
        let path = folder.join(architecture);
        std::fs::write(&path, format!("program for {architecture}")).unwrap();
        (architecture.to_owned(), path.to_str().unwrap().to_owned())
    };
    Release {
        reference: "registry.test:5000/tidegate/a:1".into(),
        archive: folder.join("a.tar"),
        program: "/bin/a".into(),
        created: 1_000_000_000,
        annotation: vec![("org.opencontainers.image.version".into(), "1".into())],
        programs: architectures.map(program).into(),
    }
}

fn entries(tar: impl Read) -> Files {
    let mut archive = tar::Archive::new(tar);
    let read = |entry: io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), content)
    };
    archive.entries().unwrap().map(read).collect()
}

/// The blob that a descriptor names, which must have the digest and the size that it says.
fn blob(files: &Files, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let content = &files[&format!("blobs/sha256/{digest}")];
    assert_eq!(
        (archive::hex(&Sha256::digest(content)), json!(content.len())),
        (digest.to_owned(), descriptor["size"].clone())
    );
    content.clone()
}

fn document(files: &Files, descriptor: &Value) -> Value {
    let document: Value = serde_json::from_slice(&blob(files, descriptor)).unwrap();
    if let Some(media_type) = document.get("mediaType") {
        assert_eq!(media_type, &descriptor["mediaType"]);
    }
    document
}

#[test]
fn each_architecture_has_its_program_behind_one_index() {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = Vec::new();
    let digest = release(folder.path(), ["arm64", "amd64"]).write_to(&mut tar).unwrap();

    let files = entries(tar.as_slice());
    assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
    let layout: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(layout["manifests"][0]["digest"], json!(digest));
    assert_eq!(layout["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1");
    let index = document(&files, &layout["manifests"][0]);
    assert_eq!(index["annotations"]["org.opencontainers.image.version"], "1");
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 2);
    for (manifest, architecture) in manifests.iter().zip(["amd64", "arm64"]) {
        assert_eq!(manifest["platform"], json!({"architecture": architecture, "os": "linux"}));
        let manifest = document(&files, manifest);
        let config = document(&files, &manifest["config"]);
        assert_eq!(
            (&config["architecture"], &config["created"]),
            (&json!(architecture), &json!("2001-09-09T01:46:40Z"))
        );
        let mut layer = Vec::new();
        GzDecoder::new(blob(&files, &manifest["layers"][0]).as_slice()).read_to_end(&mut layer).unwrap();
        let unpacked = format!("sha256:{}", archive::hex(&Sha256::digest(&layer)));
        assert_eq!(config["rootfs"]["diff_ids"], json!([unpacked]));
        assert_eq!(entries(layer.as_slice())["bin/a"], format!("program for {architecture}").as_bytes());
    }
}

#[test]
fn the_same_programs_give_the_same_bytes_in_any_order_and_folder() {
    let write = |architectures| {
        let folder = tempfile::tempdir().unwrap();
        let mut tar = Vec::new();
        release(folder.path(), architectures).write_to(&mut tar).unwrap();
        tar
    };
    assert_eq!(write(["amd64", "arm64"]), write(["arm64", "amd64"]));
    assert_ne!(write(["amd64", "arm64"]), write(["amd64", "riscv64"]));
}

#[test]
fn an_architecture_is_named_once() {
    let folder = tempfile::tempdir().unwrap();
    let error = release(folder.path(), ["amd64", "amd64"]).write_to(Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "an architecture is named twice");
}

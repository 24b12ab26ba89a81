use super::*;

fn image(folder: &Path, content: &str) -> Image {
    std::fs::write(folder.join("program"), content).unwrap();
    let files = BTreeMap::from([
        ("/opt/app/run".to_owned(), Content::File(folder.join("program"))),
        ("/bin/sh".to_owned(), Content::Link("/opt/app/run".to_owned())),
    ]);
    Image {
        name: "localhost/a:1".into(),
        entrypoint: vec!["/opt/app/run".into()],
        user: NOBODY.into(),
        architecture: "riscv64".into(),
        created: OffsetDateTime::UNIX_EPOCH,
        files,
    }
}

fn bytes(image: &Image) -> Vec<u8> {
    let mut out = Vec::new();
    image.write(&mut out).unwrap();
    out
}

fn entries(tar: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), (entry.header().clone(), content))
    };
    archive.entries().unwrap().map(read).collect()
}

#[test]
fn the_same_content_gives_the_same_bytes_wherever_and_whenever_it_was_made() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = bytes(&image(one.path(), "x"));
    assert_eq!(first, bytes(&image(two.path(), "x")));
    assert_ne!(first, bytes(&image(two.path(), "y")));
}

#[test]
fn digests_and_names_agree() {
    let folder = tempfile::tempdir().unwrap();
    let outer = entries(&bytes(&image(folder.path(), "x")));
    let manifest: Value = serde_json::from_slice(&outer["manifest.json"].1).unwrap();
    assert_eq!(manifest[0]["RepoTags"], json!(["localhost/a:1"]));
    let config_name = manifest[0]["Config"].as_str().unwrap();
    let layer_name = manifest[0]["Layers"][0].as_str().unwrap();
    assert_eq!(config_name, format!("{}.json", hex(&Sha256::digest(&outer[config_name].1))));
    let config: Value = serde_json::from_slice(&outer[config_name].1).unwrap();
    let layer_digest = hex(&Sha256::digest(&outer[layer_name].1));
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{layer_digest}")]));
    assert_eq!((&config["architecture"], &config["created"]), (&json!("riscv64"), &json!("1970-01-01T00:00:00Z")));
    assert_eq!(config["config"]["User"], NOBODY);
    assert_eq!(config["config"]["Entrypoint"], json!(["/opt/app/run"]));
}

#[test]
fn the_layer_has_the_files_their_folders_and_a_writable_tmp() {
    let folder = tempfile::tempdir().unwrap();
    let outer = entries(&bytes(&image(folder.path(), "x")));
    let layer = outer.keys().find(|name| name.ends_with(".tar")).unwrap();
    let layer = entries(&outer[layer].1);
    let names: Vec<_> = layer.keys().map(String::as_str).collect();
    assert_eq!(names, ["bin/", "bin/sh", "etc/", "opt/", "opt/app/", "opt/app/run", "tmp/"]);
    assert_eq!(layer["tmp/"].0.mode().unwrap(), 0o1777);
    assert_eq!((layer["opt/app/run"].0.mode().unwrap(), layer["opt/app/run"].1.as_slice()), (0o755, &b"x"[..]));
    assert_eq!(layer["bin/sh"].0.link_name().unwrap().unwrap(), Path::new("/opt/app/run"));
}

#[test]
fn an_archive_tells_its_tags_and_hash() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = bytes(&image(folder.path(), "x"));
    let path = folder.path().join("a.tar");
    std::fs::write(&path, &bytes).unwrap();
    let identity = identify(&path).unwrap();
    assert_eq!(identity.tags, ["localhost/a:1"]);
    assert_eq!(identity.digest, hex(&Sha256::digest(&bytes)));
}

#[test]
fn paths_that_are_not_plain_are_refused() {
    for path in ["bin/a", "/", "/a/../b", "//a", "/a/"] {
        assert!(inside(path).is_err(), "{path}");
    }
}

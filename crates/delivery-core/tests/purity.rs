//! The core has no effects because it has nothing to have them with.

#[test]
fn the_core_depends_on_nothing() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("[dependencies]\n").nth(1).expect("there is a section of dependencies");
    let own = section.split("\n[").next().expect("it has an end");
    assert_eq!(own.trim(), "", "a dependency of the core: the runner is the place for effects");
    assert!(!manifest.contains("build-dependencies") && !manifest.contains("[target"), "{manifest}");
}

#[test]
fn the_core_reads_no_clock_and_makes_no_thread() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it is a folder") {
            let path = entry.expect("it is listed").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("it is text");
            for effect in
                ["Instant", "SystemTime", "std::thread", "std::net", "std::fs", "std::io", "std::env", "async "]
            {
                assert!(!text.contains(effect), "{}: {effect}", path.display());
            }
        }
    }
}

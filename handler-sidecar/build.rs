//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A static program can be loaded anywhere, so its pointers are adjusted at each start, by a list of them. Packed
    // (DT_RELR; glibc 2.36), the list is a thirtieth of what it is otherwise: a tenth of a sidecar's idle memory.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

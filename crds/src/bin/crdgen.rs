//! Prints the CRDs as YAML, for `make generate`. With a name (such as `eventtopics`) only that one.

use std::io::Write as _;

fn main() -> std::process::ExitCode {
    let wanted = std::env::args().nth(1);
    let mut out = std::io::stdout().lock();
    for definition in tidegate_crds::definitions() {
        if wanted.as_ref().is_some_and(|name| *name != definition.spec.names.plural) {
            continue;
        }
        let written = serde_saphyr::to_string(&definition)
            .map_err(std::io::Error::other)
            .and_then(|yaml| write!(out, "---\n{yaml}"));
        if let Err(error) = written {
            let _ = writeln!(std::io::stderr(), "crdgen: {error}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}

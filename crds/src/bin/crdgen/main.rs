//! Prints the CRDs as YAML, for `make generate`; with a name (such as `eventtopics`) only that one, and with `--reference`
//! before it its page of the API reference instead.

mod reference;

use std::io::{self, Write as _};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let as_reference = arguments.next_if(|argument| argument == "--reference").is_some();
    let wanted = arguments.next();
    for definition in tidegate_crds::definitions() {
        if wanted.as_ref().is_some_and(|name| *name != definition.spec.names.plural) {
            continue;
        }
        if let Err(error) = print(&definition, as_reference) {
            let _ = writeln!(io::stderr(), "crdgen: {error}");
            return std::process::ExitCode::FAILURE;
        }
    }
    std::process::ExitCode::SUCCESS
}

fn print(definition: &CustomResourceDefinition, as_reference: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_reference {
        return reference::write(definition, &mut out);
    }
    write!(out, "---\n{}", serde_saphyr::to_string(definition).map_err(io::Error::other)?)
}

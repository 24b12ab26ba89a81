//! Prints the CRDs as YAML, for `make generate`; with a name (such as `eventtopics`) only that one, and with `--reference`
//! before it its page of the API reference instead. With `--values` and the chart's folder: the chart's README.

mod reference;
mod values;

use std::io::{self, Write as _};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "--values").is_some() {
        let folder = arguments.next().unwrap_or_default();
        return ended(values::write(folder.as_ref(), &mut io::stdout().lock()));
    }
    let as_reference = arguments.next_if(|argument| argument == "--reference").is_some();
    let wanted = arguments.next();
    for definition in tidegate_crds::definitions() {
        if wanted.as_ref().is_some_and(|name| *name != definition.spec.names.plural) {
            continue;
        }
        if let Err(error) = print(&definition, as_reference) {
            return ended(Err(error));
        }
    }
    ended(Ok(()))
}

fn ended(outcome: io::Result<()>) -> std::process::ExitCode {
    let Err(error) = outcome else { return std::process::ExitCode::SUCCESS };
    let _ = writeln!(io::stderr(), "crdgen: {error}");
    std::process::ExitCode::FAILURE
}

fn print(definition: &CustomResourceDefinition, as_reference: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_reference {
        return reference::write(definition, &mut out);
    }
    write!(out, "---\n{}", serde_saphyr::to_string(definition).map_err(io::Error::other)?)
}

//! The resources in YAML files, read as the API server reads them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate_crds::{EventBroker, EventHandler, EventTopic, GROUP};

use super::unknown;
use crate::failure::Failure;
use crate::terminal;

/// The version of the API.
const API_VERSION: &str = "tidegate.io/v1alpha1";
/// The largest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// What the files describe.
#[derive(Debug, Default)]
pub struct Resources {
    /// The EventTopics.
    pub topics: Vec<EventTopic>,
    /// The EventHandlers.
    pub handlers: Vec<EventHandler>,
    /// The EventBrokers.
    pub brokers: Vec<EventBroker>,
    /// What was left out, and why.
    pub notes: Vec<String>,
}

/// The files that these paths name: files, and the YAML files of folders, without those in folders below.
///
/// # Errors
/// One is not there, or a folder has none.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
        let is_yaml =
            |file: &PathBuf| file.is_file() && file.extension().is_some_and(|kind| kind == "yaml" || kind == "yml");
        let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_yaml).collect();
        if found.is_empty() {
            return Err(Failure::Usage(format!("{}: no .yaml file is in this folder", path.display())));
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

/// Reads all of them. A resource without a namespace is in `namespace`.
///
/// # Errors
/// A file cannot be read, is no YAML, or has a resource that the API server would refuse.
pub fn read(files: &[PathBuf], namespace: &str) -> Result<Resources, Failure> {
    let mut resources = Resources::default();
    for file in files {
        let size = fs::metadata(file).map_err(|error| unreadable(file, &error))?.len();
        if size > MAX_FILE {
            return Err(Failure::Usage(format!("{}: is larger than 4 MiB: name the files one by one", file.display())));
        }
        let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        resources.add(&text, namespace).map_err(|why| Failure::Usage(format!("{}: {why}", file.display())))?;
    }
    Ok(resources)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Usage(format!("{}: {error}: name a YAML file, or a folder with YAML files", path.display()))
}

impl Resources {
    /// Adds what a text describes.
    fn add(&mut self, text: &str, namespace: &str) -> Result<(), String> {
        // What is not there, between two `---`, is null.
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
        for mut document in documents.into_iter().filter(|document| !document.is_null()) {
            let part = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let (version, kind) = (part("apiVersion"), part("kind"));
            let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let what = format!("{} {}", terminal::text(&kind), terminal::text(&name));
            let is_ours = version.split('/').next() == Some(GROUP);
            if !is_ours {
                self.notes
                    .push(format!("{what} is left out: only EventTopics, EventHandlers and EventBrokers run here"));
                continue;
            }
            if version != API_VERSION {
                return Err(format!("{what}: apiVersion must be {API_VERSION}"));
            }
            if name.is_empty() {
                return Err(format!("{what}: metadata.name is missing"));
            }
            if document["metadata"].get("namespace").is_none() {
                document["metadata"]["namespace"] = Value::from(namespace);
            }
            match kind.as_str() {
                "EventTopic" => self.topics.push(resource(document, &what)?),
                "EventHandler" => self.handlers.push(resource(document, &what)?),
                "EventBroker" => self.brokers.push(resource(document, &what)?),
                _ => return Err(format!("{what}: kind must be EventTopic, EventHandler or EventBroker")),
            }
        }
        Ok(())
    }
}

fn resource<K: DeserializeOwned + kube::CustomResourceExt>(mut document: Value, what: &str) -> Result<K, String> {
    if let Some(fields) = document.as_object_mut() {
        // The operator writes it; a file that was read from a cluster may have it.
        fields.remove("status");
    }
    if let Some(field) = unknown::field(&K::crd(), &document) {
        return Err(format!("{what}: {field} is not a field: see kubectl explain, or docs/reference"));
    }
    serde_json::from_value(document).map_err(|error| format!("{what}: {}", terminal::text(&error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "apiVersion: tidegate.io/v1alpha1\nkind: EventTopic\nmetadata: {name: orders}\nspec: {}\n";

    fn read(text: &str) -> Result<Resources, String> {
        let mut resources = Resources::default();
        resources.add(text, "shop").map(|()| resources)
    }

    #[test]
    fn a_file_has_several_resources_and_others_are_left_out_with_a_word() {
        let text = format!(
            "# a comment\n---\n{TOPIC}---\n---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: sensor}}\n---\n{}",
            "apiVersion: tidegate.io/v1alpha1\nkind: EventHandler\nmetadata: {name: billing, namespace: web}\nspec: {topic: orders, template: {}}\n"
        );
        let read = read(&text).unwrap();
        assert_eq!(read.topics[0].metadata.namespace.as_deref(), Some("shop"));
        assert_eq!(read.handlers[0].metadata.namespace.as_deref(), Some("web"));
        assert!(read.notes[0].contains("Job sensor is left out"), "{:?}", read.notes);
    }

    #[test]
    fn what_the_api_server_would_refuse_is_refused_with_its_place() {
        for (text, said) in [
            (TOPIC.replace("spec: {}", "spec: {retension: {}}"), "spec.retension is not a field"),
            (TOPIC.replace("spec: {}", "spec: {routing: Quick}"), "EventTopic orders: unknown variant"),
            (TOPIC.replace("v1alpha1", "v1"), "apiVersion must be tidegate.io/v1alpha1"),
            (TOPIC.replace("EventTopic", "EventQueue"), "kind must be"),
            (TOPIC.replace("name: orders", ""), "metadata.name is missing"),
            ("a: [".to_owned(), "line"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_folder_gives_its_yaml_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.txt"] {
            fs::write(folder.path().join(name), TOPIC).unwrap();
        }
        let found = find(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = found.iter().map(|file| file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["a.yml", "b.yaml"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(find(&[empty.path().to_owned()]).unwrap_err().to_string().contains("no .yaml file"));
        assert!(super::read(&["/nowhere.yaml".into()], "a").unwrap_err().to_string().contains("/nowhere.yaml"));
    }
}

//! Links between the pages: each leads to a file that is there, and to a heading that it has.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// What is wrong with the links of these pages (by path, below `root`), a line for each.
fn broken(root: &Path, pages: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let read: BTreeMap<_, _> = pages.iter().map(|(path, text)| (path, Page::read(text))).collect();
    let mut broken = Vec::new();
    for (path, page) in &read {
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').map_or((link.as_str(), None), |(file, it)| (file, Some(it)));
            let target = match file {
                "" => path.to_path_buf(),
                file => resolved(path.parent().unwrap_or(Path::new("")), file),
            };
            let is_there = read.contains_key(&target) || root.join(&target).exists();
            let has_heading = match (heading, read.get(&target)) {
                (Some(heading), Some(page)) => page.headings.iter().any(|it| it == heading),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if !is_there || !has_heading {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    broken
}

/// A path without `..` in it.
fn resolved(folder: &Path, file: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for component in folder.join(file).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

#[derive(Default)]
struct Page {
    links: Vec<String>,
    /// As a link names them.
    headings: Vec<String>,
}

impl Page {
    fn read(markdown: &str) -> Self {
        let mut page = Self::default();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let name = anchor(&heading.take().unwrap_or_default());
                    let before = seen.entry(name.clone()).or_default();
                    page.headings.push(if *before == 0 { name } else { format!("{name}-{before}") });
                    *before += 1;
                }
                _ => {}
            }
        }
        page
    }
}

/// A heading as GitHub and mdBook name it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
    }

    /// The Markdown files below a folder, by their path below the root.
    fn pages_in(root: &Path, folder: &str, pages: &mut BTreeMap<PathBuf, String>) {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = Path::new(folder).join(entry.file_name());
            if entry.path().is_dir() {
                pages_in(root, &path.to_string_lossy(), pages);
            } else if path.extension().is_some_and(|it| it == "md") {
                pages.insert(path, std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    #[test]
    fn the_links_of_the_documentation_lead_somewhere() {
        let root = root();
        let mut pages = BTreeMap::new();
        for folder in ["docs", "manifests"] {
            pages_in(&root, folder, &mut pages);
        }
        for page in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
            pages.insert(page.into(), std::fs::read_to_string(root.join(page)).unwrap());
        }
        assert_eq!(broken(&root, &pages), Vec::<String>::new());
    }

    #[test]
    fn every_page_is_in_the_book() {
        let mut pages = BTreeMap::new();
        pages_in(&root(), "docs", &mut pages);
        let summary = pages.remove(Path::new("docs/SUMMARY.md")).unwrap();
        let named = Page::read(&summary).links;
        let missing: Vec<_> =
            pages.keys().filter(|page| !named.iter().any(|it| Path::new("docs").join(it) == **page)).collect();
        assert_eq!(missing, Vec::<&PathBuf>::new(), "not in docs/SUMMARY.md");
    }

    #[test]
    fn a_link_to_what_is_not_there_is_found() {
        let pages = BTreeMap::from([
            (
                "a.md".into(),
                "# One `two`!\n# Same\n# Same\n[x](b/c.md) [x](#one-two) [x](#same-1) [x](https://e.com/#x)".into(),
            ),
            (PathBuf::from("b/c.md"), "[x](../a.md#same) [x](../a.md#none) [x](d.md) [x](#)".into()),
        ]);
        let expected = ["b/c.md: ../a.md#none", "b/c.md: d.md", "b/c.md: #"];
        assert_eq!(broken(Path::new("/nowhere"), &pages), expected);
    }
}

//! A page of the documentation, read as what its reader would type (pure).
//!
//! - A fenced block of `sh` is run. `skip="reason"` after the language leaves it out, and needs its reason.
//! - A fenced block of `yaml` with `file=NAME` is what the reader saves under that name. Without it, a whole resource is
//!   given to the API server as a dry run, and a fragment needs a `skip`.
//! - A comment `<!-- docs-test: run COMMANDS -->` is run too: what the page takes for granted.
//! - A comment `<!-- docs-test: prints TEXT -->` says what the block before it must have printed.

use anyhow::{Context as _, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// One thing to do, in the page's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run these commands in the page's shell.
    Run(String),
    /// Save this text under this name.
    Save { file: String, text: String },
    /// Ask the API server what it thinks of these resources.
    DryRun(String),
    /// The output of the last commands contains this.
    Prints(String),
    /// Left out, for this reason.
    Skip(String),
}

/// The steps of a page in Markdown.
///
/// # Errors
/// A block that can be neither run nor left out, or a comment that cannot be understood.
pub fn steps(markdown: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut block: Option<(String, String)> = None;
    let mut comment: Option<String> = None;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                block = Some((info.into_string(), String::new()));
            }
            Event::Text(text) => {
                if let Some((_, content)) = &mut block {
                    content.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                if let Some((info, content)) = block.take() {
                    steps.extend(of_block(&info, content)?);
                }
            }
            Event::Start(Tag::HtmlBlock) => comment = Some(String::new()),
            Event::Html(html) => {
                if let Some(comment) = &mut comment {
                    comment.push_str(&html);
                }
            }
            Event::End(TagEnd::HtmlBlock) => {
                if let Some(html) = comment.take() {
                    steps.extend(of_comment(&html)?);
                }
            }
            _ => {}
        }
    }
    Ok(steps)
}

/// The commands of a chart's notes: every line that is indented.
pub fn commands_of_notes(notes: &str) -> String {
    notes.lines().filter_map(|line| line.strip_prefix("  ")).map(|line| format!("{line}\n")).collect()
}

fn of_block(info: &str, content: String) -> anyhow::Result<Option<Step>> {
    let (language, options) = info.split_once(' ').unwrap_or((info, ""));
    let language = language.trim();
    if let Some(reason) = option(options, "skip")? {
        ensure!(!reason.is_empty(), "a skipped block needs its reason:\n{content}");
        return Ok(Some(Step::Skip(reason)));
    }
    match language {
        "sh" => Ok(Some(Step::Run(content))),
        "yaml" => {
            if let Some(file) = option(options, "file")? {
                return Ok(Some(Step::Save { file, text: content }));
            }
            let is_resource = content.starts_with("apiVersion:");
            ensure!(is_resource, "a fragment of YAML needs skip=\"…\" or file=…:\n{content}");
            Ok(Some(Step::DryRun(content)))
        }
        // Pictures, and what programs print.
        "" | "json" => Ok(None),
        other => bail!("a block of {other:?} can be neither run nor left out"),
    }
}

/// The value of `name=value` or `name="some words"`.
fn option(options: &str, name: &str) -> anyhow::Result<Option<String>> {
    let Some((_, rest)) = options.split_once(&format!("{name}=")) else { return Ok(None) };
    match rest.strip_prefix('"') {
        Some(quoted) => {
            let (value, _) = quoted.split_once('"').with_context(|| format!("{name}= has no closing quote"))?;
            Ok(Some(value.to_owned()))
        }
        None => Ok(rest.split_whitespace().next().map(str::to_owned)),
    }
}

fn of_comment(html: &str) -> anyhow::Result<Option<Step>> {
    let Some(text) = html.trim().strip_prefix("<!-- docs-test:") else { return Ok(None) };
    let text = text.strip_suffix("-->").context("a docs-test comment must end in the block that it begins in")?.trim();
    match text.split_once(char::is_whitespace) {
        Some(("run", commands)) => Ok(Some(Step::Run(format!("{}\n", commands.trim())))),
        Some(("prints", expected)) => Ok(Some(Step::Prints(expected.trim().to_owned()))),
        _ => bail!("docs-test: {text:?} is neither run … nor prints …"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_its_reader_types() {
        let page = "# T\n<!-- docs-test: run\nkubectl create \\\n  namespace x\n-->\n\n```yaml file=a.yaml\na: 1\n```\n\n```sh\ntrue\n```\n<!-- docs-test: prints HTTP/2 202 -->\n\n```\na picture\n```\n\n```sh skip=\"needs a builder\"\ndocker\n```\n\n```yaml\napiVersion: v1\n```\n";
        let expected = [
            Step::Run("kubectl create \\\n  namespace x\n".into()),
            Step::Save { file: "a.yaml".into(), text: "a: 1\n".into() },
            Step::Run("true\n".into()),
            Step::Prints("HTTP/2 202".into()),
            Step::Skip("needs a builder".into()),
            Step::DryRun("apiVersion: v1\n".into()),
        ];
        assert_eq!(steps(page).unwrap(), expected);
    }

    #[test]
    fn what_can_be_neither_run_nor_left_out_is_refused() {
        for page in [
            "```yaml\nspec: {}\n```\n",
            "```sh skip=\"\"\ntrue\n```\n",
            "```python\n1\n```\n",
            "<!-- docs-test: hopes so -->\n",
        ] {
            assert!(steps(page).is_err(), "{page}");
        }
    }

    #[test]
    fn the_commands_of_notes_are_what_is_indented() {
        let notes = "Installed.\n\n  kubectl apply -f - <<EOF\n  a: {b: 1}\n  EOF\n\nMore.\n";
        assert_eq!(commands_of_notes(notes), "kubectl apply -f - <<EOF\na: {b: 1}\nEOF\n");
    }
}

//! What all pages have. The template escapes all texts; what is invisible in them is taken out.

use maud::{DOCTYPE, Markup, html};

use super::refusal::Refusal;
use crate::stored::with_query;
use crate::terminal::text;

/// The address of the style.
pub const STYLE_PATH: &str = "/style.css";
/// The address of the icon.
pub const ICON_PATH: &str = "/icon.svg";

/// A page. `above`: the pages that lead to it, each with its address and name.
pub fn page(title: &str, above: &[(String, &str)], content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (text(title)) " · Tidegate" }
                link rel="icon" href=(ICON_PATH) type="image/svg+xml";
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body {
                a.skip href="#main" { "To the content" }
                header {
                    nav aria-label="Pages above this one" {
                        a href="/" { "Tidegate" }
                        @for (address, name) in above {
                            span aria-hidden="true" { "/" }
                            a href=(address) { (text(name)) }
                        }
                    }
                }
                main id="main" {
                    h1 { (text(title)) }
                    (content)
                }
                footer {
                    "As of " time { (seconds(&jiff::Timestamp::now().to_string())) }
                    ". Counts are refreshed about once a minute: reload the page for newer ones."
                }
            }
        }
    }
}

/// A link to the next page of a list, where there is one. `query`: what its address has besides the place.
pub fn next_page(path: &str, query: &[(&'static str, String)], next: Option<&str>) -> Markup {
    let Some(next) = next else { return html! {} };
    let query: Vec<_> = query.iter().cloned().chain([("continue", next.to_owned())]).collect();
    html! { p { a rel="next" href=(address(path, &query)) { "Next page" } } }
}

/// An address with parameters, where there are some.
fn address(path: &str, query: &[(&'static str, String)]) -> String {
    if query.is_empty() { path.to_owned() } else { with_query(path, query.iter().cloned()) }
}

/// A part of a page that cannot be shown, while the rest can.
pub fn missing(refusal: &Refusal) -> Markup {
    html! { p.missing role="note" { (refusal.sentence) } }
}

/// A time without the fractions of its second.
pub fn seconds(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => format!("{time:.0}"),
        Err(_) => text(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_write_is_text() {
        let hostile = "<script>alert(1)</script>\u{202e}\u{1b}[2J\" onload=\"x";
        let shown = page(hostile, &[("/".to_owned(), hostile)], html! { p { (text(hostile)) } }).0;
        assert!(!shown.contains("<script") && !shown.contains("\" onload"), "{shown}");
        assert!(!shown.contains(['\u{202e}', '\u{1b}']), "{shown}");
    }
}

//! Lists, which the broker gives in pages.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::broker::Broker;
use super::error::{ApiError, Unavailable};

/// The most streams or consumers of a list: those of a thousand handlers with 32 lanes.
pub(super) const MAX_ENTRIES: usize = 32 * 1024;
/// The most pages. A server puts 256 entries on each (`JSApiListLimit`).
const MAX_PAGES: usize = MAX_ENTRIES / 256;
/// The most bytes of all pages.
const MAX_BYTES: usize = 64 << 20;

#[derive(Serialize)]
struct PageRequest {
    offset: usize,
}

#[derive(Deserialize)]
struct Page<T> {
    total: usize,
    /// Names of those of which the servers know nothing at the moment.
    #[serde(default)]
    missing: Option<Vec<String>>,
    /// `null` where there are none.
    #[serde(alias = "streams", alias = "consumers")]
    entries: Option<Vec<T>>,
}

/// All entries of a list. One that is not whole is an error: what is missing would be taken to be gone.
pub(super) async fn list<T: DeserializeOwned>(broker: &Broker, operation: &str) -> Result<Vec<T>, ApiError> {
    let (mut entries, mut bytes) = (Vec::new(), 0_usize);
    for _ in 0..MAX_PAGES {
        let answer = broker.ask(operation, &PageRequest { offset: entries.len() }).await?;
        bytes = bytes.saturating_add(answer.len());
        if bytes > MAX_BYTES {
            return Err(ApiError::unreadable(format_args!("a list has more than {MAX_BYTES} bytes")));
        }
        if add(&mut entries, super::broker::read(&answer)?)? {
            return Ok(entries);
        }
    }
    Err(ApiError::unreadable(format_args!("a list has more than {MAX_PAGES} pages")))
}

/// Adds a page to those before; `true`: it was the last.
fn add<T>(entries: &mut Vec<T>, page: Page<T>) -> Result<bool, ApiError> {
    if let Some(missing) = page.missing.filter(|missing| !missing.is_empty()) {
        return Err(Unavailable::Incomplete(missing.len()).into());
    }
    let more = page.entries.unwrap_or_default();
    if page.total > MAX_ENTRIES || entries.len() + more.len() > MAX_ENTRIES {
        return Err(ApiError::unreadable(format_args!("a list has more than {MAX_ENTRIES} entries")));
    }
    let is_empty = more.is_empty();
    entries.extend(more);
    let is_last = entries.len() >= page.total;
    if is_empty && !is_last {
        return Err(ApiError::unreadable("a page of a list is empty and not the last"));
    }
    Ok(is_last)
}

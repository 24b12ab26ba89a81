//! What is printed: figures on stdout, everything about them on stderr.

use std::io::Write as _;

use crate::stats;

/// Prints the median of a figure's rounds, and the spread.
///
/// # Errors
/// Stdout is not read any more.
pub fn row(name: &str, rounds: &[f64], target: &str) -> std::io::Result<()> {
    let median = stats::median(rounds);
    let (least, greatest) = stats::spread(rounds);
    note(&format!("{name}: {median:.3} ({least:.3} to {greatest:.3} in {} rounds), target {target}", rounds.len()));
    let mut out = std::io::stdout().lock();
    writeln!(out, "bench\t{name}\t{median:.2}\t{target}")?;
    out.flush()
}

/// Tells the person in front of it.
pub fn note(text: &str) {
    eprintln!("{text}");
}

//! What is printed: figures on stdout, everything about them on stderr.

use std::io::Write as _;

use crate::figures::Row;

/// Prints a figure, and its spread.
///
/// # Errors
/// Stdout is not read any more.
pub fn row(row: &Row) -> std::io::Result<()> {
    let Row { name, value, least, greatest, rounds, target } = row;
    note(&format!("{name}: {value:.3} ({least:.3} to {greatest:.3} in {rounds} rounds), target {target}"));
    let mut out = std::io::stdout().lock();
    writeln!(out, "bench\t{name}\t{value:.2}\t{target}")?;
    out.flush()
}

/// Tells the person in front of it.
pub fn note(text: &str) {
    eprintln!("{text}");
}

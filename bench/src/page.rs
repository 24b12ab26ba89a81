//! `docs/performance.md`, from the figures that are kept beside it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::figures::{Bar, Group, Groups, Row};
use crate::{chart, rows};

const INTRODUCTION: &str = "# Performance

What an event costs, beside what else one could use. `make bench-local` measures and writes this page; `bench/` says how
in full. In short:

- The main figure is **processor time per event, by party**: the program, the broker's servers, the handler's container.
  It holds on a busy machine. Rates are those of one machine, on which all parties share the cores, and only their ratios
  say something.
- What is compared gets the same events in turn, on loopback, over TLS, from a real nats-server with an account of its own
  for each handler, with one thread each, and delivers to the same handler. Each round begins with another one; a figure
  is the median of its rounds, with the least and the greatest beside it. The first tenth of each round is not counted.
- `raw` is what one could write in Rust without a sidecar: a NATS client, an HTTP client, an acknowledgement after each
  success. `go` is the same with nats.go and net/http. `daprd` is Dapr's runtime 1.14 with `pubsub.jetstream`; its broker
  asks for neither client certificates nor accounts, because that component cannot present both.
- Latency is measured in an open loop, from the time at which an event was to be sent: one that had to wait is late.
";

/// What a group is called here, and who the parties of its plot are.
fn heading(group: &str) -> (&'static str, [&'static str; 3]) {
    const DELIVERY: [&str; 3] = ["program", "server", "handler"];
    match group {
        "delivery" => ("Delivery", DELIVERY),
        "telemetry" => ("Telemetry", DELIVERY),
        "features" => ("Features of a handler", DELIVERY),
        "sizes" => ("Sizes of events", DELIVERY),
        "slow" => ("Slow handlers", DELIVERY),
        "durability" => ("Durability and copies", DELIVERY),
        "direct" => ("Direct topics", DELIVERY),
        "ingress" => ("Ingress", ["ingress", "server", "publisher"]),
        "hostile" => ("A hostile client", DELIVERY),
        "latency" => ("Latency", DELIVERY),
        _ => ("Memory", DELIVERY),
    }
}

/// Writes the page beside the folder, and the plots into it.
///
/// # Errors
/// It cannot be written.
pub fn write(folder: &Path, groups: &Groups) -> anyhow::Result<()> {
    let name = folder.file_name().and_then(|name| name.to_str()).context("the folder has no name")?;
    for (group, figures) in groups {
        let (title, parties) = heading(group);
        if !figures.bars.is_empty() {
            let title = format!("{title}: processor time per event, µs");
            fs::write(folder.join(format!("{group}.svg")), chart::bars(&title, parties, &figures.bars))?;
        }
        if !figures.curves.is_empty() {
            let way = if group == "hostile" { "from publish to acknowledgement" } else { "from publish to handler" };
            let title = format!("{title}: {way}");
            fs::write(folder.join(format!("{group}.svg")), chart::curves(&title, &figures.curves))?;
        }
    }
    Ok(fs::write(folder.with_extension("md"), page(name, groups))?)
}

fn page(folder: &str, groups: &Groups) -> String {
    let mut page = INTRODUCTION.to_owned();
    targets(&mut page, groups);
    for name in rows::GROUPS {
        match groups.get(name) {
            Some(group) => section(&mut page, folder, name, group),
            None => {
                let _ = write!(page, "\n## {}\n\nNot measured.\n", heading(name).0);
            }
        }
    }
    page
}

/// All figures that have a target, first.
fn targets(page: &mut String, groups: &Groups) {
    let all = rows::GROUPS.iter().filter_map(|name| groups.get(*name)).flat_map(|group| &group.rows);
    page.push_str("\n## Targets\n\n| figure | measured | rounds from–to | target | met |\n|---|---|---|---|---|\n");
    for row in all {
        if let Some(met) = row.meets() {
            let Row { name, value, least, greatest, target, .. } = row;
            let met = if met { "yes" } else { "**no**" };
            let _ = writeln!(page, "| `{name}` | {value:.2} | {least:.2}–{greatest:.2} | {target} | {met} |");
        }
    }
}

fn section(page: &mut String, folder: &str, name: &str, group: &Group) {
    let title = heading(name).0;
    let _ = write!(page, "\n## {title}\n\n");
    for note in &group.notes {
        let _ = writeln!(page, "- {note}");
    }
    if !group.bars.is_empty() || !group.curves.is_empty() {
        let _ = write!(page, "\n![{title}]({folder}/{name}.svg)\n");
    }
    parties(page, heading(name).1, &group.bars);
    let ratios = || group.rows.iter().filter(|row| !is_of_a_party(&row.name));
    if ratios().next().is_some() {
        page.push_str("\n| figure | median | from–to | rounds |\n|---|---|---|---|\n");
    }
    for Row { name, value, least, greatest, rounds, .. } in ratios() {
        let _ = writeln!(page, "| `{name}` | {value:.2} | {least:.2}–{greatest:.2} | {rounds} |");
    }
}

/// What is in the table of parties already.
fn is_of_a_party(name: &str) -> bool {
    name.ends_with("-us") || name.ends_with("-rate")
}

/// The numbers of the plot.
fn parties(page: &mut String, parties: [&str; 3], bars: &[Bar]) {
    if bars.is_empty() {
        return;
    }
    let [program, server, counter] = parties;
    let _ = write!(page, "\n| | {program}, µs | {server}, µs | {counter}, µs | events/s |\n|---|---|---|---|---|\n");
    for Bar { label, parts: [program, server, counter], rate } in bars {
        let _ = writeln!(page, "| {label} | {program:.1} | {server:.1} | {counter:.1} | {rate:.0} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: f64, target: &str) -> Row {
        Row { name: name.to_owned(), value, least: 0.5, greatest: 2.0, rounds: 7, target: target.to_owned() }
    }

    #[test]
    fn targets_that_are_met_and_missed_and_what_is_not_measured_are_said() {
        let rows = vec![row("good", 0.6, "<= 0.65"), row("bad", 1.0, ">= 1.35"), row("told", 3.0, "reported")];
        let bars = vec![Bar { label: "sidecar".to_owned(), parts: [1.0, 2.0, 3.0], rate: 10.0 }];
        let group = Group { notes: vec!["n".to_owned()], rows, bars, ..Group::default() };
        let folder = tempfile::tempdir().unwrap();
        let figures = folder.path().join("performance");
        let groups = Groups::from([("delivery".to_owned(), group)]);
        crate::figures::save(&figures, &groups).unwrap();
        assert_eq!(crate::figures::load(&figures).unwrap(), groups);
        write(&figures, &groups).unwrap();
        let page = fs::read_to_string(folder.path().join("performance.md")).unwrap();
        assert!(page.contains("| `good` | 0.60 | 0.50–2.00 | <= 0.65 | yes |"), "{page}");
        assert!(page.contains("| `bad` | 1.00 | 0.50–2.00 | >= 1.35 | **no** |"), "{page}");
        assert!(page.contains("| sidecar | 1.0 | 2.0 | 3.0 | 10 |"), "{page}");
        assert!(page.contains("| `told` | 3.00 |") && !page.contains("reported"), "{page}");
        assert!(page.contains("## Ingress\n\nNot measured."), "{page}");
        assert!(page.contains("(performance/delivery.svg)") && figures.join("delivery.svg").exists());
    }
}

//! Plots as SVG: what an event costs each party, and latency by percentile. Two simple shapes; a library for them would be
//! larger than they are.

use std::fmt::Write as _;

use crate::figures::{Bar, Curve};

const WIDTH: f64 = 720.0;
/// Where bars and curves begin and end.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 600.0;
const ROW: f64 = 26.0;
const TOP: f64 = 44.0;
const CURVE_HEIGHT: f64 = 220.0;
const COLOURS: [&str; 3] = ["#2563eb", "#f59e0b", "#9ca3af"];

/// What an event costs each party: a bar for each contender.
pub fn bars(title: &str, parties: [&str; 3], bars: &[Bar]) -> String {
    let largest = bars.iter().map(|bar| bar.parts.iter().sum::<f64>()).fold(1.0, f64::max);
    let scale = (RIGHT - LEFT) / largest;
    let mut body = legend(&parties);
    for (bar, row) in bars.iter().zip(0..) {
        let y = TOP + f64::from(row) * ROW;
        text(&mut body, LEFT - 8.0, y + 13.0, "end", &bar.label);
        let mut x = LEFT;
        for (part, colour) in bar.parts.iter().zip(COLOURS) {
            let width = part * scale;
            let _ = writeln!(body, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="18" fill="{colour}"/>"#);
            if width > 26.0 {
                text(&mut body, x + width / 2.0, y + 13.0, "middle", &format!("{part:.1}"));
            }
            x += width;
        }
        text(&mut body, x + 8.0, y + 13.0, "start", &rate(bar.rate));
    }
    document(title, TOP + bars.len() as f64 * ROW + 8.0, &body)
}

/// Milliseconds by percentile: a line for each contender.
pub fn curves(title: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let largest = all().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let labels: Vec<&str> = curves.iter().map(|curve| curve.label.as_str()).collect();
    let mut body = legend(&labels);
    let bottom = TOP + CURVE_HEIGHT;
    let points = curves.first().map_or(0, |curve| curve.points.len());
    let x = |index: usize| LEFT + (RIGHT - LEFT) * index as f64 / points.saturating_sub(1).max(1) as f64;
    let y = |value: f64| bottom - CURVE_HEIGHT * value / largest;
    let _ = writeln!(body, r##"<path d="M{LEFT} {TOP}V{bottom}H{RIGHT}" fill="none" stroke="#9ca3af"/>"##);
    for (index, (percentile, _)) in curves.first().iter().flat_map(|curve| &curve.points).enumerate() {
        text(&mut body, x(index), bottom + 16.0, "middle", &format!("p{percentile}"));
    }
    for share in [0.5, 1.0] {
        text(&mut body, LEFT - 8.0, y(largest * share) + 4.0, "end", &format!("{:.2} ms", largest * share));
    }
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let points =
            curve.points.iter().enumerate().map(|(index, (_, value))| format!("{:.1},{:.1}", x(index), y(*value)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(body, r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
    }
    document(title, bottom + 28.0, &body)
}

fn legend(names: &[&str]) -> String {
    let (mut body, mut x) = (String::new(), LEFT);
    for (name, colour) in names.iter().zip(COLOURS) {
        let _ = writeln!(body, r#"<rect x="{x:.1}" y="26" width="10" height="10" fill="{colour}"/>"#);
        text(&mut body, x + 14.0, 35.0, "start", name);
        x += 34.0 + 7.0 * name.len() as f64;
    }
    body
}

fn rate(rate: f64) -> String {
    if rate >= 10_000.0 { format!("{:.0}k/s", rate / 1e3) } else { format!("{rate:.0}/s") }
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(body, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{content}</text>"#);
}

fn document(title: &str, height: f64, body: &str) -> String {
    let mut heading = String::new();
    text(&mut heading, 8.0, 16.0, "start", title);
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{height:.0}" fill="#ffffff"/>
{heading}{body}</svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_parts_and_labels_are_escaped() {
        let bar = |label: &str, parts| Bar { label: label.to_owned(), parts, rate: 12_345.0 };
        let plot = bars("a < b", ["program", "server", "handler"], &[bar("x&y", [10.0, 20.0, 15.0])]);
        assert!(plot.contains("a &lt; b") && plot.contains("x&amp;y") && plot.contains("12k/s"), "{plot}");
        // 450 for 45 µs.
        assert!(plot.contains(r#"width="100.0""#) && plot.contains(r#"width="200.0""#), "{plot}");
        assert_eq!(plot.matches("<text").count(), plot.matches("</text>").count());
    }

    #[test]
    fn nothing_to_show_is_still_a_document() {
        for plot in [bars("t", ["a", "b", "c"], &[]), curves("t", &[])] {
            assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n") && !plot.contains("NaN"), "{plot}");
        }
    }
}

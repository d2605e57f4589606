//! A page that shows the starts: one file, no scripts, nothing fetched.

use std::fmt::Write as _;

use super::{Place, Span, Start};

/// The chart's width, in pixels of its own; a browser scales it.
const WIDTH: f64 = 1200.0;

/// Where the time axis begins: right of the places' names.
const LEFT: f64 = 70.0;

/// A row, and the axis above the rows.
const ROW: f64 = 34.0;

/// Of a label's letter, in pixels; names wider than their bar are left to the table.
const LETTER: f64 = 7.2;

/// No part is drawn narrower than this.
const NARROWEST: f64 = 1.0;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color:#1f2328;background:#fff}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}\
svg{width:100%;height:auto;font:12px system-ui,sans-serif}\
table{border-collapse:collapse;font-size:14px}td,th{padding:.15em .8em;text-align:left;border-bottom:1px solid #d8dee4}\
.number{text-align:right;font-variant-numeric:tabular-nums}\
.client{fill:#2f6f4f}.monitor{fill:#3b5b92}.guest{fill:#a3542b}.label{fill:#fff}\
.axis{fill:#59636e}.line{stroke:#d8dee4}rect:hover{opacity:.8}";

/// The page.
pub fn render(starts: &[Start]) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Where the time of a start goes</title>\n\
         <style>{STYLE}</style>\n<h1>viv run -- true: where the time goes</h1>\n\
         <p>Milliseconds since <code>viv</code> was started. Client and monitor take turns; the guest works while \
         the monitor waits for it, and tells only what it did to become the sandbox.</p>\n"
    );
    for start in starts {
        let _ = write!(
            page,
            "<h2>{}: {} ms</h2>\n{}{}",
            start.title,
            milliseconds(start.end_us()),
            chart(start),
            table(start)
        );
    }
    page.push_str("</html>\n");
    page
}

fn milliseconds(us: u64) -> String {
    format!("{:.1}", us as f64 / 1000.0)
}

/// Names come from the guest as well: what could be mark-up, or move a cursor, becomes harmless.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn chart(start: &Start) -> String {
    let end = start.end_us().max(1) as f64;
    let x = |us: u64| LEFT + us as f64 / end * (WIDTH - LEFT);
    let height = ROW * (Place::ALL.len() as f64 + 1.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n", start.title);
    let step = tick_us(start.end_us());
    for tick in (0..=start.end_us() / step).map(|number| number * step) {
        let _ = writeln!(
            svg,
            "<line class=\"line\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"20\" y2=\"{height}\"/>\
             <text class=\"axis\" x=\"{0:.1}\" y=\"14\">{1}</text>",
            x(tick),
            tick / 1000
        );
    }
    for (row, place) in Place::ALL.into_iter().enumerate() {
        let y = ROW * (row as f64 + 0.75);
        let name = place.name();
        let _ = writeln!(svg, "<text class=\"axis\" x=\"0\" y=\"{:.1}\">{name}</text>", y + 18.0);
        for span in start.spans.iter().filter(|span| span.place == place) {
            let width = (x(span.end_us) - x(span.start_us)).max(NARROWEST);
            let label = escape(&span.name);
            let _ = writeln!(
                svg,
                "<rect class=\"{name}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"2\">\
                 <title>{label}: {} ms, from {} to {}</title></rect>",
                x(span.start_us),
                ROW - 6.0,
                milliseconds(took(span)),
                milliseconds(span.start_us),
                milliseconds(span.end_us),
            );
            if span.name.chars().count() as f64 * LETTER + 8.0 < width {
                let at = x(span.start_us) + 4.0;
                let _ = writeln!(svg, "<text class=\"label\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>", y + 18.0);
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn took(span: &Span) -> u64 {
    span.end_us.saturating_sub(span.start_us)
}

/// A round distance of which some ten fit.
fn tick_us(end: u64) -> u64 {
    let rough = (end / 12).max(1000);
    let power = 10u64.pow(rough.ilog10());
    [1, 2, 5, 10].into_iter().map(|factor| factor * power).find(|step| *step >= rough).unwrap_or(rough)
}

fn table(start: &Start) -> String {
    let mut table = String::from(
        "<table>\n<tr><th>done by<th class=\"number\">at ms<th class=\"number\">took ms<th>what was done by then\n",
    );
    for span in &start.spans {
        let _ = writeln!(
            table,
            "<tr><td>{}<td class=\"number\">{}<td class=\"number\">{}<td>{}",
            span.place.name(),
            milliseconds(span.end_us),
            milliseconds(took(span)),
            escape(&span.name)
        );
    }
    table.push_str("</table>\n");
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_a_bar_and_a_row_and_no_name_is_mark_up() {
        let page = render(&[super::super::tests::start()]);
        assert_eq!(page.matches("<rect ").count(), 5);
        assert_eq!(page.matches("<tr><td>").count(), 5);
        assert!(!page.contains("<b>") && !page.contains('\u{1b}'));
        assert!(page.contains("<h2>From a template: 260.0 ms</h2>"));
        // Wide enough for its name, and not.
        assert!(page.contains(">configured</text>") && !page.contains(">settings</text>"));
        assert!(!page.contains("http") && !page.contains("<script"));
    }

    #[test]
    fn ticks_are_round_and_some_ten() {
        for end in [0, 900, 260_000, 999_999, 7_300_000, 120_000_000] {
            let ticks = end / tick_us(end) + 1;
            assert!((1..=13).contains(&ticks), "{end}: {ticks}");
        }
        assert_eq!(tick_us(260_000), 50_000);
        assert_eq!(tick_us(7_300_000), 1_000_000);
    }
}

//! Pictures of runs: latency by quantile, and throughput by connections where there were several.

use std::fmt::Write;

use super::Run;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 300.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"];

/// A line: its name and its points.
type Line = (String, Vec<(f64, f64)>);

/// An SVG that needs nothing beside itself.
pub(crate) fn draw(runs: &[Run]) -> String {
    let panels = if runs.len() > 1 { 2.0 } else { 1.0 };
    let (width, height) = (panels * (WIDTH + 2.0 * MARGIN), HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='11'>\n\
         <rect width='100%' height='100%' fill='white'/>\n"
    );
    let nines = [(0.0, "0"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99"), (5.0, "99.999")];
    let nines: Vec<_> = nines.iter().map(|(at, name)| (*at, (*name).to_owned())).collect();
    let latency: Vec<Line> =
        runs.iter().map(|run| (format!("{} connections", run.connections), quantiles(run))).collect();
    panel(&mut svg, 0.0, ["quantile in %", "latency in µs"], &nines, &latency);
    if runs.len() > 1 {
        let at = |run: &Run| (run.connections.max(1) as f64).log10();
        let ticks: Vec<_> = runs.iter().map(|run| (at(run), run.connections.to_string())).collect();
        let points = runs.iter().map(|run| (at(run), run.report.throughput())).collect();
        let throughput = [("requests a second".to_owned(), points)];
        panel(&mut svg, WIDTH + 2.0 * MARGIN, ["connections", "requests a second"], &ticks, &throughput);
    }
    svg.push_str("</svg>\n");
    svg
}

/// Latencies against the number of nines of their quantile.
fn quantiles(run: &Run) -> Vec<(f64, f64)> {
    let steps = (0..=50).map(|step| f64::from(step) / 10.0);
    steps.map(|nines| (nines, run.report.microseconds(1.0 - 10_f64.powf(-nines)))).collect()
}

/// Axes with the lines in them; the upright one is logarithmic.
fn panel(svg: &mut String, left: f64, titles: [&str; 2], ticks: &[(f64, String)], lines: &[Line]) {
    let all = || lines.iter().flat_map(|(_, points)| points);
    let low = all().map(|(_, y)| y.max(1.0).log10()).fold(f64::INFINITY, f64::min).floor();
    let high = all().map(|(_, y)| y.max(1.0).log10()).fold(low + 1.0, f64::max).ceil();
    let (first, last) = (ticks.first().map_or(0.0, |tick| tick.0), ticks.last().map_or(1.0, |tick| tick.0));
    let x = |at: f64| left + MARGIN + (at - first) / (last - first).max(f64::EPSILON) * WIDTH;
    let y = |at: f64| MARGIN + HEIGHT - (at - low) / (high - low) * HEIGHT;
    let mut put = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("writing to memory");
    for (at, name) in ticks {
        let (x, end) = (x(*at), MARGIN + HEIGHT);
        put(format_args!("<path d='M{x:.1} {MARGIN}V{end}' stroke='#ddd'/>\n"));
        put(format_args!("<text x='{x:.1}' y='{}' text-anchor='middle'>{name}</text>\n", end + 16.0));
    }
    let mut power = low;
    while power <= high {
        let (x, y) = (left + MARGIN, y(power));
        put(format_args!("<path d='M{x} {y:.1}h{WIDTH}' stroke='#ddd'/>\n"));
        put(format_args!("<text x='{}' y='{:.1}' text-anchor='end'>{}</text>\n", x - 6.0, y + 4.0, 10_f64.powf(power)));
        power += 1.0;
    }
    let [across, up] = titles;
    let middle = left + MARGIN + WIDTH / 2.0;
    put(format_args!("<text x='{middle}' y='{}' text-anchor='middle'>{across}</text>\n", HEIGHT + MARGIN + 40.0));
    put(format_args!("<text x='{middle}' y='{}' text-anchor='middle' font-size='14'>{up}</text>\n", MARGIN - 24.0));
    for (number, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(value.max(1.0).log10())));
        let points = points.collect::<Vec<_>>().join(" ");
        put(format_args!("<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>\n"));
        let (x, y) = (left + MARGIN + 10.0, MARGIN + 16.0 + 15.0 * number as f64);
        put(format_args!("<text x='{x}' y='{y}' fill='{colour}'>{name}</text>\n"));
    }
}

//! Two kinds of SVG charts: bars in groups, and curves of the share of changes that have arrived over time.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 340.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 18.0;
const STYLE: &str = "<style>text{font:12px sans-serif;fill:#222}.t{font-size:16px;font-weight:bold}.g{font-weight:bold}\
                     .a{stroke:#bbb}.r{text-anchor:end}.m{text-anchor:middle}</style>";
/// Colours that most eyes can tell apart (Okabe and Ito).
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7", "#999999", "#f0e442"];

/// A bar.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    /// The value in its written form.
    pub(super) text: String,
    pub(super) colour: &'static str,
}

/// A group of bars that are compared with each other: the longest has the whole width.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) label: String,
    pub(super) bars: Vec<Bar>,
}

/// A chart of groups of bars, each with its own scale. `mark`: a value at which a line is drawn.
pub(super) fn bars(title: &str, groups: &[Group], mark: Option<f64>) -> String {
    let height = 50.0 + groups.iter().map(|group| 34.0 + group.bars.len() as f64 * (BAR + 4.0)).sum::<f64>();
    let mut svg = begin(title, height);
    let mut y = 50.0;
    for group in groups {
        let _ = write!(svg, "<text class='g' x='10' y='{:.0}'>{}</text>", y + 12.0, escaped(&group.label));
        y += 20.0;
        let most = group.bars.iter().map(|bar| bar.value).chain(mark).fold(0.0, f64::max);
        let scale = if most > 0.0 { (WIDTH - LEFT - RIGHT) / most } else { 0.0 };
        let top = y;
        for bar in &group.bars {
            let (middle, length) = (y + BAR - 5.0, bar.value * scale);
            let _ = write!(
                svg,
                "<text class='r' x='{:.0}' y='{middle:.0}'>{}</text>\
                 <rect x='{LEFT:.0}' y='{y:.0}' width='{length:.1}' height='{BAR:.0}' fill='{}'/>\
                 <text x='{:.0}' y='{middle:.0}'>{}</text>",
                LEFT - 8.0,
                escaped(&bar.label),
                bar.colour,
                LEFT + length + 6.0,
                escaped(&bar.text)
            );
            y += BAR + 4.0;
        }
        if let Some(mark) = mark {
            let x = LEFT + mark * scale;
            let _ = write!(svg, "<line stroke='#222' x1='{x:.1}' x2='{x:.1}' y1='{top:.0}' y2='{y:.0}'/>");
        }
        y += 14.0;
    }
    svg + "</svg>\n"
}

/// Seconds of one contender's changes.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) label: String,
    pub(super) seconds: Vec<f64>,
    pub(super) colour: &'static str,
}

/// A chart of curves: the number of changes that were seen (upwards) over the time (to the right, logarithmic).
pub(super) fn curves(title: &str, curves: &[Curve]) -> String {
    let (height, top, bottom) = (380.0, 50.0, 330.0);
    let mut svg = begin(title, height);
    let ticks = ticks(curves);
    let (least, most) = (ticks[0].ln(), ticks[ticks.len() - 1].ln());
    let (left, right) = (60.0, WIDTH - 240.0);
    let x = |seconds: f64| left + (seconds.max(1e-5).ln() - least) / (most - least) * (right - left);
    for seconds in ticks {
        let (at, text) = (x(seconds), super::format::seconds(seconds));
        let _ = write!(svg, "<line class='a' x1='{at:.1}' x2='{at:.1}' y1='{top}' y2='{bottom}'/>");
        let _ = write!(svg, "<text class='m' x='{at:.1}' y='{:.0}'>{text}</text>", bottom + 18.0);
    }
    for share in [0, 25, 50, 75, 100] {
        let at = bottom - (bottom - top) * f64::from(share) / 100.0;
        let _ = write!(svg, "<line class='a' x1='{left}' x2='{right}' y1='{at:.1}' y2='{at:.1}'/>");
        let _ = write!(svg, "<text class='r' x='{:.0}' y='{:.1}'>{share} %</text>", left - 6.0, at + 4.0);
    }
    for (number, curve) in curves.iter().enumerate() {
        let mut seconds = curve.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let mut path = String::new();
        for (at, value) in seconds.iter().enumerate() {
            let y = |count: usize| bottom - (bottom - top) * count as f64 / seconds.len() as f64;
            let _ = write!(path, "{:.1},{:.1} {:.1},{:.1} ", x(*value), y(at), x(*value), y(at + 1));
        }
        let y = top + 10.0 + 20.0 * number as f64;
        let _ = write!(
            svg,
            "<polyline fill='none' stroke-width='2' stroke='{0}' points='{1}'/>\
             <rect x='{2:.0}' y='{3:.0}' width='14' height='10' fill='{0}'/><text x='{4:.0}' y='{5:.0}'>{6}</text>",
            curve.colour,
            path.trim_end(),
            right + 20.0,
            y - 9.0,
            right + 40.0,
            y,
            escaped(&curve.label)
        );
    }
    svg + "</svg>\n"
}

/// 1, 2 and 5 of every power of ten, from below the first change to above the last: at least two values.
fn ticks(curves: &[Curve]) -> Vec<f64> {
    let all = || curves.iter().flat_map(|curve| curve.seconds.iter().copied());
    let (first, last) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let steps: Vec<f64> = (-4..4).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power))).collect();
    let begin = steps.iter().rposition(|&step| step <= first).unwrap_or(0).min(steps.len() - 2);
    let end = steps.iter().position(|&step| step >= last).unwrap_or(steps.len() - 1).max(begin + 1);
    steps[begin..=end].to_vec()
}

fn begin(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH:.0}' height='{height:.0}' \
         viewBox='0 0 {WIDTH:.0} {height:.0}'>{STYLE}<rect width='100%' height='100%' fill='#fff'/>\
         <text class='t' x='10' y='26'>{}</text>",
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        Bar { label: label.into(), value, text: format!("{value}"), colour: COLOURS[0] }
    }

    #[test]
    fn the_longest_bar_of_a_group_has_the_whole_width() {
        let groups = [1.0, 1_000.0]
            .map(|scale| Group { label: "g".into(), bars: vec![bar("<a>", scale), bar("b", scale / 2.0)] });
        let svg = bars("A & B", &groups, None);
        assert_eq!(svg.matches(&format!("width='{:.1}'", WIDTH - LEFT - RIGHT)).count(), 2);
        assert_eq!(svg.matches(&format!("width='{:.1}'", (WIDTH - LEFT - RIGHT) / 2.0)).count(), 2);
        assert!(svg.contains("A &amp; B") && svg.contains("&lt;a&gt;") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn ticks_are_on_both_sides_of_all() {
        let curve = |seconds: &[f64]| Curve { label: "x".into(), seconds: seconds.to_vec(), colour: COLOURS[0] };
        let rounded = |curves: &[Curve]| ticks(curves).iter().map(|s| format!("{s:.3}")).collect::<Vec<_>>();
        assert_eq!(rounded(&[curve(&[0.03]), curve(&[0.12])]), ["0.020", "0.050", "0.100", "0.200"]);
        assert_eq!(ticks(&[curve(&[0.02, 0.02])]).len(), 2);
        assert_eq!((ticks(&[]).len(), ticks(&[curve(&[1e9])]).len()), (2, 2));
    }

    #[test]
    fn a_curve_ends_at_the_top() {
        let svg = curves("c", &[Curve { label: "x".into(), seconds: vec![0.1, 0.01], colour: COLOURS[0] }]);
        let points = svg.split("points='").nth(1).and_then(|rest| rest.split('\'').next()).expect("points");
        assert!(points.ends_with(",50.0") && points.contains(",330.0"), "{points}");
    }
}

//! Bar charts as SVG: a pure function from numbers to text.
//!
//! Bars are horizontal, because names are long; in one group or several. The title and the values are
//! available to screen readers, and the chart is legible on light and dark backgrounds.
//!
//! The crate `plotters` draws such bars in 55 lines instead of 150. Its SVG has no title and description for
//! screen readers, and no classes, so no colours for dark pages.

use std::fmt::Write as _;

/// A bar chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// The title.
    pub title: String,
    /// The unit of the values, and which direction is better.
    pub unit: String,
    /// The scale of the value axis.
    pub scale: AxisScale,
    /// The groups from top to bottom.
    pub groups: Vec<BarGroup>,
}

/// Bars that are compared with each other.
#[derive(Clone, Debug, PartialEq)]
pub struct BarGroup {
    /// The title of the group; may be empty.
    pub name: String,
    /// The bars from top to bottom.
    pub bars: Vec<Bar>,
}

/// A bar with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// The label of the bar.
    pub name: String,
    /// The value, which is not negative; `None` is shown as not measured.
    pub value: Option<f64>,
    /// Whether the bar is highlighted, as the one of Pushonce.
    pub is_highlighted: bool,
}

/// The scale of the value axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisScale {
    /// Linear from zero.
    Linear,
    /// Logarithmic, with one step per decade, from the greatest power of ten that is below every non-zero
    /// value.
    Log,
}

const WIDTH: f64 = 760.0;
/// Start of the bars: room for a label of about thirty letters.
const LEFT_MARGIN: f64 = 230.0;
/// Room for the value after the longest bar.
const RIGHT_MARGIN: f64 = 90.0;
const TOP_MARGIN: f64 = 64.0;
const BAR_HEIGHT: f64 = 18.0;
const BAR_PITCH: f64 = 26.0;
const GROUP_HEADER_HEIGHT: f64 = 26.0;

/// One background and two text colours for light and for dark pages. Highlighted bars differ in colour and
/// font weight, for readers who cannot distinguish colours.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}\
    .title{font-size:16px;font-weight:600}.unit,.axis{fill:#59636e}.axis{font-size:11px}\
    .group{font-weight:600}.ours{font-weight:600}.ground{fill:#ffffff}.grid{stroke:#d1d9e0}\
    .bar{fill:#8c959f}.bar.ours{fill:#0969da}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.unit,.axis{fill:#9198a1}\
    .ground{fill:#0d1117}.grid{stroke:#3d444d}.bar{fill:#656c76}.bar.ours{fill:#4493f8}}";

impl Chart {
    /// The SVG document, without external references.
    pub fn svg(&self) -> String {
        let axis = ChartAxis::for_values(self.scale, self.values());
        let bottom = TOP_MARGIN + self.groups.iter().map(BarGroup::height).sum::<f64>();
        let height = bottom + 30.0;
        let (title, alt) = (escape_xml(&self.title), escape_xml(&self.alt_text()));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"t d\">\n\
             <title id=\"t\">{title}</title>\n<desc id=\"d\">{alt}</desc>\n\
             <style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
             <text class=\"title\" x=\"16\" y=\"26\">{title}</text>\n\
             <text class=\"unit\" x=\"16\" y=\"46\">{}</text>\n",
            escape_xml(&self.unit),
        );
        for tick in axis.ticks() {
            let (x, text) = (axis.x(tick), format_number(tick));
            write_svg_line(
                &mut svg,
                &format!(
                    "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP_MARGIN}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
                     <text class=\"axis\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                    bottom + 16.0,
                ),
            );
        }
        let mut y = TOP_MARGIN;
        for group in &self.groups {
            group.draw(&mut svg, &axis, y);
            y += group.height();
        }
        svg + "</svg>\n"
    }

    /// The values as text, for screen readers and for the alternative text of the image.
    pub fn alt_text(&self) -> String {
        let groups = self.groups.iter().map(|group| {
            let bars: Vec<_> =
                group.bars.iter().map(|bar| format!("{} {}", bar.name, bar.value_text())).collect();
            let before = if group.name.is_empty() { "" } else { ": " };
            format!("{}{before}{}", group.name, bars.join(", "))
        });
        format!("{}. {}. {}.", self.title, self.unit, groups.collect::<Vec<_>>().join("; "))
    }

    fn values(&self) -> impl Iterator<Item = f64> + Clone {
        self.groups.iter().flat_map(|group| group.bars.iter().filter_map(|bar| bar.value))
    }
}

impl BarGroup {
    fn height(&self) -> f64 {
        let head = if self.name.is_empty() { 0.0 } else { GROUP_HEADER_HEIGHT };
        head + self.bars.len() as f64 * BAR_PITCH + 8.0
    }

    fn draw(&self, svg: &mut String, axis: &ChartAxis, mut y: f64) {
        if !self.name.is_empty() {
            let name = escape_xml(&self.name);
            write_svg_line(
                svg,
                &format!("<text class=\"group\" x=\"16\" y=\"{:.1}\">{name}</text>", y + 17.0),
            );
            y += GROUP_HEADER_HEIGHT;
        }
        for bar in &self.bars {
            bar.draw(svg, axis, y);
            y += BAR_PITCH;
        }
    }
}

impl Bar {
    fn draw(&self, svg: &mut String, axis: &ChartAxis, y: f64) {
        let highlight_class = if self.is_highlighted { " ours" } else { "" };
        let end = self.value.map_or(LEFT_MARGIN, |value| axis.x(value));
        write_svg_line(
            svg,
            &format!(
                "<text class=\"{highlight_class}\" x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\
                 <rect class=\"bar{highlight_class}\" x=\"{LEFT_MARGIN}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
                 <text class=\"{highlight_class}\" x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
                LEFT_MARGIN - 8.0,
                escape_xml(&self.name),
                y + 4.0,
                end - LEFT_MARGIN,
                end + 6.0,
                self.value_text(),
                text = y + 17.0,
            ),
        );
    }

    fn value_text(&self) -> String {
        self.value.map_or_else(|| "not measured".to_owned(), format_number)
    }
}

/// Maps values to positions.
struct ChartAxis {
    scale: AxisScale,
    /// The values at the left and right ends.
    ends: (f64, f64),
}

impl ChartAxis {
    fn for_values(scale: AxisScale, values: impl Iterator<Item = f64> + Clone) -> ChartAxis {
        let max = values.clone().fold(0.0, f64::max);
        if max <= 0.0 {
            return ChartAxis { scale: AxisScale::Linear, ends: (0.0, 1.0) };
        }
        let ends = match scale {
            AxisScale::Linear => (0.0, max),
            AxisScale::Log => {
                let min = values.filter(|&value| value > 0.0).fold(max, f64::min);
                let low = power_below(min);
                (low, max.max(low * 10.0))
            }
        };
        ChartAxis { scale, ends }
    }

    fn x(&self, value: f64) -> f64 {
        let (low, high) = self.ends;
        let part = match self.scale {
            AxisScale::Linear => value / high,
            AxisScale::Log if value <= low => 0.0,
            AxisScale::Log => (value / low).log10() / (high / low).log10(),
        };
        LEFT_MARGIN + part.clamp(0.0, 1.0) * (WIDTH - LEFT_MARGIN - RIGHT_MARGIN)
    }

    /// Round tick values, four to nine of them on a linear axis.
    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.ends;
        if self.scale == AxisScale::Log {
            let decades = (high / low).log10().floor() as i32;
            return (0..=decades).map(|n| low * 10f64.powi(n)).collect();
        }
        let power = power_below(high);
        let step = [0.2, 0.25, 0.5, 1.0, 2.0]
            .map(|part| part * power)
            .into_iter()
            .find(|step| high / step < 8.0)
            .unwrap_or(power * 2.0);
        (0..=(high / step) as u32).map(|n| f64::from(n) * step).collect()
    }
}

/// The greatest power of ten that is at most `value`.
fn power_below(value: f64) -> f64 {
    let power = 10f64.powi(value.log10().floor() as i32);
    // The computed logarithm of a power of ten may be slightly too small.
    if power * 10.0 <= value { power * 10.0 } else { power }
}

/// Formats a number with three digits, with k and M for thousands and millions.
pub fn format_number(value: f64) -> String {
    let (value, suffix) = match value.abs() {
        large if large >= 999_500.0 => (value / 1e6, "M"),
        large if large >= 9_995.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 0.0995 => 3,
        small if small < 9.95 => 2,
        small if small < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

fn write_svg_line(svg: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _written = writeln!(svg, "{text}");
}

fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64) -> Bar {
        Bar { name: name.to_owned(), value: Some(value), is_highlighted: false }
    }

    fn chart(scale: AxisScale, bars: Vec<Bar>) -> Chart {
        let groups = vec![BarGroup { name: String::new(), bars }];
        Chart {
            title: "A <b> & c".to_owned(),
            unit: "µs, less is better".to_owned(),
            scale,
            groups,
        }
    }

    #[test]
    fn linear_bar_length_is_proportional_to_its_value() {
        let axis = ChartAxis::for_values(AxisScale::Linear, [5.0, 10.0].into_iter());
        assert_eq!(axis.x(0.0), LEFT_MARGIN);
        assert_eq!(axis.x(10.0), WIDTH - RIGHT_MARGIN);
        assert_eq!(axis.x(5.0) - LEFT_MARGIN, (WIDTH - RIGHT_MARGIN - LEFT_MARGIN) / 2.0);
    }

    #[test]
    fn each_decade_is_one_step_of_a_logarithmic_axis() {
        let axis = ChartAxis::for_values(AxisScale::Log, [0.0, 10.0, 1_000.0].into_iter());
        assert_eq!(axis.x(0.0), LEFT_MARGIN, "zero has no length");
        assert_eq!(axis.x(10.0), LEFT_MARGIN);
        assert!(
            (axis.x(100.0) - LEFT_MARGIN - (WIDTH - RIGHT_MARGIN - LEFT_MARGIN) / 2.0).abs() < 1e-9
        );
        assert_eq!(axis.ticks(), [10.0, 100.0, 1_000.0]);
    }

    #[test]
    fn ticks_are_round_numbers_and_between_four_and_nine() {
        assert_eq!(
            ChartAxis::for_values(AxisScale::Linear, [4.7].into_iter()).ticks(),
            [0.0, 1.0, 2.0, 3.0, 4.0]
        );
        for most in [0.3, 1.0, 1.9, 12.0, 99.0, 264_000.0] {
            let ticks = ChartAxis::for_values(AxisScale::Linear, [most].into_iter()).ticks();
            assert!((4..=9).contains(&ticks.len()), "{most}: {ticks:?}");
        }
    }

    #[test]
    fn numbers_are_formatted_with_at_most_three_digits() {
        let formatted =
            [0.0, 0.034, 3.456, 14.8, 255.7, 4_051.0, 77_123.0, 3_200_000.0].map(format_number);
        assert_eq!(formatted, ["0", "0.034", "3.46", "14.8", "256", "4051", "77.1k", "3.2M"]);
    }

    #[test]
    fn alt_text_contains_every_value() {
        let mut bars = vec![bar("a", 1.5)];
        bars.push(Bar { value: None, ..bar("b", 0.0) });
        let svg = chart(AxisScale::Linear, bars).svg();
        assert!(svg.contains("A &lt;b&gt; &amp; c. µs, less is better. a 1.5, b not measured."));
        assert!(svg.contains("role=\"img\""));
    }

    #[test]
    fn chart_without_values_is_valid_svg() {
        let svg = chart(AxisScale::Log, vec![bar("a", 0.0)]).svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}

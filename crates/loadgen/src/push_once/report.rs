//! The report: the four ways side by side.

use clap::ValueEnum as _;
use comfy_table::{Table, presets};
use indicatif::HumanCount;
use pushonce_instruments::chart::{AxisScale, Bar, BarGroup, Chart, format_number};
use serde_json::{Value, json};

use super::UpdateMethod;

/// The results.
#[derive(Debug)]
pub(crate) struct PushOnceReport {
    pub(super) changes: u32,
    pub(super) polls: u32,
    pub(super) page: u32,
    pub(super) state: u32,
    pub(super) rows: Vec<MethodCost>,
}

/// The cost of one change for the site, with one method.
#[derive(Clone, Copy, Debug)]
pub(super) struct MethodCost {
    pub(super) method: UpdateMethod,
    pub(super) viewers: u32,
    /// Requests answered, pushes, or publishes.
    pub(super) requests: f64,
    /// Bytes over the site's connections in both directions, without the headers of TCP and IP.
    pub(super) bytes: f64,
    pub(super) cpu_ms: f64,
    /// CPU time of the node that delivers the change.
    pub(super) node_cpu_ms: f64,
}

impl super::super::BenchReport for PushOnceReport {
    fn text(&self) -> String {
        // Markdown, which is readable as text too.
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["viewers", "way", "requests", "bytes", "site's CPU", "node's CPU"]);
        table.add_rows(self.rows.iter().map(|cost| {
            let node = match cost.method {
                UpdateMethod::PushOnce => format!("{} ms", format_number(cost.node_cpu_ms)),
                _ => "–".to_owned(),
            };
            [
                format_integer(cost.viewers.into()),
                cost.method.name().to_owned(),
                format_integer(cost.requests),
                format_bytes(cost.bytes),
                format!("{} ms", format_number(cost.cpu_ms)),
                node,
            ]
        }));
        let head = format!(
            "What one change costs the site: a page of {} bytes, of which {} change; mean of {} \
             changes, {} polls between two.\n\n",
            self.page, self.state, self.changes, self.polls
        );
        format!("{head}{table}\n")
    }

    fn json(&self) -> Value {
        let row = |cost: &MethodCost| {
            json!({
                "viewers": cost.viewers,
                "way": cost.method.to_possible_value().map(|value| value.get_name().to_owned()),
                "requests": cost.requests, "bytes": cost.bytes, "site_cpu_ms": cost.cpu_ms,
                "node_cpu_ms": (cost.method == UpdateMethod::PushOnce).then_some(cost.node_cpu_ms),
            })
        };
        json!({
            "bench": "push-once", "changes": self.changes, "polls": self.polls,
            "page_bytes": self.page, "state_bytes": self.state,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

impl PushOnceReport {
    /// The chart of the site's CPU time.
    pub(super) fn chart(&self) -> Chart {
        let mut groups: Vec<BarGroup> = Vec::new();
        for cost in &self.rows {
            let name = format!("{} viewers", format_integer(cost.viewers.into()));
            let bar = Bar {
                name: cost.method.name().to_owned(),
                value: Some(cost.cpu_ms),
                is_highlighted: cost.method == UpdateMethod::PushOnce,
            };
            match groups.last_mut().filter(|group| group.name == name) {
                Some(group) => group.bars.push(bar),
                None => groups.push(BarGroup { name, bars: vec![bar] }),
            }
        }
        Chart {
            title: "What one change costs a site that keeps its viewers up to date".to_owned(),
            unit: "CPU of the site in ms, logarithmic; less is better".to_owned(),
            scale: AxisScale::Log,
            groups,
        }
    }
}

/// Formats a whole number with commas between thousands.
fn format_integer(number: f64) -> String {
    HumanCount(number.round() as u64).to_string()
}

fn format_bytes(bytes: f64) -> String {
    match bytes {
        large if large >= 1e6 => format!("{} MB", format_number(large / 1e6)),
        middle if middle >= 1e3 => format!("{} kB", format_number(middle / 1e3)),
        small => format!("{} B", format_number(small)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BenchReport as _;

    fn report() -> PushOnceReport {
        let cost = |method, viewers, requests, cpu_ms| MethodCost {
            method,
            viewers,
            requests,
            bytes: requests * 16_500.0,
            cpu_ms,
            node_cpu_ms: 4.0,
        };
        let rows = vec![
            cost(UpdateMethod::Reload, 100, 100.0, 3.0),
            cost(UpdateMethod::PushOnce, 100, 1.0, 0.1),
            cost(UpdateMethod::Reload, 1_000, 1_000.0, 30.0),
        ];
        PushOnceReport { changes: 3, polls: 5, page: 16_384, state: 300, rows }
    }

    #[test]
    fn text_has_a_row_for_each_method_and_number_of_viewers() {
        let text = report().text();
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(rows.len(), 5);
        assert!(
            rows[2].starts_with("| 100     | everyone reloads        | 100      | 1.65 MB | 3 ms")
        );
        assert!(rows[3].contains("| 16.5 kB | 0.1 ms     | 4 ms"), "{}", rows[3]);
        assert!(rows[4].ends_with("| –          |"), "only a node has a node's CPU");
    }

    #[test]
    fn thousands_are_separated_by_commas() {
        assert_eq!(
            [1.0, 100.0, 1_000.0, 50_000.0].map(format_integer),
            ["1", "100", "1,000", "50,000"]
        );
    }

    #[test]
    fn json_has_the_figures_of_the_text() {
        let json = report().json();
        assert_eq!(json["rows"][1]["way"], "push-once");
        assert_eq!(json["rows"][1]["node_cpu_ms"], 4.0);
        assert_eq!(json["rows"][0]["node_cpu_ms"], Value::Null);
    }

    #[test]
    fn chart_groups_the_methods_by_number_of_viewers() {
        let chart = report().chart();
        let shape: Vec<_> =
            chart.groups.iter().map(|group| (group.name.as_str(), group.bars.len())).collect();
        assert_eq!(shape, [("100 viewers", 2), ("1,000 viewers", 1)]);
        assert!(chart.groups[0].bars[1].is_highlighted);
    }
}

//! Four ways side by side.

use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::Way;
use crate::instruments::chart::{Bar, Chart, Group, Scale, figure};

/// Everything that was measured.
#[derive(Debug)]
pub(in crate::cli::bench) struct Report {
    pub(super) changes: u32,
    pub(super) polls: u32,
    pub(super) page: u32,
    pub(super) state: u32,
    pub(super) rows: Vec<Cost>,
}

/// What one change costs the site in one way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) way: Way,
    pub(super) viewers: u32,
    /// Answered, pushed, or published.
    pub(super) requests: f64,
    /// Over the site's connections, in and out, without those of TCP and IP.
    pub(super) bytes: f64,
    pub(super) cpu_ms: f64,
    /// CPU of the node that does the rest.
    pub(super) elsewhere_ms: f64,
}

impl super::super::Report for Report {
    fn text(&self) -> String {
        let mut rows = vec![
            ["viewers", "way", "requests", "bytes", "site's CPU", "node's CPU"].map(str::to_owned),
        ];
        rows.extend(self.rows.iter().map(|cost| {
            let node = match cost.way {
                Way::PushOnce => format!("{} ms", figure(cost.elsewhere_ms)),
                _ => "–".to_owned(),
            };
            [
                whole(cost.viewers.into()),
                cost.way.name().to_owned(),
                whole(cost.requests),
                size(cost.bytes),
                format!("{} ms", figure(cost.cpu_ms)),
                node,
            ]
        }));
        let head = format!(
            "What one change costs the site: a page of {} bytes, of which {} change; mean of {} \
             changes, {} polls between two.\n\n",
            self.page, self.state, self.changes, self.polls
        );
        head + &table(&rows)
    }

    fn json(&self) -> Value {
        let row = |cost: &Cost| {
            json!({
                "viewers": cost.viewers,
                "way": cost.way.to_possible_value().map(|value| value.get_name().to_owned()),
                "requests": cost.requests, "bytes": cost.bytes, "site_cpu_ms": cost.cpu_ms,
                "node_cpu_ms": (cost.way == Way::PushOnce).then_some(cost.elsewhere_ms),
            })
        };
        json!({
            "bench": "push-once", "changes": self.changes, "polls": self.polls,
            "page_bytes": self.page, "state_bytes": self.state,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

impl Report {
    /// The site's CPU.
    pub(super) fn chart(&self) -> Chart {
        let mut groups: Vec<Group> = Vec::new();
        for cost in &self.rows {
            let name = format!("{} viewers", whole(cost.viewers.into()));
            let bar = Bar {
                name: cost.way.name().to_owned(),
                value: Some(cost.cpu_ms),
                ours: cost.way == Way::PushOnce,
            };
            match groups.last_mut().filter(|group| group.name == name) {
                Some(group) => group.bars.push(bar),
                None => groups.push(Group { name, bars: vec![bar] }),
            }
        }
        Chart {
            title: "What one change costs a site that keeps its viewers up to date".to_owned(),
            unit: "CPU of the site in ms, logarithmic; less is better".to_owned(),
            scale: Scale::Log,
            groups,
        }
    }
}

/// In Markdown, which people can read as well.
fn table(rows: &[[String; 6]]) -> String {
    let widths: [usize; 6] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (nth, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        text += &format!("|{}\n", cells.collect::<String>());
        if nth == 0 {
            let lines = widths.map(|width| format!("{}|", "-".repeat(width + 2)));
            text += &format!("|{}\n", lines.concat());
        }
    }
    text
}

/// To the unit, with commas between thousands.
fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let comma = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        text.extend(comma(at).then_some(','));
        text.push(digit);
    }
    text
}

fn size(bytes: f64) -> String {
    match bytes {
        large if large >= 1e6 => format!("{} MB", figure(large / 1e6)),
        middle if middle >= 1e3 => format!("{} kB", figure(middle / 1e3)),
        small => format!("{} B", figure(small)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::Report as _;

    fn report() -> Report {
        let cost = |way, viewers, requests, cpu_ms| Cost {
            way,
            viewers,
            requests,
            bytes: requests * 16_500.0,
            cpu_ms,
            elsewhere_ms: 4.0,
        };
        let rows = vec![
            cost(Way::Reload, 100, 100.0, 3.0),
            cost(Way::PushOnce, 100, 1.0, 0.1),
            cost(Way::Reload, 1_000, 1_000.0, 30.0),
        ];
        Report { changes: 3, polls: 5, page: 16_384, state: 300, rows }
    }

    #[test]
    fn people_read_a_row_for_each_way_and_number() {
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
    fn thousands_are_parted() {
        assert_eq!([1.0, 100.0, 1_000.0, 50_000.0].map(whole), ["1", "100", "1,000", "50,000"]);
    }

    #[test]
    fn programs_read_the_same() {
        let json = report().json();
        assert_eq!(json["rows"][1]["way"], "push-once");
        assert_eq!(json["rows"][1]["node_cpu_ms"], 4.0);
        assert_eq!(json["rows"][0]["node_cpu_ms"], Value::Null);
    }

    #[test]
    fn the_chart_holds_the_ways_against_each_other_for_each_number_of_viewers() {
        let chart = report().chart();
        let shape: Vec<_> =
            chart.groups.iter().map(|group| (group.name.as_str(), group.bars.len())).collect();
        assert_eq!(shape, [("100 viewers", 2), ("1,000 viewers", 1)]);
        assert!(chart.groups[0].bars[1].ours);
    }
}

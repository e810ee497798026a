//! Renders the results of a run as tables and charts. Pure, except for [`write()`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use pushonce_instruments::chart::{AxisScale, Bar, BarGroup, Chart, format_number};
use serde_json::Value;

/// The servers of a report in their order: the name in the script, and the display name.
const SERVERS: [(&str, &str); 14] = [
    ("floor", "bare write loop"),
    ("pushonce", "Pushonce, on disk first"),
    ("memory", "Pushonce, in memory"),
    ("sse", "Pushonce, in memory, event streams"),
    ("tls", "Pushonce, in memory, TLS"),
    ("quic", "Pushonce, QUIC streams"),
    ("datagrams", "Pushonce, QUIC datagrams"),
    ("uws", "uWebSockets.js"),
    ("uws-tls", "uWebSockets.js, TLS"),
    ("nchan", "nchan"),
    ("nchan-tls", "nchan, TLS"),
    ("nats", "NATS"),
    ("mosquitto", "mosquitto"),
    ("nginx", "nginx, static file"),
];

const BEGIN: &str = "<!-- begin of what scripts/bench-peers wrote -->\n";
const END: &str = "<!-- end of what scripts/bench-peers wrote -->\n";

/// Results by regime and server.
pub(crate) struct PeerResults(BTreeMap<(String, String), Value>);

/// A column of a table.
#[derive(Clone, Copy)]
struct ReportColumn {
    head: &'static str,
    regime: &'static str,
    /// The JSON pointer to the number in a result.
    field: &'static str,
    factor: f64,
    /// Whether the number is divided by that of the bare write loop.
    as_ratio: bool,
}

const fn column(head: &'static str, regime: &'static str, field: &'static str) -> ReportColumn {
    ReportColumn { head, regime, field, factor: 1.0, as_ratio: false }
}

impl ReportColumn {
    const fn scaled(self, times: f64) -> ReportColumn {
        ReportColumn { factor: times, ..self }
    }

    const fn as_ratio(self, head: &'static str) -> ReportColumn {
        ReportColumn { head, as_ratio: true, ..self }
    }
}

const KIB: f64 = 1.0 / 1_024.0;
const MIB: f64 = KIB / 1_024.0;

const IDLE: ReportColumn =
    column("idle: user KiB per connection", "idle", "/user_bytes_each").scaled(KIB);
const ONE: ReportColumn =
    column("1 × 5,000, one at a time: CPU per delivery, µs", "one", "/cpu_us");
const SIXTEEN: ReportColumn = column("16 in flight: deliveries/s/core", "sixteen", "/per_core");
const TOPICS: ReportColumn =
    column("500 × 10, saturated: deliveries/s/core", "topics", "/per_core");
const STORMED: ReportColumn = column("all subscribed again, s", "storm", "/subscribed_seconds");

/// The tables with their headings.
const TABLES: &[(&str, &[ReportColumn])] = &[
    (
        "Cost of a connection and of a delivery on the server",
        &[
            IDLE,
            column("kernel KiB, both ends", "idle", "/kernel_bytes_each").scaled(KIB),
            ONE,
            ONE.as_ratio("× bare write"),
            column("deliveries/s/core", "one", "/per_core"),
            SIXTEEN,
            SIXTEEN.as_ratio("× bare write"),
            TOPICS,
            TOPICS.as_ratio("× bare write"),
        ],
    ),
    ("Rates and latencies: one topic × 5,000, one at a time", &latency_columns("one")),
    ("Rates and latencies: one topic × 5,000, 16 in flight", &latency_columns("sixteen")),
    ("Rates and latencies: 500 topics × 10, saturated", &latency_columns("topics")),
    (
        "Slow readers: 100 messages of 1 KiB per second for 12 s, 100 readers, alone and beside 1,000 stopped readers",
        &[
            column("p99 of the 100 readers, ms, alone", "alone", "/latency_ms/p99"),
            column("beside 1,000 stopped", "slow", "/latency_ms/p99"),
            column("user memory growth, MiB, alone", "alone", "/grown_user_bytes").scaled(MIB),
            column("beside 1,000 stopped", "slow", "/grown_user_bytes").scaled(MIB),
            column("kernel memory growth, MiB", "slow", "/grown_kernel_bytes").scaled(MIB),
            column(
                "stopped readers resume for 5 s: messages per reader",
                "slow",
                "/stopped/received",
            )
            .scaled(1e-3),
            column("skipped with a notice", "slow", "/stopped/skipped").scaled(1e-3),
            column("connections closed", "slow", "/stopped/cut"),
        ],
    ),
    (
        "Reloads of one page of 1 KiB on 64 connections, as many as the server answers; of a node it changes ten times a second",
        &[
            column("reloads/s", "reload", "/per_second"),
            column("CPU per reload, µs", "reload", "/cpu_us"),
            column("requests to the owner a second", "reload", "/owner_requests_per_second"),
            column("generator cores", "reload", "/generator_cores"),
        ],
    ),
    (
        "Storm: 14,000 connections cut at once, 5 messages published meanwhile, 1 after",
        &[
            column("all subscribed for the first time, s", "storm", "/first_seconds"),
            STORMED,
            column("CPU per connection, µs", "storm", "/cpu_us"),
            column("messages received of 6", "storm", "/delivered").scaled(1.0 / 14_000.0),
            column("handshakes rejected", "storm", "/retries"),
        ],
    ),
];

const fn latency_columns(regime: &'static str) -> [ReportColumn; 6] {
    [
        column("deliveries/s", regime, "/per_second"),
        column("p50 ms", regime, "/latency_ms/p50"),
        column("p99 ms", regime, "/latency_ms/p99"),
        column("cores: server", regime, "/server_cores"),
        column("load", regime, "/generator_cores"),
        column("missed", regime, "/missed"),
    ]
}

/// The charts: file name, title, unit, scale and column.
const CHARTS: &[(&str, &str, &str, AxisScale, ReportColumn)] = &[
    (
        "cpu-per-delivery.svg",
        "One topic, 5,000 subscribers, one message at a time",
        "server CPU per delivery, µs; lower is better",
        AxisScale::Linear,
        ONE,
    ),
    (
        "sixteen-in-flight.svg",
        "One topic, 5,000 subscribers, 16 messages in flight",
        "deliveries per second and core, logarithmic; higher is better",
        AxisScale::Log,
        SIXTEEN,
    ),
    (
        "many-topics.svg",
        "500 topics, 10 subscribers each, saturated",
        "deliveries per second and core; higher is better",
        AxisScale::Linear,
        TOPICS,
    ),
    (
        "idle-memory.svg",
        "10,000 idle connections, each with one subscription",
        "server memory per connection in KiB, without the kernel's, logarithmic; lower is better",
        AxisScale::Log,
        IDLE,
    ),
    (
        "storm.svg",
        "14,000 connections cut at once",
        "seconds until all are subscribed again; lower is better",
        AxisScale::Linear,
        STORMED,
    ),
];

/// Reads the results in `from`; writes the charts into `charts`, and the tables between the markers of
/// `into`.
pub(crate) fn write(from: &Path, into: &Path, charts: &Path, machine: &str) -> anyhow::Result<()> {
    let results = PeerResults::read(from)?;
    fs::create_dir_all(charts)?;
    for (file, svg) in results.chart_files() {
        fs::write(charts.join(file), svg)?;
    }
    let page = fs::read_to_string(into).with_context(|| into.display().to_string())?;
    fs::write(into, replace_between_marks(&page, &results.render(machine))?)?;
    Ok(())
}

fn replace_between_marks(page: &str, text: &str) -> anyhow::Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, tail)| {
        tail.split_once(END).map(|(_, after)| format!("{before}{BEGIN}{text}{END}{after}"))
    });
    let Some(page) = parts else { bail!("the page has no markers {BEGIN:?} and {END:?}") };
    Ok(page)
}

impl PeerResults {
    fn read(from: &Path) -> anyhow::Result<PeerResults> {
        let mut results = BTreeMap::new();
        for file in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let path = file?.path();
            let text = fs::read_to_string(&path)?;
            let result: Value =
                serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            let text_of = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
            results.insert((text_of("regime"), text_of("server")), result);
        }
        Ok(PeerResults(results))
    }

    fn value(&self, server: &str, column: ReportColumn) -> Option<f64> {
        let number = |server: &str| {
            let result = self.0.get(&(column.regime.to_owned(), server.to_owned()))?;
            result.pointer(column.field)?.as_f64()
        };
        let value = number(server)? * column.factor;
        if column.as_ratio { number("floor").map(|floor| value / floor) } else { Some(value) }
    }

    /// The servers that have a value in one of the columns.
    fn servers_with_data(
        &self,
        columns: &[ReportColumn],
    ) -> impl Iterator<Item = (&'static str, &'static str)> {
        let has_data = |server| columns.iter().any(|&column| self.value(server, column).is_some());
        SERVERS.into_iter().filter(move |&(server, _)| has_data(server))
    }

    fn render(&self, machine: &str) -> String {
        let mut text = format!("{machine}\n\n{}\n", self.versions());
        for (heading, columns) in TABLES {
            if self.servers_with_data(columns).next().is_some() {
                // Writing to a string cannot fail.
                let _written = write!(text, "#### {heading}\n\n{}\n", self.table(columns));
            }
        }
        for (file, chart) in self.charts() {
            let _written = write!(text, "![{}](charts/{file})\n\n", chart.alt_text());
        }
        text
    }

    fn versions(&self) -> String {
        let version_line = |(server, name): (&str, &str)| {
            let result = self.0.values().find(|result| result["server"] == server)?;
            Some(format!("- {name}: {}\n", result["about"].as_str()?))
        };
        SERVERS.into_iter().filter_map(version_line).collect()
    }

    fn table(&self, columns: &[ReportColumn]) -> String {
        let heads: String = columns.iter().map(|column| format!(" {} |", column.head)).collect();
        let mut table = format!("| |{heads}\n|---|{}\n", "---|".repeat(columns.len()));
        for (server, name) in self.servers_with_data(columns) {
            let cells = columns.iter().map(|&column| {
                format!(" {} |", self.value(server, column).map_or("–".to_owned(), format_number))
            });
            let _written = writeln!(table, "| {name} |{}", cells.collect::<String>());
        }
        table
    }

    fn charts(&self) -> impl Iterator<Item = (&'static str, Chart)> {
        let charts = CHARTS.iter().map(|&(file, title, unit, scale, column)| {
            let columns = [column];
            let bars = self.servers_with_data(&columns).map(|(server, name)| Bar {
                name: name.to_owned(),
                value: self.value(server, column),
                is_highlighted: name.starts_with("Pushonce"),
            });
            let groups = vec![BarGroup { name: String::new(), bars: bars.collect() }];
            (file, Chart { title: title.to_owned(), unit: unit.to_owned(), scale, groups })
        });
        charts.filter(|(_, chart)| chart.groups.iter().any(|group| !group.bars.is_empty()))
    }

    fn chart_files(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.charts().map(|(file, chart)| (file, chart.svg()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results() -> PeerResults {
        let result =
            |server: &str, cpu: f64| json!({"server": server, "about": "v1", "cpu_us": cpu});
        let key = |server: &str| ("one".to_owned(), server.to_owned());
        PeerResults(
            [(key("nats"), result("nats", 12.6)), (key("floor"), result("floor", 3.5))].into(),
        )
    }

    #[test]
    fn table_lists_measured_servers_and_marks_missing_values() {
        let table = results().table(TABLES[0].1);
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| bare write loop | – | – | 3.5 | 1 | – | – | – | – | – |",
                "| NATS | – | – | 12.6 | 3.6 | – | – | – | – | – |"
            ]
        );
    }

    #[test]
    fn only_the_text_between_the_marks_is_replaced() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(
            replace_between_marks(&page, "new\n").unwrap(),
            format!("before\n{BEGIN}new\n{END}after\n")
        );
        assert!(replace_between_marks("no markers", "new").is_err());
    }

    #[test]
    fn chart_shows_only_the_servers_measured_in_its_workload() {
        let charts: BTreeMap<_, _> = results().chart_files().collect();
        let drawn = &charts["cpu-per-delivery.svg"];
        assert!(drawn.contains("NATS 12.6") && !drawn.contains("nchan"));
    }
}

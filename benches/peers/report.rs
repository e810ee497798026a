//! The results of a run as tables and charts. Pure, but for [`write()`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use pushonce::instruments::chart::{Bar, Chart, Group, Scale, figure};
use serde_json::Value;

/// Who may be in a report, in its order: by the word of the script, and by name.
const WHO: [(&str, &str); 9] = [
    ("floor", "bare write loop"),
    ("pushonce", "Pushonce, on disk first"),
    ("memory", "Pushonce, in memory"),
    ("quic", "Pushonce, QUIC streams"),
    ("datagrams", "Pushonce, QUIC datagrams"),
    ("uws", "uWebSockets.js"),
    ("nchan", "nchan"),
    ("nats", "NATS"),
    ("mosquitto", "mosquitto"),
];

const BEGIN: &str = "<!-- begin of what scripts/bench-peers wrote -->\n";
const END: &str = "<!-- end of what scripts/bench-peers wrote -->\n";

/// What was measured, by regime and server.
pub(crate) struct Results(BTreeMap<(String, String), Value>);

/// A column of a table.
#[derive(Clone, Copy)]
struct Column {
    head: &'static str,
    regime: &'static str,
    /// Where the number stands in a result.
    field: &'static str,
    times: f64,
    /// Divided by that of the bare write loop.
    as_ratio: bool,
}

const fn column(head: &'static str, regime: &'static str, field: &'static str) -> Column {
    Column { head, regime, field, times: 1.0, as_ratio: false }
}

impl Column {
    const fn times(self, times: f64) -> Column {
        Column { times, ..self }
    }

    const fn as_ratio(self, head: &'static str) -> Column {
        Column { head, as_ratio: true, ..self }
    }
}

const KIB: f64 = 1.0 / 1_024.0;
const MIB: f64 = KIB / 1_024.0;

const IDLE: Column = column("idle: user KiB a connection", "idle", "/user_bytes_each").times(KIB);
const ONE: Column = column("1 × 5,000, one at a time: CPU a delivery, µs", "one", "/cpu_us");
const SIXTEEN: Column = column("16 in flight: deliveries/s/core", "sixteen", "/per_core");
const TOPICS: Column = column("500 × 10, saturated: deliveries/s/core", "topics", "/per_core");
const STORMED: Column = column("all subscribed again, s", "storm", "/subscribed_seconds");

/// Each a heading and a table.
const TABLES: &[(&str, &[Column])] = &[
    (
        "What a connection and a delivery cost the server",
        &[
            IDLE,
            column("kernel KiB, both ends", "idle", "/kernel_bytes_each").times(KIB),
            ONE,
            ONE.as_ratio("× bare write"),
            column("deliveries/s/core", "one", "/per_core"),
            SIXTEEN,
            SIXTEEN.as_ratio("× bare write"),
            TOPICS,
            TOPICS.as_ratio("× bare write"),
        ],
    ),
    ("By the clock: one topic × 5,000, one at a time", &by_the_clock("one")),
    ("By the clock: one topic × 5,000, 16 in flight", &by_the_clock("sixteen")),
    ("By the clock: 500 topics × 10, saturated", &by_the_clock("topics")),
    (
        "Slow readers: 100 messages of 1 KiB a second for 12 s, 100 readers, beside nobody and beside 1,000 who stopped",
        &[
            column("p99 of the 100, ms, nobody stopped", "alone", "/latency_ms/p99"),
            column("beside 1,000 stopped", "slow", "/latency_ms/p99"),
            column("user memory grown, MiB, nobody stopped", "alone", "/grown_user_bytes")
                .times(MIB),
            column("beside 1,000 stopped", "slow", "/grown_user_bytes").times(MIB),
            column("kernel, MiB", "slow", "/grown_kernel_bytes").times(MIB),
            column("then the stopped read for 5 s: messages each", "slow", "/stopped/received")
                .times(1e-3),
            column("not shown, and told so", "slow", "/stopped/told").times(1e-3),
            column("connections cut", "slow", "/stopped/cut"),
        ],
    ),
    (
        "Storm: 15,000 connections cut at once, 5 messages published meanwhile, 1 after",
        &[
            column("all subscribed for the first time, s", "storm", "/first_seconds"),
            STORMED,
            column("CPU each, µs", "storm", "/cpu_us"),
            column("of 6 messages each got", "storm", "/delivered").times(1.0 / 15_000.0),
            column("handshakes refused", "storm", "/retries"),
        ],
    ),
];

const fn by_the_clock(regime: &'static str) -> [Column; 6] {
    [
        column("deliveries/s", regime, "/per_second"),
        column("p50 ms", regime, "/latency_ms/p50"),
        column("p99 ms", regime, "/latency_ms/p99"),
        column("cores: server", regime, "/server_cores"),
        column("load", regime, "/generator_cores"),
        column("missed", regime, "/missed"),
    ]
}

/// A file, and what is drawn in it.
const CHARTS: &[(&str, &str, &str, Scale, Column)] = &[
    (
        "cpu-a-delivery.svg",
        "One topic, 5,000 subscribers, one message at a time",
        "server CPU a delivery, µs; less is better",
        Scale::Linear,
        ONE,
    ),
    (
        "sixteen-in-flight.svg",
        "One topic, 5,000 subscribers, 16 messages in flight",
        "deliveries a second and core, logarithmic; more is better",
        Scale::Log,
        SIXTEEN,
    ),
    (
        "many-topics.svg",
        "500 topics, 10 subscribers each, saturated",
        "deliveries a second and core; more is better",
        Scale::Linear,
        TOPICS,
    ),
    (
        "idle-memory.svg",
        "10,000 idle connections, each with one subscription",
        "server memory a connection in KiB, without the kernel's, logarithmic; less is better",
        Scale::Log,
        IDLE,
    ),
    (
        "storm.svg",
        "15,000 connections cut in one moment",
        "seconds until all are subscribed again; less is better",
        Scale::Linear,
        STORMED,
    ),
];

/// Reads the results in `from`; writes charts into `charts`, and the tables between the marks of
/// `into`.
pub(crate) fn write(from: &Path, into: &Path, charts: &Path, machine: &str) -> anyhow::Result<()> {
    let results = Results::read(from)?;
    fs::create_dir_all(charts)?;
    for (file, svg) in results.charts() {
        fs::write(charts.join(file), svg)?;
    }
    let page = fs::read_to_string(into).with_context(|| into.display().to_string())?;
    fs::write(into, between(&page, &results.text(machine))?)?;
    Ok(())
}

fn between(page: &str, text: &str) -> anyhow::Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| {
        rest.split_once(END).map(|(_, after)| format!("{before}{BEGIN}{text}{END}{after}"))
    });
    let Some(page) = parts else { bail!("the page has no marks {BEGIN:?} and {END:?}") };
    Ok(page)
}

impl Results {
    fn read(from: &Path) -> anyhow::Result<Results> {
        let mut results = BTreeMap::new();
        for file in fs::read_dir(from).with_context(|| from.display().to_string())? {
            let path = file?.path();
            let text = fs::read_to_string(&path)?;
            let result: Value =
                serde_json::from_str(&text).with_context(|| path.display().to_string())?;
            let word = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
            results.insert((word("regime"), word("who")), result);
        }
        Ok(Results(results))
    }

    fn value(&self, who: &str, column: Column) -> Option<f64> {
        let number = |who: &str| {
            let result = self.0.get(&(column.regime.to_owned(), who.to_owned()))?;
            result.pointer(column.field)?.as_f64()
        };
        let value = number(who)? * column.times;
        if column.as_ratio { number("floor").map(|floor| value / floor) } else { Some(value) }
    }

    /// Those of whom there is anything under one of `columns`.
    fn who(&self, columns: &[Column]) -> impl Iterator<Item = (&'static str, &'static str)> {
        let known = |who| columns.iter().any(|&column| self.value(who, column).is_some());
        WHO.into_iter().filter(move |&(who, _)| known(who))
    }

    fn text(&self, machine: &str) -> String {
        let mut text = format!("{machine}\n\n{}\n", self.versions());
        for (heading, columns) in TABLES {
            if self.who(columns).next().is_some() {
                // Writing to a string cannot fail.
                let _written = write!(text, "#### {heading}\n\n{}\n", self.table(columns));
            }
        }
        for (file, chart) in self.drawn() {
            let _written = write!(text, "![{}](charts/{file})\n\n", chart.alt());
        }
        text
    }

    fn versions(&self) -> String {
        let about = |(who, name): (&str, &str)| {
            let result = self.0.values().find(|result| result["who"] == who)?;
            Some(format!("- {name}: {}\n", result["about"].as_str()?))
        };
        WHO.into_iter().filter_map(about).collect()
    }

    fn table(&self, columns: &[Column]) -> String {
        let heads: String = columns.iter().map(|column| format!(" {} |", column.head)).collect();
        let mut table = format!("| |{heads}\n|---|{}\n", "---|".repeat(columns.len()));
        for (who, name) in self.who(columns) {
            let cells = columns.iter().map(|&column| {
                format!(" {} |", self.value(who, column).map_or("–".to_owned(), figure))
            });
            let _written = writeln!(table, "| {name} |{}", cells.collect::<String>());
        }
        table
    }

    fn drawn(&self) -> impl Iterator<Item = (&'static str, Chart)> {
        let charts = CHARTS.iter().map(|&(file, title, unit, scale, column)| {
            let columns = [column];
            let bars = self.who(&columns).map(|(who, name)| Bar {
                name: name.to_owned(),
                value: self.value(who, column),
                ours: name.starts_with("Pushonce"),
            });
            let groups = vec![Group { name: String::new(), bars: bars.collect() }];
            (file, Chart { title: title.to_owned(), unit: unit.to_owned(), scale, groups })
        });
        charts.filter(|(_, chart)| chart.groups.iter().any(|group| !group.bars.is_empty()))
    }

    fn charts(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.drawn().map(|(file, chart)| (file, chart.svg()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results() -> Results {
        let result = |who: &str, cpu: f64| json!({"who": who, "about": "v1", "cpu_us": cpu});
        let key = |who: &str| ("one".to_owned(), who.to_owned());
        Results([(key("nats"), result("nats", 12.6)), (key("floor"), result("floor", 3.5))].into())
    }

    #[test]
    fn a_table_has_everybody_who_was_measured_and_says_what_was_not() {
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
    fn what_stood_between_the_marks_is_replaced_and_nothing_else() {
        let page = format!("before\n{BEGIN}old\n{END}after\n");
        assert_eq!(between(&page, "new\n").unwrap(), format!("before\n{BEGIN}new\n{END}after\n"));
        assert!(between("no marks", "new").is_err());
    }

    #[test]
    fn a_chart_shows_who_was_measured_in_its_regime() {
        let charts: BTreeMap<_, _> = results().charts().collect();
        let drawn = &charts["cpu-a-delivery.svg"];
        assert!(drawn.contains("NATS 12.6") && !drawn.contains("nchan"));
    }
}

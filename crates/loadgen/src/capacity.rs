//! `pushonce bench capacity`: the resources that a number of viewers needs, computed from measured costs.
//!
//! Pure: costs and requirements in, a page out. `benches/CAPACITY.md` is the page for the default arguments,
//! which a test verifies.

use std::fmt::Write as _;

use pushonce_instruments::chart::format_number;
use serde_json::{Value, json};

/// The requirements and the unit costs.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Number of concurrent viewers, as in 500k or 10M; several numbers are separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1M,10M,100M", value_parser = parse_viewers)]
    viewers: Vec<f64>,
    /// Messages per second to each viewer
    #[arg(long, value_name = "PER_SECOND", default_value_t = 1.0, value_parser = parse_positive)]
    rate: f64,
    /// Payload size in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 300.0, value_parser = parse_positive)]
    payload: f64,
    /// Seconds in which all viewers reconnect: the reload storm of the last minute
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = parse_positive)]
    storm: f64,
    #[command(flatten)]
    costs: UnitCosts,
    #[command(flatten)]
    node_capacity: NodeCapacity,
}

/// The cost of each unit for a node. The defaults are those of benches/README.md.
#[derive(clap::Args, Clone, Copy, Debug)]
struct UnitCosts {
    /// CPU time of a delivery in µs
    #[arg(long, value_name = "MICROS", default_value_t = 4.6, value_parser = parse_positive)]
    cpu_us: f64,
    /// CPU time of an idle connection in µs per second
    #[arg(long, value_name = "MICROS", default_value_t = 0.9, value_parser = parse_positive)]
    idle_us: f64,
    /// CPU time of a new connection, with its subscription and catch-up, in µs
    #[arg(long, value_name = "MICROS", default_value_t = 100.0, value_parser = parse_positive)]
    connect_us: f64,
    /// Memory of a connection in the process in KiB
    #[arg(long, value_name = "KIB", default_value_t = 2.0, value_parser = parse_positive)]
    user_kib: f64,
    /// Memory of a connection in the kernel in KiB
    #[arg(long, value_name = "KIB", default_value_t = 4.0, value_parser = parse_positive)]
    kernel_kib: f64,
    /// Bytes on the wire in addition to a payload: frame, TCP, IP, Ethernet
    #[arg(long, value_name = "BYTES", default_value_t = 172.0, value_parser = parse_positive)]
    overhead: f64,
}

/// The capacity of a node, and how much of it may be used.
#[derive(clap::Args, Clone, Copy, Debug)]
struct NodeCapacity {
    /// Cores of a node
    #[arg(long, value_name = "N", default_value_t = 16.0, value_parser = parse_positive)]
    cores: f64,
    /// Memory of a node in GiB
    #[arg(long, value_name = "GIB", default_value_t = 32.0, value_parser = parse_positive)]
    memory_gib: f64,
    /// Bandwidth of a node in Gbit/s
    #[arg(long, value_name = "GBIT", default_value_t = 10.0, value_parser = parse_positive)]
    gbit: f64,
    /// Maximum utilization of each resource, from 0.01 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.6, value_parser = parse_fraction)]
    utilization_max: f64,
}

/// The minimum cluster size: fewer nodes have no majority after the loss of one.
const CLUSTER_NODES_MIN: f64 = 3.0;

/// The resources that a number of viewers needs, over all nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CapacityNeed {
    viewers: f64,
    deliveries: f64,
    /// For deliveries, for idle connections, and for reconnects.
    cores: [f64; 3],
    memory_gib: f64,
    gbit: f64,
    /// The number of nodes needed for the cores, the memory and the bandwidth.
    nodes: [f64; 3],
}

/// The report.
#[derive(Debug)]
pub(super) struct CapacityReport {
    args: Args,
    needs: Vec<CapacityNeed>,
}

pub(super) fn run(args: Args) -> CapacityReport {
    let needs = args.viewers.iter().map(|&viewers| compute_need(&args, viewers)).collect();
    CapacityReport { args, needs }
}

fn compute_need(args: &Args, viewers: f64) -> CapacityNeed {
    let (costs, node) = (&args.costs, &args.node_capacity);
    let deliveries = viewers * args.rate;
    let cores = [
        deliveries * costs.cpu_us / 1e6,
        viewers * costs.idle_us / 1e6,
        viewers * costs.connect_us / args.storm / 1e6,
    ];
    let memory_gib = viewers * (costs.user_kib + costs.kernel_kib) / KIB_PER_GIB;
    let gbit = deliveries * (args.payload + costs.overhead) * 8.0 / 1e9;
    let nodes_for = |needed: f64, per_node: f64| {
        (needed / (per_node * node.utilization_max)).ceil().max(CLUSTER_NODES_MIN)
    };
    CapacityNeed {
        viewers,
        deliveries,
        cores,
        memory_gib,
        gbit,
        nodes: [
            nodes_for(cores.iter().sum(), node.cores),
            nodes_for(memory_gib, node.memory_gib),
            nodes_for(gbit, node.gbit),
        ],
    }
}

const KIB_PER_GIB: f64 = 1_048_576.0;

impl CapacityNeed {
    fn nodes_needed(&self) -> f64 {
        self.nodes.into_iter().fold(0.0, f64::max)
    }

    /// The resource that determines the number of nodes.
    fn bottleneck(&self) -> &'static str {
        let resources = ["cores", "memory", "bandwidth"].into_iter().zip(self.nodes);
        resources
            .rev()
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .map_or("", |(resource, _)| resource)
    }
}

impl super::BenchReport for CapacityReport {
    fn text(&self) -> String {
        let Args { rate, payload, storm, costs, node_capacity: node, .. } = &self.args;
        let mut markdown = format!(
            "# Capacity\n\n\
             The resources that a number of viewers needs, computed from measured costs. This page is \
             the output of `pushonce bench capacity`; pass options for other values, for example \
             `pushonce bench capacity --viewers 10M --rate 5 --cores 64 --gbit 25`.\n\n\
             | input | |\n|---|---|\n\
             | messages per second that each viewer receives, *r* | {rate} |\n\
             | bytes of a payload, *p* | {payload} |\n\
             | seconds in which every viewer reconnects, *T* | {storm} |\n\
             | CPU per delivery, *d* | {} µs |\n\
             | CPU per idle connection, *i* | {} µs per second |\n\
             | CPU per new connection, with its subscription and its missed messages, *c* | {} µs |\n\
             | memory per connection, *m*: node and kernel | {} + {} KiB |\n\
             | bytes on the wire in addition to a payload, *o* | {} |\n\
             | a node | {} cores, {} GiB, {} Gbit/s, of which at most {} % are used |\n\n",
            costs.cpu_us,
            costs.idle_us,
            costs.connect_us,
            costs.user_kib,
            costs.kernel_kib,
            costs.overhead,
            node.cores,
            node.memory_gib,
            node.gbit,
            node.utilization_max * 100.0,
        );
        markdown += "| viewers | deliveries/s | cores: deliver | idle | reconnect | memory | bandwidth | nodes | limited by |\n\
                 |---|---|---|---|---|---|---|---|---|\n";
        for need in &self.needs {
            let [deliver, hold, storm] = need.cores.map(format_number);
            // Writing to a string cannot fail.
            let _written = writeln!(
                markdown,
                "| {} | {} | {deliver} | {hold} | {storm} | {} GiB | {} Gbit/s | {} | {} |",
                format_number(need.viewers),
                format_number(need.deliveries),
                format_number(need.memory_gib),
                format_number(need.gbit),
                need.nodes_needed(),
                need.bottleneck(),
            );
        }
        markdown + FORMULAS
    }

    fn json(&self) -> Value {
        let row = |need: &CapacityNeed| {
            json!({
                "viewers": need.viewers, "deliveries_per_second": need.deliveries,
                "cores": { "deliver": need.cores[0], "hold": need.cores[1], "storm": need.cores[2] },
                "memory_gib": need.memory_gib, "gbit": need.gbit,
                "nodes": need.nodes_needed(), "bound_by": need.bottleneck(),
            })
        };
        json!({ "bench": "capacity", "rows": self.needs.iter().map(row).collect::<Vec<_>>() })
    }
}

const FORMULAS: &str = "
With *V* viewers:

- deliveries per second = *V r*
- cores to deliver = *V r d*; for idle connections = *V i*; to reconnect = *V c* / *T*
- memory = *V m*
- bandwidth = *V r* (*p* + *o*) 8
- nodes = the maximum of: all cores / cores of a node, memory / memory of a node, bandwidth / bandwidth of a
  node, each divided by the used part; rounded up, and at least three.

The costs are those of [README.md](README.md), measured on loopback, one message at a time, which is the
most expensive way to deliver: every message wakes every socket. Under load one write carries several
messages, and a delivery costs a tenth. Not included: TLS, the driver of a real network card, the load
balancer in front of the nodes, and the traffic between nodes, which is one copy of each message per node.
";

/// Parses a number of up to a trillion, with the suffix k or M for thousands or millions.
fn parse_viewers(text: &str) -> Result<f64, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix('M').map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    let number = digits.parse::<f64>().ok().map(|number| number * factor);
    let number = number.filter(|number| (1.0..=1e12).contains(number));
    number.ok_or_else(|| "expected a number of viewers, such as 2000, 500k or 10M".to_owned())
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (1e-6..=1e9).contains(number));
    number.ok_or_else(|| "expected a number above 0 and up to a billion".to_owned())
}

fn parse_fraction(text: &str) -> Result<f64, String> {
    let part = text.parse().ok().filter(|part| (0.01..=1.0).contains(part));
    part.ok_or_else(|| "expected a fraction from 0.01 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::BenchReport as _;

    #[derive(Parser)]
    struct CapacityCli {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &str) -> Args {
        CapacityCli::try_parse_from(std::iter::once("bench").chain(line.split_whitespace()))
            .unwrap()
            .args
    }

    #[test]
    fn capacity_page_is_the_output_of_the_command() {
        let page = include_str!("../../../benches/CAPACITY.md");
        assert!(
            page == run(args("")).text(),
            "update the page: pushonce bench capacity > benches/CAPACITY.md"
        );
    }

    #[test]
    fn need_of_a_million_viewers_at_five_messages_per_second() {
        let costs =
            "--cpu-us 10 --idle-us 2 --connect-us 60 --user-kib 1 --kernel-kib 3 --overhead 70";
        let args =
            args(&format!("--viewers 1M --rate 5 --payload 300 {costs} --utilization-max 0.5"));
        let need = compute_need(&args, 1e6);
        assert_eq!(need.deliveries, 5e6);
        assert_eq!(need.cores, [50.0, 2.0, 1.0]);
        assert_eq!(need.gbit, 14.8);
        assert!((need.memory_gib - 3.815).abs() < 0.001);
        assert_eq!(need.nodes, [7.0, 3.0, 3.0]);
        assert_eq!((need.nodes_needed(), need.bottleneck()), (7.0, "cores"));
    }

    #[test]
    fn few_viewers_still_need_three_nodes() {
        assert_eq!(compute_need(&args(""), 1_000.0).nodes_needed(), CLUSTER_NODES_MIN);
    }

    #[test]
    fn viewers_are_parsed_with_k_and_m_suffixes() {
        assert_eq!(
            [parse_viewers("2000"), parse_viewers("500k"), parse_viewers("10M")],
            [Ok(2e3), Ok(5e5), Ok(1e7)]
        );
        assert!(
            parse_viewers("0").is_err()
                && parse_viewers("10G").is_err()
                && parse_viewers("NaN").is_err()
        );
    }
}

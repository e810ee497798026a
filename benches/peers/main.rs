//! Peers beside us: one load generator for all, so that nobody has an advantage.
//!
//! One thread holds publishers and subscribers, so there is one clock; it tells its own use of CPU
//! beside the server's, and is worth nothing where it is the one that is busy. `scripts/bench-peers`
//! runs it against each server.

mod client_pool;
mod floor;
mod load;
mod memory;
mod report;
mod wire;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pushonce::instruments::MessageStamp;

use load::LoadPacing;
use wire::ServerProtocol;

/// Puts one load on a server of one of several protocols, and prints what came of it as JSON.
#[derive(Parser)]
struct PeersCli {
    #[command(subcommand)]
    command: PeersCommand,
}

#[derive(Subcommand)]
enum PeersCommand {
    /// Publish to subscribers that read, and beside them to some that do not
    Load(LoadArgs),
    /// Cut every connection at once, and time until all are back
    Storm(StormArgs),
    /// Be the server that does nothing but write
    Floor {
        /// Where
        #[arg(long, value_name = "HOST:PORT")]
        listen: SocketAddr,
    },
    /// Write the results of a run as tables and charts
    Report {
        /// The folder of the results, one JSON file each
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// The page whose part between the marks is written anew
        #[arg(long, value_name = "FILE")]
        into: PathBuf,
        /// The folder of the charts
        #[arg(long, value_name = "DIR")]
        charts: PathBuf,
        /// A line about machine and day
        #[arg(long, value_name = "TEXT")]
        machine: String,
    },
}

/// Who is measured, by how many.
#[derive(clap::Args)]
struct BenchTarget {
    /// What the server speaks
    #[arg(long)]
    protocol: ServerProtocol,
    /// Its address
    #[arg(long, value_name = "HOST:PORT")]
    server: SocketAddr,
    /// Its processes, whose CPU and memory are told; with commas between them
    #[arg(long, value_name = "PID", value_delimiter = ',', required = true)]
    pid: Vec<u32>,
    /// Connections that read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=19_000))]
    subscribers: u32,
    /// Bytes of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = clap::value_parser!(u32).range(MessageStamp::BYTES as i64..=60_000))]
    payload: u32,
}

#[derive(clap::Args)]
struct LoadArgs {
    #[command(flatten)]
    target: BenchTarget,
    /// Topics, in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    topics: u32,
    /// Each subscriber reads every topic instead of one
    #[arg(long)]
    every_topic: bool,
    /// Messages that not everybody has read, at any moment
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// By the clock instead: messages a second over all topics; 0 publishes nothing
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Connections beside the subscribers, of the same topics, that do not read
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    stopped: u32,
    /// How long to measure, after a fifth of that to warm up
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(clap::Args)]
struct StormArgs {
    #[command(flatten)]
    target: BenchTarget,
}

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    match PeersCli::parse().command {
        PeersCommand::Load(args) => println!("{}", workload::run_load(&args)?),
        PeersCommand::Storm(args) => println!("{}", workload::run_storm(&args)?),
        PeersCommand::Floor { listen } => floor::serve(listen)?,
        PeersCommand::Report { from, into, charts, machine } => {
            report::write(&from, &into, &charts, &machine)?;
        }
    }
    Ok(())
}

impl LoadArgs {
    fn pacing(&self) -> LoadPacing {
        match self.rate {
            None => LoadPacing::Closed(self.in_flight as usize),
            Some(rate) if rate > 0.0 => LoadPacing::Open(rate),
            Some(_) => LoadPacing::Silent,
        }
    }

    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.seconds / 5.0)
    }
}

impl BenchTarget {
    fn subscribers(&self) -> usize {
        self.subscribers as usize
    }
}

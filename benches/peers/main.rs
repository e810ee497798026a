//! Load generator for Pushonce and other servers, the same for all of them.
//!
//! One thread runs publishers and subscribers, so that there is one clock. It reports its own CPU use with
//! the server's; a result is not meaningful if the generator is the bottleneck. `scripts/bench-peers` runs it
//! against each server.

mod client_pool;
mod floor;
mod load;
mod memory;
mod reload;
mod report;
mod wire;
mod workload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use pushonce_instruments::MessageStamp;

use load::LoadPacing;
use wire::ServerProtocol;

/// Runs a load against a server with one of several protocols, and prints the results as JSON
#[derive(Parser)]
struct PeersCli {
    #[command(subcommand)]
    command: PeersCommand,
}

#[derive(Subcommand)]
enum PeersCommand {
    /// Publish to subscribers that read, and optionally to additional ones that do not
    Load(LoadArgs),
    /// Close every connection at once, and measure the time until all are back
    Storm(StormArgs),
    /// Read one URL over and over on many connections
    Reload(ReloadArgs),
    /// Run the bare write loop as a server
    Floor {
        /// Address to listen at
        #[arg(long, value_name = "HOST:PORT")]
        listen: SocketAddr,
    },
    /// Write the results of a run as tables and charts
    Report {
        /// Directory with the results, one JSON file each
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Markdown page; the part between its markers is replaced
        #[arg(long, value_name = "FILE")]
        into: PathBuf,
        /// Directory for the charts
        #[arg(long, value_name = "DIR")]
        charts: PathBuf,
        /// Line about the machine and the date
        #[arg(long, value_name = "TEXT")]
        machine: String,
    },
}

/// The server under test, and the number of its subscribers.
#[derive(clap::Args)]
struct BenchTarget {
    /// Protocol of the server
    #[arg(long)]
    protocol: ServerProtocol,
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT")]
    server: SocketAddr,
    /// Connect with TLS 1.3, and accept any certificate
    #[arg(long)]
    tls: bool,
    /// Process ids of the server, whose CPU and memory are measured; comma-separated
    #[arg(long, value_name = "PID", value_delimiter = ',', required = true)]
    pid: Vec<u32>,
    /// Number of connections that read
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
    /// Number of topics, used in turn
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    topics: u32,
    /// Subscribe each subscriber to every topic instead of one
    #[arg(long)]
    every_topic: bool,
    /// Maximum number of messages that some subscriber has not read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    in_flight: u32,
    /// Publish at this rate per second over all topics instead of in a closed loop; 0 publishes nothing
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Number of additional connections to the same topics that do not read
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    stopped: u32,
    /// Duration of the measurement in seconds; a fifth of it is added for the warm-up
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(clap::Args)]
struct StormArgs {
    #[command(flatten)]
    target: BenchTarget,
}

#[derive(clap::Args)]
struct ReloadArgs {
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT")]
    server: SocketAddr,
    /// Process ids of the server, whose CPU is measured; comma-separated
    #[arg(long, value_name = "PID", value_delimiter = ',', required = true)]
    pid: Vec<u32>,
    /// Path of the page
    #[arg(long)]
    path: String,
    /// Number of connections
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: u32,
    /// Reloads a second; without it, as many as the server answers
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Change the page ten times a second, by a publish to its topic
    #[arg(long)]
    publish: bool,
    /// Bytes of the page
    #[arg(long, value_name = "BYTES", default_value_t = 1_024)]
    payload: usize,
    /// Duration of the measurement in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    match PeersCli::parse().command {
        PeersCommand::Load(args) => println!("{}", workload::run_load(&args)?),
        PeersCommand::Storm(args) => println!("{}", workload::run_storm(&args)?),
        PeersCommand::Reload(args) => println!("{}", reload::run(&args)?),
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

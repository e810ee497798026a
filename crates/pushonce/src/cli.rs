//! What a person types.

mod bench;
mod check_config;
mod cluster;
mod duration;
mod init;
mod namespace;
mod operator;
mod publish;
mod serve;
mod settings;
mod subscribe;
mod topic;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::demo;
use crate::node::membership::Expelled;

/// Publish once, and every viewer has it: a clustered broker for real-time push.
#[derive(Parser)]
#[command(name = "pushonce", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, one object a line, instead of text for people
    #[arg(long, global = true)]
    json: bool,
    /// What to log, as in `info` or `pushonce_relay=debug`
    #[arg(long, global = true, env = "PUSHONCE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Three nodes in one process, the World Cup 2026 replayed, and a page to watch it on
    Demo(demo::Args),
    /// Create a cluster: prepare the data directory of its first node, once, offline. Takes the
    /// settings of `serve`
    Init(settings::Settings),
    /// Run a node. Never creates a cluster: an empty data directory needs `init` once, --join, or --dev
    Serve(serve::Args),
    /// Publish one message, or every line of standard input
    Publish(publish::Args),
    /// Print the messages of topics as they come
    Subscribe(subscribe::Args),
    /// Look at a cluster
    Cluster(cluster::Args),
    /// What there is of topics, and how many watch them
    Topic(topic::Args),
    /// Settings of namespaces: how much history topics have, how large payloads may be
    Namespace(namespace::Args),
    /// Put load on a cluster and measure what comes of it
    Bench(bench::Args),
    /// Say what a node would run with, or what is wrong with it
    CheckConfig(settings::Settings),
}

/// What a node logs unless told otherwise: what an operator acts on. The consensus library tells
/// every step of every election of every shard.
const SERVING: &str = "info,openraft=error";

/// How a node ends that the cluster has no place for: to start it again is of no use. (`EX_NOPERM`.)
const EXPELLED: u8 = 77;

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            complain(&why);
            if why.is::<Expelled>() { EXPELLED.into() } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let usual = if matches!(cli.command, Command::Serve(_)) { SERVING } else { "error" };
    log(cli.log.as_deref().unwrap_or(usual), cli.json)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let json = cli.json;
    runtime.block_on(async {
        let shutdown = on_signal()?;
        match cli.command {
            Command::Demo(args) => demo::run(args, shutdown).await,
            Command::Init(settings) => init::run(settings, json).await,
            Command::Serve(args) => serve::run(args, shutdown).await,
            Command::Publish(args) => publish::run(args, json, shutdown).await,
            Command::Subscribe(args) => subscribe::run(args, json, shutdown).await,
            Command::Cluster(args) => cluster::run(args, json).await,
            Command::Topic(args) => topic::run(args, json).await,
            Command::Namespace(args) => namespace::run(args, json).await,
            Command::Bench(args) => bench::run(args, json, shutdown).await,
            Command::CheckConfig(args) => check_config::run(args, json),
        }
    })
}

/// Cancelled by Ctrl-C or SIGTERM; a second one ends the process at once.
fn on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancelled = token.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if cancelled.is_cancelled() {
                std::process::exit(130);
            }
            cancelled.cancel();
        }
    });
    Ok(token)
}

fn log(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|why| anyhow::anyhow!("--log {filter}: {why}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        log.json().init()
    } else {
        log.with_target(false).init()
    }
    Ok(())
}

#[allow(clippy::print_stderr)]
fn complain(why: &anyhow::Error) {
    eprintln!("pushonce: {why:#}");
}

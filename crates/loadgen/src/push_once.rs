//! `pushonce bench push-once`: the cost for a site to keep its viewers up to date, in four ways.
//!
//! The site is a separate process, so that its CPU usage can be measured separately. Only the costs of the
//! site count: moving the work to another process is the purpose, and the CPU usage of that process is
//! reported beside it.

mod node;
pub(super) mod origin;
mod report;
mod site;
mod viewers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use pushonce_instruments::ProcessMonitor;
use tokio_util::sync::CancellationToken;

use crate::progress;
use node::NodeProcess;
use report::{MethodCost, PushOnceReport};
use site::SiteProcess;
use viewers::{PollingViewers, StreamingViewers};

/// The number of viewers, and the page they view.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of viewers; several numbers, separated by commas, are measured in turn
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "100,1000,10000",
        value_parser = clap::value_parser!(u32).range(1..=18_000))]
    viewers: Vec<u32>,
    /// Number of page changes that each way is measured over
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    changes: u32,
    /// Number of polls of each viewer between two changes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    polls: u32,
    /// Bytes of the page that viewers reload
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    page: u32,
    /// Bytes of the part of the page that changes
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    state: u32,
    /// Also write a chart of the site's CPU usage to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// How viewers learn of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UpdateMethod {
    /// Each viewer reloads the page.
    Reload,
    /// Each viewer polls for changes.
    Poll,
    /// The site holds a connection to each viewer and writes to all of them.
    PushAll,
    /// The site publishes to Pushonce.
    PushOnce,
}

/// Maximum time of a run; a longer one hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn run(
    args: Args,
    program: PathBuf,
    shutdown: CancellationToken,
) -> anyhow::Result<PushOnceReport> {
    // Dropping the future ends every process that was started.
    let report = tokio::select! {
        measured = tokio::time::timeout(RUN_TIMEOUT, measure(&args, &program)) => {
            measured.context("not complete within ten minutes; use fewer viewers or changes")??
        }
        () = shutdown.cancelled() => bail!("interrupted; an incomplete comparison is not printed"),
    };
    if let Some(path) = &args.svg {
        std::fs::write(path, report.chart().svg()).with_context(|| path.display().to_string())?;
    }
    Ok(report)
}

async fn measure(args: &Args, program: &Path) -> anyhow::Result<PushOnceReport> {
    let mut rows = Vec::new();
    for &viewers in &args.viewers {
        for method in UpdateMethod::value_variants() {
            progress::print_line(&format!("{viewers} viewers, {}", method.name()));
            rows.push(measure_method(args, program, *method, viewers).await?);
        }
    }
    Ok(PushOnceReport {
        changes: args.changes,
        polls: args.polls,
        page: args.page,
        state: args.state,
        rows,
    })
}

/// Measures one way with a number of viewers, in separate processes.
async fn measure_method(
    args: &Args,
    program: &Path,
    method: UpdateMethod,
    viewers: u32,
) -> anyhow::Result<MethodCost> {
    let node = match method {
        UpdateMethod::PushOnce => Some(NodeProcess::start(program).await?),
        UpdateMethod::Reload | UpdateMethod::Poll | UpdateMethod::PushAll => None,
    };
    let node = node.as_ref();
    let publish_to = node.map(|node| node.http);
    let mut site = SiteProcess::start(program, args.page, args.state, publish_to).await?;
    let mut connected_viewers =
        ConnectedViewers::connect(method, site.address, node, viewers).await?;
    let node_pid: Vec<u32> = node.map(|node| node.pid).into_iter().collect();

    let (monitor, before) = (ProcessMonitor::start(&node_pid)?, site.counters().await?);
    for nth in 1..=args.changes {
        site.change().await?;
        connected_viewers.wait_for_change(method, args.polls, nth).await?;
    }
    let after = site.counters().await?;
    let node_cpu = monitor.usage().servers_cpu();
    let per_change = |after: u64, before: u64| (after - before) as f64 / f64::from(args.changes);
    Ok(MethodCost {
        method,
        viewers,
        requests: per_change(after.requests, before.requests),
        bytes: per_change(after.bytes, before.bytes),
        cpu_ms: per_change(after.cpu_nanos, before.cpu_nanos) / 1e6,
        node_cpu_ms: node_cpu.as_secs_f64() * 1e3 / f64::from(args.changes),
    })
}

/// Viewers that poll, or viewers that receive a stream.
enum ConnectedViewers {
    Polling(PollingViewers),
    Streaming(StreamingViewers),
}

impl ConnectedViewers {
    async fn connect(
        method: UpdateMethod,
        site: SocketAddr,
        node: Option<&NodeProcess>,
        viewers: u32,
    ) -> anyhow::Result<ConnectedViewers> {
        Ok(match method {
            UpdateMethod::Reload => {
                ConnectedViewers::Polling(PollingViewers::connect(site, "/page", viewers).await?)
            }
            UpdateMethod::Poll => {
                ConnectedViewers::Polling(PollingViewers::connect(site, "/state", viewers).await?)
            }
            UpdateMethod::PushAll => {
                ConnectedViewers::Streaming(viewers::connect_to_site(site, viewers).await?)
            }
            UpdateMethod::PushOnce => {
                let node = node.context("a node is running for this method")?;
                ConnectedViewers::Streaming(viewers::connect_to_node(node.http, viewers).await?)
            }
        })
    }

    /// Waits until every viewer has received change `nth`.
    async fn wait_for_change(
        &mut self,
        method: UpdateMethod,
        polls: u32,
        change_number: u32,
    ) -> anyhow::Result<()> {
        match self {
            ConnectedViewers::Polling(polling) => {
                for _ in 0..if method == UpdateMethod::Poll { polls } else { 1 } {
                    polling.poll_all().await?;
                }
                Ok(())
            }
            ConnectedViewers::Streaming(streaming) => {
                streaming.wait_until_received(change_number).await
            }
        }
    }
}

impl UpdateMethod {
    fn name(self) -> &'static str {
        match self {
            UpdateMethod::Reload => "everyone reloads",
            UpdateMethod::Poll => "everyone polls",
            UpdateMethod::PushAll => "the site pushes to everyone",
            UpdateMethod::PushOnce => "the site publishes once",
        }
    }
}

//! `pushonce bench push-once`: what it costs a site to keep its viewers up to date, in four ways.
//!
//! The site is a process of its own, so that its CPU can be told from everybody else's. What is counted
//! is the site's alone: that somebody else then does the work is the point, and what that one paid is
//! told beside it.

mod node;
pub(super) mod origin;
mod report;
mod site;
mod viewers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use crate::instruments::Watch;
use crate::output;
use node::Node;
use report::{Cost, Report};
use site::Site;
use viewers::{Askers, Listeners};

/// How many viewers, and what they look at.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Viewers, with commas between the numbers to be measured in turn
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "100,1000,10000",
        value_parser = clap::value_parser!(u32).range(1..=18_000))]
    viewers: Vec<u32>,
    /// Changes of the page that each way is measured over
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    changes: u32,
    /// How often a viewer that polls asks between two changes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    polls: u32,
    /// Bytes of the page, for those who load it anew
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    page: u32,
    /// Bytes of what changes in it, for all the others
    #[arg(long, value_name = "BYTES", default_value_t = 300, value_parser = clap::value_parser!(u32).range(64..=65_536))]
    state: u32,
    /// Also draw the site's CPU into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// How viewers come to know of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// Each loads the page anew.
    Reload,
    /// Each asks again and again whether there is anything new.
    Poll,
    /// The site holds a connection to each and writes to all of them.
    PushAll,
    /// The site publishes to Pushonce.
    PushOnce,
}

/// A run that takes longer does not end by itself.
const LONGEST: Duration = Duration::from_secs(600);

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<Report> {
    // Dropping it ends every process that was started.
    let report = tokio::select! {
        measured = tokio::time::timeout(LONGEST, measure(&args)) => {
            measured.context("not done within ten minutes; ask for fewer viewers or changes")??
        }
        () = shutdown.cancelled() => bail!("interrupted; there is no half of this comparison"),
    };
    if let Some(path) = &args.svg {
        std::fs::write(path, report.chart().svg()).with_context(|| path.display().to_string())?;
    }
    Ok(report)
}

async fn measure(args: &Args) -> anyhow::Result<Report> {
    let mut rows = Vec::new();
    for &viewers in &args.viewers {
        for way in Way::value_variants() {
            tell(&format!("{viewers} viewers, {}", way.name()));
            rows.push(cost(args, *way, viewers).await?);
        }
    }
    Ok(Report {
        changes: args.changes,
        polls: args.polls,
        page: args.page,
        state: args.state,
        rows,
    })
}

/// One way with so many viewers, in processes of its own.
async fn cost(args: &Args, way: Way, viewers: u32) -> anyhow::Result<Cost> {
    let node = if way == Way::PushOnce { Some(Node::start().await?) } else { None };
    let node = node.as_ref();
    let mut site = Site::start(args.page, args.state, node.map(|node| node.http)).await?;
    let mut audience = Audience::gather(way, site.address, node, viewers).await?;
    let node_pid: Vec<u32> = node.map(|node| node.pid).into_iter().collect();

    let (watch, before) = (Watch::begin(&node_pid)?, site.told().await?);
    for nth in 1..=args.changes {
        site.change().await?;
        audience.learn(way, args.polls, nth).await?;
    }
    let after = site.told().await?;
    let elsewhere = watch.end().servers_cpu();
    let each = |after: u64, before: u64| (after - before) as f64 / f64::from(args.changes);
    Ok(Cost {
        way,
        viewers,
        requests: each(after.requests, before.requests),
        bytes: each(after.bytes, before.bytes),
        cpu_ms: each(after.cpu_nanos, before.cpu_nanos) / 1e6,
        elsewhere_ms: elsewhere.as_secs_f64() * 1e3 / f64::from(args.changes),
    })
}

/// Viewers that ask, or viewers that are told.
enum Audience {
    Ask(Askers),
    Listen(Listeners),
}

impl Audience {
    async fn gather(
        way: Way,
        site: SocketAddr,
        node: Option<&Node>,
        viewers: u32,
    ) -> anyhow::Result<Audience> {
        Ok(match way {
            Way::Reload => Audience::Ask(Askers::gather(site, "/page", viewers).await?),
            Way::Poll => Audience::Ask(Askers::gather(site, "/state", viewers).await?),
            Way::PushAll => Audience::Listen(viewers::of_site(site, viewers).await?),
            Way::PushOnce => {
                let node = node.context("a node was started for this way")?;
                Audience::Listen(viewers::of_node(node.http, viewers).await?)
            }
        })
    }

    /// Returns when everybody knows of change `nth`.
    async fn learn(&mut self, way: Way, polls: u32, nth: u32) -> anyhow::Result<()> {
        match self {
            Audience::Ask(askers) => {
                for _ in 0..if way == Way::Poll { polls } else { 1 } {
                    askers.ask().await?;
                }
                Ok(())
            }
            Audience::Listen(listeners) => listeners.heard(nth).await,
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Reload => "everyone reloads",
            Way::Poll => "everyone polls",
            Way::PushAll => "the site pushes to everyone",
            Way::PushOnce => "the site publishes once",
        }
    }
}

fn tell(text: &str) {
    output::notice(text);
}

//! The demo on real nodes: three of them, in this process, that talk over loopback as nodes on
//! different machines do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::{Publisher, Server};
use pushonce_core::{ContentType, Publish};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::report::{self, Report};
use super::viewers::Viewers;
use super::{Event, LIVE, Speed, Step, Tournament, schedule, script};
use crate::config::{Config, Partial, Time};
use crate::{Node, node};

/// How fast, how often, and on which ports.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Times as fast as the whole tournament in five minutes
    #[arg(long, default_value = "1", value_parser = str::parse::<Speed>)]
    speed: Speed,
    /// End when the tournament is over
    #[arg(long, conflicts_with = "loop")]
    once: bool,
    /// Begin again when the tournament is over
    #[arg(long = "loop")]
    r#loop: bool,
    /// Add this to every port
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u16,
}

const NODES: u16 = 3;
/// Between the ports of one node and the next.
const STRIDE: u16 = 100;
/// How long the first publish may take: the cluster forms in it.
const FORMING_MAX: Duration = Duration::from_secs(20);

/// Runs the demo until it is over or `shutdown`.
///
/// # Errors
/// What cannot be had, such as a port, and what to change.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let steps = schedule(script(&Tournament::embedded()?), args.speed);
    let home = Home::new()?;
    let begun = Instant::now();
    // The nodes outlive the wish to stop: first the replay ends, then they do.
    let stop = CancellationToken::new();
    let mut nodes = start(&args, &home, &stop).await?;
    let publisher = Publisher::new(servers(&args, 2)?);
    let mut report = Report::new(begun);

    let ended = tokio::select! {
        ended = play(&args, &steps, &publisher, &mut report) => ended,
        ended = nodes.join_next() => match ended {
            Some(Ok(Err(why))) => Err(why),
            _ => Err(anyhow::anyhow!("a node ended by itself")),
        },
        () = shutdown.cancelled() => Ok(()),
    };
    stop.cancel();
    while let Some(node) = nodes.join_next().await {
        node.context("a node")??;
    }
    ended?;
    report::say(&report.text());
    Ok(())
}

async fn start(
    args: &Args,
    home: &Home,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let metrics = node::metrics()?;
    let mut nodes = JoinSet::new();
    for index in 0..NODES {
        let config = config(args, home, index)?;
        if index == 0 {
            node::init(&config).await?;
        }
        // Every node joins through the first, which must be up before they ask.
        let node = Node::build(config, pushonce_console::demo(), metrics.clone(), stop)
            .await
            .with_context(|| {
                format!("node {}; or run the demo on other ports, with --offset 1000", index + 1)
            })?;
        nodes.spawn(node.run(stop.clone()));
    }
    Ok(nodes)
}

fn config(args: &Args, home: &Home, index: u16) -> anyhow::Result<Config> {
    let ports = ports(args, index)?.map(|port| ([127, 0, 0, 1], port).into());
    let [http, quic, grpc, peer] = ports.map(Some);
    let first = format!("127.0.0.1:{}", self::ports(args, 0)?[3]);
    let name = format!("n{}", index + 1);
    let flags = Partial {
        data: Some(home.0.join(&name)),
        name: Some(name),
        http,
        quic,
        grpc,
        peer,
        join: (index > 0).then(|| vec![first]),
        lanes: Some(1),
        // All nodes end together: no other one waits for their viewers.
        shutdown_grace: Some(Time(Duration::ZERO)),
        ..Partial::default()
    };
    Ok(Config::resolve(flags, Partial::default(), Partial::default())?)
}

fn ports(args: &Args, index: u16) -> anyhow::Result<[u16; 4]> {
    let fits = |port: u16| port.checked_add(index * STRIDE)?.checked_add(args.offset);
    let [http, quic, grpc, peer] = Config::PORTS.map(fits);
    (|| Some([http?, quic?, grpc?, peer?]))().context("--offset is too large for a port")
}

/// The `which`th door of every node, as addresses of clients.
fn servers(args: &Args, which: usize) -> anyhow::Result<Vec<Server>> {
    let scheme = if which == 1 { "quic" } else { "http" };
    let address = |index| {
        let port = ports(args, index)?[which];
        Ok(format!("{scheme}://127.0.0.1:{port}").parse::<Server>()?)
    };
    (0..NODES).map(address).collect()
}

/// Publishes the first event, which is when the cluster has formed, says where to look, and plays.
async fn play(
    args: &Args,
    steps: &[Step],
    publisher: &Publisher,
    report: &mut Report,
) -> anyhow::Result<()> {
    let first = steps.first().context("a tournament without matches")?;
    let formed = async {
        while report.placed() == 0 {
            publish(&first.event, publisher, report).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FORMING_MAX, formed)
        .await
        .context("the cluster did not form in time")??;
    report.formed = report.begun.elapsed();
    let addresses: Vec<_> = (0..NODES).map(|index| ports(args, index)).collect::<Result<_, _>>()?;
    report::say(&report::welcome(&addresses, report.formed));
    let doors = [servers(args, 0)?, servers(args, 1)?, servers(args, 2)?];
    report.viewers = Viewers::start(&doors)?;
    let mut played = 1;
    loop {
        let begun = Instant::now();
        for step in &steps[played..] {
            tokio::time::sleep_until(begun + step.after).await;
            publish(&step.event, publisher, report).await?;
        }
        played = 0;
        if args.once {
            return report.viewers.caught_up(report.live).await;
        }
        if !args.r#loop {
            report::say("The tournament is over; the pages stay. Ctrl-C ends, --loop plays on.\n");
            std::future::pending::<()>().await;
        }
    }
}

/// Publishes the messages of an event. One that is refused or unknown is counted and the demo goes
/// on: it shows what a publisher sees, also when a node is in trouble.
async fn publish(event: &Event, publisher: &Publisher, report: &mut Report) -> anyhow::Result<()> {
    for (topic, payload) in event.messages(super::now_ms())? {
        let live = topic.as_str() == LIVE;
        let publish =
            Publish { topic, content_type: ContentType::Json, key: None, stamp: None, payload };
        let asked = Instant::now();
        match publisher.publish(publish).await {
            Ok(_) => report.acknowledged(asked.elapsed(), live),
            Err(why) => {
                report.failed += 1;
                tracing::warn!("{why}");
            }
        }
    }
    Ok(())
}

/// The data of the demo: a directory of its own, gone at the end.
struct Home(PathBuf);

impl Home {
    fn new() -> anyhow::Result<Home> {
        let path = std::env::temp_dir().join(format!("pushonce-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Home(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(why) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %why, "the demo's data stays");
        }
    }
}

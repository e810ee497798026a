//! Runs the demo on three nodes in this process, which talk over loopback as nodes on different machines
//! would.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::{Publisher, ServerAddress};
use pushonce_core::{ContentType, Publish};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::report::{self, DemoReport};
use super::viewers::DemoViewers;
use super::{LIVE, MatchEvent, ReplayStep, Speed, Tournament, build_events, schedule};
use crate::config::{Config, HumanDuration, Settings};
use crate::{Node, metrics, node};

/// The speed, the repetition and the ports of the demo.
#[derive(clap::Args, Clone)]
pub struct Args {
    /// Speed relative to replaying the whole tournament in five minutes
    #[arg(long, default_value = "1", value_parser = str::parse::<Speed>)]
    speed: Speed,
    /// Exit when the tournament is over
    #[arg(long, conflicts_with = "loop")]
    once: bool,
    /// Start again when the tournament is over
    #[arg(long = "loop")]
    r#loop: bool,
    /// Number to add to every port
    #[arg(long, value_name = "N", default_value_t = 0)]
    offset: u16,
}

const NODES: u16 = 3;
/// Distance between the ports of two nodes.
const PORT_STRIDE: u16 = 100;
/// Timeout of the first publish, during which the cluster forms.
const FORMING_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the demo until it is over or `shutdown` is cancelled.
///
/// # Errors
/// When a resource such as a port is not available; the error says what to change.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let steps = schedule(build_events(&Tournament::embedded()?), args.speed);
    let demo_dir = DemoDir::new()?;
    let started_at = Instant::now();
    // The nodes outlive `shutdown`: the replay ends first, then the nodes.
    let stop = CancellationToken::new();
    let mut nodes = start_nodes(&args, &demo_dir, &stop).await?;
    let publisher = Publisher::new(servers(&args, 2)?);
    let mut report = DemoReport::new(started_at);

    let result = tokio::select! {
        replay_result = replay(&args, &steps, &publisher, &mut report) => replay_result,
        ended = nodes.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            _ => Err(anyhow::anyhow!("a node ended unexpectedly")),
        },
        () = shutdown.cancelled() => Ok(()),
    };
    stop.cancel();
    while let Some(node) = nodes.join_next().await {
        node.context("a node failed")??;
    }
    result?;
    report::print(&report.text());
    Ok(())
}

async fn start_nodes(
    args: &Args,
    demo_dir: &DemoDir,
    stop: &CancellationToken,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let metrics = metrics::install_recorder()?;
    let mut nodes = JoinSet::new();
    for index in 0..NODES {
        let config = node_config(args, demo_dir, index)?;
        if index == 0 {
            node::init(&config).await?;
        }
        // Every other node joins through the first, which must be up before.
        let node = Node::build(config, pushonce_console::demo(), metrics.clone(), stop)
            .await
            .with_context(|| {
                format!("node {}; or run the demo on other ports, with --offset 1000", index + 1)
            })?;
        nodes.spawn(node.run(stop.clone()));
    }
    Ok(nodes)
}

fn node_config(args: &Args, demo_dir: &DemoDir, index: u16) -> anyhow::Result<Config> {
    let [http, quic, grpc, peer] =
        node_ports(args, index)?.map(|port| ([127, 0, 0, 1], port).into());
    let first = format!("127.0.0.1:{}", self::node_ports(args, 0)?[3]);
    let name = format!("n{}", index + 1);
    let settings = Settings {
        data: Some(demo_dir.0.join(&name)),
        name: Some(name),
        http,
        quic,
        grpc,
        peer,
        join: if index > 0 { vec![first] } else { Vec::new() },
        lanes: Some(1),
        // All nodes stop together, so there is no other node for their clients.
        shutdown_grace: HumanDuration(Duration::ZERO),
        ..Settings::default()
    };
    Ok(Config::resolve(settings)?)
}

fn node_ports(args: &Args, index: u16) -> anyhow::Result<[u16; 4]> {
    let shifted = |port: u16| port.checked_add(index * PORT_STRIDE)?.checked_add(args.offset);
    let [http, quic, grpc, peer] = Config::DEFAULT_PORTS.map(shifted);
    (|| Some([http?, quic?, grpc?, peer?]))().context("--offset is too large for a port")
}

/// The addresses of one listener of every node.
fn servers(args: &Args, listener_index: usize) -> anyhow::Result<Vec<ServerAddress>> {
    let scheme = if listener_index == 1 { "quic" } else { "http" };
    let address = |index| {
        let port = node_ports(args, index)?[listener_index];
        Ok(format!("{scheme}://127.0.0.1:{port}").parse::<ServerAddress>()?)
    };
    (0..NODES).map(address).collect()
}

/// Publishes the first event, which completes when the cluster has formed, and replays the rest.
async fn replay(
    args: &Args,
    steps: &[ReplayStep],
    publisher: &Publisher,
    report: &mut DemoReport,
) -> anyhow::Result<()> {
    let first = steps.first().context("a tournament without matches")?;
    let first_publish = async {
        while report.acknowledged_count() == 0 {
            publish(&first.event, publisher, report).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FORMING_TIMEOUT, first_publish)
        .await
        .context("the cluster did not form in time")??;
    report.time_to_form = report.started_at.elapsed();
    let addresses: Vec<_> =
        (0..NODES).map(|index| node_ports(args, index)).collect::<Result<_, _>>()?;
    report::print(&report::welcome_text(&addresses, report.time_to_form));
    let servers_by_transport = [servers(args, 0)?, servers(args, 1)?, servers(args, 2)?];
    report.viewers = DemoViewers::start(&servers_by_transport)?;
    let mut played = 1;
    loop {
        let loop_start = Instant::now();
        for step in &steps[played..] {
            tokio::time::sleep_until(loop_start + step.after).await;
            publish(&step.event, publisher, report).await?;
        }
        played = 0;
        if args.once {
            return report.viewers.wait_until_caught_up(report.live_acknowledged).await;
        }
        if !args.r#loop {
            report::print(
                "The tournament is over; the pages stay up. Ctrl-C stops the demo, --loop repeats it.\n",
            );
            std::future::pending::<()>().await;
        }
    }
}

/// Publishes the messages of an event. A rejected or unknown one is counted and the demo continues: it shows
/// what a publisher sees, also when a node is down.
async fn publish(
    event: &MatchEvent,
    publisher: &Publisher,
    report: &mut DemoReport,
) -> anyhow::Result<()> {
    for (topic, payload) in event.messages(super::now_ms())? {
        let is_live_topic = topic.as_str() == LIVE;
        let publish = Publish {
            topic,
            content_type: ContentType::Json,
            key: None,
            publish_id: None,
            payload,
        };
        let start = Instant::now();
        match publisher.publish(publish).await {
            Ok(_) => report.on_acknowledged(start.elapsed(), is_live_topic),
            Err(error) => {
                report.failed += 1;
                tracing::warn!("{error}");
            }
        }
    }
    Ok(())
}

/// The data directory of the demo, which is deleted at the end.
struct DemoDir(PathBuf);

impl DemoDir {
    fn new() -> anyhow::Result<DemoDir> {
        let path = std::env::temp_dir().join(format!("pushonce-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(DemoDir(path))
    }
}

impl Drop for DemoDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the demo's data stays");
        }
    }
}

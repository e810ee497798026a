//! Runs the demo: starts the nodes, replays the tournament, and reports.

use std::time::Duration;

use anyhow::Context as _;
use pushonce_client::Publisher;
use pushonce_core::{ContentType, Publish};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::nodes::{self, NodePorts, NodeSpec};
use crate::report::{DemoReport, welcome_text};
use crate::schedule::{ReplayStep, Speed, schedule};
use crate::script::{MatchEvent, build_events};
use crate::tournament::{LIVE, Tournament};
use crate::viewers::DemoViewers;

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

/// Timeout of the first publish, during which the cluster forms.
const FORMING_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs the demo until it is over or `shutdown` is cancelled. `start_node` starts a node and returns the
/// future that runs it until its token is cancelled; `print` shows a text to the user.
///
/// # Errors
/// When a resource such as a port is not available; the error says what to change.
pub async fn run<N>(
    args: Args,
    start_node: impl AsyncFn(NodeSpec, CancellationToken) -> anyhow::Result<N>,
    print: impl Fn(&str),
    shutdown: CancellationToken,
) -> anyhow::Result<()>
where
    N: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let steps = schedule(build_events(&Tournament::embedded()?), args.speed);
    let ports = NodePorts::for_all_nodes(args.offset)?;
    let data = tempfile::Builder::new().prefix("pushonce-demo.").tempdir()?;
    let mut report = DemoReport::new(Instant::now());
    // The nodes outlive `shutdown`: the replay ends first, then the nodes.
    let stop = CancellationToken::new();
    let mut nodes = JoinSet::new();
    for (number, spec) in (1..).zip(nodes::specs(&ports, data.path())) {
        // Every other node joins through the first, which must be up before.
        let context = format!("node {number}; or run the demo on other ports, with --offset 1000");
        nodes.spawn(start_node(spec, stop.clone()).await.context(context)?);
    }
    let servers = ports.iter().map(|ports| ports.grpc_server()).collect::<Result<Vec<_>, _>>()?;
    let publisher = Publisher::new(servers)?;
    let replayed = async {
        form_cluster(&steps, &publisher, &mut report).await?;
        print(&welcome_text(&ports, report.time_to_form));
        report.viewers = DemoViewers::start(&ports)?;
        replay(&args, &steps, &publisher, &mut report, &print).await
    };
    let result = tokio::select! {
        replay_result = replayed => replay_result,
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
    print(&report.text());
    Ok(())
}

/// Publishes the first event until it is acknowledged, which is when the cluster has formed.
async fn form_cluster(
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
    Ok(())
}

/// Publishes all events but the first, which formed the cluster. Ends only with `--once`.
async fn replay(
    args: &Args,
    steps: &[ReplayStep],
    publisher: &Publisher,
    report: &mut DemoReport,
    print: &impl Fn(&str),
) -> anyhow::Result<()> {
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
            print(
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
    for (topic, payload) in event.messages(crate::now_ms())? {
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

//! Runs the demo: starts the nodes, replays the tournament, and reports.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::control::{DemoControl, NodeCommand, NodeStatus};
use crate::nodes::{self, NodePorts, NodeSpec};
use crate::replay::Replay;
use crate::report::welcome_text;
use crate::schedule::{Speed, schedule};
use crate::script::build_events;
use crate::supervisor::{NodeSignals, StartedNode, Supervisor};
use crate::tournament::Tournament;
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

/// A demo that does not run yet.
pub struct Demo {
    args: Args,
    ports: Vec<NodePorts>,
    control: DemoControl,
    commands: mpsc::Receiver<NodeCommand>,
    statuses: watch::Sender<Arc<[NodeStatus]>>,
}

impl Demo {
    /// Prepares a demo.
    ///
    /// # Errors
    /// When a port would exceed 65535.
    pub fn new(args: Args) -> anyhow::Result<Demo> {
        let ports = NodePorts::for_all_nodes(args.offset)?;
        let (statuses, receiver) = watch::channel(nodes::starting(&ports));
        let (control, commands) = DemoControl::new(receiver);
        Ok(Demo { args, ports, control, commands, statuses })
    }

    /// The control of the nodes, for the page.
    pub fn control(&self) -> DemoControl {
        self.control.clone()
    }

    /// Runs the demo until it is over or `shutdown` is cancelled. `start_node` starts a node; `print` shows
    /// a text to the user.
    ///
    /// # Errors
    /// When a resource such as a port is not available; the error says what to change.
    pub async fn run(
        self,
        start_node: impl AsyncFn(NodeSpec, NodeSignals) -> anyhow::Result<StartedNode>,
        print: impl Fn(&str),
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let Demo { args, ports, commands, statuses, control: _ } = self;
        let tournament = Tournament::embedded()?;
        let steps = schedule(build_events(&tournament), args.speed);
        let data = tempfile::Builder::new().prefix("pushonce-demo.").tempdir()?;
        let servers = ports.iter().map(|ports| ports.grpc_server()).collect::<Result<_, _>>()?;
        let mut replay = Replay::new(tournament, steps, servers)?;
        let specs = nodes::specs(&ports, data.path());
        // The nodes outlive `shutdown`: the replay ends first, then the nodes.
        let mut supervisor = Supervisor::start(start_node, specs, commands, statuses).await?;
        let replayed = async {
            replay.form_cluster().await?;
            print(&welcome_text(&ports, replay.report.time_to_form));
            replay.report.viewers = DemoViewers::start(&ports)?;
            play(&args, &mut replay, &print).await
        };
        let result = tokio::select! {
            result = replayed => result,
            error = supervisor.run() => Err(error),
            () = shutdown.cancelled() => Ok(()),
        };
        supervisor.shut_down().await?;
        result?;
        print(&replay.report.text());
        Ok(())
    }
}

/// Plays the tournament. Ends only with `--once`.
async fn play(args: &Args, replay: &mut Replay, print: &impl Fn(&str)) -> anyhow::Result<()> {
    loop {
        replay.play().await?;
        if args.once {
            return replay
                .report
                .viewers
                .wait_until_caught_up(replay.report.live_acknowledged)
                .await;
        }
        if !args.r#loop {
            print(
                "The tournament is over; the pages stay up. Ctrl-C stops the demo, --loop repeats it.\n",
            );
            std::future::pending::<()>().await;
        }
    }
}

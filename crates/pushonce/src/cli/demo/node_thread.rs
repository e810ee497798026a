//! A node of the demo with a runtime of its own, which ends at once when the node is stopped.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_demo::{NodePorts, NodeSignals, NodeSpec, StartedNode};
use pushonce_gateway::Pages;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::control_pages::NodeReaders;
use crate::config::{Config, HumanDuration, Settings};
use crate::{Node, node};

/// Threads of the runtime of a node, beside its lane and its log.
const WORKER_THREADS: usize = 2;

/// Time for blocking work of a node that has ended, such as a write to the disk.
const BLOCKING_WORK_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which a node that starts is asked whether it serves.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// What a node of the demo runs with.
pub(super) struct NodeThread {
    pub(super) spec: NodeSpec,
    pub(super) signals: NodeSignals,
    /// The origins of the pages of all nodes.
    pub(super) origins: Vec<String>,
    pub(super) pages: Pages,
    pub(super) metrics: PrometheusHandle,
    pub(super) readers: NodeReaders,
}

impl NodeThread {
    /// Starts the node. Returns when its ports are bound.
    ///
    /// # Errors
    /// When a resource such as a port is not available; the error says what to change.
    pub(super) async fn start(self) -> anyhow::Result<StartedNode> {
        let (built_sender, built) = oneshot::channel();
        let (ready_sender, ready) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name(&self.spec.name)
            .enable_all()
            .build()?;
        thread::Builder::new().name(self.spec.name.clone()).spawn(move || {
            let result = self.run(&runtime, built_sender, ready_sender);
            // Every task of the node ends here, whatever it was doing.
            runtime.shutdown_timeout(BLOCKING_WORK_TIMEOUT);
            // Fails only when the demo has ended.
            let _ = ended_sender.send(result);
        })?;
        if built.await.is_err() {
            // The node ended before its ports were bound.
            ended.await.context("the thread of the node failed")??;
            anyhow::bail!("the node ended while it started");
        }
        Ok(StartedNode {
            ended: Box::pin(async { ended.await.context("the thread of the node failed")? }),
            ready: Box::pin(async {
                let _ = ready.await;
            }),
        })
    }

    fn run(
        self,
        runtime: &Runtime,
        built: oneshot::Sender<()>,
        ready: oneshot::Sender<()>,
    ) -> anyhow::Result<()> {
        let NodeThread { spec, signals, origins, pages, metrics, readers } = self;
        let name = spec.name.clone();
        let result = runtime.block_on(async {
            let creates_cluster = spec.is_new && spec.join.is_none();
            let config = node_config(spec, origins)?;
            if creates_cluster {
                node::init(&config).await?;
            }
            let node = Node::build(config, pages, metrics, &signals.shutdown).await?;
            let reader = node.reader();
            readers.insert(&name, reader.clone());
            let _ = built.send(());
            tokio::spawn(async move {
                while !reader.is_ready() {
                    tokio::time::sleep(READY_INTERVAL).await;
                }
                let _ = ready.send(());
            });
            node.run_until_crash(signals.shutdown, signals.crash).await
        });
        readers.remove(&name);
        result
    }
}

fn node_config(spec: NodeSpec, origins: Vec<String>) -> anyhow::Result<Config> {
    let NodePorts { http, quic, grpc, peer } = spec.ports;
    let [http, quic, grpc, peer] =
        [http, quic, grpc, peer].map(|port| ([127, 0, 0, 1], port).into());
    let settings = Settings {
        data: Some(spec.data),
        name: Some(spec.name),
        http,
        quic,
        grpc,
        peer,
        origins,
        join: spec.join.into_iter().collect(),
        lanes: Some(1),
        // At the end of the demo all nodes stop together: there is no other node for their clients.
        shutdown_grace: HumanDuration(Duration::ZERO),
        ..Settings::default()
    };
    Ok(Config::resolve(settings)?)
}

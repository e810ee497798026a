//! `pushonce demo`: runs the nodes of the demo in this process.

use std::time::Duration;

use pushonce_demo::{Args, NodePorts, NodeSpec};
use pushonce_gateway::Pages;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, HumanDuration, Settings};
use crate::{Node, metrics, node, output};

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let metrics = metrics::install_recorder()?;
    let start_node = async |spec: NodeSpec, stop: CancellationToken| {
        let creates_cluster = spec.join.is_none();
        let config = node_config(spec)?;
        if creates_cluster {
            node::init(&config).await?;
        }
        let node = Node::build(config, demo_pages(), metrics.clone(), &stop).await?;
        anyhow::Ok(node.run(stop))
    };
    // The pages show the same, so the demo continues without a terminal.
    let print = |text: &str| {
        let _ = output::write_text(text);
    };
    pushonce_demo::run(args, start_node, print, shutdown).await
}

/// The files of the scoreboard, which contain no data.
fn demo_pages() -> Pages {
    Pages::new().files(pushonce_console::demo())
}

fn node_config(spec: NodeSpec) -> anyhow::Result<Config> {
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
        join: spec.join.into_iter().collect(),
        lanes: Some(1),
        // All nodes stop together, so there is no other node for their clients.
        shutdown_grace: HumanDuration(Duration::ZERO),
        ..Settings::default()
    };
    Ok(Config::resolve(settings)?)
}

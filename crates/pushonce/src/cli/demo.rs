//! `pushonce demo`: runs the nodes of the demo in this process.

mod control_pages;
mod node_thread;

use std::time::Instant;

use pushonce_demo::{Args, Demo, NodeSignals, NodeSpec, NodeStatus};
use pushonce_gateway::Pages;
use tokio_util::sync::CancellationToken;

use control_pages::{ControlPages, NodeReaders};
use node_thread::NodeThread;

use crate::{metrics, output};

pub(super) async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let demo = Demo::new(args)?;
    let metrics = metrics::install_recorder()?;
    let readers = NodeReaders::default();
    let nodes = demo.control().nodes();
    let control = ControlPages {
        control: demo.control(),
        readers: readers.clone(),
        metrics: metrics.clone(),
        started_at: Instant::now(),
    };
    let reachable = origins(&nodes, &["http", "ws"], |node| node.http).chain(origins(
        &nodes,
        &["https"],
        |node| node.quic,
    ));
    let files = pushonce_console::demo(&reachable.collect::<Vec<_>>());
    let pages = Pages::new().files(files).merge(control.pages());
    let origins: Vec<String> = origins(&nodes, &["http"], |node| node.http).collect();
    let start_node = async |spec: NodeSpec, signals: NodeSignals| {
        let thread = NodeThread {
            spec,
            signals,
            origins: origins.clone(),
            pages: pages.clone(),
            metrics: metrics.clone(),
            readers: readers.clone(),
        };
        thread.start().await
    };
    // The pages show the same, so the demo continues without a terminal.
    let print = |text: &str| {
        let _ = output::write_text(text);
    };
    demo.run(start_node, print, shutdown).await
}

/// The origins under which a browser on this machine knows a port of the nodes.
fn origins<'a>(
    nodes: &'a [NodeStatus],
    schemes: &'a [&str],
    port: fn(&NodeStatus) -> u16,
) -> impl Iterator<Item = String> + 'a {
    let hosts = move |node| ["127.0.0.1", "localhost"].map(|name| (name, port(node)));
    let with_scheme =
        move |(name, port)| schemes.iter().map(move |scheme| format!("{scheme}://{name}:{port}"));
    nodes.iter().flat_map(hosts).flat_map(with_scheme)
}

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
    let hosts = hosts(&demo.control().nodes());
    let control = ControlPages {
        control: demo.control(),
        readers: readers.clone(),
        metrics: metrics.clone(),
        started_at: Instant::now(),
    };
    let pages = Pages::new().files(pushonce_console::demo(&hosts)).merge(control.pages());
    let origins: Vec<String> = hosts.iter().map(|host| format!("http://{host}")).collect();
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

/// The hosts under which a browser on this machine knows the nodes.
fn hosts(nodes: &[NodeStatus]) -> Vec<String> {
    let names = ["127.0.0.1", "localhost"];
    let of_node = |node: &NodeStatus| names.map(|name| format!("{name}:{}", node.http));
    nodes.iter().flat_map(of_node).collect()
}

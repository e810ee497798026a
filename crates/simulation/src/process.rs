//! The process of a node on its host: what `pushonce serve` does.

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce::{Config, Node, Pages};
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use crate::kernel;

/// The exit status of a node that ended with an error.
const EXIT_FAILURE: i32 = 1;

/// Runs a node until it is requested to shut down; the process ends with it. `creates_cluster` when an empty
/// directory becomes that of the first node.
pub(crate) fn run_node(config: Config, creates_cluster: bool, metrics: PrometheusHandle) {
    let shutdown = CancellationToken::new();
    let request = shutdown.clone();
    std::thread::spawn(move || {
        kernel::wait_for_signal();
        request.cancel();
    });
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs no more than a simulated process has");
    let ended = runtime.block_on(async {
        if creates_cluster && !config.data.join("identity.json").exists() {
            pushonce::init(&config).await?;
        }
        let node = Node::build(config, Pages::new(), metrics, &shutdown).await?;
        node.run(shutdown).await
    });
    let status = match ended {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "node ended");
            EXIT_FAILURE
        }
    };
    kernel::exit_here(status);
}

//! The running relay.

use std::sync::Arc;
use pushonce_core::ClusterView;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use crate::{Config, Handle, Sink, Source};

/// To be run.
pub struct Relay {
}

impl Relay {
    /// A relay and the handle to it.
    pub fn new(
        config: Config,
        view: watch::Receiver<Arc<ClusterView>>,
        source: Arc<dyn Source>,
        sink: Arc<dyn Sink>,
    ) -> (Relay, Handle) { let _ = (config, view, source, sink); unimplemented!() }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) { let _ = shutdown; }
}

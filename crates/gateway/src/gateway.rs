//! All doors together.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pushonce_core::ClusterView;
use pushonce_fanout::Hub;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::http::{self, HttpState};
use crate::lane::{self, LaneParts};
use crate::metrics;
use crate::{
    Admission, AudienceSource, BindError, Certificate, Config, LaneWatchdog, MemoryUse, Publisher,
    bind, quic,
};

/// What is behind the doors.
#[derive(Clone)]
pub struct Backend {
    /// Where sessions subscribe. It must encode with [`Encoder`](crate::Encoder).
    pub hub: Hub,
    /// Where their publishes go.
    pub publisher: Arc<dyn Publisher>,
    /// Who knows how many watch a topic.
    pub audience: Arc<dyn AudienceSource>,
    /// What sessions get of each namespace. What it says when they subscribe holds for as long as they
    /// do.
    pub view: watch::Receiver<Arc<ClusterView>>,
}

/// The doors of one node: bound, and open once it runs.
pub struct Gateway {
    config: Arc<Config>,
    backend: Backend,
    router: Router,
    listeners: Vec<TcpListener>,
    http_addr: SocketAddr,
    quic: quic::QuicPort,
    watchdog: LaneWatchdog,
    admission: Admission,
    memory: MemoryUse,
}

/// Why the doors closed before they were told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system gave no thread, no event queue or no timer.
    #[error("a lane cannot start or go on: {0}")]
    Lane(#[from] io::Error),
    /// A lane panicked; its sessions are gone.
    #[error("a lane ended by a panic; this is a bug, please report it with the log")]
    Panic,
}

impl Gateway {
    /// Takes the ports. Clients that come from now on wait until [`Gateway::run`].
    ///
    /// `extra` are the node's other pages, such as `/metrics`; it must not define anything under
    /// `/topics`, `/ws` or `/dev`. The process must have its metrics recorder before this is run.
    ///
    /// # Errors
    /// [`BindError`] names the address that is not to be had, and the flag that changes it.
    pub fn bind(
        config: Config,
        backend: Backend,
        extra: Router,
        certificate: Certificate,
    ) -> Result<Gateway, BindError> {
        let listeners = bind::http(config.http, config.lanes.max(1))?;
        let http_addr = match listeners.first().map(TcpListener::local_addr) {
            Some(Ok(address)) => address,
            _ => config.http,
        };
        let quic = quic::QuicPort::bind(&config, certificate)?;
        let routes = HttpState {
            hub: backend.hub.clone(),
            publisher: backend.publisher.clone(),
            audience: backend.audience.clone(),
            view: backend.view.clone(),
            fingerprint: quic.fingerprint(),
            body_timeout: config.body_timeout,
            publish_seconds: metrics::PUBLISH.register_histogram(&["http"]),
        };
        let router = http::router(routes, extra);
        let config = Arc::new(config);
        let watchdog = LaneWatchdog::new(listeners.len());
        let admission = Admission::new(listeners.len());
        let memory = MemoryUse::default();
        Ok(Gateway {
            config,
            backend,
            router,
            listeners,
            http_addr,
            quic,
            watchdog,
            admission,
            memory,
        })
    }

    /// Where HTTP and WebSocket are, with the port that was taken.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where QUIC is, with the port that was taken.
    pub fn quic_addr(&self) -> SocketAddr {
        self.quic.address()
    }

    /// Whether the lanes go round, once it runs.
    pub fn watchdog(&self) -> LaneWatchdog {
        self.watchdog.clone()
    }

    /// Whether the lanes admit new sessions, once it runs.
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Where to say how much memory the process uses. Near the end of it sessions that take the newest
    /// alone get it less often, and at the end sessions are sent away.
    pub fn memory(&self) -> MemoryUse {
        self.memory.clone()
    }

    /// Serves until `shutdown`, then takes in nobody, sends every session `send_goaway` and close code
    /// 1001, and ends when all are gone or the grace time is over.
    ///
    /// Dropping the future begins the same end, without waiting for it.
    ///
    /// # Errors
    /// [`RunError`] when a lane ended by itself; all others then end as well.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let stop = shutdown.child_token();
        let _guard = stop.clone().drop_guard();
        let (lanes, rotator) = self.start(&stop)?;
        tokio::select! {
            outcome = wait_for_lanes(lanes, &stop) => outcome,
            never = rotator.run() => match never {},
        }
    }

    fn start(
        self,
        stop: &CancellationToken,
    ) -> io::Result<(LaneResults, quic::CertificateRotator)> {
        let connection_permits =
            Arc::new(Semaphore::new(self.config.connections_max.min(Semaphore::MAX_PERMITS)));
        let (quic_listeners, rotator) = self.quic.into_listeners();
        let mut quic_listeners = quic_listeners.into_iter();
        let lane_results = FuturesUnordered::new();
        for (index, listener) in self.listeners.into_iter().enumerate() {
            let parts = LaneParts {
                config: self.config.clone(),
                backend: self.backend.clone(),
                router: self.router.clone(),
                listener,
                quic: quic_listeners.next(),
                connection_permits: connection_permits.clone(),
                memory: self.memory.clone(),
                watchdog: self.watchdog.clone(),
                admission: self.admission.for_lane(index),
            };
            let (result_sender, result) = oneshot::channel();
            lane::spawn(index, parts, stop.clone(), result_sender)?;
            lane_results.push(result);
        }
        Ok((lane_results, rotator))
    }
}

/// Each ends with how its lane went.
type LaneResults = FuturesUnordered<oneshot::Receiver<io::Result<()>>>;

/// Waits for all lanes. The first that ends badly stops the others.
async fn wait_for_lanes(mut lanes: LaneResults, stop: &CancellationToken) -> Result<(), RunError> {
    let mut outcome = Ok(());
    while let Some(received) = lanes.next().await {
        let result = match received {
            Ok(ended) => ended.map_err(RunError::Lane),
            Err(_) => Err(RunError::Panic),
        };
        if result.is_err() {
            stop.cancel();
        }
        outcome = outcome.and(result);
    }
    outcome
}

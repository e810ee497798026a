//! The gateway: all listeners and lanes of a node.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pushonce_auth::AccessControl;
use pushonce_core::ClusterView;
use pushonce_fanout::Hub;
use pushonce_quic::{CertificateRotator, CertificateSource, Port};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config::HttpsSettings;
use crate::http::front::HttpFront;
use crate::http::page_gate::PageGate;
use crate::http::{self, BodyCache, HttpState, LongPolls};
use crate::lane::{self, LaneParts};
use crate::metrics;
use crate::slow_sessions::InspectRequest;
use crate::{
    Admission, AudienceSource, BindError, ClientLimits, Config, LaneWatchdog, MemoryUse,
    PagePolicy, Pages, PublishRouter, SessionInspector, bind, quic,
};

/// The services behind the gateway.
#[derive(Clone)]
pub struct Backend {
    /// The hub at which sessions subscribe. It must encode with [`Encoder`](crate::Encoder).
    pub hub: Hub,
    /// Receives the publishes of clients.
    pub publisher: Arc<dyn PublishRouter>,
    /// Source of subscriber counts.
    pub audience: Arc<dyn AudienceSource>,
    /// Authenticates callers and decides what they may do.
    pub access: AccessControl,
    /// Settings of the namespaces. A subscription keeps the settings that were valid when it began.
    pub view: watch::Receiver<Arc<ClusterView>>,
}

/// The client-facing endpoints of one node. The ports are bound at creation and served by [`Gateway::run`].
pub struct Gateway {
    config: Arc<Config>,
    backend: Backend,
    http: HttpFront,
    paths: Vec<&'static str>,
    listeners: Vec<TcpListener>,
    /// The checks of the listener with TLS: its address decides which hosts are known.
    https: Option<HttpFront>,
    https_listeners: Vec<TcpListener>,
    quic: Port,
    webtransport: PageGate,
    watchdog: LaneWatchdog,
    inspector: SessionInspector,
    /// The requests of the inspector, for each lane.
    inspect_requests: Vec<mpsc::Receiver<InspectRequest>>,
    admission: Admission,
    memory: MemoryUse,
    limits: ClientLimits,
    /// Cancelled when the lanes stop accepting connections.
    draining: CancellationToken,
}

/// Why the gateway ended before its shutdown was requested.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The system provided no thread, event queue or timer.
    #[error("a lane thread failed: {0}")]
    Lane(#[from] io::Error),
    /// A lane panicked and its sessions are lost.
    #[error("a lane thread panicked; this is a bug, please report it with the log")]
    Panic,
}

impl Gateway {
    /// Binds the ports. Clients that connect before [`Gateway::run`] wait in the backlog.
    ///
    /// `extra` holds the other pages of the node, such as `/metrics`, each with the rule who may read it. It
    /// must not define a path under `/topics`, `/tickets`, `/ws`, `/sse` or `/dev`. The metrics recorder of the process must be installed before
    /// [`Gateway::run`].
    ///
    /// # Errors
    /// [`BindError`] when an address cannot be bound, with the address and the flag that changes it, or when
    /// the certificate cannot be used.
    pub fn bind(
        config: Config,
        backend: Backend,
        extra: Pages,
        certificate: CertificateSource,
    ) -> Result<Gateway, BindError> {
        let lanes = config.lanes.max(1);
        let listeners = bind::http(config.http, lanes)?;
        let https_listeners = match &config.https {
            Some(https) => bind::https(https.address, lanes)?,
            None => Vec::new(),
        };
        let quic = quic::bind(&config, certificate)?;
        let limits = ClientLimits::new(&config);
        let draining = CancellationToken::new();
        let routes = HttpState {
            hub: backend.hub.clone(),
            publisher: backend.publisher.clone(),
            audience: backend.audience.clone(),
            access: backend.access.clone(),
            view: backend.view.clone(),
            fingerprint: quic.fingerprint(),
            quic_port: quic.address().port(),
            body_timeout: config.body_timeout,
            limits: limits.clone(),
            bodies: BodyCache::default(),
            long_polls: LongPolls::new(draining.clone()),
            publish_seconds: metrics::PUBLISH.register_histogram(&["http"]),
        };
        let paths = http::paths().chain(extra.paths()).collect();
        let router = http::router(routes, extra);
        let advertise = config.advertise.as_deref();
        let front = |router, listener| {
            let policy = PagePolicy::new(config.origins.clone(), listener, advertise);
            HttpFront::new(router, policy)
        };
        let own_pages = [("http", local_addr(&listeners)), ("https", local_addr(&https_listeners))];
        let own_pages =
            own_pages.into_iter().filter_map(|(scheme, address)| Some((scheme, address?.port())));
        let webtransport = PagePolicy::new(config.origins.clone(), config.quic, advertise)
            .with_own_pages(own_pages.collect());
        let webtransport = PageGate::new(webtransport);
        let https = config.https.as_ref().map(|https| front(router.clone(), https.address));
        let http = front(router, config.http);
        let config = Arc::new(config);
        let watchdog = LaneWatchdog::new(listeners.len());
        let (inspector, inspect_requests) = SessionInspector::new(listeners.len());
        let admission = Admission::new(listeners.len());
        let memory = MemoryUse::default();
        Ok(Gateway {
            config,
            backend,
            http,
            paths,
            listeners,
            https,
            https_listeners,
            quic,
            webtransport,
            watchdog,
            inspector,
            inspect_requests,
            admission,
            memory,
            limits,
            draining,
        })
    }

    /// The address of HTTP and WebSocket, with the actual port.
    pub fn http_addr(&self) -> SocketAddr {
        local_addr(&self.listeners).unwrap_or(self.config.http)
    }

    /// The address of HTTP and WebSocket with TLS, with the actual port.
    pub fn https_addr(&self) -> Option<SocketAddr> {
        local_addr(&self.https_listeners)
    }

    /// Every path that the gateway serves over HTTP.
    pub fn paths(&self) -> &[&'static str] {
        &self.paths
    }

    /// The address of QUIC, with the actual port.
    pub fn quic_addr(&self) -> SocketAddr {
        self.quic.address()
    }

    /// Returns the tick counters of the lanes. They advance while the gateway runs.
    pub fn watchdog(&self) -> LaneWatchdog {
        self.watchdog.clone()
    }

    /// Returns the handle that searches the lanes for slow sessions. It finds some while the gateway runs.
    pub fn inspector(&self) -> SessionInspector {
        self.inspector.clone()
    }

    /// Returns the admission state of the lanes. It is updated while the gateway runs.
    pub fn admission(&self) -> Admission {
        self.admission.clone()
    }

    /// Returns the limits of clients, which the gRPC port shares.
    pub fn limits(&self) -> ClientLimits {
        self.limits.clone()
    }

    /// Returns the handle through which the node reports the memory use of the process. As it approaches the
    /// limit, the gateway lowers the rate of `latest` subscriptions, then rejects new sessions, then closes
    /// existing ones.
    pub fn memory(&self) -> MemoryUse {
        self.memory.clone()
    }

    /// Serves clients until `shutdown` is cancelled. It then accepts no new connections, sends `goaway` and
    /// close code 1001 to every session, and returns when all sessions ended or the grace time is over.
    ///
    /// Dropping the future starts the same shutdown without waiting for it.
    ///
    /// # Errors
    /// [`RunError`] when a lane failed; all other lanes are then stopped as well.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let stop = shutdown.child_token();
        let _guard = stop.clone().drop_guard();
        let draining = self.draining.clone();
        let (lanes, rotator) = self.start(&stop)?;
        let drain_requests = async {
            stop.cancelled().await;
            draining.cancel();
            std::future::pending().await
        };
        tokio::select! {
            () = drain_requests => Ok(()),
            outcome = wait_for_lanes(lanes, &stop) => outcome,
            never = rotator.run() => match never {},
        }
    }

    fn start(self, stop: &CancellationToken) -> io::Result<(LaneResults, CertificateRotator)> {
        let (quic_listeners, rotator) = self.quic.into_listeners();
        let mut quic_listeners = quic_listeners.into_iter();
        let https = self.config.https.as_ref().map(|https| HttpsSettings::new(&https.tls));
        let https = https.zip(self.https);
        let mut https_listeners = self.https_listeners.into_iter();
        let lane_results = FuturesUnordered::new();
        let listeners = self.listeners.into_iter().zip(self.inspect_requests);
        for (index, (listener, inspect_requests)) in listeners.enumerate() {
            let parts = LaneParts {
                config: self.config.clone(),
                backend: self.backend.clone(),
                http: self.http.clone(),
                listener,
                https: https_listeners.next().zip(https.clone()),
                quic: quic_listeners.next(),
                webtransport: self.webtransport.clone(),
                memory: self.memory.clone(),
                client_limits: self.limits.clone(),
                watchdog: self.watchdog.clone(),
                admission: self.admission.for_lane(index),
                inspect_requests,
            };
            let (result_sender, result) = oneshot::channel();
            lane::spawn(index, parts, stop.clone(), result_sender)?;
            lane_results.push(result);
        }
        Ok((lane_results, rotator))
    }
}

/// The address that all listeners share.
fn local_addr(listeners: &[TcpListener]) -> Option<SocketAddr> {
    listeners.first().and_then(|listener| listener.local_addr().ok())
}

/// One receiver for the result of each lane.
type LaneResults = FuturesUnordered<oneshot::Receiver<io::Result<()>>>;

/// Waits for all lanes. The first failure stops the others.
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

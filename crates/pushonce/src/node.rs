//! The node: built from its parts, then run until it is stopped.

mod address_conflict;
mod bootstrap;
mod call_limits;
mod certificate_issuer;
mod certificate_upkeep;
mod clocks;
mod cluster_log;
mod cluster_topics;
mod consensus_times;
mod current_view;
mod discovery;
mod handover;
mod health;
mod health_check;
mod identity;
mod init;
pub(crate) mod join;
mod join_outcome;
mod join_request;
mod membership;
mod membership_heartbeat;
mod memory;
mod monitoring;
mod overview;
mod owned_topics;
mod peer_credentials;
mod ports;
mod pre_join;
pub(crate) mod recover;
mod replica_supervisor;
pub(crate) mod served_tls;
mod shard_progress;
mod shutdown_stage;
mod startup;
mod stored_messages;
mod tickets;
mod web;

use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_auth::{AccessControl, Authenticator};
use pushonce_consensus::ConsensusEngine;
use pushonce_control::ControlHandle;
use pushonce_core::{ClusterId, ClusterView, Member};
use pushonce_fanout::Hub;
use pushonce_gateway::{AllowedOrigins, Backend, Gateway, PagePolicy, Pages};
use pushonce_listener::{
    AddressLimits, ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming,
};
use pushonce_peer::{Credentials, PeerAddresses, PeerTransport};
use pushonce_relay::Relay;
use pushonce_shard::{NodeTopics, ShardSettings};
use tokio::net::TcpListener;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics;
use address_conflict::ForeignCallers;
use bootstrap::Bootstrap;
use call_limits::CallLimits;
use certificate_issuer::CertificateIssuer;
use certificate_upkeep::{CertificateUpkeep, Renewal};
use clocks::NodeClocks;
use cluster_log::ClusterLog;
use cluster_topics::ClusterTopics;
use current_view::CurrentView;
use discovery::Discovery;
use handover::LeadershipHandover;
use health_check::{HealthCheck, HealthStatus};
use identity::DataDir;
pub use init::{InitError, Initialized, init};
use membership::MembershipService;
use membership_heartbeat::MembershipHeartbeat;
use overview::NodeOverview;
use owned_topics::OwnedTopics;
use peer_credentials::SigningAuthority;
pub(crate) use peer_credentials::check as check_peer_credentials;
use pre_join::PreJoinServer;
use replica_supervisor::{LocalReplicas, ReplicaSupervisor};
use served_tls::ServedTls;
use shutdown_stage::ShutdownStage;
use startup::StartupState;

/// A node whose listeners are bound and that does not serve yet.
pub struct Node {
    startup: StartupState,
    data_dir: Arc<DataDir>,
    engine: ConsensusEngine,
    control: ControlHandle,
    control_runner: pushonce_control::ControlRunner,
    transport: PeerTransport,
    relay: Relay,
    topic_sink: ports::HubSink,
    relay_handle: pushonce_relay::Handle,
    view_sender: Sender<Arc<ClusterView>>,
    current_view_sender: Sender<CurrentView>,
    shard_settings_sender: Sender<Option<Arc<ShardSettings>>>,
    replica_supervisor: ReplicaSupervisor,
    discovery: Discovery,
    membership: MembershipService,
    conflict_sender: Sender<Option<ClusterId>>,
    owned_topics: OwnedTopics,
    health_check: HealthCheck,
    peer_listener: TcpListener,
    access: AccessControl,
    authenticator: Authenticator,
    monitoring: Option<(TcpListener, axum::Router)>,
    gateway: Gateway,
    publish: pushonce_publish::Server,
    tls: Option<ServedTls>,
    /// Changes when files of certificates are to be read again.
    reload: Receiver<()>,
    metrics: PrometheusHandle,
}

/// Maximum number of announced addresses that wait for a check; more are dropped, and announced again.
const CALLER_QUEUE_MAX: usize = 64;

impl Node {
    /// Opens the data directory, joins the cluster at `--join` if the directory belongs to none, binds every
    /// listener and wires the engines. `pages` are served beside the node's own.
    ///
    /// # Errors
    /// When the directory or a listener cannot be opened, or the cluster rejects the node; the error says what
    /// to change.
    pub async fn build(
        config: Config,
        pages: Pages,
        metrics: PrometheusHandle,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Node> {
        let tls = config.tls_files().map(ServedTls::load).transpose()?;
        tracing::info!(data = %config.data.display(), "data directory");
        // First: without its keys a node must not begin to serve, not even without tokens.
        let authenticator = load_issuers(config.settings.issuers.as_deref())?;
        let data_dir = Arc::new(DataDir::open(&config.data)?);
        let peer_listener = bind(config.settings.peer, "--peer").await?;
        let origins = AllowedOrigins::parse(config.settings.origins.iter().map(String::as_str))?;
        if origins == AllowedOrigins::Any {
            tracing::warn!("--origins '*': every website that a user visits can use this node");
        }
        let page_policy =
            PagePolicy::new(origins.clone(), config.settings.http, Some(&config.advertise));
        let pre_join = PreJoinServer::open(config.settings.http, page_policy).await?;
        let startup = StartupState::load_or_join(config.clone(), &data_dir, shutdown).await?;
        pre_join.close().await;
        let (cluster, me) = (startup.identity.cluster, startup.identity.node);
        tracing::info!(node = %me, %cluster, name = config.name,
            version = env!("CARGO_PKG_VERSION"), "node identity");
        let peer_addresses = PeerAddresses::default();
        let settings = config.consensus.clone().with_times(startup.times.target());
        let transport = PeerTransport::with_credentials(
            startup.credentials.clone(),
            cluster,
            me,
            peer_addresses.clone(),
            &settings.times(),
        );
        let engine = ConsensusEngine::open(data_dir.path(), settings, transport.clone()).await?;
        engine.set_times(&startup.times);
        let (control, control_runner) = ControlHandle::open(&engine, me).await?;

        let initial_view = control.view().borrow().clone();
        let (view_sender, view_receiver) =
            channel(initial_view.unwrap_or_else(|| Arc::new(ClusterView::unknown(cluster))));
        let (current_view_sender, current_view_receiver) = channel(None);
        let (shard_settings_sender, shard_settings_receiver) = channel(None);
        let hosted = LocalReplicas::default();
        let (conflict_sender, conflict_receiver) = channel(None);
        let address_guard =
            ports::AddressGuard { own_cluster: cluster, conflict: conflict_receiver.clone() };
        let shards = ports::LocalShards {
            hosted: hosted.clone(),
            view: view_receiver.clone(),
            address_guard: address_guard.clone(),
        };
        let clocks = Arc::new(NodeClocks::new(me));
        let (relay, relay_handle) = Relay::new(
            pushonce_relay::Config::new(me),
            transport.clone(),
            view_receiver.clone(),
            Arc::new(shards.clone()),
            clocks.clone(),
        );
        let log_times = ports::LogTimes::default();
        let hub = Hub::new(
            pushonce_fanout::hub::Config::default(),
            Arc::new(ports::RelayUpstream {
                relay: relay_handle.clone(),
                current: current_view_receiver.clone(),
                log_times: log_times.clone(),
            }),
            Arc::new(pushonce_gateway::Encoder),
        );
        let topic_sink = ports::HubSink { hub: hub.clone(), log_times };
        let (health, health_receiver) = channel(HealthStatus::starting());
        let (ready, ready_receiver) = channel(pushonce_publish::Readiness::default());
        let stopping = CancellationToken::new();
        let overview = NodeOverview {
            me,
            transport: transport.clone(),
            view: view_receiver.clone(),
            owners: relay_handle.owners(),
            reachable_nodes: relay_handle.reachable(),
            round_trips: relay_handle.round_trips(),
            control_status: control.status(),
            health: health_receiver,
            hosted: hosted.clone(),
            conflicting_cluster: conflict_receiver,
            stopping: stopping.clone(),
        };
        let owned_topics = OwnedTopics {
            me,
            transport: transport.clone(),
            view: view_receiver.clone(),
            hosted: hosted.clone(),
            relay: relay_handle.clone(),
        };
        let topics = Arc::new(ClusterTopics::new(owned_topics.clone(), relay_handle.owners()));
        let operations = ports::ClusterOperations {
            control: control.clone(),
            overview: overview.clone(),
            topics: ClusterTopics::clone(&topics),
            credentials: startup.credentials.clone(),
        };
        let router = pushonce_publish::Router::new(
            pushonce_publish::router::Config::default(),
            pushonce_publish::router::RouterParts {
                node_id: me,
                view: current_view_receiver.clone(),
                owners: relay_handle.owners(),
                shards: Arc::new(shards),
                peers: Arc::new(ports::RemoteOwners { relay: relay_handle.clone(), address_guard }),
            },
        );
        let gateway_config = pushonce_gateway::Config {
            http: config.settings.http,
            https: tls.as_ref().map(|tls| tls.https(config.settings.https)).transpose()?,
            quic: config.settings.quic,
            origins,
            advertise: Some(config.advertise.clone()),
            lanes: config.lanes.into(),
            pin_lanes: config.settings.pin_lanes,
            compression: config.settings.compression,
            grace: config.settings.shutdown_grace.0,
            heartbeat: config.settings.session_heartbeat.0,
            session_age_max: config.settings.session_age_max.map(|age| age.0),
            sse_age_max: Some(config.settings.sse_age_max.0),
            address_connections_max: config.settings.address_connections_max,
            publish_rate_max: config.settings.publish_rate_max,
            subscribe_rate_max: config.settings.subscribe_rate_max,
            new_topic_rate_max: config.settings.new_topic_rate_max,
            ..Default::default()
        };
        let access = AccessControl::new(
            authenticator.clone(),
            view_receiver.clone(),
            config.settings.token_grace.0,
            tickets::tickets(me, transport.clone(), authenticator.without_token()),
        );
        let publisher = Arc::new(ports::ClientPublisher(router.clone()));
        let node_pages = web::node_pages(overview.clone(), metrics.clone(), access.clone());
        let monitoring = match config.settings.monitoring {
            // Without tokens, as this listener serves nothing else.
            Some(address) => {
                let pages = web::monitoring_pages(overview.clone(), metrics.clone());
                let everyone = AccessControl::open(view_receiver.clone());
                Some((bind(address, "--monitoring").await?, pages.into_router(&everyone)))
            }
            None => None,
        };
        let gateway = Gateway::bind(
            gateway_config,
            Backend {
                hub: hub.clone(),
                publisher,
                audience: topics.clone(),
                access: access.clone(),
                view: view_receiver.clone(),
            },
            node_pages.merge(pages),
            served_tls::quic_certificate(tls.as_ref(), data_dir.path())?,
        )?;
        let client_limits = gateway.limits();
        let publish = pushonce_publish::Server::bind(pushonce_publish::server::ServerParts {
            addr: config.settings.grpc,
            access: access.clone(),
            tls: tls.as_ref().map(ServedTls::grpc).transpose()?,
            router,
            subscriptions: Arc::new(ports::HubFeed { hub, admission: gateway.admission() }),
            heartbeat_interval: config.settings.session_heartbeat.0,
            status: Arc::new(overview.clone()),
            topics,
            admin: Arc::new(operations),
            readiness: ready_receiver,
            address_limits: client_limits.addresses,
            receive_budget: client_limits.receive_budget,
            namespace_rates: client_limits.namespace_rates,
            caller_rates: client_limits.caller_rates,
            grace: config.settings.shutdown_grace.0,
        })
        .await?;
        let monitoring_address =
            config.settings.monitoring.map(|address| ("--monitoring", address));
        for (flag, address) in config.listen_addresses().into_iter().chain(monitoring_address) {
            tracing::info!(listener = flag.trim_start_matches('-'), %address, "listening");
        }
        let node_topics = Arc::new(NodeTopics::new(config.settings.topics_max));
        let health_check = HealthCheck {
            overview,
            current_view: current_view_receiver.clone(),
            topics: node_topics.clone(),
            hosted: hosted.clone(),
            engine: engine.clone(),
            relay: relay_handle.clone(),
            lane_watchdog: gateway.watchdog(),
            admission: gateway.admission(),
            memory_use: gateway.memory(),
            memory_max: config.settings.memory_max.unwrap_or_else(memory::default_memory_max),
            health_sender: health,
            ready_sender: ready,
            stopping,
        };
        let (caller_sender, caller_receiver) = mpsc::channel(CALLER_QUEUE_MAX);
        let membership = MembershipService {
            identity: startup.identity.clone(),
            control: control.clone(),
            reachable: relay_handle.reachable(),
            hosted: hosted.clone(),
            transport: transport.clone(),
            caller_addresses: caller_sender,
            foreign_callers: Arc::new(ForeignCallers::default()),
            call_limits: Arc::new(CallLimits::default()),
            join_permits: Arc::new(Semaphore::new(membership::JOINS_MAX)),
            development: config.is_development,
            issuer: certificate_issuer(&startup),
        };
        let discovery = Discovery {
            identity: startup.identity.clone(),
            credentials: startup.credentials.clone(),
            own_address: startup.joining.profile.addresses.peer.clone(),
            configured_addresses: [config.settings.join.clone(), data_dir.peers()].concat(),
            peer_addresses: peer_addresses.clone(),
            view: view_receiver.clone(),
            reachable: relay_handle.reachable(),
            caller_addresses: caller_receiver,
        };
        let replica_supervisor = ReplicaSupervisor {
            me,
            engine: engine.clone(),
            local_replicas: hosted,
            clocks,
            relay: relay_handle.clone(),
            view: view_receiver,
            current_view: current_view_receiver,
            settings: shard_settings_receiver,
            control: control.clone(),
            bootstrap: Bootstrap::new(startup.identity.clone(), data_dir.clone()),
            topics: node_topics,
        };
        Ok(Node {
            startup,
            data_dir,
            engine,
            control,
            control_runner,
            transport,
            relay,
            topic_sink,
            relay_handle,
            view_sender,
            current_view_sender,
            shard_settings_sender,
            replica_supervisor,
            discovery,
            membership,
            conflict_sender,
            owned_topics,
            health_check,
            peer_listener,
            access,
            authenticator,
            monitoring,
            gateway,
            publish,
            tls,
            reload: channel(()).1,
            metrics,
        })
    }

    /// Every path of the HTTP port.
    pub fn http_paths(&self) -> &[&'static str] {
        self.gateway.paths()
    }

    /// The node that also reads the files of its certificates again whenever `reload` changes.
    pub fn with_reload(self, reload: Receiver<()>) -> Node {
        Node { reload, ..self }
    }

    /// Serves until `shutdown` is cancelled, then stops in stages. It becomes unready at once, and other nodes
    /// take over the leadership of its groups, while it keeps serving for `--shutdown-delay`; publishes that
    /// arrive here go to the new owners. Then its clients are disconnected over `--shutdown-grace`. When no
    /// input is left, links and shards stop, then the groups, and last the peer port, whose streams end with
    /// them.
    ///
    /// # Errors
    /// When a part of the node ends unexpectedly.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut peer_port_stage = ShutdownStage::new("the port between nodes");
        let own_tickets =
            tickets::OwnTickets { transport: self.transport.clone(), access: self.access };
        let peers = self
            .transport
            .server()
            .add_service(self.engine.service())
            .add_service(self.relay.service())
            .add_service(self.owned_topics.service())
            .add_service(own_tickets.service())
            .add_service(self.membership.clone().service());
        let listener = InfallibleListener::new("peer", self.peer_listener);
        let budget = DescriptorBudget::for_process();
        let address_limits =
            budget.address_connections_max(ConnectionPurpose::Peer).map(AddressLimits::new);
        let peer_connections = incoming(listener, budget, ConnectionPurpose::Peer, address_limits);
        let peer_connections = self.transport.incoming(peer_connections);
        let serving = peers.serve_with_incoming_shutdown(
            peer_connections,
            peer_port_stage.token().cancelled_owned(),
        );
        peer_port_stage.spawn(async move { Ok(serving.await?) });

        let mut internal_stage = ShutdownStage::new("links and shards");
        let token = internal_stage.token();
        let (views, engine) = (self.control.view(), self.engine.clone());
        let distributing_views = distribute_views(
            views,
            self.view_sender.clone(),
            self.transport.addresses().clone(),
            engine,
            token.clone(),
        );
        internal_stage.spawn(distributing_views);
        let (views, (announced, index)) = (self.view_sender.subscribe(), channel(None));
        let updating_shard_settings = current_view::update_shard_settings(
            self.current_view_sender.subscribe(),
            views.clone(),
            self.shard_settings_sender,
        );
        internal_stage.spawn(run_until(token.clone(), updating_shard_settings));
        let following_current_view = current_view::follow_current_view(
            self.control.clone(),
            index,
            views,
            self.current_view_sender,
        );
        internal_stage.spawn(run_until(token.clone(), following_current_view));
        internal_stage
            .spawn(self.control_runner.run(self.relay_handle.reachable(), token.clone()).map(Ok));
        internal_stage.spawn(self.relay.run(Arc::new(self.topic_sink), token.clone()).map(Ok));
        let (done, mut handed_over) = channel(false);
        let stopping = self.health_check.stopping.clone();
        let handover = LeadershipHandover {
            me: self.startup.identity.node,
            control: self.control.clone(),
            hosted: self.replica_supervisor.local_replicas.clone(),
            view: self.view_sender.subscribe(),
            relay: self.relay_handle.clone(),
            done_sender: done,
        };
        internal_stage.spawn(handover.run(stopping.clone(), token.clone()).map(Ok));
        let cluster_log = ClusterLog {
            me: self.startup.identity.node,
            view: self.view_sender.subscribe(),
            control_status: self.control.status(),
            owners: self.relay_handle.owners(),
        };
        internal_stage.spawn(run_until(token.clone(), cluster_log.run(token.clone())));
        internal_stage.spawn(self.replica_supervisor.run(token.clone()));
        internal_stage.spawn(self.health_check.run(token.clone()).map(Ok));
        internal_stage.spawn(self.discovery.run(token.clone()));
        if let Some(tls) = self.tls {
            let reload = self.reload.clone();
            let running = tls.run(self.control.clone(), self.view_sender.subscribe(), reload);
            internal_stage.spawn(run_until(token.clone(), running));
        }
        let upkeep = metrics::run_upkeep(self.metrics);
        internal_stage.spawn(run_until(token.clone(), upkeep));
        if let Credentials::MutualTls(tls) = &self.startup.credentials {
            let renewal = peer_credentials::is_stored(&self.startup.config).then(|| Renewal {
                data: self.data_dir.path().to_owned(),
                transport: self.transport.clone(),
                reachable: self.relay_handle.reachable(),
            });
            let upkeep = CertificateUpkeep { tls: tls.clone(), renewal };
            internal_stage.spawn(run_until(token.clone(), upkeep.run(self.reload.clone())));
        }
        internal_stage.spawn(address_conflict::run(
            self.startup.identity.cluster,
            self.membership.foreign_callers,
            self.relay_handle.reachable(),
            self.conflict_sender,
            token.clone(),
        ));
        let times = consensus_times::ConsensusTimesFollower {
            times: self.startup.times,
            data: self.data_dir.clone(),
            engine: self.engine.clone(),
            control: self.control.clone(),
        };
        internal_stage.spawn(times.run(token.clone()));
        let heartbeat = MembershipHeartbeat {
            startup: self.startup.clone(),
            data_dir: self.data_dir,
            control: self.control,
            view: self.view_sender.subscribe(),
            reachable: self.relay_handle.reachable(),
            announced_index: announced,
        };
        internal_stage.spawn(heartbeat.run(token));

        // Until the end: monitoring sees the shutdown.
        if let Some((listener, pages)) = self.monitoring {
            let stop = internal_stage.token();
            internal_stage.spawn(monitoring::run(listener, pages, stop).map(Ok));
        }
        let reloading = reload_issuers(self.authenticator.clone(), self.reload);
        internal_stage.spawn(run_until(internal_stage.token(), reloading));
        internal_stage.spawn(run_until(internal_stage.token(), self.authenticator.run()));

        let mut client_stage = ShutdownStage::new("clients and publishers");
        // Open before the node is admitted, so that probes get a reason for its unreadiness.
        let (gateway, token) = (self.gateway, client_stage.token());
        client_stage.spawn(async move { Ok(gateway.run(token).await?) });
        let (publish, token) = (self.publish, client_stage.token());
        client_stage.spawn(async move { Ok(publish.run(token).await?) });
        let settings = &self.startup.config.settings;
        let (delay, grace) = (settings.shutdown_delay.0, settings.shutdown_grace.0);
        let (startup, token) = (self.startup, client_stage.token());
        let admission_log = log_when_admitted(self.view_sender.subscribe(), startup, token.clone());
        client_stage.spawn(async move {
            admission_log.await;
            token.cancelled().await;
            Ok(())
        });

        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            error = peer_port_stage.wait_for_failure() => Err(error),
            error = internal_stage.wait_for_failure() => Err(error),
            error = client_stage.wait_for_failure() => Err(error),
        };
        stopping.cancel();
        tracing::info!(?delay, ?grace, failed = result.is_err(), "draining");
        let drain_started_at = Instant::now();
        if result.is_ok() {
            let wait_for_handover = async { handed_over.wait_for(|done| *done).await.is_ok() };
            let wait_for_handover = timeout(handover::TIMEOUT, wait_for_handover);
            let ((), handover_outcome) = tokio::join!(sleep(delay), wait_for_handover);
            if handover_outcome.is_err() {
                tracing::warn!(timeout = ?handover::TIMEOUT, "groups have no successor yet, stopping without");
            }
        }
        let mut is_complete =
            client_stage.shutdown(grace + shutdown_stage::STOP_TIMEOUT).await.is_ok();
        is_complete &= internal_stage.shutdown(shutdown_stage::STOP_TIMEOUT).await.is_ok();
        self.engine.stop().await;
        is_complete &= peer_port_stage.shutdown(shutdown_stage::STOP_TIMEOUT).await.is_ok();
        tracing::info!(is_complete, elapsed = ?drain_started_at.elapsed(), "drained");
        result
    }
}

/// What certifies nodes that join, if this node has the key of an authority.
fn certificate_issuer(startup: &StartupState) -> Option<CertificateIssuer> {
    let authority = SigningAuthority::from_settings(&startup.config.settings)?;
    match &startup.credentials {
        Credentials::MutualTls(tls) => Some(CertificateIssuer { tls: tls.clone(), authority }),
        _ => None,
    }
}

/// Runs a task until `stop` is cancelled. A task that ends earlier has no work left.
async fn run_until(stop: CancellationToken, task: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(task);
    if stop.run_until_cancelled(&mut task).await.is_some() {
        stop.cancelled().await;
    }
    Ok(())
}

/// Waits until the cluster counts this node as a member, and logs it: before that it can serve no
/// client.
async fn log_when_admitted(
    mut view: Receiver<Arc<ClusterView>>,
    startup: StartupState,
    stop: CancellationToken,
) {
    let (config, me) = (&startup.config, startup.identity.node);
    tokio::select! {
        () = stop.cancelled() => {}
        _ = view.wait_for(|view| view.member(me).is_some()) => {
            tracing::info!(node = %me, name = %config.name, "admitted to the cluster, serving");
        }
    }
}

/// Loads the issuers of `--issuers`, or none.
fn load_issuers(file: Option<&std::path::Path>) -> anyhow::Result<Authenticator> {
    match file {
        Some(file) => Authenticator::load(file)
            .with_context(|| format!("cannot load the issuers of {}", file.display())),
        None => Ok(Authenticator::open()),
    }
}

/// Reads the issuers again whenever `reload` changes. Never returns.
async fn reload_issuers(authenticator: Authenticator, mut reload: Receiver<()>) {
    while reload.changed().await.is_ok() {
        authenticator.reload();
    }
    std::future::pending().await
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address}: stop the process that uses it, or choose another with {flag}"
        )
    })
}

/// Passes each new view to the engines, and the addresses of the members to the connection layer. The cluster
/// version is on disk before anything is written in it.
async fn distribute_views(
    mut views: Receiver<Option<Arc<ClusterView>>>,
    view: Sender<Arc<ClusterView>>,
    peer_addresses: PeerAddresses,
    engine: ConsensusEngine,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let newest_view = views.borrow_and_update().clone();
        if let Some(newest_view) = newest_view {
            let address = |member: &Member| (member.id, member.addresses.peer.clone());
            let version = newest_view.cluster_version;
            if version > engine.agreed_version().get() {
                engine.raise_version(version).await.context("cannot store the cluster version")?;
                tracing::info!(%version, "the cluster version is raised");
            }
            metrics::CLUSTER_VERSION.register_gauge(&[]).set(f64::from(version.0));
            let core = newest_view.members.values().filter(|member| member.roles.core);
            engine.set_cluster_nodes(core.map(|member| member.id).collect(), newest_view.next_id);
            let (next_id, unused_ids) = (newest_view.next_id, newest_view.unused_ids.clone());
            let addresses = newest_view.members.values().map(address).collect();
            peer_addresses.replace(addresses, next_id, unused_ids);
            view.send_replace(newest_view);
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = views.changed() => changed.context("the control group ended")?,
        }
    }
}

//! Builds a node from its parts.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_auth::AccessControl;
use pushonce_consensus::ConsensusEngine;
use pushonce_control::ControlHandle;
use pushonce_core::ClusterView;
use pushonce_fanout::Hub;
use pushonce_gateway::{AllowedOrigins, Backend, Gateway, PagePolicy, Pages};
use pushonce_peer::{Credentials, PeerAddresses, PeerTransport};
use pushonce_relay::Relay;
use pushonce_shard::NodeTopics;
use tokio::sync::watch::channel;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::address_conflict::ForeignCallers;
use super::bind::bind;
use super::bootstrap::Bootstrap;
use super::call_limits::CallLimits;
use super::certificate_issuer::CertificateIssuer;
use super::clocks::NodeClocks;
use super::cluster_topics::ClusterTopics;
use super::console::{ConsoleData, LocalMonitoring};
use super::discovery::Discovery;
use super::health_check::{HealthCheck, HealthStatus};
use super::identity::DataDir;
use super::membership::MembershipService;
use super::overview::NodeOverview;
use super::owned_topics::OwnedTopics;
use super::peer_credentials::SigningAuthority;
use super::pre_join::PreJoinServer;
use super::replica_supervisor::{LocalReplicas, ReplicaSupervisor};
use super::served_tls::ServedTls;
use super::startup::StartupState;
use super::{
    Node, console, gateway_config, issuers, membership, memory, ports, served_tls, tickets, web,
};
use crate::config::Config;

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
        let authenticator = issuers::load(config.settings.issuers.as_deref())?;
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
        let gateway_config = gateway_config::from_settings(&config, tls.as_ref(), origins)?;
        let access = AccessControl::new(
            authenticator.clone(),
            view_receiver.clone(),
            config.settings.token_grace.0,
            tickets::tickets(me, transport.clone(), authenticator.without_token()),
        );
        let publisher = Arc::new(ports::ClientPublisher(router.clone()));
        let console = LocalMonitoring::new(owned_topics.clone());
        let console_data = ConsoleData {
            overview: overview.clone(),
            topics: ClusterTopics::clone(&topics),
            local: console.clone(),
        };
        let node_pages = web::node_pages(overview.clone(), metrics.clone(), access.clone())
            .merge(console::data_pages(&console_data));
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
        // The cell is empty: this is the only place that sets it.
        let _ = console.inspector.set(gateway.inspector());
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
            console,
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
}

/// What certifies nodes that join, if this node has the key of an authority.
fn certificate_issuer(startup: &StartupState) -> Option<CertificateIssuer> {
    let authority = SigningAuthority::from_settings(&startup.config.settings)?;
    match &startup.credentials {
        Credentials::MutualTls(tls) => Some(CertificateIssuer { tls: tls.clone(), authority }),
        _ => None,
    }
}

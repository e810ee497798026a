//! The node: [built](Node::build) from its parts, then [run](Node::run) until it is stopped.

mod address_conflict;
mod bind;
mod bootstrap;
mod build;
mod call_limits;
mod certificate_issuer;
mod certificate_upkeep;
mod clocks;
mod cluster_log;
mod cluster_topics;
mod consensus_times;
mod console;
mod current_view;
mod discovery;
mod gateway_config;
mod handover;
mod health;
mod health_check;
mod identity;
mod init;
mod issuers;
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
mod reader;
pub(crate) mod recover;
mod replica_supervisor;
mod run;
pub(crate) mod served_tls;
mod shard_progress;
mod shutdown_stage;
mod startup;
mod stored_messages;
mod tickets;
mod web;

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_auth::{AccessControl, Authenticator};
use pushonce_consensus::ConsensusEngine;
use pushonce_control::ControlHandle;
use pushonce_core::{ClusterId, ClusterView};
use pushonce_gateway::Gateway;
use pushonce_peer::PeerTransport;
use pushonce_relay::Relay;
use pushonce_shard::ShardSettings;
use tokio::net::TcpListener;
use tokio::sync::watch::{Receiver, Sender};

use current_view::CurrentView;
use discovery::Discovery;
use health_check::HealthCheck;
use identity::DataDir;
use membership::MembershipService;
use owned_topics::OwnedTopics;
use replica_supervisor::ReplicaSupervisor;
use served_tls::ServedTls;
use startup::StartupState;

pub use init::{InitError, Initialized, init};
pub(crate) use peer_credentials::check as check_peer_credentials;
pub use reader::NodeReader;

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
    console: console::LocalMonitoring,
    gateway: Gateway,
    publish: pushonce_publish::Server,
    tls: Option<ServedTls>,
    /// Changes when files of certificates are to be read again.
    reload: Receiver<()>,
    metrics: PrometheusHandle,
}

impl Node {
    /// Every path of the HTTP port.
    pub fn http_paths(&self) -> &[&'static str] {
        self.gateway.paths()
    }

    /// The node that also reads the files of its certificates again whenever `reload` changes.
    pub fn with_reload(self, reload: Receiver<()>) -> Node {
        Node { reload, ..self }
    }
}

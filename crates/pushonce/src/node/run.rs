//! Runs a node until it is stopped.

use std::sync::Arc;

use anyhow::Context as _;
use futures::FutureExt as _;
use pushonce_consensus::ConsensusEngine;
use pushonce_core::{ClusterView, Member};
use pushonce_listener::{
    AddressLimits, ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming,
};
use pushonce_peer::{Credentials, PeerAddresses};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::certificate_upkeep::{CertificateUpkeep, Renewal};
use super::cluster_log::ClusterLog;
use super::handover::LeadershipHandover;
use super::membership_heartbeat::MembershipHeartbeat;
use super::shutdown_stage::ShutdownStage;
use super::startup::StartupState;
use super::{
    Node, address_conflict, consensus_times, console, current_view, handover, issuers, monitoring,
    peer_credentials, shutdown_stage, tickets,
};
use crate::metrics;

impl Node {
    /// Serves as [`Node::run`] does. When `crash` is cancelled, the node ends as in a crash, as far as a process can
    /// that goes on: it announces nothing, hands nothing over and drains nothing. What it has acknowledged is on disk, and
    /// its data directory can be opened again.
    ///
    /// # Errors
    /// When a part of the node ends unexpectedly.
    pub async fn run_until_crash(
        self,
        shutdown: CancellationToken,
        crash: CancellationToken,
    ) -> anyhow::Result<()> {
        let engine = self.engine.clone();
        tokio::select! {
            result = self.run(shutdown) => return result,
            () = crash.cancelled() => {}
        }
        tracing::info!("ended without a shutdown");
        // The thread that writes the log must not outlive the lock of the directory.
        engine.stop().await;
        Ok(())
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
        let monitoring =
            console::Monitoring { transport: self.transport.clone(), local: self.console.clone() };
        let peers = self
            .transport
            .server()
            .add_service(self.engine.service())
            .add_service(self.relay.service())
            .add_service(self.owned_topics.service())
            .add_service(own_tickets.service())
            .add_service(monitoring.service())
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
            engine: self.engine.clone(),
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
        let sampler = console::run_sampler(self.metrics.clone(), self.console.samples);
        internal_stage.spawn(run_until(token.clone(), sampler));
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
        let reloading = issuers::reload(self.authenticator.clone(), self.reload);
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

//! A node: built out of its parts, then run until it is told to stop.

mod clocks;
mod conflict;
mod current;
mod discovery;
mod enter;
mod founding;
mod handover;
mod health;
mod host;
mod identity;
mod init;
pub(crate) mod join;
mod membership;
mod memory;
mod moves;
mod overview;
mod owned;
#[cfg(feature = "planted-bugs")]
mod planted;
mod ports;
mod presence;
pub(crate) mod recover;
mod stage;
mod times;
mod topics;
mod verdict;
mod waiting;
mod watch;
mod web;

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use axum::Router as Pages;
use futures::FutureExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_consensus::{AddressBook, Engine};
use pushonce_control::Control;
use pushonce_core::{ClusterId, ClusterView, Member};
use pushonce_fanout::Hub;
use pushonce_gateway::{Behind, Gateway, certificate};
use pushonce_listener::{DescriptorBudget, Listener, Purpose, incoming};
use pushonce_relay::Relay;
use pushonce_shard::{NodeTopics, ShardSettings};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use clocks::NodeClocks;
use conflict::ForeignCallers;
use current::Current;
use discovery::Discovery;
use enter::Entry;
use founding::Founding;
use handover::HandOver;
use host::{Host, Hosted};
use identity::DataDir;
pub use init::{InitError, Initialized, init};
use membership::Door;
use overview::Overview;
use owned::Owned;
use presence::Presence;
use stage::Stage;
use topics::Topics;
use waiting::WaitingPages;
use watch::{Health, Watch};

/// A node with all its doors bound, not serving yet.
pub struct Node {
    entry: Entry,
    data: Arc<DataDir>,
    engine: Engine,
    control: Control,
    control_runner: pushonce_control::Runner,
    book: AddressBook,
    relay: Relay,
    handle: pushonce_relay::Handle,
    view: Sender<Arc<ClusterView>>,
    current: Sender<Current>,
    settings: Sender<Option<Arc<ShardSettings>>>,
    host: Host,
    discovery: Discovery,
    door: Door,
    conflict: Sender<Option<ClusterId>>,
    owned: Owned,
    watch: Watch,
    peers: TcpListener,
    gateway: Gateway,
    publish: pushonce_publish::Server,
}

/// Addresses that callers named and that are not asked yet; more are dropped, and named again.
const CALLERS_MAX: usize = 64;

impl Node {
    /// Opens the data directory, joins the cluster at `--join` if the directory belongs to none, binds
    /// every door and wires the engines. `pages` are served beside the node's own.
    ///
    /// # Errors
    /// What cannot be had, and what to change.
    pub async fn build(
        config: Config,
        pages: Pages,
        metrics: PrometheusHandle,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Node> {
        tracing::info!(data = %config.data.display(), "data directory");
        let data = Arc::new(DataDir::open(&config.data)?);
        let peers = bind(config.peer, "--peer").await?;
        let waiting = WaitingPages::open(config.http).await?;
        let entry = Entry::find(config.clone(), &data, shutdown).await?;
        waiting.close().await;
        let (cluster, me) = (entry.identity.cluster, entry.identity.node);
        let book = AddressBook::default();
        let settings = config.consensus.clone().with_times(entry.times.target());
        let engine = Engine::open(data.path(), cluster, me, settings, book.clone()).await?;
        engine.set_times(&entry.times);
        let (control, control_runner) = Control::open(&engine, me).await?;

        let first = control.view().borrow().clone();
        let (view, views) =
            channel(first.unwrap_or_else(|| Arc::new(ClusterView::unknown(cluster))));
        let (current, is_current) = channel(None);
        let (settings, shard_settings) = channel(None);
        let hosted = Hosted::default();
        let (conflict, conflicts) = channel(None);
        let address = ports::Address { ours: cluster, conflict: conflicts.clone() };
        let shards = ports::LocalShards {
            hosted: hosted.clone(),
            view: views.clone(),
            address: address.clone(),
        };
        let edge = ports::Edge::default();
        let clocks = Arc::new(NodeClocks::new(me));
        let (relay, handle) = Relay::new(
            pushonce_relay::Config {
                agreed: engine.agreed_version(),
                ..pushonce_relay::Config::new(me, cluster)
            },
            views.clone(),
            Arc::new(shards.clone()),
            Arc::new(edge.clone()),
            clocks.clone(),
        );
        let hub = Hub::new(
            pushonce_fanout::hub::Config::default(),
            Arc::new(ports::Upstream {
                relay: handle.clone(),
                current: is_current.clone(),
                log_times: edge.log_times(),
            }),
            Arc::new(pushonce_gateway::Encoder),
        );
        edge.open(hub.clone());
        let (health, thought) = channel(Health::unknown());
        let (ready, is_ready) = channel(pushonce_publish::Ready::default());
        let stopping = CancellationToken::new();
        let overview = Overview {
            me,
            view: views.clone(),
            owners: handle.owners(),
            reachable: handle.reachable(),
            control: control.status(),
            health: thought,
            hosted: hosted.clone(),
            conflict: conflicts,
            stopping: stopping.clone(),
        };
        let owned =
            Owned { me, view: views.clone(), hosted: hosted.clone(), relay: handle.clone() };
        let topics = Arc::new(Topics::new(owned.clone(), handle.owners()));
        let operations = ports::Operations {
            control: control.clone(),
            overview: overview.clone(),
            topics: Topics::clone(&topics),
        };
        let router = pushonce_publish::Router::new(
            pushonce_publish::router::Config::default(),
            pushonce_publish::router::Parts {
                me,
                view: is_current.clone(),
                owners: handle.owners(),
                shards: Arc::new(shards),
                peers: Arc::new(ports::Peers { relay: handle.clone(), address }),
            },
        );
        let doors = pushonce_gateway::Config {
            http: config.http,
            quic: config.quic,
            lanes: config.lanes,
            pin_lanes: config.pin_lanes,
            compression: config.compression,
            grace: config.shutdown_grace,
            heartbeat: config.session_heartbeat,
            ..Default::default()
        };
        let publisher = Arc::new(ports::ClientPublisher(router.clone()));
        let gateway = Gateway::bind(
            doors,
            Behind { hub: hub.clone(), publisher, audience: topics.clone(), view: views.clone() },
            web::router(overview.clone(), metrics).merge(pages),
            certificate::load_or_make(data.path(), SystemTime::now())?,
        )?;
        let publish = pushonce_publish::Server::bind(pushonce_publish::server::Parts {
            addr: config.grpc,
            router,
            feed: Arc::new(ports::Feed { hub, admission: gateway.admission() }),
            heartbeat: config.session_heartbeat,
            overview: Arc::new(overview.clone()),
            topics,
            operations: Arc::new(operations),
            ready: is_ready,
            grace: config.shutdown_grace,
        })
        .await?;
        let node_topics = Arc::new(NodeTopics::new(config.topics_max));
        let watch = Watch {
            overview,
            current: is_current.clone(),
            topics: node_topics.clone(),
            hosted: hosted.clone(),
            engine: engine.clone(),
            relay: handle.clone(),
            lanes: gateway.rounds(),
            admission: gateway.admission(),
            memory: gateway.memory(),
            memory_max: config.memory_max.unwrap_or_else(memory::usual_max),
            health,
            ready,
            stopping,
        };
        let (callers, called) = mpsc::channel(CALLERS_MAX);
        let door = Door {
            identity: entry.identity.clone(),
            control: control.clone(),
            reachable: handle.reachable(),
            hosted: hosted.clone(),
            book: book.clone(),
            callers,
            foreign: Arc::new(ForeignCallers::default()),
            development: config.development,
        };
        let discovery = Discovery {
            identity: entry.identity.clone(),
            own_address: entry.joining.profile.addresses.peer.clone(),
            given: [config.join.clone(), data.peers()].concat(),
            book: book.clone(),
            view: views.clone(),
            reachable: handle.reachable(),
            callers: called,
        };
        let host = Host {
            me,
            engine: engine.clone(),
            hosted,
            clocks,
            relay: handle.clone(),
            view: views,
            current: is_current,
            settings: shard_settings,
            control: control.clone(),
            founding: Founding::new(entry.identity.clone(), data.clone()),
            topics: node_topics,
        };
        Ok(Node {
            entry,
            data,
            engine,
            control,
            control_runner,
            book,
            relay,
            handle,
            view,
            current,
            settings,
            host,
            discovery,
            door,
            conflict,
            owned,
            watch,
            peers,
            gateway,
            publish,
        })
    }

    /// Serves until `shutdown`, then ends in stages. At once it is not ready, and others begin to lead its
    /// groups, while it goes on serving for `--shutdown-delay`; what is published here goes to the new
    /// owners. Then its clients are sent away over `--shutdown-grace`. When nothing comes in any more,
    /// links and shards go, then the groups, and last the port they all speak through, whose streams end
    /// with them.
    ///
    /// # Errors
    /// When a part of it ends by itself.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut port = Stage::new("the port between nodes");
        let peers = pushonce_relay::server()
            .add_service(self.engine.service())
            .add_service(self.relay.service())
            .add_service(self.owned.service())
            .add_service(self.door.clone().service());
        let listener = Listener::new("peer", self.peers);
        let incoming = incoming(listener, DescriptorBudget::of_process(), Purpose::Peer);
        let ended = peers.serve_with_incoming_shutdown(incoming, port.token().cancelled_owned());
        port.spawn(async move { Ok(ended.await?) });

        let mut inside = Stage::new("links and shards");
        let token = inside.token();
        let (views, engine) = (self.control.view(), self.engine.clone());
        let followed = follow(views, self.view.clone(), self.book, engine, token.clone());
        inside.spawn(followed);
        let (views, (announced, index)) = (self.view.subscribe(), channel(None));
        let told = current::tell_shards(self.current.subscribe(), views.clone(), self.settings);
        inside.spawn(until(token.clone(), told));
        let current = current::follow(self.control.clone(), index, views, self.current);
        inside.spawn(until(token.clone(), current));
        inside.spawn(self.control_runner.run(self.handle.reachable(), token.clone()).map(Ok));
        inside.spawn(self.relay.run(token.clone()).map(Ok));
        let (done, mut handed_over) = channel(false);
        let stopping = self.watch.stopping.clone();
        let handover = HandOver {
            me: self.entry.identity.node,
            control: self.control.clone(),
            hosted: self.host.hosted.clone(),
            view: self.view.subscribe(),
            relay: self.handle.clone(),
            done,
        };
        inside.spawn(handover.run(stopping.clone(), token.clone()).map(Ok));
        inside.spawn(self.host.run(token.clone()));
        inside.spawn(self.watch.run(token.clone()).map(Ok));
        inside.spawn(self.discovery.run(token.clone()));
        inside.spawn(conflict::run(
            self.entry.identity.cluster,
            self.door.foreign,
            self.handle.reachable(),
            self.conflict,
            token.clone(),
        ));
        let times = times::Follower {
            times: self.entry.times,
            data: self.data.clone(),
            engine: self.engine.clone(),
            control: self.control.clone(),
        };
        inside.spawn(times.run(token.clone()));
        let presence = Presence {
            entry: self.entry.clone(),
            data: self.data,
            control: self.control,
            view: self.view.subscribe(),
            reachable: self.handle.reachable(),
            announced,
        };
        inside.spawn(presence.run(token));

        let mut doors = Stage::new("clients and publishers");
        // Open before the node is taken in: whoever asks is told that it is not ready, and why.
        let (gateway, token) = (self.gateway, doors.token());
        doors.spawn(async move { Ok(gateway.run(token).await?) });
        let (publish, token) = (self.publish, doors.token());
        doors.spawn(async move { Ok(publish.run(token).await?) });
        let (delay, grace) = (self.entry.config.shutdown_delay, self.entry.config.shutdown_grace);
        let (entry, token) = (self.entry, doors.token());
        let welcome = taken_in(self.view.subscribe(), entry, token.clone());
        doors.spawn(async move {
            welcome.await;
            token.cancelled().await;
            Ok(())
        });

        let ended = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            why = port.broken() => Err(why),
            why = inside.broken() => Err(why),
            why = doors.broken() => Err(why),
        };
        stopping.cancel();
        if ended.is_ok() {
            let handed_over = async { handed_over.wait_for(|done| *done).await.is_ok() };
            let handed_over = timeout(handover::LIMIT, handed_over);
            let ((), handed_over) = tokio::join!(sleep(delay), handed_over);
            if handed_over.is_err() {
                tracing::warn!(limit = ?handover::LIMIT, "groups were left without a successor");
            }
        }
        doors.end(grace + stage::GRACE).await;
        inside.end(stage::GRACE).await;
        self.engine.stop().await;
        port.end(stage::GRACE).await;
        ended
    }
}

/// Runs a task until `stop`. One that ends before has nothing left to do.
async fn until(stop: CancellationToken, task: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(task);
    if stop.run_until_cancelled(&mut task).await.is_some() {
        stop.cancelled().await;
    }
    Ok(())
}

/// Waits until the cluster counts this node as one of its own, and says so: before that it can serve
/// nobody.
async fn taken_in(mut view: Receiver<Arc<ClusterView>>, entry: Entry, stop: CancellationToken) {
    let (config, me) = (&entry.config, entry.identity.node);
    tokio::select! {
        () = stop.cancelled() => {}
        _ = view.wait_for(|view| view.member(me).is_some()) => {
            tracing::info!(node = %me, name = %config.name, http = %config.http,
                quic = %config.quic, grpc = %config.grpc, "serving");
        }
    }
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: stop what uses it, or choose another with {flag}")
    })
}

/// Carries each new view to the engines, and to the book that consensus dials by where the members
/// are and who is none any more. The version of the cluster is on disk before anything is written in it.
async fn follow(
    mut views: Receiver<Option<Arc<ClusterView>>>,
    view: Sender<Arc<ClusterView>>,
    book: AddressBook,
    engine: Engine,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let newest = views.borrow_and_update().clone();
        if let Some(newest) = newest {
            let address = |member: &Member| (member.id, member.addresses.peer.clone());
            let version = newest.cluster_version;
            if version > engine.agreed_version().get() {
                engine.raise_version(version).await.context("the cluster version")?;
                tracing::info!(%version, "the cluster version is raised");
            }
            metrics::gauge!("pushonce_cluster_version").set(f64::from(version.0));
            book.replace(newest.members.values().map(address).collect(), newest.next_id);
            view.send_replace(newest);
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = views.changed() => changed.context("the control group ended")?,
        }
    }
}

/// The recorder of this process, for `/metrics`. Once a process.
///
/// # Errors
/// When there is one already.
pub(crate) fn metrics() -> anyhow::Result<PrometheusHandle> {
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
    // From a tenth of a millisecond to ten seconds: what lies outside is an outage or a lie.
    const SECONDS: [f64; 11] =
        [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0];
    // Messages that shared one entry: how well publishes travel together.
    const BATCH: [f64; 7] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_messages".to_owned()), &BATCH)?
        .install_recorder()
        .context("metrics")
}

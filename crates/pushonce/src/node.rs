//! A node: built out of its parts, then run until it is told to stop.

mod founding;
mod host;
mod identity;
mod membership;
mod overview;
mod ports;
mod web;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::Router as Pages;
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_consensus::{AddressBook, Engine, Settings};
use pushonce_control::{Control, Founding as NewCluster, Incarnation, Joining, Profile};
use pushonce_core::{
    Addresses, ClusterId, ClusterView, Namespaces, NodeId, Placement, ShardCount, Spread, Timestamp,
};
use pushonce_fanout::Hub;
use pushonce_gateway::{Gateway, certificate};
use pushonce_relay::Relay;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::config::Config;
use founding::Founding;
use host::{Host, Hosted};
use identity::{DataDir, Identity};
use overview::Overview;

/// How long each stage of a shutdown may take before it is cut off.
const STAGE: Duration = Duration::from_secs(5);

/// A node with all its doors bound, not serving yet.
pub struct Node {
    config: Config,
    identity: Identity,
    engine: Engine,
    control: Control,
    control_runner: pushonce_control::Runner,
    book: AddressBook,
    relay: Relay,
    handle: pushonce_relay::Handle,
    view: watch::Sender<Arc<ClusterView>>,
    host: Host,
    peers: TcpListener,
    gateway: Gateway,
    publish: pushonce_publish::Server,
    profile: Profile,
    incarnation: Incarnation,
}

/// The time of this machine.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Node {
    /// Opens the data directory, joins or makes a cluster if it belongs to none, binds every door
    /// and wires the engines. `pages` are served beside the node's own.
    ///
    /// # Errors
    /// What cannot be had, and what to change.
    pub async fn build(
        config: Config,
        pages: Pages,
        metrics: PrometheusHandle,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Node> {
        let data = DataDir::open(&config.data)?;
        let incarnation = Incarnation(u128::from_be_bytes(data.incarnation()));
        let peers = bind(config.peer, "--peer").await?;
        let profile = profile(&config);
        let identity = identify(&config, &data, incarnation, &profile, shutdown).await?;
        let (cluster, me) = (identity.cluster, identity.node);
        let book = AddressBook::default();
        let engine = Engine::open(data.path(), cluster, me, Settings::lan(), book.clone()).await?;
        let (control, control_runner) = Control::open(&engine, me).await?;

        let first = control.view().borrow().clone();
        let (view, views) = watch::channel(first.unwrap_or_else(|| Arc::new(unknown(cluster))));
        let hosted = Hosted::default();
        let shards = ports::LocalShards { hosted: hosted.clone(), view: views.clone() };
        let edge = ports::Edge::default();
        let (relay, handle) = Relay::new(
            pushonce_relay::Config::new(me, cluster),
            views.clone(),
            Arc::new(shards.clone()),
            Arc::new(edge.clone()),
        );
        let hub = Hub::new(
            pushonce_fanout::hub::Config::default(),
            Arc::new(ports::Upstream(handle.clone())),
            Arc::new(pushonce_gateway::Encoder),
        );
        edge.open(hub.clone());
        let overview = Overview {
            me,
            view: views.clone(),
            owners: handle.owners(),
            reachable: handle.reachable(),
            control: control.status(),
        };
        let router = pushonce_publish::Router::new(
            pushonce_publish::router::Config::default(),
            pushonce_publish::router::Parts {
                me,
                view: views.clone(),
                owners: handle.owners(),
                shards: Arc::new(shards),
                peers: Arc::new(handle.clone()),
            },
        );
        let publish = pushonce_publish::Server::bind(pushonce_publish::server::Parts {
            addr: config.grpc,
            router: router.clone(),
            feed: Arc::new(ports::Feed(hub.clone())),
            overview: Arc::new(overview.clone()),
        })
        .await?;
        let gateway = Gateway::bind(
            pushonce_gateway::Config {
                http: config.http,
                quic: config.quic,
                lanes: config.lanes,
                ..Default::default()
            },
            hub,
            Arc::new(ports::ClientPublisher(router)),
            web::router(overview, metrics).merge(pages),
            certificate::load_or_make(data.path(), SystemTime::now())?,
        )?;
        let host = Host {
            me,
            engine: engine.clone(),
            hosted,
            relay: handle.clone(),
            view: views,
            founding: Founding::new(identity.clone(), data),
        };
        Ok(Node {
            config,
            identity,
            engine,
            control,
            control_runner,
            book,
            relay,
            handle,
            view,
            host,
            peers,
            gateway,
            publish,
            profile,
            incarnation,
        })
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.identity.node
    }

    /// Serves until `shutdown`, then closes its doors before it leaves its groups.
    ///
    /// # Errors
    /// When a part of it ends by itself: the node cannot do its work without any of them.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let me = self.id();
        // Two stages: first nothing comes in any more, then the groups and links go.
        let (doors, inside) = (CancellationToken::new(), CancellationToken::new());
        let mut engines = JoinSet::new();
        let mut open = JoinSet::new();

        let peers = pushonce_relay::server()
            .add_service(self.engine.service())
            .add_service(self.relay.service())
            .add_service(membership::Door::service(self.control.clone()));
        let incoming = TcpIncoming::from(self.peers).with_nodelay(Some(true));
        let token = inside.clone();
        engines.spawn(async move {
            let ended = peers.serve_with_incoming_shutdown(incoming, token.cancelled_owned());
            ended.await.context("the port between nodes")
        });
        engines.spawn(follow(self.control.view(), self.view.clone(), self.book, inside.clone()));
        let runner = self.control_runner.run(self.handle.reachable(), inside.clone());
        engines.spawn(async move {
            runner.await;
            Ok(())
        });
        let relay = self.relay.run(inside.clone());
        engines.spawn(async move {
            relay.await;
            Ok(())
        });
        engines.spawn(self.host.run(inside.clone()));
        engines.spawn(introduce(
            self.config.clone(),
            self.identity.clone(),
            self.control.clone(),
            self.profile,
            self.incarnation,
            inside.clone(),
        ));

        let mut view = self.view.subscribe();
        let ended = tokio::select! {
            ended = engines.join_next() => early(ended),
            () = shutdown.cancelled() => Ok(()),
            () = taken_in(&mut view, me) => {
                tracing::info!(node = %me, name = %self.config.name, http = %self.config.http,
                    grpc = %self.config.grpc, quic = %self.config.quic, "serving");
                let (gateway, publish) = (self.gateway, self.publish);
                let token = doors.clone();
                open.spawn(async move { gateway.run(token).await.context("the clients' doors") });
                let token = doors.clone();
                open.spawn(async move { publish.run(token).await.context("the publishers' door") });
                tokio::select! {
                    () = shutdown.cancelled() => Ok(()),
                    ended = engines.join_next() => early(ended),
                    ended = open.join_next() => early(ended),
                }
            }
        };
        doors.cancel();
        finish(open, "clients and publishers").await;
        inside.cancel();
        finish(engines, "links and groups").await;
        self.engine.stop().await;
        ended
    }
}

/// Waits until the cluster counts this node as one of its own.
async fn taken_in(view: &mut watch::Receiver<Arc<ClusterView>>, me: NodeId) {
    // The sender lives as long as the node: an error would be its end.
    let _ = view.wait_for(|view| view.member(me).is_some()).await;
}

/// Nothing of a node ends by itself while the node runs.
fn early(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    match ended {
        Some(Ok(result)) => result.and_then(|()| Err(anyhow::anyhow!("a part of the node ended"))),
        Some(Err(why)) => Err(why).context("a part of the node ended"),
        None => Ok(()),
    }
}

async fn finish(mut tasks: JoinSet<anyhow::Result<()>>, what: &str) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STAGE, all).await.is_err() {
        tracing::warn!("{what} did not end within {STAGE:?} and are cut off");
    }
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: stop what uses it, or choose another with {flag}")
    })
}

/// Who the node is: what its directory remembers, or what a cluster lets it be, or the first node
/// of a new cluster.
async fn identify(
    config: &Config,
    data: &DataDir,
    incarnation: Incarnation,
    profile: &Profile,
    shutdown: &CancellationToken,
) -> anyhow::Result<Identity> {
    let mut joining = Joining { incarnation, cluster: None, node: None, profile: profile.clone() };
    if let Some(known) = data.identity()? {
        joining.cluster = Some(known.cluster);
        joining.node = Some(known.node);
        membership::confirm(&config.join, &joining).await?;
        return Ok(known);
    }
    let identity = if config.join.is_empty() {
        let cluster = ClusterId(rand::random());
        tracing::info!(%cluster, data = %data.path().display(), "making a new cluster");
        Identity { cluster, node: NodeId(1), founding: true }
    } else {
        membership::ask(&config.join, &joining, shutdown).await?
    };
    data.keep(&identity)?;
    Ok(identity)
}

fn profile(config: &Config) -> Profile {
    let at = |port: u16| format!("{}:{port}", config.advertise);
    Profile {
        name: config.name.clone(),
        addresses: Addresses {
            peer: at(config.peer.port()),
            grpc: at(config.grpc.port()),
            http: at(config.http.port()),
            quic: at(config.quic.port()),
        },
        region: config.region.clone(),
        zone: config.zone.clone(),
        roles: config.roles,
        weight: config.weight,
    }
}

/// Before the control group has spoken: a cluster without members, which asks nobody anything.
fn unknown(cluster: ClusterId) -> ClusterView {
    ClusterView {
        cluster,
        version: 0,
        shards: ShardCount::DEFAULT,
        replicas: 0,
        spread: Spread::default(),
        members: Default::default(),
        placement: Placement::default(),
        namespaces: Namespaces::default(),
    }
}

/// Founds the cluster, or tells it what this node is called and where it is now.
async fn introduce(
    config: Config,
    identity: Identity,
    control: Control,
    profile: Profile,
    incarnation: Incarnation,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if identity.founding {
        let founding = NewCluster {
            cluster: identity.cluster,
            incarnation,
            profile,
            shards: config.shards,
            replicas: config.replicas,
            spread: Spread::default(),
            namespaces: Namespaces::default(),
        };
        control.found(founding).await.context("founding the cluster")?;
    } else {
        tokio::select! {
            () = shutdown.cancelled() => {}
            told = control.announce(incarnation, profile) => told.context("coming back")?,
        }
    }
    shutdown.cancelled().await;
    Ok(())
}

/// Carries each new view to the engines, and its addresses to the book that consensus dials by.
async fn follow(
    mut views: watch::Receiver<Option<Arc<ClusterView>>>,
    view: watch::Sender<Arc<ClusterView>>,
    book: AddressBook,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let newest = views.borrow_and_update().clone();
        if let Some(newest) = newest {
            for member in newest.members.values() {
                book.set(member.id, member.addresses.peer.clone());
            }
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
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()
        .context("metrics")
}

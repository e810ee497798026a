//! The gRPC door: one port for publishers, back ends and operators.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pushonce_listener::{ConnectionPurpose, DescriptorBudget, InfallibleListener, incoming};
use pushonce_proto::pb;
use pushonce_proto::pb::cluster::v1::cluster_server::ClusterServer;
use pushonce_proto::pb::publisher::v1::publisher_server::PublisherServer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService as _;
use tonic::transport::server::Router as Services;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::cluster::ClusterService;
use crate::decode_error::DecodeErrorService;
use crate::publisher::{PublisherService, StreamDrain};
use crate::{ClusterAdmin, ClusterStatusProvider, Router, SubscriptionSource, TopicDirectory};

/// Twice the largest payload: the message around it is small, and what no namespace takes need not
/// be read to be refused.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 << 20;
const _: () = assert!(MESSAGE_BYTES_MAX >= 2 * pushonce_core::Publish::PAYLOAD_BYTES_CAP);

/// Calls of one connection at once. A publisher that waits for each of many unary publishes needs
/// some hundreds; past that the stream is the better way.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;

/// Bytes of one stream on their way that this node has not read yet: some thousand small messages,
/// or bandwidth × round trip of a fast wide area link.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// The same for a whole connection, so that one stream that is not read leaves room for others.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A name or a token fits many times over.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A connection without a sign of life is asked after this time, and closed when it does not answer
/// within [`KEEPALIVE_TIMEOUT`]: middle boxes forget quiet connections after a minute or more.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls may take to end after the grace time of the streams: a publish under way has its
/// owner's deadline, which is shorter.
const CALLS_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node can do, as its health service says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// It takes publishes in: the answer for `pushonce.publisher.v1.Publisher`.
    pub can_publish: bool,
    /// It serves subscribers. The answer for the node as a whole is that it can do both.
    pub can_subscribe: bool,
}

/// What a server needs.
pub struct ServerParts {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Takes the publishes.
    pub router: Router,
    /// Answers subscriptions.
    pub subscriptions: Arc<dyn SubscriptionSource>,
    /// How often a subscriber hears that the node lives.
    pub heartbeat_interval: Duration,
    /// Answers operators.
    pub status: Arc<dyn ClusterStatusProvider>,
    /// Tells them of topics.
    pub topics: Arc<dyn TopicDirectory>,
    /// Changes the cluster for them.
    pub admin: Arc<dyn ClusterAdmin>,
    /// Whether the node can do its work: what the health service says.
    pub readiness: watch::Receiver<Readiness>,
    /// When the node goes down its streams are ended one by one over this time, so that their clients
    /// do not all come to the other nodes at once. New calls are not accepted meanwhile.
    pub grace: Duration,
}

/// The port is bound; calls are answered once it runs.
#[must_use = "nothing is answered unless it runs"]
pub struct Server {
    addr: SocketAddr,
    listener: InfallibleListener,
    services: Services,
    health: HealthReporter,
    readiness: watch::Receiver<Readiness>,
    draining: CancellationToken,
    grace: Duration,
    streams: TaskTracker,
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program, or another node, has the port.
    #[error("port {} is taken, so gRPC cannot be served at {addr}; stop the program that has it, \
             or choose another with --grpc", .addr.port())]
    AddrInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address cannot be listened at.
    #[error("gRPC cannot be served at {addr}: {source}; choose an address of this machine")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The descriptors in this binary are damaged.
    #[error("the reflection service cannot be made: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Accepting connections failed.
    #[error("the gRPC server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl Server {
    /// Takes the port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::AddrInUse`] and [`Error::Bind`] say which address and what to do.
    pub async fn bind(parts: ServerParts) -> Result<Server, Error> {
        let ServerParts {
            addr,
            router,
            subscriptions,
            heartbeat_interval,
            status,
            topics,
            admin,
            readiness,
            grace,
        } = parts;
        let listener =
            tokio::net::TcpListener::bind(addr).await.map_err(|error| bind_error(addr, error))?;
        let addr = listener.local_addr().map_err(|error| bind_error(addr, error))?;
        let draining = CancellationToken::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let streams = TaskTracker::new();
        let drain = StreamDrain { closing: draining.clone(), grace, streams: streams.clone() };
        let publisher = PublisherService { router, subscriptions, heartbeat_interval, drain };
        let publisher =
            PublisherServer::new(publisher).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let cluster =
            ClusterServer::new(ClusterService { overview: status, topics, operations: admin });
        let services = server_builder()
            .add_service(DecodeErrorService(publisher))
            .add_service(cluster)
            .add_service(health_service)
            .add_service(reflection_builder().build_v1()?)
            .add_service(reflection_builder().build_v1alpha()?);
        let listener = InfallibleListener::new("grpc", listener);
        Ok(Server { addr, listener, services, health, readiness, draining, grace, streams })
    }

    /// Where it listens, with the port that was given out if none was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers calls until `shutdown`; then ends the streams, one by one over the grace time, takes no
    /// more calls after it, and waits five seconds for those under way.
    ///
    /// # Errors
    /// [`Error::Serve`] when connections cannot be accepted any more.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Server { addr, listener, services, health, readiness, draining, grace, streams } = self;
        let incoming =
            incoming(listener, DescriptorBudget::for_process(), ConnectionPurpose::Publisher);
        let stop_serving = CancellationToken::new();
        let stopped = stop_serving.clone().cancelled_owned();
        let serve = services.serve_with_incoming_shutdown(incoming, stopped);
        tokio::pin!(serve);
        tokio::select! {
            ended = &mut serve => return Ok(ended?),
            () = shutdown.cancelled() => {}
            () = update_health(&health, readiness) => {}
        }
        set_health(&health, Readiness::default()).await;
        draining.cancel();
        streams.close();
        tokio::select! {
            ended = &mut serve => return Ok(ended?),
            _ = tokio::time::timeout(grace, streams.wait()) => {}
        }
        stop_serving.cancel();
        match tokio::time::timeout(CALLS_DRAIN_TIMEOUT, serve).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                tracing::warn!(%addr, "gRPC calls did not end in time, closed them");
                Ok(())
            }
        }
    }
}

/// Has the health service say what the node thinks of itself, for ever.
async fn update_health(health: &HealthReporter, mut readiness: watch::Receiver<Readiness>) {
    loop {
        let current = *readiness.borrow_and_update();
        set_health(health, current).await;
        if readiness.changed().await.is_err() {
            // Whoever knew has gone: the node is about to go down.
            std::future::pending::<()>().await;
        }
    }
}

/// Of the node as a whole, and of its service for publishers.
async fn set_health(health: &HealthReporter, Readiness { can_publish, can_subscribe }: Readiness) {
    let services = [
        ("", can_publish && can_subscribe),
        (PublisherServer::<PublisherService>::NAME, can_publish),
    ];
    for (service, is_ready) in services {
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(service, status).await;
    }
}

fn server_builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn bind_error(addr: SocketAddr, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => Error::AddrInUse { addr },
        _ => Error::Bind { addr, source: error },
    }
}

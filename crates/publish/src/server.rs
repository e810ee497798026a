//! The gRPC door: one port for publishers, back ends and operators.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pushonce_listener::{DescriptorBudget, Listener, Purpose, incoming};
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

use crate::cluster::Cluster;
use crate::publisher::{Leave, Publisher};
use crate::undecoded::Undecoded;
use crate::{Feed, Operations, Overview, Router, Topics};

/// Twice the largest payload: the message around it is small, and what no namespace takes need not
/// be read to be refused.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 << 20;
const _: () = assert!(MESSAGE_BYTES_MAX >= 2 * pushonce_core::Publish::PAYLOAD_BYTES_CAP);

/// Calls of one connection at once. A publisher that waits for each of many unary publishes needs
/// some hundreds; past that the stream is the better way.
const STREAMS_MAX: u32 = 1_024;

/// Bytes of one stream on their way that this node has not read yet: some thousand small messages,
/// or bandwidth × round trip of a fast wide area link.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// The same for a whole connection, so that one stream that is not read leaves room for others.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A name or a token fits many times over.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A connection without a sign of life is asked after this time, and closed when it does not answer
/// within [`ALIVE_TIMEOUT`]: middle boxes forget quiet connections after a minute or more.
const ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls may take to end after the grace time of the streams: a publish under way has its
/// owner's deadline, which is shorter.
const CALLS_END: Duration = Duration::from_secs(5);

/// What a node can do, as its health service says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// It takes publishes in: the answer for `pushonce.publisher.v1.Publisher`.
    pub publish: bool,
    /// It serves subscribers. The answer for the node as a whole is that it can do both.
    pub viewers: bool,
}

/// What a server needs.
pub struct Parts {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Takes the publishes.
    pub router: Router,
    /// Answers subscriptions.
    pub feed: Arc<dyn Feed>,
    /// How often a subscriber hears that the node lives.
    pub heartbeat: Duration,
    /// Answers operators.
    pub overview: Arc<dyn Overview>,
    /// Tells them of topics.
    pub topics: Arc<dyn Topics>,
    /// Changes the cluster for them.
    pub operations: Arc<dyn Operations>,
    /// Whether the node can do its work: what the health service says.
    pub ready: watch::Receiver<Ready>,
    /// When the node goes down its streams are ended one by one over this time, so that their clients
    /// do not all come to the other nodes at once. New calls are not accepted meanwhile.
    pub grace: Duration,
}

/// The port is bound; calls are answered once it runs.
#[must_use = "nothing is answered unless it runs"]
pub struct Server {
    addr: SocketAddr,
    listener: Listener,
    services: Services,
    health: HealthReporter,
    ready: watch::Receiver<Ready>,
    closing: CancellationToken,
    grace: Duration,
    streams: TaskTracker,
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program, or another node, has the port.
    #[error("port {} is taken, so gRPC cannot be served at {addr}; stop the program that has it, \
             or choose another with --grpc", .addr.port())]
    Taken {
        /// The address.
        addr: SocketAddr,
    },
    /// The address cannot be listened at.
    #[error("gRPC cannot be served at {addr}: {why}; choose an address of this machine")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        #[source]
        why: io::Error,
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
    /// [`Error::Taken`] and [`Error::Bind`] say which address and what to do.
    pub async fn bind(parts: Parts) -> Result<Server, Error> {
        let Parts { addr, router, feed, heartbeat, overview, topics, operations, ready, grace } =
            parts;
        let listener =
            tokio::net::TcpListener::bind(addr).await.map_err(|why| refused(addr, why))?;
        let addr = listener.local_addr().map_err(|why| refused(addr, why))?;
        let closing = CancellationToken::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let streams = TaskTracker::new();
        let leave = Leave { closing: closing.clone(), within: grace, streams: streams.clone() };
        let publisher = Publisher { router, feed, heartbeat, leave };
        let publisher =
            PublisherServer::new(publisher).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let cluster = ClusterServer::new(Cluster { overview, topics, operations });
        let services = transport()
            .add_service(Undecoded(publisher))
            .add_service(cluster)
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let listener = Listener::new("grpc", listener);
        Ok(Server { addr, listener, services, health, ready, closing, grace, streams })
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
        let Server { addr, listener, services, health, ready, closing, grace, streams } = self;
        let incoming = incoming(listener, DescriptorBudget::of_process(), Purpose::Publisher);
        let over = CancellationToken::new();
        let closed = over.clone().cancelled_owned();
        let serve = services.serve_with_incoming_shutdown(incoming, closed);
        tokio::pin!(serve);
        tokio::select! {
            ended = &mut serve => return Ok(ended?),
            () = shutdown.cancelled() => {}
            () = tell_health(&health, ready) => {}
        }
        say_health(&health, Ready::default()).await;
        closing.cancel();
        streams.close();
        tokio::select! {
            ended = &mut serve => return Ok(ended?),
            _ = tokio::time::timeout(grace, streams.wait()) => {}
        }
        over.cancel();
        match tokio::time::timeout(CALLS_END, serve).await {
            Ok(ended) => Ok(ended?),
            Err(_) => {
                tracing::warn!(%addr, "gRPC calls were cut off, they did not end in time");
                Ok(())
            }
        }
    }
}

/// Has the health service say what the node thinks of itself, for ever.
async fn tell_health(health: &HealthReporter, mut ready: watch::Receiver<Ready>) {
    loop {
        let now = *ready.borrow_and_update();
        say_health(health, now).await;
        if ready.changed().await.is_err() {
            // Whoever knew has gone: the node is about to go down.
            std::future::pending::<()>().await;
        }
    }
}

/// Of the node as a whole, and of its service for publishers.
async fn say_health(health: &HealthReporter, Ready { publish, viewers }: Ready) {
    let services = [("", publish && viewers), (PublisherServer::<Publisher>::NAME, publish)];
    for (service, ready) in services {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(service, status).await;
    }
}

fn transport() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(ALIVE_TIMEOUT))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn refused(addr: SocketAddr, why: io::Error) -> Error {
    match why.kind() {
        io::ErrorKind::AddrInUse => Error::Taken { addr },
        _ => Error::Bind { addr, why },
    }
}

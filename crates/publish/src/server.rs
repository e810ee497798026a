//! The gRPC server: one port for publishers, back ends and operators.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, TryStreamExt as _};
use pushonce_auth::AccessControl;
use pushonce_listener::{
    AddressLimits, CallerRates, ConnectionPurpose, DescriptorBudget, InfallibleListener,
    NamespaceRates, ReceiveBudget, incoming,
};
use pushonce_proto::pb;
use pushonce_proto::pb::cluster::v1::cluster_service_server::ClusterServiceServer;
use pushonce_proto::pb::publisher::v1::publisher_service_server::PublisherServiceServer;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codegen::http;
use tonic::server::NamedService as _;
use tonic::transport::server::Router as Services;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::Span;

use crate::authenticate::AuthenticateService;
use crate::authenticate::WithoutToken::{self, Allowed, Refused};
use crate::caller_limits::CallerLimits;
use crate::cluster::ClusterService;
use crate::connection::{CallConnection, ConnectionInfo};
use crate::decode_error::DecodeErrorService;
use crate::open_calls::OpenCallService;
use crate::partial_messages::PartialMessageService;
use crate::publisher::{PublisherService, StreamDrain};
use crate::{ClusterAdmin, ClusterStatusProvider, Router, SubscriptionSource, TopicDirectory};

/// Twice the maximum payload: the rest of a message is small, and a message that no namespace allows need
/// not be read to be rejected.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 << 20;
const _: () = assert!(MESSAGE_BYTES_MAX >= 2 * pushonce_core::Publish::PAYLOAD_BYTES_CAP);

/// Maximum bytes of a message of operators, of the health service and of reflection. The largest names a topic
/// or a symbol.
const SMALL_MESSAGE_BYTES_MAX: usize = 16 << 10;

/// Maximum number of concurrent calls on one connection. A publisher that waits for each of many unary
/// publishes needs some hundreds; beyond that a stream is better.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;

/// Unread bytes in flight of one stream: some thousand small messages, or bandwidth × round trip of a fast
/// wide area link.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Unread bytes in flight of a connection, so that one unread stream leaves room for others.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Fits a name or a token many times. It also bounds the CONTINUATION frames of a request.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Bytes of one HTTP/2 frame, the minimum that the protocol allows (RFC 9113, 4.2).
const FRAME_BYTES_MAX: u32 = 16 << 10;

/// Calls that a client began and reset before this server started them; with one more the connection is closed
/// (rapid reset, CVE-2023-44487). Every client resets a call now and then, and none resets 20 within a
/// millisecond.
const PENDING_RESETS_MAX: usize = 20;

/// Calls that this server reset because of errors of the client; with one more the connection is closed.
const ERROR_RESETS_MAX: usize = 128;

/// A quiet connection is pinged after this time, and closed without a reply within [`KEEPALIVE_TIMEOUT`]:
/// middle boxes drop quiet connections after a minute or more.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls may take to end after the grace period of the streams. The deadline of the owner for a
/// publish in flight is shorter.
const CALLS_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The readiness of a node, as reported by its health service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the node accepts publishes: the status of `pushonce.publisher.v1.PublisherService`.
    pub can_publish: bool,
    /// Whether the node serves subscribers. The status of the node as a whole is serving when both are true.
    pub can_subscribe: bool,
}

/// The dependencies and settings of a server.
pub struct ServerParts {
    /// The address to listen at.
    pub addr: SocketAddr,
    /// Authenticates callers and decides what they may do.
    pub access: AccessControl,
    /// The settings of TLS; plain text without.
    pub tls: Option<Arc<ServerConfig>>,
    /// Routes publishes.
    pub router: Router,
    /// Serves subscriptions.
    pub subscriptions: Arc<dyn SubscriptionSource>,
    /// Interval of the heartbeats to subscribers.
    pub heartbeat_interval: Duration,
    /// Reports the state of the cluster to operators.
    pub status: Arc<dyn ClusterStatusProvider>,
    /// Lists and describes topics for operators.
    pub topics: Arc<dyn TopicDirectory>,
    /// Changes the cluster for operators.
    pub admin: Arc<dyn ClusterAdmin>,
    /// The readiness that the health service reports.
    pub readiness: watch::Receiver<Readiness>,
    /// The limits of each client address.
    pub address_limits: AddressLimits,
    /// The budget of messages that are only half received.
    pub receive_budget: ReceiveBudget,
    /// The publishes of each caller to each namespace that limits them.
    pub namespace_rates: NamespaceRates,
    /// The subscriptions and the new topics of each caller.
    pub caller_rates: CallerRates,
    /// Period over which the streams are ended one by one on shutdown, so that their clients do not all
    /// reconnect to other nodes at once. New calls are rejected meanwhile.
    pub grace: Duration,
}

/// A server with a bound port. Calls are served while [`Server::run`] runs.
#[must_use = "calls are served only while it runs"]
pub struct Server {
    addr: SocketAddr,
    listener: InfallibleListener,
    tls: Option<Arc<ServerConfig>>,
    services: Services,
    health: HealthReporter,
    readiness: watch::Receiver<Readiness>,
    address_limits: AddressLimits,
    draining: CancellationToken,
    grace: Duration,
    streams: TaskTracker,
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is in use.
    #[error("gRPC cannot be served at {addr}: port {} is in use; stop the program that uses it, \
             or choose another port with --grpc", .addr.port())]
    AddrInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The server cannot listen at the address.
    #[error("gRPC cannot be served at {addr}: {source}; choose an address of this machine")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The descriptors in this binary are corrupt.
    #[error("the reflection service cannot be created: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Accepting connections failed.
    #[error("the gRPC server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl Server {
    /// Binds the port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::AddrInUse`] and [`Error::Bind`] with the address and what to change.
    pub async fn bind(parts: ServerParts) -> Result<Server, Error> {
        let ServerParts {
            addr,
            access,
            tls,
            router,
            subscriptions,
            heartbeat_interval,
            status,
            topics,
            admin,
            readiness,
            address_limits,
            receive_budget,
            namespace_rates,
            caller_rates,
            grace,
        } = parts;
        let listener =
            tokio::net::TcpListener::bind(addr).await.map_err(|error| bind_error(addr, error))?;
        let addr = listener.local_addr().map_err(|error| bind_error(addr, error))?;
        let draining = CancellationToken::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let streams = TaskTracker::new();
        let drain = StreamDrain { closing: draining.clone(), grace, streams: streams.clone() };
        let publisher = PublisherService {
            access: access.clone(),
            limits: CallerLimits { namespace_rates, caller_rates, access: access.clone() },
            router,
            subscriptions,
            heartbeat_interval,
            drain,
        };
        let publisher =
            PublisherServiceServer::new(publisher).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let cluster = ClusterService { access: access.clone(), status, topics, admin };
        let cluster =
            ClusterServiceServer::new(cluster).max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX);
        let health_service = health_service.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX);
        let v1 = reflection_builder().build_v1()?;
        let v1 = v1.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX);
        let v1alpha = reflection_builder().build_v1alpha()?;
        let v1alpha = v1alpha.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX);
        // Health is open: it says only whether the node serves.
        let services = server_builder()
            .add_service(authenticated(
                limited(DecodeErrorService(publisher), &receive_budget),
                &access,
                Allowed,
            ))
            .add_service(authenticated(limited(cluster, &receive_budget), &access, Allowed))
            .add_service(limited(health_service, &receive_budget))
            .add_service(authenticated(limited(v1, &receive_budget), &access, Refused))
            .add_service(authenticated(limited(v1alpha, &receive_budget), &access, Refused));
        let listener = InfallibleListener::new("grpc", listener);
        Ok(Server {
            addr,
            listener,
            tls,
            services,
            health,
            readiness,
            address_limits,
            draining,
            grace,
            streams,
        })
    }

    /// The address it listens at, with the assigned port if port 0 was requested.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves calls until `shutdown`; then ends the streams one by one over the grace period, rejects new
    /// calls, and waits five seconds for the calls in flight.
    ///
    /// # Errors
    /// [`Error::Serve`] when connections can no longer be accepted.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Server {
            addr,
            listener,
            tls,
            services,
            health,
            readiness,
            address_limits,
            draining,
            grace,
            streams,
        } = self;
        let incoming = incoming(
            listener,
            DescriptorBudget::for_process(),
            ConnectionPurpose::Publisher,
            Some(address_limits),
        );
        let stop_serving = CancellationToken::new();
        let stopped = stop_serving.clone().cancelled_owned();
        let mut serve = match tls {
            Some(config) => {
                let incoming = pushonce_tls::accept(incoming, config, "grpc");
                let incoming = incoming.map_ok(CallConnection::new);
                services.serve_with_incoming_shutdown(incoming, stopped).boxed()
            }
            None => {
                let incoming = incoming.map_ok(CallConnection::new);
                services.serve_with_incoming_shutdown(incoming, stopped).boxed()
            }
        };
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

fn authenticated<S>(
    service: S,
    access: &AccessControl,
    without_token: WithoutToken,
) -> AuthenticateService<S> {
    AuthenticateService { service, access: access.clone(), without_token }
}

/// Limits the requests and counts the calls of a service.
fn limited<S>(service: S, budget: &ReceiveBudget) -> OpenCallService<PartialMessageService<S>> {
    OpenCallService(PartialMessageService { service, budget: budget.clone() })
}

/// Keeps the health service up to date with the readiness. Never returns.
async fn update_health(health: &HealthReporter, mut readiness: watch::Receiver<Readiness>) {
    loop {
        let current = *readiness.borrow_and_update();
        set_health(health, current).await;
        if readiness.changed().await.is_err() {
            // The sender is gone: the node is about to shut down.
            std::future::pending::<()>().await;
        }
    }
}

/// Sets the health of the node as a whole, and of its service for publishers.
async fn set_health(health: &HealthReporter, Readiness { can_publish, can_subscribe }: Readiness) {
    let services = [
        ("", can_publish && can_subscribe),
        (PublisherServiceServer::<PublisherService>::NAME, can_publish),
    ];
    for (service, is_ready) in services {
        let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(service, status).await;
    }
}

fn server_builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .trace_fn(call_span)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// The span of a call until its response begins; the messages of a stream have a span of their own.
fn call_span(request: &http::Request<()>) -> Span {
    let remote = remote_address(request.extensions());
    tracing::debug_span!("call", transport = "grpc", method = request.uri().path(), ?remote)
}

/// The address of the client, with or without TLS.
pub(crate) fn remote_address(extensions: &http::Extensions) -> Option<SocketAddr> {
    extensions.get::<ConnectionInfo>()?.remote
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

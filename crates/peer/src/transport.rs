//! [`PeerTransport`]: the one place where a node calls its peers and accepts their calls.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use pushonce_core::{
    AgreedVersion, ClusterId, ClusterVersion, ConsensusTimes, HostPort, NodeId, SpiffeId,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::credentials::{PeerServer, endpoint};
use crate::greeting::{GreetingInterceptor, LocalNode};
use crate::tls::{PeerConnection, PeerInfo, TlsConnector, incoming};
use crate::{
    AuthorityPin, Credentials, DialError, Dialer, GreetingError, PeerAddresses, PeerChannel,
};

/// Windows of 4 and 8 MiB sustain 300 Mbit/s at a round trip of 100 ms. They bound what one stream and one
/// connection can occupy in the memory of the receiver.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A peer that lost power sends nothing. It is detected after the interval and the timeout, before a link
/// counts as silent.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Timeout of a data connection. Data can wait for a slow connection; votes cannot.
const DATA_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The two channels to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Small and urgent: the requests of all Raft groups.
    Consensus,
    /// Everything else: links, snapshots, requests for operators.
    Data,
}

/// The connection layer of a node. Clones share it.
#[derive(Clone)]
pub struct PeerTransport(Arc<TransportInner>);

struct TransportInner {
    local: LocalNode,
    addresses: PeerAddresses,
    credentials: Credentials,
    consensus: ConnectionSettings,
    /// The data channels that snapshots and requests share, with the address of each.
    data_channels: Mutex<HashMap<NodeId, (String, PeerChannel)>>,
}

/// What the two kinds of connections do not have in common.
#[derive(Clone, Copy, Debug)]
struct ConnectionSettings {
    connect_timeout: Duration,
    /// Interval of the keep-alives, and timeout of each.
    keep_alive: Duration,
}

const DATA: ConnectionSettings =
    ConnectionSettings { connect_timeout: DATA_CONNECT_TIMEOUT, keep_alive: KEEP_ALIVE };

/// A caller whose greeting was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedPeer {
    /// The node that the caller claims to be.
    pub node: NodeId,
    /// The version in which the two nodes write to each other.
    pub version: ClusterVersion,
}

/// Connects to an address without a greeting, for a node that has no identity yet or looks for members.
/// `timeout` is that of the connection, and of each call.
///
/// # Errors
/// [`DialError::Unreachable`] when the address is invalid or the connection fails.
pub async fn connect(
    credentials: &Credentials,
    address: &HostPort,
    timeout: Duration,
) -> Result<Channel, DialError> {
    let endpoint = endpoint(&address.to_string(), timeout)?.timeout(timeout);
    credentials.connect(&endpoint, None).await.map_err(DialError::from_transport)
}

/// Connects as a node that joins with a token: without a certificate, to a node that `pin` recognises.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_join(
    pin: AuthorityPin,
    address: &HostPort,
    timeout: Duration,
) -> Result<Channel, DialError> {
    let endpoint = endpoint(&address.to_string(), timeout)?.timeout(timeout);
    let connector = TlsConnector::for_joiner(pin);
    endpoint.connect_with_connector(connector).await.map_err(DialError::from_transport)
}

impl PeerTransport {
    /// The transport of node `me` without TLS. The connections for consensus follow `times`.
    pub fn new(
        cluster: ClusterId,
        me: NodeId,
        addresses: PeerAddresses,
        times: &ConsensusTimes,
    ) -> PeerTransport {
        PeerTransport::with_credentials(Credentials::Plaintext, cluster, me, addresses, times)
    }

    /// The transport of node `me`, which must be the node of its `credentials`.
    pub fn with_credentials(
        credentials: Credentials,
        cluster: ClusterId,
        me: NodeId,
        addresses: PeerAddresses,
        times: &ConsensusTimes,
    ) -> PeerTransport {
        let millis = |millis: u32| Duration::from_millis(millis.into());
        let consensus = ConnectionSettings {
            connect_timeout: millis(times.connect_timeout_ms),
            // A stopped process keeps its sockets open: only a timeout detects it.
            keep_alive: millis(times.election_max_ms),
        };
        let local = LocalNode { cluster, id: me, agreed_version: AgreedVersion::default() };
        let data_channels = Mutex::default();
        PeerTransport(Arc::new(TransportInner {
            local,
            addresses,
            credentials,
            consensus,
            data_channels,
        }))
    }

    /// The cluster of this node.
    pub fn cluster(&self) -> ClusterId {
        self.0.local.cluster
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.0.local.id
    }

    /// The version in which this node writes, which it announces to its peers. Shared: the holder raises it.
    pub fn agreed_version(&self) -> &AgreedVersion {
        &self.0.local.agreed_version
    }

    /// The addresses of the peers.
    pub fn addresses(&self) -> &PeerAddresses {
        &self.0.addresses
    }

    /// How this node secures its connections.
    pub fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// Secures the connections of the peer port, for `serve_with_incoming` of [`PeerTransport::server`].
    /// Connections that fail are closed, logged and counted.
    pub fn incoming<S, IO, E>(
        &self,
        connections: S,
    ) -> impl Stream<Item = Result<PeerConnection<IO>, E>> + use<S, IO, E>
    where
        S: Stream<Item = Result<IO, E>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo>,
        IO: Unpin + Send + 'static,
        E: 'static,
    {
        incoming(self.0.credentials.clone(), connections)
    }

    /// The server of the peer port, with the credentials of this node. It sets `TCP_NODELAY` and keep-alives.
    pub fn server(&self) -> PeerServer {
        let server = self.0.credentials.server();
        server
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
    }

    /// A dialer whose connections are not shared.
    pub fn dialer(&self, peer: NodeId, kind: ChannelKind) -> Dialer {
        Dialer::new(self.clone(), peer, kind)
    }

    /// The data channel that snapshots and requests share. It connects at the first call, and again when the
    /// connection broke, at the address at which the peer answered last.
    ///
    /// # Errors
    /// [`DialError::UnknownAddress`], or [`DialError::Unreachable`] when the address is invalid.
    pub fn data_channel(&self, peer: NodeId) -> Result<PeerChannel, DialError> {
        let address = self.0.addresses.preferred(peer).ok_or(DialError::UnknownAddress(peer))?;
        let mut channels = self.0.data_channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|&node, _| self.0.addresses.preferred(node).is_some());
        if let Some((_, channel)) = channels.get(&peer).filter(|(known, _)| *known == address) {
            return Ok(channel.clone());
        }
        let endpoint = self.endpoint(&address, ChannelKind::Data)?;
        let channel = self.greeted(peer, self.0.credentials.connect_lazy(&endpoint, peer));
        channels.insert(peer, (address, channel.clone()));
        Ok(channel)
    }

    /// Makes one attempt to connect to an address of a peer.
    pub(crate) async fn connect(
        &self,
        peer: NodeId,
        address: &str,
        kind: ChannelKind,
    ) -> Result<PeerChannel, DialError> {
        let endpoint = self.endpoint(address, kind)?;
        let channel = self.0.credentials.connect(&endpoint, Some(peer)).await;
        Ok(self.greeted(peer, channel.map_err(DialError::from_transport)?))
    }

    fn endpoint(&self, address: &str, kind: ChannelKind) -> Result<Endpoint, DialError> {
        let ConnectionSettings { connect_timeout, keep_alive } = match kind {
            ChannelKind::Consensus => self.0.consensus,
            ChannelKind::Data => DATA,
        };
        Ok(endpoint(address, connect_timeout)?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(keep_alive)
            .keep_alive_timeout(keep_alive)
            .keep_alive_while_idle(true))
    }

    fn greeted(&self, to: NodeId, channel: Channel) -> PeerChannel {
        InterceptedService::new(channel, GreetingInterceptor { local: self.0.local.clone(), to })
    }

    /// Awaits the response to a call of `peer` and checks its greeting. Returns the version in which the two
    /// nodes write to each other.
    ///
    /// # Errors
    /// [`DialError::TimedOut`], [`DialError::Failed`] with the status of the peer, or
    /// [`DialError::Greeting`] when another node answered or the versions do not overlap.
    pub async fn check_response<T>(
        &self,
        peer: NodeId,
        timeout_max: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<(ClusterVersion, Response<T>), DialError> {
        let local = &self.0.local;
        let response =
            timeout(timeout_max, call).await.map_err(|_| DialError::TimedOut(timeout_max))?;
        let response =
            response.map_err(|status| match local.conflict_of_rejection(status.metadata()) {
                Some(conflict) => GreetingError::Version { node: peer, conflict }.into(),
                None => DialError::Failed(status),
            })?;
        // With mutual TLS, a channel to `peer` exists only when the certificate of the connection names it.
        let node = local.check_identity(response.metadata())?;
        if node != peer {
            return Err(GreetingError::UnexpectedPeer { node, expected: peer }.into());
        }
        let version = local.negotiate(node, response.metadata())?;
        Ok((version, response))
    }

    /// Checks the greeting of a caller. A node that this node does not know yet is accepted: it may have
    /// just joined, or have a newer view than this one.
    ///
    /// # Errors
    /// With the reason; pass it to [`PeerTransport::reject`].
    pub fn accept<T>(&self, request: &Request<T>) -> Result<AcceptedPeer, GreetingError> {
        let local = &self.0.local;
        let node = local.check_identity(request.metadata())?;
        self.check_certificate(request, node)?;
        if self.0.addresses.is_removed(node) {
            return Err(GreetingError::RemovedNode { node });
        }
        let version = local.negotiate(node, request.metadata())?;
        Ok(AcceptedPeer { node, version })
    }

    /// The node that the certificate of the caller names; `None` without TLS, and for a caller that joins.
    pub fn certified_node<T>(&self, request: &Request<T>) -> Option<SpiffeId> {
        request.extensions().get::<PeerInfo>()?.node
    }

    /// Checks that a caller is the node that it claims to be, as far as the credentials of this node allow.
    ///
    /// # Errors
    /// With mutual TLS: [`GreetingError::Uncertified`] when the certificate of the connection does not name
    /// `node` of this cluster, and [`GreetingError::RemovedNode`] for a node whose certificate outlives its
    /// membership.
    pub fn check_certificate<T>(
        &self,
        request: &Request<T>,
        node: NodeId,
    ) -> Result<(), GreetingError> {
        let certified = self.certified_node(request);
        let claimed = SpiffeId { cluster: self.0.local.cluster, node };
        match self.0.credentials {
            Credentials::Plaintext => Ok(()),
            Credentials::MutualTls(_) if certified != Some(claimed) => {
                Err(GreetingError::Uncertified { node, certified })
            }
            Credentials::MutualTls(_) if self.0.addresses.is_removed(node) => {
                Err(GreetingError::RemovedNode { node })
            }
            Credentials::MutualTls(_) => Ok(()),
        }
    }

    /// The response to an accepted caller, with the greeting of this node.
    pub fn respond<T>(&self, to: AcceptedPeer, body: T) -> Response<T> {
        let mut response = Response::new(body);
        self.0.local.greet(to.node, response.metadata_mut());
        response
    }

    /// The status that rejects a caller. It carries the versions of this node, because the caller may be the
    /// side to change.
    pub fn reject(&self, error: &GreetingError) -> Status {
        let mut status = Status::failed_precondition(error.to_string());
        if let GreetingError::Version { node, .. } = *error {
            self.0.local.greet(node, status.metadata_mut());
        }
        status
    }
}

impl fmt::Debug for PeerTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTransport").field("local", &self.0.local).finish_non_exhaustive()
    }
}

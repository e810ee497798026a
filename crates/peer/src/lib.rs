//! Connects the nodes of a cluster to each other: dials peers, and checks the greeting of each caller.
//!
//! # Overview
//!
//! A node has one [`PeerTransport`]. Consensus, the relay and the services of the node call their peers
//! through it, and their gRPC services check each caller with it. The transport holds the identity of this
//! node, the addresses of its peers ([`PeerAddresses`]) and the means to secure a connection
//! ([`Credentials`]).
//!
//! Each peer is called over two channels ([`ChannelKind`]), which never share a connection:
//!
//! | channel | carries | keep-alive |
//! |---|---|---|
//! | consensus | votes, heartbeats and appends of all groups | `election_max` |
//! | data | links, snapshots, requests for operators | 2 s |
//!
//! The keep-alive of the consensus channel detects a stopped leader in time for an election.
//!
//! Streams of one connection share one queue in the kernel and one TCP window: bulk data would delay votes on
//! the consensus channel. For the same reason each link has a data connection of its own
//! ([`PeerTransport::dialer`]): a snapshot delays no message either. Snapshots and requests share another
//! connection ([`PeerTransport::data_channel`]).
//!
//! # Guarantees
//!
//! - Every call on a channel carries a greeting: the cluster, the node that calls, the node that is
//!   expected, and the versions of the caller. [`PeerTransport::accept`] checks it before anything else of the
//!   call is used, and [`PeerTransport::check_response`] checks that of the response.
//! - With [`Credentials::MutualTls`], the greeting of a caller must agree with the certificate of its connection,
//!   and a channel to a peer exists only when the certificate at its other end names that peer. Both name the
//!   cluster as well. Addresses and DNS names are not verified: nodes move. There is no fallback to plain text.
//! - Without a certificate a caller can join and nothing else, and only where nodes may join: every other call
//!   is rejected before a byte of its body is read.
//! - Certificate files are replaced as a whole, and only by files that peers accept. A connection ends when the
//!   certificate of the peer expires.
//! - A node of another cluster, another node than the expected one, a removed node, and a node whose versions
//!   do not overlap are rejected with a text that names what to change. The rejection of a version carries the
//!   greeting of the node that rejects, so that both sides know of the conflict.
//! - A [`Dialer`] tries all known addresses of its peer in turn, a new address at once, with a jittered
//!   back-off of at most one second.
//! - A peer that stops without closing its sockets is detected by keep-alives.
//!
//! # Non-goals
//!
//! Revocation lists: a node that is removed from the cluster is rejected by its id. Discovery: the caller adds
//! addresses. The content of calls. Callers without a greeting: a node that asks to join uses [`connect`] or
//! [`connect_to_join`]; the request itself says what the node is.
//!
//! # Data flow
//!
//! Caller: [`Dialer::connect`] or [`PeerTransport::data_channel`] → [`PeerChannel`], which adds the greeting to
//! each call → [`PeerTransport::check_response`]. Called node: [`PeerTransport::incoming`] →
//! [`PeerTransport::server`] → service →
//! [`PeerTransport::accept`] → [`PeerTransport::respond`] or [`PeerTransport::reject`].
//!
//! # Caller contract
//!
//! - Create one transport for each node and share it: clones share the addresses and the agreed version.
//! - Call [`PeerTransport::accept`] first in each service of the peer port, except where a node joins.
//! - Serve on [`PeerTransport::server`], which sets `TCP_NODELAY` and keep-alives, with the connections of
//!   [`PeerTransport::incoming`].
//! - Call [`MutualTls::reload`] at an interval.
//! - After [`Dialer::connect`], call [`Dialer::on_answered`] when the peer has answered, and
//!   [`Dialer::wait_before_retry`] before the next attempt.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use pushonce_core::{ClusterId, ConsensusTimes, NodeId};
//! use pushonce_peer::{ChannelKind, DialError, PeerAddresses, PeerTransport};
//! use pushonce_proto::pb::peer::v1 as pb;
//! use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
//!
//! async fn read_moves(peer: NodeId) -> Result<pb::MovesResponse, DialError> {
//!     let addresses = PeerAddresses::default();
//!     addresses.set(peer, "n2.example:7091");
//!     let transport =
//!         PeerTransport::new(ClusterId(7), NodeId(1), addresses, &ConsensusTimes::LAN);
//!     let mut dialer = transport.dialer(peer, ChannelKind::Data);
//!     let mut client = MembershipServiceClient::new(dialer.connect().await?);
//!     let call = client.moves(pb::MovesRequest {});
//!     let timeout = Duration::from_secs(1);
//!     let (_version, response) = transport.check_response(peer, timeout, call).await?;
//!     dialer.on_answered();
//!     Ok(response.into_inner())
//! }
//! ```

mod addresses;
mod credentials;
mod dialer;
mod error;
mod greeting;
mod metrics;
mod tls;
mod transport;

pub use addresses::PeerAddresses;
pub use credentials::{Credentials, PeerServer};
pub use dialer::Dialer;
pub use error::{DialError, GreetingError};
pub use greeting::PeerChannel;
pub use metrics::METRICS;
pub use tls::{
    AuthorityPin, CertificateFiles, CertificateFilesError, CertificateRejection, MutualTls,
    PeerConnection, PeerInfo, Reload, RequireCertificate, RequireCertificateLayer,
};
pub use transport::{AcceptedPeer, ChannelKind, PeerTransport, connect, connect_to_join};

//! The transport of consensus: one gRPC stream to each peer carries the requests of all groups, except for
//! snapshots, which are sent on the data channel.

mod dial;
mod fence;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile_test;
mod link;
mod log_handshake;
mod log_proof;
mod peer_client;
mod peer_streams;
mod request_check;
mod requests;
mod rollback;
mod service;
mod snapshot_channel;
mod snapshot_receiver;
pub(crate) mod wire;

pub use fence::read_rollback_reason;
pub use service::RaftService;

pub(crate) use dial::{RaftLinks, RaftLinksContext};
pub(crate) use fence::Fence;
pub(crate) use link::LinkError;
pub(crate) use log_proof::LogKey;
pub(crate) use peer_client::PeerClientFactory;
pub(crate) use peer_streams::PeerCalls;
pub(crate) use rollback::RollbackDetector;
pub(crate) use service::GroupRegistry;
pub(crate) use snapshot_receiver::IncomingSnapshot;
pub(crate) use wire::{FRAME_BYTES_MAX, Kind, ProposalOutcome};

//! Runs many Raft groups on one node, with one log file, one writer thread and one stream to each peer.
//!
//! # Overview
//!
//! A [`ConsensusEngine`] runs any number of replicated state machines ([`StateMachine`]) and returns a
//! [`RaftGroup`] for each. One redb file holds the logs, votes and snapshots of all groups; one thread writes
//! it, and one fsync serves all pending writes. One gRPC stream to each peer carries the requests of all
//! groups; snapshots are sent on another connection. This is the only crate that depends on openraft.
//!
//! # Guarantees
//!
//! - An answered proposal is on the disks of a majority. Every replica applies the same entries in the same
//!   order.
//! - A vote is on disk before it is sent.
//! - [`RaftGroup::leader_term`] is exact at the moment of the call: a leader without a quorum loses its lease
//!   before another node can be elected, and no two nodes lead under one term.
//! - A record that fails its checksum is never served. A replica with a damaged entry or snapshot restores it
//!   from the other replicas and does not vote before it has it.
//! - A full disk loses nothing that was written, and writing resumes without intervention when space is
//!   freed. A new leader commits the entries of earlier terms although a majority has no space for publishes.
//! - A snapshot delays no vote, heartbeat or entry: it has a connection of its own. Its transfer has no
//!   deadline while it makes progress, resumes at the last piece, and alternates with the transfers of other
//!   groups.
//! - Every queue is bounded in bytes.
//! - The lease and the vote hold can be changed at run time ([`ConsensusEngine::set_times`]). They are
//!   measured with a clock that includes suspension.
//! - A node whose log was rolled back to an earlier state takes part in no group as soon as one peer is up
//!   that knows of its later commits ([`ConsensusEngine::rollback_reason`]). No peer can claim commits that the
//!   node never signed.
//! - Everything on disk and on a link begins with a cluster version: the agreed one
//!   ([`ConsensusEngine::agreed_version`]), which [`ConsensusEngine::raise_version`] raises. A peer that
//!   cannot read it is rejected with the reason. An entry or snapshot that the machine cannot read halts the
//!   replica ([`GroupStatus::halt_reason`]): it does not count as applied, other groups continue, and a build
//!   that reads it continues there.
//! - A group that permanently lost its majority can be recovered on a stopped node ([`OfflineStore`]).
//! - A peer cannot end a replica or the process with what it sends. A request is accepted from the node that it
//!   names only, and only if that node may lead the group; terms and indexes move by bounded steps; an entry or
//!   snapshot is decoded before it is stored. A rejected request is counted
//!   (`pushonce_consensus_rejected_requests_total`) and has no effect. A voter that lies within these bounds is
//!   not detected: Raft trusts its voters.
//!
//! # Non-goals
//!
//! The content of entries. Reads: the owner of a machine reads its own state while it leads. Retries of
//! proposals: the caller knows which are safe.
//!
//! The engine refuses to open a directory that is open elsewhere, belongs to another node or cluster, or
//! cannot be read. It refuses to start a replica whose vote cannot be read or is older than its log, or whose
//! entries no other replica has. A log whose snapshot, entries and commit mark are inconsistent is restored
//! from the other replicas. Nothing is deleted in order to start. After a failed write or fsync the process
//! ends. After a panic in a machine the replica fails and its status shows it. A replica that its group has
//! added again is not destroyed.
//!
//! # Data flow
//!
//! Proposal → openraft → the log in memory and at once to the peers → disk → committed →
//! [`StateMachine::apply`] on every replica; the response of the machine returns to the proposer. A proposal
//! has one of three outcomes: answered, rejected (nothing happened) or unknown (it may have happened).
//!
//! # Caller contract
//!
//! - Initialise a group on one node only.
//! - Do not destroy a replica that is still a member.
//! - Do not start a second replica of a group on the same node from another directory.
//! - Do not use [`GroupStatus::leader`] to decide ownership.
//! - A machine must not block, and must not depend on a clock or on randomness.
//! - Announce the nodes of each new cluster view ([`ConsensusEngine::set_cluster_nodes`]).
//!
//! ```no_run
//! use std::path::Path;
//!
//! use bytes::Bytes;
//! use pushonce_consensus::{
//!     ConsensusEngine, ConsensusSettings, GroupId, PeerAddresses, PeerTransport, StateMachine,
//! };
//! use pushonce_core::{ClusterId, NodeId};
//!
//! async fn run(machine: impl StateMachine) -> Result<(), Box<dyn std::error::Error>> {
//!     let (dir, cluster, me) = (Path::new("data"), ClusterId(7), NodeId(1));
//!     ConsensusEngine::create(dir, cluster, me).await?;
//!     let (settings, peers) = (ConsensusSettings::lan(), PeerAddresses::default());
//!     let transport = PeerTransport::new(cluster, me, peers, &settings.times());
//!     let engine = ConsensusEngine::open(dir, settings, transport).await?;
//!     let group = engine.start(GroupId(1), machine).await?;
//!     group.initialize().await?;
//!     let _response = group.propose_at_leader(Bytes::from_static(b"entry")).await?;
//!     engine.stop().await;
//!     Ok(())
//! }
//! ```

/// The support of the integration tests names the crate.
#[cfg(test)]
extern crate self as pushonce_consensus;

mod adapter;
mod clock;
mod cluster_nodes;
mod disk_reserve;
mod engine;
mod group;
mod group_monitor;
mod leader_transfer;
mod lease;
mod log;
mod membership;
mod metrics;
mod network;
mod offline;
mod recovery;
mod runtime;
mod settings;
mod snapshot;
mod state_machine;
mod status;
mod store;
mod term_guard;
mod types;
mod vote_hold;

pub use disk_reserve::{DiskProbe, DiskSpace};
pub use engine::{ConsensusEngine, DestroyError, EngineOpenError, HostHooks, StartError};
pub use group::{ENTRY_BYTES_MAX, GroupId, InitializeError, ProposeError, RaftGroup};
pub use membership::{MembershipError, SuccessorRejection};
pub use metrics::METRICS;
pub use network::{RaftService, read_rollback_reason};
pub use offline::{OfflineError, OfflineGroup, OfflineStore};
pub use pushonce_peer::{PeerAddresses, PeerTransport};
pub use settings::{ConsensusSettings, InvalidSettings, SettingsWarning};
pub use state_machine::{EntryId, StateMachine, StateSnapshot};
pub use status::{GroupStatus, SnapshotProgress};
pub use store::LogMark;

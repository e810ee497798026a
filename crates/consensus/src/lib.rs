//! Consensus, ready for use: many Raft groups of one node on one log, one writer and one stream to
//! each peer. The only crate that names openraft.
//!
//! *What is it?* An [`ConsensusEngine`] that runs any number of replicated state machines ([`StateMachine`]) and
//! gives a [`RaftGroup`] for each. One redb file holds the logs, votes and snapshots of all of them; one
//! thread writes it, and one fsync serves everyone who waits. One gRPC stream to each peer carries
//! the requests of all groups.
//!
//! *What does it promise?* A proposal that was answered is on the disks of a majority, and every
//! replica applies the same entries in the same order. A vote is on disk before it is given. What
//! [`RaftGroup::leader_term`] says holds when it is said: a leader without a quorum loses its lease before
//! another can be elected, and no two nodes lead under one term. A record that fails its checksum is
//! never served: a replica with a damaged entry or snapshot gets what it lost from the others, and
//! elects nobody before it has it. On a full disk nothing that was written is lost, and all goes on
//! by itself when there is room; a new leader answers for the past although a majority has no room to
//! publish. A snapshot holds up entries for one piece at most. Its transfer to a replica has no deadline
//! while it makes progress, resumes at the piece it had reached, and takes turns with those of other
//! groups; heartbeats and appends pass it. Every queue is bounded in bytes.
//!
//! How long leases last and are respected changes while a node runs ([`ConsensusEngine::set_times`]); they are judged
//! by a clock that counts suspensions. A node whose log was put back to an earlier state takes part in
//! nothing, as soon as one peer is up that has heard of its later commits ([`ConsensusEngine::rollback_reason`]). A group
//! that has lost its majority for good can be begun anew on a node that does not run ([`OfflineStore`]).
//!
//! *What of versions?* Everything on disk and on a link begins with a cluster version: the one that nodes
//! agreed on ([`ConsensusEngine::agreed_version`]), raised by [`ConsensusEngine::raise_version`] once the directory says so. A
//! peer that cannot read it is refused in words. An entry or a snapshot that the machine cannot read halts
//! the replica ([`GroupStatus::halt_reason`]): it does not count as applied, the other groups go on, and a build that
//! reads it goes on there.
//!
//! *What does it refuse?* To know what is replicated. A directory that is open elsewhere, belongs to
//! another node or cluster, or cannot be read; a replica whose vote cannot be read or is older than its
//! log, or whose entries nobody else has; a log whose snapshot, entries and commit mark contradict each
//! other is got from the others again; nothing is ever deleted to get going. To go on after a failed write
//! or fsync: the process ends. To go on after a panic in a machine: the replica fails, and its status
//! says so. To destroy a replica that its group has taken back. Peers that mean another node. Absent on purpose: reads (the
//! machine's owner reads its own state while it leads), TLS (a later layer of the dialler and of
//! the server the service is mounted on), and retries of proposals (the caller knows which are safe).
//!
//! *How does data move?* `propose_forwarded` → openraft → the log in memory and at once to the peers → disk →
//! committed → [`StateMachine::apply`] on every replica; its answer goes back to the proposer. An outcome
//! is one of three: answered, refused (nothing happened), unknown (it may have happened).
//!
//! *What must a caller not do?* Initialise a group on two nodes. Destroy a replica that is still a
//! member. Start a node's second replica of a group from another directory. Take [`GroupStatus::leader`]
//! for ownership. Block in a machine, or let it look at a clock or at chance.

mod adapter;
mod clock;
mod disk_reserve;
mod engine;
mod group;
mod group_monitor;
mod lease;
mod log;
mod membership;
mod metrics;
mod network;
mod offline;
#[cfg(feature = "planted-bugs")]
mod planted;
mod recovery;
mod runtime;
mod settings;
mod snapshot;
mod state_machine;
mod status;
mod store;
mod types;
mod vote_hold;

pub use disk_reserve::{DiskFull, DiskProbe, DiskSpace};
pub use engine::{ConsensusEngine, DestroyError, EngineOpenError, HostHooks, StartError};
pub use group::{ENTRY_BYTES_MAX, GroupId, InitializeError, ProposeError, RaftGroup};
pub use membership::MembershipError;
pub use metrics::METRICS;
pub use network::{PeerAddresses, RaftService, read_rollback_reason};
pub use offline::{OfflineError, OfflineGroup, OfflineStore};
pub use settings::{ConsensusSettings, InvalidSettings, SettingsWarning};
pub use state_machine::{EntryId, StateMachine, StateSnapshot};
pub use status::{GroupStatus, SnapshotProgress};
pub use store::LogMark;

//! Cluster membership, shard placement and namespaces, replicated by one control group.
//!
//! # Overview
//!
//! The control group is one Raft group over the whole cluster, in which every node is a voter or a learner.
//! Its state is small: the members and their ids, the placement of the shards, the namespaces, the
//! consensus times and the cluster version. Pure planning functions work on that state: which members vote
//! ([`select_voters`]), how one group reaches its desired replicas ([`reconcile`]), which replicas this
//! node runs ([`hosting`]), whether a member may leave ([`leave`]), and what is wrong with the cluster
//! ([`health`]).
//!
//! ```no_run
//! # use pushonce_control::{CommandError, ControlHandle};
//! # use pushonce_core::NodeId;
//! # async fn example(control: ControlHandle) -> Result<(), CommandError> {
//! control.drain(NodeId(3), false).await?;
//! let view = control.view().borrow().clone();
//! let member_count = view.map_or(0, |view| view.members.len());
//! # let _ = member_count;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - Every node sees the same versions of the cluster in the same order.
//! - A node id is assigned once. A node with a certificate gets the id in it; ids that are skipped stay
//!   available.
//! - A join token admits one data directory. Only its hash is stored.
//! - A placement is committed before any replica moves towards it. A group changes by one replica at a
//!   time, a new replica votes only after it has caught up, and leadership is transferred only to a live
//!   voter that has caught up.
//! - The consensus times change for all members in two steps, and the second step waits for every member.
//! - [`ControlHandle::finalize`] raises the cluster version by one if every member has announced a build
//!   that supports the next version. The version never decreases, and a node whose build does not support
//!   it is rejected. The version is raised by an operator, never automatically: until then every node can
//!   be downgraded.
//! - A member that joined and never became active is dropped after ten minutes without a link, and at most 32
//!   members join at a time. A join that changes nothing costs no entry.
//! - The group rejects a data directory of another cluster, a removed node, an old copy of a data
//!   directory, a member whose log is lost or rolled back, a node with other consensus times, and a name
//!   that is in use.
//!
//! # Non-goals
//!
//! The control group knows no payloads, subscriptions or clients, and none of these costs it an entry. It
//! draws no random numbers and opens no connections.
//!
//! # Data flow
//!
//! [`ControlHandle`] sends a command to the leader. The command is committed and applied on every node, and
//! produces a new [`ClusterView`](pushonce_core::ClusterView) in the watch of [`ControlHandle::view`]. On
//! the leader the [`ControlRunner`] observes the view, the group and the reachable nodes, and performs the
//! next due task.
//!
//! # Caller contract
//!
//! - The placement is the desired state; who owns a shard now is known from ownership claims.
//! - Never give two data directories the same [`Incarnation`].
//! - Never start a node with an empty data directory under an id it had before.
//! - Fill the engine's peer addresses from the view: the engine dials peers by these addresses.

mod command;
mod control;
pub mod health;
pub mod hosting;
mod leader_task;
pub mod leave;
mod member;
pub mod reconcile;
mod recover;
mod repeated_join;
mod replica;
mod rules;
mod runner;
mod state;
mod ticket_rotation;
mod times;
mod voters;

pub use command::{
    BootstrapCommand, CommandRejection, CommandReply, ControlCommand, JoinCommand, JoinCredential,
    JoinReply, MoveToMemory,
};
pub use control::{BootstrapError, CommandError, ControlHandle};
pub use member::{Incarnation, InvalidProfile, ProcessRun, Profile};
pub use recover::{capture, replay};
pub use runner::ControlRunner;
pub use state::{ControlState, RecoverError};
pub use voters::select_voters;

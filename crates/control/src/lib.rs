//! Who is in the cluster, and who should hold what.
//!
//! *What is it?* One Raft group over the whole cluster, in which every node votes or follows. Its
//! state is small: members and their ids, the table of shards, the namespaces. Beside it stand the
//! pure plans that follow from that state: which members vote ([`select_voters`]), how one group gets from
//! its replicas to the wanted ones ([`reconcile`]), which replicas this node runs ([`hosting`]), whether
//! a member may go ([`leave`]).
//!
//! *What does it promise?* Every node sees the same versions of the cluster in the same order. A
//! node id is given out once. A table is committed before anybody moves towards it. A group changes
//! by one replica at a time, a newcomer votes only when it is level, and leadership is handed only
//! to a living voter that is level.
//!
//! The times of consensus change for all members in two steps, of which the second waits for every member.
//!
//! *What of versions?* The state holds the version of the cluster. [`ControlHandle::finalize`] raises it by one
//! when every member announced that its build supports the next; it never goes down, and a node whose build
//! does not support it is refused. By hand and not by itself: until then every node may go back.
//!
//! *What does it refuse?* A directory of another cluster, a node the cluster removed, an old copy of a
//! directory, a member whose log is gone or older than it was, a node with other times of consensus, a name
//! that is taken. It knows no payload, subscription or client: none of these costs the group an entry. It
//! draws no random number and dials nobody.
//!
//! *How does data move?* A command goes through [`ControlHandle`] to the leader, is committed, applied on
//! every node, and comes out as a new [`ClusterView`](pushonce_core::ClusterView) of the watch that
//! [`ControlHandle::view`] gives. On the leader the [`ControlRunner`] looks at view, group and reachable nodes
//! and does the next thing that is due.
//!
//! *What must a caller not do?* Take the table for the truth: it is the wish, and who owns a shard
//! now is told by claims. Give two directories one [`Incarnation`]. Start a node on an empty
//! directory under an id it had before. Forget that peers are dialled through the engine's address
//! book: the caller fills it from the view.

mod command;
mod control;
pub mod health;
pub mod hosting;
mod leader_task;
pub mod leave;
mod member;
pub mod reconcile;
mod recover;
mod replica;
mod rules;
mod runner;
mod state;
mod times;
mod voters;

pub use command::{
    BootstrapCommand, CommandRejection, CommandReply, ControlCommand, JoinCommand, JoinReply,
};
pub use control::{BootstrapError, CommandError, ControlHandle};
pub use member::{Incarnation, InvalidProfile, ProcessRun, Profile};
pub use recover::{capture, replay};
pub use runner::ControlRunner;
pub use state::{ControlState, RecoverError};
pub use voters::select_voters;

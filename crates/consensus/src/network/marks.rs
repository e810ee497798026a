//! What nodes know of each other's logs: a node whose log went back in time takes part no more.
//!
//! Every commit of a node's log counts itself, and every frame says how many there are. A peer
//! remembers the count of each node. When the node starts again with a lower one, its log was put back
//! to an earlier state while it was in use (a restored directory, a snapshot of a disk, a disk that lost
//! what it had synced): the node has forgotten votes that it gave and entries that it acknowledged. So
//! both ends of a new stream compare, and such a node is refused by its peers and closes its own fence.
//!
//! What this does not find: a log that goes back while no peer is up that heard of the lost commits.
//! The control group remembers a count as well, from each start of a node.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::NodeId;

use super::fence::Fence;
use crate::store::Writes;

/// Nodes of which a count is remembered, 40 bytes each. Anybody who knows the cluster's id may name any node
/// that was not heard of yet.
const PEERS_MAX: usize = 10_000;

/// The counts of the peers, and this node's own. Clones share them.
#[derive(Clone)]
pub(crate) struct Marks(Arc<Shared>);

struct Shared {
    me: NodeId,
    process: u64,
    /// The count with which this process has opened its log.
    opened: u64,
    writes: Writes,
    peers: Mutex<HashMap<NodeId, Peer>>,
    fence: Fence,
}

/// What is known of a peer.
#[derive(Clone, Copy, Debug)]
struct Peer {
    heard: Heard,
    /// The process that was refused last.
    refused: Option<u64>,
}

/// The highest count that was heard from a process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    process: u64,
    writes: u64,
}

/// What one end of a stream says to the other first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// Drawn when the process opened its log.
    process: u64,
    /// The count then.
    opened: u64,
    /// The count now.
    writes: u64,
}

/// One of both logs went back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log of {node} was put back to an earlier state: {known} commits are known of it, and it \
     has {opened}. It has forgotten votes and messages that it acknowledged. Stop {node}, run \
     `pushonce cluster remove {node}`, and start a new node with an empty data directory"
)]
pub(super) struct RolledBack {
    pub(super) node: NodeId,
    known: u64,
    opened: u64,
}

impl Marks {
    pub(crate) fn new(me: NodeId, opened: u64, writes: Writes, fence: Fence) -> Marks {
        let (process, peers) = (rand::random(), Mutex::default());
        Marks(Arc::new(Shared { me, process, opened, writes, peers, fence }))
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// How many commits this node's log has now.
    pub(super) fn writes(&self) -> u64 {
        self.0.writes.get()
    }

    pub(super) fn greeting(&self) -> Greeting {
        Greeting { process: self.0.process, opened: self.0.opened, writes: self.writes() }
    }

    /// What this node has heard from a peer.
    pub(super) fn heard(&self, peer: NodeId) -> Option<Heard> {
        self.peers().get(&peer).map(|known| known.heard)
    }

    /// Compares what a peer has heard from this node with this node's log. Closes the fence when the
    /// log is the older one.
    pub(super) fn check_own(&self, heard: Option<Heard>) -> Result<(), RolledBack> {
        let Shared { me, process, opened, fence, .. } = &*self.0;
        let found = lost(*me, heard, *process, *opened).and_then(|()| self.check_process(heard));
        if let Err(why) = found {
            if !fence.is_closed() {
                tracing::error!(node = %me, %why, "this node takes no part in any group");
            }
            fence.close(why.to_string());
        }
        found
    }

    /// A machine may have been put back together with its memory: the process has told peers of commits
    /// that it never made since.
    fn check_process(&self, heard: Option<Heard>) -> Result<(), RolledBack> {
        let (node, now) = (self.0.me, self.writes());
        match heard.filter(|heard| heard.process == self.0.process && heard.writes > now) {
            Some(Heard { writes: known, .. }) => Err(RolledBack { node, known, opened: now }),
            None => Ok(()),
        }
    }

    /// Compares what a peer says of its log with what is known of it, and remembers it.
    pub(super) fn check_peer(&self, peer: NodeId, said: Greeting) -> Result<(), RolledBack> {
        let mut peers = self.peers();
        let known = peers.get_mut(&peer);
        if let Err(why) = lost(peer, known.as_ref().map(|it| it.heard), said.process, said.opened) {
            let again =
                known.is_some_and(|it| it.refused.replace(said.process) == Some(said.process));
            if !again {
                tracing::warn!(%peer, %why, "refusing a peer whose log was put back");
                metrics::counter!("pushonce_rolled_back_peers_refused_total").increment(1);
            }
            return Err(why);
        }
        if known.is_none() && peers.len() >= PEERS_MAX {
            return Ok(());
        }
        let known = peers.get(&peer);
        let before = known.map_or(0, |it| it.heard.writes);
        let heard =
            Heard { process: said.process, writes: said.writes.max(said.opened).max(before) };
        peers.insert(peer, Peer { heard, refused: None });
        Ok(())
    }

    /// A frame of a stream that began with this greeting has said the count.
    pub(super) fn note(&self, peer: NodeId, greeting: Greeting, writes: u64) {
        let mut peers = self.peers();
        let known = peers.get_mut(&peer).map(|known| &mut known.heard);
        if let Some(heard) = known.filter(|heard| heard.process == greeting.process) {
            heard.writes = heard.writes.max(writes);
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, Peer>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a log that a process has opened lacks commits that another process made before.
fn lost(node: NodeId, heard: Option<Heard>, process: u64, opened: u64) -> Result<(), RolledBack> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted::ignores_rollback() {
        return Ok(());
    }
    match heard {
        Some(Heard { process: before, writes: known }) if before != process && known > opened => {
            Err(RolledBack { node, known, opened })
        }
        _ => Ok(()),
    }
}

/// As it travels.
impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.process, self.opened, self.writes)
    }
}

impl FromStr for Greeting {
    type Err = ();

    fn from_str(text: &str) -> Result<Greeting, ()> {
        match numbers(text).as_deref() {
            Some(&[process, opened, writes]) => Ok(Greeting { process, opened, writes }),
            _ => Err(()),
        }
    }
}

/// As it travels.
impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.process, self.writes)
    }
}

impl FromStr for Heard {
    type Err = ();

    fn from_str(text: &str) -> Result<Heard, ()> {
        match numbers(text).as_deref() {
            Some(&[process, writes]) => Ok(Heard { process, writes }),
            _ => Err(()),
        }
    }
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split(':').take(4).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn marks(opened: u64) -> Marks {
        Marks::new(NodeId(1), opened, Writes::default(), Fence::default())
    }

    fn greeting(process: u64, opened: u64, writes: u64) -> Greeting {
        Greeting { process, opened, writes }
    }

    #[test]
    fn a_peer_that_starts_again_with_its_log_is_taken() {
        let marks = marks(0);
        let first = greeting(1, 10, 10);
        assert_eq!(marks.check_peer(PEER, first), Ok(()));
        marks.note(PEER, first, 50);
        assert_eq!(marks.check_peer(PEER, first), Ok(()), "a second stream of the same process");
        assert_eq!(marks.check_peer(PEER, greeting(2, 50, 50)), Ok(()));
        assert_eq!(marks.check_peer(PEER, greeting(3, 60, 60)), Ok(()));
    }

    #[test]
    fn a_peer_that_starts_again_with_fewer_commits_is_refused_for_as_long_as_it_is_known() {
        let marks = marks(0);
        let first = greeting(1, 10, 10);
        marks.check_peer(PEER, first).expect("it is new");
        marks.note(PEER, first, 50);
        let back = marks.check_peer(PEER, greeting(2, 49, 49)).expect_err("one commit is lost");
        assert_eq!(back, RolledBack { node: PEER, known: 50, opened: 49 });
        // It goes on by itself, and has more commits than it ever had.
        assert!(marks.check_peer(PEER, greeting(2, 49, 900)).is_err());
        assert!(marks.check_peer(PEER, greeting(3, 49, 900)).is_err());
    }

    #[test]
    fn an_old_frame_of_an_earlier_process_is_not_taken_for_the_new_one() {
        let marks = marks(0);
        let first = greeting(1, 10, 10);
        marks.check_peer(PEER, first).expect("it is new");
        marks.check_peer(PEER, greeting(2, 20, 20)).expect("it has its log");
        marks.note(PEER, first, 15);
        assert_eq!(marks.heard(PEER), Some(Heard { process: 2, writes: 20 }));
    }

    #[test]
    fn a_node_that_hears_of_commits_it_lacks_closes_its_fence() {
        let own = marks(40);
        let process = own.greeting().process;
        assert_eq!(own.check_own(None), Ok(()));
        own.0.writes.set(60);
        assert_eq!(own.check_own(Some(Heard { process, writes: 60 })), Ok(()), "its own commits");
        let before = process.wrapping_add(1);
        assert_eq!(own.check_own(Some(Heard { process: before, writes: 40 })), Ok(()));
        assert!(!own.fence().is_closed());
        assert!(own.check_own(Some(Heard { process: before, writes: 41 })).is_err());
        assert!(own.fence().reason().is_some_and(|why| why.contains("cluster remove n1")));
    }

    #[test]
    fn a_process_that_was_put_back_with_its_memory_closes_its_fence() {
        let own = marks(40);
        own.0.writes.set(60);
        let process = own.greeting().process;
        assert!(own.check_own(Some(Heard { process, writes: 61 })).is_err());
        assert!(own.fence().is_closed());
    }

    #[test]
    fn what_is_said_arrives_as_it_was_said() {
        let said = greeting(u64::MAX, 7, 9);
        assert_eq!(said.to_string().parse(), Ok(said));
        let heard = Heard { process: 3, writes: 4 };
        assert_eq!(heard.to_string().parse(), Ok(heard));
        for bad in ["", "1:2", "1:2:3:4", "a:b:c", "1:2:-3"] {
            assert_eq!(bad.parse::<Greeting>(), Err(()), "{bad:?}");
        }
    }
}

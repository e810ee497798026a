//! The consensus times that all nodes of a cluster share, and how they change.
//!
//! A leader trusts its lease for a while (`lease`), and a replica elects no other leader for a while after
//! it received a message of its leader (`vote_holdoff`). There are never two leaders at once as long as the
//! longest lease in the cluster is not longer than the shortest holdoff. A change therefore has two steps.
//! In the first, every node uses the shorter of both leases and the longer of both holdoffs. The second, in
//! which both have the new length, begins when every member has acknowledged the first.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Consensus times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConsensusTimes {
    /// Interval of a leader's heartbeats.
    pub heartbeat_ms: u32,
    /// Minimum time without a leader before a follower starts an election.
    pub election_min_ms: u32,
    /// Maximum such time, and the length of a leader's lease.
    pub election_max_ms: u32,
    /// Timeout of a small request to a peer.
    pub rpc_timeout_ms: u32,
    /// Timeout of dialling a peer.
    pub connect_timeout_ms: u32,
}

/// The times that the cluster has agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterTimes {
    /// Increases by one with each step of a change.
    pub version: u64,
    /// The times in force.
    pub current: ConsensusTimes,
    /// The times in force once every member has acknowledged `version`; `None` when no change is under way.
    pub next: Option<ConsensusTimes>,
}

impl ConsensusTimes {
    /// For nodes within a few milliseconds of each other.
    pub const LAN: ConsensusTimes = ConsensusTimes {
        heartbeat_ms: 150,
        election_min_ms: 400,
        election_max_ms: 800,
        rpc_timeout_ms: 250,
        connect_timeout_ms: 100,
    };

    /// For nodes on different continents: round trips of up to 250 ms.
    pub const WAN: ConsensusTimes = ConsensusTimes {
        heartbeat_ms: 500,
        election_min_ms: 2000,
        election_max_ms: 4000,
        rpc_timeout_ms: 1000,
        connect_timeout_ms: 750,
    };
}

/// The form of command line flags.
impl fmt::Display for ConsensusTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConsensusTimes { heartbeat_ms, election_min_ms, election_max_ms, .. } = self;
        let ConsensusTimes { rpc_timeout_ms, connect_timeout_ms, .. } = self;
        match *self {
            ConsensusTimes::LAN => f.write_str("--consensus lan"),
            ConsensusTimes::WAN => f.write_str("--consensus wan"),
            _ => write!(
                f,
                "--heartbeat {heartbeat_ms}ms --election-min {election_min_ms}ms \
                 --election-max {election_max_ms}ms --rpc-timeout {rpc_timeout_ms}ms \
                 --connect-timeout {connect_timeout_ms}ms"
            ),
        }
    }
}

impl Default for ConsensusTimes {
    fn default() -> ConsensusTimes {
        ConsensusTimes::LAN
    }
}

impl ClusterTimes {
    /// The times of a new cluster.
    pub fn new(current: ConsensusTimes) -> ClusterTimes {
        ClusterTimes { version: 1, current, next: None }
    }

    /// The times in force after the change under way, if any, is complete.
    pub fn target(&self) -> ConsensusTimes {
        self.next.unwrap_or(self.current)
    }

    /// How long a leader may trust its lease at present.
    pub fn lease(&self) -> Duration {
        let next = self.target().election_max_ms;
        Duration::from_millis(self.current.election_max_ms.min(next).into())
    }

    /// How long a replica elects no other leader after it received a message of its leader.
    pub fn vote_holdoff(&self) -> Duration {
        let next = self.target().election_max_ms;
        Duration::from_millis(self.current.election_max_ms.max(next).into())
    }

    /// Whether a node may start with these times: they are in force, or will be after the change under way.
    pub fn accepts(&self, times: &ConsensusTimes) -> bool {
        *times == self.current || *times == self.target()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_first_shortens_the_lease_and_lengthens_the_vote_holdoff() {
        let (lan, wan) = (ConsensusTimes::LAN, ConsensusTimes::WAN);
        for (current, next) in [(lan, wan), (wan, lan)] {
            let times = ClusterTimes { version: 2, current, next: Some(next) };
            assert_eq!(times.lease(), Duration::from_millis(800));
            assert_eq!(times.vote_holdoff(), Duration::from_millis(4000));
            assert!(times.accepts(&lan) && times.accepts(&wan));
        }
        let settled = ClusterTimes::new(wan);
        assert_eq!(
            (settled.lease(), settled.vote_holdoff()),
            (settled.vote_holdoff(), settled.lease())
        );
        assert!(!settled.accepts(&lan));
    }

    #[test]
    fn times_are_printed_as_the_flags_that_set_them() {
        assert_eq!(ConsensusTimes::WAN.to_string(), "--consensus wan");
        let other = ConsensusTimes { heartbeat_ms: 200, ..ConsensusTimes::LAN };
        assert!(other.to_string().starts_with("--heartbeat 200ms --election-min 400ms "));
    }
}

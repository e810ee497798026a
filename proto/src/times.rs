//! Conversion of the consensus timeouts of a cluster.

use pushonce_core::{ClusterTimes, ConsensusTimes};

use crate::InvalidField;
use crate::pb::cluster::v1 as pb;

impl From<ConsensusTimes> for pb::ConsensusTimes {
    fn from(times: ConsensusTimes) -> pb::ConsensusTimes {
        pb::ConsensusTimes {
            heartbeat: times.heartbeat_ms,
            election_min: times.election_min_ms,
            election_max: times.election_max_ms,
            rpc_timeout: times.rpc_timeout_ms,
            connect_timeout: times.connect_timeout_ms,
        }
    }
}

/// Does not check that the times fit together: the consensus crate does.
impl From<pb::ConsensusTimes> for ConsensusTimes {
    fn from(times: pb::ConsensusTimes) -> ConsensusTimes {
        ConsensusTimes {
            heartbeat_ms: times.heartbeat,
            election_min_ms: times.election_min,
            election_max_ms: times.election_max,
            rpc_timeout_ms: times.rpc_timeout,
            connect_timeout_ms: times.connect_timeout,
        }
    }
}

impl From<ClusterTimes> for pb::ClusterTimes {
    fn from(times: ClusterTimes) -> pb::ClusterTimes {
        pb::ClusterTimes {
            version: times.version,
            current: Some(times.current.into()),
            next: times.next.map(pb::ConsensusTimes::from),
        }
    }
}

impl TryFrom<pb::ClusterTimes> for ClusterTimes {
    type Error = InvalidField;

    fn try_from(times: pb::ClusterTimes) -> Result<ClusterTimes, InvalidField> {
        let current = times.current.ok_or_else(|| InvalidField::missing("times.current"))?;
        Ok(ClusterTimes {
            version: times.version,
            current: current.into(),
            next: times.next.map(ConsensusTimes::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        let (current, next) = (ConsensusTimes::LAN, Some(ConsensusTimes::WAN));
        for times in [ClusterTimes { version: 3, current, next }, ClusterTimes::new(current)] {
            assert_eq!(ClusterTimes::try_from(pb::ClusterTimes::from(times)), Ok(times));
        }
        assert!(ClusterTimes::try_from(pb::ClusterTimes::default()).is_err());
    }
}

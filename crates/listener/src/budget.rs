//! The division of the process's descriptors between the kinds of connections.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use pushonce_core::FailPoint;
use rustix::io::Errno;

use crate::limit;

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPurpose {
    /// A client session: HTTP or WebSocket.
    Client,
    /// A gRPC connection of a publisher, a back end or an operator.
    Publisher,
    /// One HTTP request beyond the sessions: a health check or a scrape of the metrics.
    Probe,
    /// A connection of another node.
    Peer,
}

/// The descriptors that each [`ConnectionPurpose`] may use.
///
/// A new descriptor always has the lowest free number (POSIX `open`), so a descriptor with the number `n`
/// means that at least `n` others are in use. A limit on the *number* of an accepted connection is therefore
/// a limit on all descriptors of the process, including files, without a counter that could drift.
///
/// With the limit `L` and the reserve `R` (a quarter of `L`, at most 8,192):
///
/// | purpose | numbers below | maximum connections |
/// |---|---|---|
/// | client | `L - R` | |
/// | publisher | `L - R/2` | |
/// | peer | `L` | `R/4` |
/// | probe | `L - R/8` | |
///
/// Clients and publishers together leave `R/2`. Peers use at most `R/4` of it, so an eighth of the reserve
/// remains for probes, and the last eighth for files and outgoing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBudget {
    limit: u64,
    reserve: u64,
}

/// Maximum reserve: enough for the links of a cluster of a thousand nodes.
const RESERVE_MAX: u64 = 8_192;

/// Minimum number of peer connections, so that a small cluster works under any limit.
const PEER_CONNECTIONS_MIN: u64 = 16;

/// Minimum number of peer connections of one address, so that some nodes on one host work under any limit.
const PEER_ADDRESS_CONNECTIONS_MIN: usize = 16;

impl DescriptorBudget {
    /// The budget of a process with `limit` descriptors.
    pub fn new(limit: u64) -> DescriptorBudget {
        DescriptorBudget { limit, reserve: (limit / 4).min(RESERVE_MAX) }
    }

    /// The budget of this process, for its current soft limit.
    pub fn for_process() -> DescriptorBudget {
        DescriptorBudget::new(limit::soft_limit())
    }

    /// Whether a connection with this descriptor is within the budget.
    pub fn admits(self, purpose: ConnectionPurpose, connection: &impl AsRawFd) -> bool {
        if FailPoint::DescriptorReserveIgnored.is_active() {
            return true;
        }
        // Never negative, because the connection is open.
        let descriptor = u64::try_from(connection.as_raw_fd()).unwrap_or(u64::MAX);
        descriptor < self.descriptor_limit(purpose)
    }

    /// Whether a connection of this purpose would be admitted now.
    ///
    /// Opens and closes a file, which gets the descriptor that the connection would get.
    pub fn has_room(self, purpose: ConnectionPurpose) -> bool {
        match File::open("/dev/null") {
            Ok(file) => self.admits(purpose, &file),
            Err(error) => !is_descriptor_exhaustion(&error),
        }
    }

    /// Maximum open connections of this purpose, if their number is limited in addition to the descriptors.
    pub fn connections_max(self, purpose: ConnectionPurpose) -> Option<usize> {
        let max = (self.reserve / 4).max(PEER_CONNECTIONS_MIN);
        (purpose == ConnectionPurpose::Peer).then(|| usize::try_from(max).unwrap_or(usize::MAX))
    }

    /// Maximum open connections of this purpose from one address, if the number of all is limited: a quarter, so that
    /// one host cannot keep the others out. A node opens about four to each other node.
    pub fn address_connections_max(self, purpose: ConnectionPurpose) -> Option<usize> {
        let max = self.connections_max(purpose)?;
        Some((max / 4).max(PEER_ADDRESS_CONNECTIONS_MIN))
    }

    fn descriptor_limit(self, purpose: ConnectionPurpose) -> u64 {
        let DescriptorBudget { limit, reserve } = self;
        match purpose {
            ConnectionPurpose::Client => limit - reserve,
            ConnectionPurpose::Publisher => limit - reserve / 2,
            ConnectionPurpose::Probe => limit - reserve / 8,
            ConnectionPurpose::Peer => limit,
        }
    }
}

/// Whether the process or the system has no descriptor left.
fn is_descriptor_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct FakeDescriptor(i32);

    impl AsRawFd for FakeDescriptor {
        fn as_raw_fd(&self) -> i32 {
            self.0
        }
    }

    fn first_rejected_descriptor(budget: DescriptorBudget, purpose: ConnectionPurpose) -> i32 {
        (0..1 << 21)
            .find(|&number| !budget.admits(purpose, &FakeDescriptor(number)))
            .expect("a limit")
    }

    #[test]
    fn clients_leave_descriptors_for_publishers_probes_and_peers() {
        let budget = DescriptorBudget::new(1_024);
        assert_eq!(first_rejected_descriptor(budget, ConnectionPurpose::Client), 768);
        assert_eq!(first_rejected_descriptor(budget, ConnectionPurpose::Publisher), 896);
        assert_eq!(first_rejected_descriptor(budget, ConnectionPurpose::Probe), 992);
        assert_eq!(first_rejected_descriptor(budget, ConnectionPurpose::Peer), 1_024);
        assert_eq!(budget.connections_max(ConnectionPurpose::Peer), Some(64));
        assert_eq!(budget.connections_max(ConnectionPurpose::Client), None);
        assert_eq!(budget.address_connections_max(ConnectionPurpose::Peer), Some(16));
        let large = DescriptorBudget::new(1 << 20);
        assert_eq!(large.address_connections_max(ConnectionPurpose::Peer), Some(512));
        assert_eq!(large.address_connections_max(ConnectionPurpose::Publisher), None);
    }

    #[test]
    fn probes_keep_an_eighth_of_the_reserve_when_all_others_are_full() {
        for limit in [256, 1_024, 65_536, 1 << 20] {
            let budget = DescriptorBudget::new(limit);
            let peers = budget.connections_max(ConnectionPurpose::Peer).expect("bounded") as u64;
            let used = budget.descriptor_limit(ConnectionPurpose::Publisher) + peers;
            assert!(
                budget.descriptor_limit(ConnectionPurpose::Probe) - used >= budget.reserve / 8,
                "{limit}"
            );
        }
    }

    #[test]
    fn has_room_depends_on_the_next_free_descriptor() {
        // The standard streams use the first three descriptors.
        assert!(!DescriptorBudget::new(3).has_room(ConnectionPurpose::Client));
        assert!(DescriptorBudget::new(1 << 20).has_room(ConnectionPurpose::Client));
        assert!(
            is_descriptor_exhaustion(&Errno::MFILE.into())
                && !is_descriptor_exhaustion(&Errno::NOENT.into())
        );
    }

    #[test]
    fn reserve_is_capped_for_a_large_limit() {
        let budget = DescriptorBudget::new(1 << 20);
        assert_eq!(first_rejected_descriptor(budget, ConnectionPurpose::Client), (1 << 20) - 8_192);
        assert_eq!(DescriptorBudget::new(u64::MAX).reserve, RESERVE_MAX);
    }
}

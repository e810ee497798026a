//! The clocks of the nodes as this node knows them: its own, and the readings that links report of others.
//!
//! Shards derive the time of their logs from them ([`pushonce_shard::ClusterClock`]); the relay reports
//! the readings ([`pushonce_relay::Clocks`]).

mod slewed;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_core::{FailPoint, NodeId, Timestamp};
use rustix::time::{ClockId, clock_gettime};

use slewed::SlewedClock;

/// Maximum age of the reading of a peer's clock. Heartbeats come every second; after ten seconds without
/// one the peer counts as gone.
const PEER_CLOCK_AGE_MAX: Duration = Duration::from_secs(10);

/// Every clock that this node knows.
pub(super) struct NodeClocks {
    me: NodeId,
    local: Mutex<SlewedClock>,
    peers: Mutex<PeerClocks>,
}

/// The last reading of each peer's clock, and the local time at which it arrived.
#[derive(Default)]
struct PeerClocks(BTreeMap<NodeId, (Timestamp, Duration)>);

impl NodeClocks {
    pub(super) fn new(me: NodeId) -> NodeClocks {
        let local = SlewedClock::new(wall_time(), time_since_boot());
        NodeClocks { me, local: Mutex::new(local), peers: Mutex::default() }
    }

    fn read_local(&self) -> Timestamp {
        if FailPoint::OwnerWallClock.is_active() {
            return Timestamp(u64::try_from(wall_time().as_millis()).unwrap_or(u64::MAX));
        }
        let shown = lock(&self.local).read(wall_time(), time_since_boot());
        Timestamp(u64::try_from(shown.as_millis()).unwrap_or(u64::MAX))
    }
}

impl pushonce_shard::ClusterClock for NodeClocks {
    fn reading(&self, node: NodeId) -> Option<Timestamp> {
        if node == self.me {
            return Some(self.read_local());
        }
        if FailPoint::OwnerWallClock.is_active() {
            return Some(self.read_local());
        }
        lock(&self.peers).reading(node, time_since_boot())
    }

    fn elapsed(&self) -> Duration {
        time_since_boot()
    }
}

impl pushonce_relay::Clocks for NodeClocks {
    fn local_time(&self) -> Timestamp {
        self.read_local()
    }

    fn elapsed(&self) -> Duration {
        time_since_boot()
    }

    fn on_peer_time(&self, node: NodeId, time: Timestamp) {
        lock(&self.peers).on_reading(node, time, time_since_boot());
    }
}

impl PeerClocks {
    /// What the clock of `node` shows at `now`: its last reading plus the time since.
    fn reading(&self, node: NodeId, now: Duration) -> Option<Timestamp> {
        let (shown, read_at) = self.0.get(&node)?;
        let elapsed = now.saturating_sub(*read_at);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        (elapsed <= PEER_CLOCK_AGE_MAX).then(|| Timestamp(shown.0.saturating_add(millis)))
    }

    /// Stores a reading that arrived at `now`, and removes the clocks of peers that are gone: there are
    /// never more clocks than links.
    fn on_reading(&mut self, node: NodeId, time: Timestamp, now: Duration) {
        self.0.retain(|_, (_, at)| now.saturating_sub(*at) <= PEER_CLOCK_AGE_MAX);
        self.0.insert(node, (time, now));
    }
}

/// The wall clock of this machine, as the time since the Unix epoch.
fn wall_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A clock that counts the time for which the machine was suspended.
#[cfg(target_os = "linux")]
const BOOT_CLOCK: ClockId = ClockId::Boottime;
/// A clock that does not count suspensions: there is no portable clock that does.
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: ClockId = ClockId::Monotonic;

/// The time since the machine started.
fn time_since_boot() -> Duration {
    let time = clock_gettime(BOOT_CLOCK);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// Ignores poisoning: each change behind these locks is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn peer_clock_advances_between_readings_and_expires_after_ten_seconds() {
        let mut peers = PeerClocks::default();
        assert_eq!(peers.reading(PEER, secs(1)), None);
        peers.on_reading(PEER, Timestamp(5_000), secs(100));
        assert_eq!(peers.reading(PEER, secs(103)), Some(Timestamp(8_000)));
        assert_eq!(peers.reading(PEER, secs(110)), Some(Timestamp(15_000)));
        assert_eq!(peers.reading(PEER, secs(111)), None);
        peers.on_reading(NodeId(3), Timestamp(1), secs(111));
        assert_eq!(peers.0.len(), 1, "expired clocks are removed");
    }

    #[test]
    fn own_clock_shows_the_wall_time_and_advances() {
        use pushonce_shard::ClusterClock as _;
        let clocks = NodeClocks::new(NodeId(1));
        let (wall, shown) = (wall_time().as_millis(), clocks.reading(NodeId(1)).unwrap());
        assert!(wall.abs_diff(u128::from(shown.0)) < 1_000);
        assert!(clocks.elapsed() > Duration::ZERO);
    }
}

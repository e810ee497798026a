//! The times and sizes of consensus, and their constraints.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use pushonce_core::ConsensusTimes;

use crate::runtime::TIMER_TICK;

/// The times and sizes of consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusSettings {
    /// Interval of a leader's heartbeats. A heartbeat not answered within it counts as lost, so on a WAN it
    /// must exceed the round-trip time.
    pub heartbeat: Duration,
    /// Minimum wait of a follower after the lease before it starts an election.
    pub election_min: Duration,
    /// Maximum such wait, and the duration of a leader's lease.
    pub election_max: Duration,
    /// Timeout of a small request to a peer.
    pub rpc_timeout: Duration,
    /// Timeout of dialling a peer.
    pub connect_timeout: Duration,
    /// Deadline of a proposal or membership change, after which its outcome is unknown.
    pub proposal_deadline: Duration,
    /// Time without progress after which a snapshot transfer to a peer is resumed at its last piece. The
    /// whole transfer has no deadline.
    pub snapshot_timeout: Duration,
    /// A group takes a snapshot and purges old entries each time its log has grown by this many bytes, or by
    /// the size of its last snapshot. Until then the entries of every group of a node are in memory.
    pub log_bytes_max: u64,
    /// Bytes of entries kept behind a snapshot, for followers that lag a little.
    pub log_bytes_kept: u64,
    /// Maximum bytes of entries in one append, which always has at least one entry.
    pub append_bytes_max: u64,
    /// Maximum bytes queued for one peer. Over it a request is rejected at once and openraft backs off.
    pub link_bytes_max: usize,
    /// Maximum bytes of entries of all groups in flight to one peer. Heartbeats queue behind them, so a link
    /// must transmit this many bytes in less than an election timeout.
    pub entry_bytes_in_flight_max: usize,
    /// Bytes of the disk reserved for elections and snapshots: below it publishes are rejected. `None`: 256
    /// MiB, or a twentieth of the disk if that is less.
    pub disk_reserve_bytes: Option<u64>,
}

/// A warning about settings that work badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsWarning(pub String);

/// Settings that cannot work. The message names the setting and the change to make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSettings(pub String);

/// Maximum time in which a dead leader should be replaced.
const FAILOVER_TIME_MAX: Duration = Duration::from_secs(2);

/// openraft ticks five times per heartbeat interval, and timers have the resolution of [`TIMER_TICK`].
const HEARTBEAT_MIN: Duration = TIMER_TICK.saturating_mul(5);

impl ConsensusSettings {
    /// For nodes within a few milliseconds of each other: a dead leader is replaced in 1.1 to 1.65 s.
    pub fn lan() -> ConsensusSettings {
        ConsensusSettings {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(800),
            rpc_timeout: Duration::from_millis(250),
            connect_timeout: Duration::from_millis(100),
            proposal_deadline: Duration::from_secs(5),
            snapshot_timeout: Duration::from_secs(30),
            log_bytes_max: 2 << 20,
            log_bytes_kept: 1 << 20,
            append_bytes_max: 1 << 20,
            link_bytes_max: 32 << 20,
            entry_bytes_in_flight_max: 2 << 20,
            disk_reserve_bytes: None,
        }
    }

    /// For nodes on different continents: round-trip times up to 250 ms.
    pub fn wan() -> ConsensusSettings {
        ConsensusSettings {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(2000),
            election_max: Duration::from_millis(4000),
            rpc_timeout: Duration::from_millis(1000),
            connect_timeout: Duration::from_millis(750),
            proposal_deadline: Duration::from_secs(15),
            snapshot_timeout: Duration::from_secs(60),
            // The bandwidth-delay product of 250 Mbit/s and 250 ms.
            entry_bytes_in_flight_max: 8 << 20,
            ..ConsensusSettings::lan()
        }
    }

    /// The times that all nodes of a cluster share.
    pub fn times(&self) -> ConsensusTimes {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        ConsensusTimes {
            heartbeat_ms: millis(self.heartbeat),
            election_min_ms: millis(self.election_min),
            election_max_ms: millis(self.election_max),
            rpc_timeout_ms: millis(self.rpc_timeout),
            connect_timeout_ms: millis(self.connect_timeout),
        }
    }

    /// The same settings with other times.
    pub fn with_times(self, times: ConsensusTimes) -> ConsensusSettings {
        let time = |millis: u32| Duration::from_millis(millis.into());
        ConsensusSettings {
            heartbeat: time(times.heartbeat_ms),
            election_min: time(times.election_min_ms),
            election_max: time(times.election_max_ms),
            rpc_timeout: time(times.rpc_timeout_ms),
            connect_timeout: time(times.connect_timeout_ms),
            ..self
        }
    }

    /// Rejects settings that cannot work and returns warnings for those that work badly.
    pub fn validate(&self) -> Result<Vec<SettingsWarning>, InvalidSettings> {
        self.reject_invalid()?;
        let failover = 2 * self.election_max + self.heartbeat;
        let mut warnings = Vec::new();
        if failover >= FAILOVER_TIME_MAX {
            warnings.push(SettingsWarning(format!(
                "a dead leader is replaced only after up to {failover:?}: lower election_max ({:?}) to come under {FAILOVER_TIME_MAX:?}",
                self.election_max
            )));
        }
        Ok(warnings)
    }

    fn reject_invalid(&self) -> Result<(), InvalidSettings> {
        let invalid = |reason: String| Err(InvalidSettings(reason));
        if self.heartbeat < HEARTBEAT_MIN {
            return invalid(format!(
                "heartbeat ({:?}) must be at least {HEARTBEAT_MIN:?}",
                self.heartbeat
            ));
        }
        if self.election_min >= self.election_max {
            return invalid(format!(
                "election_min ({:?}) must be below election_max ({:?}), or candidates can tie forever",
                self.election_min, self.election_max
            ));
        }
        if self.election_min <= 2 * self.heartbeat {
            return invalid(format!(
                "election_min ({:?}) must exceed two heartbeats ({:?} each), or one lost heartbeat deposes a leader",
                self.election_min, self.heartbeat
            ));
        }
        if self.election_min <= self.rpc_timeout + self.connect_timeout {
            return invalid(format!(
                "election_min ({:?}) must exceed rpc_timeout + connect_timeout ({:?} + {:?}), or a candidate gives up before its votes arrive",
                self.election_min, self.rpc_timeout, self.connect_timeout
            ));
        }
        if self.log_bytes_max == 0 || self.append_bytes_max == 0 || self.link_bytes_max == 0 {
            return invalid(
                "log_bytes_max, append_bytes_max and link_bytes_max must not be zero".to_owned(),
            );
        }
        Ok(())
    }

    /// How long a request waits for a link that is being dialled: the connection and its handshake.
    pub(crate) fn link_timeout(&self) -> Duration {
        self.connect_timeout + self.rpc_timeout
    }

    /// The settings in the form of openraft.
    pub(crate) fn raft_config(&self) -> Result<Config, InvalidSettings> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "pushonce".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            enable_pre_vote: Some(true),
            // A leader without a quorum also pauses its heartbeats, or in a partial partition its followers
            // would never elect another leader.
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            // A restarted owner must not assume that it still owns its shards.
            enable_leader_restore: Some(false),
            // A replica with a damaged disk restarts with less than it had acknowledged: module `recovery`
            // makes this safe.
            allow_log_reversion: Some(true),
            broadcast_submitted_on_append: Some(true),
            backoff: "50ms 100ms ...500ms".to_owned(),
            install_snapshot_timeout: millis(self.snapshot_timeout),
            // openraft counts entries, and an entry here is a batch of any size: snapshots and purges are
            // triggered by bytes, see `log_bytes_max`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 64,
            ..Config::default()
        };
        config.validate().map_err(|error| InvalidSettings(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_lan_preset_meets_failover_limit() {
        assert_eq!(ConsensusSettings::lan().validate(), Ok(vec![]));
        assert_eq!(ConsensusSettings::wan().validate().map(|warnings| warnings.len()), Ok(1));
        assert!(ConsensusSettings::lan().raft_config().is_ok());
        assert!(ConsensusSettings::wan().raft_config().is_ok());
    }

    #[test]
    fn presets_match_cluster_consensus_times() {
        assert_eq!(ConsensusSettings::lan().times(), ConsensusTimes::LAN);
        assert_eq!(ConsensusSettings::wan().times(), ConsensusTimes::WAN);
        assert_eq!(
            ConsensusSettings::lan().with_times(ConsensusTimes::WAN).times(),
            ConsensusTimes::WAN
        );
    }

    #[test]
    fn election_timeout_below_rpc_and_connect_timeout_is_rejected() {
        let settings = ConsensusSettings {
            rpc_timeout: Duration::from_millis(350),
            ..ConsensusSettings::lan()
        };
        let error = settings.validate().err().map(|error| error.to_string());
        assert!(error.is_some_and(|message| message.contains("rpc_timeout")));
    }

    #[test]
    fn heartbeat_below_timer_resolution_is_rejected() {
        let settings =
            ConsensusSettings { heartbeat: Duration::from_millis(49), ..ConsensusSettings::lan() };
        let error = settings.validate().err().map(|error| error.to_string());
        assert!(error.is_some_and(|message| message.contains("at least 50ms")));
    }

    #[test]
    fn election_timeout_within_two_heartbeats_is_rejected() {
        let settings =
            ConsensusSettings { heartbeat: Duration::from_millis(200), ..ConsensusSettings::lan() };
        assert!(settings.validate().is_err());
    }
}

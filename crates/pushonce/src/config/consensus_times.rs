//! Consensus times: a preset, and single times that override it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pushonce_consensus::ConsensusSettings;

use super::{HumanDuration, InvalidConfig, PartialConfig};

/// A set of consensus times that work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsensusPreset {
    /// For nodes within a few milliseconds of each other.
    Lan,
    /// For nodes on different continents.
    Wan,
}

impl FromStr for ConsensusPreset {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<ConsensusPreset, &'static str> {
        match text {
            "lan" => Ok(ConsensusPreset::Lan),
            "wan" => Ok(ConsensusPreset::Wan),
            _ => Err("must be lan or wan"),
        }
    }
}

impl fmt::Display for ConsensusPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConsensusPreset::Lan => "lan",
            ConsensusPreset::Wan => "wan",
        })
    }
}

/// Resolves the preset, with each time that the settings name in place of the preset's.
pub(super) fn resolve_consensus(
    partial: &PartialConfig,
) -> Result<ConsensusSettings, InvalidConfig> {
    let preset = match partial.consensus {
        None | Some(ConsensusPreset::Lan) => ConsensusSettings::lan(),
        Some(ConsensusPreset::Wan) => ConsensusSettings::wan(),
    };
    let value_or_preset = |configured: Option<HumanDuration>, preset: Duration| {
        configured.map_or(preset, |time| time.0)
    };
    let settings = ConsensusSettings {
        heartbeat: value_or_preset(partial.heartbeat, preset.heartbeat),
        election_min: value_or_preset(partial.election_min, preset.election_min),
        election_max: value_or_preset(partial.election_max, preset.election_max),
        rpc_timeout: value_or_preset(partial.rpc_timeout, preset.rpc_timeout),
        connect_timeout: value_or_preset(partial.connect_timeout, preset.connect_timeout),
        proposal_deadline: value_or_preset(partial.proposal_deadline, preset.proposal_deadline),
        snapshot_timeout: value_or_preset(partial.snapshot_timeout, preset.snapshot_timeout),
        disk_reserve_bytes: partial.disk_reserve.map(|size| size.0),
        ..preset
    };
    // Settings are named like their flags, except for the hyphens.
    let invalid = |reason: String| InvalidConfig::Consensus(reason.replace('_', "-"));
    settings.validate().map_err(|error| invalid(error.to_string()))?;
    Ok(settings)
}

/// The preset that settings were derived from, recognized by a limit that only a preset sets.
pub(super) fn preset_of(settings: &ConsensusSettings) -> ConsensusPreset {
    let is_wan =
        settings.entry_bytes_in_flight_max == ConsensusSettings::wan().entry_bytes_in_flight_max;
    if is_wan { ConsensusPreset::Wan } else { ConsensusPreset::Lan }
}

/// Whether the settings name any time that all nodes of a cluster share.
pub(super) fn sets_shared_times(partial: &PartialConfig) -> bool {
    let PartialConfig { consensus, heartbeat, election_min, election_max, .. } = partial;
    let PartialConfig { rpc_timeout, connect_timeout, .. } = partial;
    let times = [heartbeat, election_min, election_max, rpc_timeout, connect_timeout];
    consensus.is_some() || times.iter().any(|time| time.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn single_consensus_times_override_the_preset() {
        let file = "consensus = \"wan\"\nheartbeat = \"400ms\"\ndisk-reserve = \"1GiB\"";
        let file = PartialConfig::from_toml(file).expect("good");
        let env = PartialConfig::from_env([("PUSHONCE_ELECTION_MAX".into(), "5s".into())]);
        let config = Config::resolve(PartialConfig::default(), env.expect("valid variables"), file)
            .expect("consistent times");
        let expected = ConsensusSettings {
            heartbeat: Duration::from_millis(400),
            election_max: Duration::from_secs(5),
            disk_reserve_bytes: Some(1 << 30),
            ..ConsensusSettings::wan()
        };
        assert_eq!(config.consensus_times, Some(expected.times()));
        assert_eq!(config.consensus, expected);
        assert_eq!(
            Config::resolve(
                PartialConfig::default(),
                PartialConfig::default(),
                PartialConfig::default()
            )
            .map(|config| config.consensus),
            Ok(ConsensusSettings::lan())
        );
    }

    #[test]
    fn node_without_shared_consensus_times_takes_those_of_its_cluster() {
        let resolve =
            |partial| Config::resolve(partial, PartialConfig::default(), PartialConfig::default());
        let consensus_times = |partial| resolve(partial).map(|config| config.consensus_times);
        assert_eq!(consensus_times(PartialConfig::default()), Ok(None));
        let own =
            PartialConfig { proposal_deadline: "9s".parse().ok(), ..PartialConfig::default() };
        assert_eq!(consensus_times(own), Ok(None), "the deadline is not shared");
        let preset =
            PartialConfig { consensus: Some(ConsensusPreset::Wan), ..PartialConfig::default() };
        assert_eq!(consensus_times(preset), Ok(Some(pushonce_core::ConsensusTimes::WAN)));
        let single_time =
            PartialConfig { connect_timeout: "120ms".parse().ok(), ..PartialConfig::default() };
        assert!(consensus_times(single_time).is_ok_and(|times| times.is_some()));
    }

    #[test]
    fn inconsistent_consensus_times_are_rejected_with_their_flags() {
        let time = |text: &str| text.parse().ok();
        let slow = PartialConfig { rpc_timeout: time("350ms"), ..PartialConfig::default() };
        let result = Config::resolve(slow, PartialConfig::default(), PartialConfig::default());
        let message =
            result.expect_err("an election would end before its votes arrive").to_string();
        assert!(message.contains("election-min") && message.contains("rpc-timeout"), "{message}");
        let swapped = PartialConfig { election_max: time("300ms"), ..PartialConfig::default() };
        assert!(
            Config::resolve(swapped, PartialConfig::default(), PartialConfig::default()).is_err()
        );
    }
}

//! Consensus times: a preset, and single times that override it.

use std::time::Duration;

use clap::{Command, ValueEnum};
use pushonce_consensus::ConsensusSettings;
use serde::Serialize;

use super::{HumanDuration, InvalidConfig, Settings, SharedTimes};

/// A set of consensus times that work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ConsensusPreset {
    /// For nodes within a few milliseconds of each other.
    Lan,
    /// For nodes on different continents.
    Wan,
}

impl ConsensusPreset {
    /// The preset, with the given times in place of its own.
    pub fn settings_with(self, times: SharedTimes) -> ConsensusSettings {
        let preset = self.settings();
        ConsensusSettings {
            heartbeat: value_or(times.heartbeat, preset.heartbeat),
            election_min: value_or(times.election_min, preset.election_min),
            election_max: value_or(times.election_max, preset.election_max),
            rpc_timeout: value_or(times.rpc_timeout, preset.rpc_timeout),
            connect_timeout: value_or(times.connect_timeout, preset.connect_timeout),
            ..preset
        }
    }

    fn settings(self) -> ConsensusSettings {
        match self {
            ConsensusPreset::Lan => ConsensusSettings::lan(),
            ConsensusPreset::Wan => ConsensusSettings::wan(),
        }
    }
}

/// Resolves the preset, with each time that the settings name in place of the preset's.
pub(super) fn resolve_consensus(given: &Settings) -> Result<ConsensusSettings, InvalidConfig> {
    let preset = given.consensus.unwrap_or(ConsensusPreset::Lan).settings_with(given.shared_times);
    let settings = ConsensusSettings {
        proposal_deadline: value_or(given.proposal_deadline, preset.proposal_deadline),
        snapshot_timeout: value_or(given.snapshot_timeout, preset.snapshot_timeout),
        disk_reserve_bytes: given.disk_reserve,
        ..preset
    };
    // Settings are named like their flags, except for the hyphens.
    let invalid = |reason: String| InvalidConfig::Consensus(reason.replace('_', "-"));
    settings.validate().map_err(|error| invalid(error.to_string()))?;
    Ok(settings)
}

fn value_or(given: Option<HumanDuration>, preset: Duration) -> Duration {
    given.map_or(preset, |time| time.0)
}

/// Sets each time to that of the resolved settings. Settings without shared times stay without: the node
/// takes the cluster's.
pub(super) fn set_times(settings: &mut Settings, resolved: &ConsensusSettings) {
    let time = |time: Duration| Some(HumanDuration(time));
    settings.proposal_deadline = time(resolved.proposal_deadline);
    settings.snapshot_timeout = time(resolved.snapshot_timeout);
    if sets_shared_times(settings) {
        settings.consensus = settings.consensus.or(Some(ConsensusPreset::Lan));
        settings.shared_times = SharedTimes {
            heartbeat: time(resolved.heartbeat),
            election_min: time(resolved.election_min),
            election_max: time(resolved.election_max),
            rpc_timeout: time(resolved.rpc_timeout),
            connect_timeout: time(resolved.connect_timeout),
        };
    }
}

/// Whether the settings name any time that all nodes of a cluster share.
pub(super) fn sets_shared_times(settings: &Settings) -> bool {
    settings.consensus.is_some() || settings.shared_times != SharedTimes::default()
}

/// Adds the times of both presets, as defaults, to the help of the flags that replace them.
pub(super) fn add_preset_times(command: Command) -> Command {
    let [lan, wan] = [ConsensusPreset::Lan, ConsensusPreset::Wan].map(named_times);
    lan.into_iter().zip(wan).fold(command, |command, ((id, lan), (_, wan))| {
        command.mut_arg(id, |arg| {
            let help = arg.get_help().cloned().unwrap_or_default();
            arg.help(format!("{help} [default: {lan} (lan), {wan} (wan)]"))
        })
    })
}

/// The times of a preset, by the names of their settings.
fn named_times(preset: ConsensusPreset) -> [(&'static str, HumanDuration); 7] {
    let settings = preset.settings();
    let times = [
        ("heartbeat", settings.heartbeat),
        ("election_min", settings.election_min),
        ("election_max", settings.election_max),
        ("rpc_timeout", settings.rpc_timeout),
        ("connect_timeout", settings.connect_timeout),
        ("proposal_deadline", settings.proposal_deadline),
        ("snapshot_timeout", settings.snapshot_timeout),
    ];
    times.map(|(id, time)| (id, HumanDuration(time)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layer, Layers};

    fn with_times(shared_times: SharedTimes) -> Settings {
        Settings { shared_times, ..Settings::default() }
    }

    #[test]
    fn single_consensus_times_override_the_preset() {
        let file = "consensus = \"wan\"\nheartbeat = \"400ms\"\ndisk-reserve = \"1GiB\"";
        let file = Layer::from_toml(file).expect("valid");
        let env = Layer::from_env([("PUSHONCE_ELECTION_MAX".into(), "5s".into())], &[]);
        let env = env.expect("valid");
        let config = Layers { env, file, ..Layers::default() }.resolve().expect("consistent times");
        let expected = ConsensusSettings {
            heartbeat: Duration::from_millis(400),
            election_max: Duration::from_secs(5),
            disk_reserve_bytes: Some(1 << 30),
            ..ConsensusSettings::wan()
        };
        assert_eq!(config.consensus_times, Some(expected.times()));
        assert_eq!(config.consensus, expected);
        let default = Config::resolve(Settings::default()).map(|config| config.consensus);
        assert_eq!(default, Ok(ConsensusSettings::lan()));
    }

    #[test]
    fn node_without_shared_consensus_times_takes_those_of_its_cluster() {
        let consensus_times =
            |settings| Config::resolve(settings).map(|config| config.consensus_times);
        assert_eq!(consensus_times(Settings::default()), Ok(None));
        let own = Settings { proposal_deadline: "9s".parse().ok(), ..Settings::default() };
        assert_eq!(consensus_times(own), Ok(None), "the deadline is not shared");
        let preset = Settings { consensus: Some(ConsensusPreset::Wan), ..Settings::default() };
        assert_eq!(consensus_times(preset), Ok(Some(pushonce_core::ConsensusTimes::WAN)));
        let connect_timeout = "120ms".parse().ok();
        let single_time = with_times(SharedTimes { connect_timeout, ..SharedTimes::default() });
        assert!(consensus_times(single_time).is_ok_and(|times| times.is_some()));
    }

    #[test]
    fn inconsistent_consensus_times_are_rejected_with_their_flags() {
        let time = |text: &str| text.parse().ok();
        let slow = with_times(SharedTimes { rpc_timeout: time("350ms"), ..SharedTimes::default() });
        let message = Config::resolve(slow)
            .expect_err("an election would end before its votes arrive")
            .to_string();
        assert!(message.contains("election-min") && message.contains("rpc-timeout"), "{message}");
        let swapped =
            with_times(SharedTimes { election_max: time("300ms"), ..SharedTimes::default() });
        assert!(Config::resolve(swapped).is_err());
    }
}

//! Times of consensus: a preset, and single ones over it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pushonce_consensus::Settings;

use super::{InvalidConfig, Partial, Time};

/// Times of consensus that fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// For nodes within a few milliseconds of each other.
    Lan,
    /// For nodes on different continents.
    Wan,
}

impl FromStr for Preset {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Preset, &'static str> {
        match text {
            "lan" => Ok(Preset::Lan),
            "wan" => Ok(Preset::Wan),
            _ => Err("must be lan or wan"),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Lan => "lan",
            Preset::Wan => "wan",
        })
    }
}

/// The preset, with the times that were said in the place of its own.
pub(super) fn consensus(said: &Partial) -> Result<Settings, InvalidConfig> {
    let preset = match said.consensus {
        None | Some(Preset::Lan) => Settings::lan(),
        Some(Preset::Wan) => Settings::wan(),
    };
    let time = |said: Option<Time>, preset: Duration| said.map_or(preset, |time| time.0);
    let settings = Settings {
        heartbeat: time(said.heartbeat, preset.heartbeat),
        election_min: time(said.election_min, preset.election_min),
        election_max: time(said.election_max, preset.election_max),
        rpc_timeout: time(said.rpc_timeout, preset.rpc_timeout),
        connect_timeout: time(said.connect_timeout, preset.connect_timeout),
        proposal_deadline: time(said.proposal_deadline, preset.proposal_deadline),
        snapshot_timeout: time(said.snapshot_timeout, preset.snapshot_timeout),
        disk_reserve: said.disk_reserve.map(|size| size.0),
        ..preset
    };
    // Settings are called as their flags are, but for the hyphens.
    let refused = |why: String| InvalidConfig::Consensus(why.replace('_', "-"));
    settings.check().map_err(|why| refused(why.to_string()))?;
    Ok(settings)
}

/// The preset that settings were made from, by the bound that only a preset sets.
pub(super) fn preset_of(settings: &Settings) -> Preset {
    let wan = settings.entries_in_flight == Settings::wan().entries_in_flight;
    if wan { Preset::Wan } else { Preset::Lan }
}

/// Whether any of the times is named that all nodes of a cluster share.
pub(super) fn names_times(said: &Partial) -> bool {
    let Partial { consensus, heartbeat, election_min, election_max, .. } = said;
    let Partial { rpc_timeout, connect_timeout, .. } = said;
    let times = [heartbeat, election_min, election_max, rpc_timeout, connect_timeout];
    consensus.is_some() || times.iter().any(|time| time.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn times_of_consensus_are_set_one_by_one_over_a_preset() {
        let file = "consensus = \"wan\"\nheartbeat = \"400ms\"\ndisk-reserve = \"1GiB\"";
        let file = Partial::from_toml(file).expect("good");
        let env = Partial::from_env([("PUSHONCE_ELECTION_MAX".into(), "5s".into())]);
        let config =
            Config::resolve(Partial::default(), env.expect("good"), file).expect("they fit");
        let wanted = Settings {
            heartbeat: Duration::from_millis(400),
            election_max: Duration::from_secs(5),
            disk_reserve: Some(1 << 30),
            ..Settings::wan()
        };
        assert_eq!(config.times, Some(wanted.times()));
        assert_eq!(config.consensus, wanted);
        assert_eq!(
            Config::resolve(Partial::default(), Partial::default(), Partial::default())
                .map(|config| config.consensus),
            Ok(Settings::lan())
        );
    }

    #[test]
    fn a_node_that_names_no_shared_time_takes_those_of_its_cluster() {
        let resolve = |said| Config::resolve(said, Partial::default(), Partial::default());
        let named = |said| resolve(said).map(|config| config.times);
        assert_eq!(named(Partial::default()), Ok(None));
        let own = Partial { proposal_deadline: "9s".parse().ok(), ..Partial::default() };
        assert_eq!(named(own), Ok(None), "a deadline is each node's own");
        let preset = Partial { consensus: Some(Preset::Wan), ..Partial::default() };
        assert_eq!(named(preset), Ok(Some(pushonce_core::ConsensusTimes::WAN)));
        let one = Partial { connect_timeout: "120ms".parse().ok(), ..Partial::default() };
        assert!(named(one).is_ok_and(|times| times.is_some()));
    }

    #[test]
    fn times_that_do_not_fit_together_are_refused_by_the_names_of_their_flags() {
        let time = |text: &str| text.parse().ok();
        let slow = Partial { rpc_timeout: time("350ms"), ..Partial::default() };
        let refused = Config::resolve(slow, Partial::default(), Partial::default());
        let why = refused.expect_err("an election ends before its votes arrive").to_string();
        assert!(why.contains("election-min") && why.contains("rpc-timeout"), "{why}");
        let swapped = Partial { election_max: time("300ms"), ..Partial::default() };
        assert!(Config::resolve(swapped, Partial::default(), Partial::default()).is_err());
    }
}

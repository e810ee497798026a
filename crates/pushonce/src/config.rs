//! The settings of a node: from flags, the environment and a file; plain data, validated once.
//!
//! [`PartialConfig`] holds the settings of one source, each of them optional; [`Config::resolve`] merges the
//! three sources. [`HostDefaults`] holds the defaults that depend on the machine and the user.

mod consensus_times;
mod environment;
mod host_defaults;
mod listen;
mod on_off;
mod partial;
mod quantity;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pushonce_consensus::ConsensusSettings;
use pushonce_core::{ConsensusTimes, HostPort, Roles, ShardCount};

pub use consensus_times::ConsensusPreset;
use consensus_times::{preset_of, resolve_consensus, sets_shared_times};
pub use host_defaults::HostDefaults;
pub use on_off::OnOff;
pub use partial::PartialConfig;
pub use quantity::{ByteSize, HumanDuration, InvalidQuantity};

/// The settings of a node, complete and validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The operator's name for the node, unique in the cluster.
    pub name: String,
    /// Absolute path of the data directory.
    pub data: PathBuf,
    /// Listen address for HTTP and WebSocket.
    pub http: SocketAddr,
    /// Listen address for QUIC.
    pub quic: SocketAddr,
    /// Listen address for gRPC from publishers and operators.
    pub grpc: SocketAddr,
    /// Listen address for gRPC between nodes.
    pub peer: SocketAddr,
    /// The host that other nodes and clients dial.
    pub advertise: String,
    /// Peer addresses of other nodes. An empty data directory joins their cluster; a member asks them for the
    /// current addresses of the others. Empty on a node that needs neither.
    pub join: Vec<String>,
    /// Region label; may be empty.
    pub region: String,
    /// Zone label within the region; may be empty.
    pub zone: String,
    /// The roles of the node: core, edge, or both.
    pub roles: Roles,
    /// Share of the shards relative to the weights of other nodes.
    pub weight: u32,
    /// Number of shards of a cluster that `init` creates.
    pub shards: ShardCount,
    /// Number of replicas per shard of a cluster that `init` creates.
    pub replicas: u8,
    /// Number of threads that serve client sessions.
    pub lanes: usize,
    /// Whether each lane is pinned to its own core.
    pub pin_lanes: bool,
    /// Memory limit of the process in bytes; 0 for no limit, `None` for the default share of the machine's
    /// memory.
    pub memory_max: Option<u64>,
    /// Maximum number of topics in the node's replicas, beyond which owners create no new ones; 0 for no limit.
    pub topics_max: u64,
    /// How long a stopping node keeps serving, but unready.
    pub shutdown_delay: Duration,
    /// Time over which a stopping node then disconnects its clients.
    pub shutdown_grace: Duration,
    /// Whether messages are compressed for clients that offer it.
    pub compression: bool,
    /// Whether an address that others can reach may be served without authentication.
    pub insecure: bool,
    /// Interval of the heartbeats of a client session.
    pub session_heartbeat: Duration,
    /// The consensus times, and the free disk space to keep.
    pub consensus: ConsensusSettings,
    /// The consensus times that the settings name; `None` when they name none: then the node takes those of
    /// its cluster.
    pub consensus_times: Option<ConsensusTimes>,
    /// Whether this is a development cluster of one node (`serve --dev`): it accepts no members.
    pub is_development: bool,
}

/// An invalid setting, and what to change.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidConfig {
    /// The file is not TOML, has an unknown key, or a value of the wrong type.
    #[error("invalid configuration file: {0}")]
    File(String),
    /// An environment variable has an invalid value.
    #[error("invalid environment variable {name}: {reason}")]
    Environment {
        /// The name of the variable.
        name: String,
        /// Why its value is invalid.
        reason: String,
    },
    /// No setting has the name of an environment variable.
    #[error(
        "unknown environment variable {name}: no setting has this name; `pushonce serve --help` lists the \
         flags, and --some-flag is PUSHONCE_SOME_FLAG"
    )]
    UnknownVariable {
        /// The name of the variable.
        name: String,
    },
    /// A value is out of its range.
    #[error("{flag} {reason}")]
    InvalidValue {
        /// The flag that sets it.
        flag: &'static str,
        /// The requirement that the value does not meet.
        reason: String,
    },
    /// Consensus times that do not work together.
    #[error("inconsistent consensus times: {0}")]
    Consensus(String),
    /// A listener that others can reach, without `--insecure`.
    #[error(
        "{flag} {address} can be reached by others and there is no authentication yet; \
         bind to loopback, or add --insecure if only trusted hosts can reach the network"
    )]
    Exposed {
        /// The flag that sets it.
        flag: &'static str,
        /// The listen address.
        address: SocketAddr,
    },
}

impl Config {
    /// The default ports of the listeners: HTTP, QUIC, gRPC, peers.
    pub const DEFAULT_PORTS: [u16; 4] = [7080, 7443, 7090, 7091];

    /// Maximum and default interval of the heartbeats of a session. A client that receives no frame for two
    /// and a half times this interval treats the connection as closed.
    pub const SESSION_HEARTBEAT_MAX: Duration = Duration::from_secs(25);

    /// Merges flags over environment over file over defaults, and validates the result.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first invalid setting.
    pub fn resolve(
        flags: PartialConfig,
        env: PartialConfig,
        file: PartialConfig,
    ) -> Result<Config, InvalidConfig> {
        Config::resolve_with_defaults(&HostDefaults::detect(), flags, env, file)
    }

    /// Like [`Config::resolve`], with the defaults of a given machine.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first invalid setting.
    pub fn resolve_with_defaults(
        defaults: &HostDefaults,
        flags: PartialConfig,
        env: PartialConfig,
        file: PartialConfig,
    ) -> Result<Config, InvalidConfig> {
        let merged = flags.or_else_from(env).or_else_from(file);
        let consensus = resolve_consensus(&merged)?;
        let times = sets_shared_times(&merged).then(|| consensus.times());
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let [http, quic, grpc, peer] = Self::DEFAULT_PORTS.map(loopback);
        let peer = merged.peer.unwrap_or(peer);
        let join = merged.join.unwrap_or_default();
        let advertise = merged.advertise.map_or_else(|| default_advertise_host(peer), Ok)?;
        // Not derived from --join or an address: a member that gets --join, or moves, must find its data.
        let directory_name = merged.name.as_deref().unwrap_or("default");
        let data = merged.data.unwrap_or_else(|| defaults.data_home.join(directory_name));
        let config = Config {
            data: defaults.absolute(&data),
            name: merged.name.unwrap_or_else(|| default_name(&advertise, peer)),
            http: merged.http.unwrap_or(http),
            quic: merged.quic.unwrap_or(quic),
            grpc: merged.grpc.unwrap_or(grpc),
            peer,
            advertise,
            join,
            region: merged.region.unwrap_or_default(),
            zone: merged.zone.unwrap_or_default(),
            roles: merged.roles.unwrap_or_default(),
            weight: merged.weight.unwrap_or(1),
            shards: checked_shard_count(merged.shards.unwrap_or(ShardCount::DEFAULT.get()))?,
            replicas: merged.replicas.unwrap_or(3),
            lanes: merged.lanes.unwrap_or_else(available_cores),
            pin_lanes: merged.pin_lanes.unwrap_or(false),
            memory_max: merged.memory_max.map(|size| size.0),
            topics_max: merged.topics_max.unwrap_or(DEFAULT_TOPICS_MAX),
            shutdown_delay: merged.shutdown_delay.map_or(Duration::ZERO, |time| time.0),
            shutdown_grace: merged.shutdown_grace.map_or(DEFAULT_SHUTDOWN_GRACE, |time| time.0),
            compression: merged.compression.is_none_or(|OnOff(on)| on),
            insecure: merged.insecure.unwrap_or(false),
            session_heartbeat: merged
                .session_heartbeat
                .map_or(Self::SESSION_HEARTBEAT_MAX, |time| time.0),
            consensus,
            consensus_times: times,
            is_development: false,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), InvalidConfig> {
        // Checked first, since the default name is derived from an address.
        self.check_addresses()?;
        let invalid_value = |flag, reason: &str| {
            Err(InvalidConfig::InvalidValue { flag, reason: reason.to_owned() })
        };
        for (flag, label) in
            [("--name", &self.name), ("--region", &self.region), ("--zone", &self.zone)]
        {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if label.len() > 63 || !label.chars().all(is_allowed) {
                return invalid_value(flag, "must have up to 63 letters, digits, '-', '_' and '.'");
            }
        }
        if self.name.is_empty() {
            return invalid_value("--name", "must not be empty");
        }
        if !(1..=16).contains(&self.weight) {
            return invalid_value("--weight", "must be 1 to 16");
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return invalid_value(
                "--replicas",
                "must be 1, 3 or 5: an even number tolerates no more failures",
            );
        }
        if !(1..=256).contains(&self.lanes) {
            return invalid_value("--lanes", "must be 1 to 256");
        }
        for (flag, time) in
            [("--shutdown-delay", self.shutdown_delay), ("--shutdown-grace", self.shutdown_grace)]
        {
            if time > SHUTDOWN_TIME_MAX {
                return invalid_value(flag, "must be at most 10 minutes");
            }
        }
        if !(Duration::from_secs(1)..=Self::SESSION_HEARTBEAT_MAX).contains(&self.session_heartbeat)
        {
            return invalid_value("--session-heartbeat", "must be 1s to 25s: clients rely on 25s");
        }
        self.check_exposure()
    }

    fn check_addresses(&self) -> Result<(), InvalidConfig> {
        let invalid_value =
            |flag, reason: String| Err(InvalidConfig::InvalidValue { flag, reason });
        for address in &self.join {
            if let Err(error) = address.parse::<HostPort>() {
                let expected = "must list HOST:PORT of other nodes' --peer, separated by ','";
                return invalid_value("--join", format!("{expected}: {error}"));
            }
        }
        for (flag, address) in self.listen_addresses() {
            if let Err(error) = self.advertised_address(address.port()).parse::<HostPort>() {
                let flag = if address.port() == 0 { flag } else { "--advertise" };
                return invalid_value(flag, format!("cannot be dialled by others: {error}"));
            }
        }
        let [http, quic, grpc, peer] = self.listen_addresses();
        listen::check_ports(&[http, grpc, peer], quic)
    }

    /// The address at which others dial the listener on `port`.
    pub fn advertised_address(&self, port: u16) -> String {
        format!("{}:{port}", self.advertise)
    }

    fn check_exposure(&self) -> Result<(), InvalidConfig> {
        for (flag, address) in self.listen_addresses() {
            if !address.ip().is_loopback() && !self.insecure {
                return Err(InvalidConfig::Exposed { flag, address });
            }
        }
        Ok(())
    }

    /// These settings as a source that sets all of them: a node that loads it runs with the same settings.
    pub fn to_partial(&self) -> PartialConfig {
        let times = &self.consensus;
        PartialConfig {
            name: Some(self.name.clone()),
            data: Some(self.data.clone()),
            http: Some(self.http),
            quic: Some(self.quic),
            grpc: Some(self.grpc),
            peer: Some(self.peer),
            advertise: Some(self.advertise.clone()),
            join: Some(self.join.clone()),
            region: Some(self.region.clone()),
            zone: Some(self.zone.clone()),
            roles: Some(self.roles),
            weight: Some(self.weight),
            shards: Some(self.shards.get()),
            replicas: Some(self.replicas),
            lanes: Some(self.lanes),
            pin_lanes: Some(self.pin_lanes),
            compression: Some(OnOff(self.compression)),
            insecure: Some(self.insecure),
            session_heartbeat: Some(HumanDuration(self.session_heartbeat)),
            // Settings without consensus times stay without: the node takes the cluster's. The preset has
            // limits that no other setting names, so it comes first, and each of its times follows.
            consensus: self.consensus_times.map(|_| preset_of(&self.consensus)),
            heartbeat: self.consensus_times.map(|_| HumanDuration(times.heartbeat)),
            election_min: self.consensus_times.map(|_| HumanDuration(times.election_min)),
            election_max: self.consensus_times.map(|_| HumanDuration(times.election_max)),
            rpc_timeout: self.consensus_times.map(|_| HumanDuration(times.rpc_timeout)),
            connect_timeout: self.consensus_times.map(|_| HumanDuration(times.connect_timeout)),
            proposal_deadline: Some(HumanDuration(times.proposal_deadline)),
            snapshot_timeout: Some(HumanDuration(times.snapshot_timeout)),
            topics_max: Some(self.topics_max),
            shutdown_delay: Some(HumanDuration(self.shutdown_delay)),
            shutdown_grace: Some(HumanDuration(self.shutdown_grace)),
            disk_reserve: times.disk_reserve_bytes.map(ByteSize),
            memory_max: self.memory_max.map(ByteSize),
        }
    }

    /// The addresses that the node listens on, each with the flag that sets it.
    pub fn listen_addresses(&self) -> [(&'static str, SocketAddr); 4] {
        [("--http", self.http), ("--quic", self.quic), ("--grpc", self.grpc), ("--peer", self.peer)]
    }
}

/// Each topic takes at least some hundred bytes: about 1 GiB in total.
const DEFAULT_TOPICS_MAX: u64 = 2_000_000;

/// Half of the time that a container runtime usually waits before it kills a process.
const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Longer than any load balancer needs to react.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(600);

/// The default name: nodes without a name are distinguished by the address that others dial.
fn default_name(advertise: &str, peer: SocketAddr) -> String {
    let host: String = advertise.chars().filter(|c| !matches!(c, '[' | ']')).take(57).collect();
    format!("{host}-{}", peer.port()).replace(':', "-")
}

/// The default of the host that others dial: the peer address itself, if it can be dialled.
fn default_advertise_host(peer: SocketAddr) -> Result<String, InvalidConfig> {
    if peer.ip().is_unspecified() {
        return Err(InvalidConfig::InvalidValue {
            flag: "--advertise",
            reason: format!("must name the host that others dial, since --peer is {peer}"),
        });
    }
    Ok(match peer {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    })
}

fn checked_shard_count(count: u16) -> Result<ShardCount, InvalidConfig> {
    ShardCount::new(count).ok_or_else(|| InvalidConfig::InvalidValue {
        flag: "--shards",
        reason: format!("must be 1 to {}", ShardCount::MAX),
    })
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(
        flags: PartialConfig,
        env: PartialConfig,
        file: PartialConfig,
    ) -> Result<Config, InvalidConfig> {
        Config::resolve(flags, env, file)
    }

    fn named(name: &str) -> PartialConfig {
        PartialConfig { name: Some(name.to_owned()), ..PartialConfig::default() }
    }

    #[test]
    fn default_configuration_is_one_node_on_loopback() {
        let config =
            resolve(PartialConfig::default(), PartialConfig::default(), PartialConfig::default());
        let config = config.expect("the defaults are valid");
        assert_eq!(config.name, "127.0.0.1-7091");
        assert!(config.listen_addresses().iter().all(|(_, address)| address.ip().is_loopback()));
        assert_eq!(config.advertise, "127.0.0.1");
    }

    #[test]
    fn data_directory_is_absolute_and_independent_of_join_and_addresses() {
        let machine =
            HostDefaults { data_home: "/var/lib/pushonce".into(), working_dir: "/work".into() };
        let data = |flags: PartialConfig| {
            let none = PartialConfig::default;
            Config::resolve_with_defaults(&machine, flags, none(), none()).expect("valid").data
        };
        let default = PathBuf::from("/var/lib/pushonce/default");
        assert_eq!(data(PartialConfig::default()), default);
        let joining =
            PartialConfig { join: Some(vec!["a:1".to_owned()]), ..PartialConfig::default() };
        assert_eq!(data(joining), default);
        let moved = SocketAddr::from(([127, 0, 0, 9], 9));
        assert_eq!(data(PartialConfig { peer: Some(moved), ..PartialConfig::default() }), default);
        assert_eq!(data(named("a")), PathBuf::from("/var/lib/pushonce/a"));
        let relative = PartialConfig { data: Some("d/a".into()), ..PartialConfig::default() };
        assert_eq!(data(relative), PathBuf::from("/work/d/a"));
    }

    #[test]
    fn undialable_advertise_address_is_rejected() {
        for host in ["a b", "http://a", "a:7091", "", "::1", "a/b"] {
            let flags =
                PartialConfig { advertise: Some(host.to_owned()), ..PartialConfig::default() };
            let result = resolve(flags, PartialConfig::default(), PartialConfig::default());
            let flag = |error: &InvalidConfig| matches!(error, InvalidConfig::InvalidValue { flag, .. } if *flag == "--advertise");
            assert!(result.as_ref().is_err_and(flag), "{host:?}: {result:?}");
        }
        let port_zero = SocketAddr::from(([127, 0, 0, 1], 0));
        let flags = PartialConfig { peer: Some(port_zero), ..PartialConfig::default() };
        let result = resolve(flags, PartialConfig::default(), PartialConfig::default());
        assert!(
            matches!(result, Err(InvalidConfig::InvalidValue { flag: "--peer", .. })),
            "{result:?}"
        );
    }

    #[test]
    fn flags_override_environment_and_environment_overrides_file() {
        let name = |flags, env, file| resolve(flags, env, file).map(|c| c.name);
        let none = PartialConfig::default;
        assert_eq!(name(named("flag"), named("env"), named("file")), Ok("flag".to_owned()));
        assert_eq!(name(none(), named("env"), named("file")), Ok("env".to_owned()));
        assert_eq!(name(none(), none(), named("file")), Ok("file".to_owned()));
    }

    #[test]
    fn address_reachable_by_others_requires_insecure() {
        let exposed = PartialConfig {
            http: Some(SocketAddr::from(([0, 0, 0, 0], 7080))),
            ..PartialConfig::default()
        };
        let result = resolve(exposed.clone(), PartialConfig::default(), PartialConfig::default());
        assert!(matches!(result, Err(InvalidConfig::Exposed { flag: "--http", .. })));
        let insecure = PartialConfig { insecure: Some(true), ..exposed };
        assert!(resolve(insecure, PartialConfig::default(), PartialConfig::default()).is_ok());
    }

    #[test]
    fn wildcard_peer_address_requires_advertise() {
        let wildcard = PartialConfig {
            peer: Some(SocketAddr::from(([0, 0, 0, 0], 7091))),
            insecure: Some(true),
            ..PartialConfig::default()
        };
        let result = resolve(wildcard, PartialConfig::default(), PartialConfig::default());
        assert!(matches!(result, Err(InvalidConfig::InvalidValue { flag: "--advertise", .. })));
    }

    #[test]
    fn out_of_range_value_is_rejected_with_its_flag() {
        let cases = [
            ("--replicas", PartialConfig { replicas: Some(2), ..PartialConfig::default() }),
            ("--shards", PartialConfig { shards: Some(0), ..PartialConfig::default() }),
            (
                "--session-heartbeat",
                PartialConfig { session_heartbeat: "30s".parse().ok(), ..PartialConfig::default() },
            ),
            ("--weight", PartialConfig { weight: Some(0), ..PartialConfig::default() }),
            (
                "--join",
                PartialConfig {
                    join: Some(vec!["nowhere".to_owned()]),
                    ..PartialConfig::default()
                },
            ),
            ("--name", named("a b")),
            (
                "--shutdown-grace",
                PartialConfig { shutdown_grace: "11m".parse().ok(), ..PartialConfig::default() },
            ),
        ];
        for (expected, partial) in cases {
            let result = resolve(partial, PartialConfig::default(), PartialConfig::default());
            assert!(
                matches!(result, Err(InvalidConfig::InvalidValue { flag, .. }) if flag == expected)
            );
        }
    }

    #[test]
    fn written_configuration_loads_as_the_same_configuration() {
        let all_settings = "name = \"a\"\nhttp = \"127.0.0.1:1\"\njoin = [\"b:7091\"]\nroles = \"edge\"\n\
            consensus = \"wan\"\nelection-max = \"4500ms\"\ndisk-reserve = \"1GiB\"\n\
            memory-max = \"2000000\"\npin-lanes = true\ncompression = \"off\"";
        for text in ["", all_settings] {
            let file = PartialConfig::from_toml(text).expect("valid");
            let config =
                resolve(PartialConfig::default(), PartialConfig::default(), file).expect("valid");
            let written =
                toml::to_string(&config.to_partial()).expect("the settings can be serialized");
            let read = PartialConfig::from_toml(&written).expect("the written settings are valid");
            assert_eq!(
                resolve(PartialConfig::default(), PartialConfig::default(), read),
                Ok(config)
            );
        }
    }
}

//! The settings of a node: flags, then environment, then file; plain data, checked once.
//!
//! [`Partial`] is one source, each value said or not; [`Config::resolve`] lays the three over each
//! other. Only `main` reads the real environment and the real file.

mod measure;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use pushonce_consensus::Settings;
use pushonce_core::{Roles, ShardCount};
use serde::Deserialize;

pub use measure::{InvalidMeasure, Size, Time};

/// The settings of a node, complete and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The operator's name for the node, unique in the cluster.
    pub name: String,
    /// Where it keeps what it must not lose.
    pub data: PathBuf,
    /// HTTP and WebSocket.
    pub http: SocketAddr,
    /// QUIC.
    pub quic: SocketAddr,
    /// gRPC for publishers and operators.
    pub grpc: SocketAddr,
    /// gRPC between nodes.
    pub peer: SocketAddr,
    /// The host that others dial.
    pub advertise: String,
    /// Peer addresses of nodes to join; empty makes a new cluster on an empty data directory.
    pub join: Vec<String>,
    /// Label; may be empty.
    pub region: String,
    /// Label within the region; may be empty.
    pub zone: String,
    /// What the node does.
    pub roles: Roles,
    /// Its share of the shards beside the others' weights.
    pub weight: u32,
    /// Shards of a cluster that this node makes.
    pub shards: ShardCount,
    /// Replicas a shard of a cluster that this node makes.
    pub replicas: u8,
    /// Threads that carry client sessions.
    pub lanes: usize,
    /// Whether an address that others can reach may be served without authentication.
    pub insecure: bool,
    /// Times of consensus, and the room it keeps on the disk.
    pub consensus: Settings,
}

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

/// What one source says: a flag is `--name`, its environment variable `PUSHONCE_NAME`, its key in
/// the file `name`.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Partial {
    /// The node's name, unique in the cluster [default: n1, or HOST-PORT of --peer when joining]
    #[arg(long)]
    pub name: Option<String>,
    /// Directory for what the node must not lose [default: ./pushonce-data/NAME]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// HTTP and WebSocket [default: 127.0.0.1:7080]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// QUIC, UDP [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDR")]
    pub quic: Option<SocketAddr>,
    /// gRPC for publishers and operators [default: 127.0.0.1:7090]
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<SocketAddr>,
    /// gRPC between nodes [default: 127.0.0.1:7091]
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<SocketAddr>,
    /// The host that other nodes and clients dial [default: the address of --peer]
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Peer addresses (HOST:PORT,…) of a cluster to join; a used data directory remembers its own
    #[arg(long, value_name = "ADDRS", value_delimiter = ',')]
    pub join: Option<Vec<String>>,
    /// Label: a message crosses into a region once
    #[arg(long)]
    pub region: Option<String>,
    /// Label within the region: replicas are spread over zones
    #[arg(long)]
    pub zone: Option<String>,
    /// core (holds shards), edge (holds clients), or both [default: core,edge]
    #[arg(long, value_parser = str::parse::<Roles>)]
    #[serde(default, deserialize_with = "parsed")]
    pub roles: Option<Roles>,
    /// Share of the shards beside the other nodes' weights, 1 to 16 [default: 1]
    #[arg(long)]
    pub weight: Option<u32>,
    /// Shards of a new cluster, for ever, 1 to 4096 [default: 16]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Replicas of each shard of a new cluster: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Threads that carry client sessions [default: one a core]
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Serve an address that others can reach although there is no authentication
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// Times of consensus: lan (nodes some milliseconds apart) or wan (up to 250 ms) [default: lan]
    #[arg(long, value_name = "lan|wan")]
    #[serde(default, deserialize_with = "parsed")]
    pub consensus: Option<Preset>,
    /// How often an owner says that it lives [lan: 150ms]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub heartbeat: Option<Time>,
    /// The shortest wait of a replica before it asks to replace a silent owner [lan: 400ms]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub election_min: Option<Time>,
    /// The longest such wait, and the length of an owner's lease [lan: 800ms]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub election_max: Option<Time>,
    /// How long a small request to another node may take [lan: 250ms]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub rpc_timeout: Option<Time>,
    /// How long dialling another node may take [lan: 100ms]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub connect_timeout: Option<Time>,
    /// How long a publish waits for its commit before its outcome is unknown [lan: 5s]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub proposal_deadline: Option<Time>,
    /// How long the sending of one shard's snapshot may take [lan: 60s]
    #[arg(long, value_name = "TIME")]
    #[serde(default, deserialize_with = "parsed")]
    pub snapshot_timeout: Option<Time>,
    /// Room on the disk of --data that is kept: with less nothing is published here [default: 256MiB,
    /// or a twentieth of the disk]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "parsed")]
    pub disk_reserve: Option<Size>,
}

/// What is wrong with the settings, and what to change.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidConfig {
    /// A file that is not TOML, has an unknown key, or a value of the wrong kind.
    #[error("the configuration file: {0}")]
    File(String),
    /// An environment variable that cannot be read.
    #[error("the environment variable {name}: {why}")]
    Environment {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value out of its range.
    #[error("{flag} {why}")]
    Value {
        /// The flag that sets it.
        flag: &'static str,
        /// What it must be.
        why: String,
    },
    /// Times that cannot work together.
    #[error("the times of consensus do not fit together: {0}")]
    Consensus(String),
    /// An open door where others can reach it.
    #[error(
        "{flag} {address} can be reached by others and there is no authentication yet; \
         bind to loopback, or say --insecure if the network keeps strangers out"
    )]
    Open {
        /// The flag that sets it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
}

impl Partial {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`InvalidConfig::File`] with the line for what is no TOML, unknown, or of the wrong kind.
    pub fn from_toml(text: &str) -> Result<Partial, InvalidConfig> {
        toml::from_str(text).map_err(|why| InvalidConfig::File(why.to_string()))
    }

    /// Reads `PUSHONCE_…` variables by name.
    ///
    /// # Errors
    /// [`InvalidConfig::Environment`] for the first that cannot be read.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Partial, InvalidConfig> {
        let env = Environment(lookup);
        Ok(Partial {
            name: env.parsed("NAME")?,
            data: env.parsed("DATA")?,
            http: env.parsed("HTTP")?,
            quic: env.parsed("QUIC")?,
            grpc: env.parsed("GRPC")?,
            peer: env.parsed("PEER")?,
            advertise: env.parsed("ADVERTISE")?,
            join: env.text("JOIN").map(|list| list.split(',').map(str::to_owned).collect()),
            region: env.parsed("REGION")?,
            zone: env.parsed("ZONE")?,
            roles: env.parsed("ROLES")?,
            weight: env.parsed("WEIGHT")?,
            shards: env.parsed("SHARDS")?,
            replicas: env.parsed("REPLICAS")?,
            lanes: env.parsed("LANES")?,
            insecure: env.parsed("INSECURE")?,
            consensus: env.parsed("CONSENSUS")?,
            heartbeat: env.parsed("HEARTBEAT")?,
            election_min: env.parsed("ELECTION_MIN")?,
            election_max: env.parsed("ELECTION_MAX")?,
            rpc_timeout: env.parsed("RPC_TIMEOUT")?,
            connect_timeout: env.parsed("CONNECT_TIMEOUT")?,
            proposal_deadline: env.parsed("PROPOSAL_DEADLINE")?,
            snapshot_timeout: env.parsed("SNAPSHOT_TIMEOUT")?,
            disk_reserve: env.parsed("DISK_RESERVE")?,
        })
    }

    /// What `self` says, and what `other` says where `self` is silent.
    fn or(self, other: Partial) -> Partial {
        Partial {
            name: self.name.or(other.name),
            data: self.data.or(other.data),
            http: self.http.or(other.http),
            quic: self.quic.or(other.quic),
            grpc: self.grpc.or(other.grpc),
            peer: self.peer.or(other.peer),
            advertise: self.advertise.or(other.advertise),
            join: self.join.or(other.join),
            region: self.region.or(other.region),
            zone: self.zone.or(other.zone),
            roles: self.roles.or(other.roles),
            weight: self.weight.or(other.weight),
            shards: self.shards.or(other.shards),
            replicas: self.replicas.or(other.replicas),
            lanes: self.lanes.or(other.lanes),
            insecure: self.insecure.or(other.insecure),
            consensus: self.consensus.or(other.consensus),
            heartbeat: self.heartbeat.or(other.heartbeat),
            election_min: self.election_min.or(other.election_min),
            election_max: self.election_max.or(other.election_max),
            rpc_timeout: self.rpc_timeout.or(other.rpc_timeout),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            proposal_deadline: self.proposal_deadline.or(other.proposal_deadline),
            snapshot_timeout: self.snapshot_timeout.or(other.snapshot_timeout),
            disk_reserve: self.disk_reserve.or(other.disk_reserve),
        }
    }
}

struct Environment<F>(F);

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    fn text(&self, key: &str) -> Option<String> {
        (self.0)(&format!("PUSHONCE_{key}"))
    }

    fn parsed<T>(&self, key: &str) -> Result<Option<T>, InvalidConfig>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let Some(text) = self.text(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|why: T::Err| InvalidConfig::Environment {
            name: format!("PUSHONCE_{key}"),
            why: format!("{why}, in {text:?}"),
        })
    }
}

fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Config {
    /// The port of each door unless another is said: HTTP, QUIC, gRPC, peers.
    pub const PORTS: [u16; 4] = [7080, 7443, 7090, 7091];

    /// Lays flags over environment over file over defaults, and checks the whole.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first setting that cannot be.
    pub fn resolve(flags: Partial, env: Partial, file: Partial) -> Result<Config, InvalidConfig> {
        let said = flags.or(env).or(file);
        let consensus = consensus(&said)?;
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let [http, quic, grpc, peer] = Self::PORTS.map(local);
        let peer = said.peer.unwrap_or(peer);
        let join = said.join.unwrap_or_default();
        let name = said.name.unwrap_or_else(|| default_name(&join, peer));
        let config = Config {
            data: said.data.unwrap_or_else(|| PathBuf::from("pushonce-data").join(&name)),
            http: said.http.unwrap_or(http),
            quic: said.quic.unwrap_or(quic),
            grpc: said.grpc.unwrap_or(grpc),
            peer,
            advertise: said.advertise.map_or_else(|| advertised(peer), Ok)?,
            join,
            region: said.region.unwrap_or_default(),
            zone: said.zone.unwrap_or_default(),
            roles: said.roles.unwrap_or_default(),
            weight: said.weight.unwrap_or(1),
            shards: shards(said.shards.unwrap_or(ShardCount::DEFAULT.get()))?,
            replicas: said.replicas.unwrap_or(3),
            lanes: said.lanes.unwrap_or_else(cores),
            insecure: said.insecure.unwrap_or(false),
            consensus,
            name,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), InvalidConfig> {
        let value = |flag, why: &str| Err(InvalidConfig::Value { flag, why: why.to_owned() });
        for (flag, label) in
            [("--name", &self.name), ("--region", &self.region), ("--zone", &self.zone)]
        {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if label.len() > 63 || !label.chars().all(fits) {
                return value(flag, "takes up to 63 letters, digits, '-', '_' and '.'");
            }
        }
        if self.name.is_empty() {
            return value("--name", "must not be empty");
        }
        if !(1..=16).contains(&self.weight) {
            return value("--weight", "must be 1 to 16");
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return value("--replicas", "must be 1, 3 or 5: an even number survives no more");
        }
        if !(1..=256).contains(&self.lanes) {
            return value("--lanes", "must be 1 to 256");
        }
        for address in &self.join {
            if address
                .rsplit_once(':')
                .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
            {
                return value("--join", "takes HOST:PORT of another node's --peer, divided by ','");
            }
        }
        self.check_exposure()
    }

    fn check_exposure(&self) -> Result<(), InvalidConfig> {
        for (flag, address) in self.doors() {
            if !address.ip().is_loopback() && !self.insecure {
                return Err(InvalidConfig::Open { flag, address });
            }
        }
        Ok(())
    }

    /// Every address the node serves, with the flag that sets it.
    pub fn doors(&self) -> [(&'static str, SocketAddr); 4] {
        [("--http", self.http), ("--quic", self.quic), ("--grpc", self.grpc), ("--peer", self.peer)]
    }
}

/// The first node of a cluster is `n1`; those that join it are told apart by where they listen.
fn default_name(join: &[String], peer: SocketAddr) -> String {
    if join.is_empty() {
        return "n1".to_owned();
    }
    format!("{}-{}", peer.ip(), peer.port()).replace(':', "-")
}

/// What others dial when nobody said: the address itself, if it is one that can be dialled.
fn advertised(peer: SocketAddr) -> Result<String, InvalidConfig> {
    if peer.ip().is_unspecified() {
        return Err(InvalidConfig::Value {
            flag: "--advertise",
            why: format!("must name the host that others dial, since --peer is {peer}"),
        });
    }
    Ok(match peer {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    })
}

/// The preset, with the times that were said in the place of its own.
fn consensus(said: &Partial) -> Result<Settings, InvalidConfig> {
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

fn shards(count: u16) -> Result<ShardCount, InvalidConfig> {
    ShardCount::new(count).ok_or_else(|| InvalidConfig::Value {
        flag: "--shards",
        why: format!("must be 1 to {}", ShardCount::MAX),
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: Partial, env: Partial, file: Partial) -> Result<Config, InvalidConfig> {
        Config::resolve(flags, env, file)
    }

    fn named(name: &str) -> Partial {
        Partial { name: Some(name.to_owned()), ..Partial::default() }
    }

    #[test]
    fn without_a_word_it_is_one_node_on_loopback() {
        let config = resolve(Partial::default(), Partial::default(), Partial::default());
        let config = config.expect("the defaults are good");
        assert_eq!(config.name, "n1");
        assert_eq!(config.data, PathBuf::from("pushonce-data/n1"));
        assert!(config.doors().iter().all(|(_, address)| address.ip().is_loopback()));
        assert_eq!(config.advertise, "127.0.0.1");
    }

    #[test]
    fn flags_win_over_environment_wins_over_file() {
        let name = |flags, env, file| resolve(flags, env, file).map(|c| c.name);
        let none = Partial::default;
        assert_eq!(name(named("flag"), named("env"), named("file")), Ok("flag".to_owned()));
        assert_eq!(name(none(), named("env"), named("file")), Ok("env".to_owned()));
        assert_eq!(name(none(), none(), named("file")), Ok("file".to_owned()));
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let file = "name = \"a\"\nhttp = \"127.0.0.1:1\"\nroles = \"edge\"\njoin = [\"b:7091\"]";
        let partial = Partial::from_toml(file).expect("good");
        assert_eq!(partial.roles, Some(Roles { core: false, edge: true }));
        assert_eq!(partial.join, Some(vec!["b:7091".to_owned()]));
    }

    #[test]
    fn an_unknown_key_in_the_file_is_refused_by_name() {
        let why = Partial::from_toml("name = \"a\"\nport = 1").expect_err("unknown").to_string();
        assert!(why.contains("port"), "{why}");
    }

    #[test]
    fn the_environment_is_read_by_the_names_of_the_flags() {
        let env = |key: &str| match key {
            "PUSHONCE_GRPC" => Some("127.0.0.1:9".to_owned()),
            "PUSHONCE_JOIN" => Some("a:1,b:2".to_owned()),
            _ => None,
        };
        let partial = Partial::from_env(env).expect("good");
        assert_eq!(partial.grpc, Some(SocketAddr::from(([127, 0, 0, 1], 9))));
        assert_eq!(partial.join.map(|j| j.len()), Some(2));
        let broken = Partial::from_env(|key| (key == "PUSHONCE_HTTP").then(|| "x".to_owned()));
        assert!(
            matches!(broken, Err(InvalidConfig::Environment { name, .. }) if name == "PUSHONCE_HTTP")
        );
    }

    #[test]
    fn an_open_door_needs_a_word() {
        let open =
            Partial { http: Some(SocketAddr::from(([0, 0, 0, 0], 7080))), ..Partial::default() };
        let refused = resolve(open.clone(), Partial::default(), Partial::default());
        assert!(matches!(refused, Err(InvalidConfig::Open { flag: "--http", .. })));
        let insecure = Partial { insecure: Some(true), ..open };
        assert!(resolve(insecure, Partial::default(), Partial::default()).is_ok());
    }

    #[test]
    fn what_cannot_be_dialled_needs_advertise() {
        let everywhere = Partial {
            peer: Some(SocketAddr::from(([0, 0, 0, 0], 7091))),
            insecure: Some(true),
            ..Partial::default()
        };
        let refused = resolve(everywhere, Partial::default(), Partial::default());
        assert!(matches!(refused, Err(InvalidConfig::Value { flag: "--advertise", .. })));
    }

    #[test]
    fn values_out_of_range_name_their_flag() {
        let cases = [
            ("--replicas", Partial { replicas: Some(2), ..Partial::default() }),
            ("--shards", Partial { shards: Some(0), ..Partial::default() }),
            ("--weight", Partial { weight: Some(0), ..Partial::default() }),
            ("--join", Partial { join: Some(vec!["nowhere".to_owned()]), ..Partial::default() }),
            ("--name", named("a b")),
        ];
        for (wanted, partial) in cases {
            let refused = resolve(partial, Partial::default(), Partial::default());
            assert!(matches!(refused, Err(InvalidConfig::Value { flag, .. }) if flag == wanted));
        }
    }

    #[test]
    fn times_of_consensus_are_set_one_by_one_over_a_preset() {
        let file = "consensus = \"wan\"\nheartbeat = \"400ms\"\ndisk-reserve = \"1GiB\"";
        let file = Partial::from_toml(file).expect("good");
        let env =
            Partial::from_env(|key| (key == "PUSHONCE_ELECTION_MAX").then(|| "5s".to_owned()));
        let config = resolve(Partial::default(), env.expect("good"), file).expect("they fit");
        let wanted = Settings {
            heartbeat: Duration::from_millis(400),
            election_max: Duration::from_secs(5),
            disk_reserve: Some(1 << 30),
            ..Settings::wan()
        };
        assert_eq!(config.consensus, wanted);
        assert_eq!(
            resolve(Partial::default(), Partial::default(), Partial::default())
                .map(|config| config.consensus),
            Ok(Settings::lan())
        );
    }

    #[test]
    fn times_that_do_not_fit_together_are_refused_by_the_names_of_their_flags() {
        let time = |text: &str| text.parse().ok();
        let slow = Partial { rpc_timeout: time("350ms"), ..Partial::default() };
        let refused = resolve(slow, Partial::default(), Partial::default());
        let why = refused.expect_err("an election ends before its votes arrive").to_string();
        assert!(why.contains("election-min") && why.contains("rpc-timeout"), "{why}");
        let swapped = Partial { election_max: time("300ms"), ..Partial::default() };
        assert!(resolve(swapped, Partial::default(), Partial::default()).is_err());
    }
}

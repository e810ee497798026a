//! What one source says: the flags, the environment, or the file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use pushonce_core::Roles;
use serde::Deserialize;

use super::{InvalidConfig, Preset, Size, Switch, Time};

/// What one source says: a flag is `--name`, its environment variable `PUSHONCE_NAME`, its key in
/// the file `name`.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Partial {
    /// The node's name, unique in the cluster [default: HOST-PORT that other nodes dial]
    #[arg(long)]
    pub name: Option<String>,
    /// Directory for data that the node must not lose [default: /var/lib/pushonce/NAME for root, else
    /// $XDG_DATA_HOME/pushonce/NAME or ~/.local/share/pushonce/NAME; `default` without --name]
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
    /// The host that other nodes and clients dial. Prefer a DNS name: it stays when the address of the
    /// machine changes [default: the address of --peer]
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Peer addresses (HOST:PORT,…) of other nodes: an empty data directory joins their cluster, a
    /// member asks them where the other members are now
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
    /// Shards of the cluster that `pushonce init` creates, permanent, 1 to 4096 [default: 16]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Replicas of each shard of the cluster that `pushonce init` creates: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Threads that carry client sessions [default: one a core]
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Tie each lane to a core of its own, where there are enough: for a node that has its machine for
    /// itself
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub pin_lanes: Option<bool>,
    /// Whether messages are deflated for WebSocket clients that offer it, once each however many read
    /// it: half the bytes or less, for the CPU of some five deliveries. Off is for nodes whose topics
    /// have a reader or two each [default: on]
    #[arg(long, value_name = "on|off")]
    #[serde(default, deserialize_with = "parsed")]
    pub compression: Option<Switch>,
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
    /// Memory of this process. Near it, subscribers that take the newest alone get it less often, and then
    /// no new sessions are taken in; at it, sessions are sent away. 0: no bound [default: four fifths of the machine's or its control group's]
    #[arg(long, value_name = "SIZE")]
    #[serde(default, deserialize_with = "parsed")]
    pub memory_max: Option<Size>,
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
            pin_lanes: env.parsed("PIN_LANES")?,
            compression: env.parsed("COMPRESSION")?,
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
            memory_max: env.parsed("MEMORY_MAX")?,
        })
    }

    /// What `self` says, and what `other` says where `self` is silent.
    pub(super) fn or(self, other: Partial) -> Partial {
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
            pin_lanes: self.pin_lanes.or(other.pin_lanes),
            compression: self.compression.or(other.compression),
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
            memory_max: self.memory_max.or(other.memory_max),
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
        T: FromStr<Err: std::fmt::Display>,
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
    T: FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_flags_say() {
        let file = "name = \"a\"\nhttp = \"127.0.0.1:1\"\nroles = \"edge\"\ncompression = \"on\"\njoin = [\"b:7091\"]";
        let partial = Partial::from_toml(file).expect("good");
        assert_eq!(partial.roles, Some(Roles { core: false, edge: true }));
        assert_eq!(partial.compression, Some(Switch(true)));
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
            "PUSHONCE_COMPRESSION" => Some("off".to_owned()),
            _ => None,
        };
        let partial = Partial::from_env(env).expect("good");
        assert_eq!(partial.grpc, Some(SocketAddr::from(([127, 0, 0, 1], 9))));
        assert_eq!(partial.compression, Some(Switch(false)));
        assert_eq!(partial.join.map(|j| j.len()), Some(2));
        let broken = Partial::from_env(|key| (key == "PUSHONCE_HTTP").then(|| "x".to_owned()));
        assert!(
            matches!(broken, Err(InvalidConfig::Environment { name, .. }) if name == "PUSHONCE_HTTP")
        );
    }
}

//! The settings of one source: the flags, the environment, or the file.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use pushonce_core::{FailPoint, Roles};
use serde::{Deserialize, Serialize};

use super::environment::EnvVars;
use super::{ByteSize, ConsensusPreset, HumanDuration, InvalidConfig, OnOff};

/// The settings of one source. A flag is `--name`, its environment variable `PUSHONCE_NAME`, its key in the
/// file `name`.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PartialConfig {
    /// The node's name, unique in the cluster [default: HOST-PORT that other nodes dial]
    #[arg(long)]
    pub name: Option<String>,
    /// Directory for the data of the node, which must be persistent [default: NAME, or
    /// `default`, in $XDG_DATA_HOME/pushonce, else /var/lib/pushonce for root or ~/.local/share/pushonce]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address for HTTP and WebSocket [default: 127.0.0.1:7080]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Address for QUIC (UDP) [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDR")]
    pub quic: Option<SocketAddr>,
    /// Address for gRPC from publishers and operators [default: 127.0.0.1:7090]
    #[arg(long, value_name = "ADDR")]
    pub grpc: Option<SocketAddr>,
    /// Address for gRPC between nodes [default: 127.0.0.1:7091]
    #[arg(long, value_name = "ADDR")]
    pub peer: Option<SocketAddr>,
    /// Host that other nodes and clients dial. Prefer a DNS name: it stays valid when the address of the
    /// machine changes [default: the address of --peer]
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Peer addresses (HOST:PORT,…) of other nodes: an empty data directory joins their cluster, a
    /// member asks them for the current addresses of the other members
    #[arg(long, value_name = "ADDRS", value_delimiter = ',')]
    pub join: Option<Vec<String>>,
    /// Region label: each message is sent into a region once
    #[arg(long)]
    pub region: Option<String>,
    /// Zone label within the region: replicas are spread over zones
    #[arg(long)]
    pub zone: Option<String>,
    /// Roles: core (holds shards), edge (serves clients), or both [default: core,edge]
    #[arg(long, value_parser = str::parse::<Roles>)]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub roles: Option<Roles>,
    /// Share of the shards relative to the weights of other nodes, 1 to 16 [default: 1]
    #[arg(long)]
    pub weight: Option<u32>,
    /// Number of shards of the cluster that `pushonce init` creates, permanent, 1 to 4096 [default: 16]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Number of replicas of each shard of the cluster that `pushonce init` creates: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N")]
    pub replicas: Option<u8>,
    /// Number of threads that serve client sessions [default: one a core]
    #[arg(long, value_name = "N")]
    pub lanes: Option<usize>,
    /// Pin each lane to its own core if there are enough cores: for a node that has its machine to itself
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub pin_lanes: Option<bool>,
    /// Whether messages are compressed (deflate) for WebSocket clients that offer it. Each message is
    /// compressed once for all subscribers: half the bytes or less, for the CPU of about five deliveries.
    /// Turn it off on nodes whose topics have one or two subscribers each [default: on]
    #[arg(long, value_name = "on|off")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub compression: Option<OnOff>,
    /// Allow addresses that others can reach, although there is no authentication
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// Interval of the heartbeats of a client session, 1s to 25s: lower it where a proxy closes idle
    /// connections [default: 25s]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub session_heartbeat: Option<HumanDuration>,
    /// Consensus times of a new cluster: lan (nodes a few milliseconds apart) or wan (up to 250 ms)
    /// [default: lan]. They belong to the cluster: a node that joins or restarts takes them, and does not
    /// start when this or one of the next five settings differs; `pushonce cluster set-times` changes them
    #[arg(long, value_name = "lan|wan")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub consensus: Option<ConsensusPreset>,
    /// Interval of the heartbeats of an owner [lan: 150ms]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub heartbeat: Option<HumanDuration>,
    /// Minimum time without heartbeats after which a replica starts an election [lan: 400ms]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub election_min: Option<HumanDuration>,
    /// Maximum of that time, and duration of an owner's lease [lan: 800ms]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub election_max: Option<HumanDuration>,
    /// Timeout of a small request to another node [lan: 250ms]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub rpc_timeout: Option<HumanDuration>,
    /// Timeout of a connection attempt to another node [lan: 100ms]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub connect_timeout: Option<HumanDuration>,
    /// Time that a publish waits for its commit before its outcome is unknown [lan: 5s]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub proposal_deadline: Option<HumanDuration>,
    /// Time without progress after which the transfer of a shard's snapshot is retried
    /// [lan: 30s]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub snapshot_timeout: Option<HumanDuration>,
    /// Maximum number of topics in the replicas of this node: beyond it, publishes that would create another
    /// topic here are rejected. 0: no limit. Each namespace has its own limit (`pushonce namespace set`)
    /// [default: 2000000]
    #[arg(long, value_name = "N")]
    pub topics_max: Option<u64>,
    /// Time for which the node keeps serving, but unready, after SIGTERM or Ctrl-C: as long as load balancers
    /// need to notice [default: 0s]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub shutdown_delay: Option<HumanDuration>,
    /// Time over which the node then disconnects its clients, so that other nodes accept them at an even
    /// rate. A second signal ends the node at once [default: 5s]
    #[arg(long, value_name = "TIME")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub shutdown_grace: Option<HumanDuration>,
    /// Free space to keep on the disk of --data: with less the node accepts no publishes [default: 256MiB,
    /// or a twentieth of the disk]
    #[arg(long, value_name = "SIZE")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub disk_reserve: Option<ByteSize>,
    /// Memory limit of this process. Near it, `latest` subscriptions get messages less often, and then new
    /// sessions are rejected; at it, sessions are closed. 0: no limit [default: four fifths of the machine's or
    /// its control group's]
    #[arg(long, value_name = "SIZE")]
    #[serde(
        default,
        deserialize_with = "deserialize_from_str",
        serialize_with = "serialize_display"
    )]
    pub memory_max: Option<ByteSize>,
}

impl PartialConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`InvalidConfig::File`], with the line, when the text is not TOML or has an unknown key or wrong type.
    pub fn from_toml(text: &str) -> Result<PartialConfig, InvalidConfig> {
        toml::from_str(text).map_err(|error| InvalidConfig::File(error.to_string()))
    }

    /// Reads the `PUSHONCE_…` variables of an environment. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`InvalidConfig::Environment`] for the first variable with an invalid value, and
    /// [`InvalidConfig::UnknownVariable`] for one that no setting has the name of.
    pub fn from_env(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<PartialConfig, InvalidConfig> {
        let mut env = EnvVars::new(variables);
        let partial = PartialConfig {
            name: env.take("NAME")?,
            data: env.take("DATA")?,
            http: env.take("HTTP")?,
            quic: env.take("QUIC")?,
            grpc: env.take("GRPC")?,
            peer: env.take("PEER")?,
            advertise: env.take("ADVERTISE")?,
            join: env.take_list("JOIN")?,
            region: env.take("REGION")?,
            zone: env.take("ZONE")?,
            roles: env.take("ROLES")?,
            weight: env.take("WEIGHT")?,
            shards: env.take("SHARDS")?,
            replicas: env.take("REPLICAS")?,
            lanes: env.take("LANES")?,
            pin_lanes: env.take("PIN_LANES")?,
            compression: env.take("COMPRESSION")?,
            insecure: env.take("INSECURE")?,
            session_heartbeat: env.take("SESSION_HEARTBEAT")?,
            consensus: env.take("CONSENSUS")?,
            heartbeat: env.take("HEARTBEAT")?,
            election_min: env.take("ELECTION_MIN")?,
            election_max: env.take("ELECTION_MAX")?,
            rpc_timeout: env.take("RPC_TIMEOUT")?,
            connect_timeout: env.take("CONNECT_TIMEOUT")?,
            proposal_deadline: env.take("PROPOSAL_DEADLINE")?,
            snapshot_timeout: env.take("SNAPSHOT_TIMEOUT")?,
            topics_max: env.take("TOPICS_MAX")?,
            shutdown_delay: env.take("SHUTDOWN_DELAY")?,
            shutdown_grace: env.take("SHUTDOWN_GRACE")?,
            disk_reserve: env.take("DISK_RESERVE")?,
            memory_max: env.take("MEMORY_MAX")?,
        };
        if FailPoint::COMPILED_IN {
            env.take::<FailPoint>("FAIL_POINT")?;
        }
        env.reject_unknown()?;
        Ok(partial)
    }

    /// The settings of `self`, and those of `other` where `self` has none.
    pub(super) fn or_else_from(self, other: PartialConfig) -> PartialConfig {
        PartialConfig {
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
            session_heartbeat: self.session_heartbeat.or(other.session_heartbeat),
            consensus: self.consensus.or(other.consensus),
            heartbeat: self.heartbeat.or(other.heartbeat),
            election_min: self.election_min.or(other.election_min),
            election_max: self.election_max.or(other.election_max),
            rpc_timeout: self.rpc_timeout.or(other.rpc_timeout),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            proposal_deadline: self.proposal_deadline.or(other.proposal_deadline),
            snapshot_timeout: self.snapshot_timeout.or(other.snapshot_timeout),
            topics_max: self.topics_max.or(other.topics_max),
            shutdown_delay: self.shutdown_delay.or(other.shutdown_delay),
            shutdown_grace: self.shutdown_grace.or(other.shutdown_grace),
            disk_reserve: self.disk_reserve.or(other.disk_reserve),
            memory_max: self.memory_max.or(other.memory_max),
        }
    }
}

fn serialize_display<S, T>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
    T: std::fmt::Display,
{
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn deserialize_from_str<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
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
    fn file_settings_equal_flag_settings() {
        let file = "name = \"a\"\nhttp = \"127.0.0.1:1\"\nroles = \"edge\"\ncompression = \"on\"\njoin = [\"b:7091\"]";
        let partial = PartialConfig::from_toml(file).expect("good");
        assert_eq!(partial.roles, Some(Roles { core: false, edge: true }));
        assert_eq!(partial.compression, Some(OnOff(true)));
        assert_eq!(partial.join, Some(vec!["b:7091".to_owned()]));
    }

    #[test]
    fn unknown_key_in_the_file_is_rejected_by_name() {
        let message =
            PartialConfig::from_toml("name = \"a\"\nport = 1").expect_err("unknown").to_string();
        assert!(message.contains("port"), "{message}");
    }
}

//! Every setting of a node, defined once.
//!
//! A field of [`Settings`] is the flag `--some-name`, the variable `PUSHONCE_SOME_NAME`, the key `some-name` of
//! the file, and a row of `CONFIG.md`. Its comment is the help text; its attributes are the default and the
//! range. A default that depends on other settings or on the machine is text, at the end of the comment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use pushonce_core::{Roles, ShardCount};
use serde::{Serialize, Serializer};

use super::consensus_times::ConsensusPreset;
use super::duration::HumanDuration;
use super::layer::Layer;
use super::values::{
    between, bytes, label, list_item, listen_address, name, origin, replicas, switch,
};
use super::{Config, LANES_MAX, TOML_INTEGER_MAX};

/// The settings of a node as given: an optional setting without a value has a default that [`Config`] holds.
#[derive(Args, Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// The node's name, unique in the cluster [default: HOST-PORT that other nodes dial]
    #[arg(long, help_heading = "Node", value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Directory for the data of the node, which must be persistent [default: NAME, or `default`, in
    /// $XDG_DATA_HOME/pushonce, else /var/lib/pushonce for root or ~/.local/share/pushonce]
    #[arg(long, help_heading = "Node", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Region label: each message is sent into a region once
    #[arg(long, help_heading = "Node", value_name = "NAME", value_parser = label)]
    #[arg(default_value = "", hide_default_value = true)]
    pub region: String,
    /// Zone label within the region: replicas are spread over zones
    #[arg(long, help_heading = "Node", value_name = "NAME", value_parser = label)]
    #[arg(default_value = "", hide_default_value = true)]
    pub zone: String,
    /// Roles: core (holds shards), edge (serves clients), or both
    #[arg(long, help_heading = "Node", value_name = "ROLES", default_value_t)]
    #[serde(serialize_with = "serialize_display")]
    pub roles: Roles,
    /// Share of the shards relative to the weights of other nodes, 1 to 16
    #[arg(long, help_heading = "Node", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = between(1_u32, 16))]
    pub weight: u32,

    /// Address for HTTP and WebSocket
    #[arg(long, help_heading = "Addresses", value_name = "ADDR")]
    #[arg(value_parser = listen_address, default_value_t = loopback(Config::DEFAULT_PORTS[0]))]
    pub http: SocketAddr,
    /// Address for HTTP and WebSocket with TLS, with --tls-cert only
    #[arg(long, help_heading = "Addresses", value_name = "ADDR")]
    #[arg(value_parser = listen_address, default_value_t = loopback(Config::DEFAULT_HTTPS_PORT))]
    pub https: SocketAddr,
    /// Address for QUIC (UDP)
    #[arg(long, help_heading = "Addresses", value_name = "ADDR")]
    #[arg(value_parser = listen_address, default_value_t = loopback(Config::DEFAULT_PORTS[1]))]
    pub quic: SocketAddr,
    /// Address for gRPC from publishers and operators
    #[arg(long, help_heading = "Addresses", value_name = "ADDR")]
    #[arg(value_parser = listen_address, default_value_t = loopback(Config::DEFAULT_PORTS[2]))]
    pub grpc: SocketAddr,
    /// Address for gRPC between nodes
    #[arg(long, help_heading = "Addresses", value_name = "ADDR")]
    #[arg(value_parser = listen_address, default_value_t = loopback(Config::DEFAULT_PORTS[3]))]
    pub peer: SocketAddr,
    /// Host that other nodes and clients dial. Prefer a DNS name: it stays valid when the address of the
    /// machine changes [default: the address of --peer]
    #[arg(long, help_heading = "Addresses", value_name = "HOST")]
    pub advertise: Option<String>,
    /// Peer addresses of other nodes: an empty data directory joins their cluster, a member asks them for the
    /// current addresses of the other members
    #[arg(long, help_heading = "Addresses", value_name = "ADDRS", value_delimiter = ',')]
    #[arg(value_parser = list_item)]
    pub join: Vec<String>,
    /// Address of a listener for monitoring, which serves metrics and health without tokens, and nothing else.
    /// It may be any address: bind it to a network of your own [default: none]
    #[arg(long, help_heading = "Addresses", value_name = "ADDR", value_parser = listen_address)]
    pub monitoring: Option<SocketAddr>,
    /// Origins of pages that may read, publish and subscribe besides the node's own pages, as in
    /// `https://www.example.com`; `*` for every page. On a loopback address, their hosts are accepted as names of
    /// this node, too [default: none]
    #[arg(long, help_heading = "Addresses", value_name = "ORIGINS", value_delimiter = ',')]
    #[arg(value_parser = origin)]
    pub origins: Vec<String>,
    /// Allow addresses that others can reach although the node has no certificate or no issuers
    #[arg(long, help_heading = "Addresses", value_name = "on|off", value_parser = switch)]
    #[arg(num_args = 0..=1, default_missing_value = "on", default_value = "off")]
    #[arg(action = clap::ArgAction::Set)]
    pub insecure: bool,

    /// TOML file with the issuers whose tokens are accepted, and their keys; read again when it or a key file
    /// changes. Without it every caller may do everything
    #[arg(long, help_heading = "Access", value_name = "FILE")]
    pub issuers: Option<PathBuf>,
    /// Certificate of this node for its connections to other nodes (PEM), read again when it changes. It names the
    /// cluster and the node: see `pushonce ca`. With it, nodes talk mutual TLS and nothing else
    #[arg(long, help_heading = "Security between nodes", value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,
    /// Private key of --peer-cert (PEM)
    #[arg(long, help_heading = "Security between nodes", value_name = "FILE")]
    pub peer_key: Option<PathBuf>,
    /// Certificates of the authorities that issue the certificates of nodes (PEM); several while one replaces
    /// another
    #[arg(long, help_heading = "Security between nodes", value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,
    /// Private key of one of --peer-ca: this node then certifies nodes that join with a token. One or two nodes
    /// suffice: who has the key can make nodes of the cluster
    #[arg(long, help_heading = "Security between nodes", value_name = "FILE")]
    pub peer_ca_key: Option<PathBuf>,
    /// File with the join token that `pushonce cluster token` printed, for a node without a certificate: it gets
    /// one, keeps it in --data and renews it. Without the file the token is that of the variable
    /// PUSHONCE_JOIN_TOKEN, if it is set. Ignored after the join
    #[arg(long, help_heading = "Security between nodes", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// PEM file with the certificate chain for clients, on --https, --quic and --grpc. It is read again when it
    /// changes and on SIGHUP [default: no --https, gRPC without TLS, a self-signed certificate for QUIC]
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the key of --tls-cert
    #[arg(long, help_heading = "TLS", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Number of shards of the cluster that `pushonce init` creates, permanent, 1 to 4096
    #[arg(long, help_heading = "New cluster", value_name = "N")]
    #[arg(default_value_t = ShardCount::DEFAULT.get())]
    #[arg(value_parser = between(1, ShardCount::MAX))]
    pub shards: u16,
    /// Number of replicas of each shard of the cluster that `pushonce init` creates: 1, 3 or 5
    #[arg(long, help_heading = "New cluster", value_name = "N", default_value_t = 3)]
    #[arg(value_parser = replicas)]
    pub replicas: u8,

    /// Number of threads that serve client sessions, 1 to 256 [default: one per core]
    #[arg(long, help_heading = "Client sessions", value_name = "N")]
    #[arg(value_parser = between(1, LANES_MAX))]
    pub lanes: Option<u16>,
    /// Pin each lane to its own core if there are enough cores: for a node that has its machine to itself
    #[arg(long, help_heading = "Client sessions", value_name = "on|off", value_parser = switch)]
    #[arg(num_args = 0..=1, default_missing_value = "on", default_value = "off")]
    #[arg(action = clap::ArgAction::Set)]
    pub pin_lanes: bool,
    /// Whether messages are compressed (deflate) for WebSocket clients that offer it. Each message is
    /// compressed once for all subscribers: half the bytes or less, for the CPU of about five deliveries.
    /// Turn it off on nodes whose topics have one or two subscribers each
    #[arg(long, help_heading = "Client sessions", value_name = "on|off", value_parser = switch)]
    #[arg(default_value = "on", action = clap::ArgAction::Set)]
    pub compression: bool,
    // A client that receives no frame for two and a half times 25 seconds treats the connection as closed.
    /// Interval of the heartbeats of a client session, 1s to 25s, on which clients rely: lower it where a
    /// proxy closes idle connections
    #[arg(long, help_heading = "Client sessions", value_name = "TIME", default_value = "25s")]
    #[arg(value_parser = between(HumanDuration::from_secs(1), HumanDuration::from_secs(25)))]
    pub session_heartbeat: HumanDuration,

    // Longer than the clocks of hosts with NTP differ; the maximum is one heartbeat of a session.
    /// Time after the expiry of a token for which its session continues, so that the client can renew it, at
    /// most 25s
    #[arg(long, help_heading = "Client sessions", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = between(HumanDuration::from_secs(0), HumanDuration::from_secs(25)))]
    pub token_grace: HumanDuration,
    /// Maximum age of a client session, after which the client has to connect again, 1m to 30d [default: none]
    #[arg(long, help_heading = "Client sessions", value_name = "TIME")]
    #[arg(value_parser = between(HumanDuration::from_secs(60), HumanDuration::from_secs(30 * 86_400)))]
    pub session_age_max: Option<HumanDuration>,
    /// Age after which an event stream (SSE) ends and its client connects again, more or less a fifth, 10s to 1d: it
    /// spreads the streams over nodes that were added
    #[arg(long, help_heading = "Client sessions", value_name = "TIME", default_value = "15m")]
    #[arg(value_parser = between(HumanDuration::from_secs(10), HumanDuration::from_secs(86_400)))]
    pub sse_age_max: HumanDuration,

    /// Memory limit of this process. Near it, `latest` subscriptions receive messages less often, then new topics,
    /// new sessions and publishes are rejected; at it, sessions are closed if they hold more than the topics. 0: no
    /// limit [default: four fifths of the machine's or its control group's]
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = bytes)]
    pub memory_max: Option<u64>,
    // Each topic takes at least some hundred bytes: about 1 GiB in total.
    /// Maximum number of topics in the replicas of this node: beyond it, publishes that would create another
    /// topic here are rejected. One namespace can have half of them. 0: no limit. Each namespace has its own limit
    /// (`pushonce namespace set`)
    #[arg(long, help_heading = "Limits", value_name = "N", default_value_t = 2_000_000)]
    #[arg(value_parser = between(0, TOML_INTEGER_MAX))]
    pub topics_max: u64,
    // The viewers behind one address translator of a stadium or a mobile provider.
    /// Maximum number of connections of one client address (IPv6: of one network of 64 bits) over HTTP, WebSocket,
    /// QUIC and gRPC, with at most 500 new ones a second: raise it behind a proxy on another host. 0: no limit.
    /// 127.0.0.1 and ::1 are not limited
    #[arg(long, help_heading = "Limits", value_name = "N", default_value_t = 10_000)]
    pub address_connections_max: usize,
    /// Maximum number of publishes a second of one caller (the subject of its token, else its address) over HTTP,
    /// WebSocket and QUIC, twice as many at once; gRPC has no such limit. 0: no limit. The addresses 127.0.0.1 and
    /// ::1 are not limited
    #[arg(long, help_heading = "Limits", value_name = "N", default_value_t = 1_000)]
    pub publish_rate_max: u32,
    // The 10,000 sessions behind one address translator come back at once when a node restarts.
    /// Maximum number of subscriptions a second of one caller (the subject of its token, else its address) over
    /// WebSocket, QUIC and gRPC, ten times as many at once. 0: no limit. The addresses 127.0.0.1 and ::1 are not
    /// limited
    #[arg(long, help_heading = "Limits", value_name = "N", default_value_t = 2_000)]
    pub subscribe_rate_max: u32,
    // At this rate the million topics of a namespace take more than an hour.
    /// Maximum number of replicated topics that one caller (the subject of its token, else its address) may create in a
    /// second over HTTP, WebSocket, QUIC and gRPC, a hundred times as many at once; beyond it, the caller waits before
    /// it publishes again. Raise it for a back end that publishes to many new topics. 0: no limit. The addresses
    /// 127.0.0.1 and ::1 are not limited
    #[arg(long, help_heading = "Limits", value_name = "N", default_value_t = 200)]
    pub new_topic_rate_max: u32,
    /// Free space to keep on the disk of --data: with less the node accepts no publishes [default: 256MiB,
    /// or a twentieth of the disk]
    #[arg(long, help_heading = "Limits", value_name = "SIZE", value_parser = bytes)]
    pub disk_reserve: Option<u64>,

    // Ten minutes are longer than any load balancer needs to react.
    /// Time for which the node keeps serving, but unready, after SIGTERM or Ctrl-C: as long as load balancers
    /// need to notice, at most 10m
    #[arg(long, help_heading = "Shutdown", value_name = "TIME", default_value = "0s")]
    #[arg(value_parser = between(HumanDuration::from_secs(0), HumanDuration::from_secs(600)))]
    pub shutdown_delay: HumanDuration,
    // Half of the time that a container runtime usually waits before it kills a process.
    /// Time over which the node then disconnects its clients, so that other nodes accept them at an even
    /// rate, at most 10m. A second signal ends the node at once
    #[arg(long, help_heading = "Shutdown", value_name = "TIME", default_value = "5s")]
    #[arg(value_parser = between(HumanDuration::from_secs(0), HumanDuration::from_secs(600)))]
    pub shutdown_grace: HumanDuration,

    /// Consensus times of a new cluster: lan (nodes a few milliseconds apart) or wan (up to 250 ms). They belong
    /// to the cluster: a node that joins or restarts takes them, and does not start when this or one of the next
    /// five settings differs; `pushonce cluster set-times` changes them [default: lan]
    #[arg(long, help_heading = "Consensus times", value_name = "lan|wan")]
    #[arg(hide_possible_values = true)]
    pub consensus: Option<ConsensusPreset>,
    /// Single times in place of those of the preset.
    #[command(flatten)]
    #[serde(flatten)]
    pub shared_times: SharedTimes,
    /// Time that a publish waits for its commit before its outcome is unknown
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub proposal_deadline: Option<HumanDuration>,
    /// Time without progress after which the transfer of a shard's snapshot is retried
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub snapshot_timeout: Option<HumanDuration>,
}

/// The consensus times that all nodes of a cluster share.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SharedTimes {
    /// Interval of the heartbeats of an owner
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub heartbeat: Option<HumanDuration>,
    /// Minimum time without heartbeats after which a replica starts an election
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub election_min: Option<HumanDuration>,
    /// Maximum of that time, and duration of an owner's lease
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub election_max: Option<HumanDuration>,
    /// Timeout of a small request to another node
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub rpc_timeout: Option<HumanDuration>,
    /// Timeout of a connection attempt to another node
    #[arg(long, help_heading = "Consensus times", value_name = "TIME")]
    pub connect_timeout: Option<HumanDuration>,
}

impl Default for Settings {
    /// The settings of a node for which none is given.
    fn default() -> Settings {
        // A default that its own parser rejects is a defect that every test of this crate finds.
        Layer::default().parse().unwrap_or_else(|error| error.exit())
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn serialize_display<T: std::fmt::Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

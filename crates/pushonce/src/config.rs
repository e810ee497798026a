//! The settings of a node: flags, then environment, then file; plain data, checked once.
//!
//! [`Partial`] is one source, each value said or not; [`Config::resolve`] lays the three over each
//! other. What of the defaults depends on the machine and the user is in [`Machine`].

mod environment;
mod listen;
mod machine;
mod measure;
mod partial;
mod switch;
mod times;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pushonce_consensus::Settings;
use pushonce_core::{ConsensusTimes, HostPort, Roles, ShardCount};

pub use machine::Machine;
pub use measure::{InvalidMeasure, Size, Time};
pub use partial::Partial;
pub use switch::Switch;
pub use times::Preset;
use times::{consensus, names_times, preset_of};

/// The settings of a node, complete and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The operator's name for the node, unique in the cluster.
    pub name: String,
    /// Directory for data that the node must not lose, absolute.
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
    /// Peer addresses of other nodes. An empty data directory joins their cluster; a member asks there
    /// for the present addresses of the others. Empty on a node that needs neither.
    pub join: Vec<String>,
    /// Label; may be empty.
    pub region: String,
    /// Label within the region; may be empty.
    pub zone: String,
    /// What the node does.
    pub roles: Roles,
    /// Its share of the shards beside the others' weights.
    pub weight: u32,
    /// Shards of a cluster that `init` creates.
    pub shards: ShardCount,
    /// Replicas a shard of a cluster that `init` creates.
    pub replicas: u8,
    /// Threads that carry client sessions.
    pub lanes: usize,
    /// Whether each is tied to a core of its own.
    pub pin_lanes: bool,
    /// Bytes of memory the process should stay below; 0 for no bound, none for the usual share of the
    /// machine's.
    pub memory_max: Option<u64>,
    /// Topics that its replicas may hold before its owners take no further ones; 0 for no bound.
    pub topics_max: u64,
    /// How long the node goes on as before after it was told to stop, only that it is not ready.
    pub shutdown_delay: Duration,
    /// Over how long it then sends its clients away.
    pub shutdown_grace: Duration,
    /// Whether messages are deflated for clients that offer it.
    pub compression: bool,
    /// Whether an address that others can reach may be served without authentication.
    pub insecure: bool,
    /// How often a client session gets a heartbeat.
    pub session_heartbeat: Duration,
    /// Times of consensus, and the room it keeps on the disk.
    pub consensus: Settings,
    /// The times of consensus that the settings name; `None` when they name none: then the node takes
    /// those of its cluster.
    pub times: Option<ConsensusTimes>,
    /// Whether this is a cluster of one node for development (`serve --dev`): it accepts no members.
    pub development: bool,
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
    /// An environment variable that no setting has the name of.
    #[error(
        "the environment variable {name}: no setting has this name; `pushonce serve --help` lists the \
         flags, and --some-flag is PUSHONCE_SOME_FLAG"
    )]
    Unknown {
        /// Which.
        name: String,
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

impl Config {
    /// The port of each door unless another is said: HTTP, QUIC, gRPC, peers.
    pub const PORTS: [u16; 4] = [7080, 7443, 7090, 7091];

    /// The longest time between two heartbeats of a session, and the default. Clients take two and a half
    /// of it without any frame for the end of the connection.
    pub const SESSION_HEARTBEAT: Duration = Duration::from_secs(25);

    /// Lays flags over environment over file over defaults, and checks the whole.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first setting that cannot be.
    pub fn resolve(flags: Partial, env: Partial, file: Partial) -> Result<Config, InvalidConfig> {
        Config::resolve_on(&Machine::current(), flags, env, file)
    }

    /// As [`Config::resolve`], with the defaults of a given machine.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first setting that cannot be.
    pub fn resolve_on(
        machine: &Machine,
        flags: Partial,
        env: Partial,
        file: Partial,
    ) -> Result<Config, InvalidConfig> {
        let said = flags.or(env).or(file);
        let consensus = consensus(&said)?;
        let times = names_times(&said).then(|| consensus.times());
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let [http, quic, grpc, peer] = Self::PORTS.map(local);
        let peer = said.peer.unwrap_or(peer);
        let join = said.join.unwrap_or_default();
        let advertise = said.advertise.map_or_else(|| advertised(peer), Ok)?;
        // Never from --join or an address: a member that is given --join, or moves, must find its data.
        let folder = said.name.as_deref().unwrap_or("default");
        let data = said.data.unwrap_or_else(|| machine.data_home.join(folder));
        let config = Config {
            data: machine.absolute(&data),
            name: said.name.unwrap_or_else(|| default_name(&advertise, peer)),
            http: said.http.unwrap_or(http),
            quic: said.quic.unwrap_or(quic),
            grpc: said.grpc.unwrap_or(grpc),
            peer,
            advertise,
            join,
            region: said.region.unwrap_or_default(),
            zone: said.zone.unwrap_or_default(),
            roles: said.roles.unwrap_or_default(),
            weight: said.weight.unwrap_or(1),
            shards: shards(said.shards.unwrap_or(ShardCount::DEFAULT.get()))?,
            replicas: said.replicas.unwrap_or(3),
            lanes: said.lanes.unwrap_or_else(cores),
            pin_lanes: said.pin_lanes.unwrap_or(false),
            memory_max: said.memory_max.map(|size| size.0),
            topics_max: said.topics_max.unwrap_or(TOPICS_MAX),
            shutdown_delay: said.shutdown_delay.map_or(Duration::ZERO, |time| time.0),
            shutdown_grace: said.shutdown_grace.map_or(SHUTDOWN_GRACE, |time| time.0),
            compression: said.compression.is_none_or(|Switch(on)| on),
            insecure: said.insecure.unwrap_or(false),
            session_heartbeat: said
                .session_heartbeat
                .map_or(Self::SESSION_HEARTBEAT, |time| time.0),
            consensus,
            times,
            development: false,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), InvalidConfig> {
        // First: the name may be made of the address.
        self.check_addresses()?;
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
        for (flag, time) in
            [("--shutdown-delay", self.shutdown_delay), ("--shutdown-grace", self.shutdown_grace)]
        {
            if time > SHUTDOWN_MAX {
                return value(flag, "must be 10 minutes at most");
            }
        }
        if !(Duration::from_secs(1)..=Self::SESSION_HEARTBEAT).contains(&self.session_heartbeat) {
            return value("--session-heartbeat", "must be 1s to 25s: clients count on 25s");
        }
        self.check_exposure()
    }

    fn check_addresses(&self) -> Result<(), InvalidConfig> {
        let value = |flag, why: String| Err(InvalidConfig::Value { flag, why });
        for address in &self.join {
            if let Err(why) = address.parse::<HostPort>() {
                let takes = "takes HOST:PORT of another node's --peer, divided by ','";
                return value("--join", format!("{takes}: {why}"));
            }
        }
        for (flag, listen) in self.doors() {
            if let Err(why) = self.advertised(listen.port()).parse::<HostPort>() {
                let flag = if listen.port() == 0 { flag } else { "--advertise" };
                return value(flag, format!("cannot be dialled by others: {why}"));
            }
        }
        let [http, quic, grpc, peer] = self.doors();
        listen::check_ports(&[http, grpc, peer], quic)
    }

    /// Where others dial the door at `port`.
    pub fn advertised(&self, port: u16) -> String {
        format!("{}:{port}", self.advertise)
    }

    fn check_exposure(&self) -> Result<(), InvalidConfig> {
        for (flag, address) in self.doors() {
            if !address.ip().is_loopback() && !self.insecure {
                return Err(InvalidConfig::Open { flag, address });
            }
        }
        Ok(())
    }

    /// These settings as a source that says every one of them: a node that loads it runs with equal
    /// settings.
    pub fn to_partial(&self) -> Partial {
        let times = &self.consensus;
        Partial {
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
            compression: Some(Switch(self.compression)),
            insecure: Some(self.insecure),
            session_heartbeat: Some(Time(self.session_heartbeat)),
            // Where the settings name no times, the node takes the cluster's. The preset has bounds that no
            // setting names; each of its times follows.
            consensus: self.times.map(|_| preset_of(&self.consensus)),
            heartbeat: self.times.map(|_| Time(times.heartbeat)),
            election_min: self.times.map(|_| Time(times.election_min)),
            election_max: self.times.map(|_| Time(times.election_max)),
            rpc_timeout: self.times.map(|_| Time(times.rpc_timeout)),
            connect_timeout: self.times.map(|_| Time(times.connect_timeout)),
            proposal_deadline: Some(Time(times.proposal_deadline)),
            snapshot_timeout: Some(Time(times.snapshot_timeout)),
            topics_max: Some(self.topics_max),
            shutdown_delay: Some(Time(self.shutdown_delay)),
            shutdown_grace: Some(Time(self.shutdown_grace)),
            disk_reserve: times.disk_reserve.map(Size),
            memory_max: self.memory_max.map(Size),
        }
    }

    /// Every address the node serves, with the flag that sets it.
    pub fn doors(&self) -> [(&'static str, SocketAddr); 4] {
        [("--http", self.http), ("--quic", self.quic), ("--grpc", self.grpc), ("--peer", self.peer)]
    }
}

/// Some hundred bytes each at least: about a GiB.
const TOPICS_MAX: u64 = 2_000_000;

/// Half of what a container runtime usually waits before it kills a process.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Longer than any load balancer needs.
const SHUTDOWN_MAX: Duration = Duration::from_secs(600);

/// Nodes without a name are told apart by the address that others dial.
fn default_name(advertise: &str, peer: SocketAddr) -> String {
    let host: String = advertise.chars().filter(|c| !matches!(c, '[' | ']')).take(57).collect();
    format!("{host}-{}", peer.port()).replace(':', "-")
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
        assert_eq!(config.name, "127.0.0.1-7091");
        assert!(config.doors().iter().all(|(_, address)| address.ip().is_loopback()));
        assert_eq!(config.advertise, "127.0.0.1");
    }

    #[test]
    fn the_data_directory_is_absolute_and_does_not_depend_on_join_or_addresses() {
        let machine =
            Machine { data_home: "/var/lib/pushonce".into(), working_dir: "/work".into() };
        let data = |flags: Partial| {
            let none = Partial::default;
            Config::resolve_on(&machine, flags, none(), none()).expect("valid").data
        };
        let default = PathBuf::from("/var/lib/pushonce/default");
        assert_eq!(data(Partial::default()), default);
        let joins = Partial { join: Some(vec!["a:1".to_owned()]), ..Partial::default() };
        assert_eq!(data(joins), default);
        let moved = SocketAddr::from(([127, 0, 0, 9], 9));
        assert_eq!(data(Partial { peer: Some(moved), ..Partial::default() }), default);
        assert_eq!(data(named("a")), PathBuf::from("/var/lib/pushonce/a"));
        let relative = Partial { data: Some("d/a".into()), ..Partial::default() };
        assert_eq!(data(relative), PathBuf::from("/work/d/a"));
    }

    #[test]
    fn an_address_that_nobody_can_dial_is_refused_before_it_is_advertised() {
        for host in ["a b", "http://a", "a:7091", "", "::1", "a/b"] {
            let flags = Partial { advertise: Some(host.to_owned()), ..Partial::default() };
            let refused = resolve(flags, Partial::default(), Partial::default());
            let flag = |why: &InvalidConfig| matches!(why, InvalidConfig::Value { flag, .. } if *flag == "--advertise");
            assert!(refused.as_ref().is_err_and(flag), "{host:?}: {refused:?}");
        }
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let flags = Partial { peer: Some(any), ..Partial::default() };
        let refused = resolve(flags, Partial::default(), Partial::default());
        assert!(matches!(refused, Err(InvalidConfig::Value { flag: "--peer", .. })), "{refused:?}");
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
            (
                "--session-heartbeat",
                Partial { session_heartbeat: "30s".parse().ok(), ..Partial::default() },
            ),
            ("--weight", Partial { weight: Some(0), ..Partial::default() }),
            ("--join", Partial { join: Some(vec!["nowhere".to_owned()]), ..Partial::default() }),
            ("--name", named("a b")),
            (
                "--shutdown-grace",
                Partial { shutdown_grace: "11m".parse().ok(), ..Partial::default() },
            ),
        ];
        for (wanted, partial) in cases {
            let refused = resolve(partial, Partial::default(), Partial::default());
            assert!(matches!(refused, Err(InvalidConfig::Value { flag, .. }) if flag == wanted));
        }
    }

    #[test]
    fn a_configuration_that_is_written_out_loads_as_the_same_configuration() {
        let said = "name = \"a\"\nhttp = \"127.0.0.1:1\"\njoin = [\"b:7091\"]\nroles = \"edge\"\n\
            consensus = \"wan\"\nelection-max = \"4500ms\"\ndisk-reserve = \"1GiB\"\n\
            memory-max = \"2000000\"\npin-lanes = true\ncompression = \"off\"";
        for text in ["", said] {
            let file = Partial::from_toml(text).expect("valid");
            let config = resolve(Partial::default(), Partial::default(), file).expect("valid");
            let written = toml::to_string(&config.to_partial()).expect("plain data");
            let read = Partial::from_toml(&written).expect("loads again");
            assert_eq!(resolve(Partial::default(), Partial::default(), read), Ok(config));
        }
    }
}

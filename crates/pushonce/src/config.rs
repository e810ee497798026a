//! The settings of a node: from flags, the environment and a file; plain data, validated once.
//!
//! [`Settings`] defines every setting. A [`Layer`] holds what one source gives, [`Layers`] merges the three
//! sources, and [`Config`] is the validated result. [`HostDefaults`] holds the defaults that depend on the
//! machine and the user; `reference` writes `CONFIG.md`.

mod consensus_times;
pub(crate) mod duration;
mod environment;
mod exposure;
#[cfg(test)]
mod fuzz;
mod host_defaults;
mod layer;
mod listen;
mod peer_security;
mod reference;
mod settings;
pub(crate) mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use pushonce_ca::JoinToken;
use pushonce_consensus::ConsensusSettings;
use pushonce_core::{ConsensusTimes, HostPort};
use pushonce_tls::CertificateFiles;

pub use consensus_times::ConsensusPreset;
use consensus_times::{resolve_consensus, set_times, sets_shared_times};
pub use duration::HumanDuration;
pub(crate) use environment::variable;
pub use exposure::ExposedListener;
pub use host_defaults::HostDefaults;
pub use layer::{Layer, Layers};
pub use peer_security::JoinTokenSource;
pub(crate) use peer_security::{JOIN_TOKEN_VARIABLE, parse_join_token, stored_certificate};
pub(crate) use reference::{other_variables, reference};
pub use settings::{Settings, SharedTimes};

/// The largest integer of TOML: a larger setting could not be written to a file.
const TOML_INTEGER_MAX: u64 = i64::MAX as u64;

/// More lanes than the cores of any machine that a node needs.
const LANES_MAX: u16 = 256;

/// The settings of a node, complete and validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The settings as given. Those with a field of their own here may be absent there.
    pub settings: Settings,
    /// The operator's name for the node, unique in the cluster.
    pub name: String,
    /// Absolute path of the data directory.
    pub data: PathBuf,
    /// The host that other nodes and clients dial.
    pub advertise: String,
    /// Number of threads that serve client sessions.
    pub lanes: u16,
    /// The consensus times, and the free disk space to keep.
    pub consensus: ConsensusSettings,
    /// The consensus times that the settings name; `None` when they name none: then the node takes those of
    /// its cluster.
    pub consensus_times: Option<ConsensusTimes>,
    /// Where the node gets its join token, if it has one.
    pub join_token: Option<JoinTokenSource>,
    /// Whether the data directory has the certificate of a node that joined with a token.
    pub has_stored_certificate: bool,
    /// Whether this is a development cluster of one node (`serve --dev`): it accepts no members.
    pub is_development: bool,
}

/// An invalid setting, and what to change.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum InvalidConfig {
    /// The file is not TOML, has an unknown key, or a value that its setting does not accept.
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
    #[error("unknown environment variable {name}: no setting has this name; {}", hint(similar.as_deref()))]
    UnknownVariable {
        /// The name of the variable.
        name: String,
        /// The variable of a setting with a similar name.
        similar: Option<String>,
    },
    /// Flags with an invalid value.
    #[error("invalid flag: {0}")]
    Flags(String),
    /// A value does not fit the other settings.
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
        "{} {} can be reached by other hosts, and {}: {}; or bind to loopback, or add --insecure if \
         only trusted hosts can reach the network", .0.flag, .0.address, .0.risk, .0.remedy
    )]
    Exposed(ExposedListener),
    /// One of the errors above, about a setting that no flag gives.
    #[error("{error} (set by {origin})")]
    FromSource {
        /// The error without its source.
        error: Box<InvalidConfig>,
        /// The variable or the key of the file that gives the setting.
        origin: String,
    },
}

impl InvalidConfig {
    /// The flag of the invalid setting, where one flag is to blame.
    fn flag(&self) -> Option<&'static str> {
        match self {
            InvalidConfig::InvalidValue { flag, .. } => Some(flag),
            InvalidConfig::Exposed(listener) => Some(listener.flag),
            _ => None,
        }
    }
}

impl Config {
    /// The default ports of the listeners: HTTP, QUIC, gRPC, peers.
    pub const DEFAULT_PORTS: [u16; 4] = [7080, 7443, 7090, 7091];

    /// The default port of HTTP and WebSocket with TLS (TCP): that of QUIC (UDP).
    pub const DEFAULT_HTTPS_PORT: u16 = 7443;

    /// Adds the defaults that depend on other settings and on this machine, and validates the result.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first setting that does not fit the others.
    pub fn resolve(settings: Settings) -> Result<Config, InvalidConfig> {
        Config::resolve_on(&HostDefaults::detect(), settings)
    }

    /// Like [`Config::resolve`], with the defaults of a given machine.
    ///
    /// # Errors
    /// [`InvalidConfig`] for the first setting that does not fit the others.
    pub fn resolve_on(host: &HostDefaults, settings: Settings) -> Result<Config, InvalidConfig> {
        Config::resolve_with_token(host, settings, None)
    }

    /// Like [`Config::resolve_on`], with the join token of the environment.
    fn resolve_with_token(
        host: &HostDefaults,
        settings: Settings,
        join_token: Option<JoinToken>,
    ) -> Result<Config, InvalidConfig> {
        let consensus = resolve_consensus(&settings)?;
        let advertise =
            settings.advertise.clone().map_or_else(|| default_advertise_host(settings.peer), Ok)?;
        let name = settings.name.clone();
        // Not derived from --join or an address: a member that gets --join, or moves, must find its data.
        let directory_name = name.as_deref().unwrap_or("default");
        let data = settings.data.clone().unwrap_or_else(|| host.data_home.join(directory_name));
        let data = host.absolute(&data);
        let config = Config {
            name: name.unwrap_or_else(|| default_name(&advertise, settings.peer)),
            has_stored_certificate: peer_security::stored_certificate(&data).exists(),
            join_token: JoinTokenSource::select(&settings, join_token),
            data,
            advertise,
            lanes: settings.lanes.unwrap_or_else(available_cores),
            consensus_times: sets_shared_times(&settings).then(|| consensus.times()),
            consensus,
            is_development: false,
            settings,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), InvalidConfig> {
        self.check_addresses()?;
        peer_security::check(self)?;
        exposure::check_tls(&self.settings)?;
        self.check_exposure()
    }

    fn check_addresses(&self) -> Result<(), InvalidConfig> {
        let invalid_value =
            |flag, reason: String| Err(InvalidConfig::InvalidValue { flag, reason });
        for address in &self.settings.join {
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
        let monitoring = self.settings.monitoring.map(|address| ("--monitoring", address));
        let (udp, tcp): (Vec<_>, Vec<_>) = self
            .listen_addresses()
            .into_iter()
            .chain(monitoring)
            .partition(|&(flag, _)| flag == "--quic");
        listen::check_ports(&tcp, &udp)
    }

    /// The address at which others dial the listener on `port`.
    pub fn advertised_address(&self, port: u16) -> String {
        format!("{}:{port}", self.advertise)
    }

    fn check_exposure(&self) -> Result<(), InvalidConfig> {
        match self.exposed_listeners().into_iter().next() {
            Some(listener) if !self.settings.insecure => Err(InvalidConfig::Exposed(listener)),
            _ => Ok(()),
        }
    }

    /// The listeners that other hosts can reach although they lack encryption or authentication: with
    /// `--insecure` only.
    pub fn exposed_listeners(&self) -> Vec<ExposedListener> {
        exposure::exposed_listeners(self, &self.listen_addresses())
    }

    /// Settings that give every value: a node that loads them runs with the same configuration.
    pub fn complete_settings(&self) -> Settings {
        let mut settings = Settings {
            name: Some(self.name.clone()),
            data: Some(self.data.clone()),
            advertise: Some(self.advertise.clone()),
            lanes: Some(self.lanes),
            ..self.settings.clone()
        };
        set_times(&mut settings, &self.consensus);
        settings
    }

    /// The addresses that the node listens on, each with the flag that sets it.
    pub fn listen_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let Settings { http, https, quic, grpc, peer, .. } = self.settings;
        let mut addresses =
            vec![("--http", http), ("--quic", quic), ("--grpc", grpc), ("--peer", peer)];
        if self.tls_files().is_some() {
            addresses.push(("--https", https));
        }
        addresses
    }

    /// The files of the certificate for clients, if it is set.
    pub fn tls_files(&self) -> Option<CertificateFiles> {
        let (chain, key) = self.settings.tls_cert.clone().zip(self.settings.tls_key.clone())?;
        Some(CertificateFiles { chain, key })
    }
}

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

/// One lane a core, at most the maximum of the setting.
fn available_cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores).unwrap_or(LANES_MAX).min(LANES_MAX)
}

/// What to do about an unknown variable.
fn hint(similar: Option<&str>) -> String {
    match similar {
        Some(similar) => format!("did you mean {similar}?"),
        None => "`pushonce serve --help` lists the flags, and --some-flag is PUSHONCE_SOME_FLAG"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &str) -> Layer {
        Layer::from_toml(text).expect("valid")
    }

    /// The configuration of a node with these settings.
    fn resolve(text: &str) -> Result<Config, InvalidConfig> {
        Layers { flags: layer(text), ..Layers::default() }.resolve()
    }

    fn rejected_flag(text: &str) -> Option<&'static str> {
        resolve(text).err()?.flag()
    }

    #[test]
    fn default_configuration_is_one_node_on_loopback() {
        let config = resolve("").expect("the defaults are valid");
        assert_eq!(config.name, "127.0.0.1-7091");
        assert!(config.listen_addresses().iter().all(|(_, address)| address.ip().is_loopback()));
        assert_eq!(config.advertise, "127.0.0.1");
    }

    #[test]
    fn data_directory_is_absolute_and_independent_of_join_and_addresses() {
        let machine =
            HostDefaults { data_home: "/var/lib/pushonce".into(), working_dir: "/work".into() };
        let data = |text| {
            let layers = Layers { flags: layer(text), ..Layers::default() };
            layers.resolve_on(&machine).expect("valid").data
        };
        let default = PathBuf::from("/var/lib/pushonce/default");
        assert_eq!(data(""), default);
        assert_eq!(data("join = [\"a:1\"]"), default);
        assert_eq!(data("peer = \"127.0.0.9:9\""), default);
        assert_eq!(data("name = \"a\""), PathBuf::from("/var/lib/pushonce/a"));
        assert_eq!(data("data = \"d/a\""), PathBuf::from("/work/d/a"));
    }

    #[test]
    fn undialable_advertise_address_is_rejected() {
        for host in ["a b", "http://a", "a:7091", "", "::1", "a/b"] {
            let flag = rejected_flag(&format!("advertise = {host:?}"));
            assert_eq!(flag, Some("--advertise"), "{host:?}");
        }
        assert_eq!(rejected_flag("peer = \"127.0.0.1:0\""), Some("--peer"));
    }

    #[test]
    fn flags_override_environment_and_environment_overrides_file() {
        let [flags, env, file] =
            ["flag", "env", "file"].map(|name| layer(&format!("name = {name:?}")));
        let none = Layer::default;
        let name = |flags, env, file| {
            let layers = Layers { flags, env, file, join_token: None };
            layers.resolve().map(|config| config.name)
        };
        assert_eq!(name(flags, env.clone(), file.clone()), Ok("flag".to_owned()));
        assert_eq!(name(none(), env, file.clone()), Ok("env".to_owned()));
        assert_eq!(name(none(), none(), file), Ok("file".to_owned()));
    }

    #[test]
    fn address_reachable_by_others_requires_insecure() {
        let exposed = "http = \"0.0.0.0:7080\"";
        let result = resolve(exposed);
        assert!(matches!(result, Err(InvalidConfig::Exposed(found)) if found.flag == "--http"));
        assert!(resolve(&format!("{exposed}\ninsecure = true")).is_ok());
    }

    #[test]
    fn wildcard_peer_address_requires_advertise() {
        let wildcard = "peer = \"0.0.0.0:7091\"\ninsecure = true";
        assert_eq!(rejected_flag(wildcard), Some("--advertise"));
    }

    #[test]
    fn error_names_the_source_that_gives_the_setting() {
        let exposed = || layer("http = \"0.0.0.0:7080\"");
        let message = |layers: Layers| layers.resolve().expect_err("exposed").to_string();
        let env = message(Layers { env: exposed(), ..Layers::default() });
        assert!(env.ends_with("(set by PUSHONCE_HTTP)"), "{env}");
        let file = message(Layers { file: exposed(), ..Layers::default() });
        assert!(file.ends_with("(set by http in the configuration file)"), "{file}");
        let flag = message(Layers { flags: exposed(), ..Layers::default() });
        assert!(!flag.contains("set by"), "{flag}");
    }

    #[test]
    fn written_configuration_loads_as_the_same_configuration() {
        let all_settings = "name = \"a\"\nhttp = \"127.0.0.1:1\"\njoin = [\"b:7091\"]\nroles = \"edge\"\n\
            consensus = \"wan\"\nelection-max = \"4500ms\"\ndisk-reserve = \"1GiB\"\n\
            memory-max = \"2000000\"\npin-lanes = true\ncompression = \"off\"";
        for text in ["", all_settings, "heartbeat = \"140ms\""] {
            let config = resolve(text).expect("valid");
            let written = toml::to_string(&config.complete_settings())
                .expect("the settings can be serialized");
            let read = resolve(&written).expect("the written settings are valid");
            assert_eq!(read.complete_settings(), config.complete_settings());
            assert_eq!(Config { settings: config.settings.clone(), ..read }, config);
        }
    }
}

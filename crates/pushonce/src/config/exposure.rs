//! Which listeners may be reached from other hosts: only those that authenticate their callers and encrypt.

use std::net::SocketAddr;

use super::Settings;

/// A listener that other hosts can reach, and what it lacks for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedListener {
    /// The flag that sets its address.
    pub flag: &'static str,
    /// Its address.
    pub address: SocketAddr,
    /// What a stranger can do, as an end of a sentence.
    pub risk: &'static str,
    /// The settings that prevent it, as an end of a sentence.
    pub remedy: &'static str,
}

/// The listeners that other hosts can reach although they lack something. `--monitoring` lacks nothing: it
/// serves only metrics and health.
pub(super) fn exposed_listeners(
    settings: &Settings,
    listeners: &[(&'static str, SocketAddr)],
) -> Vec<ExposedListener> {
    let is_reachable = |(_, address): &&(&str, SocketAddr)| !address.ip().is_loopback();
    let exposed = |&(flag, address): &(&'static str, SocketAddr)| {
        let (risk, remedy) = lack(flag, settings)?;
        Some(ExposedListener { flag, address, risk, remedy })
    };
    listeners.iter().filter(is_reachable).filter_map(exposed).collect()
}

/// What a listener lacks that others can reach.
fn lack(flag: &str, settings: &Settings) -> Option<(&'static str, &'static str)> {
    let has_issuers = settings.issuers.is_some();
    match flag {
        // Nothing makes plain text safe.
        "--http" if has_issuers => {
            Some(("the network can read tokens and messages", "use --https for other hosts"))
        }
        "--http" => Some((
            "everyone may read and publish, and the network can read it",
            "use --https for other hosts, with --issuers",
        )),
        "--quic" | "--grpc" if has_issuers => Some((
            "the network can read tokens and messages, or the certificate is not trusted by clients",
            "set --tls-cert and --tls-key",
        )),
        "--quic" | "--grpc" => Some((
            "everyone may read, publish and change the cluster",
            "set --issuers, --tls-cert and --tls-key",
        )),
        _ => Some((
            "everyone can act as a node of the cluster",
            "set --peer-cert, --peer-key and --peer-ca",
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, InvalidConfig, Layer, Layers};

    fn resolve(settings: &str) -> Result<Config, InvalidConfig> {
        let flags = Layer::from_toml(settings).expect("valid");
        Layers { flags, ..Layers::default() }.resolve()
    }

    #[test]
    fn refusal_names_the_missing_settings_of_each_listener() {
        let issuers = "\nissuers = \"issuers.toml\"";
        for (settings, expected) in [
            ("http = \"0.0.0.0:7080\"".to_owned(), "--https"),
            (format!("http = \"0.0.0.0:7080\"{issuers}"), "--https"),
            ("quic = \"0.0.0.0:7443\"".to_owned(), "--issuers, --tls-cert and --tls-key"),
            ("grpc = \"[::]:7090\"".to_owned(), "--issuers, --tls-cert and --tls-key"),
            (format!("grpc = \"0.0.0.0:7090\"{issuers}"), "set --tls-cert and --tls-key"),
            ("peer = \"10.0.0.1:7091\"".to_owned(), "--peer-ca"),
        ] {
            let message = resolve(&settings).expect_err("exposed").to_string();
            assert!(message.contains(expected) && message.contains("--insecure"), "{message}");
        }
    }

    #[test]
    fn insecure_node_lists_what_it_opens() {
        let settings = "http = \"0.0.0.0:7080\"\ngrpc = \"0.0.0.0:7090\"\ninsecure = true";
        let config = resolve(settings).expect("allowed");
        let flags: Vec<_> = config.exposed_listeners().iter().map(|it| it.flag).collect();
        assert_eq!(flags, ["--http", "--grpc"]);
        assert!(resolve("").expect("loopback").exposed_listeners().is_empty());
    }

    #[test]
    fn monitoring_may_listen_anywhere_but_not_at_the_port_of_another_listener() {
        assert!(resolve("monitoring = \"0.0.0.0:9100\"").is_ok());
        assert!(resolve("monitoring = \"127.0.0.1:7080\"").is_err());
    }
}

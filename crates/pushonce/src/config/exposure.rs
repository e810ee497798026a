//! Which listeners may be reached from other hosts: only those that authenticate their callers and encrypt.

use std::net::SocketAddr;

use super::{Config, InvalidConfig, Settings, peer_security};

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
    config: &Config,
    listeners: &[(&'static str, SocketAddr)],
) -> Vec<ExposedListener> {
    let is_reachable = |(_, address): &&(&str, SocketAddr)| !address.ip().is_loopback();
    let exposed = |&(flag, address): &(&'static str, SocketAddr)| {
        let (risk, remedy) = lack(flag, config)?;
        Some(ExposedListener { flag, address, risk, remedy })
    };
    listeners.iter().filter(is_reachable).filter_map(exposed).collect()
}

/// What a listener lacks that others can reach.
fn lack(flag: &str, config: &Config) -> Option<(&'static str, &'static str)> {
    let settings = &config.settings;
    let (has_tls, has_issuers) = (settings.tls_cert.is_some(), settings.issuers.is_some());
    match flag {
        // Nothing makes plain text safe.
        "--http" if has_issuers => {
            Some(("the network can read tokens and messages", "use --https for other hosts"))
        }
        "--http" => Some((
            "everyone may read and publish, and the network can read it",
            "use --https for other hosts, with --issuers",
        )),
        "--https" | "--quic" | "--grpc" => match (has_tls, has_issuers) {
            (true, true) => None,
            (true, false) => {
                Some(("everyone may read, publish and change the cluster", "set --issuers"))
            }
            (false, true) => Some((
                "the network can read tokens and messages, or the certificate is not trusted by clients",
                "set --tls-cert and --tls-key",
            )),
            (false, false) => Some((
                "everyone may read, publish and change the cluster",
                "set --issuers, --tls-cert and --tls-key",
            )),
        },
        _ if peer_security::is_secured(config) => None,
        _ => Some((
            "everyone can act as a node of the cluster",
            "set --peer-cert, --peer-key and --peer-ca (`pushonce ca` makes them), or join with a token (--join-token-file, PUSHONCE_JOIN_TOKEN)",
        )),
    }
}

/// Rejects one of `--tls-cert` and `--tls-key` without the other, and an address for HTTPS without both.
pub(super) fn check_tls(settings: &Settings) -> Result<(), InvalidConfig> {
    let invalid_value =
        |flag, reason: &str| Err(InvalidConfig::InvalidValue { flag, reason: reason.to_owned() });
    match (&settings.tls_cert, &settings.tls_key) {
        (Some(_), None) => {
            invalid_value("--tls-cert", "needs --tls-key, the key of the certificate")
        }
        (None, Some(_)) => {
            invalid_value("--tls-key", "needs --tls-cert, the certificate of the key")
        }
        (None, None) if settings.https != default_https() => {
            invalid_value("--https", "needs --tls-cert and --tls-key")
        }
        _ => Ok(()),
    }
}

fn default_https() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], Config::DEFAULT_HTTPS_PORT))
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, InvalidConfig, Layer, Layers};

    const TLS: &str = "tls-cert = \"a.crt\"\ntls-key = \"a.key\"\n";

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
            (format!("grpc = \"0.0.0.0:7090\"\n{TLS}"), "set --issuers;"),
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

    #[test]
    fn listener_with_certificate_and_issuers_may_be_reached() {
        for flag in ["https", "quic", "grpc"] {
            let settings = format!("{flag} = \"0.0.0.0:9000\"\nissuers = \"i.toml\"\n{TLS}");
            assert!(resolve(&settings).is_ok(), "{flag}");
        }
    }

    #[test]
    fn certificate_key_and_https_address_belong_together() {
        assert!(resolve(TLS).is_ok());
        for (settings, flag) in [
            ("tls-cert = \"a\"", "--tls-cert needs --tls-key"),
            ("tls-key = \"a\"", "--tls-key needs --tls-cert"),
            ("https = \"127.0.0.1:9443\"", "--https needs --tls-cert and --tls-key"),
        ] {
            let text = resolve(settings).expect_err(flag).to_string();
            assert!(text.starts_with(flag), "{text}");
        }
    }
}

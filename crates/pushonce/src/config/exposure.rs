//! Which listeners others may reach. A node is closed by default: loopback addresses only, until a listener has
//! what protects it.

use std::net::SocketAddr;

use super::{Config, InvalidConfig, Settings, peer_security};

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

/// Rejects a listener that others can reach and that lacks protection, unless `--insecure` allows it.
pub(super) fn check(
    settings: &Settings,
    listeners: &[(&'static str, SocketAddr)],
) -> Result<(), InvalidConfig> {
    if settings.insecure {
        return Ok(());
    }
    for &(flag, address) in listeners.iter().filter(|(_, address)| !address.ip().is_loopback()) {
        if let Some(advice) = advice(settings, flag) {
            return Err(InvalidConfig::Exposed { flag, address, advice });
        }
    }
    Ok(())
}

/// What to change before others may reach a listener; `None` when it is protected.
fn advice(settings: &Settings, flag: &str) -> Option<String> {
    const TRUSTED_NETWORK: &str =
        "bind to loopback, or add --insecure if only trusted hosts can reach the network";
    if flag == "--http" {
        return Some(format!("it has no TLS; use --https, {TRUSTED_NETWORK}"));
    }
    if flag == "--peer" {
        const LACKS: &str = "the nodes do not authenticate each other; set --peer-cert, --peer-key and --peer-ca \
                             (`pushonce ca` makes them), or --join-token-file";
        return (!peer_security::is_secured(settings))
            .then(|| format!("{LACKS}, {TRUSTED_NETWORK}"));
    }
    let missing = missing(settings, flag);
    (!missing.is_empty())
        .then(|| format!("it lacks {}; add it, {TRUSTED_NETWORK}", missing.join(" and ")))
}

/// What a listener lacks.
fn missing(settings: &Settings, flag: &str) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if matches!(flag, "--https" | "--quic" | "--grpc") && settings.tls_cert.is_none() {
        missing.push("TLS (--tls-cert and --tls-key)");
    }
    missing.push("authentication, which is not supported yet");
    missing
}

fn default_https() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], Config::DEFAULT_HTTPS_PORT))
}

#[cfg(test)]
mod tests {
    use crate::config::{InvalidConfig, Layer, Layers};

    const TLS: &str = "tls-cert = \"a.crt\"\ntls-key = \"a.key\"\n";

    fn error(settings: &str) -> Option<String> {
        let flags = Layer::from_toml(settings).expect("valid");
        let result = Layers { flags, ..Layers::default() }.resolve();
        result.err().map(|error: InvalidConfig| error.to_string())
    }

    #[test]
    fn refusal_of_an_exposed_listener_names_what_is_missing() {
        for flag in ["quic", "grpc"] {
            let exposed = format!("{flag} = \"0.0.0.0:9000\"\n");
            let text = error(&exposed).expect("exposed");
            assert!(text.contains("--tls-cert and --tls-key"), "{text}");
            let text = error(&(exposed.clone() + TLS)).expect("no authentication");
            assert!(!text.contains("--tls-cert") && text.contains("authentication"), "{text}");
            assert_eq!(error(&(exposed + "insecure = true")), None);
        }
        let text = error("http = \"0.0.0.0:7080\"").expect("exposed");
        assert!(text.contains("use --https"), "{text}");
    }

    #[test]
    fn certificate_key_and_https_address_belong_together() {
        assert_eq!(error(TLS), None);
        for (settings, flag) in [
            ("tls-cert = \"a\"", "--tls-cert needs --tls-key"),
            ("tls-key = \"a\"", "--tls-key needs --tls-cert"),
            ("https = \"127.0.0.1:9443\"", "--https needs --tls-cert and --tls-key"),
        ] {
            let text = error(settings).expect(flag);
            assert!(text.starts_with(flag), "{text}");
        }
    }
}

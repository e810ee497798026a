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

//! Validation of the addresses that a node listens on.

use std::net::SocketAddr;

use super::InvalidConfig;

/// Rejects port 0, which cannot be dialled, and one TCP port for two listeners, which cannot be bound. QUIC
/// may share the number of a TCP port.
pub(super) fn check_ports(
    tcp: &[(&'static str, SocketAddr)],
    udp: &[(&'static str, SocketAddr)],
) -> Result<(), InvalidConfig> {
    for &(flag, address) in tcp.iter().chain(udp) {
        if address.port() == 0 {
            let reason = format!(
                "{address} has port 0; name the port, because other nodes and clients dial it"
            );
            return Err(InvalidConfig::InvalidValue { flag, reason });
        }
    }
    for (i, &(flag, address)) in tcp.iter().enumerate() {
        if let Some((other, _)) = tcp[..i].iter().find(|(_, earlier)| conflicts(*earlier, address))
        {
            let reason =
                format!("{address} is also the address of {other}; give each its own port");
            return Err(InvalidConfig::InvalidValue { flag, reason });
        }
    }
    Ok(())
}

/// Whether the two addresses cannot be bound at the same time.
fn conflicts(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && same_host
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Layers};

    fn rejected_flag(settings: &str) -> Option<&'static str> {
        let flags = Layer::from_toml(settings).expect("valid");
        match (Layers { flags, ..Layers::default() }).resolve() {
            Err(InvalidConfig::InvalidValue { flag, .. }) => Some(flag),
            _ => None,
        }
    }

    #[test]
    fn port_zero_is_rejected_for_every_listener() {
        assert_eq!(rejected_flag("http = \"127.0.0.1:0\""), Some("--http"));
        assert_eq!(rejected_flag("quic = \"127.0.0.1:0\""), Some("--quic"));
        assert_eq!(rejected_flag("grpc = \"127.0.0.1:0\""), Some("--grpc"));
        assert_eq!(rejected_flag("peer = \"127.0.0.1:0\""), Some("--peer"));
        assert_eq!(rejected_flag("join = [\"node-1:0\"]"), Some("--join"));
    }

    #[test]
    fn two_listeners_on_one_tcp_port_are_rejected() {
        assert_eq!(rejected_flag("grpc = \"127.0.0.1:7091\""), Some("--peer"));
        let wildcard = "http = \"0.0.0.0:7090\"\ninsecure = true";
        assert_eq!(rejected_flag(wildcard), Some("--grpc"));
        assert_eq!(rejected_flag("http = \"127.0.0.2:7090\""), None);
        assert_eq!(rejected_flag("quic = \"127.0.0.1:7080\""), None);
        let tls = "tls-cert = \"a\"\ntls-key = \"b\"\nhttps = \"127.0.0.1:7080\"";
        assert_eq!(rejected_flag(tls), Some("--https"));
    }
}

//! Validation of the addresses that a node listens on.

use std::net::SocketAddr;

use super::InvalidConfig;

/// Rejects port 0, which cannot be dialled, and one TCP port for two listeners, which cannot be bound. QUIC
/// may share the number of a TCP port.
pub(super) fn check_ports(
    tcp: &[(&'static str, SocketAddr)],
    udp: (&'static str, SocketAddr),
) -> Result<(), InvalidConfig> {
    for &(flag, address) in tcp.iter().chain([&udp]) {
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
    use crate::config::{Config, PartialConfig};

    fn rejected_flag(partial: PartialConfig) -> Option<&'static str> {
        match Config::resolve(partial, PartialConfig::default(), PartialConfig::default()) {
            Err(InvalidConfig::InvalidValue { flag, .. }) => Some(flag),
            _ => None,
        }
    }

    fn at(address: &str) -> Option<SocketAddr> {
        address.parse().ok()
    }

    #[test]
    fn port_zero_is_rejected_for_every_listener() {
        let zero = at("127.0.0.1:0");
        let none = PartialConfig::default;
        assert_eq!(rejected_flag(PartialConfig { http: zero, ..none() }), Some("--http"));
        assert_eq!(rejected_flag(PartialConfig { quic: zero, ..none() }), Some("--quic"));
        assert_eq!(rejected_flag(PartialConfig { grpc: zero, ..none() }), Some("--grpc"));
        assert_eq!(rejected_flag(PartialConfig { peer: zero, ..none() }), Some("--peer"));
        let join = Some(vec!["node-1:0".to_owned()]);
        assert_eq!(rejected_flag(PartialConfig { join, ..none() }), Some("--join"));
    }

    #[test]
    fn two_listeners_on_one_tcp_port_are_rejected() {
        let same = PartialConfig { grpc: at("127.0.0.1:7091"), ..PartialConfig::default() };
        assert_eq!(rejected_flag(same), Some("--peer"));
        let insecure = Some(true);
        let wildcard =
            PartialConfig { http: at("0.0.0.0:7090"), insecure, ..PartialConfig::default() };
        assert_eq!(rejected_flag(wildcard), Some("--grpc"));
        let elsewhere = PartialConfig { http: at("127.0.0.2:7090"), ..PartialConfig::default() };
        assert_eq!(rejected_flag(elsewhere), None);
        let udp = PartialConfig { quic: at("127.0.0.1:7080"), ..PartialConfig::default() };
        assert_eq!(rejected_flag(udp), None);
    }
}

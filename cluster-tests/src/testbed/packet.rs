//! The part of an IPv4 header that the switch needs.

/// Addresses and ports of a packet. Hosts are identified by the last byte of their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ipv4Packet {
    pub(super) from: u8,
    pub(super) to: u8,
    /// Source and destination port of TCP and UDP packets.
    pub(super) ports: Option<[u16; 2]>,
    pub(super) length: usize,
}

impl Ipv4Packet {
    /// `None` if the packet is not an IPv4 packet within this network.
    pub(super) fn parse(bytes: &[u8], network: [u8; 3]) -> Option<Ipv4Packet> {
        let head = bytes.get(..20)?;
        let length = usize::from(head[0] & 0x0f) * 4;
        if head[0] >> 4 != 4 || head[12..15] != network || head[16..19] != network {
            return None;
        }
        // Later fragments of a packet have no ports.
        let first = u16::from_be_bytes([head[6], head[7]]) & 0x1fff == 0;
        let has_ports = first && matches!(head[9], 6 | 17);
        let ports = bytes.get(length..length + 4).filter(|_| has_ports);
        let ports =
            ports.map(|p| [u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])]);
        Some(Ipv4Packet { from: head[15], to: head[19], ports, length: bytes.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: [u8; 3] = [10, 77, 5];

    /// From 10.77.5.1 to 10.77.5.2.
    fn packet(protocol: u8, offset: u16) -> Vec<u8> {
        let mut bytes = vec![0; 28];
        bytes[0] = 0x45;
        bytes[6..8].copy_from_slice(&offset.to_be_bytes());
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&[10, 77, 5, 1]);
        bytes[16..20].copy_from_slice(&[10, 77, 5, 2]);
        bytes[20..24].copy_from_slice(&[0x9c, 0x40, 0x1b, 0xb3]);
        bytes
    }

    #[test]
    fn only_tcp_and_udp_packets_have_ports() {
        let parse =
            |bytes: &[u8]| Ipv4Packet::parse(bytes, NETWORK).expect("a packet of this network");
        let ports = Some([40_000, 7091]);
        assert_eq!(parse(&packet(6, 0)), Ipv4Packet { from: 1, to: 2, ports, length: 28 });
        assert_eq!(parse(&packet(17, 0x4000)).ports, ports);
        assert_eq!(parse(&packet(1, 0)).ports, None, "ICMP");
        assert_eq!(parse(&packet(17, 100)).ports, None, "a later fragment");
        assert_eq!(parse(&packet(6, 0)[..20]).ports, None, "cut short");
    }

    #[test]
    fn packet_of_another_network_is_ignored() {
        assert_eq!(Ipv4Packet::parse(&packet(6, 0), [10, 77, 6]), None);
        assert_eq!(Ipv4Packet::parse(&packet(6, 0)[..19], NETWORK), None);
        let mut six = packet(6, 0);
        six[0] = 0x65;
        assert_eq!(Ipv4Packet::parse(&six, NETWORK), None);
    }
}

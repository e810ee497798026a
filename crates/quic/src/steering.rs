//! Steers each packet to the lane that has its connection.
//!
//! Every lane has a socket on the same port. By default the kernel selects one by the addresses of a
//! packet, so a client whose address changes (a phone that leaves its Wi-Fi, a NAT that rebinds) would
//! reach a lane that does not know it. A BPF program selects by the first byte of the connection id
//! instead, modulo the number of lanes, and each lane generates ids that select itself. The id in the
//! first packet of a client is random, which spreads the connections over the lanes.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, RandomConnectionIdGenerator};

/// One byte selects among no more.
pub(crate) const LANES_MAX: usize = 256;

/// Generates the connection ids of one lane.
pub(crate) struct LaneCidGenerator {
    lane: u8,
    lanes: u16,
    random: RandomConnectionIdGenerator,
}

impl LaneCidGenerator {
    /// For lane `lane` of `lanes`, which is at most [`LANES_MAX`].
    pub(crate) fn new(lane: usize, lanes: usize) -> LaneCidGenerator {
        LaneCidGenerator { lane: lane as u8, lanes: lanes as u16, random: Default::default() }
    }
}

impl ConnectionIdGenerator for LaneCidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = self.random.generate_cid();
        let random = u16::from(id[0]);
        let first_byte = random - random % self.lanes + u16::from(self.lane);
        // The last group of 256 / `lanes` may be incomplete.
        id[0] = u8::try_from(first_byte).unwrap_or(self.lane);
        id
    }

    fn cid_len(&self) -> usize {
        self.random.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.random.cid_lifetime()
    }
}

/// Steers packets among the sockets that share the port of `socket`. There are `lanes` of them, and
/// their index is the order in which they were bound.
#[cfg(target_os = "linux")]
pub(crate) fn attach(socket: &UdpSocket, lanes: usize) -> io::Result<()> {
    use nix::libc::{sock_filter, sock_fprog};
    use nix::sys::socket::{setsockopt, sockopt};

    const LOAD_BYTE: u16 = 0x30;
    const SKIP: u16 = 0x05;
    const IF_ANY_BIT: u16 = 0x45;
    const MODULO: u16 = 0x94;
    const RETURN: u16 = 0x16;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    // RFC 8999, 5: in a packet with a long header the destination id follows version and length, in
    // one with a short header it starts at the second byte. A packet that is too short goes to the
    // first lane, which drops it.
    let mut program = [
        instruction(LOAD_BYTE, 0, 0, 0),
        instruction(IF_ANY_BIT, 0, 2, 0x80),
        instruction(LOAD_BYTE, 0, 0, 6),
        instruction(SKIP, 0, 0, 1),
        instruction(LOAD_BYTE, 0, 0, 1),
        instruction(MODULO, 0, 0, lanes as u32),
        instruction(RETURN, 0, 0, 0),
    ];
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(socket, sockopt::AttachReusePortCbpf, &program)?)
}

/// Other systems have no such option.
#[cfg(not(target_os = "linux"))]
pub(crate) fn attach(_: &UdpSocket, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_id_of_a_lane_is_steered_to_it() {
        for lanes in [1, 2, 3, 7, 255, 256] {
            for lane in [0, lanes / 2, lanes - 1] {
                let mut ids = LaneCidGenerator::new(lane, lanes);
                let is_steered =
                    (0..1_000).all(|_| usize::from(ids.generate_cid()[0]) % lanes == lane);
                assert!(is_steered, "lane {lane} of {lanes}");
            }
        }
    }

    #[test]
    fn connection_ids_of_a_lane_use_all_its_first_bytes() {
        let mut ids = LaneCidGenerator::new(1, 3);
        let bytes: std::collections::BTreeSet<u8> =
            (0..10_000).map(|_| ids.generate_cid()[0]).collect();
        assert_eq!(bytes.len(), 85);
    }

    /// Selected by the id, whatever the source address.
    #[cfg(target_os = "linux")]
    #[test]
    fn packets_are_received_by_the_lane_of_their_connection_id() {
        let lanes = 3;
        let sockets = crate::bind::bind_sockets(([127, 0, 0, 1], 0).into(), lanes).unwrap();
        assert_eq!(sockets.len(), lanes);
        let port = sockets[0].local_addr().unwrap();
        for (lane, socket) in sockets.iter().enumerate() {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut ids = LaneCidGenerator::new(lane, lanes);
            for _ in 0..20 {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                let id = ids.generate_cid();
                let short = [&[0x40][..], &id, &[0; 20]].concat();
                let long = [&[0xc0, 0, 0, 0, 1, id.len() as u8][..], &id, &[0; 20]].concat();
                for packet in [short, long] {
                    client.send_to(&packet, port).unwrap();
                    let mut buffer = [0; 64];
                    let len = socket.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..len], packet);
                }
            }
        }
    }
}

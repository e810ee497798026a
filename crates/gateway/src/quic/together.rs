//! Packets to many clients by one call of the system.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use quinn_proto::Transmit;

/// What a packet bears beside its bytes. One call has it the same for all.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Marks {
    /// Which of our addresses it comes from; the system's choice if it has one only.
    from: Option<IpAddr>,
    /// What it says of congestion: the bits of RFC 3168.
    ecn: Option<u8>,
    to_v4: bool,
}

/// Sends the first of the packets, and those behind it that bear the same marks. Says how many the
/// system took.
pub(super) fn send<'a>(
    socket: &impl AsRawFd,
    packets: impl Iterator<Item = (&'a Vec<u8>, &'a Transmit)>,
) -> io::Result<usize> {
    let mut packets = packets.peekable();
    let Some(marks) = packets.peek().map(|(_, first)| Marks::of(first)) else { return Ok(0) };
    let (slices, clients): (Vec<_>, Vec<_>) = packets
        .take_while(|(_, transmit)| Marks::of(transmit) == marks)
        .map(|(data, to)| ([IoSlice::new(data)], Some(SockaddrStorage::from(to.destination))))
        .unzip();
    Ok(marks.send(socket.as_raw_fd(), &slices, &clients)?)
}

/// Whether it is of the older protocol, also as a socket of the newer one names it.
fn is_v4(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    }
}

impl Marks {
    fn of(transmit: &Transmit) -> Marks {
        let Transmit { destination, ecn, src_ip, .. } = *transmit;
        Marks { from: src_ip, ecn: ecn.map(|ecn| ecn as u8), to_v4: is_v4(destination) }
    }

    fn send(
        self,
        socket: RawFd,
        slices: &[[IoSlice<'_>; 1]],
        clients: &[Option<SockaddrStorage>],
    ) -> nix::Result<usize> {
        let (class, ecn) = (self.ecn.map(i32::from), self.ecn);
        let from = self.from.map(source);
        // Exactly as much space as is used: the rest would be read as one more mark.
        let mut space = 0;
        let mut marks = Vec::new();
        match &from {
            Some(Source::V4(info)) => {
                marks.push(ControlMessage::Ipv4PacketInfo(info));
                space += cmsg_space!(in_pktinfo).capacity();
            }
            Some(Source::V6(info)) => {
                marks.push(ControlMessage::Ipv6PacketInfo(info));
                space += cmsg_space!(in6_pktinfo).capacity();
            }
            None => {}
        }
        match (&ecn, &class) {
            (Some(ecn), _) if self.to_v4 => {
                marks.push(ControlMessage::Ipv4Tos(ecn));
                space += cmsg_space!(u8).capacity();
            }
            (_, Some(class)) => {
                marks.push(ControlMessage::Ipv6TClass(class));
                space += cmsg_space!(i32).capacity();
            }
            _ => {}
        }
        let space = (space > 0).then(|| Vec::with_capacity(space));
        let mut headers = MultiHeaders::preallocate(slices.len(), space);
        let sent = sendmmsg(socket, &mut headers, slices, clients, &marks, MsgFlags::empty())?;
        Ok(sent.count())
    }
}

/// An address of ours, as the system wants to be told it.
enum Source {
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

fn source(address: IpAddr) -> Source {
    match address {
        IpAddr::V4(address) => Source::V4(in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
            ipi_addr: in_addr { s_addr: 0 },
        }),
        IpAddr::V6(address) => Source::V6(in6_pktinfo {
            ipi6_ifindex: 0,
            ipi6_addr: in6_addr { s6_addr: address.octets() },
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

    use quinn_proto::EcnCodepoint;
    use quinn_udp::{RecvMeta, UdpSocketState};

    use super::*;

    fn packet(to: &UdpSocket, from: Option<IpAddr>, ecn: Option<EcnCodepoint>) -> Transmit {
        let destination = to.local_addr().unwrap();
        Transmit { destination, ecn, size: 1, segment_size: None, src_ip: from }
    }

    /// A socket that is told the marks of what it gets.
    fn client(address: &str) -> (UdpSocket, UdpSocketState) {
        let socket = UdpSocket::bind(address).unwrap();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        socket.set_nonblocking(false).unwrap();
        (socket, state)
    }

    /// What comes next: from which address, with which marks.
    fn receive((client, state): &(UdpSocket, UdpSocketState)) -> (IpAddr, Vec<u8>, Option<u8>) {
        let (mut data, mut meta) = ([0; 100], [RecvMeta::default()]);
        let came = state.recv(client.into(), &mut [IoSliceMut::new(&mut data)], &mut meta);
        assert_eq!(came.unwrap(), 1);
        let [meta] = meta;
        (meta.addr.ip(), data[..meta.len].into(), meta.ecn.map(|ecn| ecn as u8))
    }

    #[test]
    fn packets_with_the_same_marks_go_by_one_call_and_come_from_the_address_that_was_said() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        let clients = [(); 3].map(|()| client("127.0.0.1:0"));
        let [one, other] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
        let ecn = Some(EcnCodepoint::Ect0);
        let transmits = [
            packet(&clients[0].0, Some(other), ecn),
            packet(&clients[1].0, Some(other), ecn),
            packet(&clients[2].0, Some(one), ecn),
            packet(&clients[2].0, Some(one), None),
            packet(&clients[2].0, None, None),
        ];
        let data: Vec<_> = (0..5).map(|nth| vec![nth]).collect();
        let mut sent = 0;
        for count in [2, 1, 1, 1] {
            let took = send(&server, data.iter().zip(&transmits).skip(sent)).unwrap();
            assert_eq!(took, count);
            sent += took;
        }
        assert_eq!(send(&server, std::iter::empty()).unwrap(), 0);
        let ect0 = Some(EcnCodepoint::Ect0 as u8);
        assert_eq!(receive(&clients[0]), (other, vec![0], ect0));
        assert_eq!(receive(&clients[1]), (other, vec![1], ect0));
        assert_eq!(receive(&clients[2]), (one, vec![2], ect0));
        assert_eq!(receive(&clients[2]), (one, vec![3], None));
        assert_eq!(receive(&clients[2]), (one, vec![4], None));
    }

    #[test]
    fn the_newer_protocol_has_marks_of_its_own() {
        let Ok(server) = UdpSocket::bind("[::]:0") else {
            return eprintln!("NOT TESTED: there is no IPv6 here");
        };
        let client = client("[::1]:0");
        let from = Some(IpAddr::from(Ipv6Addr::LOCALHOST));
        let transmit = packet(&client.0, from, Some(EcnCodepoint::Ce));
        assert_eq!(send(&server, [(&vec![7], &transmit)].into_iter()).unwrap(), 1);
        let ce = Some(EcnCodepoint::Ce as u8);
        assert_eq!(receive(&client), (IpAddr::from(Ipv6Addr::LOCALHOST), vec![7], ce));
    }
}

//! The UDP socket of a lane: packets in and packets out, many at a time.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use metrics::Counter;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Packets that go out together. Each holds a buffer of one packet all the time; beyond so many a
/// system call is a small part of what its packets cost.
const OUTBOX_PACKETS: usize = 64;

/// What one look at the socket may bring in one place: the kernel joins the packets of one client
/// up to this size, and cuts what does not fit.
const RECEIVED_BYTES: usize = 64 << 10;

/// A packet that came.
pub(super) struct Packet {
    pub(super) from: SocketAddr,
    pub(super) to: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) data: BytesMut,
}

pub(super) struct Socket {
    udp: UdpSocket,
    state: UdpSocketState,
    /// Only what is ever filled is memory.
    received: Box<[u8]>,
    outbox: Outbox,
    /// Bound to one address, which all packets are sent from.
    one_address: bool,
    writes: Counter,
}

/// Packets on their way out, in buffers that are used again.
struct Outbox {
    buffers: Vec<Vec<u8>>,
    transmits: Vec<Transmit>,
    /// How many of them are gone.
    sent: usize,
}

impl Socket {
    /// Must be called within the runtime of the lane.
    pub(super) fn open(udp: std::net::UdpSocket, writes: Counter) -> io::Result<Socket> {
        udp.set_nonblocking(true)?;
        let state = UdpSocketState::new((&udp).into())?;
        let one_address = !udp.local_addr()?.ip().is_unspecified();
        let buffers = (0..=OUTBOX_PACKETS).map(|_| Vec::new()).collect();
        Ok(Socket {
            udp: UdpSocket::from_std(udp)?,
            state,
            received: vec![0; BATCH_SIZE * RECEIVED_BYTES].into(),
            outbox: Outbox { buffers, transmits: Vec::new(), sent: 0 },
            one_address,
            writes,
        })
    }

    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Waits until there is something to read, or to send and room for it.
    pub(super) async fn ready(&self) {
        let wanted = match self.outbox.transmits.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        // An error is found by whoever reads or writes.
        let _ = self.udp.ready(wanted).await;
    }

    /// Takes what has come to the end of `packets`: one look. Says whether there may be more.
    pub(super) fn receive(&mut self, packets: &mut Vec<Packet>) -> bool {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut places = self.received.chunks_mut(RECEIVED_BYTES).map(IoSliceMut::new);
        let mut places: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| places.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let came = self.udp.try_io(Interest::READABLE, || {
            self.state.recv((&self.udp).into(), &mut places, &mut metas)
        });
        // Nothing there, or the error of a packet that was sent to somebody who is gone.
        let Ok(came) = came else { return false };
        for (meta, place) in metas.iter().zip(&places).take(came) {
            for data in place[..meta.len].chunks(meta.stride.max(1)) {
                let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
                packets.push(Packet { from: meta.addr, to: meta.dst_ip, ecn, data: data.into() });
            }
        }
        came > 0
    }

    /// Whether another packet can be [put](Socket::put).
    pub(super) fn has_room(&self) -> bool {
        self.outbox.transmits.len() < OUTBOX_PACKETS
    }

    /// An empty buffer for the next packet.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        let buffer = &mut self.outbox.buffers[self.outbox.transmits.len()];
        buffer.clear();
        buffer
    }

    /// Puts the packet that was written into the buffer to those that are to be sent. Without room
    /// it is lost, as a packet may be.
    pub(super) fn put(&mut self, transmit: Transmit) {
        if self.has_room() {
            self.outbox.transmits.push(transmit);
        }
    }

    /// Sends all packets, as far as the kernel takes them. Says whether all are gone.
    pub(super) fn send(&mut self) -> bool {
        while self.outbox.sent < self.outbox.transmits.len() {
            let sent = self.udp.try_io(Interest::WRITABLE, || self.send_some());
            match sent {
                Ok(sent) => {
                    self.outbox.sent += sent;
                    self.writes.increment(1);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Of the first of them: its network is gone, or it is too large for its way.
                Err(_) => self.outbox.sent += 1,
            }
        }
        self.outbox.transmits.clear();
        self.outbox.sent = 0;
        true
    }

    fn send_some(&self) -> io::Result<usize> {
        match self.one_address {
            true => self.send_together(),
            false => self.send_first(),
        }
    }

    /// Sends packets to whomever, by one call. It cannot say which address they come from, nor mark
    /// them for ECN; without the marks congestion is found by loss.
    #[cfg(target_os = "linux")]
    fn send_together(&self) -> io::Result<usize> {
        use rustix::net::addr::SocketAddrArg;
        use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
        use std::io::IoSlice;

        let Outbox { buffers, transmits, sent } = &self.outbox;
        let used = buffers.iter().take(transmits.len());
        let slices: Vec<_> = used.map(|buffer| [IoSlice::new(buffer)]).collect();
        let addresses: Vec<SocketAddrAny> =
            transmits.iter().map(|transmit| transmit.destination.as_any()).collect();
        let mut none: Vec<_> = transmits.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let packets = slices.iter().zip(&addresses).zip(&mut none).skip(*sent);
        let mut packets: Vec<MMsgHdr<'_>> = packets
            .map(|((slice, address), none)| MMsgHdr::new_with_addr(address, slice, none))
            .collect();
        Ok(sendmmsg(&self.udp, &mut packets, SendFlags::empty())?)
    }

    #[cfg(not(target_os = "linux"))]
    fn send_together(&self) -> io::Result<usize> {
        self.send_first()
    }

    /// Sends one packet, from the address that its client knows.
    fn send_first(&self) -> io::Result<usize> {
        let Outbox { buffers, transmits, sent } = &self.outbox;
        let transmit = &transmits[*sent];
        let packet = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &buffers[*sent],
            segment_size: None,
            src_ip: transmit.src_ip,
        };
        self.state.try_send((&self.udp).into(), &packet).map(|()| 1)
    }
}

//! The UDP socket of a lane: packets in and packets out, many at a time.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use pushonce_telemetry::Counter;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Packets that go out together. Each holds a buffer of one packet all the time; beyond so many a
/// system call is a small part of what its packets cost.
const SEND_BATCH_PACKETS: usize = 64;

/// What one look at the socket may bring in one place: the kernel joins the packets of one client
/// up to this size, and cuts what does not fit.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A packet that came.
pub(super) struct ReceivedPacket {
    pub(super) source: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) data: BytesMut,
}

pub(super) struct BatchSocket {
    udp: UdpSocket,
    state: UdpSocketState,
    /// Only what is ever filled is memory.
    receive_buffer: Box<[u8]>,
    batch: SendBatch,
    /// Bound to one address, which all packets are sent from.
    has_fixed_address: bool,
    writes: Counter,
}

/// Packets on their way out, in buffers that are used again.
struct SendBatch {
    buffers: Vec<Vec<u8>>,
    transmits: Vec<Transmit>,
    /// How many of them are gone.
    sent_count: usize,
}

impl BatchSocket {
    /// Must be called within the runtime of the lane.
    pub(super) fn open(udp: std::net::UdpSocket, writes: Counter) -> io::Result<BatchSocket> {
        udp.set_nonblocking(true)?;
        let state = UdpSocketState::new((&udp).into())?;
        let has_fixed_address = !udp.local_addr()?.ip().is_unspecified();
        let buffers = (0..=SEND_BATCH_PACKETS).map(|_| Vec::new()).collect();
        Ok(BatchSocket {
            udp: UdpSocket::from_std(udp)?,
            state,
            receive_buffer: vec![0; BATCH_SIZE * RECEIVE_BUFFER_BYTES].into(),
            batch: SendBatch { buffers, transmits: Vec::new(), sent_count: 0 },
            has_fixed_address,
            writes,
        })
    }

    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Waits until there is something to read, or to send and room for it.
    pub(super) async fn ready(&self) {
        let interest = match self.batch.transmits.is_empty() {
            true => Interest::READABLE,
            false => Interest::READABLE | Interest::WRITABLE,
        };
        // An error is found by whoever reads or writes.
        let _ = self.udp.ready(interest).await;
    }

    /// Takes what has come to the end of `packets`: one look. Says whether there may be more.
    pub(super) fn receive(&mut self, packets: &mut Vec<ReceivedPacket>) -> bool {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slot_iter =
            self.receive_buffer.chunks_mut(RECEIVE_BUFFER_BYTES).map(IoSliceMut::new);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| slot_iter.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let result = self.udp.try_io(Interest::READABLE, || {
            self.state.recv((&self.udp).into(), &mut slots, &mut metas)
        });
        // Nothing there, or the error of a packet that was sent to somebody who is gone.
        let Ok(count) = result else { return false };
        for (meta, slot) in metas.iter().zip(&slots).take(count) {
            for data in slot[..meta.len].chunks(meta.stride.max(1)) {
                let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
                packets.push(ReceivedPacket {
                    source: meta.addr,
                    local_ip: meta.dst_ip,
                    ecn,
                    data: data.into(),
                });
            }
        }
        count > 0
    }

    /// Whether another packet can be [put](Socket::put).
    pub(super) fn has_room(&self) -> bool {
        self.batch.transmits.len() < SEND_BATCH_PACKETS
    }

    /// An empty buffer for the next packet.
    pub(super) fn next_buffer(&mut self) -> &mut Vec<u8> {
        let buffer = &mut self.batch.buffers[self.batch.transmits.len()];
        buffer.clear();
        buffer
    }

    /// Puts the packet that was written into the buffer to those that are to be sent. Without room
    /// it is lost, as a packet may be.
    pub(super) fn enqueue(&mut self, transmit: Transmit) {
        if self.has_room() {
            self.batch.transmits.push(transmit);
        }
    }

    /// Sends all packets, as far as the kernel takes them. Says whether all are gone.
    pub(super) fn flush(&mut self) -> bool {
        while self.batch.sent_count < self.batch.transmits.len() {
            let sent = self.udp.try_io(Interest::WRITABLE, || self.send_some());
            match sent {
                Ok(sent) => {
                    self.batch.sent_count += sent;
                    self.writes.increment(1);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // Of the first of them: its network is gone, or it is too large for its way.
                Err(_) => self.batch.sent_count += 1,
            }
        }
        self.batch.transmits.clear();
        self.batch.sent_count = 0;
        true
    }

    fn send_some(&self) -> io::Result<usize> {
        match self.has_fixed_address {
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

        let SendBatch { buffers, transmits, sent_count } = &self.batch;
        let used = buffers.iter().take(transmits.len());
        let slices: Vec<_> = used.map(|buffer| [IoSlice::new(buffer)]).collect();
        let addresses: Vec<SocketAddrAny> =
            transmits.iter().map(|transmit| transmit.destination.as_any()).collect();
        let mut ancillary: Vec<_> =
            transmits.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let packets = slices.iter().zip(&addresses).zip(&mut ancillary).skip(*sent_count);
        let mut packets: Vec<MMsgHdr<'_>> = packets
            .map(|((slice, address), ancillary)| MMsgHdr::new_with_addr(address, slice, ancillary))
            .collect();
        Ok(sendmmsg(&self.udp, &mut packets, SendFlags::empty())?)
    }

    #[cfg(not(target_os = "linux"))]
    fn send_together(&self) -> io::Result<usize> {
        self.send_first()
    }

    /// Sends one packet, from the address that its client knows.
    fn send_first(&self) -> io::Result<usize> {
        let SendBatch { buffers, transmits, sent_count } = &self.batch;
        let transmit = &transmits[*sent_count];
        let packet = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &buffers[*sent_count],
            segment_size: None,
            src_ip: transmit.src_ip,
        };
        self.state.try_send((&self.udp).into(), &packet).map(|()| 1)
    }
}

//! The UDP socket of a lane: many packets per system call, in both directions.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use pushonce_telemetry::Counter;
use quinn_proto::EcnCodepoint;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::send_batch::SendBatch;

/// Bytes that one slot of a receive call takes. The kernel joins the packets of one client up to this
/// size, and truncates what does not fit.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A packet that was received.
pub(crate) struct ReceivedPacket {
    pub(crate) source: SocketAddr,
    pub(crate) local_ip: Option<IpAddr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) data: BytesMut,
}

pub(crate) struct BatchSocket {
    udp: UdpSocket,
    state: UdpSocketState,
    /// Pages that are never filled take no memory.
    receive_buffer: Box<[u8]>,
    /// Bound to one address, which is the source of all packets.
    has_fixed_address: bool,
    writes: Counter,
}

impl BatchSocket {
    /// Must be called within the runtime of the lane. `writes` counts the system calls that sent packets.
    pub(crate) fn open(udp: std::net::UdpSocket, writes: Counter) -> io::Result<BatchSocket> {
        udp.set_nonblocking(true)?;
        let state = UdpSocketState::new((&udp).into())?;
        let has_fixed_address = !udp.local_addr()?.ip().is_unspecified();
        Ok(BatchSocket {
            udp: UdpSocket::from_std(udp)?,
            state,
            receive_buffer: vec![0; BATCH_SIZE * RECEIVE_BUFFER_BYTES].into(),
            has_fixed_address,
            writes,
        })
    }

    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Waits until there is something to read, or room to send if `has_unsent`.
    pub(crate) async fn ready(&self, has_unsent: bool) {
        let interest = match has_unsent {
            false => Interest::READABLE,
            true => Interest::READABLE | Interest::WRITABLE,
        };
        // The next read or write returns the error.
        let _ = self.udp.ready(interest).await;
    }

    /// Appends received packets to `packets`, by one system call. Returns whether there may be more.
    pub(crate) fn receive(&mut self, packets: &mut Vec<ReceivedPacket>) -> bool {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slot_iter =
            self.receive_buffer.chunks_mut(RECEIVE_BUFFER_BYTES).map(IoSliceMut::new);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| slot_iter.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let result = self.udp.try_io(Interest::READABLE, || {
            self.state.recv((&self.udp).into(), &mut slots, &mut metas)
        });
        // Nothing to read, or the error of an earlier packet whose destination is unreachable.
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

    /// Sends a batch as far as the kernel accepts it. Returns whether all of it was sent.
    pub(crate) fn flush(&self, batch: &mut SendBatch) -> bool {
        while !batch.is_empty() {
            let sent = self.udp.try_io(Interest::WRITABLE, || self.send_some(batch));
            match sent {
                Ok(sent) => {
                    batch.on_sent(sent);
                    self.writes.increment(1);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // The first packet cannot be sent: no route, or it is too large for the network.
                Err(_) => batch.on_sent(1),
            }
        }
        true
    }

    fn send_some(&self, batch: &SendBatch) -> io::Result<usize> {
        match self.has_fixed_address {
            true => self.send_together(batch),
            false => self.send_first(batch),
        }
    }

    /// Sends packets to any destinations by one call. The call can neither set the source address nor
    /// the ECN mark; without marks congestion is detected by loss.
    #[cfg(target_os = "linux")]
    fn send_together(&self, batch: &SendBatch) -> io::Result<usize> {
        use rustix::net::addr::SocketAddrArg;
        use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
        use std::io::IoSlice;

        let slices: Vec<_> = batch.unsent().map(|(_, data)| [IoSlice::new(data)]).collect();
        let addresses: Vec<SocketAddrAny> =
            batch.unsent().map(|(transmit, _)| transmit.destination.as_any()).collect();
        let mut ancillary: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let packets = slices.iter().zip(&addresses).zip(&mut ancillary);
        let mut packets: Vec<MMsgHdr<'_>> = packets
            .map(|((slice, address), ancillary)| MMsgHdr::new_with_addr(address, slice, ancillary))
            .collect();
        Ok(sendmmsg(&self.udp, &mut packets, SendFlags::empty())?)
    }

    #[cfg(not(target_os = "linux"))]
    fn send_together(&self, batch: &SendBatch) -> io::Result<usize> {
        self.send_first(batch)
    }

    /// Sends one packet, from the address that its client knows.
    fn send_first(&self, batch: &SendBatch) -> io::Result<usize> {
        let Some((transmit, contents)) = batch.unsent().next() else { return Ok(0) };
        let packet = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents,
            segment_size: None,
            src_ip: transmit.src_ip,
        };
        self.state.try_send((&self.udp).into(), &packet).map(|()| 1)
    }
}

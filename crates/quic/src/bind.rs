//! The UDP sockets of one port.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::steering;

/// One socket for each lane if packets can be steered to the lane that has their connection, else one
/// for all lanes.
pub(crate) fn bind_sockets(address: SocketAddr, lanes: usize) -> io::Result<Vec<UdpSocket>> {
    // Exclusively first. Any process of this user may share a port that was opened for sharing, and two
    // processes would each get half of the packets.
    let socket = UdpSocket::bind(address)?;
    let address = socket.local_addr()?;
    let lanes = lanes.min(steering::LANES_MAX);
    if lanes <= 1 {
        return Ok(vec![socket]);
    }
    drop(socket);
    bind_steered(address, lanes).or_else(|error| {
        tracing::info!(%error, "cannot steer QUIC packets to lanes, serving QUIC on one lane");
        UdpSocket::bind(address).map(|socket| vec![socket])
    })
}

fn bind_steered(address: SocketAddr, lanes: usize) -> io::Result<Vec<UdpSocket>> {
    let sockets: Vec<_> = (0..lanes).map(|_| bind_shared(address)).collect::<io::Result<_>>()?;
    match sockets.first() {
        Some(first) => steering::attach(first, lanes).map(|()| sockets),
        None => Ok(sockets),
    }
}

fn bind_shared(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

//! Takes the ports, and says what to do when one is taken.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::quic::steering;

/// Handshakes the kernel keeps while a lane is busy. A full match comes back at once after a
/// restart; the kernel cuts this to its own `somaxconn`, which is 4096 as well.
const BACKLOG: i32 = 4096;

/// Bytes that a connection may hold unsent before its session counts as blocked. Without it the
/// kernel takes up to 4 MiB for a reader that has stopped, of messages that are old when it reads
/// on. Less than a turn's frames would cost a busy session more wakes than writes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 32 << 10;

/// Why the doors do not open. Each says which, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is not to be had.
    #[error("cannot take {address} for {protocol}: {}", advice(.source, .flag))]
    Address {
        /// What was to be served there.
        protocol: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The certificate and its key do not fit each other, or are of a kind QUIC cannot use.
    #[error("the certificate cannot be used for QUIC: {0}; remove it, and a new one is made")]
    Certificate(String),
}

fn advice(source: &io::Error, flag: &str) -> String {
    match source.kind() {
        ErrorKind::AddrInUse => {
            format!("the port is in use; stop what uses it, or choose another with {flag}")
        }
        ErrorKind::PermissionDenied => {
            format!("this user may not ({source}); choose a port above 1023 with {flag}")
        }
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; choose another with {flag}")
        }
        _ => format!("{source}; choose another with {flag}"),
    }
}

/// One listener for each lane on the same port; the kernel spreads the connections over them.
pub(crate) fn http(address: SocketAddr, lanes: usize) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source| BindError::Address { protocol: "HTTP", address, flag: "--http", source };
    let address = check_unused(address).map_err(fail)?;
    (0..lanes).map(|_| listen(address).map_err(fail)).collect()
}

/// The address, with its port. Any process of this user may share a port that was opened for
/// sharing, and two nodes would each get half of the connections; taking it alone for a moment
/// shows whether somebody has it.
fn check_unused(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = tcp_socket(address)?;
    socket.bind(&address.into())?;
    Ok(socket.local_addr()?.as_socket().unwrap_or(address))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    // Connections inherit it from their listener.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections still linger can be taken at once after a restart.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// The UDP sockets of QUIC on one port: one for each lane if packets can be steered to the lane that
/// has their connection, else one for all.
pub(crate) fn quic(address: SocketAddr, lanes: usize) -> Result<Vec<UdpSocket>, BindError> {
    let fail = |source| quic_error(address, source);
    // Alone, as for HTTP.
    let socket = UdpSocket::bind(address).map_err(fail)?;
    let address = socket.local_addr().map_err(fail)?;
    let lanes = lanes.min(steering::LANES_MAX);
    if lanes > 1 {
        drop(socket);
        return match bind_steered(address, lanes) {
            Ok(sockets) => Ok(sockets),
            Err(error) => {
                tracing::info!(%error, "cannot steer QUIC packets to lanes, serving QUIC on one lane");
                UdpSocket::bind(address).map(|socket| vec![socket]).map_err(fail)
            }
        };
    }
    Ok(vec![socket])
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

/// QUIC cannot have its address.
pub(crate) fn quic_error(address: SocketAddr, source: io::Error) -> BindError {
    BindError::Address { protocol: "QUIC", address, flag: "--quic", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn every_lane_listens_on_the_same_port() {
        let listeners = http(loopback(0), 3).unwrap();
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn http_bind_error_for_a_used_port_names_the_flag() {
        let listeners = http(loopback(0), 2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let text = http(address, 2).unwrap_err().to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("in use") && text.contains("--http"), "{text}");
    }

    #[test]
    fn quic_bind_error_for_a_used_port_names_the_flag() {
        for lanes in [1, 2] {
            let sockets = quic(loopback(0), lanes).unwrap();
            let address = sockets[0].local_addr().unwrap();
            let text = quic(address, lanes).unwrap_err().to_string();
            assert!(text.contains("QUIC") && text.contains("--quic"), "{text}");
        }
    }
}

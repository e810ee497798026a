//! Binds the ports. Errors name the address and the flag that changes it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel queues while a lane is busy. After a restart, the clients of a large event
/// reconnect at the same time. The kernel limits the value to `somaxconn`, which is 4096 by default.
const BACKLOG: i32 = 4096;

/// Unsent bytes of a connection at which its session counts as blocked. Without this limit the kernel buffers
/// up to 4 MiB for a stopped reader, and those messages are old when it continues. A limit below the frames
/// of one turn would cost a busy session more wakeups than writes.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 32 << 10;

/// Why the gateway cannot bind its ports.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} for {protocol}: {}", advice(.source, .flag))]
    Address {
        /// The protocol: HTTP, HTTPS or QUIC.
        protocol: &'static str,
        /// The requested address.
        address: SocketAddr,
        /// The flag that sets the address.
        flag: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The certificate and its key do not match, or QUIC does not support their type.
    #[error("the certificate cannot be used for QUIC: {0}; remove it to generate a new one")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn advice(source: &io::Error, flag: &str) -> String {
    match source.kind() {
        ErrorKind::AddrInUse => {
            format!(
                "the port is in use; stop the process that uses it, or choose another with {flag}"
            )
        }
        ErrorKind::PermissionDenied => {
            format!("this user has no permission ({source}); choose a port above 1023 with {flag}")
        }
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address; choose another with {flag}")
        }
        _ => format!("{source}; choose another with {flag}"),
    }
}

/// Binds one HTTP listener per lane on the same port. The kernel distributes the connections.
pub(crate) fn http(address: SocketAddr, lanes: usize) -> Result<Vec<TcpListener>, BindError> {
    tcp("HTTP", "--http", address, lanes)
}

/// Binds one HTTPS listener per lane on the same port.
pub(crate) fn https(address: SocketAddr, lanes: usize) -> Result<Vec<TcpListener>, BindError> {
    tcp("HTTPS", "--https", address, lanes)
}

fn tcp(
    protocol: &'static str,
    flag: &'static str,
    address: SocketAddr,
    lanes: usize,
) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source| BindError::Address { protocol, address, flag, source };
    let address = check_unused(address).map_err(fail)?;
    (0..lanes).map(|_| listen(address).map_err(fail)).collect()
}

/// Checks that no other process uses the address, and returns it with the actual port. Any process of this
/// user may join a port that is bound with `SO_REUSEPORT`, and two nodes would each get half of the
/// connections; a short exclusive bind detects that.
fn check_unused(address: SocketAddr) -> io::Result<SocketAddr> {
    let socket = tcp_socket(address)?;
    socket.bind(&address.into())?;
    Ok(socket.local_addr()?.as_socket().unwrap_or(address))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp_socket(address)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    // Accepted connections inherit this option.
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Allows a restart while connections of the port are still in TIME_WAIT.
    socket.set_reuse_address(true)?;
    Ok(socket)
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
}

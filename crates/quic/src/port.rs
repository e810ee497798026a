//! The port of all lanes, before their endpoints run.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn_proto::ServerConfig;
use tokio::sync::watch;

use crate::bind::bind_sockets;
use crate::certificate::Fingerprint;
use crate::rotation::{CertificateRotator, CertificateSource};
use crate::transport::TransportSettings;

/// What [`Port::bind`] needs beside the certificate.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Port 0 takes a free port.
    pub address: SocketAddr,
    /// Number of lanes. 0 counts as 1, and at most 256 get a socket.
    pub lanes: usize,
    /// The names of the application protocols in the handshake. [`Connection::alpn`](crate::Connection::alpn) is the one that a client chose.
    pub alpn: &'static [&'static [u8]],
    /// Limits and times of each connection.
    pub transport: TransportSettings,
}

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is not available.
    #[error("cannot bind the QUIC address: {0}")]
    Address(#[from] io::Error),
    /// Key and certificate do not match, or are of a kind that QUIC cannot use.
    #[error("cannot use the certificate for QUIC: {0}")]
    Certificate(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A bound port.
pub struct Port {
    address: SocketAddr,
    listeners: Vec<Listener>,
    rotator: CertificateRotator,
}

/// The part of the port that belongs to one lane.
pub struct Listener {
    pub(crate) udp: UdpSocket,
    pub(crate) lane: usize,
    /// Number of lanes that have a listener.
    pub(crate) lanes: usize,
    pub(crate) server_config: watch::Receiver<Arc<ServerConfig>>,
    /// The sockets of all lanes.
    pub(crate) all_sockets: Arc<[UdpSocket]>,
}

impl Port {
    /// Opens the sockets. Packets that arrive before the endpoints run wait in them.
    ///
    /// # Errors
    /// [`BindError`] when the address is not available or the certificate cannot be used.
    pub fn bind(config: &PortConfig, certificate: CertificateSource) -> Result<Port, BindError> {
        let rotator = CertificateRotator::new(certificate, config)?;
        let sockets: Arc<[UdpSocket]> = bind_sockets(config.address, config.lanes.max(1))?.into();
        let listeners = sockets.iter().enumerate().map(|(lane, socket)| {
            Ok(Listener {
                udp: socket.try_clone()?,
                lane,
                lanes: sockets.len(),
                server_config: rotator.server_config(),
                all_sockets: sockets.clone(),
            })
        });
        let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
        let address = match sockets.first().map(UdpSocket::local_addr) {
            Some(Ok(address)) => address,
            _ => config.address,
        };
        Ok(Port { address, listeners, rotator })
    }

    /// The address, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The fingerprint of the current certificate. It changes when the certificate is renewed.
    pub fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.rotator.fingerprint()
    }

    /// The listeners of the lanes, in order, and what renews their certificate. There may be fewer
    /// listeners than lanes, but there is at least one.
    pub fn into_listeners(self) -> (Vec<Listener>, CertificateRotator) {
        (self.listeners, self.rotator)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::certificate::load_or_generate;

    fn config(address: SocketAddr, lanes: usize) -> PortConfig {
        let transport = TransportSettings {
            bidi_streams_max: 1,
            uni_streams_max: 0,
            stream_receive_window_bytes: 1 << 10,
            receive_window_bytes: 1 << 10,
            send_window_bytes: 1 << 10,
            datagram_send_buffer_bytes: 1 << 10,
            keep_alive: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3),
        };
        PortConfig { address, lanes, alpn: &[b"test"], transport }
    }

    #[test]
    fn port_in_use_is_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = || {
            let certificate = load_or_generate(dir.path(), SystemTime::now()).unwrap();
            CertificateSource::Development(certificate)
        };
        for lanes in [0, 1, 2] {
            let free = SocketAddr::from(([127, 0, 0, 1], 0));
            let port = Port::bind(&config(free, lanes), certificate()).unwrap();
            let second = Port::bind(&config(port.address(), lanes), certificate());
            assert!(matches!(second, Err(BindError::Address(_))), "{lanes} lanes");
        }
    }
}

//! Idle connections to every TCP port of a node, more than the node has descriptors.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::node::Ports;

/// The delay before a closed connection is opened again: long enough that reconnecting does not use up the
/// node's processor.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Opens `count` connections to each TCP port, and reopens each that is closed. They end with the returned
/// set.
pub fn open_idle_connections(ports: Ports, count: usize) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    for port in [ports.http, ports.grpc, ports.peer] {
        (0..count).for_each(|_| _ = connections.spawn(hold_idle_connection(port)));
    }
    connections
}

/// Connects, sends nothing, and connects again when the connection ends.
async fn hold_idle_connection(port: SocketAddr) {
    loop {
        let connecting = TcpStream::connect(port);
        if let Ok(Ok(mut stream)) = tokio::time::timeout(2 * RECONNECT_DELAY, connecting).await {
            while stream.read_u8().await.is_ok() {}
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

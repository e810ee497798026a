//! A TCP proxy between a client and a node that can be cut.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Forwards TCP connections to a node until it is cut.
pub struct TcpProxy {
    /// The address to connect to instead of the node.
    pub address: SocketAddr,
    is_cut: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl TcpProxy {
    /// Starts a proxy to a listener.
    pub async fn start(target: SocketAddr) -> TcpProxy {
        let listener = TcpListener::bind((target.ip(), 0)).await.expect("bind a free port");
        let address = listener.local_addr().expect("a local address");
        let (cut_sender, cut_receiver) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_connections(listener, target, cut_receiver));
        TcpProxy { address, is_cut: cut_sender, _tasks: tasks }
    }

    /// Closes every connection, and each new one, until [`TcpProxy::restore`].
    pub fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// Accepts new connections again.
    pub fn restore(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn accept_connections(
    listener: TcpListener,
    target: SocketAddr,
    cut_receiver: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while let Ok((viewer, _)) = listener.accept().await {
        connections.spawn(proxy_connection(viewer, target, cut_receiver.clone()));
    }
}

async fn proxy_connection(
    mut viewer: TcpStream,
    target: SocketAddr,
    mut cut_receiver: watch::Receiver<bool>,
) {
    let Ok(mut node) = TcpStream::connect(target).await else { return };
    tokio::select! {
        biased;
        _ = cut_receiver.wait_for(|&cut| cut) => {}
        _ = tokio::io::copy_bidirectional(&mut viewer, &mut node) => {}
    }
}

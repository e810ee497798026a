//! A wire between a viewer and a node that can be cut.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Carries TCP connections to a node, until it is cut.
pub struct Wire {
    /// Where to connect in place of the node.
    pub address: SocketAddr,
    cut: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Wire {
    /// A wire to a door.
    pub async fn to(door: SocketAddr) -> Wire {
        let listener = TcpListener::bind((door.ip(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        let (cut, is_cut) = watch::channel(false);
        let mut carrying = JoinSet::new();
        carrying.spawn(carry(listener, door, is_cut));
        Wire { address, cut, _carrying: carrying }
    }

    /// Ends every connection, and any that is made from now on.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Lets new connections through.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn carry(listener: TcpListener, door: SocketAddr, is_cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while let Ok((viewer, _)) = listener.accept().await {
        connections.spawn(connection(viewer, door, is_cut.clone()));
    }
}

async fn connection(mut viewer: TcpStream, door: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    let Ok(mut node) = TcpStream::connect(door).await else { return };
    tokio::select! {
        biased;
        _ = is_cut.wait_for(|&cut| cut) => {}
        _ = tokio::io::copy_bidirectional(&mut viewer, &mut node) => {}
    }
}

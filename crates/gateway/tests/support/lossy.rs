//! A way to the server that loses packets, or holds them up, when it is told to.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::within;

/// Between one client and its server.
pub struct Way {
    pub address: SocketAddr,
    /// What happens to what the server sends.
    fate: watch::Sender<Fate>,
    /// How many bytes did not arrive at once, and how many of them before the fate that is set now.
    met: watch::Receiver<usize>,
    before: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    IsLost,
    /// Arrives, once that is its fate.
    IsHeld,
}

impl Way {
    pub async fn to(server: SocketAddr) -> Way {
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let back = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        back.connect(server).await.expect("an address");
        let address = front.local_addr().expect("bound");
        let (fate, told) = watch::channel(Fate::Arrives);
        let (count, met) = watch::channel(0);
        tokio::spawn(carry(front, back, told, count));
        Way { address, fate, met, before: 0 }
    }

    pub fn set(&mut self, fate: Fate) {
        self.before = *self.met.borrow();
        self.fate.send_replace(fate);
    }

    /// Waits until so many bytes met the fate that is set now.
    pub async fn has_met(&mut self, bytes: usize) {
        let bytes = self.before + bytes;
        within(self.met.wait_for(|met| *met >= bytes)).await.expect("it goes on");
    }
}

async fn carry(
    front: UdpSocket,
    back: UdpSocket,
    mut told: watch::Receiver<Fate>,
    count: watch::Sender<usize>,
) -> std::io::Result<()> {
    let (mut up, mut down) = ([0; 2048], [0; 2048]);
    let mut client = None;
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        tokio::select! {
            Ok(()) = told.changed() => {}
            came = front.recv_from(&mut up) => {
                let (len, from) = came?;
                client = Some(from);
                back.send(&up[..len]).await?;
            }
            came = back.recv(&mut down) => {
                let len = came?;
                held.push(down[..len].to_vec());
                if *told.borrow() != Fate::Arrives {
                    count.send_modify(|met| *met += len);
                }
            }
        }
        let fate = *told.borrow();
        if fate == Fate::IsHeld {
            continue;
        }
        for packet in held.drain(..).filter(|_| fate == Fate::Arrives) {
            let client = client.expect("it was answered");
            front.send_to(&packet, client).await?;
        }
    }
}

//! A way to the server that loses packets, or holds them up, when it is told to.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::with_timeout;

/// Between one client and its server.
pub struct FaultyProxy {
    pub address: SocketAddr,
    /// What happens to what the server sends.
    fate: watch::Sender<PacketFate>,
    /// How many bytes did not arrive at once, and how many of them before the fate that is set now.
    affected_bytes: watch::Receiver<usize>,
    affected_before: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketFate {
    Forward,
    Lose,
    /// Arrives, once that is its fate.
    Hold,
}

impl FaultyProxy {
    pub async fn start(server: SocketAddr) -> FaultyProxy {
        let front = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let back = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        back.connect(server).await.expect("an address");
        let address = front.local_addr().expect("bound");
        let (fate, fate_receiver) = watch::channel(PacketFate::Forward);
        let (affected_sender, affected_bytes) = watch::channel(0);
        tokio::spawn(forward_packets(front, back, fate_receiver, affected_sender));
        FaultyProxy { address, fate, affected_bytes, affected_before: 0 }
    }

    pub fn set_fate(&mut self, fate: PacketFate) {
        self.affected_before = *self.affected_bytes.borrow();
        self.fate.send_replace(fate);
    }

    /// Waits until so many bytes met the fate that is set now.
    pub async fn wait_for_affected_bytes(&mut self, bytes: usize) {
        let bytes = self.affected_before + bytes;
        with_timeout(self.affected_bytes.wait_for(|met| *met >= bytes)).await.expect("it goes on");
    }
}

async fn forward_packets(
    front: UdpSocket,
    back: UdpSocket,
    mut fate_receiver: watch::Receiver<PacketFate>,
    affected: watch::Sender<usize>,
) -> std::io::Result<()> {
    let (mut up, mut down) = ([0; 2048], [0; 2048]);
    let mut client = None;
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        tokio::select! {
            Ok(()) = fate_receiver.changed() => {}
            came = front.recv_from(&mut up) => {
                let (len, from) = came?;
                client = Some(from);
                back.send(&up[..len]).await?;
            }
            came = back.recv(&mut down) => {
                let len = came?;
                held.push(down[..len].to_vec());
                if *fate_receiver.borrow() != PacketFate::Forward {
                    affected.send_modify(|met| *met += len);
                }
            }
        }
        let fate = *fate_receiver.borrow();
        if fate == PacketFate::Hold {
            continue;
        }
        for packet in held.drain(..).filter(|_| fate == PacketFate::Forward) {
            let client = client.expect("it was answered");
            front.send_to(&packet, client).await?;
        }
    }
}

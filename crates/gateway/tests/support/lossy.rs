//! A UDP proxy that can drop or hold the packets of the server.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::with_timeout;

/// A proxy between one client and the server.
pub struct FaultyProxy {
    pub address: SocketAddr,
    /// How packets from the server are handled.
    fate: watch::Sender<PacketFate>,
    /// Total bytes that were dropped or held.
    affected_bytes: watch::Receiver<usize>,
    /// The value of `affected_bytes` when the current fate was set.
    affected_before: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketFate {
    Forward,
    Lose,
    /// Held until the fate changes to [`PacketFate::Forward`].
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

    /// Waits until at least `bytes` bytes were dropped or held under the current fate.
    pub async fn wait_for_affected_bytes(&mut self, bytes: usize) {
        let bytes = self.affected_before + bytes;
        with_timeout(self.affected_bytes.wait_for(|affected| *affected >= bytes))
            .await
            .expect("the proxy runs");
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
            received = front.recv_from(&mut up) => {
                let (len, from) = received?;
                client = Some(from);
                back.send(&up[..len]).await?;
            }
            received = back.recv(&mut down) => {
                let len = received?;
                held.push(down[..len].to_vec());
                if *fate_receiver.borrow() != PacketFate::Forward {
                    affected.send_modify(|bytes| *bytes += len);
                }
            }
        }
        let fate = *fate_receiver.borrow();
        if fate == PacketFate::Hold {
            continue;
        }
        for packet in held.drain(..).filter(|_| fate == PacketFate::Forward) {
            let client = client.expect("the client has sent a packet");
            front.send_to(&packet, client).await?;
        }
    }
}

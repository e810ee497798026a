use std::future::poll_fn;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::testing::{self, Bench};

const BUFFER: usize = 60;

/// Pings as a client writes them, empty and masked with zeros.
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn a_client_that_never_pauses_is_read_one_buffer_a_turn() {
    let bench = Bench::new();
    bench.local.scratch.replace(vec![0; BUFFER].into());
    let (mut client, stream) = connected().await;
    client.write_all(&PING.repeat(10 * BUFFER / PING.len())).await.unwrap();
    client.shutdown().await.unwrap();
    let mut session = Session::new(bench.local, stream, Encoding::Json, false);
    let mut turns = 0;
    let over = poll_fn(|cx| {
        turns += 1;
        session.poll_live(cx)
    });
    testing::on_a_lane(over).await;
    assert!(turns > 10, "{turns} turns for ten buffers");
}

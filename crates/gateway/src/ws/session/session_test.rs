use std::future::poll_fn;

use pushonce_core::{From, Options};
use pushonce_proto::client::{Command, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::{self, Bench, Count};

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

/// Reads until `word` came so often.
async fn read(client: &mut TcpStream, word: &str, times: usize) {
    let (mut came, mut buffer) = (String::new(), [0; 4096]);
    while came.matches(word).count() < times {
        let len = client.read(&mut buffer).await.unwrap();
        assert_ne!(len, 0, "the session ended");
        came += &String::from_utf8_lossy(&buffer[..len]);
    }
}

#[tokio::test]
async fn news_of_many_topics_leaves_by_one_write() {
    let writes = Count::of("pushonce_gateway_writes_total", "websocket");
    let mut bench = ::metrics::with_local_recorder(&writes, Bench::new);
    let topics: Vec<Topic> = (0..100).map(|n| Topic::new(&format!("t/{n}")).unwrap()).collect();
    let (mut client, stream) = connected().await;
    testing::on_a_lane(async {
        bench.fan_out();
        let session = Session::new(bench.local.clone(), stream, Encoding::Json, false);
        let driver = session.driver.clone();
        tokio::task::spawn_local(session);
        for topic in &topics {
            let (from, options) = (From::Now, Options::default());
            let command = Command::Subscribe { topic: topic.clone(), from, options };
            driver.request(Ok(Request { id: None, command }));
            bench.live(topic).await;
            read(&mut client, "subscribed", 1).await;
        }
        let before = writes.so_far();
        topics.iter().for_each(|topic| bench.publish(topic));
        read(&mut client, "goal", topics.len()).await;
        assert_eq!(writes.so_far(), before + 1);
        driver.end();
    })
    .await;
}

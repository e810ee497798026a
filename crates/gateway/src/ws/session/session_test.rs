use std::future::poll_fn;

use pushonce_core::{StartFrom, SubscribeOptions};
use pushonce_proto::client::{ClientCommand, ClientRequest};
use pushonce_telemetry::test_util::TestRecorder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::testing::{self, LaneHarness};

const BUFFER: usize = 60;

/// An empty ping as a client sends it, masked with zeros.
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];

async fn connected_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn client_that_never_pauses_is_read_one_buffer_per_turn() {
    let harness = LaneHarness::new();
    harness.lane.scratch.replace(vec![0; BUFFER].into());
    let (mut client, stream) = connected_pair().await;
    client.write_all(&PING.repeat(10 * BUFFER / PING.len())).await.unwrap();
    client.shutdown().await.unwrap();
    let mut session = Session::new(harness.lane, stream, Encoding::Json, false);
    let mut turns = 0;
    let finished = poll_fn(|cx| {
        turns += 1;
        session.poll_open(cx)
    });
    testing::run_on_lane(finished).await;
    assert!(turns > 10, "{turns} turns for ten buffers");
}

/// Reads until `word` was received `times` times.
async fn read_until(client: &mut TcpStream, word: &str, times: usize) {
    let (mut received, mut buffer) = (String::new(), [0; 4096]);
    while received.matches(word).count() < times {
        let len = client.read(&mut buffer).await.unwrap();
        assert_ne!(len, 0, "the session ended");
        received += &String::from_utf8_lossy(&buffer[..len]);
    }
}

#[tokio::test]
async fn messages_of_many_topics_are_sent_in_one_write() {
    let recorder = TestRecorder::default();
    let writes = || recorder.value("pushonce_gateway_writes_total", &["websocket"]);
    let mut harness = recorder.run(LaneHarness::new);
    let topics: Vec<Topic> = (0..100).map(|n| Topic::new(&format!("t/{n}")).unwrap()).collect();
    let (mut client, stream) = connected_pair().await;
    testing::run_on_lane(async {
        harness.start_fanout();
        let session = Session::new(harness.lane.clone(), stream, Encoding::Json, false);
        let driver = session.driver.clone();
        tokio::task::spawn_local(session);
        for topic in &topics {
            let (from, options) = (StartFrom::Now, SubscribeOptions::default());
            let command = ClientCommand::Subscribe { topic: topic.clone(), from, options };
            driver.on_request(Ok(ClientRequest { id: None, command }));
            harness.set_live(topic).await;
            read_until(&mut client, "subscribed", 1).await;
        }
        let before = writes();
        topics.iter().for_each(|topic| harness.publish(topic));
        read_until(&mut client, "goal", topics.len()).await;
        assert_eq!(writes(), before + 1.0);
        driver.stop();
    })
    .await;
}

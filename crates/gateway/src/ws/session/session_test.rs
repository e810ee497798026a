use std::future::poll_fn;

use pushonce_core::{StartFrom, SubscribeOptions};
use pushonce_proto::client::{ClientCommand, ClientRequest};
use pushonce_telemetry::test_util::TestRecorder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::reactor::SessionTcp;
use crate::testing::{self, LaneHarness};

const BUFFER: usize = 60;

/// An empty ping as a client sends it, masked with zeros.
const PING: &[u8] = &[0x89, 0x80, 0, 0, 0, 0];

/// A client and the session of its connection, which no task runs yet.
async fn connected_session(harness: &LaneHarness) -> (TcpStream, Session<SessionTcp>) {
    let (client, stream) = testing::connected_pair(&harness.lane.reactor).await;
    (client, Session::new(harness.lane.clone(), stream, Encoding::Json, false))
}

/// Runs a session on the reactor of its lane.
fn spawn(harness: &LaneHarness, session: Session<SessionTcp>) {
    harness.lane.reactor.spawn(session.stream.key(), session);
}

#[tokio::test]
async fn client_that_never_pauses_is_read_one_buffer_per_turn() {
    let mut harness = LaneHarness::new();
    harness.lane.scratch.replace(vec![0; BUFFER].into());
    let (mut client, mut session) = connected_session(&harness).await;
    client.write_all(&PING.repeat(10 * BUFFER / PING.len())).await.unwrap();
    client.shutdown().await.unwrap();
    let (sender, finished) = oneshot::channel();
    testing::run_on_lane(async {
        harness.start_reactor();
        let (key, mut turns) = (session.stream.key(), 0);
        let count_turns = async move {
            poll_fn(|cx| {
                turns += 1;
                session.poll_open(cx)
            })
            .await;
            sender.send(turns).unwrap();
        };
        harness.lane.reactor.spawn(key, count_turns);
        let turns = finished.await.unwrap();
        assert!(turns > 10, "{turns} turns for ten buffers");
    })
    .await;
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
    let (mut client, session) = connected_session(&harness).await;
    testing::run_on_lane(async {
        harness.start_fanout();
        harness.start_reactor();
        let driver = session.driver.clone();
        spawn(&harness, session);
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

#[tokio::test(start_paused = true)]
async fn message_that_is_not_complete_in_time_closes_the_session() {
    let mut harness = LaneHarness::new();
    let (mut client, session) = connected_session(&harness).await;
    // Ten bytes are announced and one is sent. Control frames do not prolong the time.
    client.write_all(&[0x81, 0x80 | 10, 0, 0, 0, 0, b'{']).await.unwrap();
    let mut received = Vec::new();
    let run = async {
        harness.start_reactor();
        spawn(&harness, session);
        // The clock is paused: it advances to the next deadline.
        client.read_to_end(&mut received).await.unwrap();
    };
    tokio::task::LocalSet::new().run_until(run).await;
    assert_eq!(received[0], 0x88, "{received:?}");
    assert_eq!(received[2..4], close::OVER_LIMIT.code.to_be_bytes());
}

#[tokio::test]
async fn received_bytes_beyond_the_turn_of_a_session_wait_for_the_next() {
    let harness = LaneHarness::new();
    let (client, mut session) = connected_session(&harness).await;
    let subscribe = br#"{"subscribe":{"topic":"a"}}"#;
    let frame = [&[0x81, 0x80 | subscribe.len() as u8, 0, 0, 0, 0][..], subscribe].concat();
    let request = Encoding::Json.decode_request(&Bytes::from_static(subscribe)).unwrap();
    let micros = work::request_micros(&request.command, || 0);
    let per_turn = (work::TURN_MICROS / micros) as usize + 1;
    testing::run_on_lane(async {
        session.on_bytes(&frame.repeat(per_turn + 3));
        assert_eq!(session.unread.len(), 3 * frame.len());
        let unread = std::mem::take(&mut session.unread);
        session.on_bytes(&unread);
        assert!(session.unread.is_empty());
        // A storm costs more than the share of a session: it is not read for a while.
        while session.pause.is_none() {
            session.on_bytes(&frame.repeat(per_turn));
        }
        drop(client);
    })
    .await;
}

//! Set-up: three nodes.
//! Fault: a publisher that sends the same message again and again, through other nodes and other
//! doors, and one that uses a key twice.
//! Claim: the message stands once, and everybody is told the place where it first stood; another
//! message under its key is refused at every door, with what to change.

use pushonce_client::Failure;
use pushonce_cluster_tests::{Cluster, Socket, secs, text, web};
use pushonce_core::{From, Key, Publish};
use serde_json::Value;
use tonic::Code;

const TOPIC: &str = "game/7";

fn keyed(line: &str) -> Publish {
    Publish { key: Some(Key::new("goal-1").expect("a key")), ..text(TOPIC, line) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_message_at_every_door_of_every_node() {
    let cluster = Cluster::of(3).start().await;
    let first = cluster.publisher(0).publish(keyed("goal")).await.expect("placed");
    for i in cluster.running() {
        assert_eq!(cluster.publisher(i).publish(keyed("goal")).await, Ok(first));
        let posted = post(&cluster, i, "goal").await;
        assert_eq!(
            (posted.0, &posted.1["position"]),
            (200, &Value::from(first.position.to_string()))
        );
        let framed = frame(&cluster, i, "goal").await;
        assert_eq!(framed["published"]["position"], first.position.to_string(), "{framed}");
    }
    for i in cluster.running() {
        another_message_is_refused(&cluster, i).await;
    }
    let after = cluster.publisher(1).publish(text(TOPIC, "after")).await.expect("placed");
    assert!(after.position.follows(first.position), "{after:?} after {first:?}");
    for i in cluster.running() {
        let mut viewer = cluster.viewer(i, pushonce_client::Transport::Ws, TOPIC, From::Start);
        let log = viewer.messages(2, secs(10)).await;
        assert_eq!(
            log,
            [(first.position, "goal".to_owned()), (after.position, "after".to_owned())]
        );
    }
}

async fn another_message_is_refused(cluster: &Cluster, i: usize) {
    let refused = cluster.publisher(i).publish(keyed("foul")).await;
    let Err(Failure::Refused { code, message, retry }) = refused else { panic!("{refused:?}") };
    assert_eq!((code, retry), (Code::AlreadyExists, false));
    assert!(message.contains("a key of its own"), "{message}");

    let (status, body) = post(cluster, i, "foul").await;
    let error = &body["error"];
    assert_eq!(
        (status, &error["code"], &error["retry"]),
        (422, &"key_reused".into(), &false.into())
    );
    let framed = frame(cluster, i, "foul").await;
    let error = &framed["error"];
    let wanted = (&"key_reused".into(), &false.into());
    assert_eq!((&error["code"], &error["retry"]), wanted, "{framed}");
}

async fn post(cluster: &Cluster, i: usize, line: &str) -> (u16, Value) {
    let (path, key) = (format!("/topics/{TOPIC}"), "idempotency-key: goal-1");
    let headers = [key, "content-type: text/plain"];
    let http = cluster.node(i).ports.http;
    let answer = web::request(http, "POST", &path, &headers, line.as_bytes()).await;
    let answer = answer.expect("an answer");
    (answer.status, answer.json())
}

async fn frame(cluster: &Cluster, i: usize, line: &str) -> Value {
    let mut socket = Socket::open(cluster.node(i).ports.http, "").await;
    let publish = format!(r#"{{"topic":"{TOPIC}","data":"{line}","key":"goal-1"}}"#);
    socket.say(&format!(r#"{{"id":4,"publish":{publish}}}"#)).await;
    loop {
        // A heartbeat may come first.
        let answer = socket.hear().await.expect("the session goes on");
        if answer["id"] == 4 {
            return answer;
        }
    }
}

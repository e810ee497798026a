//! Set-up: three nodes.
//! Fault: a publisher that sends the same message repeatedly, through different nodes and protocols, and one
//! that reuses a key.
//! Claim: the message is stored once, and every acknowledgement names its first position; another message
//! with the same key is rejected over every protocol, with a message that tells what to change.

use pushonce_client::{ErrorCode, PublishFailure};
use pushonce_cluster_tests::{ProcessCluster, WebSocketClient, http_client, secs, text_message};
use pushonce_core::{MessageKey, Publish, StartFrom};
use serde_json::Value;
use tonic::Code;

const TOPIC: &str = "game/7";

fn keyed_message(line: &str) -> Publish {
    Publish {
        key: Some(MessageKey::new("goal-1").expect("a valid key")),
        ..text_message(TOPIC, line)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_idempotent_across_nodes_and_protocols() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let first = cluster.publisher(0).publish(keyed_message("goal")).await.expect("acknowledged");
    for i in cluster.running_nodes() {
        assert_eq!(cluster.publisher(i).publish(keyed_message("goal")).await, Ok(first));
        let post_response = publish_http(&cluster, i, "goal").await;
        assert_eq!(
            (post_response.0, &post_response.1["position"]),
            (200, &Value::from(first.position.to_string()))
        );
        let frame_response = publish_frame(&cluster, i, "goal").await;
        assert_eq!(
            frame_response["published"]["position"],
            first.position.to_string(),
            "{frame_response}"
        );
    }
    for i in cluster.running_nodes() {
        reused_key_with_another_message_is_rejected(&cluster, i).await;
    }
    let after =
        cluster.publisher(1).publish(text_message(TOPIC, "after")).await.expect("acknowledged");
    assert!(after.position.follows(first.position), "{after:?} after {first:?}");
    for i in cluster.running_nodes() {
        let mut viewer =
            cluster.subscriber(i, pushonce_client::Transport::Ws, TOPIC, StartFrom::Start);
        let log = viewer.next_messages(2, secs(10)).await;
        assert_eq!(
            log,
            [(first.position, "goal".to_owned()), (after.position, "after".to_owned())]
        );
    }
}

async fn reused_key_with_another_message_is_rejected(cluster: &ProcessCluster, i: usize) {
    let outcome = cluster.publisher(i).publish(keyed_message("foul")).await;
    let Err(PublishFailure::Rejected { code, reason, message, retry }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((code, reason, retry), (Code::AlreadyExists, ErrorCode::KeyReused, false));
    assert!(message.contains("its own key"), "{message}");

    let (status, body) = publish_http(cluster, i, "foul").await;
    let error = &body["error"];
    assert_eq!(
        (status, &error["code"], &error["retry"]),
        (422, &"key_reused".into(), &false.into())
    );
    let frame_response = publish_frame(cluster, i, "foul").await;
    let error = &frame_response["error"];
    let expected = (&"key_reused".into(), &false.into());
    assert_eq!((&error["code"], &error["retry"]), expected, "{frame_response}");
}

async fn publish_http(cluster: &ProcessCluster, i: usize, line: &str) -> (u16, Value) {
    let (path, key) = (format!("/topics/{TOPIC}"), "idempotency-key: goal-1");
    let headers = [key, "content-type: text/plain"];
    let http = cluster.node(i).ports.http;
    let answer = http_client::request(http, "POST", &path, &headers, line.as_bytes()).await;
    let answer = answer.expect("a response");
    (answer.status, answer.json())
}

async fn publish_frame(cluster: &ProcessCluster, i: usize, line: &str) -> Value {
    let mut socket = WebSocketClient::open(cluster.node(i).ports.http, "").await;
    let publish = format!(r#"{{"topic":"{TOPIC}","data":"{line}","key":"goal-1"}}"#);
    socket.send_text(&format!(r#"{{"id":4,"publish":{publish}}}"#)).await;
    loop {
        // A heartbeat may arrive first.
        let answer = socket.next_frame().await.expect("the session stays open");
        if answer["id"] == 4 {
            return answer;
        }
    }
}

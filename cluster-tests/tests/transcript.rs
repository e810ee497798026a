//! Set-up: one node, and the transcript of a session in `proto/README.md`.
//! Fault: none.
//! Claim: a client that sends the lines with `→` receives the frames with `←`.

use std::collections::BTreeMap;

use pushonce_cluster_tests::{ProcessCluster, WebSocketClient};
use serde_json::Value;

const PAGE: &str = include_str!("../../proto/README.md");

/// A line of the transcript.
enum Line<'t> {
    Send(&'t str),
    Receive(Value),
    Close(u16),
}

#[tokio::test(flavor = "multi_thread")]
async fn transcript_is_what_a_node_says() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let mut session = WebSocketClient::open(cluster.ports(0).http, "").await;
    let mut epochs = Epochs::default();
    let mut lines = lines().into_iter().peekable();
    while let Some(line) = lines.next() {
        match line {
            Line::Send(text) => session.send_text(&epochs.as_assigned(text)).await,
            Line::Close(code) => assert_eq!(session.next_frame().await, Err(code)),
            Line::Receive(first) => {
                let mut expected = vec![first];
                while let Some(Line::Receive(_)) = lines.peek() {
                    let Some(Line::Receive(next)) = lines.next() else { unreachable!() };
                    expected.push(next);
                }
                receive(&mut session, expected, &mut epochs).await;
            }
        }
    }
}

fn lines() -> Vec<Line<'static>> {
    let block = PAGE.split("```transcript\n").nth(1).and_then(|rest| rest.split("```").next());
    let parse = |line: &'static str| {
        if let Some(code) = line.strip_prefix("← close ") {
            return Line::Close(code.parse().expect("a close code"));
        }
        match line.strip_prefix("→ ") {
            Some(text) => Line::Send(text),
            None => {
                let text = line.strip_prefix("← ").expect("→ or ←");
                Line::Receive(serde_json::from_str(text).expect("JSON"))
            }
        }
    };
    block.expect("a transcript").lines().map(parse).collect()
}

/// Receives these frames in any order.
async fn receive(session: &mut WebSocketClient, mut expected: Vec<Value>, epochs: &mut Epochs) {
    while !expected.is_empty() {
        let frame = session.next_frame().await.unwrap_or_else(|code| {
            panic!("closed with {code} before {expected:?}");
        });
        if frame["heartbeat"].is_object() {
            continue;
        }
        let found = expected.iter().position(|expected| epochs.matches(expected, &frame));
        let found = found.unwrap_or_else(|| panic!("{frame} is none of {expected:?}"));
        expected.remove(found);
    }
}

/// The epochs that the node assigned, by those of the transcript.
#[derive(Default)]
struct Epochs(BTreeMap<String, String>);

impl Epochs {
    /// The text with the epochs of the node.
    fn as_assigned(&self, text: &str) -> String {
        let replace = |text: String, (written, assigned): (&String, &String)| {
            text.replace(&format!("\"{written}:"), &format!("\"{assigned}:"))
        };
        self.0.iter().fold(text.to_owned(), replace)
    }

    /// Whether a frame is the expected one. Times and `…` stand for any value; a position has the expected offset, and
    /// always the same epoch for the same written one.
    fn matches(&mut self, expected: &Value, received: &Value) -> bool {
        match (expected, received) {
            (Value::Object(expected), Value::Object(received)) => {
                expected.len() == received.len()
                    && expected.iter().all(|(name, value)| {
                        received.get(name).is_some_and(|found| {
                            (name == "time" && found.is_u64()) || self.matches(value, found)
                        })
                    })
            }
            (Value::String(text), Value::String(_)) if text == "…" => true,
            (Value::String(expected), Value::String(received)) => {
                expected == received || self.is_same_position(expected, received)
            }
            _ => expected == received,
        }
    }

    fn is_same_position(&mut self, expected: &str, received: &str) -> bool {
        let parts = |text: &str| {
            let (epoch, offset) = text.split_once(':')?;
            epoch.parse::<u64>().ok()?;
            Some((epoch.to_owned(), offset.parse::<u64>().ok()?))
        };
        let (Some((written, offset)), Some((assigned, found))) = (parts(expected), parts(received))
        else {
            return false;
        };
        offset == found && *self.0.entry(written).or_insert_with(|| assigned.clone()) == assigned
    }
}

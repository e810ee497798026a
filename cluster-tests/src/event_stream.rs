//! A client of event streams without an SDK, as the HTML standard defines it: each event as it is on the wire.

use std::net::SocketAddr;

use pushonce_core::Position;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::secs;

/// An open stream.
pub struct EventStreamClient {
    stream: TcpStream,
    received: Vec<u8>,
    last_event_id: String,
}

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEvent {
    /// The name; empty for a message.
    pub name: String,
    /// The data.
    pub data: String,
    /// The id of the last event that had one.
    pub id: String,
}

impl EventStreamClient {
    /// Opens a stream and reads the head of its response.
    ///
    /// # Errors
    /// The connection failed, or the response is no stream.
    pub async fn open(
        server: SocketAddr,
        path: &str,
        last_event_id: Option<&str>,
    ) -> Result<EventStreamClient, String> {
        let open = async {
            let mut stream = TcpStream::connect(server).await?;
            let id =
                last_event_id.map_or_else(String::new, |id| format!("last-event-id: {id}\r\n"));
            let head = format!(
                "GET {path} HTTP/1.1\r\nhost: {server}\r\naccept: text/event-stream\r\n{id}\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            let mut response = Vec::new();
            while !response.ends_with(b"\r\n\r\n") {
                response.push(stream.read_u8().await?);
            }
            std::io::Result::Ok((stream, response))
        };
        let opened =
            timeout(secs(60), open).await.map_err(|_| "no response within 60 s".to_owned())?;
        let (stream, response) = opened.map_err(|error| error.to_string())?;
        let response = String::from_utf8_lossy(&response).into_owned();
        if !response.starts_with("HTTP/1.1 200") {
            return Err(response);
        }
        let last_event_id = last_event_id.unwrap_or_default().to_owned();
        Ok(EventStreamClient { stream, received: Vec::new(), last_event_id })
    }

    /// What a browser sends when it connects again.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The next event with data; `None` at the end of the stream.
    pub async fn next_event(&mut self) -> Option<StreamEvent> {
        let next = async {
            loop {
                let Some(end) = self.received.windows(2).position(|two| two == b"\n\n") else {
                    let mut bytes = [0; 4_096];
                    match self.stream.read(&mut bytes).await {
                        Ok(0) | Err(_) => return None,
                        Ok(len) => self.received.extend(&bytes[..len]),
                    }
                    continue;
                };
                let block: Vec<u8> = self.received.drain(..end + 2).collect();
                let block = String::from_utf8(block).expect("UTF-8");
                if let Some(event) = self.interpret(&block) {
                    return Some(event);
                }
            }
        };
        timeout(secs(60), next).await.expect("an event within 60 s")
    }

    fn interpret(&mut self, block: &str) -> Option<StreamEvent> {
        let (mut event, mut lines) = (StreamEvent::default(), Vec::new());
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut self.last_event_id),
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", line)) => lines.push(line),
                _ => {}
            }
        }
        event.data = lines.join("\n");
        self.last_event_id.clone_into(&mut event.id);
        (!lines.is_empty()).then_some(event)
    }

    /// The position and text of the next event, which must be a message of a stream of one topic.
    pub async fn next_message(&mut self) -> Option<(Position, String)> {
        let StreamEvent { name, data, id } = self.next_event().await?;
        assert!(name.is_empty(), "{name}: {data}");
        Some((id.parse().expect("a position"), data))
    }
}

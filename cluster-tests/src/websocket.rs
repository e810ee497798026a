//! A WebSocket client without an SDK: each frame as it is on the wire.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use pushonce_core::Position;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Message, WebSocketStream};

use crate::wait::secs;

/// A session with JSON frames.
pub struct WebSocketClient(WebSocketStream<TcpStream>);

impl WebSocketClient {
    /// Connects to `/ws` at `server`; `query` may be empty.
    pub async fn open(server: SocketAddr, query: &str) -> WebSocketClient {
        let uri = format!("ws://{server}/ws{query}");
        let builder = ClientBuilder::new().uri(&uri).expect("a valid URL");
        let connect = async {
            let stream = TcpStream::connect(server).await.expect("connect");
            // A request must not wait for the TCP acknowledgement of the one before.
            stream.set_nodelay(true).expect("set TCP_NODELAY");
            builder.connect_on(stream).await.expect("the WebSocket handshake succeeds")
        };
        WebSocketClient(timeout(secs(10), connect).await.expect("a session within 10 s").0)
    }

    /// Sends a text frame.
    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.expect("send");
    }

    /// The next frame, or the close code when the server closes the session.
    pub async fn next_frame(&mut self) -> Result<Value, u16> {
        loop {
            let message = timeout(secs(10), self.0.next()).await.expect("a frame within 10 s");
            let message = message
                .expect("a close frame before the end of the connection")
                .expect("a valid frame");
            if let Some((code, _)) = message.as_close() {
                return Err(code.into());
            }
            if let Some(text) = message.as_text() {
                return Ok(serde_json::from_str(text).expect("JSON"));
            }
        }
    }

    /// Sends a request and returns the frame that answers it. Skips heartbeats.
    pub async fn request(&mut self, request: &str) -> Value {
        self.send_text(request).await;
        loop {
            let frame = self.next_frame().await.expect("the session stays open");
            if !frame["heartbeat"].is_object() {
                return frame;
            }
        }
    }

    /// Subscribes from the start of the topic.
    pub async fn subscribe(&mut self, topic: &str) {
        let request = format!(r#"{{"id":1,"subscribe":{{"topic":"{topic}","from":"start"}}}}"#);
        let answer = self.request(&request).await;
        assert!(answer["subscribed"].is_object(), "{answer}");
    }

    /// Position and text of the next frame, which must be a message. Duplicates are not filtered, unlike in
    /// an SDK.
    pub async fn next_message(&mut self) -> (Position, String) {
        let frame = self.next_frame().await.expect("the session stays open");
        let message = &frame["message"];
        let position = message["position"].as_str().and_then(|text| text.parse().ok());
        let text = message["data"].as_str();
        let (position, text) = position.zip(text).unwrap_or_else(|| panic!("{frame}"));
        (position, text.to_owned())
    }

    /// The next `n` messages.
    pub async fn next_messages(&mut self, n: usize) -> Vec<(Position, String)> {
        let mut received = Vec::with_capacity(n);
        while received.len() < n {
            received.push(self.next_message().await);
        }
        received
    }
}

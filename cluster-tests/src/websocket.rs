//! A WebSocket client with nothing in between: each frame as it is on the wire.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use pushonce_core::Position;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Message, WebSocketStream};

use crate::wait::secs;

/// A session that speaks JSON.
pub struct WebSocketClient(WebSocketStream<TcpStream>);

impl WebSocketClient {
    /// Connects to `/ws` at `server_address`; `query` may be empty.
    pub async fn open(server: SocketAddr, query: &str) -> WebSocketClient {
        let uri = format!("ws://{server}/ws{query}");
        let builder = ClientBuilder::new().uri(&uri).expect("a URL");
        let connect = async {
            let stream = TcpStream::connect(server).await.expect("an open door");
            // A request must not wait for the acknowledgement of the one before.
            stream.set_nodelay(true).expect("a TCP socket");
            builder.connect_on(stream).await.expect("a session")
        };
        WebSocketClient(timeout(secs(10), connect).await.expect("an answer").0)
    }

    /// Sends a text frame, whatever it is.
    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text.to_owned())).await.expect("sent");
    }

    /// The next frame; `Err` with the code when the server closes.
    pub async fn next_frame(&mut self) -> Result<Value, u16> {
        loop {
            let message = timeout(secs(10), self.0.next()).await.expect("a frame");
            let message = message.expect("a close frame before the end").expect("a good frame");
            if let Some((code, _)) = message.as_close() {
                return Err(code.into());
            }
            if let Some(text) = message.as_text() {
                return Ok(serde_json::from_str(text).expect("JSON"));
            }
        }
    }

    /// Sends a request and gives the frame that answers it; a heartbeat may come before it.
    pub async fn request(&mut self, request: &str) -> Value {
        self.send_text(request).await;
        loop {
            let frame = self.next_frame().await.expect("the session goes on");
            if !frame["heartbeat"].is_object() {
                return frame;
            }
        }
    }

    /// Subscribes from the start.
    pub async fn subscribe(&mut self, topic: &str) {
        let request = format!(r#"{{"id":1,"subscribe":{{"topic":"{topic}","from":"start"}}}}"#);
        let answer = self.request(&request).await;
        assert!(answer["subscribed"].is_object(), "{answer}");
    }

    /// Position and text of the frame that comes next, which must be a message. No SDK has left out
    /// here what came twice.
    pub async fn next_message(&mut self) -> (Position, String) {
        let frame = self.next_frame().await.expect("the session goes on");
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

//! Scripted servers, and the subscriber of a test.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue};
use pushonce_client::{ServerAddress, Subscriber, SubscriberEvent};
use pushonce_core::{
    Delivery, Message as Published, Position, StartFrom, Timestamp, Topic, test_util,
};
use pushonce_proto::client::{ClientCommand, Encoding, ServerEvent};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{CloseCode, Message, ServerBuilder, WebSocketStream};

/// Far longer than any test takes; reached only on failure.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A WebSocket server with the protobuf protocol.
pub(crate) struct ScriptedWebSocketServer {
    listener: TcpListener,
}

/// A session of one client.
pub(crate) struct ScriptedWebSocketSession {
    socket: WebSocketStream<TcpStream>,
}

impl ScriptedWebSocketServer {
    pub(crate) async fn open() -> ScriptedWebSocketServer {
        ScriptedWebSocketServer { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> ServerAddress {
        let socket_address: SocketAddr = self.listener.local_addr().unwrap();
        format!("ws://{socket_address}").parse().unwrap()
    }

    /// Accepts the next client.
    pub(crate) async fn accept(&self) -> ScriptedWebSocketSession {
        let (stream, _) = self.listener.accept().await.unwrap();
        ScriptedWebSocketSession { socket: accept_websocket(stream).await }
    }
}

/// Accepts a WebSocket with the protobuf protocol on a connection.
pub(crate) async fn accept_websocket<S>(stream: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let builder = ServerBuilder::new().add_header(
        HeaderName::from_static("sec-websocket-protocol"),
        HeaderValue::from_static("pushonce.v1.proto"),
    );
    builder.unwrap().accept(stream).await.unwrap().1
}

impl ScriptedWebSocketSession {
    /// The start of the client's subscribe request.
    pub(crate) async fn requested_start(&mut self) -> StartFrom {
        let frame: Bytes = self.socket.next().await.unwrap().unwrap().into_payload().into();
        match Encoding::Proto.decode_request(&frame).unwrap().command {
            ClientCommand::Subscribe { from, .. } => from,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send_event(&mut self, event: ServerEvent) {
        let frame = Encoding::Proto.encode_event(&event);
        self.socket.send(Message::binary(frame)).await.unwrap();
    }

    pub(crate) async fn send_subscribed(&mut self, position: Position) {
        self.send_event(ServerEvent::Subscribed {
            id: Some(1),
            topic: topic(),
            position,
            recovered: true,
            delivery: Delivery::All,
        })
        .await;
    }

    pub(crate) async fn send_message(&mut self, offset: u64) {
        self.send_event(ServerEvent::Message { topic: topic(), message: published(offset) }).await;
    }

    /// Reads to the end. Returns the code of the client's close frame, if there was one.
    pub(crate) async fn close_code(mut self) -> Option<u16> {
        let read = async {
            while let Some(Ok(message)) = self.socket.next().await {
                if let Some((code, _)) = message.as_close() {
                    return Some(code.into());
                }
            }
            None
        };
        tokio::time::timeout(TEST_TIMEOUT, read).await.expect("the end in time")
    }

    pub(crate) async fn close(mut self, code: u16) {
        let code = CloseCode::try_from(code).unwrap();
        self.socket.send(Message::close(Some(code), "because")).await.unwrap();
        while self.socket.next().await.is_some() {}
    }
}

/// A subscriber of the topic at these servers.
pub(crate) fn subscribe(servers: &[&ScriptedWebSocketServer], from: StartFrom) -> Subscriber {
    let addresses = servers.iter().map(|server| server.address());
    Subscriber::builder(addresses)
        .topic(topic(), from)
        .connect()
        .expect("the servers fit the transport")
}

/// The next event, which is not the end of the subscriber.
pub(crate) async fn next_event(subscriber: &mut Subscriber) -> SubscriberEvent {
    let next = tokio::time::timeout(TEST_TIMEOUT, subscriber.next()).await;
    next.expect("an event in time").expect("not the last event")
}

pub(crate) fn topic() -> Topic {
    test_util::topic("game/7")
}

pub(crate) fn at(offset: u64) -> Position {
    Position::new(5, offset)
}

fn published(offset: u64) -> Arc<Published> {
    let payload = Bytes::from(offset.to_string());
    Arc::new(Published { time: Timestamp(1), payload, ..test_util::message(5, offset) })
}

//! A session without an SDK: every event of the node, in its order.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use pushonce_client::Transport;
use pushonce_core::{Delivery, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ErrorCode, ServerEvent};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::publisher;
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};

use super::HEARTBEAT_INTERVAL;
use crate::node::Ports;

/// The time within which a running node accepts a session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client that receives nothing for two and a half heartbeat intervals considers its connection dead: the
/// node may have closed it while the network was cut.
const SILENCE_TIMEOUT: Duration =
    HEARTBEAT_INTERVAL.saturating_mul(5).checked_div(2).expect("two is not zero");

/// One subscription of one topic at one node.
pub(super) enum Session {
    /// JSON frames over WebSocket, as a browser uses them.
    Ws(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    /// A streaming gRPC call.
    Grpc(Box<Streaming<pb::SubscribeResponse>>, Topic),
    /// A gRPC call that was rejected.
    Rejected(Option<ServerEvent>),
}

impl Session {
    /// Connects and subscribes.
    pub(super) async fn open(
        ports: Ports,
        transport: Transport,
        topic: &str,
        from: StartFrom,
    ) -> Result<Session, String> {
        let topic = Topic::new(topic).expect("a valid topic");
        let connect = async {
            match transport {
                Transport::Grpc => open_grpc(ports, topic, from).await,
                _ => open_ws(ports, topic, from).await,
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err("no reply".to_owned()))
    }

    /// The next event; `Err` when the session has ended.
    pub(super) async fn next(&mut self) -> Result<ServerEvent, String> {
        match self {
            Session::Ws(socket) => {
                let frame = tokio::time::timeout(SILENCE_TIMEOUT, next_frame(socket)).await;
                frame.unwrap_or_else(|_| Err("no heartbeat".to_owned()))
            }
            Session::Grpc(answers, topic) => match answers.message().await {
                Ok(Some(response)) => match publisher::SubscribeEvent::try_from(response) {
                    Ok(event) => Ok(event.into_server_event(1, topic.clone(), Delivery::All)),
                    Err(error) => Err(error.to_string()),
                },
                Ok(None) => Err("the call ended".to_owned()),
                Err(status) => Err(describe_status(&status)),
            },
            Session::Rejected(event) => event.take().ok_or_else(|| "refused".to_owned()),
        }
    }
}

async fn open_ws(ports: Ports, topic: Topic, from: StartFrom) -> Result<Session, String> {
    let uri = format!("ws://{}/ws", ports.http);
    let builder = ClientBuilder::new().uri(&uri).map_err(|error| error.to_string())?;
    let (mut socket, _) = builder.connect().await.map_err(|error| error.to_string())?;
    let command = ClientCommand::Subscribe { topic, from, options: SubscribeOptions::default() };
    let frame = Encoding::Json.encode_request(&ClientRequest { id: Some(1), command });
    socket.send(Message::text(frame)).await.map_err(|error| error.to_string())?;
    Ok(Session::Ws(Box::new(socket)))
}

async fn next_frame(
    socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>,
) -> Result<ServerEvent, String> {
    loop {
        let message = socket.next().await.ok_or("the connection ended")?;
        let message = message.map_err(|error| error.to_string())?;
        if let Some((code, reason)) = message.as_close() {
            return Err(format!("closed: {} {reason}", u16::from(code)));
        }
        if message.is_text() {
            let payload = message.into_payload().into();
            return Encoding::Json.decode_event(&payload).map_err(|error| error.to_string());
        }
    }
}

async fn open_grpc(ports: Ports, topic: Topic, from: StartFrom) -> Result<Session, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", ports.grpc))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        // hyper counts a connection with one open call as idle when the channel was dropped, as here.
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
    let request = pb::SubscribeRequest {
        topic: topic.to_string(),
        start_from: Some(from.into()),
        ..pb::SubscribeRequest::default()
    };
    match PublisherServiceClient::new(channel).subscribe(request).await {
        Ok(answers) => Ok(Session::Grpc(Box::new(answers.into_inner()), topic)),
        Err(status) if status.code() == Code::OutOfRange => {
            let event = ServerEvent::error(Some(1), ErrorCode::FuturePosition, status.message());
            Ok(Session::Rejected(Some(event)))
        }
        Err(status) => Err(describe_status(&status)),
    }
}

fn describe_status(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

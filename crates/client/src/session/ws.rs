//! A session over WebSocket.

use futures::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue};
use pushonce_proto::client::{Encoding, Event, Request};
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, Limits, MaybeTlsStream, Message, WebSocketStream};

use super::Ended;
use crate::server::{Scheme, Server};

/// A frame of a payload of 1 MiB, in base64, with room for its other fields.
const FRAME_BYTES_MAX: usize = 2 << 20;

pub(crate) struct Session {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// The compact encoding: the caller sees no difference.
const ENCODING: Encoding = Encoding::Proto;

impl Session {
    pub(super) async fn open(server: &Server) -> Result<Session, Ended> {
        if server.scheme == Scheme::Quic {
            return Err(Ended::for_good(format!("{server} is not a WebSocket address")));
        }
        let uri = format!("ws://{}/ws", server.authority());
        let subprotocol = HeaderValue::from_static("pushonce.v1.proto");
        let builder = ClientBuilder::new()
            .uri(&uri)
            .map_err(Ended::for_good)?
            .limits(Limits::default().max_payload_len(Some(FRAME_BYTES_MAX)))
            .add_header(HeaderName::from_static("sec-websocket-protocol"), subprotocol)
            .map_err(Ended::for_good)?;
        let (socket, _) = builder.connect().await.map_err(Ended::again)?;
        Ok(Session { socket })
    }

    pub(super) async fn send(&mut self, request: &Request) -> Result<(), Ended> {
        let frame = ENCODING.encode_request(request);
        self.socket.send(Message::binary(frame)).await.map_err(Ended::again)
    }

    pub(super) async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            let message = match self.socket.next().await {
                Some(message) => message.map_err(Ended::again)?,
                None => return Err(Ended::again("the connection ended")),
            };
            if let Some((code, reason)) = message.as_close() {
                return Err(Ended::closed(code.into(), reason));
            }
            if !message.is_binary() {
                continue;
            }
            match ENCODING.decode_event(&message.into_payload().into()) {
                Ok(event) => return Ok(event),
                Err(why) if why.broken => return Err(Ended::again(why)),
                // From a newer server: not for us.
                Err(_) => {}
            }
        }
    }
}

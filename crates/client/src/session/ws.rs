//! A session over WebSocket.

use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use pushonce_proto::client::{Encoding, Event, Request};
use pushonce_proto::status::error_chain;
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, Error, Limits, Message, WebSocketStream, upgrade};

use super::Ended;
use crate::server::Server;

/// A frame of a payload of 1 MiB: text of nothing but control characters takes six times its length
/// in JSON.
const FRAME_BYTES_MAX: usize = 8 << 20;

pub(crate) struct Session {
    socket: WebSocketStream<TcpStream>,
    encoding: Encoding,
}

impl Session {
    pub(super) async fn open(server: &Server, encoding: Encoding) -> Result<Session, Ended> {
        let subprotocol = HeaderValue::from_static(encoding.subprotocol());
        let builder = ClientBuilder::new()
            .uri(&format!("ws://{}/ws", server.authority()))
            .map_err(Ended::for_good)?
            .limits(Limits::default().max_payload_len(Some(FRAME_BYTES_MAX)))
            .add_header(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone())
            .map_err(Ended::for_good)?;
        let stream = TcpStream::connect(server.authority()).await.map_err(Ended::again)?;
        stream.set_nodelay(true).map_err(Ended::again)?;
        let (socket, response) = builder.connect_on(stream).await.map_err(not_upgraded)?;
        if response.headers().get(SEC_WEBSOCKET_PROTOCOL) != Some(&subprotocol) {
            let why = format!("{server} does not speak {}", encoding.subprotocol());
            return Err(Ended::for_good(why));
        }
        Ok(Session { socket, encoding })
    }

    pub(super) async fn send(&mut self, request: &Request) -> Result<(), Ended> {
        let frame = self.encoding.encode_request(request);
        let message = match self.encoding {
            Encoding::Json => Message::text(frame),
            Encoding::Proto => Message::binary(frame),
        };
        self.socket.send(message).await.map_err(Ended::again)
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
            if !message.is_binary() && !message.is_text() {
                continue;
            }
            match self.encoding.decode_event(&message.into_payload().into()) {
                Ok(event) => return Ok(event),
                Err(why) if why.broken => return Err(Ended::again(why)),
                // From a newer server: not for us.
                Err(_) => {}
            }
        }
    }
}

/// A server that refuses the upgrade for a reason that time does not change is not asked again: it is not
/// Pushonce, or not its HTTP port.
fn not_upgraded(error: Error) -> Ended {
    match error {
        Error::Upgrade(upgrade::Error::DidNotSwitchProtocols(status)) => match status {
            408 | 429 | 500..=599 => Ended::again(format!("the server answered HTTP {status}")),
            _ => Ended::for_good(format!(
                "the server answered HTTP {status} instead of a WebSocket upgrade: \
                 give the address of a node's --http"
            )),
        },
        Error::Upgrade(upgrade::Error::Parsing(why)) => Ended::for_good(format!(
            "the server does not speak HTTP/1.1 ({why}): give the address of a node's --http"
        )),
        error => Ended::again(error_chain(&error)),
    }
}

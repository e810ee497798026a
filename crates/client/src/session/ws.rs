//! A session over WebSocket.

use std::io;
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use pushonce_proto::client::{ClientRequest, Encoding, ServerEvent};
use pushonce_proto::status::error_chain;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_websockets::{
    ClientBuilder, CloseCode, Error, Limits, Message, WebSocketStream, upgrade,
};

use super::connect_error::ConnectError;
use super::protocol_check::{CheckedStream, Protocol, ProtocolCheck};
use super::trust::DevelopmentCertificate;
use super::{CertificateTrust, ConnectOptions, SessionEnd};
use crate::server_address::{Scheme, ServerAddress};

/// Fits a frame with a payload of 1 MiB: in JSON, text of control characters only is six times as long.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// A connection to the port for HTTP, with or without TLS.
type Connection = Either<CheckedStream<TcpStream>, TlsStream<CheckedStream<TcpStream>>>;

pub(crate) struct Session {
    socket: WebSocketStream<Connection>,
    encoding: Encoding,
}

impl Session {
    pub(super) async fn open(
        server: &ServerAddress,
        options: &ConnectOptions,
    ) -> Result<Session, SessionEnd> {
        let encoding = options.encoding;
        let subprotocol = HeaderValue::from_static(encoding.subprotocol());
        let builder = ClientBuilder::new()
            .uri(&format!("{}://{}/ws", scheme(server), server.authority()))
            .map_err(SessionEnd::permanent)?
            .limits(Limits::default().max_payload_len(Some(FRAME_BYTES_MAX)))
            .add_header(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone())
            .map_err(SessionEnd::permanent)?;
        let (stream, protocol) = open_connection(server, &options.trust).await?;
        let upgraded = builder.connect_on(stream).await;
        let (socket, response) = upgraded.map_err(|error| match protocol.rejection() {
            Some(rejection) => SessionEnd::permanent(rejection),
            None => upgrade_failed(error),
        })?;
        if response.headers().get(SEC_WEBSOCKET_PROTOCOL) != Some(&subprotocol) {
            let reason = format!("{server} does not support {}", encoding.subprotocol());
            return Err(SessionEnd::permanent(reason));
        }
        Ok(Session { socket, encoding })
    }

    pub(super) async fn send(&mut self, request: &ClientRequest) -> Result<(), SessionEnd> {
        let frame = self.encoding.encode_request(request);
        let message = match self.encoding {
            Encoding::Json => Message::text(frame),
            Encoding::Proto => Message::binary(frame),
        };
        self.socket.send(message).await.map_err(SessionEnd::retryable)
    }

    pub(super) async fn next(&mut self) -> Result<ServerEvent, SessionEnd> {
        loop {
            let message = match self.socket.next().await {
                Some(message) => message.map_err(SessionEnd::retryable)?,
                None => return Err(SessionEnd::retryable("the connection ended")),
            };
            if let Some((code, reason)) = message.as_close() {
                return Err(SessionEnd::from_close_code(code.into(), reason));
            }
            if !message.is_binary() && !message.is_text() {
                continue;
            }
            match self.encoding.decode_event(&message.into_payload().into()) {
                Ok(event) => return Ok(event),
                Err(error) if error.is_fatal => return Err(SessionEnd::retryable(error)),
                // A frame of a newer server: ignored.
                Err(_) => {}
            }
        }
    }

    /// Sends a close frame. Errors are ignored: the connection is closed in any case.
    pub(super) async fn close(mut self) {
        let _failed = self.socket.send(Message::close(Some(CloseCode::NORMAL_CLOSURE), "")).await;
    }
}

fn scheme(server: &ServerAddress) -> &'static str {
    match server.scheme {
        Scheme::Https | Scheme::Wss => "wss",
        _ => "ws",
    }
}

/// Connects to the port for HTTP and WebSocket of a server, with TLS at `https://` and `wss://` addresses.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ConnectError> {
    Ok(open_connection(server, trust).await?.0)
}

async fn open_connection(
    server: &ServerAddress,
    trust: &CertificateTrust,
) -> Result<(Connection, Arc<ProtocolCheck>), ConnectError> {
    let unreachable = |error: io::Error| ConnectError::Unreachable {
        server: server.clone(),
        reason: error.to_string(),
    };
    let stream = TcpStream::connect(server.authority()).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let protocol = ProtocolCheck::new(server, Protocol::Http1);
    let stream = CheckedStream::new(stream, protocol.clone());
    if scheme(server) != "wss" {
        return Ok((Either::Left(stream), protocol));
    }
    let config = trust.client_config(server, DevelopmentCertificate::Rejected);
    let (mut config, check) = config.map_err(ConnectError::Invalid)?;
    // A WebSocket begins with HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = server.host.trim_matches(['[', ']']).to_owned();
    let name =
        ServerName::try_from(name).map_err(|error| ConnectError::Invalid(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(config));
    let connected = connector.connect(name, stream).await;
    match connected {
        Ok(stream) => Ok((Either::Right(stream), protocol)),
        Err(error) => Err(match (check.rejection(), protocol.rejection()) {
            (Some(rejection), _) => ConnectError::Certificate(rejection),
            (None, Some(rejection)) => ConnectError::Invalid(rejection),
            (None, None) => unreachable(error),
        }),
    }
}

/// A server that rejects the upgrade for a permanent reason is not tried again: it is not Pushonce, or not
/// its HTTP port.
fn upgrade_failed(error: Error) -> SessionEnd {
    match error {
        Error::Upgrade(upgrade::Error::DidNotSwitchProtocols(status)) => match status {
            408 | 429 | 500..=599 => {
                SessionEnd::retryable(format!("the server replied with HTTP {status}"))
            }
            _ => SessionEnd::permanent(format!(
                "the server replied with HTTP {status} instead of a WebSocket upgrade: \
                 give the address of a node's --http or --https"
            )),
        },
        Error::Upgrade(upgrade::Error::Parsing(error)) => SessionEnd::permanent(format!(
            "the server did not reply in HTTP/1.1 ({error}): give the address of a node's --http"
        )),
        error => SessionEnd::retryable(error_chain(&error)),
    }
}

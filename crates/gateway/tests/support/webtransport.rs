//! A WebTransport client over quinn: one connection with one session.

use bytes::{Buf, BytesMut};
use http::{HeaderName, HeaderValue};
use pushonce_proto::client::Encoding;
use tokio::sync::mpsc;
use web_transport_proto::{
    Capsule, ConnectError, ConnectRequest, ConnectResponse, Frame, Settings, StreamUni, VarInt,
};

use super::client::{Received, dial, read_stream};
use super::{TestGateway, with_timeout};

/// A connection on which a session was requested.
pub struct WebTransportSession {
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
    /// The stream of the request. The session ends with it.
    pub request: quinn::SendStream,
    pub response: ResponseReader,
    pub settings: Settings,
    /// Ends with the connection.
    pub control: quinn::SendStream,
}

/// Reads the stream of a request.
pub struct ResponseReader {
    receive: quinn::RecvStream,
    buffer: BytesMut,
    /// Keeps the other side of the streams open.
    server_control: quinn::RecvStream,
}

/// The response to a request.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub protocol: Option<String>,
    pub text: String,
}

impl WebTransportSession {
    /// Opens an HTTP/3 connection and requests a session.
    pub async fn request(
        server: &TestGateway,
        target: &str,
        headers: &[(&'static str, &str)],
    ) -> WebTransportSession {
        WebTransportSession::request_with(server, target, headers, |request| request).await
    }

    pub async fn request_with(
        server: &TestGateway,
        target: &str,
        headers: &[(&'static str, &str)],
        change: impl FnOnce(ConnectRequest) -> ConnectRequest,
    ) -> WebTransportSession {
        let url = format!("https://localhost:{}{target}", server.quic.port());
        let mut request = ConnectRequest::new(url::Url::parse(&url).expect("a URL"));
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a header");
            request = request.with_header(HeaderName::from_static(name), value);
        }
        let mut bytes = Vec::new();
        change(request).encode(&mut bytes).expect("a request");
        WebTransportSession::send_request(server, &bytes).await
    }

    /// Opens an HTTP/3 connection and writes `request` to its first bidirectional stream.
    pub async fn send_request(server: &TestGateway, request: &[u8]) -> WebTransportSession {
        let (endpoint, connection) = dial(server, b"h3").await.expect("connected");
        let mut control = connection.open_uni().await.expect("a stream");
        control.write_all(&client_settings()).await.expect("written");
        let (mut send, receive) = connection.open_bi().await.expect("a stream");
        send.write_all(request).await.expect("written");
        let mut server_control = with_timeout(connection.accept_uni()).await.expect("a stream");
        let settings = with_timeout(Settings::read(&mut server_control)).await.expect("settings");
        let response = ResponseReader { receive, buffer: BytesMut::new(), server_control };
        WebTransportSession { endpoint, connection, request: send, response, settings, control }
    }

    /// The response, with the text of a rejection.
    pub async fn response(&mut self) -> Response {
        let reader = &mut self.response;
        let headers = with_timeout(reader.read_frame()).await.expect("a response");
        match ConnectResponse::decode(&mut &headers[..]) {
            Ok(response) => Response {
                status: response.status.as_u16(),
                protocol: response.protocol,
                text: String::new(),
            },
            Err(ConnectError::WrongStatus(Some(status))) => {
                let data = with_timeout(reader.read_frame()).await.expect("a body");
                let (_, text) = Frame::read(&mut &data[..])
                    .map(|(kind, mut data)| (kind, data.copy_to_bytes(data.remaining())))
                    .expect("a frame");
                let text = String::from_utf8_lossy(&text).into_owned();
                Response { status: status.as_u16(), protocol: None, text }
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn status(&mut self) -> u16 {
        self.response().await.status
    }

    /// Opens a bidirectional stream of the session.
    pub async fn open_stream(&mut self) -> (quinn::SendStream, quinn::RecvStream) {
        let (mut send, receive) = with_timeout(self.connection.open_bi()).await.expect("a stream");
        let mut header = Vec::new();
        Frame::WEBTRANSPORT.encode(&mut header);
        VarInt::from_u32(0).encode(&mut header);
        send.write_all(&header).await.expect("written");
        (send, receive)
    }
}

impl ResponseReader {
    /// The next frame, with its header; `None` at the end of the stream.
    pub async fn read_frame(&mut self) -> Option<BytesMut> {
        loop {
            let mut unread = &self.buffer[..];
            if Frame::read(&mut unread).is_ok() {
                let len = {
                    let mut header = &self.buffer[..];
                    Frame::decode(&mut header).expect("a type");
                    let content = VarInt::decode(&mut header).expect("a length").into_inner();
                    self.buffer.len() - header.len() + usize::try_from(content).expect("short")
                };
                return Some(self.buffer.split_to(len));
            }
            let chunk = self.receive.read_chunk(1 << 10, true).await.ok()??;
            self.buffer.extend_from_slice(&chunk.bytes);
        }
    }

    /// The next capsule; `None` at the end of the session.
    pub async fn next_capsule(&mut self) -> Option<Capsule> {
        let frame = self.read_frame().await?;
        let mut bytes = &frame[..];
        let (kind, mut content) = Frame::read(&mut bytes).expect("a frame");
        assert_eq!(kind, Frame::DATA);
        Some(Capsule::decode(&mut content.copy_to_bytes(content.remaining())).expect("a capsule"))
    }

    /// The id in the GOAWAY of the server.
    pub async fn goaway(&mut self) -> u64 {
        let mut frame = [0; 3];
        with_timeout(self.server_control.read_exact(&mut frame)).await.expect("a frame");
        assert_eq!(frame[..2], [7, 1], "GOAWAY");
        frame[2].into()
    }
}

pub fn client_settings() -> Vec<u8> {
    let mut settings = Settings::default();
    settings.enable_webtransport(1);
    let mut bytes = Vec::new();
    settings.encode(&mut bytes);
    bytes
}

/// Reports the code of the session's end.
pub async fn read_capsules(mut response: ResponseReader, sender: mpsc::Sender<Received>) {
    while let Some(capsule) = response.next_capsule().await {
        if let Capsule::CloseWebTransportSession { code, .. } = capsule {
            let code = u16::try_from(code).expect("a close code");
            sender.send(Received::Closed(code)).await.ok();
        }
    }
}

/// Forwards the events of the streams that the server opens in the session.
pub async fn accept_session_streams(
    connection: quinn::Connection,
    encoding: Encoding,
    sender: mpsc::Sender<Received>,
) {
    while let Ok(mut receive) = connection.accept_uni().await {
        let sender = sender.clone();
        tokio::spawn(async move {
            let kind = VarInt::read(&mut receive).await.expect("a type");
            assert_eq!(StreamUni(kind), StreamUni::WEBTRANSPORT);
            let session = VarInt::read(&mut receive).await.expect("a session");
            assert_eq!(session.into_inner(), 0);
            read_stream(receive, encoding, sender).await;
        });
    }
}

pub async fn read_session_datagrams(
    connection: quinn::Connection,
    encoding: Encoding,
    sender: mpsc::Sender<Received>,
) {
    while let Ok(mut datagram) = connection.read_datagram().await {
        let session = VarInt::decode(&mut datagram).expect("the quarter stream id");
        assert_eq!(session.into_inner(), 0);
        let event = encoding.decode_event(&datagram).expect("an event");
        sender.send(Received::Datagram(event)).await.ok();
    }
}
